"""The attributes around the content of every result: those of the constructor, and those set afterwards."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from dicom_node.base.dicom.header import (
    items,
    quiet_pydicom,
)
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MODEL_NAME,
)
from dicom_node.base.lifecycle import RESULT_KINDS, ResultKind
from dicom_node.results.anatomy import UNPAIRED, body_part_of, stated_side
from dicom_node.results.concepts import coding_schemes
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import UTF8, copy_attributes, set_values, text_of
from dicom_node.results.equipment import contributing_equipment, software_versions
from dicom_node.results.series import series_description
from dicom_node.results.source import Source, offset_of
from dicom_node.results.times import local
from dicom_node.results.uids import series_uid

_OF_ANIMALS: Final = (
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson",
    "ResponsibleOrganization", "PatientSexNeutered",
)  # fmt: skip
# With a content tree: their series are of documents, not of images (PS3.3 C.17.1, C.17.6.1).
_DOCUMENTS: Final = frozenset({ResultKind.SR, ResultKind.OBSTETRIC, ResultKind.KEY_OBJECTS})
# What identifies the request and its procedure (PS3.3 Table 10-9).
_REQUEST: Final = (
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyInstanceUID", "ReferencedStudySequence",
    "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
    "ScheduledProcedureStepID", "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence",
)  # fmt: skip


def header_arguments(
    context: ResultContext, kind: ResultKind, source: Source, uid: str, number: int, *series_parts: str
) -> dict[str, Any]:
    """The arguments that all constructors of highdicom share, for a result of this kind.

    ``uid``: its SOP Instance UID; ``number``: its Instance Number (from 1); ``series_parts``: texts that
    distinguish several series of one kind.
    """
    return {
        **object_arguments(context, kind, uid, number),
        "series_instance_uid": series_uid(context, kind, source, *series_parts),
        "series_number": RESULT_KINDS[kind].series_number + context.series_offset,
        "coding_schemes": coding_schemes(context.scheme),
    }


def object_arguments(context: ResultContext, kind: ResultKind, uid: str, number: int = 1) -> dict[str, Any]:
    """The arguments of highdicom's constructors for SOP Common (PS3.3 C.12.1), General and Enhanced General
    Equipment (C.7.5.1, C.7.5.2), and the encoding.

    ``uid``: the SOP Instance UID; ``number``: the Instance Number (from 1).
    """
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(context),
        "device_serial_number": context.installation.serial_number,
        "sop_instance_uid": uid,
        "instance_number": number,
        "contributing_equipment": contributing_equipment(context, kind),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "specific_character_set": UTF8,
    }


def disclaimer(context: ResultContext) -> str:
    """The sentence in every result that says that it is not for diagnostic use, and names the models."""
    return f"AI result - not for diagnostic use, {models_of(context)}"


def models_of(context: ResultContext) -> str:
    """The models of a job with their versions in words; the pipeline if it has none."""
    models = ", ".join(f"model {model.id} version {model.version}" for model in context.models)
    return models or f"{context.pipeline} version {context.pipeline_version}"


def complete(
    dataset: Dataset, context: ResultContext, kind: ResultKind, sources: Sequence[Source]
) -> Dataset:
    """Set the attributes that highdicom left open, took from the stand-in, or set to the present time;
    returns ``dataset``.

    ``sources``: the images that it is about; patient and study are copied from the first.
    """
    source = sources[0]
    _set_patient_and_study(dataset, source)
    freeze_times(dataset, context)
    _set_series(dataset, context, kind)
    _correct_references(dataset, sources)
    if context.station_name:
        dataset.StationName = context.station_name[:16]
    if kind not in (*_DOCUMENTS, ResultKind.PDF):
        _set_body_part(dataset, kind, source)
    if kind not in _DOCUMENTS:
        _set_requests(dataset, source)
    return dataset


def _set_patient_and_study(dataset: Dataset, source: Source) -> None:
    """Set patient and study as they are in the source: one value for one patient (PS3.3 A.1.2).

    What the source does not have is left as highdicom wrote it: absent, or empty where it is of Type 2.
    """
    copy_attributes(dataset, source.header, *COPIED)
    # Type 2C of animals (PS3.3 C.7.1.1, C.7.2.2), which have a species: empty where the source does not say.
    for keyword in _OF_ANIMALS if "PatientSpeciesDescription" in dataset else ():
        dataset.setdefault(keyword, None)
    with quiet_pydicom():
        for name in dataset:
            if name.VR == "PN" and name.value:
                # As text: pydicom would otherwise keep the bytes of the source's character set.
                name.value = [PersonName(str(one)) for one in name.value] if name.VM > 1 else str(name.value)


def _set_series(dataset: Dataset, context: ResultContext, kind: ResultKind) -> None:
    """Set description, date and time of the series (PS3.3 C.7.3.1): the same in all objects of a series,
    those of later jobs too.
    """
    first = context.series_began(str(dataset.SeriesInstanceUID)) or context.analysed_at
    began = local(first, offset_of(dataset))
    set_values(
        dataset,
        SeriesDescription=series_description(context, kind),
        SeriesDate=f"{began:%Y%m%d}",
        SeriesTime=f"{began:%H%M%S.%f}",
    )


def _set_body_part(dataset: Dataset, kind: ResultKind, source: Source) -> None:
    """Set the body part, and its side where it has one.

    General Series (PS3.3 C.7.3.1): Laterality is Type 2C, for paired parts only, never in a Segmentation.
    Empty says that the part may have a side and the source does not tell it.
    """
    part = body_part_of(source)
    if part:
        dataset.BodyPartExamined = part
    if kind is not ResultKind.SEG and part.upper() not in UNPAIRED:
        dataset.Laterality = stated_side(source)


def _set_requests(dataset: Dataset, source: Source) -> None:
    """Set Request Attributes Sequence (0040,0275) of the source: the results answer the same request.

    So IHE wants it of an Evidence Creator (RAD TF-2 Appendix A). Reports and key objects have
    ``referenced_requests``.
    """
    requests = [
        Dataset({Tag(word): deepcopy(item[word]) for word in _REQUEST if item.get(word)})
        for item in source.header.get("RequestAttributesSequence") or []
    ]
    if any(requests):
        dataset.RequestAttributesSequence = [item for item in requests if item]


def referenced_requests(source: Source) -> list[Dataset]:
    """The items of Referenced Request Sequence (0040,A370), from the image's own requests or accession
    number.
    """
    header, items = source.header, []
    with quiet_pydicom():  # an accession number may be longer than DICOM allows
        accession = header.get("AccessionNumber")
        for asked in header.get("RequestAttributesSequence") or ([Dataset()] if accession else []):
            item = Dataset()
            set_values(
                item,
                StudyInstanceUID=source.study_uid,
                ReferencedStudySequence=[],
                AccessionNumber=asked.get("AccessionNumber") or accession,
                PlacerOrderNumberImagingServiceRequest="",
                FillerOrderNumberImagingServiceRequest="",
                RequestedProcedureID=asked.get("RequestedProcedureID"),
                RequestedProcedureDescription=asked.get("RequestedProcedureDescription"),
                RequestedProcedureCodeSequence=deepcopy(asked.get("RequestedProcedureCodeSequence") or []),
            )
            items.append(item)
    return items


def freeze_times(dataset: Dataset, context: ResultContext) -> None:
    """Set all times to the time of the analysis, so that two builds do not differ, and the attributes of the
    maker that highdicom's constructors do not accept.

    Times are in the zone of the object's Timezone Offset From UTC, without it in that of this machine. A VR
    DT does not repeat the offset: (0008,0201) gives it (PS3.3 C.12.1), and DCMTK refuses "+0000".
    """
    analysed = local(context.analysed_at, offset_of(dataset))
    date, time = f"{analysed:%Y%m%d}", f"{analysed:%H%M%S.%f}"
    for day, hour in (
        ("InstanceCreationDate", "InstanceCreationTime"),
        ("ContentDate", "ContentTime"),
        ("PresentationCreationDate", "PresentationCreationTime"),
        ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    ):
        if day in dataset:
            set_values(dataset, **{day: date, hour: time})
    for item in dataset.ContributingEquipmentSequence:
        # When the scanner made the source is not known here.
        if item.PurposeOfReferenceCodeSequence[0] != codes.DCM.AcquisitionEquipment:
            item.ContributionDateTime = date + time
    dataset.DeviceUID = context.installation.device_uid
    set_values(
        dataset.file_meta,
        ImplementationClassUID=IMPLEMENTATION_CLASS_UID,
        ImplementationVersionName=IMPLEMENTATION_VERSION_NAME,
    )


def _correct_references(dataset: Dataset, sources: Sequence[Source]) -> None:
    """Correct references to the sources: highdicom was told another SOP class for some of them
    (``_class_for_highdicom``), and here each reference gets the source's own.
    """
    classes = {source.uid: source.sop_class_uid for source in sources}
    for item in items(dataset):
        uid = text_of(item, "ReferencedSOPInstanceUID")
        if uid in classes and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = classes[uid]
        # PS3.3 C.10.4, C.18.6: for images with a total pixel matrix; highdicom says VOLUME of all others.
        item.pop("PixelOriginInterpretation", None)
