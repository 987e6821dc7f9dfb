"""Data sets of results: attributes set by keyword, and the Part 10 file in a character set."""

import io
from collections.abc import Sequence
from copy import deepcopy
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import (
    can_encode,
    character_sets,
    quiet_pydicom,
)


def set_values(dataset: Dataset, **values: object) -> None:
    """Set attributes of a data set; ``values``: their values by keyword."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)


def text_of(dataset: Dataset, keyword: str) -> str:
    """The value of an attribute as text; "" if it is missing or has no value."""
    return str(dataset.get(keyword) or "")


def sequence(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence attribute; empty if it is missing or no sequence."""
    value = dataset[keyword].value if keyword in dataset and dataset[keyword].VR == "SQ" else None
    return list(value or ())


UTF8: Final = "ISO_IR 192"


def copy_attributes(dataset: Dataset, given: Dataset, *keywords: str) -> None:
    """Copy those of the attributes that ``given`` has, also without a value."""
    for keyword in keywords:
        if keyword in given:
            dataset[keyword] = deepcopy(given[keyword])


def encode_in_charset_of(dataset: Dataset, source: Dataset) -> bytes:
    """The Part 10 file of a data set in the character set of ``source``.

    If that cannot encode a text (a label of a model), or names none, ISO_IR 192 is used: "?" is never
    written.
    """
    charset = character_sets(source)
    dataset.SpecificCharacterSet = UTF8
    if any(charset) and can_encode(charset, dataset):
        dataset.SpecificCharacterSet = list(charset) if len(charset) > 1 else charset[0]
    buffer = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(buffer, enforce_file_format=True)
    if isinstance(pixels := dataset.get("PixelData"), io.BufferedIOBase):
        pixels.close()  # a cine's samples lie in a temporary file
    return buffer.getvalue()
