"""What cleaning leaves: the name is gone or nothing leaves, and nothing else changes."""

import hashlib
import subprocess
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin import frames as cines
from ai_pipeline.burnin import pipeline as ultrasound
from ai_pipeline.burnin.cleaning import CleaningResult, clean, measured_area
from ai_pipeline.burnin.decide.banner import find_by_hand
from ai_pipeline.burnin.decide.writing import (
    FAINT,
    FINEST,
    NOTHING_READ,
    blocks,
    level_box,
    surroundings,
    text_in_outline,
)
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    Mark,
    Picture,
    dilated,
    merged,
)
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.frames import OutsideDigest, unchanged_outside
from ai_pipeline.burnin.tools import Classical, Tools, inpaint, shared_tools
from ai_pipeline.contract import Meaning, PixelArray
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import (
    NAME,
    ArrayImage,
    burn,
    cine,
    echo,
    flow,
    linear_echo,
    parts,
    silent,
    write_dicom,
)


SMALL, TINY = (240, 320), (160, 240)


def legible(picture: Picture, least: int = 1) -> list[str]:
    """The texts of so many letters and more that rapidocr reads, at two sizes."""
    reader = shared_reader()
    places = [box for scale in (1.0, 0.7) for box in reader.find(picture, scale)]
    return [line.text for box in places if (line := reader.read(picture, box, least)).legible]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("dtype", "bits", "photometric"),
    [(np.uint16, 12, "MONOCHROME2"), (np.int16, 16, "MONOCHROME1")],
)
def test_deep_grey_is_filled_in_its_own_type(dtype: type[np.integer], bits: int, photometric: str) -> None:
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    deep = (burn(echo(size=TINY)).astype(np.int64) * (2**bits - 1) // 255 + low).astype(dtype)
    image = ArrayImage(deep[None], modality="CR", photometric=photometric, bits_stored=bits)
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    after, mask = parts(result)
    assert (after.dtype, result.image.photometric) == (dtype, photometric)
    assert mask.any() and np.array_equal(after[~mask], deep[~mask]) and legible(image.show(after)) == []


@pytest.mark.usefixtures("less_enlarged")
def test_calipers_stay_on_an_x_ray() -> None:
    below = flow(echo(size=(200, 300)))[0]
    marked = burn(burn(below, "+", (160, 120), (255, 230, 0), 20), NAME, (10, 8), (255, 255, 255))
    image = ArrayImage(marked[None], modality="DX", photometric="RGB")
    marks = clean(image, silent, policy=CleaningPolicy.RESEARCH).marks
    assert {mark.kind for mark in marks} == {AnnotationKind.TEXT}


class Sees(TextReader):
    """Takes a place for text, another one of these each time, and reads this line in it."""

    def __init__(self, line: Line, *places: Box) -> None:
        self.line, self.places = line, cycle(places)

    def find(self, picture: Picture, scale: float = 1.0, within: object = None) -> list[TextBox]:
        return [level_box(next(self.places), 0.9)]

    def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
        return self.line


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("by_hand", [(), ((150, 120, 210, 160),)], ids=["", "beside a box of a person"])
def test_where_text_cannot_be_got_rid_of_nothing_leaves_and_the_places_are_said(
    by_hand: tuple[Box, ...],
) -> None:
    """As if filling never helped."""
    name = Line("KIM MINJUN", 0.99, legible=True)
    reader = Sees(name, *((10, top, 60, top + 9) for top in range(10, 230, 20)))
    stubborn = replace(shared_tools(), reader=reader)
    with pytest.raises(CleaningFailed, match="still found") as failed:
        clean(ArrayImage(echo(size=SMALL)[None], removed_by_hand=by_hand), silent, tools=stubborn)
    assert failed.value.places
    assert all(0 <= x < right <= 320 and 0 <= y < low <= 240 for x, y, right, low in failed.value.places)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.debian("tesseract-ocr")
def test_a_second_engine_reads_nothing_either(tmp_path: Path) -> None:
    burned = burn(burn(echo(size=(200, 300))), "ID 12345678", (12, 176), 255, 16)
    result = clean(ArrayImage(burned[None]), silent, policy=CleaningPolicy.RESEARCH)
    assert "12345678" in tesseract(tmp_path / "before.png", burned)
    words = tesseract(tmp_path / "after.png", np.asarray(result.image.frames[0])).split()
    assert [word for word in words if sum(c.isalnum() for c in word) >= 3] == []


def tesseract(path: Path, picture: PixelArray) -> str:
    """What tesseract reads in the picture, enlarged twice."""
    image = Image.fromarray(np.asarray(picture))
    image.resize((image.width * 2, image.height * 2)).save(path)
    command = ["tesseract", path, "-", "--psm", "11"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_filling_keeps_type_and_every_other_pixel(dtype: type[np.generic]) -> None:
    source, filler = (echo().astype(np.float64) * 3 - 100).astype(dtype), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[100:140, 200:260] = True
    filled = inpaint(source, mask, filler)
    assert unchanged_outside(source, filled, mask) and not np.array_equal(source, filled)
    assert not unchanged_outside(source, inpaint(source, ~mask, filler), mask)


@pytest.mark.usefixtures("less_enlarged")
def test_a_hole_in_black_beside_writing_that_stays_is_black() -> None:
    source, filler = burn(np.zeros((60, 200), np.uint8), "MI 0.9", (70, 20)), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[15:45, 20:76] = True
    assert inpaint(source, mask, filler)[mask].max() > 20
    assert inpaint(source, mask, filler, source > 0)[mask].max() == 0


@pytest.mark.usefixtures("less_enlarged")
def test_ticks_near_each_other_are_told_as_one_ruler() -> None:
    ticks = [Mark(AnnotationKind.MARKER, (10, y, 14, y + 2), y / 100) for y in range(0, 100, 10)]
    text = Mark(AnnotationKind.TEXT, (12, 5, 40, 15), 0.9)
    assert merged([*ticks, text], 12) == (Mark(AnnotationKind.MARKER, (10, 0, 14, 92), 0.9), text)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cines, "WINDOW", 4)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
def test_standing_marks_and_a_name_in_one_frame_are_removed_and_nothing_else() -> None:
    frames = [burn(frame, "HOSPITAL 12:34", (8, 6), 255, 14) for frame in cine(5, size=TINY)]
    frames[1] = burn(frames[1], "KIM MINJUN", (8, 130), 255, 16)
    image = ArrayImage(np.stack(frames))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    after, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert [legible(after[index]) for index in (1, 4)] == [[], []]
    assert np.array_equal(after[~mask], image.frames[~mask])
    told = {(mark.frame, mark.box[1] > 110) for mark in result.marks if mark.kind is AnnotationKind.TEXT}
    assert told == {(1, False), (2, True)}


@pytest.mark.usefixtures("less_enlarged")
def test_a_cine_without_marks_is_unchanged() -> None:
    image = ArrayImage(np.stack(cine(3, size=TINY)))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    assert np.array_equal(result.image.frames, image.frames) and isinstance(result.image.frames, np.memmap)


@pytest.mark.usefixtures("less_enlarged")
def test_a_cancelled_cine_stops() -> None:
    cancel = Mock(side_effect=InterruptedError)
    with pytest.raises(InterruptedError):
        clean(ArrayImage(np.stack(cine(2, size=TINY))), cancel, policy=CleaningPolicy.RESEARCH)


def annotated() -> Picture:
    """A name at the top, a setting and a measurement beside the picture, two calipers in it."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture = burn(picture, "KIM MINJUN 12.03.1967", (10, 8), (255, 255, 255), 18)
    picture = burn(picture, "MI 0.9", (400, 60), (255, 255, 255), 18)
    picture = burn(picture, "1 D 3.45 cm", (10, 320), (255, 230, 0), 18)
    picture = burn(picture, "+", (170, 160), (255, 230, 0), 22)
    return burn(picture, "+", (300, 150), (255, 230, 0), 22)


@pytest.fixture(scope="module")
def cleaned_by() -> dict[CleaningPolicy, CleaningResult]:
    """What is left of the annotated picture."""
    image = ArrayImage(annotated()[None], photometric="RGB")
    return {policy: clean(image, silent, policy=policy) for policy in CleaningPolicy}


Cleaned = dict[CleaningPolicy, CleaningResult]


@pytest.mark.usefixtures("less_enlarged")
def test_clinical_takes_the_name_and_leaves_what_a_reader_needs(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CleaningPolicy.CLINICAL]
    after, mask = parts(result)
    words = " ".join(legible(after))
    assert [text for text in ("KIM", "1967", "MI", "3.45") if text in words] == ["MI", "3.45"]
    said = {one.text.replace(" ", ""): (one.meaning, one.removed) for one in result.readings}
    assert said["MI0.9"] == (Meaning.ACOUSTIC, False) and said["1D3.45cm"] == (Meaning.MEASUREMENT, False)
    assert not mask[140:200, 160:330].any() and "kept" in {note.name for note in result.notes}


@pytest.mark.usefixtures("less_enlarged")
def test_research_takes_everything_and_says_that_a_filled_caliper_is_over_the_lesion(
    cleaned_by: Cleaned,
) -> None:
    result = cleaned_by[CleaningPolicy.RESEARCH]
    words = " ".join(legible(parts(result)[0]))
    assert not any(word in words for word in ("KIM", "1967", "MI", "3.45"))
    assert all(reading.removed for reading in result.readings)
    noted = {policy: {note.name for note in one.notes} for policy, one in cleaned_by.items()}
    assert [policy for policy in noted if "over_lesion" in noted[policy]] == [CleaningPolicy.RESEARCH]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
def test_a_setting_that_stays_in_a_cine_stays_only_while_it_says_the_same() -> None:
    frames = [burn(frame, "MI 0.9", (8, 6), 255, 18) for frame in cine(6, size=TINY)]
    frames[4] = burn(cine(6, size=TINY)[4], "KIM MINJUN", (8, 6), 255, 18)
    after = clean(ArrayImage(np.stack(frames)), silent).image.frames
    assert "KIM" not in " ".join(legible(np.asarray(after[4])))
    assert "MI" in " ".join(legible(np.asarray(after[2])))


@pytest.mark.usefixtures("less_enlarged")
def test_what_was_read_is_not_shown_by_any_repr(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CleaningPolicy.CLINICAL]
    assert any("KIM" in reading.text for reading in result.readings)
    assert "KIM" not in f"{result!r} {result.readings!r} {result.notes!r} {result.marks!r}"


@pytest.mark.usefixtures("less_enlarged")
def test_the_mask_does_not_spell_what_it_hides(cleaned_by: Cleaned) -> None:
    letters = burn(np.zeros((120, 400), np.uint8), "KIM MINJUN", (20, 40), 255, 26) > 100
    masks = (letters, blocks(letters), parts(cleaned_by[CleaningPolicy.RESEARCH])[1])
    assert [bool(text_in_outline(mask, shared_reader()).any()) for mask in masks] == [True, False, False]


@pytest.mark.usefixtures("less_enlarged")
def test_calipers_say_where_the_lesion_is() -> None:
    ends = [Mark(AnnotationKind.CALIPER, (x, y, x + 12, y + 14), 0.9) for x, y in ((14, 44), (74, 44))]
    area = measured_area(ends, (100, 100))
    assert area[52, 50] and not area[5, 5] and 0.2 < area.mean() < 0.35
    assert not measured_area(ends[:1], (100, 100)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("width", "height"), [(6, 6), (9, 7), (9, 436), (12, 60)])
def test_ticks_and_rulers_measure_no_lesion(width: int, height: int) -> None:
    places = ((20, 10), (80, 10), (50, 20))
    ticks = [Mark(AnnotationKind.CALIPER, (x, y, x + width, y + height), 0.9) for x, y in places]

    assert not measured_area(ticks, (500, 500)).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_that_appears_when_brighter_text_is_filled_goes_too(tmp_path: Path) -> None:
    full, black = 2**12 - 1, np.zeros((384, 640), np.uint8)
    name = burn(black, "KIM MINJUN 1970-01-02", (360, 340), 255, 24) > 100
    samples = np.zeros((384, 640, 3), np.uint16)
    samples[60:320] = (echo(size=(260, 640))[..., None] / 255 * 0.02 * full).astype(np.uint16)
    samples[burn(black, "GENERAL HOSPITAL 12.03.1970", (10, 10), 255, 34) > 100] = full
    samples[name] = int(0.02 * full)
    path = write_dicom(tmp_path / "deep.dcm", samples[None], BitsStored=12, HighBit=11)
    result = clean(open_dicom(path), silent)
    assert result.image.verified and parts(result)[1][name].mean() > 0.99


@pytest.mark.usefixtures("less_enlarged")
def test_with_enhanced_contrast_all_is_read_again_that_a_change_shows_otherwise() -> None:
    changed = np.zeros((768, 1024), np.bool_)
    changed[384, 512] = True
    assert list(surroundings(changed, FAINT)) == [(512 - 192, 384 - 192, 512 + 193, 384 + 193)]
    [(left, top, right, bottom)] = surroundings(changed, FINEST)
    assert right - left == bottom - top == 129


@pytest.fixture
def tools() -> Tools:
    """One place on tissue looks like text, and nothing can be read in it."""
    return replace(shared_tools(), reader=Sees(NOTHING_READ, (200, 150, 270, 166)))


@pytest.mark.usefixtures("less_enlarged")
def test_what_nobody_can_read_stays_and_is_listed_once_for_a_cine(tools: Tools) -> None:
    frames = np.stack([linear_echo(seed) for seed in (1, 2, 3)])
    for shown in (frames[:1], frames):
        result = clean(ArrayImage(shown), silent, tools=tools)
        assert np.array_equal(np.asarray(result.image.frames), shown) and not parts(result)[1].any()
        (((left, top, right, bottom),),) = [note.places for note in result.notes if note.name == "in_doubt"]
        assert left <= 200 and top <= 150 and right >= 270 and bottom >= 166 and right - left < 90


@pytest.mark.usefixtures("less_enlarged")
def test_the_pipeline_takes_the_option(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasound, "shared_tools", lambda *_: tools)
    run = partial(create("ultrasound").run, [ArrayImage(linear_echo()[None])], silent)
    boxed = run({"in_doubt": "box"})
    assert (
        "in_doubt" not in {one.name for one in boxed.quality}
        and boxed.images[1].frames[0][np.s_[150:166, 200:270]].all()
    )
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        run({"in_doubt": "withhold"})
    assert failed.value.places


@pytest.mark.usefixtures("less_enlarged")
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
    assert mask[changed].all() and "in_doubt" not in {note.name for note in result.notes}
    assert legible(burned, 2) and not legible(cleaned, 2)
    assert not any(legible(np.where(shown, 255, 0).astype(np.uint8), 2) for shown in (mask, ~mask))


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("words", "turns"), [("27 Apr 1984", 1), ("82460173", 3)])
def test_an_upright_line_over_tissue_goes_whole(words: str, turns: int) -> None:
    level = burn(np.rot90(linear_echo(), turns).copy(), words, (100, 150), 230, 20)
    cleaned = parts(clean(ArrayImage(np.rot90(level, -turns).copy()[None]), silent))[0]
    place = level_box((90, 145, 260, 178), 1.0)
    assert shared_reader().read(level, place).letters >= 8
    assert shared_reader().read(np.rot90(cleaned, turns).copy(), place).letters < 3


@pytest.mark.usefixtures("less_enlarged")
def test_a_box_of_a_person_is_black_in_every_frame_and_the_rest_is_as_without_it() -> None:
    burned = np.stack([burn(frame, size=16) for frame in cine(2, 3, TINY)])
    for frames in (burned[:1], burned):
        drawn = clean(ArrayImage(frames, removed_by_hand=((100, 80, 160, 120),)), silent)
        cleaned, mask = np.asarray(drawn.image.frames), np.asarray(drawn.mask.frames) > 0
        assert drawn.image.verified and "by_hand" in {note.name for note in drawn.notes}
        assert not cleaned[:, 80:120, 100:160].any() and mask[:, 80:120, 100:160].all()
        assert np.array_equal(cleaned[~mask], frames[~mask])
    _, plain = parts(clean(ArrayImage(burned[:1]), silent))
    assert (mask[0] | ~plain).all(), "what is found without a person goes as well"


@pytest.mark.usefixtures("less_enlarged")
def test_boxes_over_half_of_the_picture_are_refused_and_clipped_to_it() -> None:
    picture = echo(3, SMALL)
    beyond, most = (
        ArrayImage(picture[None], removed_by_hand=(box,)).header
        for box in ((300, 200, 999, 999), (0, 0, 320, 144))
    )
    mask, marks = find_by_hand(beyond, picture)
    assert marks[0].box == (300, 200, 320, 240) and int(mask.sum()) == 20 * 40
    with pytest.raises(CleaningFailed, match="cover 60% of the picture"):
        find_by_hand(most, picture)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("frames", [np.stack([burn(f) for f in cine(count, size=TINY)]) for count in (1, 5)])
def test_source_and_segmentation_give_the_hash_again(frames: np.ndarray) -> None:
    result = clean(ArrayImage(frames), silent, policy=CleaningPolicy.RESEARCH)
    outside = np.where(np.asarray(result.mask.frames) > 0, 0, frames).astype(np.uint8)
    assert result.image.outside_sha256 == hashlib.sha256(outside.tobytes()).hexdigest()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    outside, mask = OutsideDigest(), np.zeros((4, 4), np.bool_)
    samples = np.arange(16, dtype=np.uint16).reshape(4, 4)
    outside.add(samples, samples.astype(dtype), mask)
    assert outside.hexdigest() == hashlib.sha256(samples.astype("<u2").tobytes()).hexdigest()


@pytest.mark.usefixtures("less_enlarged")
def test_one_changed_pixel_outside_the_mask_breaks_it() -> None:
    source, outside = echo(), OutsideDigest()
    changed, mask = source.copy(), np.arange(source.size).reshape(source.shape) < 10 * source.shape[1]
    changed[mask] = 0
    outside.add(source, changed, mask)
    outside.hexdigest()
    changed[20, 30] ^= 1
    outside.add(source, changed, mask)
    with pytest.raises(CleaningFailed):
        outside.hexdigest()
