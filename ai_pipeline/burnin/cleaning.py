"""Clean an image of its burned-in annotation and verify the result, or raise :class:`CleaningFailed`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, CleaningPolicy, merged
from ai_pipeline.burnin.cine import CleanedFrames, clean_cine
from ai_pipeline.burnin.decide.lesion_extent import measured_area
from ai_pipeline.burnin.decide.overlay_planes import overlay_note
from ai_pipeline.burnin.decide.planning import plan_views
from ai_pipeline.burnin.devices.known import device_note
from ai_pipeline.burnin.prove.unchanged_outside import OutsideDigest
from ai_pipeline.burnin.still import Rendition, Verifier, carry_out
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.contract import (  # fmt: skip
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
from ai_pipeline.images.decode import samples_photometric

ULTRASOUND = frozenset({"US", "IVUS"})
"""Modalities in which graphics (calipers, scales …) are searched as well; in all others only text is."""
DESCRIPTIONS = {
    CleaningPolicy.CLINICAL: "burned-in text that may name the patient",
    CleaningPolicy.RESEARCH: "burned-in annotation",
}
TEXT_REACH, DRAWN_REACH = 0.015, 0.05
"""Annotations closer than this share of the longer side are reported as one: lines, a ruler's ticks."""


@dataclass(frozen=True, slots=True, eq=False)
class CleaningResult:
    """A cleaned and verified image, its mask (uint8, 255 = filled), and the annotation that was found.

    Where there was nothing to remove ``image`` holds the source's samples, unchanged and verified.
    ``widened`` and ``blacked_out`` count places where text was still found after filling. ``timings`` in
    seconds: ``decode``, ``detect``, ``fill_and_verify`` (stills), ``total``. ``readings`` may hold names.
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
    """Remove the annotation that ``policy`` names from every frame and verify the result.

    Text in any modality, graphics in ultrasound. Raises :class:`ai_pipeline.errors.CleaningFailed` when
    annotation that must be removed may be left, and ``PixelError`` when the image does not decode.
    """
    verifier = Verifier(tools or shared_tools(), policy)
    graphics = image.header.modality in ULTRASOUND
    began = time.perf_counter()
    if image.header.frames == 1:
        cleaned = _clean_still(image, verifier, report, graphics=graphics)
    else:
        cleaned = clean_cine(image, verifier, report, graphics=graphics)
    timings = {**cleaned.timings, "total": time.perf_counter() - began}
    report(1.0, "cleaned and verified")
    marks = _joined(cleaned.marks, max(image.header.rows, image.header.columns))
    models = _models(verifier.tools, image.header)
    return CleaningResult(
        image=DerivedImage(
            kind=ImageKind.CLEANED, frames=cleaned.frames, photometric=samples_photometric(image.header),
            description=DESCRIPTIONS[policy], verified=True, source_uid=image.uid, models=models,
            outside_sha256=cleaned.outside_sha256,
        ),
        mask=DerivedImage(
            kind=ImageKind.MASK, frames=cleaned.masks, photometric="MONOCHROME2",
            description="pixels that were filled", source_uid=image.uid, models=models,
        ),
        marks=marks,
        notes=_notes(image, marks, cleaned) + _header_notes(image, verifier.tools),
        timings=timings,
        widened=cleaned.widened,
        blacked_out=cleaned.blacked_out,
        readings=tuple(replace(reading, source_uid=image.uid) for reading in cleaned.readings),
    )  # fmt: skip


def _clean_still(
    image: SourceImage, verifier: Verifier, report: Progress, *, graphics: bool
) -> CleanedFrames:
    began = time.perf_counter()
    stored, picture = image.stored(0), image.display(0)
    decoded = time.perf_counter()
    rendition = Rendition.of(stored, picture)
    views = rendition.views(stored)
    plan = plan_views(views, image.header, verifier.tools, verifier.policy, graphics=graphics)
    planned = time.perf_counter()
    report(0.5, "marks found")
    still = carry_out(stored, plan, rendition, verifier)
    outside = OutsideDigest()
    outside.add(stored, still.samples, still.mask)
    return CleanedFrames(
        frames=still.samples[None],
        masks=(still.mask.astype(np.uint8) * 255)[None],
        marks=still.marks,
        readings=plan.readings,
        widened=still.widened,
        blacked_out=still.blacked_out,
        outside_sha256=outside.hexdigest(),
        timings={
            "decode": decoded - began,
            "detect": planned - decoded,
            "fill_and_verify": time.perf_counter() - planned,
        },
    )


def _models(tools: Tools, header: ImageHeader) -> tuple[ModelRef, ...]:
    """Outside ultrasound the mark detector is not run; a cine is filled without the learned inpainter."""
    if header.modality not in ULTRASOUND:
        return (tools.text_model,)
    if header.frames > 1:
        return tools.text_model, tools.mark_model
    return tools.models


def _joined(marks: tuple[Annotation, ...], side: int) -> tuple[Annotation, ...]:
    texts = [mark for mark in marks if mark.kind is AnnotationKind.TEXT]
    graphics = [mark for mark in marks if mark.kind is not AnnotationKind.TEXT]
    return merged(texts, max(2, round(TEXT_REACH * side))) + merged(
        graphics, max(2, round(DRAWN_REACH * side))
    )


def _notes(
    image: SourceImage, marks: tuple[Annotation, ...], cleaned: CleanedFrames
) -> tuple[QualityNote, ...]:
    """What was done, in numbers; the text that was read is never repeated."""
    uid, masks = image.uid, cleaned.masks
    in_place = _counted([mark for mark in marks if not mark.removed])
    stays = []
    if in_place:
        stays.append(QualityNote("kept", f"not about the patient's identity, left in place: {in_place}", uid))
    if not masks.any():
        outcome = "nothing had to be removed" if marks else "no burned-in annotation found"
        return (QualityNote("burned_in", f"{outcome}; the pixels are unchanged", uid), *stays)
    share = float(np.count_nonzero(masks)) / masks.size
    removed = _counted([mark for mark in marks if mark.removed])
    notes = [
        QualityNote("burned_in", f"removed: {removed}", uid),
        *stays,
        QualityNote("filled_share", f"{share:.1%} of the pixels were filled", uid),
        QualityNote("verified", "read again after filling: no legible text found that had to go", uid),
    ]
    if cleaned.widened:
        notes.append(QualityNote("widened", f"{cleaned.widened} places needed a wider mask", uid))
    if cleaned.blacked_out:
        text = f"{cleaned.blacked_out} places had to be blacked out"
        notes.append(QualityNote("blacked_out", text, uid))
    return (*notes, *_cautions(image.header, uid, marks, masks))


def _header_notes(image: SourceImage, tools: Tools) -> tuple[QualityNote, ...]:
    """Device rules that applied, and overlay planes."""
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
        text = f"{filled:.0%} of the area that the calipers measure was filled: do not judge a lesion by it"
        notes.append(QualityNote("over_lesion", text, uid))
    if header.modality in {"CR", "DX", "MG", "RF"}:
        notes.append(QualityNote("side_marker", "side markers may be among what was removed", uid))
    return notes


def _counted(marks: list[Annotation]) -> str:
    kinds = Counter(mark.kind for mark in marks)
    return ", ".join(f"{kinds[kind]} {kind.value}" for kind in AnnotationKind if kinds[kind])
