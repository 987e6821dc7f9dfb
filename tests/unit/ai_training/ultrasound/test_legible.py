"""What was burned in and can still be read is found: the evaluation of cleaning sees what is left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import DerivedImage, ImageKind
from ai_training.ultrasound import legible
from ai_training.ultrasound.legible import (
    LegibilityTest,
    LegibleOutcome,
    LegibleTask,
    Token,
    at_most,
    counted,
    identity_tokens,
    is_read,
    leaks,
    level_crop,
    similarity,
    uncovered_texts,
    words_of,
    writing_corners,
)
from ai_training.ultrasound.overlays import HELD_OUT, BurnIn, burn_in
from tests.unit.ai_training.ultrasound.test_overlays import speckle


@pytest.fixture(scope="module")
def burned() -> BurnIn:
    """One that tells an identity in Latin letters."""
    made = (burn_in(speckle(rows=300, columns=420), HELD_OUT, (31, seed)) for seed in range(60))
    tokens = ((picture, identity_tokens(picture)) for picture in made)
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
    burned: BurnIn, cleaned: CleaningResult, readers: list[legible.OcrEngine], report: Path | None
) -> LegibleOutcome:
    job = LegibleTask(Path(), "test", CleaningPolicy.RESEARCH, None, report)
    test = LegibilityTest(job, cast(Tools, object()), readers)
    return test.outcome(0, "speckle", burned, identity_tokens(burned), cleaned, 1.0)


def test_a_picture_that_was_not_cleaned_is_found_out(
    burned: BurnIn, reader: legible.RapidOcr, tmp_path: Path
) -> None:
    outcome = outcome_of(burned, result_of(burned.image, burned.mask > 0), [reader], tmp_path)
    count = outcome.counts["rapidocr"]
    assert len(count.left) == count.before > 2 and count.elsewhere and list(tmp_path.glob("left-*.png"))


def test_a_picture_without_the_overlay_holds_nothing_of_it(burned: BurnIn, reader: legible.RapidOcr) -> None:
    whole = np.ones(burned.owners.shape, np.bool_)
    outcome = outcome_of(burned, result_of(burned.clean, whole), [reader], None)
    count = outcome.counts["rapidocr"]
    assert (count.left, count.elsewhere) == ((), ())
    assert (outcome.changed_outside, outcome.uncovered) == (0, 0)


def test_pixels_that_changed_outside_the_mask_are_counted(burned: BurnIn) -> None:
    changed, mask = burned.image.copy(), np.zeros(burned.owners.shape, np.bool_)
    changed[5, 7:10] ^= 1
    mask[5, 9] = True

    assert outcome_of(burned, result_of(changed, mask), [], None).changed_outside == 2


def test_a_line_that_the_mask_leaves_out_is_counted(burned: BurnIn) -> None:
    tokens, mask = identity_tokens(burned), burned.mask > 0
    mask[burned.owners == tokens[0].owner] = False

    assert uncovered_texts(burned, tokens, burned.mask > 0) == 0
    assert uncovered_texts(burned, tokens, mask) == 1


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
    assert similarity(token, read) == pytest.approx(expected)


def test_a_surname_alone_is_a_leak_but_not_a_legible_token_and_keys_are_not_looked_for() -> None:
    token = Token("NOWAKJ12FEB1961", words_of("NOWAK^J 12 Feb 1961"), np.zeros((4, 2), np.float32), 1)
    assert not is_read(token, ("NOWAK",)) and leaks(token, ("XNOWAKX",)) and not leaks(token, ("DOB", "J1"))
    assert words_of("Name: Kim, J. DOB 1961/03/05") == ("KIM", "1961")


@pytest.mark.parametrize("angle", [0, 25, 90, 180])
def test_a_line_is_turned_level_before_it_is_read(angle: float, reader: legible.RapidOcr) -> None:
    ink, turn = np.zeros((300, 300), np.uint8), cv2.getRotationMatrix2D((150, 150), angle, 1.0)
    cv2.putText(ink, "NOWAK 471193", (60, 155), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1, cv2.LINE_AA)
    written = cv2.warpAffine(ink, turn, (300, 300)) > 60
    picture = np.where(written[..., None], np.uint8(255), speckle(rows=300, columns=300) // 3)
    (texts,) = reader.lines([level_crop(picture, writing_corners(written))])
    assert any(similarity("NOWAK471193", text) >= 0.8 for text in texts), texts


def test_nothing_left_of_five_hundred_means_at_most_six_in_a_thousand() -> None:
    assert at_most(0, 500) == pytest.approx(0.006, abs=1e-4) and at_most(0, 0) == at_most(3, 3) == 1.0


def test_a_missing_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    outcome = LegibleOutcome(0, "a", 1, released=False, seconds=1.0, reason="too much")
    result = counted([outcome], "test", "research")
    assert [engine.name for engine in legible.engines()] == ["rapidocr"]
    assert "not installed" in result["tesseract"] and result["quarantined"]["pictures"] == 1


@pytest.mark.debian("tesseract-ocr")
def test_tesseract_reads_lines_in_their_order_and_places() -> None:
    engine, pictures = legible.Tesseract(), []
    for text in ("NOWAK 4711", "1961-03-05"):
        picture = np.zeros((40, 260, 3), np.uint8)
        cv2.putText(picture, text, (8, 29), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
        pictures.append(picture)
    lines, page = engine.lines(pictures), np.concatenate([*pictures, np.zeros((200, 260, 3), np.uint8)])

    for word, line in zip(("NOWAK4711", "19610305"), lines, strict=True):
        assert any(similarity(word, text) > 0.8 for text in line), line
    assert lines[0] != lines[1]
    (found,) = [read for read in engine.everything(page) if "1961" in read.text]
    assert 40 <= found.box[1] < found.box[3] <= 84
