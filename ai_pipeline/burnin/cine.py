"""Clean images of many frames: annotation does not move, so few frames are searched; all are verified.

Reading each of 300 frames would take minutes. Light text in any frame of a window shows in the window's
brightest projection, dark text in its darkest; text that does not move shows best in the other one, because
moving echoes fade from it. So a window of frames is read as projections, after cleaning; a frame with more
thin structures than its neighbours is also read by itself.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import cast

import cv2
import numpy as np

from ai_pipeline.burnin.decide.mask_shape import without_shapes_of_letters
from ai_pipeline.burnin.decide.writing import FAINT, FINEST, MeasuredPixels, candidates_of, surroundings
from ai_pipeline.burnin.fill import PLAIN
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    Mark,
    Mask,
    Picture,
    brightest,
    components,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.drawings import find_drawings
from ai_pipeline.burnin.find.text import TextBox, high_contrast
from ai_pipeline.burnin.planning import (
    RemovalPlan,
    check_share,
    faint_marks,
    find_faint_writing,
    plan_views,
    with_faint_writing,
)
from ai_pipeline.burnin.still import (
    CleanedFrames,
    DisplayTables,
    OutsideDigest,
    Verifier,
    Window,
    unchanged_outside,
)
from ai_pipeline.contract import PixelArray, Progress, Reading, SourceImage
from ai_pipeline.errors import CleaningFailed

WINDOW = 16
"""Frames that are read together; more is quicker, but text that shows briefly fades (frames)."""
SAMPLED = 3
"""Frames, spread over the cine, in which annotation is searched."""


def clean_cine(image: SourceImage, verifier: Verifier, report: Progress, *, graphics: bool) -> CleanedFrames:
    """Clean every frame; one window is in memory at a time. Raises :class:`CleaningFailed` as for a still."""
    count = image.header.frames
    # The first and the last among them.
    sampled = sorted({round(i * (count - 1) / max(1, SAMPLED - 1)) for i in range(SAMPLED)})
    tables = DisplayTables.from_frame(
        np.concatenate([image.stored(index) for index in sampled]),
        np.concatenate([image.display(index) for index in sampled]),
    )
    plan = _plan_cine(image, sampled, tables, verifier, graphics=graphics)
    read_in = image.display(sampled[0])
    first = image.stored(0)
    frames = on_disk((count, *first.shape), first.dtype)
    mask: Mask = plan.mask | plan.banner
    outside, same_mask = OutsideDigest(), True
    marks = [replace(mark, frame=mark.frame or 1) for mark in plan.marks]
    refilled: list[Box] = []
    widened = blacked_out = 0
    for start in range(0, count, WINDOW):
        report(start / count, f"frame {start + 1} of {count}")
        indices = range(start, min(start + WINDOW, count))
        window = _CineWindow(image, indices, plan, read_in, tables, verifier, graphics=graphics)
        if graphics:
            window.find_late_drawings()
        window.find_faint_writing()
        window.verify()
        for index, source, samples in window.cleaned():
            outside.add(source, samples, window.mask)
            frames[index] = samples
        same_mask = same_mask and bool((window.mask == plan.mask | plan.banner).all())
        mask = mask | window.mask
        marks += window.marks
        refilled += window.refilled
        widened, blacked_out = widened + window.widened, blacked_out + window.blacked_out
    shown = without_shapes_of_letters(mask, verifier.tools.reader)
    if (
        not same_mask or (shown != mask).any()
    ):  # one mask for all frames; the hash is of what is outside of it
        mask, outside = shown, OutsideDigest()
        for frame in frames:  # outside of it the sources have been proven to be the same
            outside.add(frame, frame, mask)
    masks = np.broadcast_to(mask.astype(np.uint8) * 255, (count, *mask.shape))
    return CleanedFrames(
        frames,
        masks,
        tuple(marks),
        plan.readings,
        widened,
        blacked_out,
        outside.hexdigest(),
        plan.in_doubt,
        tuple(refilled),
        spared=plan.spared,
    )


class _CineWindow(Window):
    """Some consecutive frames, cleaned together: a pixel masked in one is filled in all of them.

    ``read_in``: the picture in which the text that stays was read.
    """

    def __init__(
        self,
        image: SourceImage,
        indices: range,
        plan: RemovalPlan,
        read_in: Picture,
        tables: DisplayTables,
        verifier: Verifier,
        *,
        graphics: bool,
    ) -> None:
        sources = [image.stored(index) for index in indices]
        # Not the learned inpainter: it takes half a second a frame (2.0 frames/s against 8 and more).
        super().__init__(sources, plan, tables, verifier, PLAIN)
        self._indices, self._graphics = indices, graphics
        self._pictures: list[Picture] = []
        if plan.kept.any():  # text stays where all of these frames show it unchanged
            differs: Mask = np.zeros(plan.kept.shape, np.bool_)
            for source in sources:
                # Grey levels by which text that stays may differ from the frame in which it was read.
                differs |= brightest(cv2.absdiff(tables.show(source), read_in)) > 40
            labels, _ = components(plan.kept)
            self.kept = plan.kept & ~np.isin(labels, labels[differs & plan.kept])

    def cleaned(self) -> Iterator[tuple[int, PixelArray, PixelArray]]:
        """Yield index, source and samples of each frame, once they are proven identical outside the mask."""
        for index, source, result in zip(self._indices, self.sources, self.results, strict=True):
            if not unchanged_outside(source, result, self.mask):
                raise CleaningFailed(f"pixels outside the mask have changed in frame {index + 1}")
            yield index, source, result

    def find_late_drawings(self) -> None:
        """Search the middle frame for drawings: some appear in none of the sampled frames."""
        middle = len(self.results) // 2
        tools = self.verifier.tools
        picture = self.tables.show(self.results[middle])
        waves = self.plan.waves.seen_in(picture, self.plan.area)
        drawn = find_drawings(picture, tools.finder, tools.threshold, waves.pixels)
        found = drawn.masks[AnnotationKind.TEXT] & ~self.kept
        if self.verifier.policy is CleaningPolicy.RESEARCH:
            found = found | np.logical_or.reduce(list(drawn.masks.values()))
        fresh = found & ~self.mask
        if fresh.any():
            self.fill(fresh)
            self.added = None  # nothing was read yet
            self.marks += [
                replace(mark, frame=self._indices[middle] + 1)
                for mark in drawn.marks
                if fresh[index_of(mark.box)].any()
            ]

    def find_faint_writing(self) -> None:
        """Search the middle frame for writing too faint to be read, which shows in it as in all others."""
        middle = len(self.results) // 2
        faint = find_faint_writing(self.results[middle], self.plan, self.mask)
        if faint.any():
            self.fill(faint)
            self.added = None
            self.marks += faint_marks(faint, self._indices[middle] + 1)

    def residue(self) -> list[TextBox]:
        """The text in projections and outlying frames, in every view of them.

        At first whole projections are read, later only the parts around the pixels that were filled last.
        """
        shown = [self.tables.views(result) for result in self.results]
        self._pictures = [views[0] for views in shown]
        return [box for view in zip(*shown, strict=True) for box in self._residue_of(list(view))]

    def frame_of(self, mark: Mark) -> int:
        """The number (from 1) of the frame that shows ``mark`` best."""
        # Of the picture that differs most from the others within the annotation; the first if none does.
        patches = np.stack([picture[index_of(mark.box)] for picture in self._pictures]).astype(np.float32)
        differences = np.abs(patches - np.median(patches, axis=0)).reshape(len(patches), -1).mean(axis=1)
        distinct = float(differences.max()) > 1.5 * float(np.median(differences)) + 2
        return self._indices[int(np.argmax(differences)) if distinct else 0] + 1

    def _residue_of(self, pictures: list[Picture]) -> list[TextBox]:
        if len(pictures) == 1:
            return self.verifier.residue(pictures[0], self.mask, self.plan, self.kept)
        light, dark = (cast(Picture, extreme.reduce(pictures)) for extreme in (np.maximum, np.minimum))
        faint = high_contrast(np.mean(pictures, axis=0).astype(np.uint8))
        # Where there are no drawings there are no waves either.
        waves = self.plan.waves.seen_in(light, self.plan.area) if self._graphics else self.plan.waves
        measured = MeasuredPixels.from_picture(light, waves)
        added = None if self.tables.stretched else self.added
        parts = ((light, FINEST, False), (dark, FINEST, False), (faint, FAINT, False), (light, FAINT, True))
        views: list[tuple[Picture, float, Sequence[Box | None], bool]] = [
            (view, scale, [None] if added is None else surroundings(added, scale), upright)
            for view, scale, upright in parts
        ]
        # Which frames are outlying depends on what is filled: they are read whole.
        views += [(pictures[index], FINEST, [None], False) for index in _outlying_frames(pictures, self.mask)]
        return [
            one.box
            for view, scale, boxes, upright in views
            for box in boxes
            for one in candidates_of(view, self.verifier.tools.reader, scale, measured, box, upright=upright)
            if self.verifier.is_residue(one, self.mask, self.plan, self.kept)
        ]


def _plan_cine(
    image: SourceImage, indices: list[int], tables: DisplayTables, verifier: Verifier, *, graphics: bool
) -> RemovalPlan:
    """Plan from a few frames: text counts from any of them, drawings only where they do not move."""
    pictures = [image.display(index) for index in indices]
    plans = []
    for index, picture in zip(indices, pictures, strict=True):
        views = [picture, *tables.views(image.stored(index))[1:]]
        plans.append(plan_views(views, image.header, verifier, graphics=graphics))
    banner = cast(Mask, np.logical_or.reduce([plan.banner for plan in plans]))
    mask: Mask = np.zeros_like(banner)
    marks: list[Mark] = []
    readings: list[Reading] = []
    greys = [brightest(picture).astype(np.float32) for picture in pictures]
    motion = np.max(greys, axis=0) - np.min(greys, axis=0)
    for index, plan in zip(indices, plans, strict=True):
        labels, stats = components(plan.mask)
        texts = mask_of([mark.box for mark in plan.marks if mark.kind is AnnotationKind.TEXT], mask.shape)
        for label in range(1, len(stats)):
            own = labels == label
            # Mean difference of a drawing's pixels between the sampled frames, at most (grey levels).
            if bool((own & texts).any()) or float(motion[own].mean()) <= 24.0:
                mask |= own
        kept = [
            mark
            for mark in plan.marks
            if not mark.removed or mark.kind is AnnotationKind.BANNER or mask[index_of(mark.box)].any()
        ]
        # Without those of a kind that is already known at about that place (6 pixels).
        marks += [
            replace(mark, frame=index + 1)
            for mark in kept
            if not any(
                other.kind is mark.kind
                and all(abs(a - b) <= 6 for a, b in zip(mark.box, other.box, strict=True))
                for other in marks
            )
        ]
        readings += [replace(reading, frame=index + 1) for reading in plan.readings]
    check_share(mask & ~banner)
    mask &= ~banner
    plan = replace(
        plans[0],  # text stays only as the first frame shows it, and only while it does not change
        banner=banner,
        mask=mask,
        kept=plans[0].kept & ~mask & ~banner,
        not_tissue=plans[0].not_tissue & ~mask,
        area=np.logical_or.reduce([plan.area for plan in plans]),
        waves=reduce(or_, (plan.waves for plan in plans)),
        marks=tuple(marks),
        readings=tuple(readings),
        ground=np.logical_or.reduce([plan.ground for plan in plans]),
        in_doubt=tuple(dict.fromkeys(box for plan in plans for box in plan.in_doubt)),
    )
    for index in indices:
        plan = with_faint_writing(plan, image.stored(index))
    return plan


def _outlying_frames(pictures: list[Picture], mask: Mask) -> list[int]:
    """The indices of pictures with clearly more thin bright or dark structures than the median one."""
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


def on_disk(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> PixelArray:
    """An array in an unnamed temporary file, which is gone with the last reference to it."""
    with tempfile.TemporaryFile(prefix="ai-pipeline-") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
