"""Less speckle, made of verified cleaned images only, and only where it is grey and inside the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ai_pipeline.contract import DerivedImage, ImageHeader, ImageKind, ModelRef, UltrasoundRegion
from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.errors import CleaningFailed

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


def test_annotation_that_stays_does_not_fade() -> None:
    frames = speckled(1).astype(np.uint8)

    made = WHOLE.despeckle(cleaned(frames), HEADER, silent, [(-3, 5, 30, 20)]).frames

    assert (made[0, 5:20, :30] == frames[0, 5:20, :30]).all()  # type: ignore[index]
    assert (made[0, 20:, :] != frames[0, 20:, :]).mean() > 0.8  # type: ignore[index]


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


def test_a_cine_is_made_frame_by_frame_outside_memory() -> None:
    frames = speckled(3).astype(np.uint8)

    made = WHOLE.despeckle(cleaned(frames), replace(HEADER, frames=3), silent).frames

    assert isinstance(made, np.memmap)
    assert made.shape == frames.shape
    one = WHOLE.despeckle(cleaned(frames[1:2]), HEADER, silent).frames
    assert (made[1] == one[0]).all()  # type: ignore[index]


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
