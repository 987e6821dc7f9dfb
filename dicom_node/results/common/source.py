"""The inputs and the output of the builders of results: plain frozen types.

A source image for the builders: its decoded header, and a stand-in that highdicom accepts.

Attributes with which every derived picture describes its source (PS3.3 C.7.6.1, C.12.4, C.8.6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

from highdicom.sr import CodedConcept
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import Tag

from ai_pipeline.contract import Code, CodingScheme, Decision, ImageHeader, JudgedView, ModelRef, SourceImage
from ai_pipeline.images.numbers import decimal, value_of, whole_of
from dicom_node.base.dicom.header import read_header
from dicom_node.base.dicom.identity import COPIED, REQUIRED_MAYBE_EMPTY, Patient, are_one_patient
from dicom_node.base.dicom.repair import Repairs, repair
from dicom_node.base.dicom.uids import SECONDARY_CAPTURES, Installation
from dicom_node.base.errors import ResultRefused
from dicom_node.base.kinds import ResultKind


class Cause(StrEnum):
    """The cause why the AI did not run, as far as PS3.16 CID 9300 and 9303 have a code."""

    FORMAT = "format"  # the objects are damaged
    OBJECT_TYPE = "object_type"  # not what the pipeline is for
    INCOMPLETE = "incomplete"  # objects are gone
    RESOURCES = "resources"  # time or memory ran out
    QUALITY = "quality"  # the pixels do not allow it
    EQUIPMENT = "equipment"  # the node itself: a model, a setting
    UNKNOWN = "unknown"


BURNED_IN_HEAD: Final = "Burned-in annotation: "
"""How a conclusion's paragraph on burned-in text begins; before it is the short result."""
NOT_HERE: Final = "no longer here"
"""Name of the note on images of the study that were purged, so that the result is without them."""


NOT_READ: Final = "not read"
"""Name of the note on objects that came with the study and cannot be read: they may belong to it."""


StatedCode = tuple[str, str, str]
"""Value, scheme and meaning."""
StatedPlace = tuple[str, list[int], list[tuple[float, float]]]
"""SOP Instance UID of an image, its frames ([]: all of them), and points in it."""


@dataclass(frozen=True, slots=True)
class StatedFinding:
    """A finding of a report that was sent. ``code``: value and scheme; ``model``: name and version.

    ``presence``: the concept of its decision. ``sites``: location and side. ``numbers``: number and unit by
    name.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    decision: Decision
    model: str
    tracking_uid: str
    presence: StatedCode = ("", "", "")
    sites: tuple[StatedCode, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    places: Sequence[StatedPlace] = ()


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A measurement of a report that was sent. ``code`` and ``unit``: value and scheme.

    Other fields as in ``StatedFinding``. ``sites``: location and side of the measurement. ``fetus``: "" if
    the patient was measured.
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


@dataclass(frozen=True, slots=True)
class EarlierObject:
    """The UIDs of an object in an earlier study."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """An image of an earlier study with the content of its ``report``.

    ``same_options``: whether the pipeline ran with the present options.
    """

    on: date
    report: EarlierObject
    image: EarlierObject
    findings: tuple[StatedFinding, ...]
    numbers: tuple[StatedNumber, ...]
    same_options: bool


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Values that all results of one job share.

    ``analysed_at``, with time zone, is taken once per job and is the time in every object. ``kinds``: all
    kinds that any destination can show. ``charset``: what the destinations want, ISO_IR 192 (``utf8``) or the
    character set of the source. ``region``: the part of the body that the pipeline is made for (CID 4031),
    None if there is no single one. ``scheme``: the coding scheme of the pipeline's private codes, None
    without private codes.
    ``burned_in_boxes``: whether the destinations want a box around each burned-in text. ``supersedes``: the
    SOP Instance UID of the report that the new one replaces; ``supersedes_series``: its Series Instance UID
    (empty: the series of the new report). ``exists(uid)``: whether the object with this SOP Instance UID was
    built before; then it is named, not built again. ``series_began(uid)``: when the first job with results in
    the series with this Series Instance UID analysed its images; None: the series is new. ``previous``:
    earlier images to compare with, by SOP Instance UID; ``study_day``: the date of this study.
    """

    pipeline: str
    pipeline_version: str
    rule: str
    models: tuple[ModelRef, ...]
    analysed_at: datetime
    kinds: frozenset[ResultKind]
    installation: Installation
    options: Mapping[str, object] = field(default_factory=dict)
    region: Code | None = None
    scheme: CodingScheme | None = None
    station_name: str = ""
    charset: Literal["utf8", "source"] = "utf8"
    burned_in_boxes: bool = False
    supersedes: str = ""
    supersedes_series: str = ""
    exists: Callable[[str], bool] = lambda _uid: False
    series_began: Callable[[str], datetime | None] = lambda _uid: None
    previous: Mapping[str, PreviousImage] = field(default_factory=dict)
    study_day: date | None = None

    def __post_init__(self) -> None:
        if self.analysed_at.tzinfo is None:
            raise ValueError("analysed_at needs a time zone")

    @staticmethod
    def of_person(what: str, at: datetime, installation: Installation, station: str) -> ResultContext:
        """The context for a person's statement ``what`` on results, made at ``at``; no pipeline and no model
        ran.

        ``station``: our AE title.
        """
        return ResultContext(what, "1", "", (), at, frozenset(), installation, station_name=station)


@dataclass(frozen=True, slots=True, eq=False)
class SourceObject:
    """One analysed image, with its Part 10 file.

    ``pixels_sha256`` (of the pixels, the header, a person's boxes and the site's device rules for them) and
    ``identity_sha256`` (of patient and study attributes) become part of every UID. ``by_hand``: a sentence
    about boxes that a person drew, "" without any. ``assume_charset``: the Specific Character Set to use if
    the file names none or a wrong one.
    """

    image: SourceImage
    path: Path
    pixels_sha256: str
    identity_sha256: str
    assume_charset: str = ""
    by_hand: str = ""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One result. ``data``: the complete Part 10 file, None if the object was built before (``exists``).

    ``deidentified``: only for destinations that must not know the patient, in this ``pseudonym_domain``.
    ``burned_in_boxes``: for destinations that want such boxes (True) or do not (False); None: for both.
    ``charset``: for destinations with this ``charset``; None: for all.
    """

    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    supersedes: str
    data: bytes | None = field(repr=False)
    deidentified: bool = False
    pseudonym_domain: str = ""
    burned_in_boxes: bool | None = None
    charset: Literal["utf8", "source"] | None = None


_IMAGE_KEYWORDS: Final = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber", "Modality",
    "SpecificCharacterSet", "SyntheticData",
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName",
    "InstitutionName", "InstitutionalDepartmentName", "AcquisitionDateTime", "AcquisitionDate",
    "AcquisitionTime",
    "BodyPartExamined", "Laterality", "ImageLaterality", "PatientOrientation", "AnatomicRegionSequence",
    "RequestAttributesSequence", "ViewPosition", "ViewCodeSequence",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "Rows", "Columns", "NumberOfFrames",
    "PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription",
    "ImagerPixelSpacing", "PixelAspectRatio", "NominalScannedPixelSpacing",
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence", "PixelPaddingValue",
    "SequenceOfUltrasoundRegions",
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter", "ShutterPresentationValue", "ShutterPresentationColorCIELabValue",
    "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay",
    "ActualFrameDuration", "StartTrim", "StopTrim", "PreferredPlaybackSequencing",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip

_PATIENT: Final = ("PatientName", "PatientBirthDate", "PatientSex")
_NONE: Final = Repairs()
# Type 2 in every IOD, so highdicom asks for them.
_FOR_HIGHDICOM: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# highdicom knows the classes of today's standard; a retired class is built as its successor and the
# reference is put right afterwards (results.envelope).
_SUCCESSORS: Final = {_STORAGE + "6": _STORAGE + "6.1", _STORAGE + "3": _STORAGE + "3.1"}
_US_MULTI_FRAME: Final = _STORAGE + "3.1"
_SC_MULTI_FRAME: Final = _STORAGE + "7.4"
# highdicom takes the modality of the image library from the class: a grabbed ultrasound is ultrasound there.
_OF_MODALITY: Final = {
    "US": (_STORAGE + "6.1", _US_MULTI_FRAME),
    "CR": (_STORAGE + "1", ""),
    "DX": (_STORAGE + "1.1", ""),
}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A source image. ``header`` is decoded, and invalid values are repaired (``repairs``).
    ``number``: Instance Number (0020,0013), 1 if the image has none; a picture made of image 7 has number 7.
    ``judged_view``: the View Position as which a pipeline judged it, "" where none says so.

    ``stand_in`` is passed to highdicom's constructors instead: they refuse some real images (without Imager
    Pixel Spacing, of a retired class). It only has attributes that describe the image; the patient and study
    attributes of the header are copied into the built object afterwards (results.envelope).
    """

    stored: SourceObject
    header: Dataset
    stand_in: Dataset
    uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    photometric: str
    rows: int
    columns: int
    frames: int
    number: int
    repairs: Repairs = _NONE
    judged_view: str = ""

    @property
    def grey(self) -> bool:
        return self.photometric.startswith("MONOCHROME")

    @property
    def view(self) -> str:
        """The View Position (0018,5101) that all results state: as judged, else of the header, "" without."""
        return self.judged_view or str(self.header.get("ViewPosition") or "").upper()


def read_sources(objects: Sequence[SourceObject]) -> tuple[Source, ...]:
    """Read the headers, ordered by series, instance number and UID.

    Raises ResultRefused if they are not from one patient and study, DecodedDifferently for an identity that
    does not fit its declared character set.
    """
    if not objects:
        raise ResultRefused("a result needs at least one source image")
    sources = sorted((_read(one) for one in objects), key=lambda s: (s.series_uid, s.number, s.uid))
    if len({source.study_uid for source in sources}) > 1:
        raise ResultRefused("the source images differ in StudyInstanceUID: no result for more than one study")
    named = ("PatientID", "IssuerOfPatientID", *_PATIENT)
    texts = ([str(source.header.get(keyword) or "") for keyword in named] for source in sources)
    if not are_one_patient(Patient.from_values(*values) for values in texts):
        raise ResultRefused("the source images contradict each other: no result for more than one patient")
    # What one image says of the patient holds for those that leave it empty: one value for one patient.
    for keyword in _PATIENT:
        given = [source.header[keyword] for source in sources if source.header.get(keyword)]
        for source in sources:
            if given and not source.header.get(keyword):
                source.header[keyword] = deepcopy(given[0])
    return tuple(sources)


def as_judged(sources: Sequence[Source], views: Sequence[JudgedView]) -> tuple[Source, ...]:
    """The sources with the views as which they were judged."""
    judged = {one.source_uid: one.view for one in views}
    return tuple(replace(source, judged_view=judged.get(source.uid, "")) for source in sources)


def repairs_of(objects: Sequence[SourceObject]) -> dict[str, Repairs]:
    """The repairs of faulty headers, by SOP Instance UID; images without a fault are left out.

    Raises as ``read_sources``.
    """
    return {source.uid: source.repairs for source in read_sources(objects) if source.repairs}


def _read(stored: SourceObject) -> Source:
    read = read_header(stored.path, (*COPIED, *_IMAGE_KEYWORDS), stored.assume_charset)
    header = read.dataset
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not header.get(keyword):
            raise ResultRefused(f"the source image has no {keyword}")
    if header.SOPInstanceUID != stored.image.uid:
        raise ResultRefused("the file of the source image holds another SOP Instance UID than the image")
    return source_of(stored, header, repair(header, REQUIRED_MAYBE_EMPTY, read.left_out))


def source_of(stored: SourceObject, header: Dataset, repairs: Repairs = _NONE) -> Source:
    """A source image from its ``stored`` file and the header read from that file."""
    image = stored.image.header
    return Source(
        stored,
        header,
        _stand_in(header, image),
        str(header.SOPInstanceUID),
        str(header.SOPClassUID),
        str(header.StudyInstanceUID),
        str(header.SeriesInstanceUID),
        str(header.get("PhotometricInterpretation") or ""),
        image.rows,
        image.columns,
        image.frames,
        whole_of(header, "InstanceNumber", 1, least=1),
        repairs,
    )


def without_identity(document: Dataset) -> Dataset:
    """A copy for highdicom's constructors, which refuse some names; identity is copied afterwards."""
    empty = {Tag(word): DataElement(word, dictionary_VR(word), None) for word in _FOR_HIGHDICOM}
    return Dataset({**dict(document.items()), **empty})


def stand_in_of(sop_class_uid: str, uid: str, study_uid: str, series_uid: str) -> Dataset:
    """An object for highdicom's constructors, which look for these UIDs in evidence and former versions."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = sop_class_uid, uid
    one.StudyInstanceUID, one.SeriesInstanceUID = study_uid, series_uid
    return one


def _stand_in(header: Dataset, image: ImageHeader) -> Dataset:
    from dicom_node.results.common import envelope  # which imports this module

    stand_in = without_identity(Dataset())
    stand_in.SOPClassUID = _class_for_highdicom(header, image.frames)
    stand_in.Rows, stand_in.Columns = image.rows, image.columns
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(stand_in, keyword, header[keyword].value)
    for keyword in (
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PixelRepresentation",
        "BitsAllocated",
        "BitsStored",
        "PatientOrientation",
        "ImagerPixelSpacing",
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "StationName",
        "InstitutionName",
        "InstitutionalDepartmentName",
    ):
        if header.get(keyword) not in (None, ""):
            setattr(stand_in, keyword, header[keyword].value)
    if envelope.has_frames(stand_in.SOPClassUID):
        stand_in.NumberOfFrames = image.frames
    # Modality decides which descriptors highdicom puts into the image library (TID 1602). It raises where
    # a projection radiograph lacks what TID 1603 wants or a slice what TID 1604 wants, so those are
    # announced as what has no further descriptors.
    modality = str(header.get("Modality") or "OT")
    given = (value_of(header, word) for word in ("PatientOrientation", "ImagerPixelSpacing"))
    described = all(isinstance(values, MultiValue) and len(values) == 2 for values in given)
    stand_in.Modality = modality if described and modality in {"CR", "DX", "MG"} else "OT"
    return stand_in


def _class_for_highdicom(header: Dataset, frames: int) -> str:
    from dicom_node.results.common import envelope  # which imports this module

    sop_class_uid = str(header.SOPClassUID)
    found = _SUCCESSORS.get(sop_class_uid, sop_class_uid)
    if found in SECONDARY_CAPTURES or not envelope.is_known(found):
        still, cine = _OF_MODALITY.get(str(header.get("Modality")), ("", ""))
        return (cine or _SC_MULTI_FRAME) if frames > 1 else (still or _STORAGE + "7")
    if frames > 1 and not envelope.has_frames(found):
        # Cines under the single-frame class are common in old ultrasound.
        return _US_MULTI_FRAME if found == _STORAGE + "6.1" else _SC_MULTI_FRAME
    return found


# PS3.3 C.7.6.1.1.5.1: what each lossy transfer syntax is called in Lossy Image Compression Method.
_LOSSY_METHODS: Final = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
# What states the shape of pixels beside their size; Pixel Aspect Ratio is for images without (PS3.3 C.7.6.3).
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
ORIENTATION_FOR_HIGHDICOM: Final = ("L", "F")
"""SCImage wants one, and knows no compound ones ("PF"); :func:`set_orientation` writes the true one."""


def describe_derivation(
    picture: Dataset, source: Source, description: str, *codes: DicomCode, frames: tuple[int, ...] = ()
) -> None:
    """Set Image Type, Derivation Description and Code, Source Image Sequence and lossy compression.

    ``description``: VR ST, at most 1,024 characters. ``codes``: of CID 7203. ``frames``: numbers from 1;
    empty: all frames of the source.
    """
    picture.ImageType = ["DERIVED", "SECONDARY"]
    picture.ConversionType = "WSD"
    picture.DerivationDescription = description
    if codes:
        picture.DerivationCodeSequence = [CodedConcept.from_code(code) for code in codes]
    picture.SourceImageSequence = [reference(source, frames)]
    copy_present(picture, source, "SyntheticData")  # PS3.3 C.12.1.1.12: what was drawn on stays made up
    # Lossy compression of the source stays declared (PS3.3 C.7.6.1.1.5), though ours is lossless.
    header = source.header
    picture.LossyImageCompression = "01" if source.stored.image.header.lossy else "00"
    if not source.stored.image.header.lossy:
        return
    ratio, method = (header.get(f"LossyImageCompression{what}") for what in ("Ratio", "Method"))
    by_syntax = _LOSSY_METHODS.get(str(header.file_meta.get("TransferSyntaxUID") or ""))
    if not ratio and by_syntax:  # size of the samples over size of the file; the header is negligible
        samples = source.rows * source.columns * source.frames * whole_of(header, "SamplesPerPixel", 1)
        size = samples * whole_of(header, "BitsAllocated", 8) // 8
        ratio = round(size / source.stored.path.stat().st_size, 2)
    if ratio:
        picture.LossyImageCompressionRatio = deepcopy(ratio)
    if method or by_syntax:
        picture.LossyImageCompressionMethod = deepcopy(method or by_syntax)


def set_orientation(picture: Dataset, source: Source) -> None:
    """Copy Patient Orientation of the source, or set it empty: Type 2C in General Image, and never a
    guess.
    """
    value = source.header.get("PatientOrientation")
    picture.PatientOrientation = deepcopy(value) if value else None


def copy_present(picture: Dataset, source: Source, *keywords: str) -> None:
    """Copy the attributes that have a value in the source."""
    for keyword in keywords:
        if keyword in source.header and source.header[keyword].value not in (None, "", []):
            picture[keyword] = deepcopy(source.header[keyword])


def copy_spacing(picture: Dataset, source: Source) -> None:
    """Copy Pixel Spacing of the source; if it has none, copy the shape of its pixels."""
    if _pair(source, "PixelSpacing"):
        keywords = ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription")
        copy_present(picture, source, *keywords)
    else:
        copy_aspect(picture, source)


def pixel_height(source: Source) -> float:
    """Height of a pixel as a multiple of its width; 1.0 if the source does not state it."""
    pairs = (_pair(source, keyword) for keyword in (*_SPACINGS, "PixelAspectRatio"))
    return next((high / wide for high, wide in filter(None, pairs)), 1.0)


def pixel_aspect(source: Source) -> list[int]:
    """Height and width of a pixel as Pixel Aspect Ratio (0028,0034) states them."""
    ratio = Fraction(pixel_height(source)).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def copy_aspect(picture: Dataset, source: Source) -> None:
    """Copy the shape of the pixels without their size, unless they are squares (PS3.3 C.7.6.3, Type 1C)."""
    if (ratio := pixel_aspect(source)) != [1, 1]:
        picture.PixelAspectRatio = ratio


def _pair(source: Source, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, height first. A spacing of 0 (seen in CR) is none, nor one that makes lines of
    pixels.
    """
    given = value_of(source.header, keyword)
    numbers = [decimal(one) or 0.0 for one in given] if isinstance(given, MultiValue) else []
    # The whole numbers of a larger ratio may be none that VR IS can hold.
    is_shape = len(numbers) == 2 and 0 < max(numbers) <= 100 * min(numbers)
    return (numbers[0], numbers[1]) if is_shape else None


def reference(source: Source, frames: tuple[int, ...] = ()) -> Dataset:
    """An item of Source Image Sequence; ``frames`` from 1, none for all."""
    item = referenced(source)
    if source.frames > 1:
        item.ReferencedFrameNumber = list(frames or range(1, source.frames + 1))
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(purpose)]
    return item


def referenced(source: Source) -> Dataset:
    """An item that names the source."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    return item
