"""Less speckle in cleaned pictures."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ai_pipeline.burnin import pipeline
from ai_pipeline.burnin.despeckle import MODEL, Despeckler
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.cli import app
from ai_pipeline.contract import DerivedImage, ImageHeader, ImageKind, ModelRef, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.models import registry
from tests.unit.ai_pipeline.phantoms import ArrayImage, silent
from tests.unit.heads import drawn_head

REF = ModelRef("despeckle", "1", "a" * 64, "b" * 64)
HEADER = ImageHeader("US", "", 61, 83, 1, "MONOCHROME2", 8)


def blurred(pictures: np.ndarray) -> Mapping[str, np.ndarray]:
    assert pictures.shape[2] % 4 == pictures.shape[3] % 4 == 0
    return {"despeckled": cv2.blur(pictures[0, 0], (5, 5))[None, None]}


HALF, WHOLE = Despeckler(blurred, 0.5, REF), Despeckler(blurred, 1.0, REF)


def cleaned(frames: np.ndarray, photometric: str = "MONOCHROME2", *, verified: bool = True) -> DerivedImage:
    return DerivedImage(ImageKind.CLEANED, "1.2.3", frames, photometric, "text", verified=verified)  # type: ignore[arg-type]


def despeckled(frames: np.ndarray, kind: str = "MONOCHROME2", **header: Any) -> np.ndarray:
    return np.asarray(WHOLE.despeckle(cleaned(frames, kind), replace(HEADER, **header), silent).frames)


def speckled(*shape: int, white: int = 255) -> np.ndarray:
    return np.random.default_rng(1).integers(white // 5, white, (*shape, 61, 83))


def test_speckle_is_less_and_the_strength_says_by_how_much() -> None:
    frames = speckled(1).astype(np.uint8)
    half, whole = HALF.despeckle(cleaned(frames), HEADER, silent), despeckled(frames)
    less = np.asarray(half.frames)
    assert frames.std() > less.std() > whole.std()
    assert (half.name, half.verified, half.models) == ("despeckled", True, (REF,))
    assert np.allclose(less, (frames.astype(float) + whole) / 2, atol=1)


def test_outside_the_region_and_in_black_nothing_changes() -> None:
    frames = speckled(1).astype(np.uint8)
    frames[0, 30, 40] = 0
    region = UltrasoundRegion((20, 10, 70, 50), None, 1, 1)
    changed = (despeckled(frames, ultrasound_regions=(region,)) != frames)[0]
    assert changed[10:50, 20:70].mean() > 0.8 and not changed[30, 40]
    assert changed.sum() == changed[10:50, 20:70].sum()


def test_flow_keeps_its_colours() -> None:
    frames = np.repeat(speckled(1).astype(np.uint8)[..., None], 3, axis=3)
    frames[0, 20:30, 20:30] = (250, 30, 10)
    made = despeckled(frames, "RGB", photometric="RGB")
    assert (made[0, 20:30, 20:30] == (250, 30, 10)).all()
    assert (np.ptp(made[0, 40:60], axis=-1) <= 1).all() and (made != frames).mean() > 0.5


def test_sixteen_bits_and_inverted_grey_keep_their_scale() -> None:
    frames = speckled(1, white=4095).astype(np.uint16)
    plain = despeckled(frames, bits_stored=12)
    inverted = despeckled(4095 - frames, "MONOCHROME1", bits_stored=12)
    assert plain.dtype == np.uint16 and abs(float(plain.mean()) - frames.mean()) < 20
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
    made, flat = Despeckler.active().picture(picture), np.s_[:60, :60]  # tissue of one grey
    assert made.shape == picture.shape and made[flat].std() < 0.8 * picture[flat].std()
    assert made[flat].mean() == pytest.approx(picture[flat].mean(), rel=0.15)


def test_the_command_line_gives_the_cleaned_picture_once_more(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "us.png"), speckled_picture())
    given = ["--pipeline", "ultrasound", "--modality", "US", "--json", "--despeckle", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["run", str(tmp_path / "us.png"), *given])
    assert done.exit_code == 0, done.output
    paths = {image["kind"]: image["path"] for image in json.loads(done.stdout)["images"]}
    cleaned, less = (
        np.asarray(Image.open(paths[kind]).convert("L"), int) for kind in ("cleaned", "despeckled")
    )
    assert (
        less.shape == cleaned.shape and np.abs(np.diff(less)).mean() < 0.9 * np.abs(np.diff(cleaned)).mean()
    )


def test_what_cannot_be_despeckled_is_still_cleaned_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Mock(side_effect=CleaningFailed("speckle is reduced on unsigned samples only"))
    monkeypatch.setattr(pipeline.Despeckler, "despeckle", refusal)
    ultrasound, image = Ultrasound(despeckler=Despeckler.active()), ArrayImage(speckled_picture()[None])
    result = ultrasound.run([image], silent, {})
    assert {image.kind for image in result.images} == {ImageKind.CLEANED, ImageKind.MASK}
    assert "not_despeckled" in {note.name for note in result.quality}
    assert MODEL in {model.id for model in result.models}
