"""In the image area a name goes by its strokes only, and what nobody can read stays and is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.burnin import pipeline as ultrasound
from ai_pipeline.burnin.annotation.kinds import InDoubt
from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture, dilated
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.writing import NOTHING_READ, level_box
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.contract import PipelineResult
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, linear_echo, silent, stacked

PLACE: Box = (200, 150, 270, 166)
INSIDE = np.s_[150:166, 200:270]
NAME = "KIM MINJUN"


class SeesLetters(TextReader):
    """Takes one place on tissue for text, as its shape says, and can read nothing in it."""

    def __init__(self) -> None:
        """Without the networks."""

    def find(self, picture: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
        return [level_box(PLACE, 0.9)]

    def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
        return NOTHING_READ


@pytest.fixture
def tools() -> Tools:
    return replace(shared_tools(), reader=SeesLetters())


def parts(result: CleaningResult) -> tuple[Picture, Mask]:
    return np.asarray(result.image.frames[0]), np.asarray(result.mask.frames[0]) > 0


def test_what_nobody_can_read_stays_and_is_listed(tools: Tools) -> None:
    picture = linear_echo()
    result = clean(ArrayImage(picture[None]), silent, tools=tools)
    assert np.array_equal(parts(result)[0], picture) and not parts(result)[1].any()
    (note,) = [note for note in result.notes if note.name == "in_doubt"]
    ((left, top, right, bottom),) = note.places
    assert left <= 200 and top <= 150 and right >= 270 and bottom >= 166 and right - left < 90


def test_it_is_listed_once_for_a_cine(tools: Tools) -> None:
    frames = stacked([linear_echo(seed) for seed in (1, 2, 3)])
    result = clean(ArrayImage(frames), silent, tools=tools)
    assert np.array_equal(np.asarray(result.image.frames), frames)
    assert len([note for note in result.notes if note.name == "in_doubt"]) == 1


def test_box_fills_it_whole(tools: Tools) -> None:
    picture = linear_echo()
    result = clean(ArrayImage(picture[None]), silent, tools=tools, in_doubt=InDoubt.BOX)
    cleaned, mask = parts(result)
    assert mask[INSIDE].all() and (cleaned != picture)[INSIDE].mean() > 0.5
    assert "in_doubt" not in {note.name for note in result.notes}


def test_withhold_hands_back_no_picture_and_says_where(tools: Tools) -> None:
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        clean(ArrayImage(linear_echo()[None]), silent, tools=tools, in_doubt=InDoubt.WITHHOLD)
    assert failed.value.places


@pytest.mark.parametrize(
    ("options", "note"), [({}, "in_doubt"), ({"in_doubt": "keep"}, "in_doubt"), ({"in_doubt": "box"}, "")]
)
def test_the_pipeline_takes_the_option(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, options: Mapping[str, object], note: str
) -> None:
    def run(options: Mapping[str, object]) -> PipelineResult:
        return create("ultrasound").run([ArrayImage(linear_echo()[None])], silent, options)

    monkeypatch.setattr(ultrasound, "shared_tools", lambda *_: tools)
    assert ("in_doubt" in {one.name for one in run(options).quality}) == bool(note)
    with pytest.raises(CleaningFailed, match="may hold letters"):
        run({"in_doubt": "withhold"})


def test_a_misspelt_choice_is_a_fault() -> None:
    faults = create("ultrasound").card.options.faults({"in_doubt": "keeep"})
    assert faults == {"in_doubt": "must be one of keep, box, withhold"}


@pytest.mark.parametrize("size", [14, 18, 26])
def test_a_name_over_tissue_goes_by_its_strokes_and_cannot_be_read(size: int) -> None:
    picture = linear_echo()
    burned = burn(picture, NAME, (150, 150), 255, size)
    ink = burned != picture
    cleaned, mask = parts(result := clean(ArrayImage(burned[None]), silent))
    changed = cleaned != burned
    assert changed[np.abs(burned.astype(int) - picture) > 60].mean() > 0.95
    assert not (changed & ~dilated(ink, 9)).any()  # tissue beside the strokes is as it was
    whole = parts(clean(ArrayImage(burned[None]), silent, in_doubt=InDoubt.BOX))[0] != burned
    assert changed.sum() < 0.8 * whole.sum() and mask[changed].all()
    reader = shared_reader()
    assert legible(burned, reader) and not legible(cleaned, reader)
    assert "in_doubt" not in {note.name for note in result.notes}


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("words", ["27 Apr 1984", "82460173"])
def test_an_upright_line_over_tissue_goes_whole(words: str, turns: int) -> None:
    level = burn(np.rot90(linear_echo(), turns).copy(), words, (100, 150), 230, 20)
    upright = np.rot90(level, -turns).copy()
    cleaned = parts(clean(ArrayImage(upright[None]), silent))[0]
    place = level_box((90, 145, 260, 178), 1.0)
    reader = shared_reader()
    assert reader.read(level, place).letters >= 8
    assert reader.read(np.rot90(cleaned, turns).copy(), place).letters < 3


def test_a_single_letter_names_nobody(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.reader, "read", lambda *_: Line("M", 0.97, legible=True))
    result = clean(ArrayImage(linear_echo()[None]), silent, tools=tools, in_doubt=InDoubt.WITHHOLD)
    assert "in_doubt" not in {note.name for note in result.notes}


@pytest.mark.parametrize("place", [(150, 150), (60, 150), (10, 8)])
def test_the_mask_that_is_handed_back_does_not_spell_the_name(place: tuple[int, int]) -> None:
    burned = burn(linear_echo(), NAME, place, 255, 22)
    cleaned, mask = parts(clean(ArrayImage(burned[None]), silent))
    assert mask[cleaned != burned].all()
    for shown in (mask, ~mask):
        assert not legible(np.where(shown, 255, 0).astype(np.uint8), shared_reader())


def legible(picture: Picture, reader: TextReader) -> list[str]:
    """The texts of two letters and more that rapidocr reads, at two sizes."""
    lines = [reader.read(picture, box, 2) for scale in (1.0, 0.7) for box in reader.find(picture, scale)]
    return [line.text for line in lines if line.legible]
