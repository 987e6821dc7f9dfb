"""Settings are read once; a name is read every time and never kept; pictures are cleaned alike either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.meaning import is_setting
from ai_pipeline.burnin.find import read_lines
from ai_pipeline.burnin.find.read_lines import Line, LineMemory
from ai_pipeline.burnin.tools import Tools, shared_tools
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, silent

SETTINGS = ("2D 64%", "C 50", "MI 1.2", "Gn -2")
NAMES = ("KIM MINJUN 09.03.1967", "KOWALSKA MARIA", "Dr. Schmidt")


class Network:
    """Answers with one line and counts the questions."""

    def __init__(self, text: str, confidence: float = 0.99) -> None:
        self.line, self.asked = Line(text, confidence, legible=True), 0

    def __call__(self, crop: Picture, least: int) -> Line:
        self.asked += 1
        return self.line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def crop(seed: int = 0, width: int = 80) -> Picture:
    return np.random.default_rng(seed).integers(0, 255, (16, width, 3), np.uint8)


@pytest.mark.parametrize("setting", ["MI 1.2", "60°/28Hz", "Voluson"])
def test_a_setting_is_read_once(setting: str) -> None:
    memory, network = LineMemory(is_setting), Network(setting)
    lines = [memory.line(crop(), 1, network) for _ in range(3)]
    assert lines == [network.line] * 3
    assert network.asked == 1


@pytest.mark.parametrize(
    "text", ["KOWALSKA", "09.03.1967", "48271935", "10:15:33", "Dist 3.3 cm", "LT", "12", "45Y", "MI 1.2 KIM"]
)
def test_of_what_may_be_of_a_patient_nothing_is_kept(text: str) -> None:
    memory, network = LineMemory(is_setting), Network(text)
    assert [memory.line(crop(), 1, network).text for _ in range(2)] == [text, text]
    assert (network.asked, len(memory)) == (2, 0)


def test_of_a_line_that_was_read_in_part_nothing_is_kept() -> None:
    memory, network = LineMemory(is_setting), Network("MI 1.2")
    memory.line(crop(width=400), 1, network)
    assert len(memory) == 0


def test_one_changed_pixel_or_another_demand_is_read_anew() -> None:
    memory, network = LineMemory(is_setting), Network("MI 1.2")
    other = crop()
    other[3, 5, 1] ^= 1
    turned = np.ascontiguousarray(crop().reshape(80, 16, 3))
    for pixels, least in ((crop(), 1), (other, 1), (crop(), 3), (turned, 1)):
        memory.line(pixels, least, network)
    assert network.asked == 4


def test_no_more_lines_are_kept_than_the_limit_and_the_longest_unused_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_lines, "MOST_LINES", 5)
    memory, network = LineMemory(is_setting), Network("MI 1.2")
    for seed in (0, 1, 2, 3, 4, 0, 5):
        memory.line(crop(seed), 1, network)
    assert (len(memory), network.asked) == (5, 6)
    memory.line(crop(0), 1, network)
    assert network.asked == 6
    memory.line(crop(1), 1, network)
    assert network.asked == 7


def test_a_line_is_read_again_after_its_time_however_often_it_was_needed() -> None:
    clock = Clock()
    memory, network = LineMemory(is_setting, clock=clock), Network("MI 1.2")
    for clock.now in (0.0, 2000.0, 3500.0, 3700.0, 3800.0):
        memory.line(crop(), 1, network)
    assert network.asked == 2


def device_picture(number: int, settings: tuple[str, ...] = SETTINGS) -> Picture:
    """A picture of one device: its settings at their places, another patient's name and other tissue."""
    picture = np.repeat(echo(number)[..., None], 3, axis=2)
    picture = burn(picture, NAMES[number % len(NAMES)], (10, 8), (255, 255, 255), 18)
    for row, text in enumerate(settings):
        picture = burn(picture, text, (8, 120 + 30 * row), (255, 255, 255), 16)
    return picture


def cleaned(picture: Picture, tools: Tools) -> CleaningResult:
    return clean(ArrayImage(picture[None], photometric="RGB"), silent, tools=tools)


def without_memory() -> Tools:
    tools = shared_tools()
    reader = tools.reader.remembering(LineMemory(is_setting))
    reader.memory = None
    return replace(tools, reader=reader)


def assert_alike(pictures: list[Picture], kept: int) -> CleaningResult:
    """Return what the last one became."""
    tools = shared_tools()
    memory = LineMemory(is_setting)
    remembering, plain = replace(tools, reader=tools.reader.remembering(memory)), without_memory()
    for picture in pictures:
        one, other = cleaned(picture, remembering), cleaned(picture, plain)
        assert np.array_equal(one.image.frames, other.image.frames)
        assert np.array_equal(one.mask.frames, other.mask.frames)
        assert (one.marks, one.notes, one.readings) == (other.marks, other.notes, other.readings)
    assert len(memory) >= kept
    return one


def test_pictures_of_one_device_are_cleaned_alike_with_and_without_and_a_name_in_a_settings_place_goes() -> (
    None
):
    named = (SETTINGS[0], "HANSEN", *SETTINGS[2:])
    last = assert_alike([device_picture(0), device_picture(1), device_picture(2, named)], kept=2)
    fates = {reading.text: reading.removed for reading in last.readings}
    assert fates["HANSEN"]
    assert not fates["MI 1.2"]


def test_real_pictures_of_one_device_are_cleaned_alike_with_and_without(data: Path) -> None:
    file = data / "us_fetal_planes" / "images" / "Patient01002_Plane3_2_of_3.jpg"  # of the split train
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    settings = cv2.imread(str(file))[:330, 640:, ::-1]
    pictures = [burn(np.ascontiguousarray(settings), name, (10, 300), (255, 255, 255), 18) for name in NAMES]
    assert_alike(pictures[:2], kept=1)
