"""What is read once more at the places where names stood."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ai_pipeline.burnin.decide.candidates import Candidate
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.texts import NOTHING_READ
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, mask_of
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.burnin.find.traces import Waves
from ai_pipeline.burnin.planning import RemovalPlan
from ai_pipeline.burnin.verifier import Verifier, _not_filled
from ai_pipeline.contract import Meaning, Reading
from tests.unit.ai_pipeline.burnin.cleaning_lab import CLINICAL

SHAPE, PLACE = (80, 200), (20, 30, 120, 46)
PICTURE: Picture = np.full(SHAPE, 60, np.uint8)


def at(*boxes: Box) -> Mask:
    return mask_of(boxes, SHAPE)


def still_read(now: str, *, small: bool = False, filled: Mask | None = None, **how: Any) -> list[Box]:
    """Where a line that went is still read, if a reader now reads this there."""
    line = Line(now, 0.6, legible=True)
    reader = SimpleNamespace(
        read=lambda _view, _box: NOTHING_READ if small else line,
        read_small=lambda _view, _box: line if small else NOTHING_READ,
    )
    words = Reading(
        "", None, "text", Meaning.IDENTITY, tuple(map(float, PLACE)), 0.9, True, "DOB: 2 Apr 1943"
    )
    plan = RemovalPlan(
        *(at() for _ in range(5)),
        Waves(at(), at()),
        (),
        readings=(replace(words, **{key: how[key] for key in how if key != "ground"}),),
        ground=how.get("ground", ~at()),
    )
    verifier = Verifier(SimpleNamespace(reader=reader), CLINICAL)
    found: list[TextBox] = verifier.still_read(PICTURE, at() if filled is None else filled, plan)
    return [box.box for box in found]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(
    ("now", "found"),
    [("1943", True), ("apr l943", True), ("X 943 Y", True), ("19", False), ("SPEED", False), ("", False)],
)
def test_a_line_that_went_is_found_where_letters_in_a_row_are_still_read(
    now: str, found: bool, small: bool
) -> None:
    assert still_read(now, small=small) == [PLACE] * found


@pytest.mark.parametrize(
    "how",
    [
        {"filled": at(PLACE)},
        {"ground": at()},
        {"removed": False},
        {"meaning": Meaning.MEASUREMENT},
    ],
    ids=["all of it is filled", "not over the image area", "it stays", "it names nobody"],
)
def test_no_other_place_is_read_once_more(how: dict[str, Any]) -> None:
    assert still_read("1943", **how) == []


@pytest.mark.parametrize(
    ("found", "goes"),
    [
        ((16, 26, 124, 50), False),
        ((20, 30, 120, 46), False),
        ((20, 40, 120, 60), True),
        ((16, 26, 180, 50), True),
    ],
    ids=["a higher box of it", "its own box", "the line below", "a longer line"],
)
def test_a_find_inside_a_line_that_stays_is_that_line(found: Box, goes: bool) -> None:
    reader = SimpleNamespace(
        read=lambda *_: Line("KIM MINJUN", 0.9, legible=True), read_small=lambda *_: NOTHING_READ
    )
    nothing = at()
    plan = RemovalPlan(
        *(nothing for _ in range(5)), Waves(nothing, nothing), (), lines=(PLACE,), ground=nothing
    )
    find = Candidate(PICTURE, level_box(found, 0.9), 0.0)
    verifier = Verifier(SimpleNamespace(reader=reader), CLINICAL)
    assert verifier.is_residue(find, nothing, plan, at(PLACE)) == goes


@pytest.mark.parametrize(
    ("filled", "read"),
    [
        (at(), PLACE),
        (at((20, 30, 100, 46)), (92, 30, 120, 46)),
        (at((40, 30, 120, 46)), (20, 30, 48, 46)),
        (at((60, 30, 80, 46)), PLACE),
    ],
    ids=["nothing is filled", "its start is", "its end is", "its middle is"],
)
def test_of_a_line_only_what_is_not_filled_is_read_once_more(filled: Mask, read: Box) -> None:
    assert _not_filled(level_box(PLACE, 0.0), filled).box == read


def test_an_upright_line_is_read_whole_once_more() -> None:
    upright = level_box((30, 10, 46, 70), 0.0)
    assert _not_filled(upright, at((30, 10, 46, 40))) is upright
