"""What tests read of de-identified objects."""

from __future__ import annotations

import io
from collections.abc import Iterator

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset


def dataset(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data))


def references(ds: Dataset) -> Iterator[tuple[str, str]]:
    for item in items(ds):
        if "ReferencedSOPInstanceUID" in item:
            yield item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def items(ds: Dataset) -> Iterator[Dataset]:
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def everything(ds: Dataset) -> Iterator[DataElement]:
    for item in items(ds):
        yield from item
