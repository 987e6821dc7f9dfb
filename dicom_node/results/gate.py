"""The gate: the last check of each object, on the bytes that would be sent; faulty objects are refused.

Every fault names the attribute and the rule; values are not repeated (they may be PHI).
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import PersonName

from dicom_node.base.dicom.header import items, listed, quiet_pydicom
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import PICTURES, ResultKind
from dicom_node.results.concepts import PRESENCE, name_of
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import text_of
from dicom_node.results.derivation import CALIBRATION
from dicom_node.results.source import Source
from dicom_node.results.standard import is_known, mandatory_modules, missing_attribute

_GROUPS: Final = frozenset({codes.DCM.MeasurementGroup.value, codes.DCM.BiometryGroup.value})
_UID: Final = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_PIXEL_DATA_TAG: Final = b"\xe0\x7f\x10\x00"
# Attributes of Type 1 at the root of what we build: present and with a value.
_TYPE_1: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber",
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ContributingEquipmentSequence",
    "SpecificCharacterSet", "SeriesDescription",
)  # fmt: skip
_TYPE_1_OF_REPORTS: Final = (
    "CompletionFlag", "VerificationFlag", "PreliminaryFlag", "ContentDate", "ContentTime", "ValueType",
    "ConceptNameCodeSequence", "ContentTemplateSequence", "ContentSequence",
    "CurrentRequestedProcedureEvidenceSequence",
)  # fmt: skip
_TYPE_1_OF_KIND: Final = {
    ResultKind.SR: _TYPE_1_OF_REPORTS,
    ResultKind.OBSTETRIC: _TYPE_1_OF_REPORTS,
    ResultKind.ASSESSMENT: _TYPE_1_OF_REPORTS,
    ResultKind.KEY_OBJECTS: (
        "ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContentTemplateSequence",
        "ContentSequence", "CurrentRequestedProcedureEvidenceSequence",
    ),
    ResultKind.GSPS: (
        "ContentLabel", "PresentationCreationDate", "PresentationCreationTime", "ReferencedSeriesSequence",
        "DisplayedAreaSelectionSequence", "GraphicAnnotationSequence", "GraphicLayerSequence",
    ),
    ResultKind.SEG: ("SegmentSequence", "ReferencedSeriesSequence"),
    ResultKind.PDF: (
        "MIMETypeOfEncapsulatedDocument", "EncapsulatedDocument", "EncapsulatedDocumentLength",
        "BurnedInAnnotation", "ConversionType", "ConceptNameCodeSequence", "DocumentTitle",
    ),
}  # fmt: skip
_TYPE_1_OF_PICTURES: Final = (
    "ConversionType", "ImageType", "DerivationDescription", "BurnedInAnnotation", "Rows", "Columns",
)  # fmt: skip

_OF_REPORTS: Final = (
    ("VerificationFlag", "UNVERIFIED", "an AI report must be UNVERIFIED"),
    ("PreliminaryFlag", "PRELIMINARY", "an AI report must be PRELIMINARY"),
)
_OF_PICTURES: Final = ("ImageType", ["DERIVED", "SECONDARY"], "ImageType is not DERIVED\\SECONDARY")
_BURNED_IN: Final = "BurnedInAnnotation is NO on cleaned images and YES on all others"
_DRAWN: Final = (_OF_PICTURES, ("BurnedInAnnotation", "YES", _BURNED_IN))
# Values that attributes of each kind have, and the fault of any other one. No kind leaves that is not here.
_VALUES: Final[Mapping[ResultKind, Sequence[tuple[str, Any, str]]]] = {
    ResultKind.GSPS: (),
    ResultKind.SEG: (),
    ResultKind.SR: _OF_REPORTS,
    ResultKind.OBSTETRIC: _OF_REPORTS,
    ResultKind.ASSESSMENT: _OF_REPORTS,
    ResultKind.KEY_OBJECTS: (("Modality", "KO", "the Modality of key objects is not KO"),),
    ResultKind.SC: _DRAWN,
    ResultKind.SUMMARY: _DRAWN,
    ResultKind.HEATMAP: _DRAWN,
    ResultKind.CLEANED: (_OF_PICTURES, ("BurnedInAnnotation", "NO", _BURNED_IN)),
    ResultKind.PDF: (
        (
            "MIMETypeOfEncapsulatedDocument",
            "application/pdf",
            "MIMETypeOfEncapsulatedDocument is not application/pdf",
        ),
        ("BurnedInAnnotation", "YES", "BurnedInAnnotation is YES on documents, which name the patient"),
        ("VerificationFlag", "UNVERIFIED", "an AI document must be UNVERIFIED"),
    ),
}
# Their tables list alternatives (every value type of a content item; shared and per-frame groups) as if all
# were wanted at once; highdicom's constructors and the checks below stand for them.
_NOT_BY_TABLE: Final = frozenset({"sr-document-content", "segmentation-multi-frame-functional-groups"})


def check(
    data: bytes,
    built: Dataset,
    context: ResultContext,
    kind: ResultKind,
    sources: Sequence[Source],
    further: Callable[[Dataset, bytes], Iterable[str]] | None = None,
    results: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a built DICOM result before its release; raise ResultRefused that lists every fault found.

    ``data``: the complete Part 10 file. ``built``: the data set that was encoded into it. ``sources``: the
    images that the object may refer to; it must have the patient of the first. ``further``: a function that
    takes the object and its bytes before Pixel Data, and yields further faults; it is passed for objects that
    must not name the patient, and replaces the check that the patient is named. ``results``: the SOP Class
    UID of each result of the job that the object may refer to besides, by SOP Instance UID.
    """
    with quiet_pydicom():
        read, pixel_bytes, header = _read(data)
        problems = [
            # What every object has to keep to, whoever it is for.
            *_encoding_faults(read, built),
            *_missing_attributes(read, kind),
            *_uid_faults(read, sources),
            *_patient_faults(read, sources[0]),
            *_series_faults(read, sources),
            *_marking_faults(read, kind),
            *_reference_faults(read, context, sources, results),
            *_graphic_faults(read, sources),
            *(_title_faults(read, context) if kind is ResultKind.SR else ()),
            *(_selection_faults(read, results) if kind is ResultKind.KEY_OBJECTS else ()),
            *(_pixels(read, pixel_bytes) if kind in PICTURES | {ResultKind.SEG} else ()),
            *(_pdf_faults(read) if kind is ResultKind.PDF else ()),
            *(further(read, header) if further else _identity_faults(read, kind)),
        ]
    _raise_faults(kind, problems)


def check_of_program(data: bytes, built: Dataset, kind: ResultKind, sources: Sequence[Source]) -> None:
    """Check the bytes of an object that a program made, after it was judged (``results.foreign``): patient,
    study, series and mark are ours. Raises ResultRefused that lists every fault found.

    What only our builders write is not asked for: sources as the only references, our titles and attributes.
    """
    with quiet_pydicom():
        read, _, _ = _read(data)
        problems = [
            *_encoding_faults(read, built),
            *_uid_faults(read, sources, tracking=False),
            *_patient_faults(read, sources[0]),
            *_series_faults(read, sources),
        ]
        if not is_own_result(read):
            problems.append("Contributing Equipment does not name this product")
        if read.get("VerificationFlag") == "VERIFIED":
            problems.append("it is VERIFIED, and no person did that")
    _raise_faults(kind, problems)


def check_assessment(data: bytes, built: Dataset, report: Dataset) -> None:
    """Check an SR with a person's assessment of our ``report`` before its release; raise ResultRefused with
    all faults.

    ``data``: the complete Part 10 file. ``built``: the data set that was encoded into it. Its patient and
    study must be those of the report.
    """
    kind = ResultKind.ASSESSMENT
    with quiet_pydicom():
        read, _, _ = _read(data)
        problems = [
            *_encoding_faults(read, built),
            *_missing_attributes(read, kind),
            *_series_faults(read, ()),
            *_marking_faults(read, kind),
            *(
                f"{keyword} is not that of the report"
                for keyword in COPIED
                if not _equal(read.get(keyword) or "", report.get(keyword) or "")
            ),
        ]
    _raise_faults(kind, problems)


def _read(data: bytes) -> tuple[Dataset, int | None, bytes]:
    """Parse a Part 10 file into (data set before Pixel Data, length of Pixel Data, bytes before Pixel Data).

    The length is in bytes; None unless Pixel Data is there and reaches exactly to the end of the file.
    """
    buffer = io.BytesIO(data)  # shares the bytes: a cine is not copied
    read = pydicom.dcmread(buffer, stop_before_pixels=True)
    at = buffer.tell()
    length = int.from_bytes(data[at + 8 : at + 12], "little")
    is_whole = data[at : at + 4] == _PIXEL_DATA_TAG and at + 12 + length == len(data)
    return read, length if is_whole else None, data[:at]


def _raise_faults(kind: ResultKind, problems: Sequence[str]) -> None:
    """Raise ResultRefused with these faults of a result of this kind, each once; do nothing if there is
    none.
    """
    if problems:
        raise ResultRefused(f"{kind} result not released: " + "; ".join(dict.fromkeys(problems)))


def _identity_faults(read: Dataset, kind: ResultKind) -> Iterator[str]:
    """Yield faults of an object that must name the patient: marked as de-identified, or without its source
    images.
    """
    if read.get("PatientIdentityRemoved") == "YES":
        yield "PatientIdentityRemoved must not be YES: it names the patient"
    if kind in PICTURES and not read.get("SourceImageSequence"):
        yield "SourceImageSequence is missing"
    if kind is ResultKind.PDF and not read.get("SourceInstanceSequence"):
        yield "SourceInstanceSequence is missing"


def _encoding_faults(read: Dataset, built: Dataset) -> Iterator[str]:
    """Yield a fault for each attribute that reads back from the file with another value than was encoded.

    Text that the character set cannot hold would show here.
    """
    if read.file_meta.get("MediaStorageSOPInstanceUID") != read.get("SOPInstanceUID"):
        yield "the file meta information names another object"
    for element in built:
        if element.keyword == "PixelData":
            continue
        if element.tag not in read or not _equal(read[element.tag].value, element.value):
            yield f"{element.keyword} is encoded differently from what was built"


def _missing_attributes(read: Dataset, kind: ResultKind) -> Iterator[str]:
    """Yield a fault for each Type 1 or 2 attribute that the object's kind or IOD requires and that is
    missing.
    """
    for keyword in (*_TYPE_1, *(_TYPE_1_OF_PICTURES if kind in PICTURES else _TYPE_1_OF_KIND.get(kind, ()))):
        if keyword not in read or read[keyword].value in (None, "", []):
            yield f"{keyword} (Type 1) is missing"
    sop_class_uid = str(read.get("SOPClassUID"))
    if not is_known(sop_class_uid):
        yield "its SOP class has no IOD that is known here"
        return
    if len([keyword for keyword in CALIBRATION if keyword in read]) == 1:
        yield f"{' and '.join(CALIBRATION)} (Type 1C) are there both or not at all"
    for module in mandatory_modules(sop_class_uid):
        if module not in _NOT_BY_TABLE and (missing := missing_attribute(read, module)):
            yield missing


def _uid_faults(read: Dataset, sources: Sequence[Source], *, tracking: bool = True) -> Iterator[str]:
    """Yield faults of UIDs: malformed, equal to a UID of a source image, or (``tracking``) one tracking UID
    in two groups.
    """
    theirs = {source.uid for source in sources} | {source.series_uid for source in sources}
    # The study's UID is the source's, whatever it is: under another the PACS would not find the study.
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        value = text_of(read, keyword)
        if len(value) > 64 or not _UID.fullmatch(value):
            yield f"{keyword} is no UID"
        if value in theirs | {sources[0].study_uid}:
            yield f"{keyword} is one of the source"
    tracked = [
        str(item.UID)
        for item in items(read)
        if tracking and item.get("ValueType") == "UIDREF" and name_of(item) == "112040"
    ]
    if len(set(tracked)) < len(tracked):
        yield "a Tracking Unique Identifier is in two groups: viewers show only the first"


def _patient_faults(read: Dataset, source: Source) -> Iterator[str]:
    """Yield a fault for each patient or study attribute that differs from that of the source image."""
    for keyword in COPIED:
        theirs, ours = source.header.get(keyword), read.get(keyword)
        if keyword in source.header and source.header[keyword].VR == "SQ":
            continue  # compared with what was built; unsound optional ones are left out on purpose
        if not _equal(ours or "", theirs or ""):
            yield f"{keyword} is not that of the source"


def _series_faults(read: Dataset, sources: Sequence[Source]) -> Iterator[str]:
    """Yield faults of the series: number below 9000, no "AI" in its description, or another study than the
    sources.
    """
    if int(read.get("SeriesNumber") or 0) < 9000:
        yield "SeriesNumber is below 9000"
    if not re.search(r"\bAI\b", text_of(read, "SeriesDescription")):
        yield "SeriesDescription does not say AI"
    if any(source.study_uid != read.get("StudyInstanceUID") for source in sources):
        yield "it lies in another study than its sources"


def _marking_faults(read: Dataset, kind: ResultKind) -> Iterator[str]:
    """Yield faults of the attributes that mark the object as made by this product and as unverified."""
    if not is_own_result(read):
        yield "Contributing Equipment does not name this product"
    yield from (fault for keyword, wanted, fault in _VALUES[kind] if not _equal(read.get(keyword), wanted))


def _reference_faults(
    read: Dataset, context: ResultContext, sources: Sequence[Source], results: Mapping[str, str]
) -> Iterator[str]:
    """Yield a fault for each reference to an object that is neither a source, nor an earlier image or report,
    nor the report that is replaced, nor one of ``results``, and for each reference with a wrong SOP class or
    frame.
    """
    known = {source.uid: source for source in sources}
    earlier = {
        one.SOPInstanceUID: one for image in context.previous.values() for one in (image.image, image.report)
    }
    # References inside what was copied from the source (Referenced Study Sequence …) are the source's.
    copied = [
        inner
        for keyword in (*COPIED, "ReferencedRequestSequence", "RequestAttributesSequence")
        for outer in _sequence(read, keyword)
        for inner in items(outer)
    ]
    for item in items(read):
        uid = text_of(item, "ReferencedSOPInstanceUID")
        is_earlier = uid in earlier and item.get("ReferencedSOPClassUID") == earlier[uid].SOPClassUID
        is_result = uid in results and item.get("ReferencedSOPClassUID") == results[uid]
        if not uid or uid == context.supersedes or is_earlier or is_result:
            continue
        source = known.get(uid)
        if source is None:
            if not any(item is one for one in copied):
                yield "it refers to an object that is no source of this job"
            continue
        if item.get("ReferencedSOPClassUID") != source.sop_class_uid:
            yield "a reference names another SOP class than the source has"
        if any(
            not 1 <= number <= source.frames for number in map(int, listed(item.get("ReferencedFrameNumber")))
        ):
            yield "a reference names a frame that the source has not"


def _graphic_faults(read: Dataset, sources: Sequence[Source]) -> Iterator[str]:
    """Yield faults of SCOORD and PIXEL graphics: they must lie inside the image; regions must be closed
    polygons with an area, and measured lengths open lines or outlines.
    """
    known = {source.uid: source for source in sources}
    lengths = {  # what numbers were measured on (TID 320); a score is of a region
        id(line)
        for group in _measurement_groups(read)
        if all(name_of(item) != PRESENCE.value for item in _sequence(group, "ContentSequence"))
        for line in _coordinates(group)
    }
    for item in items(read):
        if item.get("ValueType") == "SCOORD":
            images = [
                ref
                for child in item.get("ContentSequence") or []
                for ref in child.get("ReferencedSOPSequence") or []
            ]
            if len(images) != 1:
                yield "a region is not SELECTED FROM exactly one image"
            yield from _outline_faults(item, images, known, line=id(item) in lengths)
        for graphic in item.get("GraphicObjectSequence") or []:
            line = graphic.get("GraphicType") == "INTERPOLATED"
            yield from _outline_faults(graphic, item.get("ReferencedImageSequence") or [], known, line=line)


def _title_faults(read: Dataset, context: ResultContext) -> Iterator[str]:
    """Yield faults of what viewers choose by: a report is an Imaging Measurement Report, but not without a
    place for OHIF, which never ends loading it; nor is a group without coordinates ever loaded.
    """
    is_measurement_report = name_of(read) == codes.DCM.ImagingMeasurementReport.value
    groups = list(_measurement_groups(read))
    if is_measurement_report != (bool(groups) or context.form.viewer != "ohif"):
        yield "its title is not that of a report with, or without, places"
    if not all(map(_coordinates, groups)):
        yield "a measurement group has no coordinates: viewers show nothing of the report"
    if not all(_has_words(group) for group in groups):
        yield "a measurement group has no words for its place"


def _selection_faults(read: Dataset, results: Mapping[str, str]) -> Iterator[str]:
    """Yield faults of key objects: another title than Of Interest, by which a PACS may hide what they name,
    no words, or anything else named in content or evidence than ``results``.
    """
    content = _sequence(read, "ContentSequence")
    if name_of(read) != codes.DCM.OfInterest.value:
        yield "the title of key objects is not Of Interest"
    words = [text_of(item, "TextValue") for item in content if item.get("ValueType") == "TEXT"]
    if not any("not for diagnostic use" in said for said in words):
        yield "key objects do not say that they are not for diagnostic use"
    selected = [ref for item in content for ref in _sequence(item, "ReferencedSOPSequence")]
    evidence = [
        ref
        for study in _sequence(read, "CurrentRequestedProcedureEvidenceSequence")
        for series in _sequence(study, "ReferencedSeriesSequence")
        for ref in _sequence(series, "ReferencedSOPSequence")
    ]
    for references in (selected, evidence):
        if sorted(text_of(ref, "ReferencedSOPInstanceUID") for ref in references) != sorted(results):
            yield "key objects do not name each result of the job once, in content and evidence"


def _measurement_groups(read: Dataset) -> Iterator[Dataset]:
    """Yield the measurement groups of a report (TID 1410, TID 1501; TID 5008)."""
    return (item for item in items(read) if name_of(item) in _GROUPS)


def _coordinates(group: Dataset) -> list[Dataset]:
    """The SCOORD items in a measurement group."""
    return [item for item in items(group) if item.get("ValueType") == "SCOORD"]


def _has_words(group: Dataset) -> bool:
    """Whether a measurement group has a Comment with the warning."""
    said = [item for item in _sequence(group, "ContentSequence") if name_of(item) == codes.DCM.Comment.value]
    return any("not for diagnostic use" in text_of(item, "TextValue") for item in said)


def _outline_faults(
    graphic: Dataset, images: Sequence[Dataset], known: dict[str, Source], *, line: bool = False
) -> Iterator[str]:
    """Yield faults of one graphic: its form, and points outside the images that it refers to.

    ``images``: the items that reference these images. ``known``: the source images by UID. ``line``: whether
    the graphic is a measured length and not a region.
    """
    data = [float(number) for number in graphic.get("GraphicData") or []]
    points = list(zip(data[::2], data[1::2], strict=False))
    if line and (len(points) < 2 or len(data) % 2 or (len(points) < 4 and points[0] == points[-1])):
        yield "a measured length is neither an open line nor an outline"
        return
    if not line and (len(points) < 4 or len(data) % 2 or points[0] != points[-1]):
        yield "a polyline is not closed"
        return
    for image in images:
        source = known.get(text_of(image, "ReferencedSOPInstanceUID"))
        if source is None:
            yield "a region lies on an object that is no source"
        elif any(not (0 <= x <= source.columns and 0 <= y <= source.rows) for x, y in points):
            yield "a region reaches out of its image"


def _pdf_faults(read: Dataset) -> Iterator[str]:
    """Yield faults of an encapsulated PDF: its stated length is wrong (PS3.3 C.24.2), or the PDF is
    incomplete.
    """
    data = bytes(read.get("EncapsulatedDocument") or b"")
    length = int(read.get("EncapsulatedDocumentLength") or 0)
    if len(data) != length + length % 2:
        yield "EncapsulatedDocument has not the length that EncapsulatedDocumentLength says"
    if not (data.startswith(b"%PDF-") and data[:length].rstrip().endswith(b"%%EOF")):
        yield "EncapsulatedDocument is no whole PDF"


def _pixels(read: Dataset, pixel_bytes: int | None) -> Iterator[str]:
    """Yield a fault if Pixel Data has not the length that the Image Pixel module says (PS3.5 8.1.1: padded to
    even).

    ``pixel_bytes``: its real length; None if it does not reach exactly to the end of the file.
    """
    frames = int(read.get("NumberOfFrames") or 1)
    bits = frames * int(read.Rows) * int(read.Columns) * int(read.SamplesPerPixel) * int(read.BitsAllocated)
    size = (bits + 7) // 8
    if pixel_bytes != size + size % 2:
        yield "PixelData has not the length that Rows, Columns and frames say"


def _sequence(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence attribute; empty if it is missing or no sequence."""
    if keyword not in dataset or dataset[keyword].VR != "SQ":
        return ()
    return list(dataset[keyword].value)


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal as text, item by item; a single value equals a list that holds only it."""
    return bool(_comparable(one) == _comparable(other))


def _comparable(value: Any) -> Any:
    """A value in a form that can be compared: text without padding, a hash of bytes, or a list or dictionary
    of these.
    """
    if value is None or (isinstance(value, (str, list)) and len(value) == 0):
        return ""
    if isinstance(value, Dataset):
        return {int(element.tag): _comparable(element.value) for element in value}
    if isinstance(value, bytes):
        return hashlib.sha256(value.rstrip(b"\0")).hexdigest()
    if isinstance(value, (int, float)):
        return _as_float(value)
    if isinstance(value, (str, PersonName)) or not hasattr(value, "__iter__"):
        return str(value).rstrip(" \0")
    members = list(value)
    are_numbers = len(members) > 1 and all(isinstance(one, (int, float)) for one in members)
    # Numbers at once: a contour has thousands of coordinates.
    values = [_as_float(members)] if are_numbers else [_comparable(one) for one in members]
    return values[0] if len(values) == 1 else values


def _as_float(numbers: Any) -> bytes:
    """A number or several as FL keeps them (PS3.5 6.2): those cut to some digits may differ though they are
    nearly the same.
    """
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float32).tobytes()
