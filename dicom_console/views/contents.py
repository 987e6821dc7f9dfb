"""The content of a result object, as a tree that a person can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.dicom.header import quiet_pydicom

_NODES = 3000
"""Most nodes that are shown of one object; a segmentation of many frames has more than anybody reads."""
_LONGEST = 2000  # characters of one value
_BULK = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
_HIDDEN = ("HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD")  # what qualifies another item


@dataclass(slots=True)
class Node:
    """One item of the tree. ``note``: the sort of item; ``qualifies``: whether it adds detail to its
    parent.
    """

    name: str
    value: str = ""
    note: str = ""
    qualifies: bool = False
    children: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class _Budget:
    left: int = _NODES

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def contents(path: Path) -> tuple[list[Node], bool]:
    """The tree, and whether the tree is complete: content items of a report, attributes of other objects."""
    budget = _Budget()
    with quiet_pydicom():
        dataset = dcmread(path, stop_before_pixels=True)
        if "ContentSequence" in dataset:
            tree = [_item(dataset, budget)]
        else:
            tree = list(_attributes(dataset, budget))
    return tree, budget.left >= 0


def _item(item: Dataset, budget: _Budget) -> Node:
    """A content item (PS3.3 C.17.3) with those below it."""
    name = item.get("ConceptNameCodeSequence")
    relationship = str(item.get("RelationshipType", ""))
    return Node(
        name=str(name[0].CodeMeaning) if name else "Source",
        value=_value(item)[:_LONGEST],
        note=str(item.get("ValueType", "")),
        qualifies=relationship in _HIDDEN,
        children=[_item(child, budget) for child in item.get("ContentSequence", ()) if budget.take()],
    )


def _value(item: Dataset) -> str:
    match str(item.get("ValueType", "")):
        case "CODE":
            code = item.ConceptCodeSequence[0]
            return str(code.CodeMeaning)
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


def _attributes(dataset: Dataset, budget: _Budget) -> Iterator[Node]:
    for element in dataset:
        if not budget.take():
            return
        yield _attribute(element, budget)


def _attribute(element: DataElement, budget: _Budget) -> Node:
    if element.VR == "SQ":
        items = [
            Node(f"Item {place}", children=list(_attributes(item, budget)))
            for place, item in enumerate(islice(element.value, _NODES), start=1)
            if budget.take()
        ]
        return Node(element.name, note=str(element.tag), children=items)
    if element.VR in _BULK or isinstance(element.value, bytes):
        value = f"{len(element.value or b''):,} bytes"
    else:
        value = " \\ ".join(str(one) for one in element.value) if element.VM > 1 else str(element.value or "")
    return Node(element.name, value[:_LONGEST], str(element.tag))
