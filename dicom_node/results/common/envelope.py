"""UIDs of results, derived from everything that shapes the object.

Modules and attributes of IODs (PS3.3), codes of body parts (PS3.16 Annex L): the tables of highdicom.

Only this module imports these tables, which are private in highdicom: it is pinned below 0.29, and
``tests/unit/results`` show what a newer version changed.

Completes and encodes objects built by highdicom: identity, fixed times, references, encoding.

The maker of a result: General Equipment, Contributing Equipment and the observer of a report.

Times in results: always the time of the analysis, in the zone of the source image. Each function takes an
aware time and an offset as from ``offset_of`` (``+0100`` or empty).
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, Final

from highdicom import ContributingEquipment
from highdicom._standard_utils import (
    check_required_attributes,
    get_anatomic_region_map,
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
    is_attribute_in_iod,
)
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from ai_pipeline.contract import Finding, ModelRef
from dicom_node.base.dicom.header import can_hold, character_sets, quiet_pydicom
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MODEL_NAME,
    derived_uid,
)
from dicom_node.base.dicom.walk import items
from dicom_node.base.kinds import ResultKind
from dicom_node.results.common.concepts import (
    coding_schemes,
)
from dicom_node.results.common.source import BuiltObject, ResultContext, Source

# Raised with every change that makes other bytes from the same input; written into every object.
BUILDER_VERSION: Final = "11"


def series_uid(context: ResultContext, kind: ResultKind, source: Source, *parts: str) -> str:
    """Series Instance UID for all results of one kind in a study, also of images that arrive later.

    It changes when the patient's identity changes, because a series has one patient.
    """
    shaping = (*_shaping(context), context.charset)
    identity = source.stored.identity_sha256
    return derived_uid("series", *shaping, kind, source.study_uid, identity, *parts)


def tracking_uid(context: ResultContext, source: Source, *parts: str) -> str:
    """Tracking UID of a finding, derived from its image only, so that all objects on it always agree."""
    return derived_uid("tracking", *_shaping(context), source.study_uid, *_source_parts(source), *parts)


def document_uid(context: ResultContext, what: str, *parts: str) -> str:
    """SOP Instance UID of a person's statement on results: an assessment, a rejection note."""
    return derived_uid(what, *_shaping(context), *parts)


def model_device_uid(context: ResultContext, model: ModelRef) -> str:
    """Device UID of a model in this installation; it changes with the weights or the card (IHE AIR
    6.5.3.1).
    """
    return derived_uid("model", context.installation.device_uid, *_model_parts(model))


def observer_uid(context: ResultContext) -> str:
    """Device Observer UID (121012, DCM) of this installation with this pipeline and its models."""
    return derived_uid("observer", context.installation.device_uid, *_program(context))


def _shaping(context: ResultContext) -> tuple[str, ...]:
    options = json.dumps(dict(context.options), sort_keys=True, default=str, ensure_ascii=True)
    return BUILDER_VERSION, context.installation.device_uid, options, *_program(context)


def _program(context: ResultContext) -> tuple[str, ...]:
    models = [part for model in context.models for part in _model_parts(model)]
    return context.pipeline, context.pipeline_version, *models


def _model_parts(model: ModelRef) -> tuple[str, str, str, str]:
    return (model.id, model.version, model.sha256, model.card_sha256)


def _source_parts(source: Source) -> tuple[str, str, str]:
    return (source.uid, source.stored.pixels_sha256, source.stored.identity_sha256)


def described(
    context: ResultContext,
    kind: ResultKind,
    sop_class_uid: str,
    sources: Sequence[Source],
    parts: tuple[str, ...] = (),
    series_parts: tuple[str, ...] = (),
) -> BuiltObject:
    """An object with its UIDs and without its bytes, to find out whether it was built before.

    ``parts`` and ``series_parts`` distinguish several objects, or series, of one kind.
    """
    named = [part for source in sorted(sources, key=lambda s: s.uid) for part in _source_parts(source)]
    shaping = (*_shaping(context), context.charset)
    return BuiltObject(
        kind=kind,
        sop_instance_uid=derived_uid("object", *shaping, kind, sources[0].study_uid, *named, *parts),
        sop_class_uid=str(sop_class_uid),
        series_instance_uid=series_uid(context, kind, sources[0], *series_parts),
        supersedes=context.supersedes if kind is ResultKind.SR else "",
        data=None,
        burned_in_boxes=context.burned_in_boxes,
        charset=context.charset,
    )


_OTHER_WORDS: Final = {
    "UPPERLIMB": ("ARM", "UPEXM", "UPPEREXTREMITY"),
    "LOWERLIMB": ("LEG", "LOWEXM", "LOWEREXTREMITY"),
    "FOREARM": ("LOWERARM",),
    "THIGH": ("UPPERLEG",),
    "CSPINE": ("CERVICALSPINE",),
    "TSPINE": ("THORACICSPINE", "DORSALSPINE"),
    "LSPINE": ("LUMBARSPINE",),
    "SSPINE": ("SACRUM",),
    "SINUS": ("SINUSES", "PARANASALSINUS"),
    "PELVIS": ("FETUS",),  # as of placenta and amniotic fluid
}


def is_known(sop_class_uid: str) -> bool:
    """Whether the modules of this class are known, because it is in the present standard."""
    return get_sop_class_iod_map().get(sop_class_uid) in get_iod_module_map()


@cache
def has_frames(sop_class_uid: str) -> bool:
    """Whether an object of this class, which must be known, may have several frames."""
    return bool(is_attribute_in_iod("NumberOfFrames", sop_class_uid))


def usages(sop_class_uid: str) -> dict[str, str]:
    """Usage (M, C, U) of each module of a known class, by highdicom's names ("general-study")."""
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    return {module["key"]: module["usage"] for module in modules}


def mandatory_modules(sop_class_uid: str) -> list[str]:
    """Modules of usage M of a known class."""
    return [module for module, usage in usages(sop_class_uid).items() if usage == "M"]


def attributes(module: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Attributes of a module: keywords of the enclosing sequences, keyword of the attribute, Type."""
    for item in get_module_attribute_map()[module]:
        yield tuple(item["path"]), item["keyword"], item["type"]


def missing_attribute(dataset: Dataset, module: str) -> str:
    """A sentence on the first Type 1 or 2 attribute of the module that the object lacks, "" for none."""
    try:
        check_required_attributes(dataset, module, check_optional_sequences=False)
    except AttributeError as error:
        return f"{error} (module {module})"
    return ""


def region(body_part: object) -> CodedConcept | None:
    """The code of a Body Part Examined (0018,0015), as senders write it; None if it has no code."""
    word, known = re.sub("[ _]", "", str(body_part or "").upper()), body_parts()
    return known.get(word) or known.get(word.removesuffix("S"))


def body_part(code_value: object) -> str:
    """The Body Part Examined (PS3.16 Annex L) of a SNOMED CT code, "" if there is none.

    Where two words have one code, the word that names no endoscopy.
    """
    words = [part for part, code in body_parts().items() if code.value == code_value]
    return min(words, key=lambda word: word.startswith("ENDO"), default="")


@cache
def body_parts() -> dict[str, CodedConcept]:
    """Codes by Body Part Examined; those of former editions and of senders come last."""
    known = {part: code for part, (code, *_) in get_anatomic_region_map().items()}
    known["SINUS"] = CodedConcept("2095001", "SCT", "Paranasal sinus")  # PS3.16 CID 4031
    return known | {word: known[part] for part, words in _OTHER_WORDS.items() for word in words}


UTF8: Final = "ISO_IR 192"
_SERIES_NAMES: Final = {
    ResultKind.SR: "AI findings",
    ResultKind.GSPS: "AI overlay",
    ResultKind.SC: "AI annotated image",
    ResultKind.HEATMAP: "AI heat map",
    ResultKind.CLEANED: "AI cleaned image",
    ResultKind.SEG: "AI mask of removed text",
    ResultKind.REJECTION: "AI results withdrawn",
    ResultKind.ASSESSMENT: "Assessment of AI findings",
    ResultKind.SUMMARY: "AI summary",
    ResultKind.PDF: "AI summary (PDF)",
}
# From 9001 on, above the numbers that modalities give: results are listed behind the series of the study.
OUTLINES_SERIES_NUMBER, PROCESSED_SERIES_NUMBER = 9010, 9011
"""Of outlined organs, and of cleaned images that were processed further: in series of their own."""
SERIES_NUMBERS: Final = {
    **{kind: number for number, kind in enumerate(_SERIES_NAMES, start=9001)},
    ResultKind.PDF: 9012,
}
# What identifies the request and its procedure (PS3.3 Table 10-9).
_REQUEST: Final = (
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyInstanceUID", "ReferencedStudySequence",
    "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
    "ScheduledProcedureStepID", "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence",
)  # fmt: skip


def header_arguments(
    context: ResultContext, kind: ResultKind, source: Source, uid: str, number: int, *series_parts: str
) -> dict[str, Any]:
    """Arguments that all constructors of highdicom share.

    ``uid`` is the SOP Instance UID, ``number`` the Instance Number (from 1); ``series_parts`` distinguish
    several series of one kind.
    """
    offset = offset_of(source)
    return {
        **general_equipment(context),
        "series_instance_uid": series_uid(context, kind, source, *series_parts),
        "series_number": SERIES_NUMBERS[kind],
        "sop_instance_uid": uid,
        "instance_number": number,
        "contributing_equipment": contributing_equipment(context, offset, kind),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "specific_character_set": UTF8,
        "coding_schemes": coding_schemes(context.scheme),
    }


def series_description(context: ResultContext, kind: ResultKind, name: str = "") -> str:
    """Series Description (0008,103E): the text in the list of series, with the whole warning.

    VR LO holds 64 characters; the pipeline's name comes last and is cut if needed. ``name`` replaces the
    usual name of this kind of series.
    """
    warning = "inpainted, not for measurement" if kind is ResultKind.CLEANED else "not for diagnostic use"
    return f"{name or _SERIES_NAMES[kind]} - {warning} - {context.pipeline}"[:64]


def disclaimer(context: ResultContext) -> str:
    """The sentence in every result that warns that a program made it."""
    models = ", ".join(f"model {model.id} version {model.version}" for model in context.models)
    return "AI result - not for diagnostic use, " + (
        models or f"{context.pipeline} version {context.pipeline_version}"
    )


def offset_of(source: Source) -> str:
    """Timezone Offset From UTC (0008,0201) of the source, such as ``+0100``; empty if it has none."""
    return str(source.header.get("TimezoneOffsetFromUTC") or "")


def complete(
    dataset: Dataset, context: ResultContext, kind: ResultKind, sources: Sequence[Source]
) -> Dataset:
    """Set attributes that highdicom left open, took from the stand-in, or set to the present time."""
    source = sources[0]
    # Patient and study as they are in the source: one value for one patient (PS3.3 A.1.2). What the source
    # does not have is left as highdicom wrote it: absent, or empty where it is of Type 2.
    for keyword in COPIED:
        if keyword in source.header:
            dataset[keyword] = deepcopy(source.header[keyword])
    with quiet_pydicom():
        for name in dataset:
            if name.VR == "PN" and name.value:
                # As text: pydicom would otherwise keep the bytes of the source's character set.
                name.value = [PersonName(str(one)) for one in name.value] if name.VM > 1 else str(name.value)
    _freeze_times(dataset, context, offset_of(source))
    # Series Date and Time (PS3.3 C.7.3.1): the same in all objects of a series, those of later jobs too.
    began = context.series_began(str(dataset.SeriesInstanceUID)) or context.analysed_at
    began = local(began, offset_of(source))
    dataset.SeriesDate, dataset.SeriesTime = f"{began:%Y%m%d}", f"{began:%H%M%S.%f}"
    _right_references(dataset, sources)
    dataset.SeriesDescription = series_description(context, kind)
    if context.station_name:
        dataset.StationName = context.station_name[:16]
    if kind not in (ResultKind.SR, ResultKind.PDF):
        # General Series (PS3.3 C.7.3.1): Laterality is Type 2C, for paired parts only, never in a
        # Segmentation. Empty says that the part may have a side and the source does not tell it.
        from dicom_node.results.common.report import body_part_of, is_unpaired, stated_side  # a circle

        part = body_part_of(source)
        if part:
            dataset.BodyPartExamined = part
        if kind is not ResultKind.SEG and not is_unpaired(part):
            dataset.Laterality = stated_side(source)
    if kind is not ResultKind.SR:
        # Request Attributes Sequence (0040,0275) of the source: the results answer the same request. So IHE
        # wants it of an Evidence Creator (RAD TF-2 Appendix A). A report has Referenced Request Sequence.
        requests = [
            Dataset({Tag(word): deepcopy(item[word]) for word in _REQUEST if item.get(word)})
            for item in source.header.get("RequestAttributesSequence") or []
        ]
        if any(requests):
            dataset.RequestAttributesSequence = [item for item in requests if item]
    return dataset


def encode(dataset: Dataset, context: ResultContext, source: Source) -> bytes:
    """The Part 10 file, in ISO_IR 192, or in the source's character set if the destinations want that."""
    return _encoded(dataset, source.header if context.charset == "source" else Dataset())


def _encoded(dataset: Dataset, source: Dataset) -> bytes:
    """The file in the character set of ``source``.

    If that cannot encode a text (a label of a model card), or is none, ISO_IR 192 is used: never "?".
    """
    charset = character_sets(source)
    dataset.SpecificCharacterSet = UTF8
    if any(charset) and can_hold(charset, dataset):
        dataset.SpecificCharacterSet = list(charset) if len(charset) > 1 else charset[0]
    buffer = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(buffer, enforce_file_format=True)
    if isinstance(pixels := dataset.get("PixelData"), io.BufferedIOBase):
        pixels.close()  # a cine's samples lie in a temporary file
    return buffer.getvalue()


def built_document(
    document: Dataset,
    context: ResultContext,
    kind: ResultKind,
    about: Dataset,
    supersedes: str = "",
) -> BuiltObject:
    """Complete a person's statement on a result ``about``, which has no source image: identity and encoding.

    It is in the character set of that result. Times and equipment must already be set.
    """
    document.SeriesDescription = series_description(context, kind)
    _freeze_times(document, context, str(about.get("TimezoneOffsetFromUTC") or ""))
    return BuiltObject(
        kind=kind,
        sop_instance_uid=document.SOPInstanceUID,
        sop_class_uid=document.SOPClassUID,
        series_instance_uid=document.SeriesInstanceUID,
        supersedes=supersedes,
        data=_encoded(document, about),
    )


def _freeze_times(dataset: Dataset, context: ResultContext, offset: str) -> None:
    """The time of the analysis, also in highdicom's own item, into which it writes the present time: so two
    builds do not differ. And what highdicom's constructors do not accept of the maker.
    """
    analysed = local(context.analysed_at, offset)
    date, time = f"{analysed:%Y%m%d}", f"{analysed:%H%M%S.%f}"
    for prefix in ("InstanceCreation", "Content", "PresentationCreation"):
        if f"{prefix}Date" in dataset:
            setattr(dataset, f"{prefix}Date", date)
            setattr(dataset, f"{prefix}Time", time)
    if "DateOfSecondaryCapture" in dataset:
        dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = date, time
    for item in dataset.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = dicom_datetime(context.analysed_at, offset)
    dataset.DeviceUID = context.installation.device_uid
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _right_references(dataset: Dataset, sources: Sequence[Source]) -> None:
    """Name the source's own SOP class where the stand-in bore a successor (results.source)."""
    classes = {source.uid: source.sop_class_uid for source in sources}
    for item in items(dataset):
        uid = str(item.get("ReferencedSOPInstanceUID") or "")
        if uid in classes and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = classes[uid]
        # PS3.3 C.10.4, C.18.6: for images with a total pixel matrix; highdicom says VOLUME of all others.
        item.pop("PixelOriginInterpretation", None)


def general_equipment(context: ResultContext) -> dict[str, Any]:
    """Arguments of highdicom's constructors for General Equipment (PS3.3 C.7.5.1, C.7.5.2)."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(context),
        "device_serial_number": context.installation.serial_number,
    }


def software_versions(context: ResultContext) -> list[str]:
    """The builder's version, not the release: the identity of a result decides all of its content."""
    return [f"results {BUILDER_VERSION}", f"{context.pipeline} {context.pipeline_version}"[:64]]


def contributing_equipment(
    context: ResultContext, offset: str, kind: ResultKind
) -> list[ContributingEquipment]:
    """One item for the installation, and one for each of its models (IHE AIR 6.5.3.1).

    ``offset``: as from ``envelope.offset_of``. Purposes are from CID 7005. A cleaned image has a second item
    for the node, which changed the source's pixels.
    """
    items = [node_equipment(context, offset, "AI node: built this object", codes.DCM.ProcessingEquipment)]
    if kind is ResultKind.CLEANED:
        items.append(
            node_equipment(
                context,
                offset,
                "AI node: filled pixels of burned-in annotation",
                codes.DCM.ModifyingEquipment,
            )
        )
    for model in context.models:
        item = _item(
            context,
            offset,
            model.id[:64],
            [model.version[:64]],
            "AI model: inference",
            codes.DCM.ProcessingEquipment,
        )
        item.DeviceUID = model_device_uid(context, model)
        items.append(item)
    return items


def acquisition_equipment(header: Dataset) -> Dataset:
    """The machine that made a source (CID 7005), as far as ``header`` names it; PS3.15 E.3.9 retains it."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.AcquisitionEquipment)]
    item.Manufacturer = header.get("Manufacturer") or ""
    for keyword in ("ManufacturerModelName", "DeviceSerialNumber", "StationName", "SoftwareVersions"):
        if header.get(keyword):
            item[keyword] = deepcopy(header[keyword])
    return item


def device_observer(context: ResultContext) -> ObserverContext:
    """TID 1004 for this node."""
    device = DeviceObserverIdentifyingAttributes(
        uid=observer_uid(context),
        name=context.station_name or MODEL_NAME,
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
        serial_number=context.installation.serial_number,
    )
    return ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def algorithm(model: ModelRef, finding: Finding | None = None) -> AlgorithmIdentification:
    """TID 4019 of a model; for a finding with the operating threshold of its label."""
    threshold = finding.threshold if finding is not None else None
    parameters = None if threshold is None else [f"operating threshold {threshold:.4g}"]
    return AlgorithmIdentification(name=model.id, version=model.version, parameters=parameters)


def node_equipment(
    context: ResultContext, offset: str, what: str, purpose: DicomCode
) -> ContributingEquipment:
    """The node as equipment that did ``what``, for a ``purpose`` of CID 7005."""
    item = _item(context, offset, MODEL_NAME, software_versions(context), what, purpose)
    item.DeviceUID = context.installation.device_uid
    return item


def _item(
    context: ResultContext, offset: str, name: str, versions: list[str], what: str, purpose: DicomCode
) -> ContributingEquipment:
    return ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=name,
        software_versions=versions,
        device_serial_number=context.installation.serial_number,
        station_name=context.station_name[:16] or None,
        contribution_datetime=dicom_datetime(context.analysed_at, offset),
        contribution_description=what,
    )


_OFFSET: Final = re.compile(r"([+-])([01]\d)([0-5]\d)")


def dicom_datetime(moment: datetime, offset: str) -> str:
    """Date and time as VR DT, without an offset.

    (0008,0201) gives the offset (PS3.3 C.12.1), and DCMTK refuses "+0000".
    """
    return f"{local(moment, offset):%Y%m%d%H%M%S.%f}"


def zone_of(offset: str) -> timezone | None:
    """The time zone with this Timezone Offset From UTC (0008,0201); None for a text that is no offset."""
    match = _OFFSET.fullmatch(offset)
    if match is None:
        return None
    shift = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-shift if match[1] == "-" else shift)


def local(moment: datetime, offset: str) -> datetime:
    """In the source's Timezone Offset From UTC (0008,0201); without one, in this machine's zone.

    An offset of our own choice would be a lie about the copied Study Date and Time, which it also governs.
    """
    return moment.astimezone(zone_of(offset))
