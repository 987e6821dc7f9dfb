"""Many frames: annotation stands still, so it is searched in a few frames only; every frame is verified.

Reading each of 300 frames would take minutes. Text in any frame of a window shows in the window's brightest
projection if it is light and in its darkest if it is dark; text that stands still shows best in the opposite
one, because moving echoes fade from it. So a window of frames is read as projections, after cleaning; a frame
with more drawn-looking pixels than its neighbours is read by itself as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, CleaningPolicy, Mask, Picture, brightest
from ai_pipeline.burnin.decide.planning import RemovalPlan, box_marks, check_share, plan_views
from ai_pipeline.burnin.decide.writing import candidates_of
from ai_pipeline.burnin.fill.inpaint import PLAIN, black_out, inpaint, unchanged_outside
from ai_pipeline.burnin.find.drawings import find_drawings
from ai_pipeline.burnin.find.flow import find_flow
from ai_pipeline.burnin.find.text import TextBox, high_contrast, paint
from ai_pipeline.burnin.prove.unchanged_outside import OutsideDigest
from ai_pipeline.burnin.still import ROUNDS, WIDER, Rendition, Verifier, apply_plan
from ai_pipeline.contract import PixelArray, Progress, Reading, SourceImage
from ai_pipeline.errors import CleaningFailed

WINDOW = 16
"""Frames that are read together; more is quicker and fades short-lived text (frames)."""
SAMPLED = 3
"""Frames, spread over the cine, in which annotation is searched."""
STILL = 24.0
"""A drawing whose pixels differ by more between the sampled frames is moving (mean grey levels)."""
STEADY = 40
"""Largest difference of pixels of kept text from the frame in which it was read (grey levels)."""


@dataclass(frozen=True, slots=True, eq=False)
class CleanedFrames:
    """All frames of an image, cleaned and verified, with one mask (uint8, 255 = filled) for each.

    ``frames`` of a cine are memory-mapped. ``timings`` in seconds by stage.
    """

    frames: PixelArray
    masks: PixelArray
    marks: tuple[Annotation, ...]
    readings: tuple[Reading, ...]
    widened: int
    blacked_out: int
    outside_sha256: str
    timings: Mapping[str, float] = field(default_factory=dict)


def clean_cine(image: SourceImage, verifier: Verifier, report: Progress, *, graphics: bool) -> CleanedFrames:
    """Clean every frame. Raises :class:`CleaningFailed` as for a still; memory is bounded by one window."""
    count = image.header.frames
    sampled = _sampled(count)
    rendition = Rendition.of(
        np.concatenate([image.stored(index) for index in sampled]),
        np.concatenate([image.display(index) for index in sampled]),
    )
    standing = _standing_plan(image, rendition, verifier, graphics=graphics)
    plan = standing.plan
    first = image.stored(0)
    frames = _on_disk((count, *first.shape), first.dtype)
    mask: Mask = plan.mask | plan.banner
    outside, same_mask = OutsideDigest(), True
    marks = [replace(mark, frame=mark.frame or 1) for mark in plan.marks]
    widened = blacked_out = 0
    for start in range(0, count, WINDOW):
        report(start / count, f"frame {start + 1} of {count}")
        window = _Window(image, range(start, min(start + WINDOW, count)), standing, rendition, verifier)
        if graphics:
            window.find_late_drawings()
        window.verify()
        for index, source, samples in window.cleaned():
            outside.add(source, samples, window.mask)
            frames[index] = samples
        same_mask = same_mask and bool((window.mask == plan.mask | plan.banner).all())
        mask = mask | window.mask
        marks += window.marks
        widened, blacked_out = widened + window.widened, blacked_out + window.blacked_out
    if not same_mask:  # results carry one mask for all frames, and the hash is of what lies outside of that
        outside = OutsideDigest()
        for index in range(count):
            outside.add(image.stored(index), frames[index], mask)
    masks = np.broadcast_to(mask.astype(np.uint8) * 255, (count, *mask.shape))
    return CleanedFrames(
        frames, masks, tuple(marks), plan.readings, widened, blacked_out, outside.hexdigest()
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Standing:
    """The plan for all frames, and the picture in which the text that stays was read."""

    plan: RemovalPlan
    read_in: Picture

    def still_kept(self, pictures: Sequence[Picture]) -> Mask:
        """The text that stays, where all of these frames show it unchanged."""
        kept = self.plan.kept
        if not kept.any():
            return kept
        unlike = np.zeros(kept.shape, np.bool_)
        for picture in pictures:
            unlike |= brightest(cv2.absdiff(picture, self.read_in)) > STEADY
        count, labels = cv2.connectedComponents(kept.astype(np.uint8), connectivity=8)
        changed = np.zeros(count, np.bool_)
        changed[np.unique(labels[unlike & kept])] = True
        changed[0] = True
        return np.asarray(~changed[labels], np.bool_)


class _Window:
    """Some consecutive frames, cleaned together: a pixel masked in one is filled in all of them."""

    def __init__(
        self,
        image: SourceImage,
        indices: range,
        standing: _Standing,
        rendition: Rendition,
        verifier: Verifier,
    ) -> None:
        # Not the learned inpainter: it takes half a second a frame (2.0 frames/s against 8 and more).
        self._rendition, self._verifier, self._filler = rendition, verifier, PLAIN
        self._indices = indices
        self._sources = [image.stored(index) for index in indices]
        plan = standing.plan
        self._results = [apply_plan(source, plan, rendition.black, self._filler) for source in self._sources]
        self._banner, self._foreign = plan.banner, plan.foreign
        self._kept = standing.still_kept([rendition.show(source) for source in self._sources])
        self.mask: Mask = plan.mask | plan.banner
        self.marks: list[Annotation] = []
        self.widened = self.blacked_out = 0

    def cleaned(self) -> Iterator[tuple[int, PixelArray, PixelArray]]:
        """Yield index, source and samples of each frame, once they are proven identical outside the mask."""
        for index, source, result in zip(self._indices, self._sources, self._results, strict=True):
            if not unchanged_outside(source, result, self.mask):
                raise CleaningFailed(f"pixels outside the mask have changed in frame {index + 1}")
            yield index, source, result

    def find_late_drawings(self) -> None:
        """Search the middle frame for drawings: some appear in none of the sampled frames."""
        middle = len(self._results) // 2
        tools = self._verifier.tools
        drawn = find_drawings(self._rendition.show(self._results[middle]), tools.finder, tools.threshold)
        found = drawn.masks[AnnotationKind.TEXT] & ~self._kept
        if self._verifier.policy is CleaningPolicy.RESEARCH:
            found = found | np.logical_or.reduce(list(drawn.masks.values()))
        fresh = found & ~self.mask
        if fresh.any():
            self._fill(fresh)
            self.marks += [
                replace(mark, frame=self._indices[middle] + 1)
                for mark in drawn.marks
                if _boxed([mark], fresh.shape)[fresh].any()
            ]

    def verify(self) -> None:
        """Read projections and outlying frames until no text is left that must be removed."""
        for attempt in range(ROUNDS + 1):
            shown = [self._rendition.views(result) for result in self._results]
            pictures = [views[0] for views in shown]
            residue = [box for view in zip(*shown, strict=True) for box in self._residue(list(view))]
            if not residue:
                return
            if attempt == ROUNDS:
                raise CleaningFailed("text is still found after filling, widening and blacking out")
            self._remove(residue, pictures, attempt)

    def _residue(self, pictures: list[Picture]) -> list[TextBox]:
        if len(pictures) == 1:
            return self._verifier.residue(pictures[0], self.mask, self._kept)
        light, dark = (cast(Picture, extreme.reduce(pictures)) for extreme in (np.maximum, np.minimum))
        faint = high_contrast(np.mean(pictures, axis=0).astype(np.uint8))
        views = [(light, 1.0), (dark, 1.0), (faint, 0.6)]
        flow = find_flow(light)
        views += [(pictures[index], 1.0) for index in _standing_out(pictures, self.mask)]
        return [
            one.box
            for view, scale in views
            for one in candidates_of(view, self._verifier.tools.reader, scale, flow)
            if self._verifier.is_residue(one, self.mask, self._kept)
        ]

    def _remove(self, residue: list[TextBox], pictures: list[Picture], attempt: int) -> None:
        more = paint(residue, self.mask.shape, WIDER * (attempt + 1))
        if attempt == ROUNDS - 1:
            self.blacked_out += len(residue)
            self._take(more)
            self._results = [black_out(result, more, self._rendition.black) for result in self._results]
        else:
            self.widened += len(residue)
            self._fill(more)
        for mark in box_marks(residue, self.mask.shape):
            self.marks.append(replace(mark, frame=self._indices[_shown_in(pictures, mark)] + 1))

    def _fill(self, more: Mask) -> None:
        self._take(more)
        self._results = [inpaint(result, more, self._filler, self._foreign) for result in self._results]

    def _take(self, more: Mask) -> None:
        self.mask = self.mask | more
        check_share(self.mask & ~self._banner)


def _standing_plan(
    image: SourceImage, rendition: Rendition, verifier: Verifier, *, graphics: bool
) -> _Standing:
    """Plan from a few frames: text counts from any of them, drawings only where they stand still."""
    indices = _sampled(image.header.frames)
    pictures = [image.display(index) for index in indices]
    plans = [
        plan_views(
            [picture, *rendition.views(image.stored(index))[1:]],
            image.header,
            verifier.tools,
            verifier.policy,
            graphics=graphics,
        )
        for index, picture in zip(indices, pictures, strict=True)
    ]
    banner = cast(Mask, np.logical_or.reduce([plan.banner for plan in plans]))
    mask: Mask = np.zeros_like(banner)
    marks: list[Annotation] = []
    readings: list[Reading] = []
    greys = [brightest(picture).astype(np.float32) for picture in pictures]
    unrest = np.max(greys, axis=0) - np.min(greys, axis=0)
    for index, plan in zip(indices, plans, strict=True):
        parts, labels = cv2.connectedComponents(plan.mask.astype(np.uint8), connectivity=8)
        texts = _boxed([mark for mark in plan.marks if mark.kind is AnnotationKind.TEXT], mask.shape)
        for part in range(1, parts):
            own = labels == part
            if bool((own & texts).any()) or float(unrest[own].mean()) <= STILL:
                mask |= own
        kept = [
            mark
            for mark in plan.marks
            if not mark.removed
            or mark.kind is AnnotationKind.BANNER
            or _boxed([mark], mask.shape)[mask].any()
        ]
        marks += [replace(mark, frame=index + 1) for mark in kept if not _among(mark, marks)]
        readings += [replace(reading, frame=index + 1) for reading in plan.readings]
    check_share(mask & ~banner)
    # Only text of the first frame is kept, and only while it stands still.
    stays = plans[0].kept & ~mask & ~banner
    foreign = plans[0].foreign & ~mask
    plan = RemovalPlan(banner, mask & ~banner, stays, foreign, tuple(marks), tuple(readings))
    return _Standing(plan, pictures[0])


def _sampled(count: int) -> list[int]:
    """The frames in which annotation is searched, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(1, SAMPLED - 1)) for i in range(SAMPLED)})


def _standing_out(pictures: list[Picture], mask: Mask) -> list[int]:
    """The frames with clearly more thin bright or dark pixels than the window's median frame."""
    kernel = np.ones((7, 7), np.uint8)
    counts = []
    for picture in pictures:
        grey = brightest(picture)
        drawn = (cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel) > 100) | (
            cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel) > 100
        )
        counts.append(int((drawn & ~mask).sum()))
    usual = float(np.median(counts))
    return [index for index, drawn_pixels in enumerate(counts) if drawn_pixels > 1.3 * usual + 40]


def _shown_in(pictures: list[Picture], mark: Annotation) -> int:
    """The frame that differs most from the others within the mark: the one that shows it."""
    left, top, right, bottom = mark.box
    patches = np.stack([picture[top:bottom, left:right] for picture in pictures]).astype(np.float32)
    unlike = np.abs(patches - np.median(patches, axis=0)).reshape(len(patches), -1).mean(axis=1)
    return int(np.argmax(unlike)) if float(unlike.max()) > 1.5 * float(np.median(unlike)) + 2 else 0


def _among(mark: Annotation, marks: list[Annotation]) -> bool:
    """Whether an annotation of that kind is already known at about that place (6 pixels)."""
    return any(
        other.kind is mark.kind and all(abs(a - b) <= 6 for a, b in zip(mark.box, other.box, strict=True))
        for other in marks
    )


def _boxed(marks: list[Annotation], shape: tuple[int, ...]) -> Mask:
    mask: Mask = np.zeros(shape[:2], np.bool_)
    for left, top, right, bottom in (mark.box for mark in marks):
        mask[top:bottom, left:right] = True
    return mask


def _on_disk(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> PixelArray:
    """Return an array in an unnamed temporary file, gone with the last reference to it."""
    with tempfile.TemporaryFile(prefix="ai-pipeline-") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
