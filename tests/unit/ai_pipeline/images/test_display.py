"""Every sample becomes the grey of its own value, whatever type, byte order or shape it came in."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.images.display import BAND_ROWS, GreyDisplay


def windowed(centre: float, width: float) -> Dataset:
    attributes = Dataset()
    attributes.WindowCenter, attributes.WindowWidth = centre, width
    attributes.RescaleSlope, attributes.RescaleIntercept = 1, -5
    return attributes


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2", ">u2", ">i2"])
@pytest.mark.parametrize("shape", [(1, 1), (BAND_ROWS + 1, 7), (40, 3)])
def test_the_table_is_looked_up_by_value(kind: str, shape: tuple[int, int]) -> None:
    ends = np.iinfo(kind)
    stored = np.random.default_rng(2).integers(ends.min, ends.max, shape, endpoint=True).astype(kind)

    shown = GreyDisplay.from_dataset(windowed(20, 101)).show(stored)

    # PS3.3 C.11.2.1.2.1: LINEAR, of the value after the Modality LUT
    shares = np.clip((stored.astype(float) - 5 - 19.5) / 100 + 0.5, 0, 1)
    np.testing.assert_array_equal(shown, np.rint(shares * 255).astype(np.uint8))


def test_a_transposed_picture_is_shown_as_it_lies() -> None:
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4)
    display = GreyDisplay.from_dataset(windowed(6, 12))

    np.testing.assert_array_equal(display.show(stored.T), display.show(stored).T)
