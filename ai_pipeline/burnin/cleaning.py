"""The front door of the room: an image in, a verified clean image out, or :class:`CleaningFailed`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, CleaningPolicy, merged
from ai_pipeline.burnin.cine import clean_cine
from ai_pipeline.burnin.decide.lesion_extent import measured_area
from ai_pipeline.burnin.decide.overlay_planes import overlay_note
from ai_pipeline.burnin.decide.planning import plan_views
from ai_pipeline.burnin.devices.known import device_note
from ai_pipeline.burnin.prove.unchanged_outside import Seal
from ai_pipeline.burnin.still import Rendition, Verifier, carry_out
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.contract import (  # fmt: skip
    DerivedImage,
    ImageHeader,
    ImageKind,
    PixelArray,
    Progress,
    QualityNote,
    Reading,
    SourceImage,
)
from ai_pipeline.images.decode import samples_photometric

ULTRASOUND = frozenset({"US", "IVUS"})
"""Modalities whose drawn marks are looked for as well; in all others only text is."""
DESCRIPTIONS = {
    CleaningPolicy.CLINICAL: "burned-in text that may name the patient",
    CleaningPolicy.RESEARCH: "burned-in annotation",
}
TEXT_REACH, DRAWN_REACH = 0.015, 0.05
"""Marks nearer to each other than this share of the longer side are told as one: lines, a ruler's ticks."""


@dataclass(frozen=True, slots=True, eq=False)
class CleaningResult:
    """A cleaned and verified image, its mask (uint8, 255 = filled), what was found and how it went.

    Where there was nothing to remove ``image`` holds the source's samples, unchanged and verified.
    ``widened`` and ``blacked_out`` count places where text was still found after filling. ``timings`` in
    seconds: ``detect``, ``fill_and_verify``, ``total``. ``readings`` may hold names.
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
    tools: Tools | None = None,
) -> CleaningResult:
    """Remove what ``policy`` says from every frame and verify the result.

    Text in any modality, drawn marks in ultrasound. Raises :class:`ai_pipeline.contract.CleaningFailed` when
    something may be left that has to go (nothing may leave then), and ``PixelError`` when the image does not
    decode.
    """
    verifier = Verifier(tools or shared_tools(), policy)
    graphics = image.header.modality in ULTRASOUND
    began = time.perf_counter()
    if image.header.frames == 1:
        stored, picture = image.stored(0), image.display(0)
        decoded = time.perf_counter()
        rendition = Rendition.of(stored, picture)
        views = rendition.views(stored)
        plan = plan_views(views, image.header, verifier.tools, policy, graphics=graphics)
        planned = time.perf_counter()
        report(0.5, "marks found")
        still = carry_out(stored, plan, rendition, verifier)
        frames: PixelArray = still.samples[None]
        masks: PixelArray = (still.mask.astype(np.uint8) * 255)[None]
        marks, readings, counts = still.marks, plan.readings, (still.widened, still.blacked_out)
        seal = Seal()
        seal.add(stored, still.samples, still.mask)
        timings = {"decode": decoded - began, "detect": planned - decoded}
        timings["fill_and_verify"] = time.perf_counter() - planned
    else:
        cine = clean_cine(image, verifier, report, graphics=graphics)
        frames, masks, marks, readings = cine.frames, cine.masks, cine.marks, cine.readings
        counts, seal = (cine.widened, cine.blacked_out), cine.seal
        timings = {}
    timings["total"] = time.perf_counter() - began
    report(1.0, "cleaned and verified")
    told = _told(marks, max(image.header.rows, image.header.columns))
    notes = _notes(image, told, masks, counts) + _of_the_header(image, verifier.tools)
    # Of a cine the inpainter is classical, of other pictures than ultrasound the mark detector is not asked.
    used = 1 if not graphics else 2 if image.header.frames > 1 else None
    models = verifier.tools.models[:used]
    return CleaningResult(
        DerivedImage(
            kind=ImageKind.CLEANED, frames=frames, photometric=samples_photometric(image.header),
            description=DESCRIPTIONS[policy], verified=True, source_uid=image.uid, models=models,
            outside_sha256=seal.close(),
        ),
        DerivedImage(
            kind=ImageKind.MASK, frames=masks, photometric="MONOCHROME2",
            description="pixels that were filled", source_uid=image.uid, models=models,
        ),
        told,
        notes,
        timings,
        *counts,
        tuple(replace(reading, source_uid=image.uid) for reading in readings),
    )  # fmt: skip


def _told(marks: tuple[Annotation, ...], side: int) -> tuple[Annotation, ...]:
    texts = [mark for mark in marks if mark.kind is AnnotationKind.TEXT]
    drawn = [mark for mark in marks if mark.kind is not AnnotationKind.TEXT]
    return merged(texts, max(2, round(TEXT_REACH * side))) + merged(drawn, max(2, round(DRAWN_REACH * side)))


def _notes(
    image: SourceImage, marks: tuple[Annotation, ...], masks: PixelArray, counts: tuple[int, int]
) -> tuple[QualityNote, ...]:
    """Say what was done in numbers; what a text said is never repeated."""
    uid, kept = image.uid, _counted([mark for mark in marks if not mark.removed])
    stays = [QualityNote("kept", f"not about the patient's identity, left in place: {kept}", uid)] * bool(
        kept
    )
    if not masks.any():
        said = "nothing had to be removed" if marks else "no burned-in annotation found"
        return (QualityNote("burned_in", f"{said}; the pixels are unchanged", uid), *stays)
    share = float(np.count_nonzero(masks)) / masks.size
    removed = _counted([mark for mark in marks if mark.removed])
    notes = [
        QualityNote("burned_in", f"removed: {removed}", uid),
        *stays,
        QualityNote("filled_share", f"{share:.1%} of the pixels were filled", uid),
        QualityNote("verified", "read again after filling: no legible text found that had to go", uid),
    ]
    widened, blacked_out = counts
    if widened:
        notes.append(QualityNote("widened", f"{widened} places needed a wider mask", uid))
    if blacked_out:
        notes.append(QualityNote("blacked_out", f"{blacked_out} places had to be blacked out", uid))
    return (*notes, *_cautions(image.header, uid, marks, masks))


def _of_the_header(image: SourceImage, tools: Tools) -> tuple[QualityNote, ...]:
    """What the header says beyond the pixels."""
    notes = (
        device_note(image.header, tools.device_rules, image.uid),
        overlay_note(image.header, image.uid),
    )
    return tuple(note for note in notes if note is not None)


def _cautions(
    header: ImageHeader, uid: str, marks: tuple[Annotation, ...], masks: PixelArray
) -> list[QualityNote]:
    notes = []
    area = measured_area([mark for mark in marks if mark.kind is AnnotationKind.CALIPER], masks.shape[1:])
    filled = float((masks[0] > 0)[area].mean()) if area.any() else 0.0
    if filled:
        said = f"{filled:.0%} of the area that the calipers measure was filled: do not judge a lesion by it"
        notes.append(QualityNote("over_lesion", said, uid))
    if header.modality in {"CR", "DX", "MG", "RF"}:
        notes.append(QualityNote("side_marker", "side markers may be among what was removed", uid))
    return notes


def _counted(marks: list[Annotation]) -> str:
    kinds = Counter(mark.kind for mark in marks)
    return ", ".join(f"{kinds[kind]} {kind.value}" for kind in AnnotationKind if kinds[kind])
