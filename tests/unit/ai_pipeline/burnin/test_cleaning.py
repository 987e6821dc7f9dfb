"""Removal: laws of its plan, what cleaning leaves, the pipeline with its device rules and commands."""

import logging
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin import pipeline as ultrasound
from ai_pipeline.burnin.cleaning import CleaningResult, clean, counted, with_filled_pixels
from ai_pipeline.burnin.decide.banner import find_by_hand
from ai_pipeline.burnin.decide.candidates import FAINT, FINEST, surroundings
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.outline import blocks, text_in_outline
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    Mark,
    Picture,
    dilated,
    mask_of,
    merged,
)
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.burnin.frames import unchanged_outside
from ai_pipeline.burnin.tools import Classical, Holes, Tools, inpaint, shared_tools
from ai_pipeline.contract import Meaning, PixelArray
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import ENCODINGS, NAME, SECRETS, told, write
from tests.unit.ai_pipeline.burnin.cleaning_lab import (
    CLINICAL,
    RESEARCH,
    SMALL,
    TEXT,
    TINY,
    WHITE,
    YELLOW,
    Sees,
    legible,
)
from tests.unit.ai_pipeline.phantoms import (
    ArrayImage,
    burn,
    cleaned,
    echo,
    flow,
    linear_echo,
    parts,
    rgb,
    silent,
    write_dicom,
)

pytestmark = pytest.mark.usefixtures("less_enlarged")


def test_nothing_that_the_pipeline_says_repeats_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    images = [open_dicom(write(ENCODINGS[name], tmp_path)) for name in ("still-jpeg-rgb", "cine-grey")]
    result = create("ultrasound").run(images, silent, {})
    assert len(result.images) == 4
    assert told("".join(one.text for one in result.readings)) != []
    said = "".join((repr(result), caplog.text, *capfd.readouterr()))
    assert [secret for secret in SECRETS if secret in said] == []


@pytest.mark.parametrize(
    ("dtype", "bits", "photometric"),
    [(np.uint16, 12, "MONOCHROME2"), (np.int16, 16, "MONOCHROME1")],
)
def test_deep_grey_is_filled_in_its_own_type(dtype: type[np.integer], bits: int, photometric: str) -> None:
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    deep = (burn(echo(size=TINY)).astype(np.int64) * (2**bits - 1) // 255 + low).astype(dtype)
    image = ArrayImage(deep[None], modality="CR", photometric=photometric, bits_stored=bits)
    result = clean(image, silent, policy=RESEARCH)
    after, mask = parts(result)
    assert (after.dtype, result.image.photometric) == (dtype, photometric)
    assert mask.any()
    assert np.array_equal(after[~mask], deep[~mask])
    assert legible(image.show(after)) == []


def test_calipers_stay_on_an_x_ray() -> None:
    below = flow(echo(size=(200, 300)))[0]
    marked = burn(burn(below, "+", (160, 120), YELLOW, 20), NAME, (10, 8), WHITE)
    image = ArrayImage(marked[None], modality="DX")
    assert {mark.kind for mark in clean(image, silent, policy=RESEARCH).marks} == {TEXT}


@pytest.mark.parametrize("by_hand", [(), ((150, 120, 210, 160),)], ids=["", "beside a box of a person"])
def test_where_text_cannot_be_got_rid_of_nothing_leaves_and_the_places_are_said(
    by_hand: tuple[Box, ...],
) -> None:
    """As if filling never helped."""
    places = [(left, top, left + 30, top + 9) for left in (10, 200) for top in range(10, 230, 20)]
    reader = Sees(Line("KIM MINJUN", 0.99, legible=True), *places)
    stubborn = replace(shared_tools(), reader=reader)
    with pytest.raises(CleaningFailed, match="still found") as failed:
        clean(ArrayImage(echo(size=SMALL)[None], removed_by_hand=by_hand), silent, tools=stubborn)
    assert failed.value.places
    assert all(0 <= x < right <= 320 and 0 <= y < low <= 240 for x, y, right, low in failed.value.places)


@pytest.mark.debian("tesseract-ocr")
def test_a_second_engine_reads_nothing_either(tmp_path: Path) -> None:
    burned = burn(burn(echo(size=(200, 300))), "ID 12345678", (12, 176), 255, 16)
    result = clean(ArrayImage(burned[None]), silent, policy=RESEARCH)
    assert "12345678" in tesseract(tmp_path / "before.png", burned)
    words = tesseract(tmp_path / "after.png", np.asarray(result.image.frames[0])).split()
    assert [word for word in words if sum(c.isalnum() for c in word) >= 3] == []


def tesseract(path: Path, picture: PixelArray) -> str:
    """What tesseract reads in the picture, enlarged twice."""
    image = Image.fromarray(np.asarray(picture))
    image.resize((image.width * 2, image.height * 2)).save(path)
    return subprocess.run(
        ["tesseract", path, "-", "--psm", "11"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_filling_keeps_type_and_every_other_pixel(dtype: type[np.generic]) -> None:
    source, filler = (echo().astype(np.float64) * 3 - 100).astype(dtype), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[100:140, 200:260] = True
    filled = inpaint(source, Holes.of(mask), filler)
    assert unchanged_outside(source, filled, mask)
    assert not np.array_equal(source, filled)
    assert not unchanged_outside(source, inpaint(source, Holes.of(~mask), filler), mask)


def test_a_hole_in_black_beside_writing_that_stays_is_black() -> None:
    source, filler = burn(np.zeros((60, 200), np.uint8), "MI 0.9", (70, 20)), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[15:45, 20:76] = True
    assert inpaint(source, Holes.of(mask), filler)[mask].max() > 20
    assert inpaint(source, Holes.of(mask), filler, source > 0)[mask].max() == 0


def test_ticks_near_each_other_are_told_as_one_ruler() -> None:
    ticks = [Mark(AnnotationKind.MARKER, (10, y, 14, y + 2), y / 100) for y in range(0, 100, 10)]
    text = Mark(AnnotationKind.TEXT, (12, 5, 40, 15), 0.9)
    assert merged([*ticks, text], 12) == (Mark(AnnotationKind.MARKER, (10, 0, 14, 92), 0.9), text)


def annotated() -> Picture:
    """A name at the top, a setting and a measurement beside the picture, two calipers in it."""
    picture = rgb(echo())
    picture = burn(picture, "KIM MINJUN 12.03.1967", (10, 8), WHITE, 18)
    picture = burn(picture, "MI 0.9", (400, 60), WHITE, 18)
    picture = burn(picture, "1 D 3.45 cm", (10, 320), YELLOW, 18)
    return burn(burn(picture, "+", (170, 160), YELLOW, 22), "+", (300, 150), YELLOW, 22)


@pytest.fixture(scope="module")
def cleaned_by() -> dict[CleaningPolicy, CleaningResult]:
    """What is left of the annotated picture."""
    image = ArrayImage(annotated()[None])
    return {policy: clean(image, silent, policy=policy) for policy in CleaningPolicy}


Cleaned = dict[CleaningPolicy, CleaningResult]


def test_clinical_takes_the_name_and_leaves_what_a_reader_needs(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CLINICAL]
    after, mask = parts(result)
    words = " ".join(legible(after))
    assert [text for text in ("KIM", "1967", "MI", "3.45") if text in words] == ["MI", "3.45"]
    said = {one.text.replace(" ", ""): (one.meaning, one.removed) for one in result.readings}
    assert said["MI0.9"] == (Meaning.ACOUSTIC, False)
    assert said["1D3.45cm"] == (Meaning.MEASUREMENT, False)
    assert not mask[140:200, 160:330].any()
    assert "kept" in {note.name for note in result.notes}


def test_research_takes_everything(cleaned_by: Cleaned) -> None:
    result = cleaned_by[RESEARCH]
    assert not any(word in " ".join(legible(parts(result)[0])) for word in ("KIM", "1967", "MI", "3.45"))
    assert all(reading.removed for reading in result.readings)


def test_what_was_read_is_not_shown_by_any_repr(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CLINICAL]
    assert any("KIM" in reading.text for reading in result.readings)
    assert "KIM" not in f"{result!r} {result.readings!r} {result.notes!r} {result.marks!r}"


def test_the_mask_does_not_spell_what_it_hides(cleaned_by: Cleaned) -> None:
    letters = burn(np.zeros((120, 400), np.uint8), "KIM MINJUN", (20, 40), 255, 26) > 100
    spelled = [
        bool(text_in_outline(mask, shared_reader()).any())
        for mask in (letters, blocks(letters), parts(cleaned_by[RESEARCH])[1])
    ]
    assert spelled == [True, False, False]


def test_a_name_that_appears_when_brighter_text_is_filled_goes_too(tmp_path: Path) -> None:
    full, black = 2**12 - 1, np.zeros((384, 640), np.uint8)
    name = burn(black, "KIM MINJUN 1970-01-02", (360, 340), 255, 24) > 100
    samples = np.zeros((384, 640, 3), np.uint16)
    samples[60:320] = (echo(size=(260, 640))[..., None] / 255 * 0.02 * full).astype(np.uint16)
    samples[burn(black, "GENERAL HOSPITAL 12.03.1970", (10, 10), 255, 34) > 100] = full
    samples[name] = int(0.02 * full)
    result = clean(
        open_dicom(write_dicom(tmp_path / "deep.dcm", samples[None], BitsStored=12, HighBit=11)), silent
    )
    assert result.image.verified
    assert parts(result)[1][name].mean() > 0.99


@pytest.mark.parametrize(("scale", "reach"), [(FINEST, 64), (FAINT, 107)], ids=["finest", "faint"])
def test_what_changed_is_read_again_with_what_is_around_it(scale: float, reach: int) -> None:
    changed = np.zeros((768, 1024), np.bool_)
    changed[384, 512] = True
    assert list(surroundings(changed, scale)) == [(512 - reach, 384 - reach, 513 + reach, 385 + reach)]


def test_a_row_and_a_column_of_text_are_searched_apart() -> None:
    changed = np.zeros((768, 1024), np.bool_)
    changed[10:30, 10:1000] = True
    changed[10:700, 980:1000] = True
    changed[30:120, 980:1000] = False
    row, column = surroundings(changed, FINEST)
    assert row == (0, 0, 1024, 94)
    assert column == (916, 56, 1024, 764)


def test_the_surroundings_hold_all_that_changed_however_many_places() -> None:
    changed = np.random.default_rng(3).random((400, 600)) > 0.999
    seen = mask_of(surroundings(changed, FINEST), changed.shape)
    assert seen[changed].all()


def test_the_pipeline_takes_the_option(unsure: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasound, "shared_tools", lambda *_: unsure)
    run = partial(create("ultrasound").run, [ArrayImage(linear_echo()[None])], silent)
    boxed = run({"in_doubt": "box"})
    assert "in_doubt" not in {one.name for one in boxed.quality}
    assert boxed.images[1].frames[0][np.s_[150:166, 200:270]].all()
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        run({"in_doubt": "withhold"})
    assert failed.value.places


@pytest.mark.parametrize("size", [14, 26])
def test_a_name_over_tissue_goes_by_its_strokes_and_neither_it_nor_its_mask_can_be_read(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size == 14:
        monkeypatch.undo()  # over tissue letters of 14 pixels have to be enlarged as a node enlarges them
    picture = linear_echo()
    burned = burn(picture, "KIM MINJUN", (150, 150), 255, size)
    cleaned, mask = parts(result := clean(ArrayImage(burned[None]), silent))
    changed = cleaned != burned
    assert changed[np.abs(burned.astype(int) - picture) > 60].mean() > 0.95
    assert not (changed & ~dilated(burned != picture, 9)).any()  # tissue beside the strokes is as it was
    assert mask[changed].all()
    assert "in_doubt" not in {note.name for note in result.notes}
    assert legible(burned, 2)
    assert not legible(cleaned, 2)
    assert not any(legible(np.where(shown, 255, 0).astype(np.uint8), 2) for shown in (mask, ~mask))


@pytest.mark.parametrize(("words", "turns"), [("27 Apr 1984", 1), ("82460173", 3)])
def test_an_upright_line_over_tissue_goes_whole(words: str, turns: int) -> None:
    level = burn(np.rot90(linear_echo(), turns).copy(), words, (100, 150), 230, 20)
    after, _ = cleaned(np.rot90(level, -turns).copy())
    place = level_box((90, 145, 260, 178), 1.0)
    assert shared_reader().read(level, place).letters >= 8
    assert shared_reader().read(np.rot90(after, turns).copy(), place).letters < 3


def test_boxes_over_half_of_the_picture_are_refused_and_clipped_to_it() -> None:
    picture = echo(3, SMALL)
    beyond, most = (
        ArrayImage(picture[None], removed_by_hand=(box,)).header
        for box in ((300, 200, 999, 999), (0, 0, 320, 144))
    )
    mask, marks = find_by_hand(beyond, picture)
    assert marks[0].box == (300, 200, 320, 240)
    assert mask.sum() == 20 * 40
    with pytest.raises(CleaningFailed, match="cover 60% of the picture"):
        find_by_hand(most, picture)


def test_a_mark_without_a_filled_pixel_was_not_removed() -> None:
    removed, elsewhere = (Mark(AnnotationKind.BANNER, box, 1.0) for box in ((0, 0, 10, 10), (20, 20, 30, 30)))
    kept = replace(elsewhere, removed=False)
    filled = np.zeros((40, 40), np.bool_)
    filled[9, 9] = True
    assert with_filled_pixels([removed, elsewhere, kept], filled) == [removed, kept]


def test_a_logo_that_is_text_and_one_that_is_not_are_counted_once_as_two() -> None:
    box = (0, 0, 9, 9)
    written = Mark(AnnotationKind.TEXT, box, 0.9, contents=("logo",))
    drawn = Mark(AnnotationKind.LOGO, box, 0.9)
    assert counted([written, drawn]) == "2 logos"
