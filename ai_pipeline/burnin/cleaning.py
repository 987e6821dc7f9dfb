"""Clean an image of its burned-in annotation and verify the result, or raise :class:`CleaningFailed`.

Overlay planes (60xx, PS3.3 C.9.2), bitmaps that a viewer draws over the picture, often with text in them, are
never sent: results are new objects without group 60xx, and the node's decoder clears the old planes
in unused bits of the pixel data (:mod:`ai_pipeline.images.decode`).
"""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from ai_pipeline.burnin.decide.contents import CONTENTS, UNREAD
from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, Allowed
from ai_pipeline.burnin.devices.rules import device_note
from ai_pipeline.burnin.find.annotation import (
    ULTRASOUND,
    AnnotationKind,
    CleaningPolicy,
    InDoubt,
    Mark,
    Mask,
    index_of,
    merged,
)
from ai_pipeline.burnin.find.networks import WHOLE
from ai_pipeline.burnin.frames import CleanedFrames, clean_cine, clean_still
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.burnin.verifier import Verifier
from ai_pipeline.contract import (
    DerivedImage,
    ImageHeader,
    ImageKind,
    Progress,
    QualityNote,
    Reading,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import samples_photometric


@dataclass(frozen=True, slots=True, eq=False)
class CleaningResult:
    """A cleaned and verified image, its mask (uint8, 255 = filled), and the annotation that was found.

    If nothing had to be removed, ``image`` holds the source's samples, unchanged and verified. ``widened``
    and ``blacked_out`` count places where text was still found after filling. ``timings`` in seconds:
    ``decode``, ``detect``, ``fill_and_verify`` (stills), ``total``. ``readings`` may hold names.
    """

    image: DerivedImage
    mask: DerivedImage
    marks: tuple[Mark, ...]
    notes: tuple[QualityNote, ...]
    timings: Mapping[str, float]
    widened: int = 0
    blacked_out: int = 0
    readings: tuple[Reading, ...] = field(default=(), repr=False)


def clean(
    image: SourceImage,
    report: Progress,
    *,
    policy: CleaningPolicy = CleaningPolicy.CLINICAL,
    allowed: Allowed = NOTHING_MORE,
    in_doubt: InDoubt = InDoubt.KEEP,
    tools: Tools | None = None,
    explain: Callable[[Mark], None] = lambda _mark: None,
) -> CleaningResult:
    """Remove the annotation that ``policy`` names from every frame, except ``allowed`` text, and verify that
    no text is left. Text is removed in any modality, graphics in ultrasound. ``in_doubt``: what to do with
    places in the image area of ultrasound that may hold letters. ``tools``: the networks, by default those of
    this process. ``explain`` is called with each mark and its reason, also with a mark that looks like text
    and is left alone. Raises :class:`ai_pipeline.errors.CleaningFailed` when annotation that must be removed
    may be left, and ``PixelError`` when the image does not decode.
    """
    if image.header.frames == 1:
        check_memory(image.header)
    verifier = Verifier(tools or shared_tools(), policy, allowed, in_doubt)
    began = time.perf_counter()
    cleaned = (clean_still if image.header.frames == 1 else clean_cine)(
        image, verifier, report, graphics=image.header.modality in ULTRASOUND
    )
    timings = {**cleaned.timings, "total": time.perf_counter() - began}
    for mark in (*cleaned.marks, *(replace(spared, removed=False) for spared in cleaned.spared)):
        explain(mark)
    report(1.0, "cleaned and verified")
    # Annotations closer than this share of the longer side are reported as one: lines, a ruler's ticks.
    text_reach, drawn_reach = (
        max(2, round(reach * max(image.header.rows, image.header.columns))) for reach in (0.015, 0.05)
    )
    found = with_filled_pixels(cleaned.marks, cast(Mask, cleaned.masks.any(axis=0)))
    texts = [mark for mark in found if mark.kind is AnnotationKind.TEXT]
    graphics = [mark for mark in found if mark.kind is not AnnotationKind.TEXT]
    marks = merged(texts, text_reach) + merged(graphics, drawn_reach)
    # Only on ultrasound the mark detector was run, on a cine no learned inpainter.
    ran = 2 if image.header.modality not in ULTRASOUND else 3 if image.header.frames > 1 else 4
    models = verifier.tools.models[:ran]
    header_notes = (
        device_note(image.header, verifier.tools.device_rules, image.uid),
        overlay_note(image.header, image.uid),
    )
    return CleaningResult(
        image=DerivedImage(
            kind=ImageKind.CLEANED,
            frames=cleaned.frames,
            photometric=samples_photometric(image.header),
            description="burned-in text that may name the patient"
            if policy is CleaningPolicy.CLINICAL
            else "burned-in annotation",
            verified=True,
            source_uid=image.uid,
            models=models,
            outside_sha256=cleaned.outside_sha256,
        ),
        mask=DerivedImage(
            kind=ImageKind.MASK,
            frames=cleaned.masks,
            photometric="MONOCHROME2",
            description="pixels that were filled",
            source_uid=image.uid,
            models=models,
        ),
        marks=marks,
        notes=(*_notes(image, marks, cleaned), *filter(None, header_notes)),
        timings=timings,
        widened=len(cleaned.widened),
        blacked_out=len(cleaned.blacked_out),
        readings=tuple(replace(reading, source_uid=image.uid) for reading in cleaned.readings),
    )


def with_filled_pixels(marks: Iterable[Mark], filled: Mask) -> list[Mark]:
    """The marks that stay, and those in whose box a pixel was ``filled``: nothing else was removed. A wave
    that stays may take all pixels of a mark that was found on it.
    """
    return [mark for mark in marks if not mark.removed or filled[index_of(mark.box)].any()]


def check_memory(header: ImageHeader) -> None:
    """Raise :class:`CleaningFailed` if this process may lack the memory to clean a still image of this
    header.

    Checked before decoding: a process that runs out of memory could not clean the other images either.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_DATA)
    pixels = header.rows * header.columns
    # Memory that a worker takes which cleans a large still (MiB): with all its models and a tile in the
    # text detector, and for each million pixels. Cleaning alone was measured to take 1,310 to 1,460 at
    # 4,096 × 3,072.
    needed = 1100 + 60 * pixels // 1_000_000
    if pixels > WHOLE and allowed != resource.RLIM_INFINITY and needed > allowed >> 20:
        raise CleaningFailed(
            f"the picture has {header.columns} × {header.rows} pixels: to clean it takes {needed} MiB, "
            f"this process may have {allowed >> 20}"
        )


def _notes(image: SourceImage, marks: tuple[Mark, ...], cleaned: CleanedFrames) -> list[QualityNote]:
    """Notes that say how much was removed, in numbers; never the text that was read."""
    masks = cleaned.masks
    removed, left = (counted([mark for mark in marks if mark.removed is gone]) for gone in (True, False))
    outcome = "nothing had to be removed" if marks else "no burned-in annotation found"
    filled = bool(masks.any())
    by_hand = len(image.header.removed_by_hand)
    notes = (
        (
            True,
            "burned_in",
            f"removed: {removed or 'pixels that may be of letters'}"
            if filled
            else f"{outcome}; the pixels are unchanged",
        ),
        (left, "kept", f"not about the patient's identity, left in place: {left}"),
        (filled, "filled_share", f"{np.count_nonzero(masks) / masks.size:.1%} of the pixels were filled"),
        (filled, "verified", "read again after filling: no legible text found that had to go"),
        (
            cleaned.in_doubt,
            "in_doubt",
            f"{_some(len(cleaned.in_doubt), 'place')} in the image may hold letters that cannot be read, "
            "or what a doctor needs, and stayed",
        ),
        (cleaned.widened, "widened", f"{_some(len(cleaned.widened), 'place')} needed a wider mask"),
        (
            cleaned.blacked_out,
            "blacked_out",
            f"{_some(len(cleaned.blacked_out), 'place')} had to be blacked out",
        ),
        (by_hand, "by_hand", f"blacked out as a person marked it: {by_hand}"),
        (
            filled and image.header.modality in {"CR", "DX", "MG", "RF"},
            "side_marker",
            "side markers may be among what was removed",
        ),
    )
    # Places of a note, at most: 100.
    places = {name: getattr(cleaned, name)[:100] for name in ("in_doubt", "widened", "blacked_out")}
    return [
        QualityNote(name, text, image.uid, places=places.get(name, ()))
        for applies, name, text in notes
        if applies
    ]


def _some(number: int, what: str) -> str:
    """A number with its noun: "3 texts"."""
    return f"{number} {what}" + "s" * (number > 1)


def counted(marks: list[Mark]) -> str:
    """How many marks of each kind there are, and of text what it is: "1 possible name, 2 settings"."""
    kinds = Counter(
        what
        for mark in marks
        for what in ((mark.contents or (UNREAD,)) if mark.kind is AnnotationKind.TEXT else (mark.kind.value,))
    )
    names = dict.fromkeys((*CONTENTS, *(kind.value for kind in AnnotationKind)))  # both have logos
    return ", ".join(_some(kinds[name], name) for name in names if kinds[name])


def overlay_note(header: ImageHeader, source_uid: str | None = None) -> QualityNote | None:
    """A note that the source has overlay planes, which the cleaned image lacks; None if it has none."""
    drawn, embedded = len(header.overlay_groups), len(header.embedded_overlay_bits)
    if not drawn + embedded:
        return None
    parts = [f"{_some(drawn, 'overlay plane')} with drawn pixels"] if drawn else []
    parts += [f"{_some(embedded, 'overlay plane')} in unused bits of its pixels"] if embedded else []
    text = f"the source carries {' and '.join(parts)}; what they show is not part of the cleaned image"
    return QualityNote("overlay_planes", text, source_uid)
