"""What goes and what stays: by policy, by meaning, and never as letters in the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import Annotation, AnnotationKind, CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.lesion_extent import measured_area
from ai_pipeline.burnin.decide.mask_shape import blocks, text_in_outline
from ai_pipeline.burnin.find.text import TextReader, shared_reader
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, stacked


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return shared_reader()


def annotated() -> Picture:
    """A name at the top, a setting and a measurement beside the picture, two calipers in it."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture = burn(picture, "KIM MINJUN 12.03.1967", (10, 8), (255, 255, 255), 18)
    picture = burn(picture, "MI 0.9", (400, 60), (255, 255, 255), 18)
    picture = burn(picture, "1 D 3.45 cm", (10, 320), (255, 230, 0), 18)
    picture = burn(picture, "+", (170, 160), (255, 230, 0), 22)
    return burn(picture, "+", (300, 150), (255, 230, 0), 22)


def said(result: CleaningResult) -> dict[str, tuple[Meaning, bool]]:
    return {reading.text.replace(" ", ""): (reading.meaning, reading.removed) for reading in result.readings}


def words(picture: Picture, reader: TextReader) -> str:
    return " ".join(reader.read(picture, box).text for box in reader.find(picture))


def test_clinical_takes_the_name_and_leaves_what_a_reader_needs(reader: TextReader) -> None:
    image = ArrayImage(annotated()[None], photometric="RGB")
    result = clean(image, silent)
    after = words(np.asarray(result.image.frames[0]), reader)
    assert "KIM" not in after
    assert "1967" not in after
    assert "MI" in after
    assert "3.45" in after
    assert said(result)["MI0.9"] == (Meaning.ACOUSTIC, False)
    assert said(result)["1D3.45cm"] == (Meaning.MEASUREMENT, False)
    assert not (result.mask.frames[0][140:200, 160:330] > 0).any()
    assert "kept" in {note.name for note in result.notes}


def test_research_takes_everything(reader: TextReader) -> None:
    image = ArrayImage(annotated()[None], photometric="RGB")
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    after = words(np.asarray(result.image.frames[0]), reader)
    assert not any(word in after for word in ("KIM", "1967", "MI", "3.45"))
    assert all(reading.removed for reading in result.readings)


def test_a_measured_line_that_looks_like_a_word_stays() -> None:
    picture = np.repeat((echo() // 8)[..., None], 3, axis=2)
    before = picture.copy()
    for x, y in ((200, 230), (246, 243)):
        cv2.drawMarker(picture, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 11, 2)
    for share in np.linspace(0.2, 0.8, 8):
        x, y = round(200 + 46 * share), round(230 + 13 * share)
        picture[y, x : x + 3] = 255
    measured = (picture != before).any(axis=2)
    result = clean(
        ArrayImage(burn(picture, "KIM MINJUN", (10, 8), (255, 255, 255), 18)[None], photometric="RGB"), silent
    )
    assert not ((result.mask.frames[0] > 0) & measured).any()
    assert (result.mask.frames[0] > 0).any()


def test_a_setting_that_stays_in_a_cine_stays_only_while_it_says_the_same(reader: TextReader) -> None:
    frames = [burn(frame, "MI 0.9", (8, 6), 255, 18) for frame in cine(20)]
    frames[18] = burn(cine(20)[18], "KIM MINJUN", (8, 6), 255, 18)
    result = clean(ArrayImage(stacked(frames)), silent)
    assert "KIM" not in words(np.asarray(result.image.frames[18]), reader)
    assert "MI" in words(np.asarray(result.image.frames[2]), reader)


def test_what_was_read_is_not_shown_by_any_repr() -> None:
    result = clean(ArrayImage(annotated()[None], photometric="RGB"), silent)
    assert any("KIM" in reading.text for reading in result.readings)
    assert "KIM" not in f"{result!r} {result.readings!r} {result.notes!r} {result.marks!r}"


def test_the_mask_does_not_spell_what_it_hides(reader: TextReader) -> None:
    letters = burn(np.zeros((120, 400), np.uint8), "KIM MINJUN", (20, 40), 255, 26) > 100
    assert text_in_outline(letters, reader).any()
    assert not text_in_outline(blocks(letters), reader).any()
    result = clean(ArrayImage(annotated()[None], photometric="RGB"), silent, policy=CleaningPolicy.RESEARCH)
    assert not text_in_outline(np.asarray(result.mask.frames[0]) > 0, reader).any()


def test_calipers_say_where_the_lesion_is() -> None:
    ends = [Annotation(AnnotationKind.CALIPER, (x, y, x + 12, y + 14), 0.9) for x, y in ((14, 44), (74, 44))]
    area = measured_area(ends, (100, 100))
    assert area[52, 50]
    assert not area[5, 5]
    assert 0.2 < area.mean() < 0.35
    assert not measured_area(ends[:1], (100, 100)).any()


@pytest.mark.parametrize(("width", "height"), [(6, 6), (9, 7), (9, 436), (12, 60)])
def test_ticks_and_rulers_measure_no_lesion(width: int, height: int) -> None:
    places = ((20, 10), (80, 10), (50, 20))
    ticks = [Annotation(AnnotationKind.CALIPER, (x, y, x + width, y + height), 0.9) for x, y in places]

    assert not measured_area(ticks, (500, 500)).any()


def test_a_filled_caliper_is_a_caution() -> None:
    result = clean(ArrayImage(annotated()[None], photometric="RGB"), silent, policy=CleaningPolicy.RESEARCH)
    assert "over_lesion" in {note.name for note in result.notes}
    assert "over_lesion" not in {note.name for note in clean(ArrayImage(echo()[None]), silent).notes}
