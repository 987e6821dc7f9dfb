"""Clean one frame: carry out a removal plan, then read and fill until no text is left that must go.

Clean images of many frames: annotation does not move, so few frames are searched; all are verified.

Reading each of 300 frames would take minutes. Light text in any frame of a window shows in the window's
brightest projection, dark text in its darkest; text that does not move shows best in the other one, because
moving echoes fade from it. So a window of frames is read as projections, after cleaning; a frame with more
thin structures than its neighbours is also read by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.decide.candidates import (
    FAINT,
    FINEST,
    SEARCHED,
    MeasuredPixels,
    candidates_of,
    surroundings,
)
from ai_pipeline.burnin.decide.layout import RIM, around, level_box
from ai_pipeline.burnin.decide.letters import strokes_in
from ai_pipeline.burnin.decide.lines import cut_by, letters_of, reads_alike, whole, with_their_rows
from ai_pipeline.burnin.decide.outline import (
    SMALLEST_LETTER,
    blocks,
    with_sides,
    without_shapes_of_letters,
)
from ai_pipeline.burnin.decide.photographed import TOO_SMALL
from ai_pipeline.burnin.decide.tiny import tiny_lines
from ai_pipeline.burnin.decide.witnesses import confirmed
from ai_pipeline.burnin.faint import with_faint_writing
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    Mark,
    Mask,
    Picture,
    box_around,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.area import CONTRAST, strokes
from ai_pipeline.burnin.find.changes import may_hold_another_code, new_strokes
from ai_pipeline.burnin.find.drawings import find_bars, find_drawings
from ai_pipeline.burnin.find.text import SMALLEST_LINE, TextBox, high_contrast, paint
from ai_pipeline.burnin.find.traces import (
    coloured,
    find_flow,
    find_traces,
    mostly_outside,
    red_or_blue,
)
from ai_pipeline.burnin.merging import merged_plan
from ai_pipeline.burnin.planning import (
    RemovalPlan,
    box_marks,
    check_share,
    plan_views,
    with_rim,
    with_whole_lines,
)
from ai_pipeline.burnin.tools import PLAIN, BackgroundFill, Holes, Inpainter, black_out, inpaint
from ai_pipeline.burnin.verifier import Verifier, codes_in
from ai_pipeline.contract import PixelArray, Progress, Reading, SourceImage
from ai_pipeline.errors import CleaningFailed

ROUNDS = 3
"""Attempts to remove what is still found; the last one blacks it out."""


@dataclass(frozen=True, slots=True, eq=False)
class CleanedFrames:
    """All frames of an image, cleaned and verified, with one mask (uint8, 255 = filled) for each. The mask of
    a text is a block around the filled strokes: the shape of the strokes would be legible. ``in_doubt``:
    places in the image area that may hold letters and stay. ``frames`` of a cine are memory-mapped.
    ``widened`` and ``blacked_out``: the boxes of text that was still found after filling. ``spared``: marks
    that look like text and are left alone. ``outside_sha256``: see :func:`outside_bytes`. ``timings`` in
    seconds by stage.
    """

    frames: PixelArray
    masks: PixelArray
    marks: tuple[Mark, ...]
    readings: tuple[Reading, ...]
    widened: tuple[Box, ...]
    blacked_out: tuple[Box, ...]
    outside_sha256: str
    in_doubt: tuple[Box, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    spared: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DisplayTables:
    """Tables from stored samples to the pictures that are read, derived from a displayed frame.

    ``table``: from a stored value less ``low`` to the level that a viewer shows, in each channel; None for
    colour that is shown as it is stored.
    ``black``: the stored value that is shown darkest. ``equalised``: a second table, for a viewer with a
    window of its own, if the display hides levels that may hold text. ``stretched``: each picture is shown
    between its own darkest and brightest samples, so filling a few pixels changes the whole picture.
    """

    low: int
    table: Picture | None
    black: float
    equalised: Picture | None = None
    stretched: bool = False

    @staticmethod
    def from_frames(frames: Sequence[PixelArray], displays: Sequence[Picture]) -> DisplayTables:
        """Derive the tables from samples of frames and, in the same order, what a viewer shows of them."""
        if (
            frames[0].dtype == np.uint8
            and frames[0].ndim == 3
            and all(map(_is_shown_as_stored, frames, displays))
        ):
            return DisplayTables(0, None, 0.0)
        stored, display = np.concatenate(frames), np.concatenate(displays)
        darkest = stored.reshape(display.shape[0] * display.shape[1], -1)[int(np.argmin(brightest(display)))]
        black, low, high = (cast(Any, end) for end in (darkest.min(), stored.min(), stored.max()))
        if stored.dtype.kind not in "iu" or int(high) - int(low) > 0xFFFF:
            return DisplayTables(0, None, float(black), stretched=True)
        levels = stored.ravel().astype(np.int64) - int(low)
        counts = np.bincount(levels)
        table, places = np.zeros(len(counts), np.uint8), np.flatnonzero(counts)
        table[levels] = display.ravel()
        table = np.rint(np.interp(np.arange(len(counts)), places, table[places])).astype(np.uint8)
        return DisplayTables(int(low), table, float(black), _equalised(places, counts[places], table))

    def views(self, samples: PixelArray) -> list[Picture]:
        """The pictures to search for text, the displayed one first."""
        return [
            self.show(samples),
            *([] if self.equalised is None else [self.equalised[self._places(samples)]]),
        ]

    def show(self, samples: PixelArray) -> Picture:
        """The picture that a viewer shows of samples within the source's range."""
        if self.table is not None:
            return self.table[self._places(samples)]
        if not self.stretched:
            return np.asarray(samples, np.uint8)
        numbers = samples.astype(np.float64)
        low, high = np.percentile(numbers, [0.1, 99.9])
        return np.asarray(np.rint(np.clip((numbers - low) / max(high - low, 1e-12), 0, 1) * 255), np.uint8)

    def _places(self, samples: PixelArray) -> npt.NDArray[np.int64]:
        """The index in the table for each sample."""
        return np.clip(
            samples.astype(np.int64) - self.low, 0, 0 if self.table is None else len(self.table) - 1
        )


class Window:
    """One frame, or several that share one mask, which are filled until no text is left that must be
    removed. ``lines``: those that stay; ``read_in``: the picture in which they were read.
    """

    def __init__(
        self,
        sources: list[PixelArray],
        plan: RemovalPlan,
        tables: DisplayTables,
        verifier: Verifier,
        filler: Inpainter,
    ) -> None:
        """``sources``: the frames' samples; ``plan``: what to remove; ``tables``: how samples are shown;
        ``verifier`` finds remaining text; ``filler`` fills holes.
        """
        self.sources, self.plan, self.tables, self.verifier = sources, plan, tables, verifier
        self._filler = filler
        blacked = (black_out(source, plan.banner, tables.black) for source in sources)
        self.results = self._filled(blacked, plan.mask)
        self.mask: Mask = plan.mask | plan.banner
        self.kept = plan.kept
        self.lines, self.read_in = set(plan.lines), tables.show(sources[0])
        self.marks: list[Mark] = []
        self.widened: list[Box] = []
        self.blacked_out: list[Box] = []
        self.returned: Mask = np.zeros_like(self.mask)
        self.stays_filled: Mask = np.zeros_like(self.mask)
        self.added: Mask | None = None

    def residue(self) -> list[TextBox]:
        """Find the text that is left in the cleaned frames and must be removed."""
        changed = None if self.tables.stretched else self.mask if self.added is None else self.added
        return [
            box
            for view in self.tables.views(self.results[0])
            for box in (
                *self.verifier.residue(view, self.mask, self.plan, self.kept, changed),
                *self.verifier.still_read(view, self.mask, self.plan),
            )
        ]

    def verify(self) -> None:
        """Read the cleaned frames and fill them further until no text is left that must be removed.

        Raises :class:`CleaningFailed` when text is still found after :data:`ROUNDS` attempts.
        """
        attempt = 0
        while (residue := self.residue()) or self.give_up_lines() or self.take_back():
            if not residue:
                continue
            touched = self.returned & paint(residue, self.mask.shape, 0.6)
            if touched.any():  # text shows in what was put back: that goes after all
                self.returned, self.stays_filled = self.returned & ~touched, self.stays_filled | touched
                self.fill(touched)
                continue
            if attempt == ROUNDS:
                raise CleaningFailed(
                    "text is still found after filling, widening and blacking out",
                    [mark.box for mark in box_marks(residue, self.mask.shape)],
                )
            # Margin of the mask around text that is still found after filling (share of the text's height).
            more = around(
                residue, list(self.lines), self.kept & ~self.mask, 0.6 * (attempt + 1), spare=attempt == 0
            )
            # Where all is image area the mark network has not looked for letters across a curve.
            more &= ~((self.plan.waves.traces & (not self.plan.area.all())) | self.returned)
            if attempt == 0:
                letters = [strokes_in(self.tables.show(one), box) for one in self.results for box in residue]
                more &= ~self.plan.ground | np.logical_or.reduce(letters)
            found = box_marks(residue, self.mask.shape)
            self.marks += found
            if attempt < ROUNDS - 1:
                self.fill(more)
                self.widened += [mark.box for mark in found]
            else:
                self._add(more)
                self.results = [black_out(result, more, self.tables.black) for result in self.results]
                self.blacked_out += [mark.box for mark in found]
            attempt += 1

    def refuse_tiny_lines(self) -> None:
        """Raise :class:`CleaningFailed` if the cleaned frames show lines of letters that are too small for
        any reader: what was neither read nor filled may be a name.
        """
        # Lines stand still: among moving tissue they show best where it is darkest.
        picture = cast(Picture, np.minimum.reduce([self.tables.show(result) for result in self.results]))
        known = self.mask | mask_of(self.lines, self.mask.shape) | self.plan.waves.strips | find_flow(picture)
        if lines := tiny_lines(picture, dilated(known, 5), self.verifier.tools.reader):
            raise CleaningFailed(TOO_SMALL, lines)

    def give_up_lines(self) -> bool:
        """Remove the lines whole, with their labels or numbers, of which filling took a stroke or that are
        read otherwise after it. A line of which no pixel was filled is the source's. Returns False if there
        are none.
        """
        source, result = (self.tables.show(frames[0]) for frames in (self.sources, self.results))
        cut, back = cut_by(self.lines, self.mask, self.plan.always, self.read_in)
        changed = [
            line
            for line in self.lines
            if back[index_of(line)].any()
            or (
                self.mask[index_of(line)].any()
                and not reads_alike(line, source, result, self.verifier.tools.reader)
            )
        ]
        going = with_their_rows([*cut, *changed], self.plan.rows) & self.lines
        if not going:
            return False
        more = whole(going, self.read_in, self.plan.ground) & ~self.mask
        self.lines, self.kept = self.lines - going, self.kept & ~mask_of(going, more.shape)
        self.marks += box_marks([level_box(line, 1.0) for line in going], more.shape, "could not stay whole")
        self.widened += sorted(going)
        self.fill(more)
        return True

    def take_back(self) -> bool:
        """Put back what should not have been filled: curves, flow and bars. The places are listed for a
        person. Returns False if nothing was put back.
        """
        content = content_of(
            self.tables.show(self.sources[len(self.sources) // 2]), self.plan, self.mask
        ) & ~(self.plan.banner | self.stays_filled)
        # Beside the image area a line of text in its box may look like a bar: it stays removed with its edge.
        text = mask_of((one.box for one in self.plan.marks if one.kind is AnnotationKind.TEXT), content.shape)
        lost = with_sides(
            self.mask & content & (self.plan.ground | ~dilated(text, 9)), longer=SMALLEST_LETTER
        )
        if self.verifier.policy is CleaningPolicy.RESEARCH or not lost.any():
            return False
        self.mask, self.added, self.returned = self.mask & ~lost, lost, self.returned | lost
        self.results = [
            np.where(lost if source.ndim == 2 else lost[..., None], source, result)
            for source, result in zip(self.sources, self.results, strict=True)
        ]
        return True

    def fill(self, more: Mask) -> None:
        """Fill the mask ``more`` in every frame. Raises :class:`CleaningFailed` if too much of the picture
        would be filled in all.
        """
        self._add(more)
        self.results = self._filled(self.results, more)

    def _filled(self, sources: Iterable[PixelArray], mask: Mask) -> list[PixelArray]:
        """Return the frames ``sources`` with ``mask`` filled. A connected part of the mask in which filling
        made up a colour is all grey: grey beside colour would show the letters.
        """
        fill = filling_of(mask, self.plan, self.tables.black, self._filler)
        labels, _ = components(mask)
        place = index_of(box_around(mask, MADE_UP) if mask.any() else (0, 0, 0, 0))
        results = []
        for source in sources:
            filled = fill(source)
            if source.ndim == 3 and mask.any():
                before, after = (self.tables.show(frame)[place] for frame in (source, filled))
                invented = mask[place] & made_up(before, after)
                if invented.any():
                    wrong = np.isin(labels, labels[place][invented])
                    filled[wrong] = filled[wrong].mean(axis=1, keepdims=True)
            results.append(filled)
        return results

    def _add(self, more: Mask) -> None:
        """Add ``more`` to the mask of filled pixels. Raises :class:`CleaningFailed` if that would be too much
        of the picture.
        """
        self.mask, self.added = self.mask | more, more
        check_share(self.mask & ~self.plan.banner)


def clean_still(image: SourceImage, verifier: Verifier, report: Progress, *, graphics: bool) -> CleanedFrames:
    """Clean an image of one frame. ``graphics`` and errors as in :func:`plan_views` and :class:`Window`."""
    began = time.perf_counter()
    source, picture = image.stored(0), image.display(0)
    decoded = time.perf_counter()
    tables = DisplayTables.from_frames([source], [picture])
    plan = plan_views(tables.views(source), image.header, verifier, graphics=graphics)
    plan = with_faint_writing(plan, source, verifier.tools.reader)
    plan = with_whole_lines(plan, picture)
    planned = time.perf_counter()
    report(0.5, "marks found")
    still = Window([source], plan, tables, verifier, verifier.tools.filler)
    still.verify()
    if graphics:
        still.refuse_tiny_lines()
    (result,) = still.results
    if not unchanged_outside(source, result, still.mask):
        raise CleaningFailed("pixels outside the mask have changed")
    mask = without_shapes_of_letters(still.mask, verifier.tools.reader)
    return CleanedFrames(
        frames=result[None],
        masks=(mask.astype(np.uint8) * 255)[None],
        marks=(*plan.marks, *still.marks),
        readings=plan.readings,
        widened=(*plan.given_up, *still.widened),
        blacked_out=tuple(still.blacked_out),
        outside_sha256=hashlib.sha256(outside_bytes(result, mask)).hexdigest(),
        in_doubt=(*plan.in_doubt, *component_boxes(components(still.returned)[1])),
        timings={
            "decode": decoded - began,
            "detect": planned - decoded,
            "fill_and_verify": time.perf_counter() - planned,
        },
        spared=plan.spared,
    )


def filling_of(
    mask: Mask, plan: RemovalPlan, black: float, filler: Inpainter
) -> Callable[[PixelArray], PixelArray]:
    """Return the function that fills ``mask`` in one frame after another: by ``filler`` in the image area,
    with the background outside it. A hole that crosses the border is filled as two. ``black``: the stored
    value shown darkest.
    """
    outside, inside = Holes.of(mask & ~plan.area), Holes.of(mask & plan.area)
    known = ~(plan.area | plan.mask | plan.banner | plan.not_tissue | mask)
    background = BackgroundFill(outside, known, black)
    # A hole across the edge is filled from both sides.
    not_tissue = plan.not_tissue | ~with_rim(plan.area)

    def fill(source: PixelArray) -> PixelArray:
        flat = background.fill(source)
        return inpaint(flat, inside, filler, not_tissue) if inside.boxes else flat

    return fill


def content_of(picture: Picture, plan: RemovalPlan, filled: Mask) -> Mask:
    """The mask of content that no fill may remove: curves, flow in its colours, and bars; letters on them
    have other colours. Coloured areas that lie mostly in ``filled`` are not counted as flow: they were
    letters in its colours.
    """
    curves = find_traces(picture, plan.area) & ~plan.kept
    flow = find_flow(picture)
    if flow.any():
        flow &= red_or_blue(picture) & mostly_outside(flow, filled)
    return curves | flow | (find_bars(picture) & ~strokes(picture))


MADE_UP = 10
"""Distance within which filling takes its colours (pixels)."""


def made_up(before: Picture, after: Picture) -> Mask:
    """The mask of strongly coloured pixels in the RGB picture ``after`` filling whose colour was nowhere
    within :data:`MADE_UP` pixels ``before``.
    """
    around = np.ones((2 * MADE_UP + 1,) * 2, np.uint8)
    lowest, highest = (way(before, around) for way in (cv2.erode, cv2.dilate))
    return coloured(after) & (
        brightest(cv2.max(cv2.subtract(lowest, after), cv2.subtract(after, highest))) > 10
    )


def _is_shown_as_stored(samples: PixelArray, display: Picture) -> bool:
    """Whether a viewer shows the samples of a frame as they are."""
    return samples is display or np.array_equal(samples, display)


def _stored_and_shown(image: SourceImage, index: int) -> tuple[PixelArray, Picture]:
    """The samples of the frame ``index``, and what a viewer shows of them."""
    samples = image.stored(index)
    return samples, image.show(samples, index)


def _equalised(
    places: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], table: Picture
) -> Picture | None:
    """A table from value to grey level where the display hides what may be text; else None. ``places``:
    values that occur; ``counts``: how often; ``table``: how they are displayed.

    It does so where it clips structure to black or white, and where it shows nearly alike what lies far apart
    among the values that occur: a window far wider than the samples, a lookup table with a flat part.
    """
    # By rank and by value, half each: letters and their box are two values at the end of a thousand echoes',
    # with hardly a rank between them; beside one hot pixel all others are nearly one value.
    ranks, span = np.linspace(0, 255, len(places)), max(int(places[-1]), 1)
    shown, apart = table[places], (ranks + places * (255 / span)) / 2
    # Values that are all displayed alike may make up letters and their background.
    # Share of the pixels whose stored values differ from the commonest one though the window shows all of
    # them as black, or as white: from this on they may hide text (percentile windows clip half of it at
    # either end).
    clipped = any(
        len(own) > 1 and int(own.sum() - own.max()) >= 0.01 * int(counts.sum())
        for own in (counts[shown == end] for end in (0, 255))
    )
    # A reader of text may miss differences of up to 8 grey levels; a viewer with another window shows 32.
    alike = (apart[(shown >= level) & (shown < level + 8)] for level in range(0, 256, 4))
    if not clipped and all(len(own) < 2 or np.ptp(own) <= 32 for own in alike):
        return None
    return np.asarray(np.rint(np.interp(np.arange(len(table)), places, apart)), np.uint8)


def unchanged_outside(source: PixelArray, result: PixelArray, mask: Mask) -> bool:
    """Whether ``source`` and ``result`` have the same type, shape and samples outside ``mask``."""
    if source.dtype != result.dtype or source.shape != result.shape:
        return False
    return not bool(brightest((source != result).view(np.uint8))[~mask].any())


def outside_bytes(samples: PixelArray, mask: Mask) -> memoryview:
    """The bytes of the ``samples`` of a frame, ``[rows, columns]`` or ``[rows, columns, 3]``, little-endian,
    with those inside ``mask`` set to zero: their SHA-256 over all frames is the same for source and result.

    The samples come from :mod:`ai_pipeline.images.decode`, colour as RGB, palettes looked up.
    Anyone who has the source and the segmentation can compute the hash again.
    """
    blank = np.array(samples, copy=True)
    blank[mask] = 0
    return np.ascontiguousarray(blank, blank.dtype.newbyteorder("<")).data


WINDOW = 16
"""Frames that are read together; more is quicker, but text that shows briefly fades (frames)."""
SAMPLED = 3
"""Frames, spread over the cine, in which annotation is searched."""


def clean_cine(image: SourceImage, verifier: Verifier, report: Progress, *, graphics: bool) -> CleanedFrames:
    """Clean every frame; one window is in memory at a time. Raises :class:`CleaningFailed` as for a still."""
    count = image.header.frames
    # The first and the last among them.
    sampled = sorted({round(i * (count - 1) / max(1, SAMPLED - 1)) for i in range(SAMPLED)})
    tables = DisplayTables.from_frames(*zip(*map(partial(_stored_and_shown, image), sampled), strict=True))
    plan = _plan_cine(image, sampled, tables, verifier, report, graphics=graphics)
    first = image.stored(0)
    with tempfile.TemporaryFile(prefix="ai-pipeline-") as file:  # gone with the last reference to the array
        frames: PixelArray = np.memmap(file, dtype=first.dtype, mode="w+", shape=(count, *first.shape))
    mask: Mask = plan.mask | plan.banner
    marks = [replace(mark, frame=mark.frame or 1) for mark in plan.marks]
    widened: list[Box] = []
    blacked_out: list[Box] = []
    returned: Mask = np.zeros_like(mask)
    seen = Seen()
    for start in range(0, count, WINDOW):
        # Also between the readings of a window, which take seconds each: others may run meanwhile.
        step = partial(report, start / count, f"frame {start + 1} of {count}")
        step()
        indices = range(start, min(start + WINDOW, count))
        window = _CineWindow(image, indices, plan, first, verifier, seen, step, graphics=graphics)
        if graphics:
            window.find_late_drawings()
        window.verify()
        if graphics:
            window.refuse_tiny_lines()
        for index, samples in window.cleaned():
            frames[index] = samples
        mask = mask | window.mask
        marks += [replace(mark, frame=mark.frame or start + 1) for mark in window.marks]
        widened += window.widened
        blacked_out += window.blacked_out
        returned |= window.returned
    mask, outside = without_shapes_of_letters(mask, verifier.tools.reader), hashlib.sha256()
    for frame in frames:  # one mask for all, outside of which each has been proven to be as its source
        outside.update(outside_bytes(frame, mask))
    return CleanedFrames(
        frames,
        np.broadcast_to(mask.astype(np.uint8) * 255, (count, *mask.shape)),
        tuple(marks),
        plan.readings,
        (*plan.given_up, *dict.fromkeys(widened)),
        tuple(blacked_out),
        outside.hexdigest(),
        (*plan.in_doubt, *component_boxes(components(returned)[1])),
        spared=plan.spared,
    )


@dataclass(slots=True, eq=False)
class Seen:
    """Cleaned pictures of a cine that were searched last, and in which nothing was left: what the next ones
    show in common with them is not searched again. ``projections``: the brightest and the darkest of the
    frames, by view; ``coded``: the last eight searched for codes for machines, by view; ``drawn``: searched
    for drawings.
    """

    projections: dict[int, tuple[Picture, Picture]] = field(default_factory=dict)
    coded: defaultdict[int, deque[Picture]] = field(
        default_factory=lambda: defaultdict(partial(deque, maxlen=8))
    )
    drawn: Picture | None = None


class _CineWindow(Window):
    """Some consecutive frames of a cine, cleaned together: a pixel masked in one is filled in all of them.
    ``first``: the samples of the first frame, in which the text that stays was read. ``seen``: what was
    searched in the frames before. ``step`` is called between readings.
    """

    def __init__(
        self,
        image: SourceImage,
        indices: range,
        plan: RemovalPlan,
        first: PixelArray,
        verifier: Verifier,
        seen: Seen,
        step: Callable[[], None],
        *,
        graphics: bool,
    ) -> None:
        """Read the frames ``indices`` of the cine. ``plan``, ``verifier`` as in :class:`Window`."""
        sources = [image.stored(index) for index in indices]
        # Of these frames: their letters may be brighter or darker than all that the sampled frames show.
        tables = DisplayTables.from_frames(sources, list(map(image.show, sources, indices)))
        planned, samples = len(plan.marks), np.stack([first, *sources])
        # Faint text too may show in no sampled frame: then it changes between the first frame and these.
        changes: PixelArray = samples.max(axis=0) - samples.min(axis=0)
        plan = with_faint_writing(plan, changes, verifier.tools.reader, of_one_frame=False)
        # Not the learned inpainter: it takes half a second a frame (2.0 frames/s against 8 and more).
        super().__init__(sources, plan, tables, verifier, PLAIN)
        self.marks = [replace(mark, frame=indices[0] + 1) for mark in plan.marks[planned:]]
        self._indices, self._graphics, self._seen, self._step = indices, graphics, seen, step
        if plan.kept.any():  # text stays where all of these frames show it unchanged
            self.read_in = image.show(first)
            labels, _ = components(plan.kept)
            self.kept = plan.kept & ~np.isin(labels, labels[self._changes() & plan.kept])

    def _changes(self) -> Mask:
        """The pixels in which a frame differs from the one in which the text was read, except in lines that
        are harmless in every frame: tissue moves behind them, or a number changes.
        """
        first = self.read_in
        shown = [self.tables.show(source) for source in self.sources]
        # Grey levels by which text that stays may differ from the frame in which it was read.
        differs = np.stack([brightest(cv2.absdiff(picture, first)) > 40 for picture in shown])
        found = np.asarray(differs.any(axis=0), np.bool_)
        for line in self.lines:
            place = paint([level_box(line, 1.0)], found.shape, 2 * RIM)
            own, _ = letters_of(first, line)
            amounts = differs[:, place].sum(axis=1)
            # Where only what is behind the letters moves, the frame that differs most speaks for all.
            behind = own.any() and found[own].mean() < 0.02
            seen = [int(amounts.argmax())] if behind else np.flatnonzero(amounts).tolist()
            if amounts.any() and all(self.verifier.still_stays(line, first, shown[index]) for index in seen):
                found &= ~place
        return found

    def cleaned(self) -> Iterator[tuple[int, PixelArray]]:
        """Yield index and samples of each frame, once they are proven identical outside the mask."""
        for index, source, result in zip(self._indices, self.sources, self.results, strict=True):
            if not unchanged_outside(source, result, self.mask):
                raise CleaningFailed(f"pixels outside the mask have changed in frame {index + 1}")
            yield index, result

    def find_late_drawings(self) -> None:
        """Search the middle frame for drawings: some appear in none of the sampled frames."""
        middle = len(self.results) // 2
        tools = self.verifier.tools
        picture, before = self.tables.show(self.results[middle]), self._seen.drawn
        if before is not None and self.verifier.policy is CleaningPolicy.CLINICAL:
            ground = self.plan.ground  # there only letters that are read go
            if not (new_strokes(picture, before, ground) & ~ground).any():
                return
        self._seen.drawn = picture
        drawn = find_drawings(
            picture, tools.finder, tools.threshold, self.plan.waves.seen_in(picture, self.plan.area).pixels
        )
        # In the image area only letters that are read go: the verification finds them. As in a plan, what is
        # lower than a line is the edge of something else.
        found = with_sides(
            drawn.masks[AnnotationKind.TEXT] & ~self.kept & ~self.plan.ground, SMALLEST_LINE, SMALLEST_LETTER
        )
        if self.verifier.policy is CleaningPolicy.RESEARCH:
            found = found | np.logical_or.reduce(list(drawn.masks.values()))
        else:
            found, _ = confirmed(blocks(found & ~self.mask), picture, tools.reader)
        fresh = found & ~self.mask
        if fresh.any():
            self.fill(fresh)
            self.added = None  # nothing was read yet
            self.marks += [
                replace(mark, frame=self._indices[middle] + 1)
                for mark in drawn.marks
                if fresh[index_of(mark.box)].any()
            ]

    def residue(self) -> list[TextBox]:
        """Find the text that is left in projections and outlying frames. At first whole projections are read,
        or what they show that those of the frames before did not; later only the parts around the pixels that
        were filled last.
        """
        shown = [self.tables.views(result) for result in self.results]
        return [
            box
            for number, view in enumerate(zip(*shown, strict=True))
            for box in self._residue_of(list(view), number)
        ]

    def _residue_of(self, pictures: list[Picture], number: int) -> list[TextBox]:
        """Find the text that is left in ``pictures``, the view ``number`` of each frame."""
        if len(pictures) == 1:
            return self.verifier.residue(pictures[0], self.mask, self.plan, self.kept)
        light, dark = (cast(Picture, extreme.reduce(pictures)) for extreme in (np.maximum, np.minimum))
        faint = high_contrast(np.mean(pictures, axis=0).astype(np.uint8))
        # Where there are no drawings there are no waves either.
        waves = self.plan.waves.seen_in(light, self.plan.area) if self._graphics else self.plan.waves
        measured = MeasuredPixels.from_picture(light, waves)
        added = None if self.tables.stretched else self.added
        before = None if self.tables.stretched else self._seen.projections.get(number)
        # Faint text may show in the mean of these frames only: that is read whole.
        new_light, new_dark = (
            (None, None)
            if before is None
            else (
                new_strokes(shown, earlier, self.plan.area) | (self.plan.kept & ~self.kept)
                for shown, earlier in zip((light, dark), before, strict=True)
            )
        )
        parts = (
            (light, FINEST, False, new_light),
            (dark, FINEST, False, new_dark),
            (faint, FAINT, False, None),
            (light, FAINT, True, new_light),
        )
        self._seen.projections[number] = light, dark
        views: list[tuple[Picture, float, Sequence[Box | None], bool]] = []
        for view, scale, upright, fresh in parts:
            boxes: Sequence[Box | None] = [None]
            if added is not None:
                boxes = surroundings(added, scale)
            elif fresh is not None:  # these places are of words, not of pixels
                boxes = surroundings(fresh, scale, SEARCHED // 2)
            views.append((view, scale, boxes, upright))
        views += [
            (picture, FINEST, surroundings(places, FINEST), False)
            for picture, places in zip(pictures, _outlying_places(pictures, self.mask), strict=True)
        ]
        found = self._codes_in(pictures, number)
        found += self.verifier.still_read(pictures[len(pictures) // 2], self.mask, self.plan)
        for view, scale, boxes, upright in views:
            self._step()
            found += [
                one.box
                for box in boxes
                for one in candidates_of(
                    view, self.verifier.tools.reader, scale, measured, box, upright=upright
                )
                if self.verifier.is_residue(one, self.mask, self.plan, self.kept)
            ]
        return found

    def _codes_in(self, pictures: list[Picture], number: int) -> list[TextBox]:
        """Find the codes for machines in ``pictures``, the view ``number`` of each frame: in the first one,
        and in each that may hold another code than those searched last.
        """
        found: list[TextBox] = []
        for picture in pictures:
            if may_hold_another_code(picture, reversed(self._seen.coded[number])):
                found += codes_in(picture)
                self._seen.coded[number].append(picture)
        if found:  # once they are filled, all are searched again
            self._seen.coded[number].clear()
        return found


def _plan_cine(
    image: SourceImage,
    indices: list[int],
    tables: DisplayTables,
    verifier: Verifier,
    report: Progress,
    *,
    graphics: bool,
) -> RemovalPlan:
    """Make the plan for a cine from the frames ``indices``."""
    pictures = [image.display(index) for index in indices]
    plans = []
    for index, picture in zip(indices, pictures, strict=True):
        report(0.0, f"searching frame {index + 1}")
        views = [picture, *tables.views(image.stored(index))[1:]]
        plans.append(plan_views(views, image.header, verifier, graphics=graphics))
    plan = merged_plan(plans, pictures, [index + 1 for index in indices], verifier.still_stays)
    for index in indices:
        plan = with_faint_writing(plan, image.stored(index), verifier.tools.reader)
    return with_whole_lines(plan, pictures[0])


def _outlying_places(pictures: list[Picture], mask: Mask) -> list[Mask]:
    """The places in each of the pictures where there are clearly more thin light or dark structures, outside
    ``mask``, than in most of them: text that shows in few frames, and may be as dim as the tissue that moves
    over its place in the others.
    """
    kernel, shares = np.ones((7, 7), np.uint8), []
    for picture in pictures:
        light, dark = (
            cv2.morphologyEx(np.ascontiguousarray(brightest(picture)), way, kernel)
            for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)
        )
        # Each eighth row and column: the share of a place as large as a short word, 48 × 16 pixels.
        shares.append(
            cv2.blur(((np.maximum(light, dark) > CONTRAST) & ~mask).astype(np.float32), (48, 16))[::8, ::8]
        )
    # More than most, and a third of what letters take.
    return [
        np.kron(
            share > 1.2 * np.quantile(shares, 0.5, axis=0, method="lower") + 0.15, np.ones((8, 8), np.bool_)
        )[: mask.shape[0], : mask.shape[1]]
        for share in shares
    ]
