"""Less speckle in cleaned pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ai_pipeline.burnin import pipeline
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.cli import app
from ai_pipeline.contract import DerivedImage, ImageHeader, ImageKind, ModelRef, Progress, UltrasoundRegion
from ai_pipeline.despeckle.despeckler import MODEL, Despeckler
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.models import registry
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import drawn_head

REF = ModelRef("despeckle", "1", "a" * 64, "b" * 64)
HEADER = ImageHeader("US", "", 61, 83, 1, "MONOCHROME2", 8)


def blurred(pictures: np.ndarray) -> Mapping[str, np.ndarray]:
    assert pictures.shape[2] % 4 == pictures.shape[3] % 4 == 0
    return {"despeckled": cv2.blur(pictures[0, 0], (5, 5))[None, None]}


HALF, WHOLE = Despeckler(blurred, 0.5, REF), Despeckler(blurred, 1.0, REF)


def silent(share: float, what: str) -> None:
    pass


def cleaned(frames: np.ndarray, photometric: str = "MONOCHROME2", *, verified: bool = True) -> DerivedImage:
    return DerivedImage(ImageKind.CLEANED, "1.2.3", frames, photometric, "text", verified=verified)  # type: ignore[arg-type]


def speckled(*shape: int, white: int = 255) -> np.ndarray:
    return np.random.default_rng(1).integers(white // 5, white, (*shape, 61, 83))


def test_speckle_is_less_and_the_strength_says_by_how_much() -> None:
    frames = speckled(1).astype(np.uint8)

    half = HALF.despeckle(cleaned(frames), HEADER, silent)
    whole = WHOLE.despeckle(cleaned(frames), HEADER, silent)

    assert frames.std() > half.frames.std() > whole.frames.std()  # type: ignore[attr-defined]
    assert (half.name, half.verified, half.models) == ("despeckled", True, (REF,))
    assert np.allclose(half.frames, (frames.astype(float) + whole.frames) / 2, atol=1)  # type: ignore[operator]


def test_outside_the_region_and_in_black_nothing_changes() -> None:
    frames = speckled(1).astype(np.uint8)
    frames[0, 30, 40] = 0
    header = replace(HEADER, ultrasound_regions=(UltrasoundRegion((20, 10, 70, 50), None, 1, 1),))

    made = WHOLE.despeckle(cleaned(frames), header, silent).frames

    changed = made != frames
    assert changed[0, 10:50, 20:70].mean() > 0.8  # type: ignore[index]
    assert changed.sum() == changed[0, 10:50, 20:70].sum()  # type: ignore[attr-defined,index]
    assert not changed[0, 30, 40]  # type: ignore[index]


def test_flow_keeps_its_colours() -> None:
    grey = speckled(1).astype(np.uint8)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[0, 20:30, 20:30] = (250, 30, 10)

    made = WHOLE.despeckle(cleaned(frames, "RGB"), replace(HEADER, photometric="RGB"), silent).frames

    assert (made[0, 20:30, 20:30] == (250, 30, 10)).all()  # type: ignore[index]
    assert (np.ptp(np.asarray(made[0, 40:60]), axis=-1) <= 1).all()  # type: ignore[index]
    assert (made != frames).mean() > 0.5  # type: ignore[attr-defined]


def test_sixteen_bits_and_inverted_grey_keep_their_scale() -> None:
    frames = speckled(1, white=4095).astype(np.uint16)
    header = replace(HEADER, bits_stored=12)

    plain = WHOLE.despeckle(cleaned(frames), header, silent).frames
    inverted = WHOLE.despeckle(cleaned(4095 - frames, "MONOCHROME1"), header, silent).frames

    assert plain.dtype == np.uint16
    assert abs(float(plain.mean()) - frames.mean()) < 20  # type: ignore[attr-defined]
    assert np.abs(4095 - inverted.astype(int) - plain.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "image",
    [
        cleaned(speckled(1).astype(np.uint8), verified=False),
        replace(cleaned(speckled(1).astype(np.uint8)), kind=ImageKind.MASK),
        cleaned(speckled(1).astype(np.int16)),
    ],
)
def test_what_was_not_verified_or_has_a_sign_is_refused(image: DerivedImage) -> None:
    with pytest.raises(CleaningFailed):
        WHOLE.despeckle(image, HEADER, silent)


def speckled_picture() -> np.ndarray:
    noise = np.random.default_rng(1).rayleigh(0.5, (345, 512))
    return np.clip(drawn_head()[0] * noise, 0, 255).astype(np.uint8)


def test_the_network_that_ships_takes_speckle_away_and_keeps_the_size() -> None:
    registry.verify(registry.find(MODEL))
    picture = speckled_picture()[:301, :403].astype(np.float32) / 255

    made = Despeckler.active().picture(picture)

    assert made.shape == picture.shape
    flat = np.s_[:60, :60]  # tissue of one grey
    assert made[flat].std() < 0.8 * picture[flat].std()
    assert made[flat].mean() == pytest.approx(picture[flat].mean(), rel=0.15)


def test_the_command_line_gives_the_cleaned_picture_once_more(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "us.png"), speckled_picture())
    given = ["--pipeline", "ultrasound", "--modality", "US", "--json", "--despeckle", "--out", str(tmp_path)]

    done = CliRunner().invoke(app, ["run", str(tmp_path / "us.png"), *given])

    assert done.exit_code == 0, done.output
    images = {image["kind"]: image["path"] for image in json.loads(done.stdout)["images"]}
    cleaned, less = (cv2.imread(images[kind], cv2.IMREAD_GRAYSCALE) for kind in ("cleaned", "despeckled"))
    assert cleaned is not None
    assert less is not None
    assert less.shape == cleaned.shape
    assert np.abs(np.diff(less.astype(int))).mean() < 0.9 * np.abs(np.diff(cleaned.astype(int))).mean()


def test_what_cannot_be_despeckled_is_still_cleaned_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(
        self: Despeckler, cleaned: DerivedImage, header: ImageHeader, report: Progress, kept: object
    ) -> None:
        raise CleaningFailed("speckle is reduced on unsigned samples only")

    monkeypatch.setattr(pipeline.Despeckler, "despeckle", refuses)

    result = Ultrasound(despeckler=Despeckler.active()).run(
        [ArrayImage(speckled_picture()[None])], silent, {}
    )

    assert {image.kind for image in result.images} == {ImageKind.CLEANED, ImageKind.MASK}
    assert "not_despeckled" in {note.name for note in result.quality}
    assert MODEL in {model.id for model in result.models}
