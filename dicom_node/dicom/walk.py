"""A data set with the items of its sequences, however deep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset


def items(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every item below it, outer ones first; an item removed on the way is not visited."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def values(dataset: Dataset) -> Iterator[tuple[DataElement, Any]]:
    """Each value that is no sequence and not empty, with its element."""
    for item in items(dataset):
        for element in item:
            if element.VR != "SQ" and element.value not in (None, ""):
                for value in element.value if element.VM > 1 else [element.value]:
                    yield element, value
