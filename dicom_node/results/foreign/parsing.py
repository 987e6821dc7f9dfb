"""The bytes of a program's file, read under the limits of received objects (PS3.10 7.1, PS3.5 7, PS3.3 C.12).

The elements are walked and counted before any parser sees them, as in ``receive.inspection``. This runs in a
process of its own, which can do nothing else (``jobs.worker.answer_process``). Compressed pixels are not
decoded.

What comes out has standard attributes alone, in the VR of the data dictionary, with all text decoded.
"""

import io
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_has_tag, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from ai_pipeline.images.numbers import DAMAGE
from ai_pipeline.terms import shown_uid_name
from dicom_node.base.dicom.elements import (
    META_BYTES,
    PIXEL_DATA,
    Element,
    Limits,
    Walk,
    read_file_meta,
)
from dicom_node.base.dicom.header import CharacterSet, character_sets, decoded, quiet_pydicom
from dicom_node.base.dicom.uids import TransferSyntax, transfer_syntax
from dicom_node.base.errors import FaultyObject
from dicom_node.results.dataset import UTF8, text_of
from dicom_node.results.foreign.verdict import Remark, noted, repaired

_GUESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")  # Explicit and Implicit VR Little Endian
_EXPLICIT: Final = _GUESSED[0]
# Without a name of a set, or with that of ASCII, UTF-8 is tried: many writers forget to say it.
_UNDECLARED: Final = ((), ("",), ("ISO_IR 6",))
MUST_BE_READ: Final = frozenset(
    {
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs",
        "OtherPatientIDsSequence", "AccessionNumber",
        "CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning",
        "ConceptNameCodeSequence", "ConceptCodeSequence", "ContentSequence", "ValueType", "RelationshipType",
        "TextValue", "PersonName", "NumericValue", "MeasuredValueSequence", "MeasurementUnitsCodeSequence",
        "UID", "ReferencedSOPSequence", "ReferencedSOPClassUID", "ReferencedSOPInstanceUID",
        "ReferencedFrameNumber", "ReferencedSegmentNumber", "ReferencedContentItemIdentifier",
        "GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID", "FrameOfReferenceUID",
        "CompletionFlag", "VerificationFlag", "PreliminaryFlag", "ApprovalStatus", "ImageType",
        "SegmentSequence", "SegmentNumber", "SegmentLabel", "SegmentationType",
        "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "NumberOfFrames", "Rows",
        "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "PixelData",
        "FloatPixelData", "DoubleFloatPixelData", "BitsAllocated", "BitsStored", "HighBit",
        "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "PlanarConfiguration",
        "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence", "ROIName",
        "ContourSequence", "ContourData", "ContourGeometricType", "NumberOfContourPoints", "ROINumber",
        "ReferencedROINumber", "GraphicAnnotationSequence", "TextObjectSequence", "GraphicObjectSequence",
        "UnformattedTextValue", "CompoundGraphicSequence", "DisplayedAreaSelectionSequence",
        "ShutterShape", "MaskSubtractionSequence", "PresentationLUTShape", "SoftcopyVOILUTSequence",
        "EncapsulatedDocument", "MIMETypeOfEncapsulatedDocument", "Laterality", "ImageLaterality",
    }
)  # fmt: skip
"""Attributes by which objects are judged: one that cannot be decoded, or has another VR than PS3.6 says, is
not left out, but the object is refused."""


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Limits for a program's answer. ``header``: for each object, as of received ones; a segmentation of a
    whole CT has ten items a frame, so more of these may be.
    """

    objects: int = 1000
    mebibytes: int = 2048
    """All files together (MiB)."""
    header: Limits = field(default_factory=lambda: Limits(items=200_000, elements=2_000_000))
    content_items: int = 10_000
    """Of one SR."""
    content_depth: int = 32
    """Nesting of content items of one SR."""
    pages: int = 20
    """Of one PDF."""


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """A file as it was read: its data set, with Media Storage SOP Class and Transfer Syntax UID in
    ``file_meta``, and what was put right.
    """

    dataset: Dataset
    remarks: tuple[Remark, ...]


def parse(content: bytes, limits: Limits) -> Parsed:
    """Read a file. Raises FaultyObject, with one sentence that names the attribute, if it cannot be used."""
    remarks: list[Remark] = []
    begin, syntax, meta_class = _header(content, limits, remarks)
    stream = io.BytesIO(content)
    stream.seek(begin)
    if syntax.is_deflated:
        stream = _inflated(content, begin, limits)
    end = _checked_end(stream, stream.tell(), syntax, limits)
    try:
        with quiet_pydicom():
            raw = read_dataset(stream, syntax.is_implicit_vr, syntax.is_little_endian, end - stream.tell())
            raw.set_original_encoding(syntax.is_implicit_vr, syntax.is_little_endian)
            dataset = _readable(raw, remarks)
    except (*DAMAGE, OSError) as error:
        raise FaultyObject("the data set is damaged") from error
    if not syntax.is_little_endian and any(tag in dataset for tag in PIXEL_DATA):
        raise FaultyObject("its pixels are in Explicit VR Big Endian, which is retired: write little endian")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax.uid if syntax.is_encapsulated else _EXPLICIT
    dataset.file_meta.MediaStorageSOPClassUID = meta_class or text_of(dataset, "SOPClassUID")
    return Parsed(dataset, tuple(remarks))


def _header(content: bytes, limits: Limits, remarks: list[Remark]) -> tuple[int, TransferSyntax, str]:
    """Where the data set begins, its transfer syntax, and Media Storage SOP Class UID ("" if not given).

    A file without any header (PS3.10 7.1) is read if it is a data set in exactly one syntax.
    """
    if content[128:132] != b"DICM":
        fits = [one for one in map(transfer_syntax, _GUESSED) if one and _is_data_set(content, one, limits)]
        if len(fits) != 1:
            raise FaultyObject("not DICOM: it has no header of a file (PS3.10 7.1)")
        remarks.append(repaired("the file had no header (PS3.10 7.1)"))
        return 0, fits[0], ""
    meta = read_file_meta(content[:META_BYTES])
    syntax = transfer_syntax(meta.transfer_syntax_uid)
    if syntax is None:
        named = shown_uid_name(meta.transfer_syntax_uid)
        raise FaultyObject(f"its transfer syntax cannot be sent on: {named}")
    return meta.length, syntax, meta.sop_class_uid


def _is_data_set(content: bytes, syntax: TransferSyntax, limits: Limits) -> bool:
    """Whether the bytes are, to their end, a sound data set with a SOP Class in this syntax."""
    walk = Walk(io.BytesIO(content), syntax, limits)
    tags = [element.tag for element in walk.elements()]
    return not walk.fault and not walk.stray and 0x00080016 in tags


def _checked_end(stream: io.BytesIO, begin: int, syntax: TransferSyntax, limits: Limits) -> int:
    """The position of the end of the last element; leaves ``stream`` at ``begin``. Raises FaultyObject for
    whatever two readers may read in two ways, and beyond a limit.
    """
    walk = Walk(stream, syntax, limits)
    elements = list(_elements(walk))
    if walk.fault or walk.stray or not elements:
        stray = walk.stray and f"{walk.stray} of a file's header is inside the data set (PS3.10 7.1)"
        raise FaultyObject(walk.fault or stray or "the data set is empty")
    stream.seek(begin)
    last = elements[-1]
    # An element of undefined length has a delimiter of eight bytes behind it.
    return last.start + last.length + (8 if last.is_undefined else 0)


def _elements(walk: Walk) -> Iterator[Element]:
    """The elements that ``walk`` finds. Raises FaultyObject where a damaged length leads out of the file."""
    try:
        yield from walk.elements()
    except DAMAGE as error:
        raise FaultyObject("the data set is damaged") from error


def _inflated(content: bytes, begin: int, limits: Limits) -> io.BytesIO:
    """The inflated data set. Raises FaultyObject if it is damaged, or larger than the limit."""
    most = limits.inflated_mib * 2**20
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflate.decompress(memoryview(content)[begin:], most + 1)
    except zlib.error:
        raise FaultyObject("the data set is damaged, or not deflated (PS3.5 A.5)") from None
    if len(inflated) > most:
        raise FaultyObject(f"the data set inflates to more than {limits.inflated_mib} MiB")
    if not inflate.eof:
        raise FaultyObject("the data set is truncated")
    return io.BytesIO(inflated)


def _readable(raw: Dataset, remarks: list[Remark]) -> Dataset:
    """The standard attributes of a data set, decoded; what is left out is in ``remarks``. Raises FaultyObject
    if an attribute by which objects are judged cannot be read.
    """
    tags = list(raw.keys())
    if any(tag.is_private for tag in tags):
        remarks.append(repaired("private attributes were left out"))
    known = {tag: keyword for tag in tags if (keyword := _keyword(tag))}
    if any(tag not in known and not tag.is_private and tag.element for tag in tags):
        remarks.append(repaired("attributes that PS3.6 does not know, and overlay planes, were left out"))
    own = character_sets(raw)
    dataset, missing = _decoded(raw, known.values(), own)
    if missing and (own in _UNDECLARED or not CharacterSet.from_terms(own).known):
        in_utf8, still_missing = _decoded(raw, known.values(), (UTF8,))
        if len(still_missing) < len(missing):
            dataset, missing = in_utf8, still_missing
            remarks.append(repaired("text in UTF-8 was not declared as such: ISO_IR 192"))
    if unread := sorted(missing & MUST_BE_READ):
        raise FaultyObject(f"{unread[0]} cannot be read by its character set and VR")
    remarks.extend(
        repaired(f"{keyword} was left out: it cannot be read by its character set and VR")
        for keyword in sorted(missing)
    )
    if "DataSetTrailingPadding" in dataset:
        del dataset["DataSetTrailingPadding"]
        remarks.append(noted("padding behind the data set was left out"))
    return dataset


def _decoded(raw: Dataset, keywords: Collection[str], charset: tuple[str, ...]) -> tuple[Dataset, set[str]]:
    """The attributes of a data set decoded by ``charset``, and the keywords of those that do not decode."""
    left_out: set[str] = set()
    return decoded(raw, keywords, charset, left_out), left_out


def _keyword(tag: BaseTag) -> str:
    """The keyword of a standard attribute; "" for private, unknown and repeating ones (overlays, curves)."""
    if tag.is_private or not dictionary_has_tag(tag):
        return ""
    keyword = keyword_for_tag(tag)
    return keyword if tag_for_keyword(keyword) == tag else ""
