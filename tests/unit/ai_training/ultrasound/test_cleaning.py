"""Measures of cleaning: marks found, content kept, and text that stays legible."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import tomlkit

from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Picture
from ai_pipeline.contract import DerivedImage, ImageKind
from ai_pipeline.models import registry
from ai_training.cards import add_figures
from ai_training.pages import PAGES, figure_lines
from ai_training.sets.files import rows
from ai_training.ultrasound import cleaning, legible, removal
from ai_training.ultrasound.cleaning import Content
from ai_training.ultrasound.legible import LegibleOutcome, RapidOcr
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.hands import HELD_OUT
from ai_training.ultrasound.overlays.scenes import CleanFrame, clean_frames
from tests.unit.ai_pipeline.phantoms import noise
from tests.unit.ai_training.ultrasound.speckle_lab import speckle

DATA = Path(__file__).resolve().parents[3] / "data"
MARKS = DATA / "marks"
PICTURE = np.zeros((60, 80, 3), np.uint8)


CLEAN = [CleanFrame("set", f"{name}.png", "test", (0, 0, 80, 60)) for name in "ab"]


def frame(name: str) -> removal.MarkedFrame:
    """A text of 100 pixels and a caliper of 20."""
    owners = np.zeros(PICTURE.shape[:2], np.uint8)
    owners[10:20, 10:20], owners[40:44, 60:65] = 1, 2
    marks = {1: MarkClass.TEXT, 2: MarkClass.CALIPER}
    return removal.MarkedFrame(name, PICTURE, owners, np.ones(owners.shape, np.bool_), marks)


def half_of_the_text(_picture: np.ndarray) -> np.ndarray:
    mask = np.zeros(PICTURE.shape[:2], np.bool_)
    mask[10:20, 10:15] = mask[50:54, 5:10] = True  # of the second none is marked
    return mask


def test_a_mark_is_found_from_half_of_its_pixels_on() -> None:
    found = removal.mark_figures([frame("a"), frame("b")], {removal.NETWORK: half_of_the_text})
    row = found[removal.NETWORK]
    assert row["by_class"]["text"] == {"objects": 2, "recall": [1.0, pytest.approx(0.158, abs=1e-3), 1.0]}
    assert (found["objects"], row["recall"][0], row["by_class"]["caliper"]["recall"][0]) == (4, 0.5, 0.0)
    assert row["precision"][0] == pytest.approx(50 / 70, abs=1e-4)
    # Both marks, with three pixels around them, are no part of it.
    assert row["false_area"][0] == pytest.approx(20 / (60 * 80 - 16 * 16 - 10 * 11), abs=1e-4)


def test_a_frame_that_the_node_refuses_counts_as_nothing_found() -> None:
    row = removal.mark_figures([frame("a")], {removal.NODE: lambda _picture: None})[removal.NODE]
    assert (row["recall"][0], row["refused"]) == (0.0, 1)


def test_the_target_needs_the_lower_end_of_the_interval_too() -> None:
    def all_but_one(picture: np.ndarray) -> np.ndarray:
        return (frame("").owners == 1) | (picture[..., 0] == 0)

    frames = [frame(name)._replace(picture=PICTURE + (name == "9")) for name in "0123456789"]
    rows = [
        removal.mark_figures(part, {removal.NODE: all_but_one})[removal.NODE]
        for part in (frames, frames[:9], frames[:9] * 9)
    ]
    assert [row["recall"][0] for row in rows] == [0.95, 1.0, 1.0]
    assert [row["met"] for row in rows] == [False, False, True]


def test_of_clean_frames_the_marked_share_is_measured() -> None:
    row = removal.clean_areas(CLEAN, [PICTURE] * 2, {removal.NETWORK: half_of_the_text})[removal.NETWORK]
    assert (row["frames_touched"], row["met"]) == (2, False)
    assert row["area"][0] == pytest.approx(70 / 4800, abs=1e-4)


def test_figures_are_added_to_a_card_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    card = tmp_path / "card.toml"
    card.write_text('# why\nid = "x"\n\n[metrics.validation]\ndice = 0.9\n')
    for recall in ([0.9, 0.8, 1.0], [0.8, 0.7, 0.9]):
        add_figures(card, {"drawn": {"network": {"recall": recall}}})
    metrics = {"validation": {"dice": 0.9}, "drawn": {"network": {"recall": [0.8, 0.7, 0.9]}}}
    assert tomlkit.parse(card.read_text()).unwrap()["metrics"] == metrics
    assert card.read_text().startswith("# why")


def test_every_part_that_turned_out_to_be_marked_is_a_listed_one() -> None:
    assert {part.file for split in ("val", "test") for part in clean_frames(split)} >= removal.NOT_CLEAN


@pytest.mark.data
def test_coloured_marks_are_known_on_validation_frames_only(data: Path) -> None:
    found = next(removal.coloured_frames(data))
    assert found.marks
    assert found.known[found.owners > 0].all()
    assert found.known.mean() < 1


def test_the_page_about_the_models_shows_what_the_evaluations_wrote_into_the_card(tmp_path: Path) -> None:
    ways = {removal.NETWORK: half_of_the_text, removal.NODE: half_of_the_text}
    drawn = removal.mark_figures([frame("a"), frame("b")], ways)
    clean = removal.clean_areas(CLEAN, [PICTURE] * 2, ways)
    outcome = LegibleOutcome(0, "a", 4, released=True, counts={"rapidocr": legible.EngineCount(4)}, texts=3)
    read = legible.legibility_figures([outcome], "test", "clinical")
    card = tmp_path / "card.toml"
    card.write_text('id = "x"\n')
    add_figures(card, {"drawn": drawn, "clean_test": clean, "synthetic_test": drawn})
    add_figures(card, {"legible_clinical": read})
    details = {"detector": {"threshold": 0.4}, **tomlkit.parse(card.read_text()).unwrap()}
    shown = replace(registry.find("ultrasound-marks-unet"), details=details)
    page = "\n".join(figure_lines(next(p for p in PAGES if p.file == "ultrasound.md"), shown))
    assert "| network | 0.500 [" in page
    assert "| network | 0.01458" in page
    assert "* marks: 4" in page
    assert "* marks found: 0.500 [" in page
    assert "| rapidocr | 4 | 0 | 0.5271 | 0 |" in page


def mask_of(row: dict[str, str], where: Path = MARKS) -> np.ndarray:
    return cv2.imread(str(where / f"{row['set']}__{Path(row['file']).stem}.png"), cv2.IMREAD_UNCHANGED)


def test_every_listed_object_is_in_its_mask() -> None:
    objects = list(rows(MARKS / "objects.csv"))
    assert {row["class"] for row in objects} == {kind.name.lower() for kind in MarkClass} - {"background"}
    for row in objects:
        left, top, right, bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
        part = mask_of(row)[top:bottom, left:right]
        assert part.shape == (bottom - top, right - left), row
        assert part.any(), row


def test_every_pixel_of_a_mask_belongs_to_one_listed_object() -> None:
    objects = list(rows(MARKS / "objects.csv"))
    for frame in rows(MARKS / "frames.csv"):
        listed = {int(row["object_id"]) for row in objects if row["file"] == frame["file"]}
        mask, owners = mask_of(frame), mask_of(frame, MARKS / "owners")
        assert np.array_equal(owners > 0, mask > 0), frame["file"]
        assert set(np.unique(mask)) <= set(MarkClass), frame["file"]
        assert set(np.unique(owners)) == {0, *listed}, frame["file"]


@pytest.mark.data
def test_masks_and_list_are_what_the_shapes_give(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("frames.csv", "shapes", "draw.py"):
        (tmp_path / name).symlink_to(MARKS / name)
    draw = runpy.run_path(str(MARKS / "draw.py"))
    monkeypatch.setitem(draw["make"].__globals__, "HERE", tmp_path)
    draw["make"](data)
    assert (tmp_path / "objects.csv").read_text() == (MARKS / "objects.csv").read_text()
    for made in tmp_path.rglob("*.png"):
        pictures = (
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (made, MARKS / made.relative_to(tmp_path))
        )
        assert np.array_equal(*pictures), made.name


TOOLS = SimpleNamespace(models=())


def outcome(name: str, *objects: tuple[Content, int, int], **more: Any) -> cleaning.FrameOutcome:
    return cleaning.FrameOutcome(name, tuple(cleaning.ObjectOutcome(*one) for one in objects), **more)


def test_every_marked_object_lies_in_a_listed_frame_and_has_a_class() -> None:
    """A box beyond its frame, or of a frame that is not judged, would be lost without a word."""
    frames = {(row["set"], row["file"]) for row in rows(DATA / "content" / "frames.csv")}
    objects = list(rows(DATA / "content" / "objects.csv"))
    assert len(frames) >= 120
    assert {Content(row["class"]) for row in objects} == set(Content)
    for row in objects:
        left, top, right, bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
        assert (row["set"], row["file"]) in frames, row
        assert left < right, row
        assert top < bottom, row


def test_shares_cut_lines_and_identity_are_counted() -> None:
    """A line of which half went is cut; identity that is covered is neither cut nor lost."""
    frames = [
        outcome("set__A_Plane3_1", (Content.WAVEFORM, 100, 0), (Content.SETTING, 40, 20)),
        outcome("set__A_Plane3_2", (Content.WAVEFORM, 100, 10), (Content.IDENTITY, 50, 50)),
        outcome(
            "set__b",
            (Content.SETTING, 40, 40),
            (Content.IDENTITY, 50, 30),
            made_up=3,
            background=9,
        ),
        outcome("set__c", withheld="too much"),
    ]
    result = cleaning.summary(frames, CleaningPolicy.CLINICAL, TOOLS)
    counted = result["content"]
    assert [counted[name]["share"][0] for name in ("waveform", "all")] == [0.05, 0.25]
    assert counted["setting"] | {"share": 0} == {"objects": 2, "share": 0, "gone": 1, "in_part": 1}
    assert (
        result.items()
        >= {
            "patients": 3,
            "withheld": {"frames": 1, "reasons": ["too much"]},
            "identity": {"objects": 2, "left": 1},
            "cut": {"lines": 4, "cut": 2},
            "background": {"filled": 9, "made_up": 3, "frames_with_any": 1},
        }.items()
    )


def test_what_is_made_up_beside_plain_background_is_seen() -> None:
    """Grey where the source is flat black counts; the same hole in speckle does not."""
    picture, mask = np.zeros((120, 240, 3), np.uint8), np.zeros((120, 240), np.bool_)
    picture[:, 120:] = noise((120, 120, 1), 40, 200)
    mask[50:60, 40:60] = mask[50:60, 180:200] = True
    frame = cleaning.MarkedContent("x", source=None, frame=1, picture=picture, objects=())  # type: ignore[arg-type]
    grey, black = (np.where(mask[..., None], level, picture).astype(np.uint8) for level in (90, 0))
    background, made_up = cleaning._filled_background(frame, grey, mask)
    assert background.sum() == made_up.sum() == 200
    assert not cleaning._filled_background(frame, black, mask)[1].any()


def test_ink_is_what_the_class_says() -> None:
    """Letters are thin, flow is coloured, a bar is all of its box, a ruler's line of tissue is no tick."""
    picture, within = np.zeros((60, 60, 3), np.uint8), np.ones((60, 60), np.bool_)
    picture[10:20, 10:12] = 200  # a stroke
    picture[30:50, 30:50, 0] = 200  # a coloured patch
    letters = cleaning.ink(Content.SETTING, picture, within)
    assert letters[15, 10]
    assert not letters[40, 40]
    assert cleaning.ink(Content.FLOW, picture, within).sum() == 400
    assert cleaning.ink(Content.GREY_BAR, picture, within).all()
    picture[:, 55:57] = 200
    ticks = cleaning.ink(Content.RULER, picture, within)
    assert ticks[15, 10]
    assert not ticks[30, 55]


def test_a_frame_that_is_withheld_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is an outcome, not an end."""
    monkeypatch.setattr(
        cleaning, "clean", Mock(side_effect=cleaning.CleaningFailed("too much would be filled"))
    )
    picture = np.zeros((20, 20, 3), np.uint8)
    objects = (cleaning.MarkedObject(Content.PLACE, (0, 0, 5, 5), np.ones((20, 20), np.bool_)),)
    frame = cleaning.MarkedContent("x", source=None, frame=1, picture=picture, objects=objects)  # type: ignore[arg-type]
    found = cleaning._outcome(frame, TOOLS, CleaningPolicy.CLINICAL)
    assert (found.withheld, found.objects) == ("too much would be filled", ())


@pytest.fixture(scope="module")
def burned() -> BurnIn:
    """One that tells an identity in Latin letters."""
    made = (burn_in(speckle(rows=300, columns=420), HELD_OUT, (31, seed)) for seed in range(60))
    tokens = ((picture, legible.identity_tokens(picture)) for picture in made)
    return next(one for one, found in tokens if len(found) > 3 and all(t.text.isascii() for t in found))


@pytest.fixture(scope="module")
def reader() -> RapidOcr:
    return RapidOcr()


def result_of(picture: Picture, mask: np.ndarray) -> CleaningResult:
    def image(kind: ImageKind, frames: np.ndarray, photometric: str) -> DerivedImage:
        return DerivedImage(kind, "2.25.1", frames[None], photometric, "test")  # type: ignore[arg-type]

    shown = image(ImageKind.MASK, mask.astype(np.uint8) * 255, "MONOCHROME2")
    return CleaningResult(image(ImageKind.CLEANED, picture, "RGB"), shown, (), (), {})


def outcome_of(burned: BurnIn, cleaned: CleaningResult, readers: list[legible.OcrEngine]) -> LegibleOutcome:
    test, tokens = (
        legible.LegibilityTest(Path(), "test", CleaningPolicy.RESEARCH, None),
        legible.identity_tokens(burned),
    )
    begun = LegibleOutcome(0, "speckle", len(tokens), released=False)
    return test.outcome(begun, burned, tokens, cleaned, readers)


def test_a_picture_that_was_not_cleaned_is_found_out(burned: BurnIn, reader: RapidOcr) -> None:
    count = outcome_of(burned, result_of(burned.image, burned.mask > 0), [reader]).counts["rapidocr"]
    assert len(count.left) == count.before > 2
    assert count.elsewhere


def test_a_picture_without_the_overlay_holds_nothing_of_it(burned: BurnIn, reader: RapidOcr) -> None:
    outcome = outcome_of(burned, result_of(burned.clean, np.ones(burned.owners.shape, np.bool_)), [reader])
    count = outcome.counts["rapidocr"]
    assert ((count.left, count.elsewhere), (outcome.changed_outside, outcome.uncovered)) == (((), ()), (0, 0))


def test_pixels_that_changed_outside_the_mask_are_counted(burned: BurnIn) -> None:
    changed, mask = burned.image.copy(), np.zeros(burned.owners.shape, np.bool_)
    changed[5, 7:10] ^= 1
    mask[5, 9] = True

    assert outcome_of(burned, result_of(changed, mask), []).changed_outside == 2


def test_a_line_that_the_mask_leaves_out_is_counted(burned: BurnIn) -> None:
    tokens, mask = legible.identity_tokens(burned), burned.mask > 0
    mask[burned.owners == tokens[0].owner] = False

    assert (
        legible.uncovered_texts(burned, tokens, burned.mask > 0),
        legible.uncovered_texts(burned, tokens, mask),
    ) == (0, 1)


@pytest.mark.parametrize(
    ("token", "read", "expected"),
    [
        ("KIM19610303", "XXKIM19610303YY", 1.0),
        ("KIM19610303", "KIM19810303", 10 / 11),
        ("ANDERSON", "ANDERS", 0.75),
        ("ANDERSON", "", 0.0),
        ("AB", "XYZ", 0.0),
    ],
)
def test_similarity_is_the_share_of_the_token_that_stands_in_what_was_read(
    token: str, read: str, expected: float
) -> None:
    assert legible.similarity(token, read) == pytest.approx(expected)


def test_a_surname_alone_is_a_leak_but_not_a_legible_token_and_keys_are_not_looked_for() -> None:
    token = legible.Token(
        "NOWAKJ12FEB1961", legible.words_of("NOWAK^J 12 Feb 1961"), np.zeros((4, 2), np.float32), 1
    )
    assert not legible.is_read(token, ("NOWAK",))
    assert legible.leaks(token, ("XNOWAKX",))
    assert not legible.leaks(token, ("DOB", "J1"))
    assert legible.words_of("Name: Kim, J. DOB 1961/03/05") == ("KIM", "1961")


@pytest.mark.parametrize("angle", [0, 25, 90, 180])
def test_a_line_is_turned_level_before_it_is_read(angle: float, reader: RapidOcr) -> None:
    ink, turn = np.zeros((300, 300), np.uint8), cv2.getRotationMatrix2D((150, 150), angle, 1.0)
    cv2.putText(ink, "NOWAK 471193", (60, 155), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1, cv2.LINE_AA)
    written = cv2.warpAffine(ink, turn, (300, 300)) > 60
    picture = np.where(written[..., None], np.uint8(255), speckle(rows=300, columns=300) // 3)
    (texts,) = reader.lines([legible.level_crop(picture, legible.writing_corners(written))])
    assert any(legible.similarity("NOWAK471193", text) >= 0.8 for text in texts), texts


def test_nothing_left_of_five_hundred_means_at_most_six_in_a_thousand() -> None:
    assert legible.at_most(0, 500) == pytest.approx(0.006, abs=1e-4)
    assert legible.at_most(0, 0) == legible.at_most(3, 3) == 1.0


def test_a_missing_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    result = legible.legibility_figures(
        [LegibleOutcome(0, "a", 1, released=False, reason="too much")], "test", "research"
    )
    assert [engine.name for engine in legible.engines()] == ["rapidocr"]
    assert "not installed" in result["tesseract"]
    assert result["quarantined"]["pictures"] == 1


@pytest.mark.debian("tesseract-ocr")
def test_tesseract_reads_lines_in_their_order_and_places() -> None:
    engine, pictures = legible.Tesseract(), []
    for text in ("NOWAK 4711", "1961-03-05"):
        picture = np.zeros((40, 260, 3), np.uint8)
        cv2.putText(picture, text, (8, 29), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
        pictures.append(picture)
    lines, page = engine.lines(pictures), np.concatenate([*pictures, np.zeros((200, 260, 3), np.uint8)])

    for word, line in zip(("NOWAK4711", "19610305"), lines, strict=True):
        assert any(legible.similarity(word, text) > 0.8 for text in line), line
    assert lines[0] != lines[1]
    (found,) = [read for read in engine.everything(page) if "1961" in read.text]
    assert 40 <= found.box[1] < found.box[3] <= 84
