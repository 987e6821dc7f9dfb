"""Drawn overlays: their truth, their two families and their fonts."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont

from ai_pipeline.contract import Meaning
from ai_training.sets.files import rows
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in, store
from ai_training.ultrasound.overlays.canvas import Canvas, MarkClass, Stamp
from ai_training.ultrasound.overlays.hands import HELD_OUT, TRAIN, Hand, StyleFamily, font_list, write
from ai_training.ultrasound.overlays.pages import LAYOUTS
from ai_training.ultrasound.overlays.scenes import Storing, clean_frames
from ai_training.ultrasound.overlays.symbols import GLYPHS
from ai_training.ultrasound.overlays.texts import VOCABULARY
from tests.unit.ai_training.ultrasound.speckle_lab import speckle

# Synthetic overlays: the truth that comes with them is the truth

FONTS = {
    "SourceSansPro-Regular.ttf": "b77f3a70",
    "SourceSansPro-Bold.ttf": "2efc3a95",
    "SourceSerifPro-Regular.ttf": "b4e0771f",
    "SourceSerifPro-Bold.ttf": "78041207",
    "Manrope-Regular.ttf": "1e390629",
    "Manrope-Bold.ttf": "8452aa34",
    "STIXGeneral.ttf": "16737803",
    "STIXGeneralBol.ttf": "e8533dc7",
    "cmss10.ttf": "7df91a83",
    "cmtt10.ttf": "6211f09a",
    "NotoSansKR-Regular.otf": "69975a0a",
    "DejaVuSans.ttf": "3fdf69ca",
    "DejaVuSans-Bold.ttf": "b184b89e",
    "DejaVuSansMono.ttf": "602ec86b",
    "DejaVuSansMono-Bold.ttf": "baada9a5",
    "DejaVuSerif.ttf": "10724495",
    "DejaVuSerif-Bold.ttf": "c3753f2e",
    "Caladea-Regular.ttf": "d2f6cad3",
    "Caladea-Bold.ttf": "74eda4fc",
    "NotoSerifKR-Regular.otf": "5ea012e1",
}
FAMILIES = pytest.mark.parametrize("family", [TRAIN, HELD_OUT], ids=lambda family: family.name)


@pytest.fixture(scope="module", params=[TRAIN, HELD_OUT], ids=lambda family: family.name)
def drawn(request: pytest.FixtureRequest) -> list[BurnIn]:
    return [burn_in(speckle(index), request.param, (11, index)) for index in range(40)]


@FAMILIES
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(family: StyleFamily) -> None:
    one, again, other = (burn_in(speckle(), family, (3, number)) for number in (1, 1, 2))
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.owners, again.owners)
    assert one.objects == again.objects
    assert not np.array_equal(one.image, other.image)


def test_the_mask_is_just_what_changed(drawn: list[BurnIn]) -> None:
    for picture in drawn:
        assert np.array_equal(picture.mask > 0, (picture.drawn != picture.plain).any(axis=2))
        assert set(np.unique(picture.mask)) <= {0, 255}


def test_every_class_in_the_map_is_an_objects_and_its_box_holds_just_that(drawn: list[BurnIn]) -> None:
    for picture in drawn:
        assert picture.owners.max() <= len(picture.objects)
        for number, thing in enumerate(picture.objects, start=1):
            own = picture.owners == number
            assert set(np.unique(picture.classes[own])) <= {thing.kind}
            left, top, wide, high = cv2.boundingRect(own.astype(np.uint8))
            assert thing.box == (left, top, left + wide, top + high)


@pytest.mark.parametrize("scale", [0.37, 0.62, 1.0, 1.7])
def test_a_dot_that_scaling_steps_over_is_not_given_to_something_far_away(scale: float) -> None:
    canvas = Canvas(np.zeros((300, 400, 3), np.uint8))
    places = [(20 + 37 * number, 15 + 26 * number) for number in range(10)]
    for column, row in places:
        dot = canvas.blank()
        dot[row, column] = 255
        canvas.burn([Stamp(dot, (255, 255, 255))], MarkClass.CALIPER, Meaning.MEASUREMENT)
    objects = store(canvas, Storing(scale, cv2.INTER_CUBIC, None, whole_chroma=True)).objects
    kept = [(place, thing.box) for place, thing in zip(places, objects, strict=True) if thing.box[2]]
    for (column, row), box in kept:  # cubic scaling drops some dots altogether
        assert box == pytest.approx(np.array([column, row] * 2) * scale, abs=6)
    assert len(kept) >= 3


def test_all_kinds_of_marks_and_meanings_occur_and_some_pictures_have_none(drawn: list[BurnIn]) -> None:
    things = [thing for picture in drawn for thing in picture.objects]
    assert {thing.kind for thing in things} == set(MarkClass) - {MarkClass.BACKGROUND}
    assert {thing.meaning for thing in things} == set(Meaning)
    assert any(not picture.objects for picture in drawn)
    told = Counter(bool(thing.text) for thing in things if thing.meaning is Meaning.IDENTITY)
    assert told[True] > 3 * told[False]  # frames around blocks say nothing


def test_the_two_families_share_nothing() -> None:
    parts = ("latin", "layouts", "glyphs", "dates")
    assert [part for part in parts if {*getattr(TRAIN, part)} & {*getattr(HELD_OUT, part)}] == []
    assert set(TRAIN.names) & set(HELD_OUT.names) == {"korean"}
    assert sorted((*TRAIN.layouts, *HELD_OUT.layouts)) == sorted(LAYOUTS)
    assert sorted((*TRAIN.glyphs, *HELD_OUT.glyphs)) == sorted(GLYPHS)
    ours, theirs = (
        {name for face in one.latin + one.korean if face.path for name in (face.name, face.path)}
        for one in (TRAIN, HELD_OUT)
    )
    assert ours.isdisjoint(theirs)


@FAMILIES
def test_every_font_comes_from_a_package_and_has_every_letter_that_is_written(family: StyleFamily) -> None:
    packages, latin = Path(np.__file__).parents[1], {chr(code) for code in range(32, 127)} | set("²°")
    hangul = {letter for name, texts in VOCABULARY.items() if "korean" in name for letter in "".join(texts)}
    for faces, letters in ((family.latin, latin), (family.korean, latin | hangul)):
        for face in faces:
            if not face.is_stroked:
                assert Path(face.path).is_relative_to(packages)
                with TTFont(face.path, lazy=True) as font:
                    assert not {letter for letter in letters if ord(letter) not in font.getBestCmap()}


def test_the_fonts_are_these_and_no_others() -> None:
    faces = [face for family in (TRAIN, HELD_OUT) for face in family.latin + family.korean]

    # Other fonts, other pictures: figures of before can no longer be compared.
    assert {row["file"]: row["sha256"][:8] for row in font_list(faces) if row["sha256"]} == FONTS


def test_a_bar_under_text_stays_in_the_clean_picture() -> None:
    canvas, hand = Canvas(speckle()), Hand(HELD_OUT.latin[0], 14, (255, 255, 0), box=(0, 0, 90))
    canvas.burn(write(canvas, "DOE", (40, 40), hand), MarkClass.TEXT, Meaning.IDENTITY, "DOE")

    left, top, wide, high = cv2.boundingRect((canvas.owners > 0).astype(np.uint8))
    right, bottom = left + wide, top + high
    assert (canvas.clean[top + 2, left - 1] == (0, 0, 90)).all()
    assert 0.1 < (canvas.owners[top:bottom, left:right] > 0).mean() < 0.9


def test_white_on_white_is_no_object() -> None:
    canvas = Canvas(np.full((50, 60, 3), 255, np.uint8))
    canvas.burn([Stamp(np.full((50, 60), 255, np.uint8), (255, 255, 255))], MarkClass.LOGO, Meaning.LOGO)
    assert canvas.objects == []
    assert not canvas.owners.any()


@pytest.mark.data
def test_the_listed_frames_keep_their_published_split(data: Path) -> None:
    published = {
        (source, row["file"]): row["split"]
        for source in ("us_fetal_head", "us_breast", "us_ovarian")
        for row in rows(data / source / "manifest.csv")
    }
    listed = [frame for split in ("train", "val", "test") for frame in clean_frames(split)]

    assert len(listed) == len({(frame.source, frame.file) for frame in listed})
    assert all(published[frame.source, frame.file] == frame.split for frame in listed)
    assert not [frame for frame in listed if (frame.source, frame.split) == ("us_ovarian", "test")]
