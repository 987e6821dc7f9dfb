"""Reads the content of the node's own reports: findings with their numbers, measurements, conclusion.

The items are pydicom's. highdicom's own readers rebuild each content item: the same findings take 0.19 s
instead of 0.05 (a chest X-ray with three), and the page of a study reads all its reports.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.contract import Decision
from dicom_node.results.common import concepts
from dicom_node.results.common.context import BURNED_IN_HEAD
from dicom_node.results.common.previous import StatedCode, StatedFinding, StatedNumber

# PS3.16 TID 1500: the containers and the concepts that are read here.
_MEASUREMENT_GROUP, _FINDING = "125007", "121071"
_SITE, _LATERALITY = "363698007", "272741003"
_ALGORITHM_NAME, _ALGORITHM_VERSION = "111001", "111003"
_DECISIONS = {code.value: decision.value for decision, code in concepts.DECISIONS.items()} | {
    concepts.PRESENT.value: Decision.PRESENT.value
}


def findings(report: Path) -> list[dict[str, Any]]:
    """The findings of a TID 1500 report, in its order.

    Each has name, code, decision, the concept of its presence, sites, numbers, region, model and UID.
    """
    return [row for row, _ in _decided(dcmread(report))]


def measurements(report: Path) -> list[dict[str, Any]]:
    """The measurements of a TID 1500 report that belong to no finding: name, number, model."""
    found: list[dict[str, Any]] = []
    for _, items in _measured(dcmread(report)):
        coded = [item for item in items if _is_coded(item) and _name(item).CodeValue == _SITE]
        site = ", ".join(str(item.ConceptCodeSequence[0].CodeMeaning) for item in coded)
        for name, number in _numbers(items).items():
            found.append({"name": name, "site": site, "number": number, "model": _model(items)})
    return found


def stated(report: Path) -> tuple[list[StatedFinding], list[StatedNumber]]:
    """The findings and the measured numbers of a TID 1500 report, each with its image."""
    document = dcmread(report)
    numbers = [
        _stated_number(item, items, group)
        for group, items in _measured(document)
        for item in items
        if item.ValueType == "NUM"
    ]
    found = [
        StatedFinding(
            _image(item),
            (row["code"][0], row["code"][1]),
            row["finding"],
            Decision(row["decision"]),
            row["model"],
            row["tracking_uid"],
            row["presence"],
            row["sites"],
            row["numbers"],
        )
        for row, item in _decided(document)
    ]
    return found, numbers


def _decided(document: Dataset) -> Iterator[tuple[dict[str, Any], Dataset]]:
    """Each finding of a report with its group, or its item among the qualitative evaluations."""
    for group in _containers(document, _MEASUREMENT_GROUP):
        yield from ((row, group) for row in _of_group(group))
    for container in _containers(document, concepts.QUALITATIVE_EVALUATIONS.value):
        decided = (item for item in container.get("ContentSequence", ()) if _decides(item))
        yield from ((_of_evaluation(item), item) for item in decided)


def _measured(document: Dataset) -> Iterator[tuple[Dataset, list[Dataset]]]:
    """Each group without a finding, with its items."""
    for group in _containers(document, _MEASUREMENT_GROUP):
        items = list(group.get("ContentSequence", ()))
        if not any(_decides(item) for item in items):
            yield group, items


def _stated_number(item: Dataset, beside: list[Dataset], group: Dataset) -> StatedNumber:
    value, scheme = _code(_name(item))
    [measured] = item.MeasuredValueSequence
    unit, of_scheme = _code(measured.MeasurementUnitsCodeSequence[0])
    return StatedNumber(
        _image(group),
        (value, scheme),
        str(_name(item).CodeMeaning),
        float(measured.NumericValue),
        (unit, of_scheme),
        _model(beside),
        _tracking_uid(beside),
        _sites(beside),
        # The Subject ID of the group (TID 1008), "" where it is about the patient.
        _texts(beside).get(concepts.SUBJECT_ID.value, ""),
    )


def _image(item: Dataset) -> str:
    """SOP Instance UID of the image that is named first in a content item, "" where there is none."""
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "IMAGE":
            return str(child.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        if uid := _image(child):
            return uid
    return ""


def places(report: Path) -> list[dict[str, Any]]:
    """The regions in a TID 1500 report: name, decision ("" for a measurement), image, frames, points.

    ``frames`` is [] for all frames. ``number``: for a measurement whose lines belong to it alone its value;
    for a finding such as "83 % (cut-off 41 %)"; else "".
    """
    found: list[dict[str, Any]] = []
    for group in _containers(dcmread(report), _MEASUREMENT_GROUP):
        stated = _of_group(group)
        measured = {} if stated else _numbers(list(group.get("ContentSequence", ())))
        names = [row["finding"] for row in stated] or list(measured)
        for region in _regions(group):
            [image] = [item.ReferencedSOPSequence[0] for item in region.ContentSequence][:1]
            frames = image.get("ReferencedFrameNumber") or []
            found.append(
                {
                    "finding": ", ".join(names),
                    "decision": stated[0]["decision"] if stated else "",
                    "number": _stated(stated[0]["numbers"] if stated else measured),
                    "image": str(image.ReferencedSOPInstanceUID),
                    "frames": [int(one) for one in (frames if isinstance(frames, Sequence) else [frames])],
                    "points": _points(region),
                }
            )
    return found


def conclusion(report: Path | BinaryIO) -> str:
    """The report's conclusion, "" if it has none."""
    items = dcmread(report).get("ContentSequence", ())
    return " ".join(
        str(item.TextValue)
        for item in items
        if item.ValueType == "TEXT" and _name(item).CodeValue == concepts.CONCLUSION.value
    )


def short_result(report: Path | BinaryIO) -> tuple[str, ...]:
    """The lines of the report's short result: its conclusion without the sentences on burned-in text."""
    return tuple(line for line in conclusion(report).splitlines() if not line.startswith(BURNED_IN_HEAD))


def statement(report: Path | BinaryIO) -> str:
    """The sentence in every report that names the model and says that the report is not for diagnostic
    use.
    """
    for item in dcmread(report).get("ContentSequence", ()):
        if item.ValueType == "TEXT" and _name(item).CodeValue == concepts.COMMENT.value:
            return str(item.TextValue)
    return ""


def _of_group(group: Dataset) -> list[dict[str, Any]]:
    items = list(group.get("ContentSequence", ()))
    inferred_from = [below for item in items if _decides(item) for below in item.get("ContentSequence", ())]
    numbers = _numbers([*items, *inferred_from])
    region = next((item for item in items if item.ValueType == "SCOORD"), None)
    coded = [item for item in items if _is_coded(item)]
    subject = next((item.ConceptCodeSequence[0] for item in coded if _name(item).CodeValue == _FINDING), None)
    decided = [
        (
            subject
            if subject is not None and _name(item).CodeValue == concepts.PRESENCE.value
            else _name(item),
            item.ConceptCodeSequence[0],
        )
        for item in coded
        if _decides(item)
    ]
    return [
        {
            "finding": str(name.CodeMeaning),
            "code": _code(name),
            "decision": _DECISIONS[presence.CodeValue],
            "presence": _stated_code(presence),
            "sites": _sites(items),
            "numbers": _numbers_of(place, len(decided), numbers),
            "region": _points(region) if region is not None else [],
            "model": _model(items),
            "tracking_uid": _tracking_uid(items),
        }
        for place, (name, presence) in enumerate(decided)
    ]


def _of_evaluation(item: Dataset) -> dict[str, Any]:
    """CODE "finding = present / absent / undetermined", with what belongs to it below it."""
    items = list(item.get("ContentSequence", ()))
    return {
        "finding": str(_name(item).CodeMeaning),
        "code": _code(_name(item)),
        "decision": _DECISIONS[item.ConceptCodeSequence[0].CodeValue],
        "presence": _stated_code(item.ConceptCodeSequence[0]),
        "sites": _sites(items),
        "numbers": _numbers(items),
        "region": [],
        "model": _model(items),
        "tracking_uid": _tracking_uid(items),
    }


def _stated(numbers: Mapping[str, str]) -> str:
    """A probability with its cut-off, or the one number; "" where it is not clear which."""
    cut_offs = [value for name, value in numbers.items() if name.startswith("AI cut-off")]
    others = [value for name, value in numbers.items() if not name.startswith("AI cut-off")]
    return " ".join([*others, *(f"(cut-off {value})" for value in cut_offs)]) if len(others) == 1 else ""


def _code(concept: Dataset) -> list[str]:
    """Value and scheme."""
    value = concept.get("CodeValue") or concept.get("LongCodeValue") or concept.get("URNCodeValue")
    return [str(value or ""), str(concept.get("CodingSchemeDesignator") or "")]


def _stated_code(concept: Dataset) -> StatedCode:
    value, scheme = _code(concept)
    return value, scheme, str(concept.get("CodeMeaning") or "")


def _sites(items: list[Dataset]) -> tuple[StatedCode, ...]:
    """The finding site (TID 1410, TID 1501), then its laterality where one is stated."""
    return tuple(
        _stated_code(item.ConceptCodeSequence[0])
        for site in items
        if _is_coded(site) and _name(site).CodeValue == _SITE
        for item in (site, *site.get("ContentSequence", ()))
        if item is site or (_is_coded(item) and _name(item).CodeValue == _LATERALITY)
    )


def _texts(items: list[Dataset]) -> dict[str, str]:
    """Texts by the code of their concept."""
    return {_name(item).CodeValue: str(item.TextValue) for item in items if item.ValueType == "TEXT"}


def _numbers(items: list[Dataset]) -> dict[str, str]:
    """Number and unit by the name of the concept."""
    return {
        str(_name(item).CodeMeaning): f"{item.MeasuredValueSequence[0].NumericValue} "
        f"{item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue}"
        for item in items
        if item.ValueType == "NUM" and item.get("MeasuredValueSequence")
    }


def _is_coded(item: Dataset) -> bool:
    return bool(item.ValueType == "CODE" and item.get("ConceptCodeSequence"))


def _decides(item: Dataset) -> bool:
    """Whether it says present, absent or undetermined."""
    return _is_coded(item) and item.ConceptCodeSequence[0].CodeValue in _DECISIONS


def _numbers_of(place: int, decided: int, numbers: Mapping[str, str]) -> dict[str, str]:
    """All numbers of a group on one finding; of a summary on several the one at the finding's place."""
    if decided == 1:
        return dict(numbers)
    return dict([list(numbers.items())[place]]) if len(numbers) == decided else {}


def _model(items: list[Dataset]) -> str:
    """Name and version of the algorithm (TID 4019), "" where the group names none."""
    named = _texts(items)
    return f"{named.get(_ALGORITHM_NAME, '')} {named.get(_ALGORITHM_VERSION, '')}".strip()


def _tracking_uid(items: list[Dataset]) -> str:
    """The tracking UID of this finding (TID 4108); "" where it has none, such as an absent finding."""
    named = {_name(item).CodeValue: str(item.UID) for item in items if item.ValueType == "UIDREF"}
    return named.get("112040", "")


def _points(region: Dataset) -> list[tuple[float, float]]:
    points = [float(value) for value in region.GraphicData]
    return list(zip(points[::2], points[1::2], strict=True))


def _regions(item: Dataset) -> Iterator[Dataset]:
    """The SCOORD items below this one."""
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "SCOORD":
            yield child
        else:
            yield from _regions(child)


def _containers(item: Dataset, code: str) -> list[Dataset]:
    if concepts.name_of(item) == code:
        return [item]
    return [found for child in item.get("ContentSequence", ()) for found in _containers(child, code)]


def _name(item: Dataset) -> Dataset:
    """Its concept, as a code."""
    code: Dataset = item.ConceptNameCodeSequence[0]
    return code
