"""Whatever a network's own preprocessing does to a picture, the map says where each pixel went."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.models.card import Chain, Input
from ai_pipeline.models.inputs import network_input

CHAIN = Input(160, 3, (127.0,), (128.0,), "MONOCHROME2", Chain())
XRV = Input(224, 1, (127.5,), (127.5 / 1024,), "MONOCHROME2", Chain(), preprocess="xrv")
IMAGENET = Input(
    224,
    3,
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
    "MONOCHROME2",
    Chain(),
    preprocess="imagenet",
    crop=0.875,
    interpolation="bicubic",
)
SQUASHED = Input(
    224, 3, (0.0,), (255.0,), "MONOCHROME2", Chain(), preprocess="imagenet", crop=1.0, squash=True
)

WAYS = {"chain": CHAIN, "xrv": XRV, "imagenet": IMAGENET, "squashed": SQUASHED}


def picture(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """A bright disc on black, well inside the middle square."""
    image = np.zeros((rows, columns), np.uint8)
    centre = (columns // 2 + columns // 10, rows // 2 - rows // 10)
    return np.asarray(cv2.circle(image, centre, min(rows, columns) // 12, 255, -1), np.uint8)


@pytest.mark.parametrize("shape", [(600, 500), (500, 900), (2500, 2048), (100, 150)])
@pytest.mark.parametrize("wanted", WAYS.values(), ids=WAYS)
def test_the_map_leads_to_where_the_disc_is(wanted: Input, shape: tuple[int, int]) -> None:
    image = picture(*shape)

    values, to_model = network_input(image, wanted)

    assert values.shape == (1, wanted.channels, wanted.size, wanted.size)
    assert values.dtype == np.float32
    ((x, y),) = to_model([_centre(image.astype(np.float64))])
    plain = values[0, 0] - values.min()
    assert _centre(plain) == pytest.approx((x, y), abs=1.0)
    ((back_x, back_y),) = to_model.inverse()([(x, y)])
    assert (back_x, back_y) == pytest.approx(_centre(image.astype(np.float64)), abs=1e-6)


def test_black_and_white_are_what_torchxrayvision_calls_them() -> None:
    image = np.zeros((300, 300), np.uint8)
    image[:, 150:] = 255

    values, _ = network_input(image, XRV)

    assert (values.min(), values.max()) == pytest.approx((-1024.0, 1024.0))


def test_each_channel_has_its_own_mean_and_spread() -> None:
    values, _ = network_input(np.full((300, 300), 255, np.uint8), IMAGENET)

    means, spreads = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (1 - means) / spreads
    np.testing.assert_allclose(values[0, :, 0, 0], expected, rtol=1e-5)


def _centre(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    weight = values / values.sum()
    rows, columns = (np.arange(size) + 0.5 for size in values.shape)
    return float((weight.sum(0) * columns).sum()), float((weight.sum(1) * rows).sum())
