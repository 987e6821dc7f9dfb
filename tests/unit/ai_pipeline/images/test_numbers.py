"""A number of a header is one within its limits, or none."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai_pipeline.errors import HeaderError
from ai_pipeline.images.display import GreyDisplay
from ai_pipeline.images.header import age_years, read_header
from ai_pipeline.images.numbers import decimal, decimal_of, is_empty, value_of, whole, whole_of
from tests.modality import chest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which quotes values

NONE = (
    *("", " ", "NaN", "inf", "1e999", "9" * 5000, "1\\2", "a", "\x1b\x07", "\uffff", "\\", "0x1", "1_000"),
    *("٣", "²", "--1", None, [1, 2], b"1", float("nan"), float("inf"), 10**400),
)
RAW = (b"9" * 5000, b"1e999 ", b"NaN ", b"-5", b" ", b"\xef\xbf\xbf ", b"1\\2 ", b"\x1b\x07", b"\xc2\xb2")


def test_what_is_no_number_is_none() -> None:
    assert [value for value in NONE if (whole(value), decimal(value)) != (None, None)] == []


def test_a_number_is_taken_within_its_limits() -> None:
    assert [whole(one) for one in ("7", " 007 ", "+7", 7, 7.0, "7\0")] == [7] * 6
    assert [whole(one) for one in ("-1", -1, 2**31, "2147483648", 1.5, "1.5")] == [None] * 6
    assert whole("-1", least=-1) == -1
    assert [decimal(one) for one in ("1.5", "1.5e0", ".5", "-2", 3)] == [1.5, 1.5, 0.5, -2.0, 3.0]
    assert [decimal(one) for one in ("1e17", "-1e300", 1e300)] == [None] * 3


@pytest.mark.parametrize("keyword", ["InstanceNumber", "RescaleSlope", "WindowCenter", "Rows", "CineRate"])
def test_an_attribute_gives_a_number_or_the_default_and_no_error(keyword: str) -> None:
    for raw in RAW:
        dataset = with_raw(Dataset(), keyword, raw)
        assert whole_of(dataset, keyword, 4) in (4, *range(2**16)), raw
        assert abs(decimal_of(dataset, keyword, 4.0)) < 1e17, raw
        assert is_empty(dataset, keyword) == (not raw.strip()), raw
        value_of(dataset, keyword)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: ascii(raw)[2:12])
def test_numbers_that_an_image_can_do_without_do_not_stop_it(raw: bytes) -> None:
    image = chest("one", np.zeros((4, 5), "u2"))
    without_age = deepcopy(image)
    del without_age.PatientAge
    for keyword in ("PatientAge", "CineRate", "FrameTime", "PixelSpacing", "InstanceNumber", "WindowCenter"):
        with_raw(image, keyword, raw)
    with_raw(image, "WindowWidth", raw)
    header = read_header(image)
    assert (header.rows, header.columns) == (4, 5)
    assert GreyDisplay.from_dataset(image).choice in {"percentiles", "window"}
    assert age_years(image) == age_years(without_age)  # by the dates


@pytest.mark.parametrize("raw", [one for one in RAW if one.strip()], ids=lambda raw: ascii(raw)[2:12])
def test_a_number_of_frames_that_is_none_is_said(raw: bytes) -> None:
    image = with_raw(chest("one", np.zeros((4, 5), "u2")), "NumberOfFrames", raw)
    with pytest.raises(HeaderError, match="Number of Frames"):
        read_header(image)


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> Dataset:
    """The data set with these very bytes as the value."""
    tag = Tag(keyword)
    vr = {"Rows": "US", "PatientAge": "AS"}.get(keyword, "IS" if keyword in _WHOLE else "DS")
    dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    return dataset


_WHOLE = {"InstanceNumber", "CineRate", "NumberOfFrames"}
