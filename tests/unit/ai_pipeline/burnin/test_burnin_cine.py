"""Burned-in annotation of a cine: in whichever frame it is, it goes."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import AnnotationKind, CleaningPolicy
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.text import TextReader, shared_reader
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, burned_box, cine, silent, stacked


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return shared_reader()


def readable_frames(frames: np.ndarray, reader: TextReader) -> list[int]:
    """Numbers (from 1) of the frames in which something can be read."""
    return [
        number
        for number, frame in enumerate(np.asarray(frames), start=1)
        if any(reader.read(frame, box).legible for box in reader.find(frame))
    ]


@pytest.mark.parametrize("place", [(8, 200), (90, 120)], ids=["beside the picture", "in the tissue"])
def test_a_name_in_one_frame_only_is_found(place: tuple[int, int], reader: TextReader) -> None:
    frames = cine(12)
    frames[2] = burn(frames[2], "KIM MINJUN", place, 255, 16)
    image = ArrayImage(stacked(frames))
    assert readable_frames(image.frames[1:4], reader) == [2]
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    assert readable_frames(result.image.frames[1:4], reader) == []
    rows, columns = burned_box(cine(12)[2], frames[2])
    at_the_name = [
        mark.frame
        for mark in result.marks
        if mark.kind is AnnotationKind.TEXT and mark.box[1] < rows.stop and mark.box[3] > rows.start
        if mark.box[0] < columns.stop and mark.box[2] > columns.start
    ]
    assert set(at_the_name) == {3}


def test_standing_marks_are_removed_from_every_frame_and_nothing_else(reader: TextReader) -> None:
    frames = [burn(frame, "HOSPITAL 12:34", (8, 6), 255, 14) for frame in cine(20)]
    image = ArrayImage(stacked(frames))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    mask = np.asarray(result.mask.frames) > 0
    assert readable_frames(result.image.frames[::5], reader) == []
    assert np.array_equal(np.asarray(result.image.frames)[~mask], image.frames[~mask])
    assert [mark.frame for mark in result.marks if mark.kind is AnnotationKind.TEXT] == [1]


def test_a_clock_that_runs_is_removed(reader: TextReader) -> None:
    frames = [burn(frame, f"10:15:{second:02d}", (8, 215), 200, 14) for second, frame in enumerate(cine(18))]
    result = clean(ArrayImage(stacked(frames)), silent, policy=CleaningPolicy.RESEARCH)
    assert readable_frames(result.image.frames[::3], reader) == []


def test_a_cine_without_marks_is_unchanged(reader: TextReader) -> None:
    image = ArrayImage(stacked(cine(9)))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    assert np.array_equal(result.image.frames, image.frames)
    assert isinstance(result.image.frames, np.memmap)


def test_a_cancelled_cine_stops(reader: TextReader) -> None:
    class Cancelled(Exception):
        pass

    def cancel(share: float, what: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        clean(ArrayImage(stacked(cine(4))), cancel, policy=CleaningPolicy.RESEARCH)
