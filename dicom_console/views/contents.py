"""The content of a result object, as a tree that a person can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import quiet_pydicom

_NODES = 3000
"""Most nodes that are shown of one object; a segmentation of many frames has more than anybody reads."""
_LONGEST = 2000  # characters of one value
_BULK = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
_HIDDEN = ("HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD")  # what qualifies another item


@dataclass(slots=True)
class Node:
    """One entry of the tree that shows an object's content.

    ``note``: its DICOM tag, or the value type of an SR content item; ``qualifies``: it only adds detail to
    its parent.
    """

    name: str
    value: str = ""
    note: str = ""
    qualifies: bool = False
    children: list[Node] = field(default_factory=list)


def contents(path: Path) -> tuple[list[Node], bool]:
    """Return (tree, whether it is complete) of a DICOM file: content items of a report, attributes of other
    objects.
    """
    numbers = count()  # of all nodes, as they are made
    with quiet_pydicom():
        dataset = dcmread(path, stop_before_pixels=True)
        is_report = "ContentSequence" in dataset
        tree = [_item(dataset, numbers)] if is_report else list(_attributes(dataset, numbers))
    return tree, next(numbers) <= _NODES


def _item(item: Dataset, numbers: Iterator[int]) -> Node:
    """Return the entry for an SR content item (PS3.3 C.17.3), with those below it.

    ``numbers``: counts all entries of the tree, whose number is limited.
    """
    name = item.get("ConceptNameCodeSequence")
    return Node(
        name=str(name[0].CodeMeaning) if name else "Source",
        value=_value(item)[:_LONGEST],
        note=str(item.get("ValueType", "")),
        qualifies=str(item.get("RelationshipType", "")) in _HIDDEN,
        children=[
            _item(child, numbers) for child in item.get("ContentSequence", ()) if next(numbers) < _NODES
        ],
    )


def _value(item: Dataset) -> str:
    """Return the value of an SR content item as text."""
    match str(item.get("ValueType", "")):
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "NUM" if item.get("MeasuredValueSequence"):
            number = item.MeasuredValueSequence[0]
            unit = str(number.MeasurementUnitsCodeSequence[0].CodeValue)
            return f"{number.NumericValue} {'' if unit in {'{ratio}', '1'} else unit.strip('{}')}".strip()
        case "SCOORD":
            points = [round(float(value), 1) for value in item.GraphicData]
            pairs = zip(points[::2], points[1::2], strict=True)
            return f"{item.GraphicType} " + " ".join(f"({x:g}, {y:g})" for x, y in pairs)
        case "IMAGE" | "COMPOSITE":
            referenced = item.ReferencedSOPSequence[0]
            frames = referenced.get("ReferencedFrameNumber")
            return f"{referenced.ReferencedSOPInstanceUID}{f', frames {frames}' if frames else ''}"
        case _:
            texts = (item.get(keyword) for keyword in ("TextValue", "UID", "PersonName", "DateTime", "Date"))
            return next((str(text) for text in texts if text), "")


def _attributes(dataset: Dataset, numbers: Iterator[int]) -> Iterator[Node]:
    """Yield an entry for each attribute of a data set.

    ``numbers``: the counter of all entries of the tree, whose number is limited.
    """
    for element in dataset:
        if next(numbers) >= _NODES:
            return
        node = Node(element.name, note=str(element.tag))
        if element.VR == "SQ":
            node.children = [
                Node(f"Item {place}", children=list(_attributes(item, numbers)))
                for place, item in enumerate(islice(element.value, _NODES), start=1)
                if next(numbers) < _NODES
            ]
        elif element.VR in _BULK or isinstance(element.value, bytes):
            node.value = f"{len(element.value or b''):,} bytes"
        else:
            values = element.value if element.VM > 1 else [element.value or ""]
            node.value = " \\ ".join(map(str, values))[:_LONGEST]
        yield node
