"""What came back: objects fetched from the PACS, written with previews, and read as a person would."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.results.common import concepts

# PS3.16 TID 1500: the container and the concept that are read here.
_MEASUREMENT_GROUP, _FINDING = "125007", "121071"
_DECISIONS = {code.value: decision.value for decision, code in concepts.DECISIONS.items()}


@dataclass(frozen=True, slots=True)
class Returned:
    """One object that the PACS holds. ``kind`` is that of a result, or "source"."""

    kind: str
    sop_instance_uid: str
    path: Path
    preview: Path | None


def write(folder: Path, objects: Sequence[bytes], kinds: Mapping[str, str]) -> list[Returned]:
    """Write objects to ``folder``/pacs and previews of the images beside; ``kinds`` by SOP Instance UID.

    What an earlier run wrote there is replaced.
    """
    _clear(folder)
    (folder / "pacs").mkdir(parents=True)
    headers = [(dcmread(BytesIO(data), stop_before_pixels=True), data) for data in objects]
    headers.sort(key=lambda pair: _order(pair[0], kinds))
    written: list[Returned] = []
    for number, (header, data) in enumerate(headers, start=1):
        uid = str(header.SOPInstanceUID)
        kind = kinds.get(uid, "source")
        path = folder / "pacs" / f"{number:02d}-{kind}.dcm"
        path.write_bytes(data)
        written.append(Returned(kind, uid, path, _preview(path, folder / f"{number:02d}-{kind}.png")))
    return written


def findings(report: Path) -> list[dict[str, Any]]:
    """The findings of a TID 1500 report, in its order: name, decision, numbers, region."""
    document = dcmread(report)
    found: list[dict[str, Any]] = []
    for group in _containers(document, _MEASUREMENT_GROUP):
        found += _of_group(group)
    return found


def _of_group(group: Dataset) -> list[dict[str, Any]]:
    items = list(group.get("ContentSequence", ()))
    numbers = {
        str(_name(item).CodeMeaning): f"{item.MeasuredValueSequence[0].NumericValue} "
        f"{item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue}"
        for item in items
        if item.ValueType == "NUM" and item.get("MeasuredValueSequence")
    }
    region = next((item for item in items if item.ValueType == "SCOORD"), None)
    points = [float(value) for value in region.GraphicData] if region is not None else []
    coded = [item for item in items if item.ValueType == "CODE"]
    subject = next((_value(item) for item in coded if _name(item).CodeValue == _FINDING), "")
    decided = [
        (
            subject if _name(item).CodeValue == concepts.PRESENCE.value else str(_name(item).CodeMeaning),
            _DECISIONS[item.ConceptCodeSequence[0].CodeValue],
        )
        for item in coded
        if item.ConceptCodeSequence[0].CodeValue in _DECISIONS
    ]
    return [
        {
            "finding": name,
            "decision": decision,
            "numbers": _numbers_of(place, len(decided), numbers),
            "region": list(zip(points[::2], points[1::2], strict=True)),
        }
        for place, (name, decision) in enumerate(decided)
    ]


def _numbers_of(place: int, decided: int, numbers: Mapping[str, str]) -> dict[str, str]:
    """All numbers of a group on one finding; of a summary on several the one at the finding's place."""
    if decided == 1:
        return dict(numbers)
    return dict([list(numbers.items())[place]]) if len(numbers) == decided else {}


def _containers(item: Dataset, code: str) -> list[Dataset]:
    concept = item.get("ConceptNameCodeSequence")
    if concept and concept[0].get("CodeValue") == code:
        return [item]
    return [found for child in item.get("ContentSequence", ()) for found in _containers(child, code)]


def _name(item: Dataset) -> Dataset:
    """Its concept, as a code."""
    code: Dataset = item.ConceptNameCodeSequence[0]
    return code


def _value(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeMeaning)


def _order(header: Dataset, kinds: Mapping[str, str]) -> tuple[bool, str, int, str]:
    """Sources first, then results by kind and number."""
    kind = kinds.get(str(header.SOPInstanceUID), "")
    return bool(kind), kind, int(header.get("InstanceNumber") or 0), str(header.SOPInstanceUID)


def _preview(path: Path, target: Path) -> Path | None:
    """The middle frame as a viewer shows it; None for what has no pixels."""
    if not dcmread(path, specific_tags=["Rows"], stop_before_pixels=True).get("Rows"):
        return None
    try:
        image = open_dicom(path)
        picture = image.display(image.header.frames // 2)
    except PixelError:
        return None
    Image.fromarray(picture).save(target)
    return target


def _clear(folder: Path) -> None:
    shutil.rmtree(folder / "pacs", ignore_errors=True)
    for preview in folder.glob("[0-9][0-9]-*.png"):
        preview.unlink()
