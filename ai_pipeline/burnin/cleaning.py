"""Clean an image of its burned-in annotation and verify the result, or raise :class:`CleaningFailed`."""

import resource
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ai_pipeline.burnin.annotation.kinds import Annotation, AnnotationKind, CleaningPolicy, InDoubt, merged
from ai_pipeline.burnin.cine import clean_cine
from ai_pipeline.burnin.decide.allowed import NOTHING_MORE, Allowed
from ai_pipeline.burnin.decide.lesion_extent import measured_area
from ai_pipeline.burnin.devices.known import device_note
from ai_pipeline.burnin.find.mark_network import WHOLE
from ai_pipeline.burnin.still import CleanedFrames, Verifier, clean_still
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.contract import (
    DerivedImage,
    ImageHeader,
    ImageKind,
    ModelRef,
    PixelArray,
    Progress,
    QualityNote,
    Reading,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import samples_photometric
from ai_pipeline.images.overlay_planes import overlay_note

ULTRASOUND = frozenset({"US", "IVUS"})
"""Modalities in which graphics (calipers, scales …) are searched as well; in all others only text is."""
DESCRIPTIONS = {
    CleaningPolicy.CLINICAL: "burned-in text that may name the patient",
    CleaningPolicy.RESEARCH: "burned-in annotation",
}
MIB_ALWAYS, MIB_PER_MEGAPIXEL = 1100, 60
"""Memory that a worker takes which cleans a large still (MiB): with all its models and a tile in the text
detector, and for each million pixels. Cleaning alone was measured to take 1,310 to 1,460 at 4,096 × 3,072."""
MOST_PLACES = 100
"""Places of a note, at most."""
TEXT_REACH, DRAWN_REACH = 0.015, 0.05
"""Annotations closer than this share of the longer side are reported as one: lines, a ruler's ticks."""


@dataclass(frozen=True, slots=True, eq=False)
class CleaningResult:
    """A cleaned and verified image, its mask (uint8, 255 = filled), and the annotation that was found.

    If nothing had to be removed, ``image`` holds the source's samples, unchanged and verified. ``widened``
    and ``blacked_out`` count places where text was still found after filling. ``timings`` in seconds:
    ``decode``, ``detect``, ``fill_and_verify`` (stills), ``total``. ``readings`` may hold names.
    """

    image: DerivedImage
    mask: DerivedImage
    marks: tuple[Annotation, ...]
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
) -> CleaningResult:
    """Remove the annotation that ``policy`` names from every frame, except ``allowed`` text, and verify.

    Text is removed in any modality, graphics in ultrasound. ``in_doubt``: what to do with places in the image
    area of ultrasound that may hold letters. Raises :class:`ai_pipeline.errors.CleaningFailed` when
    annotation that must be removed may be left, and ``PixelError`` when the image does not decode.
    """
    if image.header.frames == 1:
        check_memory(image.header)
    verifier = Verifier(tools or shared_tools(), policy, allowed, in_doubt)
    graphics = image.header.modality in ULTRASOUND
    began = time.perf_counter()
    clean_frames = clean_still if image.header.frames == 1 else clean_cine
    cleaned = clean_frames(image, verifier, report, graphics=graphics)
    timings = {**cleaned.timings, "total": time.perf_counter() - began}
    report(1.0, "cleaned and verified")
    marks = _joined(cleaned.marks, max(image.header.rows, image.header.columns))
    models = _models(verifier.tools, image.header)
    header_notes = (
        device_note(image.header, verifier.tools.device_rules, image.uid),
        overlay_note(image.header, image.uid),
    )
    return CleaningResult(
        image=DerivedImage(
            kind=ImageKind.CLEANED,
            frames=cleaned.frames,
            photometric=samples_photometric(image.header),
            description=DESCRIPTIONS[policy],
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
        widened=cleaned.widened,
        blacked_out=cleaned.blacked_out,
        readings=tuple(replace(reading, source_uid=image.uid) for reading in cleaned.readings),
    )


def check_memory(header: ImageHeader) -> None:
    """Raise :class:`CleaningFailed` if this process may lack the memory to clean a still image of this
    header.

    Checked before decoding: a process that runs out of memory could not clean the other images either.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_DATA)
    pixels = header.rows * header.columns
    needed = MIB_ALWAYS + MIB_PER_MEGAPIXEL * pixels // 1_000_000
    if pixels > WHOLE and allowed != resource.RLIM_INFINITY and needed > allowed >> 20:
        size = f"{header.columns} × {header.rows} pixels"
        raise CleaningFailed(
            f"the picture has {size}: to clean it takes {needed} MiB, this process may have {allowed >> 20}"
        )


def _models(tools: Tools, header: ImageHeader) -> tuple[ModelRef, ...]:
    """The models that were run: only on ultrasound the mark detector, on a cine no learned inpainter."""
    if header.modality not in ULTRASOUND:
        return tools.text_model, tools.line_model
    if header.frames > 1:
        return tools.text_model, tools.line_model, tools.mark_model
    return tools.models


def _joined(marks: tuple[Annotation, ...], side: int) -> tuple[Annotation, ...]:
    texts = [mark for mark in marks if mark.kind is AnnotationKind.TEXT]
    graphics = [mark for mark in marks if mark.kind is not AnnotationKind.TEXT]
    text_reach, drawn_reach = (max(2, round(reach * side)) for reach in (TEXT_REACH, DRAWN_REACH))
    return merged(texts, text_reach) + merged(graphics, drawn_reach)


def _notes(image: SourceImage, marks: tuple[Annotation, ...], cleaned: CleanedFrames) -> list[QualityNote]:
    """What was removed, in numbers; never the text that was read."""
    masks = cleaned.masks
    removed, left = (_counted([mark for mark in marks if mark.removed is gone]) for gone in (True, False))
    outcome = "nothing had to be removed" if marks else "no burned-in annotation found"
    filled = bool(masks.any())
    over_lesion = _filled_share_of_lesion(marks, masks) if filled else 0.0
    share = float(np.count_nonzero(masks)) / masks.size
    by_hand = len(image.header.removed_by_hand)
    notes = (
        (True, "burned_in", f"removed: {removed}" if filled else f"{outcome}; the pixels are unchanged"),
        (left, "kept", f"not about the patient's identity, left in place: {left}"),
        (filled, "filled_share", f"{share:.1%} of the pixels were filled"),
        (filled, "verified", "read again after filling: no legible text found that had to go"),
        (
            cleaned.in_doubt,
            "in_doubt",
            f"{_places(len(cleaned.in_doubt))} in the image may hold letters that cannot be read, and stayed",
        ),
        (cleaned.widened, "widened", f"{_places(cleaned.widened)} needed a wider mask"),
        (cleaned.blacked_out, "blacked_out", f"{_places(cleaned.blacked_out)} had to be blacked out"),
        (by_hand, "by_hand", f"blacked out as a person marked it: {by_hand}"),
        (
            over_lesion,
            "over_lesion",
            f"{_share(over_lesion)} of the area that the calipers measure was filled: "
            "do not judge a lesion by it",
        ),
        (
            filled and image.header.modality in {"CR", "DX", "MG", "RF"},
            "side_marker",
            "side markers may be among what was removed",
        ),
    )
    places = dict.fromkeys(("widened", "blacked_out"), cleaned.refilled[:MOST_PLACES])
    places["in_doubt"] = cleaned.in_doubt[:MOST_PLACES]
    return [
        QualityNote(name, text, image.uid, places=places.get(name, ()))
        for applies, name, text in notes
        if applies
    ]


def _filled_share_of_lesion(marks: tuple[Annotation, ...], masks: PixelArray) -> float:
    area = measured_area([mark for mark in marks if mark.kind is AnnotationKind.CALIPER], masks.shape[1:])
    return float((masks[0] > 0)[area].mean()) if area.any() else 0.0


def _share(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{share:.0%}"


def _places(number: int) -> str:
    return "1 place" if number == 1 else f"{number} places"


def _counted(marks: list[Annotation]) -> str:
    kinds = Counter(mark.kind for mark in marks)
    counted = ((kinds[kind], kind.value) for kind in AnnotationKind if kinds[kind])
    return ", ".join(f"{number} {name}{'s' if number > 1 else ''}" for number, name in counted)
