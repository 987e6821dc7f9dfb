"""The tables of the conformance statement, from what the program uses and from what its builders wrote.

The statement itself is written by hand (``docs/conformance.md``); ``PARTS`` are the tables between its marks.
``tests/conformance/test_results.py`` compares both with the program and with real objects.
"""
# ruff: noqa: E501 - the lines are those of the document

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

from generate import table
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.uid import UID

from ai_pipeline import pipelines
from ai_pipeline.models.registry import cards
from dicom_connectors.audit_syslog.message import KINDS as AUDITED
from dicom_connectors.worklist.manager import KEYS
from dicom_connectors.worklist.workitem import PULL, CancelReason
from dicom_console.handlers import stow
from dicom_node.base.dicom import dimse_n
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME, SECONDARY_CAPTURES, TRANSFER_SYNTAXES
from dicom_node.base.dicom.uids import SOURCES as ANALYSED
from dicom_node.base.lifecycle import RESULT_KINDS, ResultKind
from dicom_node.deliver.scu import (
    RETRIEVE_STATUSES,
    STORE_STATUSES,
    STUDY_KEYS,
    RetrieveStatus,
    SendStatus,
)
from dicom_node.people.stow import REASONS
from dicom_node.receive.policy import PROGRAM_CLASSES, STORAGE_CLASSES, VERIFICATION
from dicom_node.receive.statuses import (
    REJECTIONS,
    REPORT_STATUSES,
    REQUEST_STATUSES,
    STATUSES,
    STEP_STATUSES,
    Status,
)
from dicom_node.results import standard
from dicom_node.results.concepts import OURS, SCHEME
from dicom_node.results.series import OUTLINES_SERIES_NUMBER
from dicom_node.studies.fetch import ATTEMPTS

GOLDEN: Final = Path(__file__).resolve().parents[1] / "tests" / "golden"
ContentRow = tuple[str, str, str, str]
"""Parent concept ("" for the root), relationship, value type, concept."""


# Services and statuses


def sop_classes() -> str:
    """Every SOP class with its roles; of Storage the kinds of result that are sent, and what is received."""
    study_root = "1.2.840.10008.5.1.4.1.2.2."
    rows = [("Verification SOP Class", VERIFICATION, "yes", "yes")]
    for uid, name in STORAGE_CLASSES.items():
        use = "analysed" if uid in ANALYSED else "kept"
        rows.append((name, uid, _kinds_of(uid), "analysed by sender" if uid in SECONDARY_CAPTURES else use))
    rows += [(name, uid, _kinds_of(uid), "given to programs") for uid, name in PROGRAM_CLASSES.items()]
    rows += [
        (UID(dimse_n.COMMITMENT_CLASS).name, dimse_n.COMMITMENT_CLASS, "yes", "`commit_after`"),
        *((UID(f"{study_root}{n}").name, f"{study_root}{n}", "yes", "") for n in (1, 2, 3)),
        (UID(dimse_n.STEP_CLASS).name, dimse_n.STEP_CLASS, "", "`mpps`"),
        (PULL.name, PULL, "`worklist`", ""),
    ]
    return table(("SOP class", "UID", "SCU", "SCP"), rows)


def _kinds_of(uid: str) -> str:
    """The kinds of result that are sent in this SOP class."""
    return ", ".join(f"`{kind}`" for kind, declared in RESULT_KINDS.items() if uid in declared.sop_classes)


def transfer_syntaxes() -> str:
    """Every transfer syntax in the order of preference."""
    rows = [
        (
            one.name,
            one.uid,
            re.sub(r" ?compressed", "", one.kind.replace("kept but not decoded here", "kept")).strip(),
        )
        for one in TRANSFER_SYNTAXES
    ]
    return table(("transfer syntax", "UID", "kind"), rows)


def kinds_of_result() -> str:
    """Every kind of result with its Series Numbers."""
    further = {
        ResultKind.SEG: f", {OUTLINES_SERIES_NUMBER}",
    }
    rows = [
        (f"`{kind}`", declared.meaning, f"{declared.series_number}{further.get(kind, '')}")
        for kind, declared in RESULT_KINDS.items()
    ]
    return table(("kind", "what it is", "Series Number"), rows)


def study_keys() -> str:
    """The keys of a C-FIND for studies."""
    matched = {
        "StudyInstanceUID": "universal, or unique",
        "StudyDate": "range, or universal",
        "ModalitiesInStudy": "single value, or universal",
    }
    rows = [(dictionary_description(key), _tag(key), matched.get(key, "returned")) for key in STUDY_KEYS]
    return table(("key", "tag", "match"), rows)


def workitem_attributes() -> str:
    """What is asked for of a work item."""
    return ", ".join(map(dictionary_description, KEYS)) + ".\n"


def cancel_reasons() -> str:
    """The reasons for which a work item is reported as cancelled."""
    return table(
        ("reason", "code (DCM, CID 9300)"),
        [(reason.value, f"{reason.code.value}, {reason.code.meaning}") for reason in CancelReason],
    )


def our_statuses() -> str:
    """Every status that we answer, with the requests that get it."""
    services: Mapping[str, Sequence[Status]] = {
        "C-STORE": STATUSES,
        "N-EVENT-REPORT": REPORT_STATUSES,
        "N-ACTION": REQUEST_STATUSES,
        "MPPS": STEP_STATUSES,
    }
    rows = [
        (
            f"{status.code:04X}",
            status.meaning,
            ", ".join(name for name, statuses in services.items() if status in statuses),
            status.when,
        )
        for status in dict.fromkeys(chain.from_iterable(services.values()))
    ]
    return table(("status", "meaning", "answer to", "when"), rows)


_SENT: Final = {
    SendStatus.STORED: "confirmed by query or storage commitment",
    SendStatus.WARNED: "event 5005; confirmed likewise",
    SendStatus.VERIFY: "confirmed likewise",
    SendStatus.RETRY: "tried again",
    SendStatus.REFUSED: "given up after `outbox.refusals`: a person must look",
}
_RETRIEVED: Final = {
    RetrieveStatus.RETRIEVED: "fetched",
    RetrieveStatus.INCOMPLETE: f"tried again; after {ATTEMPTS} tries taken as it is",
    RetrieveStatus.RETRY: f"tried again; given up after {ATTEMPTS} tries",
    RetrieveStatus.REFUSED: "given up: a person may start it once more",
}


def store_statuses() -> str:
    """What we do with the status of a C-STORE."""
    rows = [
        (
            behaviour,
            "; ".join(
                f"{_range(first, last)} {text}"
                for first, last, of_range, text in STORE_STATUSES
                if of_range == status
            ),
        )
        for status, behaviour in _SENT.items()
    ]
    return table(("behaviour", "statuses"), rows)


def retrieve_statuses() -> str:
    """What we do with the last status of a C-MOVE or C-GET."""
    rows = [
        (_range(first, last), text or "success", _RETRIEVED[status])
        for first, last, status, text in RETRIEVE_STATUSES
    ]
    return table(("status", "meaning", "behaviour"), rows)


def _range(first: int, last: int) -> str:
    return f"{first:04X}" if first == last else f"{first:04X} to {last:04X}"


def rejections() -> str:
    """Every A-ASSOCIATE-RJ."""
    return table(
        ("result", "source", "reason", "meaning"),
        [(one.result, one.source, one.reason, one.meaning) for one in REJECTIONS],
    )


def web_resources() -> str:
    """Every resource of DICOMweb as origin server, as the program answers it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for route in stow.router.routes:
        about = " ".join((route.endpoint.__doc__ or "").split())  # type: ignore[attr-defined]
        [method] = route.methods  # type: ignore[attr-defined]
        rows.setdefault((method, about), []).append(f"`{route.path.removeprefix('/api/dicomweb')}`")  # type: ignore[attr-defined]
    return table(
        ("request", "resource", "what it does"),
        [(method, ", ".join(sorted(paths, key=len)), about) for (method, about), paths in rows.items()],
    )


def store_reasons() -> str:
    """Every Failure Reason of Store (STOW-RS)."""
    return table(("Failure Reason", "when"), [(f"{one.code:04X}", one.when) for one in REASONS])


def audit_messages() -> str:
    """Every audit message: what was done, by Event ID and Event Type Code."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for action, kind in AUDITED.items():
        code = f"{kind.type.value}, {kind.type.meaning}" if kind.type else ""
        key = f"{kind.event.value}, {kind.event.meaning}", code, kind.action
        rows.setdefault(key, []).append(action.value.replace("_", " "))
    return table(
        ("Event ID (DCM)", "Event Type Code (DCM)", "action", "what was done"),
        [(*key, ", ".join(actions)) for key, actions in rows.items()],
    )


# Created instances

_SR, _SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"
_COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
CREATED: Final = {
    "Structured reports": (
        ("report of findings", "*-sr", _SR),
        ("assessment", "assessment", _SR),
        ("obstetric report", "*-obgyn", _COMPREHENSIVE_SR),
    ),
    "Presentation states": (
        ("grayscale", "*-gsps", "1.2.840.10008.5.1.4.1.1.11.1"),
        ("colour", "*-gsps", "1.2.840.10008.5.1.4.1.1.11.2"),
    ),
    "Pictures": (
        ("with findings", "*-sc", _SC),
        ("heat map", "*-heatmap", _SC),
        ("summary page", "*-summary", _SC),
        ("cleaned image", "*-cleaned", _SC),
        ("cleaned cine", "*-cleaned", "1.2.840.10008.5.1.4.1.1.7.4"),
    ),
    "Others": (
        ("PDF", "*-pdf", "1.2.840.10008.5.1.4.1.1.104.1"),
        ("segmentation", "*-seg*", "1.2.840.10008.5.1.4.1.1.66.4"),
        ("rejection note", "rejection", "1.2.840.10008.5.1.4.1.1.88.59"),
        ("key objects", "*-kos", "1.2.840.10008.5.1.4.1.1.88.59"),
    ),
}
"""Groups of instances that the node makes: of each its name, its golden dumps and its SOP Class UID."""

_FIXED, _AUTO, _COPY, _CONFIG, _ANALYSIS = "FIXED", "AUTO", "COPY", "CONFIG", "ANALYSIS"
_TIME = "analysis"
_MADE_TIMES = ("InstanceCreation", "Content", "PresentationCreation")
SOURCES: Final[dict[str, tuple[str, str]]] = {
    "SOPClassUID": (_FIXED, "by kind of result and image"),
    "SpecificCharacterSet": (_CONFIG, "ISO_IR 192, or the source's (`charset`)"),
    **{f"{name}{part}": (_AUTO, _TIME) for name in _MADE_TIMES for part in ("Date", "Time")},
    "DateOfSecondaryCapture": (_AUTO, _TIME),
    "TimeOfSecondaryCapture": (_AUTO, _TIME),
    "SeriesDate": (_AUTO, "first analysis with a result in the series"),
    "SeriesTime": (_AUTO, "as Series Date"),
    "SOPInstanceUID": (_AUTO, "derived from all that shapes the object"),
    "SeriesInstanceUID": (_AUTO, "derived; one series for each kind and study"),
    "SeriesNumber": (_FIXED, "by kind, 9001 and more"),
    "InstanceNumber": (_AUTO, "the source's for pictures, states and segmentations; else 1, or the rank"),
    "SeriesDescription": (_FIXED, 'by kind, with "AI" and the name of the pipeline'),
    "Modality": (_FIXED, "SR, PR, SEG, KO, DOC, OT; of a cleaned image the source's"),
    "Manufacturer": (_FIXED, MANUFACTURER),
    "ManufacturerModelName": (_FIXED, MODEL_NAME),
    "DeviceSerialNumber": (_AUTO, "of the installation"),
    "DeviceUID": (_AUTO, "of the installation"),
    "SoftwareVersions": (_FIXED, "version of the builders; pipeline with its version"),
    "StationName": (_CONFIG, "`node.ae_title`"),
    "ContributingEquipmentSequence": (_AUTO, "equipment of the source (109101), node and models (109102)"),
    "CodingSchemeIdentificationSequence": (_FIXED, "the private coding scheme"),
    "BodyPartExamined": (_COPY, "or of Anatomic Region Sequence"),
    "Laterality": (_COPY, "or of Image Laterality; empty where a part with sides has none"),
    "RequestAttributesSequence": (_COPY, "what identifies request and procedure step"),
    "ReferencedRequestSequence": (_COPY, "of Request Attributes Sequence, else Accession Number"),
    "PerformedProcedureCodeSequence": (_COPY, "Procedure Code Sequence, else the examination of its views"),
    "ReferencedPerformedProcedureStepSequence": (_FIXED, "empty: the node has no MPPS"),
    "PatientOrientation": (_COPY, "empty where it has none"),
    "SequenceOfUltrasoundRegions": (_COPY, "regions in which no pixel was filled"),
    "LossyImageCompression": (_AUTO, "00, or 01 where the source's pixels were once compressed with loss"),
    "LossyImageCompressionRatio": (_COPY, "or measured"),
    "LossyImageCompressionMethod": (_COPY, "or of its transfer syntax"),
    "RescaleIntercept": (_COPY, "else the identity"),
    "RescaleSlope": (_COPY, "else the identity"),
    "RescaleType": (_COPY, "else US"),
    "SoftcopyVOILUTSequence": (_COPY, "window or VOI LUT, else the whole range"),
    "PresentationLUTShape": (_FIXED, "IDENTITY, for MONOCHROME1 INVERSE"),
    "FrameIncrementPointer": (_COPY, "to Frame Time or its vector, else to page numbers"),
    "FrameTime": (_COPY, "or of its rate"),
    "NumberOfFrames": (_COPY, "of a cleaned cine; of a segmentation one for each segment"),
    "PixelSpacing": (_COPY, "where no pixel was filled"),
    "PixelAspectRatio": (_COPY, "where pixels are no squares, and there is no Pixel Spacing"),
    "ValueType": (_FIXED, "CONTAINER"),
    "ConceptNameCodeSequence": (_FIXED, "title of the document"),
    "ContinuityOfContent": (_FIXED, "CONTINUOUS or SEPARATE"),
    "ContentTemplateSequence": (_FIXED, "1500, 2000, 2010 or 5000 of DCMR"),
    "CompletionFlag": (_FIXED, "COMPLETE"),
    "VerificationFlag": (_FIXED, "UNVERIFIED"),
    "PreliminaryFlag": (_FIXED, "PRELIMINARY"),
    "CurrentRequestedProcedureEvidenceSequence": (_AUTO, "every object that is referred to"),
    "ReferencedInstanceSequence": (_AUTO, "the assessed report"),
    "ReferencedSeriesSequence": (_AUTO, "the source images"),
    "SourceImageSequence": (_AUTO, "the source images, of a cine with frames"),
    "ContentLabel": (_FIXED, "AI_FINDINGS, AI_REMOVED_TEXT, AI_ORGANS"),
    "ContentDescription": (_FIXED, "in words"),
    "ContentCreatorName": (_FIXED, "empty: no person"),
    "GraphicAnnotationSequence": (_ANALYSIS, "boxes, lines and texts with the report's tracking UIDs"),
    "GraphicLayerSequence": (_FIXED, "AI_LINES and AI_TEXTS, and OVERLAYS where the image has some"),
    "DisplayedAreaSelectionSequence": (_AUTO, "the whole image"),
    "ICCProfile": (_FIXED, "sRGB"),
    "ImageType": (_FIXED, "DERIVED and SECONDARY; of a segmentation DERIVED and PRIMARY"),
    "ConversionType": (_FIXED, "WSD"),
    "DerivationDescription": (_ANALYSIS, "what was done, by which model"),
    "DerivationCodeSequence": (_FIXED, "(113047, DCM), and what a pipeline names besides"),
    "SyntheticData": (_ANALYSIS, "YES where pixels were filled"),
    "BurnedInAnnotation": (_ANALYSIS, "NO on verified cleaned images, else YES"),
    "DocumentTitle": (_FIXED, "AI summary - not for diagnostic use"),
    "MIMETypeOfEncapsulatedDocument": (_FIXED, "application/pdf"),
    "EncapsulatedDocument": (_ANALYSIS, "one sheet with text and picture"),
    "EncapsulatedDocumentLength": (_AUTO, "without the byte of padding"),
    "AcquisitionDateTime": (_COPY, "or Acquisition Date and Time; of the first image"),
    "SourceInstanceSequence": (_AUTO, "the source images"),
    **dict.fromkeys(
        ("FrameOfReferenceUID", "PositionReferenceIndicator", "ImageComments"),
        (_CONFIG, "with `seg_geometry`: invented, and says so"),
    ),
    "SegmentationType": (_FIXED, "BINARY"),
    "SegmentSequence": (_ANALYSIS, "what was outlined, with tracking UIDs"),
    "SegmentsOverlap": (_ANALYSIS, "whether they do"),
    "DimensionOrganizationSequence": (_AUTO, "derived UID"),
    "DimensionIndexSequence": (_AUTO, "by segment"),
    "SharedFunctionalGroupsSequence": (_AUTO, "of the source image"),
    "PerFrameFunctionalGroupsSequence": (_AUTO, "segment and source image of each frame"),
    **dict.fromkeys(
        (
            "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "WindowCenter", "WindowWidth",
            "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue",
            "ModalityLUTSequence", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
            "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
            "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter", "ShutterPresentationColorCIELabValue",
            "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay", "ActualFrameDuration",
            "StartTrim", "StopTrim", "PreferredPlaybackSequencing",
        ),
        (_COPY, ""),
    ),
    "ShutterShape": (_COPY, "RECTANGULAR, CIRCULAR, POLYGONAL, each where it is whole"),
    "ShutterPresentationValue": (_COPY, "black, where it has none"),
    "OverlayActivationLayer": (_AUTO, "OVERLAYS, for each of the 16 overlay planes that the image has"),
    "PageNumberVector": (_AUTO, "where the source tells no time of its frames"),
    **dict.fromkeys(
        (
            "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns",
            "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
        ),
        (_ANALYSIS, ""),
    ),
}  # fmt: skip
"""Where each attribute of a created object comes from, apart from those of patient and study (A.D)."""

# The template that has a row of this concept, by the concept of the item above it.
_REPORT = "TID 1500"
TEMPLATES: Final = {
    "370129005": "TID 300",
    "121049": "TID 1204", "121005": "TID 1002", "121008": "TID 1003", "128774": "TID 1003",
    "121012": "TID 1004", "121013": "TID 1004", "121014": "TID 1004", "121015": "TID 1004",
    "121016": "TID 1004", "121024": "TID 1006", "121030": "TID 1008", "121058": "TID 1500, extension of 2000",
    "121077": "extension of TID 1500, 2000", "121106": "extension: a comment", "111028": "TID 1600",
    "126200": "TID 1600", "260753009": "TID 1601, 320", "121139": "TID 1602", "110910": "TID 1602",
    "110911": "TID 1602", "111044": "TID 1602", "111043": "TID 1602", "111026": "TID 1602",
    "111066": "TID 1602", "123014": "TID 1602", "111031": "TID 1603", "126010": _REPORT,
    "125309": "TID 1410, 1501", "121070": "TID 2000",
    "125007": "TID 1410, 1501", "112039": "TID 4108 in 1410, 1501", "112040": "TID 4108 in 1410, 1501",
    "121071": "TID 1410, 1501", "363698007": "TID 1410, 1501", "272741003": "TID 1410, 1501",
    "111001": "TID 4019", "111002": "TID 4019", "111003": "TID 4019",
    "705057003": "TID 1410, 1501", "CUTOFF": "extension: what presence is inferred from",
    "130400": "TID 1410", "111030": "TID 1410", "121112": "TID 1501", "C0034375": _REPORT,
    "363704007": "extension of TID 1500, 2000: CID 4031", "RESULT": "TID 1500, extension of 2000",
    "NOTRUNBECAUSE": "extension of TID 2000",
    "121068": "extension of TID 1500: CID 7001", "121001": "TID 1000", "121002": "TID 1000",
    "C2348792": "TID 1502",
    "ASSESSEDREPORT": "extension of TID 1500", "ASSESSMENT": "TID 1501",
    "the finding": "TID 1500, extension of 2000", "the measured quantity": "TID 300 in 1501",
    "AI estimated probability, or score, of the finding (private)": "TID 300 in 1410, 1501",
}  # fmt: skip


_STATES, _DRAWN = ("grayscale", "colour"), ("with findings", "heat map")
_CLEANED = ("cleaned image", "cleaned cine")
_PICTURES = (*_DRAWN, "summary page", *_CLEANED)
_FURTHER: Final = (
    ((*_PICTURES, "segmentation", *_STATES), ("RequestAttributesSequence", "BodyPartExamined")),
    ((*_PICTURES, *_STATES), ("Laterality",)),
    (_PICTURES, ("LossyImageCompressionRatio", "LossyImageCompressionMethod", "SyntheticData")),
    (
        (*_DRAWN, *_CLEANED),
        ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "PixelAspectRatio"),
    ),
    (
        _CLEANED,
        ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
         "SequenceOfUltrasoundRegions"),
    ),
    (
        ("cleaned image",),
        ("PixelPaddingValue", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    ),
    (("grayscale",), ("ModalityLUTSequence",)),
    (
        _STATES,
        ("ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
         "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
         "VerticesOfThePolygonalShutter", "ShutterPresentationValue", "ShutterPresentationColorCIELabValue",
         "OverlayActivationLayer"),
    ),
    (
        ("cleaned cine",),
        ("FrameTimeVector", "PageNumberVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay",
         "ActualFrameDuration", "StartTrim", "StopTrim", "PreferredPlaybackSequencing"),
    ),
)  # fmt: skip
"""What a source may bring that no drawn image has: names of instances, and attributes."""
_SOMETIMES = frozenset({"StationName", "PlanarConfiguration", "OverlayActivationLayer"})
_ZERO = frozenset({"PixelRepresentation", "PlanarConfiguration", "HighBit"})  # of which 0 is a value
_OF_SOURCES = frozenset({"patient-study", "clinical-trial-subject", "clinical-trial-study"})
"""Modules of which all is copied: whether they are there is the source's to say."""
NOWHERE: Final = "–"
"""In a table of attributes: this instance never has it."""


@dataclass(frozen=True)
class Dump:
    """One golden dump: ``attributes`` of its root by keyword, ``content`` its content items in order."""

    name: str
    attributes: dict[str, str]
    content: tuple[ContentRow, ...]


@cache
def dumps() -> list[Dump]:
    """Every dump of an object that names the patient; the others have what the profile left of it."""
    found = []
    for path in sorted(path for path in GOLDEN.glob("*.txt") if not path.name.startswith("deidentified")):
        lines = path.read_text(encoding="utf-8").splitlines()[2:]  # builder version, transfer syntax
        attributes = dict(match.groups() for match in map(_ATTRIBUTE.fullmatch, lines) if match)
        found.append(Dump(path.stem, attributes, tuple(_content(lines))))
    return found


def instances() -> str:
    """Annex A.A: modules, and attributes with their presence; what several instances share stands once."""
    found = {name: _presences(name, *of) for group in CREATED.values() for name, *of in group}
    common = _shared(list(found.values()))
    parts = [_modules(), "### A.A.1 All instances\n", _attributes({"all": common})]
    for number, (title, group) in enumerate(CREATED.items(), start=2):
        own = {
            name: {word: how for word, how in found[name].items() if word not in common} for name, *_ in group
        }
        shared = _shared(list(own.values()))
        rest = {
            name: {word: how for word, how in one.items() if word not in shared} for name, one in own.items()
        }
        parts += [f"### A.A.{number} {title}\n", _attributes({"all of these": shared}), _attributes(rest)]
    return "\n".join(parts)


def _shared(presences: list[dict[str, str]]) -> dict[str, str]:
    """What all have with the same presence."""
    return dict(set.intersection(*(set(one.items()) for one in presences)))


def _modules() -> str:
    """The modules of usage C and U that are always present, by instances."""
    names: dict[str, list[str]] = {}
    for group in CREATED.values():
        for name, pattern, uid in group:
            for module, usage in standard.usages(uid).items():
                if usage != "M" and _use_of(module, usage, _dumps_of(pattern, uid)) == "ALWAYS":
                    names.setdefault(module.replace("-", " ").title(), []).append(name)
    listed = "; ".join(f"{module} ({', '.join(of)})" for module, of in names.items())
    return f"Modules of usage C and U that are always present: {listed}.\n"


def _presences(name: str, pattern: str, uid: str) -> dict[str, str]:
    """Presence of each attribute of an instance, by keyword."""
    made = _dumps_of(pattern, uid)
    kinds = _types(uid, made)
    words = {word for one in made for word in one.attributes if word in SOURCES}
    words |= {word for names, further in _FURTHER for word in further if name in names}
    return {word: _presence(word, made, kinds.get(word, "3")) for word in words}


def _attributes(presences: Mapping[str, Mapping[str, str]]) -> str:
    """A table with a column of presences for each name."""
    words = sorted({word for one in presences.values() for word in one}, key=_number)
    rows = [
        (
            dictionary_description(_number(word)), _tag(word),
            *(one.get(word, NOWHERE) for one in presences.values()), *SOURCES[word],
        )
        for word in words
    ]  # fmt: skip
    return table(("attribute", "tag", *presences, "source", "value"), rows)


def _dumps_of(pattern: str, sop_class_uid: str) -> list[Dump]:
    return [
        one
        for one in dumps()
        if fnmatch(one.name, pattern) and one.attributes["SOPClassUID"] == sop_class_uid
    ]


def _use_of(module: str, usage: str, made: list[Dump]) -> str:
    """Whether the objects have a module: what it demands, and anything of it."""
    own = {keyword: kind for path, keyword, kind in standard.attributes_of(module) if not path}
    demanded = {keyword for keyword, kind in own.items() if kind in ("1", "2")}
    present = [demanded <= one.attributes.keys() and bool(own.keys() & one.attributes.keys()) for one in made]
    if usage == "M" or all(present):
        return "ALWAYS"
    return "ANAP" if any(present) or module in _OF_SOURCES else "not used"


def _types(uid: str, made: list[Dump]) -> dict[str, str]:
    """The strictest Type of each root attribute in the modules that the objects have."""
    found: dict[str, str] = {}
    for module, usage in standard.usages(uid).items():
        if _use_of(module, usage, made) != "not used":
            for path, keyword, kind in standard.attributes_of(module):
                if not path:
                    found[keyword] = min(kind, found.get(keyword, "3"))
    return found


def _presence(keyword: str, made: list[Dump], kind: str) -> str:
    """Presence of Value as PS3.2 Annex N names it, of an attribute that is of Type ``kind`` in its IOD.

    What comes from the source is as its Type allows, since other sources say more or less; what the node
    makes is as it was written.
    """
    values = [one.attributes.get(keyword) for one in made]
    if SOURCES[keyword][0] == _COPY:
        if kind == "2C" and None not in values:
            return "VNAP"
        return {"1": "ALWAYS", "2": "VNAP"}.get(kind, "ANAP")
    if None in values or keyword in _SOMETIMES:
        return "ANAP"
    filled = [value not in ("", "0") or keyword in _ZERO for value in values]
    return "ALWAYS" if all(filled) else "VNAP" if any(filled) else "EMPTY"


def _number(keyword: str) -> int:
    return tag_for_keyword(keyword) or 0x60001001  # the one attribute of a repeating group


def _tag(keyword: str) -> str:
    tag = _number(keyword)
    return "(60xx,1001)" if tag == 0x60001001 else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def copied() -> str:
    """Annex A.D: what is copied to the letter, absent or empty too."""
    return "; ".join(map(dictionary_description, COPIED)) + ".\n"


# Content of reports

FURTHER_ROWS: Final[tuple[ContentRow, ...]] = (
    ("the finding", "HAS OBS CONTEXT", "TEXT", '(112039, DCM, "Tracking Identifier")'),
    ("the finding", "HAS OBS CONTEXT", "UIDREF", '(112040, DCM, "Tracking Unique Identifier")'),
    ("the finding", "INFERRED FROM", "NUM", '(CUTOFF, 99AINODE, "AI cut-off")'),
    ("the measured quantity", "HAS CONCEPT MOD", "CODE", '(370129005, SCT, "Measurement Method")'),
    ("the measured quantity", "HAS CONCEPT MOD", "CODE", '(363698007, SCT, "Finding Site")'),
)
"""What is written of images that no golden dump is of: several findings with and without a place, burned-in lengths."""
_ATTRIBUTE = re.compile(r"([A-Z]\w+): ?(.*)")
_ITEM = re.compile(
    r'( *)> (.+?) (CONTAINER|CODE|NUM|TEXT|UIDREF|IMAGE|SCOORD|PNAME) \(([^,]+), (\w+), "(.*?)"\)(?: = (.*))?'
)


_WITHOUT_PLACE: Final = ('"Qualitative Evaluations")', '"Findings")')


def concept(value: str, scheme: str, meaning: str, value_type: str, parent: str) -> str:
    """A concept as the statement names it: codes of single findings and quantities by what they are."""
    if value_type == "NUM" and value.startswith(("P-", "S-")) and scheme == "99AINODE":
        return "AI estimated probability, or score, of the finding (private)"
    if value_type == "NUM" and parent.endswith('"Measurement Group")'):
        return "the measured quantity"
    if value_type == "CODE" and parent.endswith(_WITHOUT_PLACE) and scheme != "99AINODE":
        return "the finding"
    return f'({value}, {scheme}, "{meaning}")'


def report_content() -> str:
    """Annex A.B: every row of content that the builders write, below the concept of the item above it."""
    reports = sorted(dumps(), key=lambda one: one.name != "chest_xray-sr")
    written = chain.from_iterable(one.content for one in reports if one.attributes["SOPClassUID"] == _SR)
    by_parent: dict[str, list[tuple[str, ...]]] = {}
    for parent, relationship, kind, name in dict.fromkeys((*written, *FURTHER_ROWS)):
        template = TEMPLATES[name[1:].split(",", maxsplit=1)[0] if name.startswith("(") else name]
        below = by_parent.setdefault(parent or "root", [(f"**{parent or 'root'}**", "", "", "")])
        below.append((relationship, kind, name, template.replace("TID ", "")))
    return table(("relationship", "value type", "concept", "TID"), [*chain.from_iterable(by_parent.values())])


def _content(lines: list[str]) -> Iterator[ContentRow]:
    parents: list[tuple[int, str]] = []
    for item in filter(None, map(_ITEM.match, lines)):
        depth = len(item[1])
        parents = [one for one in parents if one[0] < depth]
        parent = parents[-1][1] if parents else ""
        name = concept(item[4], item[5], item[6], item[3], parent)
        parents.append((depth, name))
        yield parent, item[2], item[3], name


def what_models_say() -> str:
    """What each pipeline measures and outlines, with its codes."""
    lines = []
    for card in pipelines.cards():
        codes = dict.fromkeys(one.code for one in card.measures)
        measured = ", ".join(f"{code.meaning} ({code.value}, {code.scheme})" for code in codes)
        outlined = ", ".join(one.meaning for one in card.outlines)
        if measured or outlined:
            lines.append((f"`{card.name}`", measured, outlined))
    return table(("pipeline", "measures", "outlines"), lines)


def private_codes() -> str:
    """Annex A.E: the codes of our own scheme."""
    codes = [code for card in pipelines.cards() for code in card.private_codes]
    codes += [label.code for card in cards() for label in card.labels]
    meanings = {code.value: code.meaning for code in OURS.values()}
    for code in codes:
        if code.scheme == SCHEME:
            meanings.setdefault(code.value, code.meaning)
    return table(("value", "meaning"), list(meanings.items()))


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "SOP classes": sop_classes,
    "web resources": web_resources,
    "transfer syntaxes": transfer_syntaxes,
    "kinds of result": kinds_of_result,
    "study keys": study_keys,
    "work item attributes": workitem_attributes,
    "cancel reasons": cancel_reasons,
    "store reasons": store_reasons,
    "rejections": rejections,
    "our statuses": our_statuses,
    "store statuses": store_statuses,
    "retrieve statuses": retrieve_statuses,
    "audit messages": audit_messages,
    "instances": instances,
    "report content": report_content,
    "what models say": what_models_say,
    "copied": copied,
    "private codes": private_codes,
}
"""The parts between marks of ``docs/conformance.md``, in its order."""
