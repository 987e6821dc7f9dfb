"""Who made a program's object, and when: equipment, series, times and the header of the file.

One rule for all kinds: this node is the equipment, because it sends the object and answers for it; the
program and what the object itself named stand in Contributing Equipment (PS3.3 C.12.1.1.5). Two results of
one program can thus be told apart from the source's images, and their maker's names are not lost.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from highdicom import ContributingEquipment
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.images.dates import date_of
from dicom_node.base.dicom.elements import is_uid
from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, MANUFACTURER, MODEL_NAME
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.anatomy import UNPAIRED
from dicom_node.results.dataset import sequence, set_values, text_of
from dicom_node.results.envelope import freeze_times
from dicom_node.results.equipment import contributing_equipment, software_versions
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.kinds import ForeignKind, modalities_of
from dicom_node.results.foreign.verdict import Remark, noted, refused, repaired
from dicom_node.results.source import offset_of
from dicom_node.results.standard import body_part_word, has_frame_anatomy
from dicom_node.results.times import local

_SERIES_NUMBERS: Final = {
    ForeignKind.REPORT: 9021,
    ForeignKind.PRESENTATION: 9022,
    ForeignKind.PICTURE: 9023,
    ForeignKind.SEGMENTATION: 9024,
    ForeignKind.PARAMETRIC_MAP: 9025,
    ForeignKind.STRUCTURE_SET: 9026,
    ForeignKind.IMAGE: 9027,
    ForeignKind.DOCUMENT: 9028,
    ForeignKind.KEY_OBJECTS: 9029,
}
"""Series Number (0020,0011), among those of the first rule's results."""
_EQUIPMENT: Final = (
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "DeviceUID",
)  # fmt: skip
_OF_ITEMS: Final = (
    "InstitutionName", "StationName", "InstitutionalDepartmentName", "DeviceSerialNumber", "SoftwareVersions",
)  # fmt: skip
_WITH_BODY_PART: Final = frozenset(
    {
        ForeignKind.PICTURE, ForeignKind.IMAGE, ForeignKind.PARAMETRIC_MAP, ForeignKind.PRESENTATION,
    }
)  # fmt: skip
"""Kinds with a General Series module that describes an image."""
_WARNING: Final = " - not for diagnostic use"
_A_DAY: Final = timedelta(days=1)
_LONGEST: Final = 64  # characters of VR LO
_TIMES: Final = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StructureSetDate", "StructureSetTime"),
    ("PresentationCreationDate", "PresentationCreationTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)


def repair_provenance(candidate: Candidate) -> Iterator[Remark]:
    """Set equipment, series, times and file header; the maker's own become Contributing Equipment."""
    dataset, kind, given = candidate.dataset, candidate.kind, candidate.given
    _set_equipment(dataset, given)
    yield repaired("the equipment is this node, the program is named in Contributing Equipment")
    if _are_times_odd(dataset, given):
        yield noted("its date was before the study or in the future")
    _set_times(dataset, given)
    _set_series(dataset, kind, given)
    for keyword in ("RequestAttributesSequence", "ReferencedRequestSequence"):
        dataset.pop(keyword, None)
    _set_body_part(dataset, kind, given)


def check_modality(candidate: Candidate) -> Iterator[Remark]:
    """Yield if Modality (0008,0060) is not one of the SOP class, or the file's header names another class."""
    dataset = candidate.dataset
    sop_class_uid = text_of(dataset, "SOPClassUID")
    if text_of(dataset.file_meta, "MediaStorageSOPClassUID") != sop_class_uid:
        yield refused("the header of the file names another SOP class than the data set")
    allowed = modalities_of(sop_class_uid)
    if allowed and text_of(dataset, "Modality") not in allowed:
        yield refused("Modality (0008,0060) is not one of its SOP class")


def _set_equipment(dataset: Dataset, given: GivenStudy) -> None:
    """Make this node the equipment; keep what the object named, and the program, as contributors."""
    contributors = [*contributing_equipment(given.context, ResultKind.SR), _program(given)]
    makers = _maker(dataset, given)
    if makers is not None:
        contributors.append(makers)
    contributors.extend(_stated_contributors(dataset))
    for keyword in _EQUIPMENT:
        if keyword in dataset:
            del dataset[keyword]
    set_values(
        dataset,
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=MODEL_NAME,
        DeviceSerialNumber=given.context.installation.serial_number,
        SoftwareVersions=software_versions(given.context),
        ContributingEquipmentSequence=contributors,
    )
    if given.context.station_name:
        dataset.StationName = given.context.station_name[:16]


def _program(given: GivenStudy) -> Dataset:
    """The item of Contributing Equipment for the program, as the rule names it."""
    context = given.context
    return ContributingEquipment(
        manufacturer=(given.manufacturer or context.pipeline)[:_LONGEST],
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=context.pipeline[:_LONGEST],
        software_versions=[context.pipeline_version[:_LONGEST]],
        contribution_description="program that made this object",
    )


def _maker(dataset: Dataset, given: GivenStudy) -> Dataset | None:
    """The item for the equipment that the object names itself; None if it names none.

    Programs that copy a header leave the scanner there, which did not make the object but its source.
    """
    manufacturer = text_of(dataset, "Manufacturer")
    if not manufacturer:
        return None
    is_scanner = manufacturer in given.stated("Manufacturer")
    item = ContributingEquipment(
        manufacturer=manufacturer[:_LONGEST],
        purpose_of_reference=(
            codes.DCM.AcquisitionEquipment if is_scanner else codes.DCM.ProcessingEquipment
        ),
        contribution_description=(
            "scanner of the source, as the program copied it" if is_scanner else "maker, as the object says"
        ),
    )
    if model := text_of(dataset, "ManufacturerModelName"):
        item.ManufacturerModelName = model[:_LONGEST]
    for keyword in _OF_ITEMS:
        if dataset.get(keyword):
            item[keyword] = dataset[keyword]
    if is_uid(device := text_of(dataset, "DeviceUID")) and device.startswith(("1.", "2.")):
        item.DeviceUID = device
    return item


def _stated_contributors(dataset: Dataset) -> Iterator[Dataset]:
    """The sound items of the object's own Contributing Equipment, with a purpose (Type 1)."""
    for item in dataset.get("ContributingEquipmentSequence") or []:
        if not item.get("Manufacturer"):
            continue
        if text_of(item, "Manufacturer") == MANUFACTURER:  # nobody else builds our results
            continue
        item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
        if "DeviceUID" in item and not text_of(item, "DeviceUID").startswith(("1.", "2.")):
            del item["DeviceUID"]
        for people in ("OperatorsName", "OperatorIdentificationSequence"):
            if people in item:
                del item[people]
        yield item


def _are_times_odd(dataset: Dataset, given: GivenStudy) -> bool:
    """Whether a date of its making lies more than a day before the study, or more than one after the call."""
    earliest, latest = date_of(text_of(given.source, "StudyDate")), given.made_at.date()
    days = [date_of(text_of(dataset, day)) for day, _ in _TIMES]
    return any(
        day > latest + _A_DAY or (earliest is not None and day < earliest - _A_DAY) for day in days if day
    )


def _set_times(dataset: Dataset, given: GivenStudy) -> None:
    """Set all times of its making to the time of the call, in the zone of the study: so no time is read in
    another zone than it was written in, and two runs do not differ.
    """
    made = local(given.made_at, offset_of(dataset))
    for day, hour in _TIMES:
        if day in dataset or hour in dataset:
            set_values(dataset, **{day: f"{made:%Y%m%d}", hour: f"{made:%H%M%S.%f}"})
    freeze_times(dataset, given.context)
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID


def _set_body_part(dataset: Dataset, kind: ForeignKind, given: GivenStudy) -> None:
    """State the body part, and whether its side is known, as the images do where they agree (C.7.3.1).

    Laterality is Type 2C: empty for a part that may have a side. Segmentations have none, nor have images
    whose frames state their sides themselves (Frame Anatomy, C.7.6.16.2.8).
    """
    if kind is ForeignKind.SEGMENTATION:
        dataset.pop("Laterality", None)
    if kind not in _WITH_BODY_PART or _has_sides_of_frames(dataset, kind):
        return
    for keyword in ("BodyPartExamined", "Laterality"):
        stated = given.stated(keyword)
        if not text_of(dataset, keyword) and len(stated) == 1:
            setattr(dataset, keyword, next(iter(stated)))
    is_side_elsewhere = any(f"{owner}Laterality" in dataset for owner in ("Image", "Frame", "Measurement"))
    if _may_have_side(dataset) and not is_side_elsewhere:
        dataset.setdefault("Laterality", None)
    elif not text_of(dataset, "Laterality"):
        dataset.pop("Laterality", None)


def _has_sides_of_frames(dataset: Dataset, kind: ForeignKind) -> bool:
    """Whether it is an image of a class whose frames state their sides themselves."""
    return kind is ForeignKind.IMAGE and has_frame_anatomy(text_of(dataset, "SOPClassUID"))


def _may_have_side(dataset: Dataset) -> bool:
    """Whether the body part may have a side: unless it is known to have none, or stated by a code alone that
    stands for no Body Part Examined.
    """
    regions = [text_of(one, "CodeValue") for one in sequence(dataset, "AnatomicRegionSequence")]
    part = text_of(dataset, "BodyPartExamined") or next(filter(None, map(body_part_word, regions)), "")
    return part.upper() not in UNPAIRED if part else not regions


def _set_series(dataset: Dataset, kind: ForeignKind, given: GivenStudy) -> None:
    """Number and describe the series: AI, what the maker called it (else the program), and the warning."""
    said = " ".join(text_of(dataset, "SeriesDescription").split()) or given.context.pipeline
    begins = said if said.upper().startswith("AI ") else f"AI {said}"
    set_values(
        dataset,
        SeriesNumber=_SERIES_NUMBERS[kind] + given.context.series_offset,
        SeriesDescription=begins[: _LONGEST - len(_WARNING)].rstrip() + _WARNING,
    )
    if not dataset.get("InstanceNumber"):
        dataset.InstanceNumber = 1
