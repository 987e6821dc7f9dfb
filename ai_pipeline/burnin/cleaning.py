"""The front door of the room: an image in, a verified clean image out, or :class:`CleaningFailed`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_pipeline.burnin.cine import clean_cine
from ai_pipeline.burnin.marks import Mark, MarkKind, merged
from ai_pipeline.burnin.still import Rendition, carry_out, plan_removal
from ai_pipeline.burnin.text import TextReader, shared_reader
from ai_pipeline.contract import (
    DerivedImage,
    ImageHeader,
    ImageKind,
    ModelRef,
    PixelArray,
    Progress,
    QualityNote,
    SourceImage,
)  # fmt: skip
from ai_pipeline.pixels import samples_photometric

DESCRIPTION = "burned-in annotation inpainted, not for measurement"
TEXT_REACH, DRAWN_REACH = 0.015, 0.05
"""Marks nearer to each other than this share of the longer side are told as one: lines, a ruler's ticks."""


@dataclass(frozen=True, slots=True, eq=False)
class CleaningResult:
    """A cleaned and verified image, its mask (uint8, 255 = filled), what was removed and how it went.

    Where there was nothing to remove ``image`` holds the source's samples, unchanged and verified.
    ``timings`` in seconds: ``detect``, ``fill_and_verify``, ``total``.
    """

    image: DerivedImage
    mask: DerivedImage
    marks: tuple[Mark, ...]
    notes: tuple[QualityNote, ...]
    timings: Mapping[str, float]


def clean(
    image: SourceImage,
    report: Progress,
    *,
    reader: TextReader | None = None,
    models: tuple[ModelRef, ...] = (),
) -> CleaningResult:
    """Remove text (any modality) and drawn marks (ultrasound) from every frame and verify the result.

    Raises :class:`ai_pipeline.contract.CleaningFailed` when text may be left (nothing may leave then), and
    ``PixelError`` when the image does not decode.
    """
    reader = reader or shared_reader()
    graphics = image.header.modality in {"US", "IVUS"}
    began = time.perf_counter()
    if image.header.frames == 1:
        stored, picture = image.stored(0), image.display(0)
        decoded = time.perf_counter()
        plan = plan_removal(picture, image.header, reader, graphics=graphics)
        planned = time.perf_counter()
        report(0.5, "marks found")
        still = carry_out(stored, plan, Rendition.of(stored, picture), reader)
        frames: PixelArray = still.samples[None]
        masks: PixelArray = (still.mask.astype(np.uint8) * 255)[None]
        marks, counts = still.marks, (still.widened, still.blacked_out)
        timings = {"decode": decoded - began, "detect": planned - decoded}
        timings["fill_and_verify"] = time.perf_counter() - planned
    else:
        cine = clean_cine(image, reader, report, graphics=graphics)
        frames, masks, marks = cine.frames, cine.masks, cine.marks
        counts = (cine.widened, cine.blacked_out)
        timings = {}
    timings["total"] = time.perf_counter() - began
    report(1.0, "cleaned and verified")
    told = _told(marks, max(image.header.rows, image.header.columns))
    return CleaningResult(
        DerivedImage(
            kind=ImageKind.CLEANED, frames=frames, photometric=samples_photometric(image.header),
            description=DESCRIPTION, verified=True, source_uid=image.uid, models=models,
        ),
        DerivedImage(
            kind=ImageKind.MASK, frames=masks, photometric="MONOCHROME2",
            description="pixels that were filled", source_uid=image.uid, models=models,
        ),
        told,
        _notes(image.header, image.uid, told, masks, counts),
        timings,
    )  # fmt: skip


def _told(marks: tuple[Mark, ...], side: int) -> tuple[Mark, ...]:
    texts = [mark for mark in marks if mark.kind is MarkKind.TEXT]
    drawn = [mark for mark in marks if mark.kind is not MarkKind.TEXT]
    return merged(texts, max(2, round(TEXT_REACH * side))) + merged(drawn, max(2, round(DRAWN_REACH * side)))


def _notes(
    header: ImageHeader, uid: str, marks: tuple[Mark, ...], masks: PixelArray, counts: tuple[int, int]
) -> tuple[QualityNote, ...]:
    """Say what was done in numbers; what a text said is never repeated."""
    if not marks:
        return (QualityNote("burned_in", "no burned-in annotation found; the pixels are unchanged", uid),)
    kinds = Counter(mark.kind for mark in marks)
    share = float(np.count_nonzero(masks)) / masks.size
    found = ", ".join(f"{kinds[kind]} {kind.value}" for kind in MarkKind if kinds[kind])
    notes = [
        QualityNote("burned_in", f"removed: {found}", uid),
        QualityNote("filled_share", f"{share:.1%} of the pixels were filled", uid),
        QualityNote("verified", "read again after filling: no legible text found", uid),
    ]
    widened, blacked_out = counts
    if widened:
        notes.append(QualityNote("widened", f"{widened} places needed a wider mask", uid))
    if blacked_out:
        notes.append(QualityNote("blacked_out", f"{blacked_out} places had to be blacked out", uid))
    if header.modality in {"CR", "DX", "MG", "RF"}:
        notes.append(QualityNote("side_marker", "side markers may be among what was removed", uid))
    return tuple(notes)
