"""Iteration over a data set and the items of its sequences, however deep."""

from collections.abc import Iterator
from typing import Any

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ai_pipeline.images.numbers import DAMAGE


def items(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every item in it, outer ones first; an item removed during iteration is skipped."""
    yield dataset
    for element in _elements(dataset):
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def values(dataset: Dataset) -> Iterator[tuple[DataElement, Any]]:
    """Each value that is neither a sequence nor empty, with its element."""
    for item in items(dataset):
        for element in _elements(item):
            if element.VR != "SQ" and element.value not in (None, ""):
                for value in element.value if element.VM > 1 else [element.value]:
                    yield element, value


def listed(value: Any) -> tuple[Any, ...]:
    """The values of an attribute, which has none, one or several."""
    if value in (None, ""):
        return ()
    return tuple(value) if isinstance(value, MultiValue | list) else (value,)


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """All of them; of one that is no value of its VR the bytes: a sender decides what stands in a header."""
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except DAMAGE:
            raw = dataset.get_item(tag, keep_deferred=True)
            element = DataElement(tag, "OB", raw.value or b"", validation_mode=config.IGNORE)
        yield element
