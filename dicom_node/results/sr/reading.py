"""Reads the node's own reports back: findings with their numbers, measurements, conclusion.

The items are pydicom's. highdicom's own readers rebuild each content item: the same findings take 0.19 s
instead of 0.05 (a chest X-ray with three), and the page of a study reads all its reports.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.contract import Decision
from dicom_node.dicom.walk import listed
from dicom_node.results.common import concepts
from dicom_node.results.common.concepts import name_of
from dicom_node.results.common.context import (
    BURNED_IN_HEAD,
    StatedCode,
    StatedFinding,
    StatedNumber,
    StatedPlace,
)

# PS3.16 TID 1500: the containers and the concepts that are read here.
_MEASUREMENT_GROUP, _FINDING, _TRACKING_UID = "125007", "121071", "112040"
_SITE, _LATERALITY = "363698007", "272741003"
_ALGORITHM_NAME, _ALGORITHM_VERSION = "111001", "111003"
_DECISIONS = {code.value: decision for decision, code in concepts.DECISIONS.items()} | {
    codes.SCT.Present.value: Decision.PRESENT
}


@dataclass(frozen=True, slots=True)
class StatedReport:
    """What a report says, each finding and number with its image.

    ``conclusion``: "" without one. ``statement``: the sentence that names the models and says that the report
    is not for diagnostic use.
    """

    findings: Sequence[StatedFinding]
    numbers: Sequence[StatedNumber]
    conclusion: str
    statement: str

    @property
    def short_result(self) -> tuple[str, ...]:
        """The lines of the conclusion without the sentences on burned-in text."""
        lines = self.conclusion.splitlines()
        return tuple(line for line in lines if not line.startswith(BURNED_IN_HEAD))


def stated(report: Path | BinaryIO | Dataset) -> StatedReport:
    """The content of a TID 1500 report, in its order."""
    document = report if isinstance(report, Dataset) else dcmread(report)
    findings: list[StatedFinding] = []
    numbers: list[StatedNumber] = []
    for group in _containers(document, _MEASUREMENT_GROUP):
        items = _below(group)
        if decided := list(filter(_decides, items)):
            findings += _of_group(group, items, decided)
        else:
            numbers += [_number(item, items, group) for item in items if _is_number(item)]
    for container in _containers(document, concepts.QUALITATIVE_EVALUATIONS.value):
        # CODE "finding = present / absent / undetermined", with what belongs to it below it.
        for item in filter(_decides, _below(container)):
            findings.append(_finding(_name(item), item, _below(item), _image(item), _numbers(_below(item))))
    texts = [item for item in _below(document) if item.ValueType == "TEXT"]
    conclusion, statements = (
        [str(item.TextValue) for item in texts if name_of(item) == code.value]
        for code in (codes.DCM.Conclusion, codes.DCM.Comment)
    )
    return StatedReport(findings, numbers, " ".join(conclusion), next(iter(statements), ""))


def findings(report: Path) -> list[dict[str, Any]]:
    """The findings of a report as rows of a page: name, code, decision, the concept of its presence, sites,
    numbers, region, model and UID.
    """
    return [
        {
            "finding": one.meaning,
            "code": list(one.code),
            "decision": one.decision.value,
            "presence": one.presence,
            "sites": one.sites,
            "numbers": one.numbers,
            "region": one.places[0][-1] if one.places else [],
            "model": one.model,
            "tracking_uid": one.tracking_uid,
        }
        for one in stated(report).findings
    ]


def measurements(report: Path) -> list[dict[str, Any]]:
    """The measurements of a report that belong to no finding: name, number, model."""
    return [
        {
            "name": one.meaning,
            "site": ", ".join(meaning for _, _, meaning in one.sites),
            "number": f"{one.value} {one.unit[0]}",
            "model": one.model,
        }
        for one in stated(report).numbers
    ]


def places(report: Path) -> list[dict[str, Any]]:
    """The regions in a report: name, decision ("" for a measurement), image, frames, points.

    ``frames`` is [] for all frames. ``number``: of a measurement its value; of a finding such as "83 %
    (cut-off 41 %)", "" where it is not clear which.
    """
    read = stated(report)
    about: list[tuple[StatedFinding | StatedNumber, str, str]]
    about = [(one, one.decision.value, _probability(one.numbers)) for one in read.findings]
    about += [(one, "", f"{one.value} {one.unit[0]}") for one in read.numbers]
    return [
        {
            "finding": one.meaning,
            "decision": decision,
            "number": number,
            "image": image,
            "frames": frames,
            "points": points,
        }
        for one, decision, number in about
        for image, frames, points in one.places
    ]


def conclusion(report: Path) -> str:
    """The report's conclusion, "" if it has none."""
    return stated(report).conclusion


def _of_group(group: Dataset, items: list[Dataset], decided: list[Dataset]) -> Iterator[StatedFinding]:
    """Each finding; of a summary on several, each with the number at its place."""
    numbers = _numbers([*items, *(below for item in decided for below in _below(item))])
    subject = next((_value(item) for item in items if _is_coded(item) and name_of(item) == _FINDING), None)
    for place, item in enumerate(decided):
        own = dict(list(numbers.items())[place : place + 1]) if len(numbers) == len(decided) else {}
        name = _name(item)
        if subject is not None and name_of(item) == concepts.PRESENCE.value:
            name = subject
        mine = numbers if len(decided) == 1 else own
        yield _finding(name, item, items, _image(group), mine, list(_places(group)))


def _finding(
    name: Dataset,
    decided: Dataset,
    items: list[Dataset],
    image: str,
    numbers: Mapping[str, str],
    places: Sequence[StatedPlace] = (),
) -> StatedFinding:
    presence = _value(decided)
    return StatedFinding(
        image,
        _code(name),
        str(name.CodeMeaning),
        _DECISIONS[presence.CodeValue],
        _model(items),
        _tracking_uid(items),
        _stated_code(presence),
        _sites(items),
        numbers,
        places,
    )


def _number(item: Dataset, beside: list[Dataset], group: Dataset) -> StatedNumber:
    [measured] = item.MeasuredValueSequence
    return StatedNumber(
        _image(group),
        _code(_name(item)),
        str(_name(item).CodeMeaning),
        float(measured.NumericValue),
        _code(measured.MeasurementUnitsCodeSequence[0]),
        _model(beside),
        _tracking_uid(beside),
        _sites(beside),
        # The Subject ID of the group (TID 1008), "" where it is about the patient.
        _texts(beside).get(codes.DCM.SubjectID.value, ""),
        list(_places(group)),
    )


def _below(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence", ()))


def _image(item: Dataset) -> str:
    """SOP Instance UID of the image that is named first in a content item, "" where there is none."""
    for child in _below(item):
        uid = child.ReferencedSOPSequence[0].ReferencedSOPInstanceUID if child.ValueType == "IMAGE" else ""
        if uid := str(uid or _image(child)):
            return uid
    return ""


def _places(item: Dataset) -> Iterator[StatedPlace]:
    """The SCOORD items below this one."""
    for child in _below(item):
        if child.ValueType == "SCOORD":
            image = child.ContentSequence[0].ReferencedSOPSequence[0]
            points = [float(value) for value in child.GraphicData]
            yield (
                str(image.ReferencedSOPInstanceUID),
                [int(one) for one in listed(image.get("ReferencedFrameNumber"))],
                list(zip(points[::2], points[1::2], strict=True)),
            )
        else:
            yield from _places(child)


def _probability(numbers: Mapping[str, str]) -> str:
    """A probability with its cut-off, or the one number; "" where it is not clear which."""
    cut_offs = [value for name, value in numbers.items() if name.startswith("AI cut-off")]
    others = [value for name, value in numbers.items() if not name.startswith("AI cut-off")]
    return " ".join([*others, *(f"(cut-off {value})" for value in cut_offs)]) if len(others) == 1 else ""


def _code(concept: Dataset) -> tuple[str, str]:
    """Value and scheme."""
    value = concept.get("CodeValue") or concept.get("LongCodeValue") or concept.get("URNCodeValue")
    return str(value or ""), str(concept.get("CodingSchemeDesignator") or "")


def _stated_code(concept: Dataset) -> StatedCode:
    return *_code(concept), str(concept.get("CodeMeaning") or "")


def _sites(items: list[Dataset]) -> tuple[StatedCode, ...]:
    """The finding site (TID 1410, TID 1501), then its laterality where one is stated."""
    return tuple(
        _stated_code(_value(item))
        for site in items
        if _is_coded(site) and name_of(site) == _SITE
        for item in (site, *_below(site))
        if item is site or (_is_coded(item) and name_of(item) == _LATERALITY)
    )


def _texts(items: list[Dataset]) -> dict[str, str]:
    """Texts by the code of their concept."""
    return {name_of(item): str(item.TextValue) for item in items if item.ValueType == "TEXT"}


def _numbers(items: list[Dataset]) -> dict[str, str]:
    """Number and unit by the name of the concept."""
    return {
        str(
            _name(item).CodeMeaning
        ): f"{measured.NumericValue} {_code(measured.MeasurementUnitsCodeSequence[0])[0]}"
        for item in filter(_is_number, items)
        for measured in item.MeasuredValueSequence[:1]
    }


def _is_number(item: Dataset) -> bool:
    return bool(item.ValueType == "NUM" and item.get("MeasuredValueSequence"))


def _is_coded(item: Dataset) -> bool:
    return bool(item.ValueType == "CODE" and item.get("ConceptCodeSequence"))


def _decides(item: Dataset) -> bool:
    """Whether it says present, absent or undetermined."""
    return _is_coded(item) and _value(item).CodeValue in _DECISIONS


def _model(items: list[Dataset]) -> str:
    """Name and version of the algorithm (TID 4019), "" where the group names none."""
    named = _texts(items)
    return f"{named.get(_ALGORITHM_NAME, '')} {named.get(_ALGORITHM_VERSION, '')}".strip()


def _tracking_uid(items: list[Dataset]) -> str:
    """The tracking UID of this finding (TID 4108); "" where it has none, such as an absent finding."""
    uids = {name_of(item): str(item.UID) for item in items if item.ValueType == "UIDREF"}
    return uids.get(_TRACKING_UID, "")


def _containers(item: Dataset, code: str) -> list[Dataset]:
    if name_of(item) == code:
        return [item]
    return [found for child in _below(item) for found in _containers(child, code)]


def _name(item: Dataset) -> Dataset:
    """Its concept, as a code."""
    code: Dataset = item.ConceptNameCodeSequence[0]
    return code


def _value(item: Dataset) -> Dataset:
    """The code that it states."""
    code: Dataset = item.ConceptCodeSequence[0]
    return code
