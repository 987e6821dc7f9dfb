"""What tests read of de-identified objects."""

import io
from collections.abc import Iterator

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.dicom.walk import items


def dataset(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data))


def references(ds: Dataset) -> Iterator[tuple[str, str]]:
    for item in items(ds):
        if "ReferencedSOPInstanceUID" in item:
            yield item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def everything(ds: Dataset) -> Iterator[DataElement]:
    for item in items(ds):
        yield from item
