"""Measures of cleaning, networks of marks and filling, and drawn overlays with their truth."""

import json
import runpy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import cv2
import drawn_lines
import numpy as np
import pytest
import reader as line_reader
import tomlkit
import torch
import typer
from fontTools.ttLib import TTFont
from inpaint import ARCHITECTURES, Filler, OciGan, export_filler, file_id, write_filler_card
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Mask, Picture
from ai_pipeline.burnin.find.networks import HEIGHT, SYMBOLS, MarkFinder, MarkMaps, known
from ai_pipeline.burnin.tools import (
    CORE,
    LINES,
    PLAIN,
    Classical,
    Floats,
    Inpainter,
    NetworkInpainter,
    on_onnx,
    shared_tools,
)
from ai_pipeline.burnin.tools import inpaint as inpaint_stored
from ai_pipeline.contract import DerivedImage, ImageKind, Meaning
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training import cli
from ai_training.cards import add_figures
from ai_training.pages import PAGES, figure_lines
from ai_training.sets.files import rows
from ai_training.ultrasound import cleaning, filling, legible, marks, removal
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in, store
from ai_training.ultrasound.overlays.canvas import Canvas, MarkClass, Stamp
from ai_training.ultrasound.overlays.hands import HELD_OUT, TRAIN, Hand, StyleFamily, font_list, write
from ai_training.ultrasound.overlays.pages import LAYOUTS
from ai_training.ultrasound.overlays.scenes import CleanFrame, Storing, clean_frames
from ai_training.ultrasound.overlays.symbols import GLYPHS
from ai_training.ultrasound.overlays.texts import VOCABULARY
from tests.unit.ai_pipeline.phantoms import burn, linear_echo
from tests.unit.ai_training import published_lab as lab

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
    outcome = legible.LegibleOutcome(
        0, "a", 4, released=True, counts={"rapidocr": legible.EngineCount(4)}, texts=3
    )
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


TOOLS: Any = SimpleNamespace(models=())


def outcome(name: str, *objects: tuple[cleaning.Content, int, int], **more: Any) -> cleaning.FrameOutcome:
    return cleaning.FrameOutcome(name, tuple(cleaning.ObjectOutcome(*one) for one in objects), **more)


def test_every_marked_object_lies_in_a_listed_frame_and_has_a_class() -> None:
    """A box beyond its frame, or of a frame that is not judged, would be lost without a word."""
    frames = {(row["set"], row["file"]) for row in rows(DATA / "content" / "frames.csv")}
    objects = list(rows(DATA / "content" / "objects.csv"))
    assert len(frames) >= 120
    assert {cleaning.Content(row["class"]) for row in objects} == set(cleaning.Content)
    for row in objects:
        left, top, right, bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
        assert (row["set"], row["file"]) in frames, row
        assert left < right, row
        assert top < bottom, row


def test_shares_cut_lines_and_identity_are_counted() -> None:
    """A line of which half went is cut; identity that is covered is neither cut nor lost."""
    frames = [
        outcome("set__A_Plane3_1", (cleaning.Content.WAVEFORM, 100, 0), (cleaning.Content.SETTING, 40, 20)),
        outcome("set__A_Plane3_2", (cleaning.Content.WAVEFORM, 100, 10), (cleaning.Content.IDENTITY, 50, 50)),
        outcome(
            "set__b",
            (cleaning.Content.SETTING, 40, 40),
            (cleaning.Content.IDENTITY, 50, 30),
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
    picture[:, 120:] = np.random.default_rng(1).integers(40, 200, (120, 120, 1))
    mask[50:60, 40:60] = mask[50:60, 180:200] = True
    frame = cleaning.MarkedContent("x", source=None, frame=1, picture=picture, objects=())  # type: ignore[arg-type]
    grey, black = (np.where(mask[..., None], level, picture).astype(np.uint8) for level in (90, 0))
    background, made_up = cleaning._filled_background(frame, grey, mask)
    assert int(background.sum()) == int(made_up.sum()) == 200
    assert not cleaning._filled_background(frame, black, mask)[1].any()


def test_ink_is_what_the_class_says() -> None:
    """Letters are thin, flow is coloured, a bar is all of its box, a ruler's line of tissue is no tick."""
    picture, within = np.zeros((60, 60, 3), np.uint8), np.ones((60, 60), np.bool_)
    picture[10:20, 10:12] = 200  # a stroke
    picture[30:50, 30:50, 0] = 200  # a coloured patch
    letters = cleaning.ink(cleaning.Content.SETTING, picture, within)
    assert letters[15, 10]
    assert not letters[40, 40]
    assert int(cleaning.ink(cleaning.Content.FLOW, picture, within).sum()) == 400
    assert cleaning.ink(cleaning.Content.GREY_BAR, picture, within).all()
    picture[:, 55:57] = 200
    ticks = cleaning.ink(cleaning.Content.RULER, picture, within)
    assert ticks[15, 10]
    assert not ticks[30, 55]


def test_a_frame_that_is_withheld_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is an outcome, not an end."""
    monkeypatch.setattr(
        cleaning, "clean", Mock(side_effect=cleaning.CleaningFailed("too much would be filled"))
    )
    picture = np.zeros((20, 20, 3), np.uint8)
    objects = (cleaning.MarkedObject(cleaning.Content.PLACE, (0, 0, 5, 5), np.ones((20, 20), np.bool_)),)
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
def reader() -> legible.RapidOcr:
    return legible.RapidOcr()


def result_of(picture: Picture, mask: np.ndarray) -> CleaningResult:
    def image(kind: ImageKind, frames: np.ndarray, photometric: str) -> DerivedImage:
        return DerivedImage(kind, "2.25.1", frames[None], cast(str, photometric), "test")  # type: ignore[arg-type]

    shown = image(ImageKind.MASK, mask.astype(np.uint8) * 255, "MONOCHROME2")
    return CleaningResult(image(ImageKind.CLEANED, picture, "RGB"), shown, (), (), {})


def outcome_of(
    burned: BurnIn, cleaned: CleaningResult, readers: list[legible.OcrEngine]
) -> legible.LegibleOutcome:
    test, tokens = (
        legible.LegibilityTest(Path(), "test", CleaningPolicy.RESEARCH, None),
        legible.identity_tokens(burned),
    )
    begun = legible.LegibleOutcome(0, "speckle", len(tokens), released=False)
    return test.outcome(begun, burned, tokens, cleaned, readers)


def test_a_picture_that_was_not_cleaned_is_found_out(burned: BurnIn, reader: legible.RapidOcr) -> None:
    count = outcome_of(burned, result_of(burned.image, burned.mask > 0), [reader]).counts["rapidocr"]
    assert len(count.left) == count.before > 2
    assert count.elsewhere


def test_a_picture_without_the_overlay_holds_nothing_of_it(burned: BurnIn, reader: legible.RapidOcr) -> None:
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
def test_a_line_is_turned_level_before_it_is_read(angle: float, reader: legible.RapidOcr) -> None:
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
        [legible.LegibleOutcome(0, "a", 1, released=False, reason="too much")], "test", "research"
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


# Mark detector and inpainters: what is trained is what is exported; outside a hole nothing changes

SMALL = marks.MarkRecipe(
    iterations=6,
    widths=(8, 12, 16, 16),
    mix=marks.Mix(pictures=2, crops=2, side=64),
    validate_every=3,
    validation_pictures=2,
    threads=1,
    workers=0,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[marks.MarkNetwork, Path]:
    torch.manual_seed(5)
    network, folder = marks.MarkNetwork(SMALL.widths).eval(), tmp_path_factory.mktemp("marks")
    marks.export_finder(network, folder / f"{marks.ID}.onnx")
    marks.write_finder_card(folder, 0.4, {"dice": 0.5}, {})
    return network, folder


@pytest.mark.parametrize("shape", [(96, 128), (50, 333)])
def test_the_exported_detector_says_what_the_trained_one_says(
    exported: tuple[marks.MarkNetwork, Path], shape: tuple[int, int]
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    ours = marks.torch_finder(exported[0]).find(picture)
    theirs = MarkFinder(OnnxRuntime((exported[1] / f"{marks.ID}.onnx").read_bytes(), 1)).find(picture)
    assert theirs.marked.shape == theirs.classes.shape == shape
    assert theirs.classes.min() >= 1
    assert np.abs(ours.marked - theirs.marked).max() < 1e-4
    assert (ours.classes == theirs.classes).mean() > 0.999


def test_the_card_is_one_that_the_registry_reads(exported: tuple[marks.MarkNetwork, Path]) -> None:
    registry.verify(card := registry.find(marks.ID, exported[1]))
    assert card.details["detector"]["threshold"] == 0.4
    assert card.details["training"]["fonts"]["held-out"]


def test_grey_pictures_are_found_in_as_well(exported: tuple[marks.MarkNetwork, Path]) -> None:
    grey, finder = speckle()[..., 0], marks.torch_finder(exported[0])

    assert np.array_equal(finder.find(grey).marked, finder.find(np.repeat(grey[..., None], 3, 2)).marked)


def test_the_loss_is_least_at_the_truth() -> None:
    truth = torch.from_numpy(marks.targets_of(burn_in(speckle(), TRAIN, (1, 0))).astype(np.int64))[None]
    right = (
        20 * torch.nn.functional.one_hot(truth.clamp(max=5), len(marks.CLASSES)).permute(0, 3, 1, 2).float()
    )
    assert marks.loss_of(right, truth, SMALL) < 0.1 < marks.loss_of(-right, truth, SMALL)


@pytest.mark.parametrize("known", [True, False])
def test_ignored_pixels_teach_nothing_and_any_mark_teaches_the_rest(known: bool) -> None:
    targets = torch.full((1, 16, 16), marks.IGNORED)
    if known:
        targets[0, 0, 0], targets[0, 5, 5] = 0, marks.ANY_MARK
    logits = torch.zeros(1, len(marks.CLASSES), 16, 16, requires_grad=True)
    marks.loss_of(logits, targets, SMALL).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert not logits.grad[0, :, 9, 9].any()
    assert (logits.grad[0, 0, 5, 5] > 0) == known  # less background ...
    assert len(set(logits.grad[0, 1:, 5, 5].tolist())) == 1  # ... and no kind preferred


def test_scores_tell_a_perfect_mask_from_an_empty_one() -> None:
    pictures = [burn_in(speckle(index), TRAIN, (9, index)) for index in range(4)]
    drawn = {one.image.tobytes(): (one.owners > 0) * 1.0 for one in pictures if one.owners.any()}
    finders = [
        Mock(
            find=lambda image, m=m: MarkMaps(
                np.float32(m) * drawn.get(image.tobytes(), image[..., 0] * 0.0).astype(np.float32),
                np.ones(image.shape[:2], np.uint8),
            )
        )
        for m in (1, 0)
    ]
    best, worst = (marks.score(finder, pictures, 0.5) for finder in finders)
    assert [best[name] for name in ("object_recall", "pixel_recall", "precision", "dice")] == [1, 1, 1, 1]
    assert [worst[name] for name in ("object_recall", "pixel_recall", "clean_area")] == [0, 0, 0]
    assert best["choice"] > worst["choice"]


@pytest.mark.data
def test_batches_depend_on_seed_and_iteration_alone(data: Path) -> None:
    whole, resumed = (marks.MarkBatches(data, marks.Mix(pictures=2, crops=1, side=64), 4) for _ in range(2))
    assert all(map(torch.equal, whole[2], resumed[2]))
    assert not torch.equal(whole[0][0], whole[2][0])


@pytest.mark.data
def test_real_frames_teach_coloured_marks_and_nothing_unknown(data: Path) -> None:
    frames = marks.real_frames(data)
    picture, targets = frames[0].sample()

    assert len(frames) > 150
    assert picture.shape[:2] == targets.shape
    assert set(np.unique(targets)) <= {0, marks.IGNORED, marks.ANY_MARK}
    assert 10 < (targets == marks.ANY_MARK).sum() < 0.1 * targets.size


EXIT_DATA, EXIT_CONFIG, EXIT_USAGE = 66, 78, 2


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    app.add_typer(cli.train_app, name="train")
    app.add_typer(cli.evaluate_app, name="evaluate")
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("train", "marks", "--out", "out", "--workers", "0", "--threads", "1"), EXIT_DATA),
        (("evaluate", "marks", "--models-dir", "none"), EXIT_CONFIG),
        (("evaluate", "marks", "--split", "train"), EXIT_USAGE),
        (("evaluate", "marks", "--style", "gothic"), EXIT_USAGE),
    ],
    ids=["no images", "no detector", "no such split", "no such style"],
)
def test_what_is_missing_or_wrong_is_told_by_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--data", tmp_path)
    assert done.exit_code == status
    assert status != EXIT_DATA or len(done.stderr.strip().splitlines()) == 1


@pytest.mark.data
def test_the_filling_of_the_node_is_measured_beside_the_plain_one(data: Path) -> None:
    research = removal.planned_by(None, "research")
    result = filling.evaluate_inpaint(data, [shared_tools().filler, PLAIN], research, pictures=2)
    assert ({row["mask"] for row in result["rows"]}, result["reference"]) == (
        {"given", "detected"},
        "navier-stokes",
    )
    assert all(low <= value <= high for value, low, high in [row["inside"]["psnr"] for row in result["rows"]])
    assert any("difference" in row["inside"] for row in result["rows"])


def a_hole() -> tuple[Picture, Mask]:
    picture, hole = speckle(rows=130, columns=171), np.zeros((130, 171), np.bool_)
    hole[20:32, 30:140] = hole[100:128, 0:9] = hole[60:61, 60:61] = True
    return picture, hole


def inpainter_of(name: str, network: Filler) -> NetworkInpainter:
    """``network`` as an inpainter, on torch."""
    network.eval()

    def run(start: Floats, hole: Floats) -> Floats:
        with torch.inference_mode():
            filled = network(torch.from_numpy(start), torch.from_numpy(hole))
        return np.asarray(filled.numpy(), np.float32)

    return NetworkInpainter(name, run)


def inpainters() -> list[Inpainter]:
    torch.manual_seed(1)
    return [
        Classical("telea"),
        Classical("navier-stokes"),
        *(inpainter_of(name, kind()) for name, kind in ARCHITECTURES.items()),
    ]


@pytest.mark.parametrize("way", inpainters(), ids=lambda way: way.name)
def test_only_the_hole_is_filled_and_without_one_nothing_happens(way: Inpainter) -> None:
    picture, hole = a_hole()
    before, filled = picture.copy(), way.fill(picture, hole)
    assert filled.dtype == np.uint8
    assert np.array_equal(picture, before)
    assert np.array_equal(filled[~hole], picture[~hole])
    assert not np.array_equal(filled[hole], picture[hole])
    assert np.array_equal(way.fill(picture, np.zeros_like(hole)), picture)


def test_what_a_mark_said_does_not_reach_a_network() -> None:
    picture, hole = a_hole()
    marked = np.where(hole[..., None], np.uint8(255), picture)
    assert all(np.array_equal(way.fill(picture, hole), way.fill(marked, hole)) for way in inpainters())


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_stood_in_a_corner_does_not_shine_through_its_removal(kind: type[np.generic]) -> None:
    picture = speckle(rows=130, columns=171)[..., 0].astype(kind)
    hole, filler = np.zeros(picture.shape, np.bool_), Classical("navier-stokes")
    hole[:9, :9] = hole[100:, 160:] = hole[60:70, :9] = True
    marked = np.where(hole, picture[~hole].max(), picture)
    marked[1:4, 1:6] = picture.min()
    assert np.array_equal(inpaint_stored(picture, hole, filler), inpaint_stored(marked, hole, filler))


def test_a_tile_sees_beyond_its_edge() -> None:
    picture, hole = np.zeros((CORE, 2 * CORE, 3), np.uint8), np.zeros((CORE, 2 * CORE), np.bool_)
    hole[10:20, CORE : CORE + 3] = True
    run = Mock(side_effect=lambda start, _hole: start)
    NetworkInpainter("seeing", run).fill(picture, hole)
    assert [call.args[0].shape[-1] for call in run.mock_calls] == [CORE + 64]  # the tile that holds the hole


def test_an_exported_filler_fills_as_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = OciGan(width=16, blocks=2).eval()
    export_filler(network, tmp_path / f"{file_id('oci-gan')}.onnx")
    write_filler_card(tmp_path, "oci-gan", {"psnr": 25.0}, {})
    file = registry.find(file_id("oci-gan"), tmp_path).file("inpainter")
    exported = NetworkInpainter("oci-gan", on_onnx(registry.read(file), 1))
    ours, theirs = (way.fill(*a_hole()) for way in (inpainter_of("oci-gan", network), exported))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounding at half a level


def test_figures_of_a_known_difference() -> None:
    truth = speckle()
    mask = np.zeros(truth.shape[:2], np.bool_)
    mask[50:60, 50:60] = True
    filled = np.where(mask[..., None], np.where(truth > 127, truth - 10, truth + 10), truth).astype(np.uint8)
    inside, whole = filling.figures(filled, truth, mask)
    assert inside[:3] == pytest.approx([10, (10 / 255) ** 2, 20 * np.log10(25.5)])
    assert whole[0] == pytest.approx(10 * mask.mean())
    assert inside[3] < whole[3] < 1
    assert filling.figures(truth, truth, mask)[:, 3] == pytest.approx(1)


def test_kid_is_near_nothing_for_one_distribution_and_large_for_two() -> None:
    one, same = np.random.default_rng(0).normal(size=(2, 80, 2, 16)).astype(np.float32)
    near, far = (filling.kernel_distances(other, one) for other in (same, same + 1))
    assert abs(near.mean()) < 0.1
    assert far.mean() > 10 * abs(near.mean())
    assert far.min() > near.max()


@pytest.mark.data
def test_the_table_has_a_row_per_way_and_the_reference_beats_doing_nothing(data: Path) -> None:
    ways = [Classical("telea"), Classical("navier-stokes")]
    result = filling.evaluate_inpaint(data, ways, None, pictures=6, split="val")
    rows = {row["name"]: row for row in result["rows"]}

    assert list(rows) == ["uncleaned", "telea", "navier-stokes"]
    assert rows["navier-stokes"]["mask"] == "given"
    assert rows["navier-stokes"]["inside"]["psnr"][0] > rows["uncleaned"]["inside"]["psnr"][0] + 3
    assert "difference" in rows["telea"]["inside"]
    json.dumps(result)


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


def speckle(seed: int = 0, rows: int = 200, columns: int = 260) -> np.ndarray:
    """A grey picture with something in every pixel."""
    noise = np.random.default_rng(seed).rayleigh(60, (rows, columns)).astype(np.float32)
    grey = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.2), 20, 220).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


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


# The reader of small letters: drawn lines, two steps of training, its card in the tools, its figures

TINY = line_reader.ReaderRecipe(iterations=2, lines=4, validate_every=1, half=False, threads=1)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures under the names of the frames that training and validation read."""
    data, needed = tmp_path_factory.mktemp("data"), (*clean_frames("train")[::3], *clean_frames("val"))
    size = max(one.box[3] for one in needed), max(one.box[2] for one in needed)
    cv2.imwrite(str(data / "speckle.jpg"), linear_echo(3, size))
    for path in (data / one.source / one.file for one in needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(data / "speckle.jpg")
    return data


def test_a_reader_that_was_trained_is_the_one_that_the_node_runs(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_reader, "VALIDATED", 2)
    card = line_reader.train(frames, tmp_path, TINY)
    registry.verify(found := registry.find(line_reader.ID, tmp_path))
    assert (line_reader.ID, found.path, found.details["symbols"]["read"]) == (LINES, card, SYMBOLS)
    assert found.details["training"]["fonts"] == drawn_lines.PACKAGES.split()
    tools = shared_tools(tmp_path)
    assert tools.models[1] == found.ref != shared_tools().models[1]
    assert tools.reader.small is not None
    tools.reader.small.read(burn(np.zeros((20, 90), np.uint8), "Gn -2", (4, 2), 255, 14))


@pytest.mark.parametrize("columns", [32, 128, 1600])
def test_what_is_exported_says_what_was_trained_at_every_width(tmp_path: Path, columns: int) -> None:
    torch.manual_seed(3)
    network = line_reader.ReaderNetwork(len(SYMBOLS) + 1).eval()
    line_reader.export_reader(network, path := tmp_path / "reader.onnx")
    line = np.random.default_rng(1).uniform(-1, 1, (1, 1, HEIGHT, columns)).astype(np.float32)
    theirs = OnnxRuntime(path.read_bytes(), 1)(line)["symbols"]
    with torch.inference_mode():
        np.testing.assert_allclose(
            line_reader.ReaderGraph(network)(torch.from_numpy(line)).numpy(), theirs, atol=1e-4
        )
    assert theirs.shape == (1, columns // 4, len(SYMBOLS) + 1)


def test_lines_are_drawn_alike_by_one_seed_and_every_symbol_has_an_output() -> None:
    def drawn(seed: int) -> list[tuple[Picture, str]]:
        random = np.random.default_rng(seed)
        return [drawn_lines.synthetic_line(random, [linear_echo()]) for _ in range(40)]

    for (picture, text), (again, same) in zip(drawn(1), drawn(1), strict=True):
        assert np.array_equal(picture, again)
        assert text == same == known(text)
    lines, symbols, lengths = drawn_lines.batch_of(drawn(2))
    assert lines.shape[:3] == (40, 1, HEIGHT)
    assert lines.shape[3] % 64 == 0
    assert int(lengths.sum()) == len(symbols)
    assert 0 < int(symbols.min()) <= int(symbols.max()) <= len(SYMBOLS)
    assert lines.shape[3] // 4 >= 2 * int(lengths.max()) + 1  # CTC parts equal letters by a blank
    assert 0 in lengths  # pictures without letters


@pytest.mark.parametrize(
    ("one", "other", "changes"), [("", "", 0), ("Gn", "", 2), ("Gn5", "6n5", 1), ("kitten", "sitting", 3)]
)
def test_letters_to_change(one: str, other: str, changes: int) -> None:
    assert line_reader.distance(one, other) == line_reader.distance(other, one) == changes


def test_the_written_lines_are_lines() -> None:
    found = list(rows(DATA / "lines" / "lines.csv"))
    assert len(found) == 368
    assert [row for row in found if not row["text"].strip() or int(row["right"]) <= int(row["left"])] == []


@pytest.mark.data
def test_readers_are_measured_on_real_lines(data: Path, tmp_path: Path) -> None:
    some = [row for row in rows(DATA / "lines" / "lines.csv") if row["set"] == "us_ovarian"][:6]
    lab.table(tmp_path / "lines.csv", list(some[0]), [list(row.values()) for row in some])
    result = line_reader.evaluate_reader(data, tmp_path, shared_tools().reader, 2)
    assert result["lines"] == result["us_ovarian"]["ours"]["lines"] == 6
    assert result["names_dates_numbers"] > 0
    assert {"ours", "rapidocr"} <= set(result["readers"])
    for figures in result["readers"].values():
        value, low, high = figures["character_error"]
        assert low <= value <= high
        assert 0 <= figures["taken_for_harmless"] <= result["names_dates_numbers"]
