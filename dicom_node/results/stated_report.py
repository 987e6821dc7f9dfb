"""Reads the node's own reports back: findings with their numbers, measurements, conclusion.

The items are pydicom's. highdicom's own readers rebuild each content item: the same findings take 0.19 s
instead of 0.05 (a chest X-ray with three), and the page of a study reads all its reports.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline import contract
from ai_pipeline.contract import Decision
from dicom_node.base.dicom.header import listed
from dicom_node.results.concepts import (
    DECISIONS,
    FINDINGS,
    OURS,
    OUTLINED_AREA,
    PRESENCE,
    QUALITATIVE_EVALUATIONS,
    name_of,
)
from dicom_node.results.dataset import text_of

BURNED_IN_HEAD: Final = "Burned-in annotation: "
"""How a conclusion's paragraph on burned-in text begins; before it is the short result."""


StatedCode = tuple[str, str, str]
"""Value, scheme and meaning."""
StatedPlace = tuple[str, list[int], list[tuple[float, float]]]
"""SOP Instance UID of an image, its frames ([]: all of them), and points in it."""


@dataclass(frozen=True, slots=True)
class StatedFinding:
    """A finding as read back from a report that was sent. ``image``: SOP Instance UID of its image, "" for
    none.

    ``code``: value and scheme of the finding, ``meaning``: its name. ``presence``: the code of its decision.
    ``model``: name and version. ``tracking_uid``: "" for an absent finding. ``sites``: codes of the location
    and, if stated, the side. ``numbers``: texts of number and unit, by name. ``places``: the marked regions.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    decision: contract.Decision
    model: str
    tracking_uid: str
    presence: StatedCode = ("", "", "")
    sites: tuple[StatedCode, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    places: Sequence[StatedPlace] = ()


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A measurement as read back from a report that was sent. ``image``: SOP Instance UID of its image.

    ``code``: value and scheme of the measured quantity, ``meaning``: its name; ``unit``: value and scheme.
    ``model``: name and version. ``sites``: codes of the location and, if stated, the side. ``fetus``: the
    letter or number of the measured fetus, "" if the patient was measured. ``places``: the measured lines.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    value: float
    unit: tuple[str, str]
    model: str
    tracking_uid: str
    sites: tuple[StatedCode, ...] = ()
    fetus: str = ""
    places: Sequence[StatedPlace] = ()


# PS3.16 TID 1500: the containers and the concepts that are read here.
_MEASUREMENT_GROUP, _FINDING, _TRACKING_UID = "125007", "121071", "112040"
_SITE, _LATERALITY = "363698007", "272741003"
_ALGORITHM_NAME, _ALGORITHM_VERSION = "111001", "111003"
_DECISIONS = {code.value: decision for decision, code in DECISIONS.items()} | {
    codes.SCT.Present.value: Decision.PRESENT
}


@dataclass(frozen=True, slots=True)
class StatedReport:
    """The content of a report as it was read back, each finding and number with its image.

    ``calls``: names of what asks for a person's attention beside findings. ``conclusion``: "" without one.
    ``statement``: the sentence that names the models and says that the report is not for diagnostic use; ""
    without one. ``remarks``: quality notes on the images, each behind its name and a colon.
    """

    findings: Sequence[StatedFinding]
    numbers: Sequence[StatedNumber]
    conclusion: str
    statement: str
    calls: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def short_result(self) -> tuple[str, ...]:
        """The lines of the conclusion without the sentences on burned-in text."""
        return tuple(line for line in self.conclusion.splitlines() if not line.startswith(BURNED_IN_HEAD))


def read_report(report: Path | BinaryIO | Dataset) -> StatedReport:
    """Read the findings and numbers of a report that the node made, in the order of the report: of TID 1500,
    of TID 2000 without places, or of an earlier version. ``report``: a file or its data set.
    """
    document = report if isinstance(report, Dataset) else dcmread(report)
    findings: list[StatedFinding] = []
    numbers: list[StatedNumber] = []
    groups = _containers(document, _MEASUREMENT_GROUP)
    for group in groups:
        if decided := list(filter(_is_decision, _children(group))):
            findings += _findings_of_group(group, decided)
        else:
            numbers += _numbers_of_group(group)
    without_place = [
        container
        for name in (QUALITATIVE_EVALUATIONS, FINDINGS)
        for container in _containers(document, name.value)
    ]
    for container in without_place:
        # CODE "finding = present / absent / undetermined", with what belongs to it below it.
        findings += [
            _finding(_name(item), item, _children(item), item, _numbers(_children(item)))
            for item in filter(_is_decision, _children(container))
        ]
    conclusion, statement = (
        _texts(_children(document)).get(concept.value, "")
        for concept in (codes.DCM.Conclusion, codes.DCM.Comment)
    )
    results = [_code(_value(item)) for item in _containers(document, OURS["RESULT"].value)]
    calls = tuple(dict.fromkeys(meaning for value, _, meaning in results if value not in OURS))
    remarks = tuple(_remarks([*groups, *without_place]))
    return StatedReport(findings, numbers, conclusion, statement, calls, remarks)


def findings(report: Path) -> list[dict[str, Any]]:
    """The findings of a report as dictionaries for a table: name, image, code, decision, presence, sites,
    numbers, region, model and tracking UID. ``image``: SOP Instance UID.
    """
    return [
        {
            "finding": one.meaning,
            "image": one.image,
            "code": list(one.code),
            "decision": one.decision.value,
            "presence": one.presence,
            "sites": one.sites,
            "numbers": one.numbers,
            "region": one.places[0][-1] if one.places else [],
            "model": one.model,
            "tracking_uid": one.tracking_uid,
        }
        for one in read_report(report).findings
    ]


def measurements(report: Path) -> list[dict[str, Any]]:
    """The measurements of a report that belong to no finding, as dictionaries for a table: name, image (SOP
    Instance UID), site, number, model.
    """
    return [
        {
            "name": one.meaning,
            "image": one.image,
            "site": ", ".join(meaning for _, _, meaning in one.sites),
            "number": f"{one.value} {one.unit[0]}",
            "model": one.model,
        }
        for one in read_report(report).numbers
    ]


def places(report: Path) -> list[dict[str, Any]]:
    """The regions in a report as dictionaries: finding, decision, number, image, frames and points.

    ``decision``: "" for a measurement. ``image``: SOP Instance UID. ``frames``: [] for all frames.
    ``number``: the value of a measurement, or a finding's number such as "83 % (cut-off 41 %)"; "" if the
    finding has several.
    """
    read = read_report(report)
    about: list[tuple[StatedFinding | StatedNumber, str, str]] = [
        *((one, one.decision.value, _number_in_words(one.numbers)) for one in read.findings),
        *((one, "", f"{one.value} {one.unit[0]}") for one in read.numbers),
    ]
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


def _findings_of_group(group: Dataset, decided: Sequence[Dataset]) -> Iterator[StatedFinding]:
    """Yield the finding of each CODE item in ``decided``, the decisions in a measurement group."""
    items, places = _children(group), list(_places(group))
    in_group = _numbers([*items, *(below for item in decided for below in _children(item))])
    subject = next((_value(item) for item in items if _is_code(item, _FINDING)), None)
    for place, item in enumerate(decided):
        name = _name(item)
        if subject is not None and name_of(item) == PRESENCE.value:
            name = subject
        own = in_group
        if len(decided) > 1:  # a summary on several findings: each with the number at its place
            own = dict([*in_group.items()][place : place + 1]) if len(in_group) == len(decided) else {}
        yield _finding(name, item, items, group, own, places)


def _numbers_of_group(group: Dataset) -> Iterator[StatedNumber]:
    """Yield the measurements in a measurement group without a decision; the area inside an outline is none.

    Tracking UID and site are the number's own where it has them, else those of the group.
    """
    items = _children(group)
    model, tracking = _model_and_tracking(items)
    for item in filter(_is_number, items):
        if name_of(item) == OUTLINED_AREA.value:
            continue
        [measured] = item.MeasuredValueSequence
        own = _children(item)
        yield StatedNumber(
            _image_uid(group),
            _code(_name(item))[:2],
            str(_name(item).CodeMeaning),
            float(measured.NumericValue),
            _code(measured.MeasurementUnitsCodeSequence[0])[:2],
            model,
            _model_and_tracking(own)[1] or tracking,
            _sites(own) or _sites(items),
            # The Subject ID of the group (TID 1008), "" where it is about the patient.
            _texts(items).get(codes.DCM.SubjectID.value, ""),
            list(_places(item)),
        )


def _finding(
    name: Dataset,
    decided: Dataset,
    items: list[Dataset],
    of_image: Dataset,
    numbers: Mapping[str, str],
    places: Sequence[StatedPlace] = (),
) -> StatedFinding:
    """The finding named by the concept ``name``, with the decision that the CODE item ``decided`` states.

    ``items``: the content items beside that item. ``of_image``: the item below which its image is named.
    ``numbers``: texts of number and unit by name.
    """
    presence = _value(decided)
    return StatedFinding(
        _image_uid(of_image),
        _code(name)[:2],
        str(name.CodeMeaning),
        _DECISIONS[presence.CodeValue],
        *_model_and_tracking(items),
        _code(presence),
        _sites(items),
        numbers,
        places,
    )


def _children(item: Dataset) -> list[Dataset]:
    """The content items directly below an SR item (its Content Sequence); empty if it has none."""
    return list(item.get("ContentSequence", ()))


def _image_uid(item: Dataset) -> str:
    """The SOP Instance UID of the first image that is named below a content item; "" if there is none."""
    for child in _children(item):
        uid = child.ReferencedSOPSequence[0].ReferencedSOPInstanceUID if child.ValueType == "IMAGE" else ""
        if uid := str(uid or _image_uid(child)):
            return uid
    return ""


def _places(item: Dataset) -> Iterator[StatedPlace]:
    """Yield each SCOORD item below this content item as (image UID, frames, points)."""
    for child in _children(item):
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


def _number_in_words(numbers: Mapping[str, str]) -> str:
    """The text of a finding's only number, with its cut-off if there is one; "" if there is no number or
    several.
    """
    cut_offs = [value for name, value in numbers.items() if name.startswith("AI cut-off")]
    others = [value for name, value in numbers.items() if not name.startswith("AI cut-off")]
    return " ".join([*others, *(f"(cut-off {value})" for value in cut_offs)]) if len(others) == 1 else ""


def _code(concept: Dataset) -> StatedCode:
    """The (value, scheme, meaning) of a coded concept; "" for each that is missing."""
    values = (text_of(concept, keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    scheme, meaning = text_of(concept, "CodingSchemeDesignator"), text_of(concept, "CodeMeaning")
    return next(filter(None, values), ""), scheme, meaning


def _sites(items: list[Dataset]) -> tuple[StatedCode, ...]:
    """The codes of the finding site (TID 1410, TID 1501) and, if stated, of its laterality."""
    return tuple(
        _code(_value(item))
        for site in items
        if _is_code(site, _SITE)
        for item in (site, *_children(site))
        if item is site or _is_code(item, _LATERALITY)
    )


def _remarks(containers: Iterable[Dataset]) -> Iterator[str]:
    """Yield the comments in measurement groups, and beside what has no place."""
    for container in containers:
        for item in _children(container):
            if item.ValueType == "TEXT" and name_of(item) == codes.DCM.Comment.value:
                yield str(item.TextValue)


def _texts(items: list[Dataset]) -> dict[str, str]:
    """The texts of the TEXT items among these, by the code value of their concept names."""
    return {name_of(item): str(item.TextValue) for item in items if item.ValueType == "TEXT"}


def _numbers(items: list[Dataset]) -> dict[str, str]:
    """The texts of number and unit of the NUM items among these, by the meaning of their concept names."""
    return {
        str(
            _name(item).CodeMeaning
        ): f"{measured.NumericValue} {_code(measured.MeasurementUnitsCodeSequence[0])[0]}"
        for item in filter(_is_number, items)
        for measured in item.MeasuredValueSequence[:1]
    }


def _is_number(item: Dataset) -> bool:
    """Whether a content item is a NUM with a value."""
    return bool(item.ValueType == "NUM" and item.get("MeasuredValueSequence"))


def _is_code(item: Dataset, concept: str = "") -> bool:
    """Whether an item is a CODE with a value and this concept name (a code value; "" for any name)."""
    is_code = item.ValueType == "CODE" and item.get("ConceptCodeSequence")
    return bool(is_code and concept in ("", name_of(item)))


def _is_decision(item: Dataset) -> bool:
    """Whether an item is a CODE that says present, suspected, absent or undetermined."""
    return _is_code(item) and _value(item).CodeValue in _DECISIONS


def _model_and_tracking(items: list[Dataset]) -> tuple[str, str]:
    """The name and version of the algorithm (TID 4019), and the tracking UID (TID 4108), of these items.

    Each is "" if the items do not state it; an absent finding has no tracking UID.
    """
    named = _texts(items)
    uids = {name_of(item): str(item.UID) for item in items if item.ValueType == "UIDREF"}
    model = f"{named.get(_ALGORITHM_NAME, '')} {named.get(_ALGORITHM_VERSION, '')}".strip()
    return model, uids.get(_TRACKING_UID, "")


def _containers(item: Dataset, code: str) -> list[Dataset]:
    """The content items with this concept name (``code``: its code value), at or below ``item``; items below
    a found one are not searched.
    """
    if name_of(item) == code:
        return [item]
    return [found for child in _children(item) for found in _containers(child, code)]


def _name(item: Dataset) -> Dataset:
    """The coded concept name of a content item."""
    return item.ConceptNameCodeSequence[0]


def _value(item: Dataset) -> Dataset:
    """The coded value of a CODE content item."""
    return item.ConceptCodeSequence[0]
