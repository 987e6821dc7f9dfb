"""One plan for a cine: what counts from any of its frames, and what only while it stands still."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai_pipeline.burnin.find.annotation import AnnotationKind, Box, Mark, Mask, Picture, mask_of
from ai_pipeline.burnin.find.traces import Waves
from ai_pipeline.burnin.merging import merged_plan
from ai_pipeline.burnin.planning import RemovalPlan
from ai_pipeline.contract import Meaning, Reading
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.burnin.cleaning_lab import CALIPER, TEXT

SHAPE = (60, 100)
HERE, THERE, LINE = (10, 10, 30, 20), (60, 40, 80, 50), (40, 10, 70, 20)
NUMBERS = (1, 6, 11)


def at(*boxes: Box) -> Mask:
    return mask_of(boxes, SHAPE)


def plan(**fields: Any) -> RemovalPlan:
    """A plan that removes nothing, but for the ``fields``."""
    nothing = at()
    empty = RemovalPlan(
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        Waves(nothing, nothing),
        (),
        ground=nothing,
        always=nothing,
    )
    return replace(empty, **fields)


def mark(box: Box, kind: AnnotationKind = TEXT, *, removed: bool = True) -> Mark:
    return Mark(kind, box, 0.9, removed=removed)


def written(box: Box, level: int) -> Picture:
    """A black picture with a box of one grey level."""
    return np.asarray(at(box) * np.uint8(level), np.uint8)


def merged(
    *plans: RemovalPlan, pictures: tuple[Picture, ...] = (), changed: bool = False
) -> tuple[RemovalPlan, list[tuple[Box, int]]]:
    """The plans of as many frames as one, and the lines that were read again, each with the level of the
    later picture there.
    """
    read: list[tuple[Box, int]] = []
    shown = pictures or (written(HERE, 0),) * len(plans)

    def still_stays(line: Box, before: Picture, now: Picture) -> bool:
        assert before is shown[0], "a line was read in the first picture"
        read.append((line, int(now[line[1], line[0]])))
        return not changed

    return merged_plan(plans, shown, NUMBERS[: len(plans)], still_stays), read


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_text_goes_from_all_frames_wherever_it_is_seen_and_though_it_moves(frame: int) -> None:
    plans = [plan() for _ in NUMBERS]
    plans[frame] = plan(mask=at(HERE), marks=(mark(HERE),))
    pictures = tuple(written(HERE, level) for level in (0, 255, 0))
    assert np.array_equal(merged(*plans, pictures=pictures)[0].mask, at(HERE))


@pytest.mark.parametrize(("difference", "goes"), [(0, True), (24, True), (25, False), (200, False)])
def test_a_drawing_goes_only_where_it_stands_still(difference: int, goes: bool) -> None:
    drawn = plan(mask=at(HERE), marks=(mark(HERE, CALIPER),))
    pictures = (written(HERE, 10), written(HERE, 10 + difference))
    assert np.array_equal(merged(plan(), drawn, pictures=pictures)[0].mask, at(*[HERE] * goes))


def test_a_drawing_that_moves_goes_no_more_because_text_goes_elsewhere() -> None:
    drawn = plan(mask=at(HERE, THERE), marks=(mark(HERE, CALIPER), mark(THERE)))
    pictures = (written(HERE, 0), written(HERE, 255))
    assert np.array_equal(merged(drawn, plan(), pictures=pictures)[0].mask, at(THERE))


def test_a_drawing_that_stands_still_goes_whatever_moves_elsewhere() -> None:
    drawn = plan(mask=at(HERE), marks=(mark(HERE, CALIPER),))
    pictures = (written(HERE, 10), written(HERE, 10) + written(THERE, 255))
    assert np.array_equal(merged(drawn, plan(), pictures=pictures)[0].mask, at(HERE))


@pytest.mark.parametrize("what", ["banner", "area", "ground", "always"])
def test_a_mask_of_any_frame_counts(what: str) -> None:
    one, other = plan(**{what: at(HERE)}), plan(**{what: at(THERE)})
    assert np.array_equal(getattr(merged(one, other)[0], what), at(HERE, THERE))


@pytest.mark.parametrize("what", ["strips", "traces"])
def test_curves_of_any_frame_count(what: str) -> None:
    first, second = (replace(plan().waves, **{what: at(box)}) for box in (HERE, THERE))
    assert np.array_equal(
        getattr(merged(plan(waves=first), plan(waves=second))[0].waves, what), at(HERE, THERE)
    )


def test_what_is_blacked_out_is_not_filled_too() -> None:
    text = plan(mask=at(HERE, THERE), marks=(mark(HERE), mark(THERE)))
    assert np.array_equal(merged(text, plan(banner=at(HERE)))[0].mask, at(THERE))


@pytest.mark.parametrize("way", ["mask", "banner"])
def test_text_stays_as_the_first_frame_shows_it_unless_another_frame_removes_it(way: str) -> None:
    first = plan(kept=at(HERE, THERE))
    later = plan(kept=at(LINE), marks=(mark(HERE),), **{way: at(HERE)})
    assert np.array_equal(merged(first, later)[0].kept, at(THERE))


def test_holes_may_be_filled_from_what_goes() -> None:
    first = plan(not_tissue=at(HERE, THERE))
    assert np.array_equal(merged(first, plan(mask=at(HERE), marks=(mark(HERE),)))[0].not_tissue, at(THERE))


def test_a_line_that_no_frame_doubts_is_not_read_again() -> None:
    made, read = merged(plan(lines=(LINE,)), plan(mask=at(HERE), marks=(mark(HERE),)))
    assert made.lines == (LINE,)
    assert read == []


def test_a_line_is_read_again_in_the_frame_that_doubts_it() -> None:
    doubt = plan(mask=at(LINE), marks=(mark(LINE),))
    pictures = tuple(written(LINE, level) for level in (10, 20, 30))
    assert merged(plan(lines=(LINE,)), plan(), doubt, pictures=pictures)[1] == [(LINE, 30)]


def test_the_first_frame_does_not_doubt_its_own_lines() -> None:
    assert merged(plan(lines=(LINE,), mask=at(LINE), marks=(mark(LINE),)), plan())[1] == []


def test_a_line_that_changes_goes_whole() -> None:
    first = plan(lines=(LINE, THERE), kept=at(LINE, THERE))
    made, _ = merged(first, plan(mask=at((40, 10, 44, 20)), marks=(mark(LINE),)), changed=True)
    assert made.lines == (THERE,)
    assert made.mask[at(LINE)].all()
    assert np.array_equal(made.kept, at(THERE))


def test_of_a_line_that_changes_over_tissue_the_strokes_of_the_first_frame_go() -> None:
    letter, later, end = (44, 12, 46, 18), (54, 12, 56, 18), (66, 12, 68, 18)
    first = plan(lines=(LINE,), ground=at((20, 0, 90, 30)))
    pictures = (written(letter, 255), written(later, 255))
    made, _ = merged(first, plan(mask=at(end), marks=(mark(end),)), pictures=pictures, changed=True)
    assert made.mask[at(letter)].all()
    assert not made.mask[at(later)].any()


@pytest.mark.parametrize(
    ("later", "numbers"),
    [
        (mark((16, 16, 36, 26)), [1]),
        (mark((17, 10, 37, 20)), [1, 6]),
        (mark(HERE, CALIPER), [1, 6]),
    ],
    ids=["6 pixels beside", "7 pixels beside", "of another kind"],
)
def test_a_mark_is_listed_once_with_the_first_frame_that_shows_it(later: Mark, numbers: list[int]) -> None:
    plans = (plan(mask=at(one.box), marks=(one,)) for one in (mark(HERE), later))
    assert [one.frame for one in merged(*plans)[0].marks] == numbers


@pytest.mark.parametrize(
    ("drawn", "listed"),
    [
        (mark(HERE, CALIPER), False),
        (mark(HERE, CALIPER, removed=False), True),
        (mark(HERE, AnnotationKind.BANNER), True),
    ],
    ids=["a drawing that moves", "what stays", "a banner"],
)
def test_only_what_goes_or_stays_in_all_frames_is_listed(drawn: Mark, listed: bool) -> None:
    pictures = (written(HERE, 0), written(HERE, 255))
    made, _ = merged(plan(mask=at(HERE), marks=(drawn,)), plan(), pictures=pictures)
    assert len(made.marks) == listed


def test_readings_name_their_frame() -> None:
    reading = Reading("", None, "text", Meaning.IDENTITY, (1.0, 2.0, 3.0, 4.0), 0.9, True, "KIM")
    made, _ = merged(*(plan(readings=(reading,)) for _ in NUMBERS))
    assert [one.frame for one in made.readings] == list(NUMBERS)


def test_a_place_in_doubt_is_listed_once() -> None:
    assert merged(plan(in_doubt=(HERE,)), plan(in_doubt=(THERE, HERE)))[0].in_doubt == (HERE, THERE)


def test_frames_of_which_too_much_goes_together_are_withheld() -> None:
    halves = [(0, 0, 100, 20), (0, 20, 100, 40)]
    plans = [plan(mask=at(box), marks=(mark(box),)) for box in halves]
    with pytest.raises(CleaningFailed):
        merged(*plans)
