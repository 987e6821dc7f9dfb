"""What all results have in common: their input, the codes, UIDs and attributes in them, their encoding.

A source image is its decoded header, and a stand-in that highdicom accepts. Coded concepts are from DICOM and
SNOMED CT if they have one, else private. UIDs are derived from everything that shapes the object. Times are
always the time of the analysis, in the zone of the source image: functions take an aware time and an offset
as from ``offset_of`` (``+0100`` or empty).

Modules and attributes of IODs (PS3.3) and codes of body parts (PS3.16 Annex L) are tables that are private in
highdicom. Only this module imports them: highdicom is pinned below 0.29, and ``tests/unit/results`` show what
a newer version changed.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from enum import StrEnum
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from highdicom import ContributingEquipment
from highdicom._standard_utils import (
    check_required_attributes,
    get_anatomic_region_map,
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
    is_attribute_in_iod,
)
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
    SubjectContext,
    SubjectContextFetus,
)
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from ai_pipeline import contract
from ai_pipeline.images.numbers import decimal, value_of, whole_of
from ai_pipeline.summary import HIGH
from dicom_node.base.dicom.header import (
    Repairs,
    can_encode,
    character_sets,
    items,
    quiet_pydicom,
    read_header,
    repair,
)
from dicom_node.base.dicom.identity import COPIED, REQUIRED_MAYBE_EMPTY, Patient, are_one_patient
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MODEL_NAME,
    SECONDARY_CAPTURES,
    Installation,
    derived_uid,
)
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind


class Cause(StrEnum):
    """The coded cause why the AI did not run, one for each code of PS3.16 CID 9300 and 9303 that applies."""

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
NOT_TAKEN: Final = "not taken"
"""Name of the note on images of the study that the pipeline refused by their pixels."""


NOT_READ: Final = "not read"
"""Name of the note on objects that came with the study and cannot be read: they may belong to it."""


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


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """An image of an earlier study, and what its report said of it.

    ``on``: the date of that study. ``report`` and ``image``: data sets with only the UIDs of each
    (``stand_in_of``). ``findings`` and ``numbers``: the report's content on this image. ``same_options``:
    whether the pipeline ran with the present options.
    """

    on: date
    report: Dataset
    image: Dataset
    findings: tuple[StatedFinding, ...]
    numbers: tuple[StatedNumber, ...]
    same_options: bool


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Values that all results of one job share.

    ``analysed_at``, with time zone, is taken once per job and is the time in every object. ``kinds``: all
    kinds of result that any destination can show. ``charset``: what the destinations want, ISO_IR 192
    (``utf8``) or the character set of the source image. ``region``: the part of the body that the pipeline is
    made for (CID 4031), None if there is no single one. ``scheme``: the coding scheme of the pipeline's
    private codes, None without private codes. ``supersedes``: the SOP Instance UID of the report that the new
    one replaces, "" for none; ``supersedes_series``: its Series Instance UID (empty: the series of the new
    report). ``exists(uid)``: whether the object with this SOP Instance UID was built before; then it is
    named, not built again. ``series_began(uid)``: when the first job with results in the series with this
    Series Instance UID analysed its images; None: the series is new. ``previous``: earlier images to compare
    with, by the SOP Instance UID of the present image; ``study_day``: the date of this study. ``no_call``:
    kinds of results that are built of an image on which nothing needs a person's attention; None: the report
    and cleaned images (if only cleaning was done, the cleaned images, or the report for peers that do not
    take them). ``series_offset``: added to all series numbers, so that those of two rules of a study differ.
    """

    pipeline: str
    pipeline_version: str
    models: tuple[contract.ModelRef, ...]
    analysed_at: datetime
    kinds: frozenset[ResultKind]
    installation: Installation
    options: Mapping[str, object] = field(default_factory=dict)
    region: contract.Code | None = None
    scheme: contract.CodingScheme | None = None
    station_name: str = ""
    charset: Literal["utf8", "source"] = "utf8"
    supersedes: str = ""
    supersedes_series: str = ""
    exists: Callable[[str], bool] = lambda _uid: False
    series_began: Callable[[str], datetime | None] = lambda _uid: None
    previous: Mapping[str, PreviousImage] = field(default_factory=dict)
    study_day: date | None = None
    no_call: frozenset[ResultKind] | None = frozenset(ResultKind)
    series_offset: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if ``analysed_at`` has no time zone."""
        if self.analysed_at.tzinfo is None:
            raise ValueError("analysed_at needs a time zone")

    @staticmethod
    def of_person(what: str, at: datetime, installation: Installation, station: str) -> "ResultContext":
        """The context for a person's statement on results, made at the time ``at``; no pipeline and no model
        ran.

        ``what``: the kind of statement, such as "assessment"; it stands in place of the pipeline's name.
        ``station``: our AE title.
        """
        return ResultContext(what, "1", (), at, frozenset(), installation, station_name=station)


@dataclass(frozen=True, slots=True, eq=False)
class SourceObject:
    """One analysed image, with its Part 10 file.

    ``pixels_sha256``: hash of the pixels, the header, boxes that a person drew, and the site's rules for the
    device; ``identity_sha256``: hash of patient and study attributes. Both become part of the UIDs of
    results. ``by_hand``: a sentence about boxes that a person drew, "" without any. ``assume_charset``: the
    Specific Character Set to use if the file names none or a wrong one.
    """

    image: contract.SourceImage
    path: Path
    pixels_sha256: str
    identity_sha256: str
    assume_charset: str = ""
    by_hand: str = ""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One result object. ``data``: the complete Part 10 file; None if the object was built before.

    ``supersedes``: SOP Instance UID of the object that it replaces, "" for none. ``deidentified``: it is only
    for destinations that must not know the patient, in this ``pseudonym_domain``. ``charset``: it is only for
    destinations with this setting; None: for all. ``not_beside``: a peer that takes results of one of these
    kinds does not get this object.
    """

    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    supersedes: str
    data: bytes | None = field(repr=False)
    deidentified: bool = False
    pseudonym_domain: str = ""
    charset: Literal["utf8", "source"] | None = None
    not_beside: frozenset[ResultKind] = frozenset()


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
_OF_ANIMALS: Final = (
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson",
    "ResponsibleOrganization", "PatientSexNeutered",
)  # fmt: skip
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
    """A source image. ``header``: its decoded header, with invalid values repaired (``repairs``).

    ``number``: Instance Number (0020,0013), 1 if the image has none; a picture made of image 7 has number 7.
    ``judged_view``: the View Position that the pipeline assumed, "" if it says none.

    ``stand_in`` is passed to highdicom's constructors instead of the header: they refuse some real images
    (without Imager Pixel Spacing, of a retired class). It only has attributes that describe the image; the
    patient and study attributes of the header are copied into the built object afterwards (``complete``).
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
        """Whether the image has one grey value per pixel (MONOCHROME1 or MONOCHROME2)."""
        return self.photometric.startswith("MONOCHROME")

    @property
    def view(self) -> str:
        """The View Position (0018,5101) that all results state: the one that the pipeline assumed, else that
        of the header; "" without either.
        """
        return self.judged_view or str(self.header.get("ViewPosition") or "").upper()


def read_sources(objects: Sequence[SourceObject]) -> tuple[Source, ...]:
    """Read the headers of the images; returns them ordered by series, instance number and UID.

    Raises ResultRefused if there is none or they are not from one patient and study, DecodedDifferently for
    an identity that does not fit its declared character set.
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


def as_judged(sources: Sequence[Source], views: Sequence[contract.JudgedView]) -> tuple[Source, ...]:
    """Copies of the sources with the View Position that the pipeline assumed for each (``views``)."""
    judged = {one.source_uid: one.view for one in views}
    return tuple(replace(source, judged_view=judged.get(source.uid, "")) for source in sources)


def repairs_of(objects: Sequence[SourceObject]) -> dict[str, Repairs]:
    """The repairs of faulty headers, by SOP Instance UID; images without a fault are left out. Raises as
    ``read_sources``.
    """
    return {source.uid: source.repairs for source in read_sources(objects) if source.repairs}


def _read(stored: SourceObject) -> Source:
    """Read and repair the header of one image. Raises ResultRefused if a UID is missing or is not the
    image's.
    """
    read = read_header(stored.path, (*COPIED, *_IMAGE_KEYWORDS), stored.assume_charset)
    header = read.dataset
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not header.get(keyword):
            raise ResultRefused(f"the source image has no {keyword}")
    if header.SOPInstanceUID != stored.image.uid:
        raise ResultRefused("the file of the source image holds another SOP Instance UID than the image")
    return source_of(stored, header, repair(header, REQUIRED_MAYBE_EMPTY, read.left_out))


def source_of(stored: SourceObject, header: Dataset, repairs: Repairs = _NONE) -> Source:
    """A source image from its ``stored`` file and the header read from that file.

    ``repairs``: the repairs that were made to the header.
    """
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
    """A copy of a data set with empty patient and study attributes, for highdicom's constructors, which
    refuse some names; the true identity is copied into the built object afterwards.
    """
    empty = {Tag(word): DataElement(word, dictionary_VR(word), None) for word in _FOR_HIGHDICOM}
    return Dataset({**dict(document.items()), **empty})


def stand_in_of(sop_class_uid: str, uid: str, study_uid: str, series_uid: str) -> Dataset:
    """A data set with only these UIDs, which is all that highdicom reads of an object of evidence or a former
    version.
    """
    one = Dataset()
    set_values(
        one,
        SOPClassUID=sop_class_uid,
        SOPInstanceUID=uid,
        StudyInstanceUID=study_uid,
        SeriesInstanceUID=series_uid,
    )
    return one


def _stand_in(header: Dataset, image: contract.ImageHeader) -> Dataset:
    """The data set that highdicom's constructors get in place of an image's header; ``image``: its decoded
    numbers.
    """
    stand_in = without_identity(Dataset())
    set_values(
        stand_in,
        SOPClassUID=_class_for_highdicom(header, image.frames),
        SOPInstanceUID=header.SOPInstanceUID,
        StudyInstanceUID=header.StudyInstanceUID,
        SeriesInstanceUID=header.SeriesInstanceUID,
        Rows=image.rows,
        Columns=image.columns,
    )
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
    if has_frames(stand_in.SOPClassUID):
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
    """The SOP class that highdicom is told for an image with so many ``frames``: the image's own or, if
    highdicom does not know that, one that it knows and that fits.
    """
    sop_class_uid = str(header.SOPClassUID)
    found = _SUCCESSORS.get(sop_class_uid, sop_class_uid)
    if found in SECONDARY_CAPTURES or not is_known(found):
        still, cine = _OF_MODALITY.get(str(header.get("Modality")), ("", ""))
        return (cine or _SC_MULTI_FRAME) if frames > 1 else (still or _STORAGE + "7")
    if frames > 1 and not has_frames(found):
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
    """Set in a picture its Image Type, Derivation Description and Code, Source Image Sequence and lossy
    compression.

    ``description``: VR ST, at most 1,024 characters. ``codes``: derivation codes of CID 7203. ``frames``:
    numbers (from 1) of the source's frames that it shows; empty: all.
    """
    header, lossy = source.header, source.stored.image.header.lossy
    set_values(
        picture,
        ImageType=["DERIVED", "SECONDARY"],
        ConversionType="WSD",
        DerivationDescription=description,
        SourceImageSequence=[reference(source, frames)],
        # Lossy compression of the source stays declared (PS3.3 C.7.6.1.1.5), though ours is lossless.
        LossyImageCompression="01" if lossy else "00",
    )
    if codes:
        picture.DerivationCodeSequence = [CodedConcept.from_code(code) for code in codes]
    copy_present(picture, source, "SyntheticData")  # PS3.3 C.12.1.1.12: what was drawn on stays made up
    if not lossy:
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


def set_values(dataset: Dataset, **values: object) -> None:
    """Set attributes of a data set; ``values``: their values by keyword."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)


def set_orientation(picture: Dataset, source: Source) -> None:
    """Copy Patient Orientation of the source, or set it empty (Type 2C in General Image): it is never
    guessed.
    """
    picture.PatientOrientation = deepcopy(source.header.get("PatientOrientation")) or None


def copy_present(picture: Dataset, source: Source, *keywords: str) -> None:
    """Copy those of the attributes that have a value in the source."""
    for keyword in keywords:
        if keyword in source.header and source.header[keyword].value not in (None, "", []):
            picture[keyword] = deepcopy(source.header[keyword])


def copy_spacing(picture: Dataset, source: Source) -> None:
    """Copy Pixel Spacing of the source into the picture; if it has none, copy only the shape of its
    pixels.
    """
    if _height_and_width(source, "PixelSpacing"):
        copy_present(
            picture,
            source,
            "PixelSpacing",
            "PixelSpacingCalibrationType",
            "PixelSpacingCalibrationDescription",
        )
    else:
        copy_aspect(picture, source)


def pixel_height(source: Source) -> float:
    """The height of a pixel as a multiple of its width; 1.0 if the source does not state it."""
    pairs = (_height_and_width(source, keyword) for keyword in (*_SPACINGS, "PixelAspectRatio"))
    return next((high / wide for high, wide in filter(None, pairs)), 1.0)


def pixel_aspect(source: Source) -> list[int]:
    """The height and width of a pixel as whole numbers, as in Pixel Aspect Ratio (0028,0034); [1, 1] for
    squares.
    """
    ratio = Fraction(pixel_height(source)).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def copy_aspect(picture: Dataset, source: Source) -> None:
    """Set Pixel Aspect Ratio, the shape of the pixels without their size, unless they are squares (PS3.3
    C.7.6.3).
    """
    if (ratio := pixel_aspect(source)) != [1, 1]:
        picture.PixelAspectRatio = ratio


def _height_and_width(source: Source, keyword: str) -> tuple[float, float] | None:
    """The two positive numbers (height, width) of a spacing or ratio attribute; None if it has no usable
    ones.

    A spacing of 0 (seen in CR) is not usable, nor one in which one number exceeds 100 times the other.
    """
    given = value_of(source.header, keyword)
    numbers = [decimal(one) or 0.0 for one in given] if isinstance(given, MultiValue) else []
    # The whole numbers of a larger ratio may be none that VR IS can hold.
    is_shape = len(numbers) == 2 and 0 < max(numbers) <= 100 * min(numbers)
    return (numbers[0], numbers[1]) if is_shape else None


def reference(source: Source, frames: tuple[int, ...] = ()) -> Dataset:
    """An item of Source Image Sequence that refers to ``source``; ``frames``: numbers from 1, empty for
    all.
    """
    item = referenced(source)
    if source.frames > 1:
        item.ReferencedFrameNumber = list(frames or range(1, source.frames + 1))
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    return item


def referenced(source: Source) -> Dataset:
    """A sequence item with Referenced SOP Class UID and Referenced SOP Instance UID of the source."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    return item


# Private scheme: designators that begin with 99 are for local use (PS3.3 8.2).
SCHEME: Final = contract.BURNED_IN.scheme
SCHEME_UID: Final = derived_uid("dicom-ai-node", "coding scheme", SCHEME)


# SNOMED CT 705057003 |Presence (property) (qualifier value)|; as in the finding models of Open Imaging
# Data and in SNOMED's expressions for LOINC.
PRESENCE: Final = DicomCode("705057003", "SCT", "Presence")
# PS3.16 CID 240 Present-Absent has all but "Suspected". SNOMED CT's own words for the last two are |Absence
# findings| and |Undetermined|; a program that knows DICOM looks for these and not for 2667000 and 82334004.
DECISIONS: Final[Mapping[contract.Decision, DicomCode]] = MappingProxyType(
    {
        contract.Decision.PRESENT: codes.SCT.Suspected,
        contract.Decision.ABSENT: codes.SCT.Absent,
        contract.Decision.INDETERMINATE: codes.SCT.Undetermined,
    }
)

# PS3.16 CID 244 Laterality: no side but these two is ever claimed.
SIDES: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {"L": DicomCode("7771000", "SCT", "Left"), "R": DicomCode("24028007", "SCT", "Right")}
)

SOURCE: Final = DicomCode("260753009", "SCT", "Source")  # PS3.16 TID 1601
PROCEDURE_SITE: Final = DicomCode("363704007", "SCT", "Procedure site")
QUALITATIVE_EVALUATIONS: Final = DicomCode("C0034375", "UMLS", "Qualitative Evaluations")  # PS3.16 TID 1500


# SNOMED CT 399208008 |Plain chest X-ray (procedure)|, as in the examples of HL7 FHIR
CHEST_RADIOGRAPHY: Final = DicomCode("399208008", "SCT", "Plain chest X-ray")

# View Position (0018,5101) of CR and DX in PS3.16 CID 4010 DX View; decubitus positions are no views there.
VIEWS: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {
        "PA": DicomCode("272479007", "SCT", "postero-anterior"),
        "AP": DicomCode("399348003", "SCT", "antero-posterior"),
        "LL": DicomCode("399173006", "SCT", "left lateral"),
        "RL": DicomCode("399198007", "SCT", "right lateral"),
        "LLO": DicomCode("399184004", "SCT", "left oblique"),
        "RLO": DicomCode("399236003", "SCT", "right oblique"),
    }
)
# PS3.16 CID 4031 gave three regions new codes. Validators of 2022 (PixelMed's, by which IHE judges)
# know the former ones only, so these stand in a content item, with today's as the equivalent.
FORMER_REGIONS: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {
        "816094009": DicomCode("51185008", "SCT", "Chest"),
        "818981001": DicomCode("113345001", "SCT", "Abdomen"),
        "816092008": DicomCode("12921003", "SCT", "Pelvis"),
    }
)
# PS3.16 CID 4031, members that came later and have no former code
NEW_REGIONS: Final = frozenset(
    {
        "818982008", "34707002", "1217257000", "79741001", "24136001", "303270005", "1217253001", "15776009",
        "69930009", "1231522001", "706342009", "1217254007", "1217256009",
    }
)  # fmt: skip
# PS3.16 CID 9300 Procedure Discontinuation Reason and CID 9303 (insufficient quality)
CAUSES: Final[Mapping[Cause, DicomCode]] = MappingProxyType(
    {
        Cause.FORMAT: DicomCode("110521", "DCM", "Objects incorrectly formatted"),
        Cause.OBJECT_TYPE: DicomCode("110522", "DCM", "Object Types not supported"),
        Cause.INCOMPLETE: DicomCode("110523", "DCM", "Object Set incomplete"),
        Cause.RESOURCES: DicomCode("110527", "DCM", "Resource inadequate"),
        Cause.QUALITY: DicomCode("110531", "DCM", "Insufficient quality for interpretation"),
        Cause.EQUIPMENT: DicomCode("110501", "DCM", "Equipment failure"),
        Cause.UNKNOWN: DicomCode("110513", "DCM", "Discontinued for unspecified reason"),
    }
)

# Private, since neither PS3.16 nor SNOMED CT has them. A meaning that changes gets a new value.
OURS: Final[Mapping[str, DicomCode]] = {
    value: DicomCode(value, SCHEME, meaning)
    for value, meaning in (
        ("RESULT", "AI result"),
        ("FINDINGS", "Findings reported by AI"),
        ("NONEFOUND", "Nothing found of what AI looked for"),
        ("NOCALL", "No call by AI, nothing excluded"),
        ("ONLYCLEANED", "Only burned-in text looked for here"),
        ("MEASURED", "Measured by AI, nothing else assessed"),
        ("NOTRUN", "AI did not run"),
        ("NOTRUNBECAUSE", "Reason why AI did not run"),
        (contract.BURNED_IN.value, contract.BURNED_IN.meaning),
        (contract.OUTER_TO_OUTER.value, contract.OUTER_TO_OUTER.meaning),
        ("BURNEDINLENGTH", "Measurement burned into the image"),
        ("CUTOFF", "AI cut-off"),
        ("READFROMIMAGE", "Read from image, for review"),
        # As IHE's AI Result Assessment has them; its text names no codes that are in PS3.16 yet.
        ("ASSESSMENT", "Assessment of AI finding by a person"),
        ("ASSESSEDREPORT", "AI report that was assessed"),
        ("ACCEPTED", "Accepted"),
        ("MODIFIED", "There, but otherwise than AI says"),
        ("REJECTED", "Rejected"),
        ("MISSING", "There, and not reported by AI"),
    )
}
"""Our codes by their values; a verdict (``ReaderVerdict``) is the value in small letters."""
_OF_CODE: Final = (
    "CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodeMeaning",
)  # fmt: skip


def coding_schemes(further: contract.CodingScheme | None = None) -> list[CodingSchemeIdentificationItem]:
    """The items of Coding Scheme Identification Sequence (0008,0110) for our private coding scheme and a
    further one.

    ``further``: the pipeline's private scheme; None if it has none.
    """
    scheme = CodingSchemeIdentificationItem(
        SCHEME, name="DICOM AI Node private concepts", responsible_organization=MANUFACTURER
    )
    scheme.CodingSchemeUID = SCHEME_UID  # highdicom writes it only with a registry, and ours is in none
    if further is None:
        return [scheme]
    return [
        scheme,
        CodingSchemeIdentificationItem(
            further.designator, name=further.name, responsible_organization=further.organization
        ),
    ]


def coded(code: contract.Code) -> CodedConcept:
    """The code as highdicom's type, which puts long values into Long Code Value; its meaning is cut to 64
    characters.
    """
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def code_alone(item: Dataset) -> Dataset:
    """The code of a sequence item without modifiers and private attributes; codes of SNOMED RT become SNOMED
    CT (PS3.16 8.1).
    """
    value = mapping["SRT"].get(str(item.get("CodeValue")))
    if value and item.get("CodingSchemeDesignator") in {"SRT", "SNM3", "99SDM"}:
        return CodedConcept(value, "SCT", str(item.CodeMeaning))
    return Dataset({Tag(word): item[word] for word in _OF_CODE if word in item})


def with_equivalent(code: DicomCode, equivalent: DicomCode) -> CodedConcept:
    """The concept ``code`` with a synonymous code in its Equivalent Code Sequence (PS3.3 8.9)."""
    concept = CodedConcept.from_code(code)
    concept.EquivalentCodeSequence = [Dataset(CodedConcept.from_code(equivalent))]
    return concept


def presence_of(finding: contract.Finding) -> DicomCode:
    """The code for a finding's decision: Present, Suspected, Absent or Undetermined.

    "Present" only for a label whose positive calls are right nine times in ten, and for burned-in annotation;
    else "Suspected".
    """
    is_sure = finding.certainty == HIGH or finding.code == contract.BURNED_IN
    return (
        codes.SCT.Present
        if is_sure and finding.decision is contract.Decision.PRESENT
        else DECISIONS[finding.decision]
    )


def number_of(finding: contract.Finding) -> CodedConcept:
    """The concept name for a finding's number (0 to 100 %, or a score without unit), which includes the
    finding's name.

    Viewers that show only a measurement's concept and value (OHIF) would otherwise show a bare number: "AI
    estimated probability of Cardiomegaly" names the finding and says whose opinion it is. If a calibrated
    model reports the finding, (111012, DCM, Certainty of Finding) is the equivalent code (PS3.3 8.9): one
    number, for readers and for programs. For an absent finding it would mean the certainty of its absence.
    """
    calibrated = finding.model.calibrated
    meaning = f"AI {'estimated probability' if calibrated else 'score'} of {finding.name}"[:64]
    # A private code of this finding and this meaning: its value is a hash of both (VR SH: 16).
    named = "\n".join((finding.code.scheme, finding.code.value, meaning))
    value = f"{'P' if calibrated else 'S'}-{hashlib.sha256(named.encode()).hexdigest()[:13]}"
    concept = DicomCode(value, SCHEME, meaning)
    if calibrated and finding.decision is not contract.Decision.ABSENT:
        return with_equivalent(concept, codes.DCM.CertaintyOfFinding)
    return CodedConcept.from_code(concept)


def subject_context(fetus: str) -> SubjectContext:
    """The SR items that say that a fetus is the subject: Subject Class and, as Subject ID, its letter or
    number.

    The template allows Fetus ID (11951-1, LN) only in place of Subject ID. The mother is the Patient, so the
    template does not ask for her name.
    """
    return SubjectContext(codes.DCM.Fetus, SubjectContextFetus(fetus))


def fetus_of_reports(objects: Iterable[Dataset]) -> str:
    """The letter or number of the fetus that the reports among these objects are about; "" if there is none
    or more than one.
    """
    named = {
        str(item.TextValue)
        for one in objects
        for item in items(one)
        if item.get("ValueType") == "TEXT" and name_of(item) == codes.DCM.SubjectID.value
    }
    return named.pop() if len(named) == 1 else ""


def name_of(item: Dataset) -> str:
    """The code value of an SR content item's concept name; "" if it has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue") or "") if names else ""


_RADIOGRAPHS: Final = frozenset({"CR", "DX", "MG"})
# Body parts that have no side (PS3.16 Annex L), as far as dciodvfy knows them too.
_UNPAIRED: Final = frozenset(
    {
        "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST",
        "CHESTABDOMEN", "CHESTABDPELVIS", "CIRCLEOFWILLIS", "COCCYX", "COLON", "CORONARYARTERY", "CSPINE",
        "CTSPINE", "DUODENUM", "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "ILEUM",
        "JAW", "JEJUNUM", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK",
        "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PANCREAS", "PELVIS", "PENIS",
        "PHARYNX", "PROSTATE", "RECTUM", "SCALP", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM",
        "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETHRA", "UTERUS",
        "VAGINA", "VULVA", "WHOLEBODY",
    }
)  # fmt: skip


_BEFORE: Final = re.compile("(left|right|entire) ", re.IGNORECASE)
# Body Part Examined (0018,0015) of the region, and those of its organs.
_ORGANS: Final = {
    "HEAD": (
        "ACA", "ANTCOMMA", "BASILARA", "BRAIN", "CEREBELLUM", "CEREBRALA", "CEREBHEMISPHERE", "CHEEK",
        "CHOROIDPLEXUS", "CIRCLEOFWILLIS", "CORNEA", "EAR", "ENDONASAL", "EAC", "EYELID", "FACE",
        "FACIALA", "FONTANEL", "4THVENTRICLE", "INTRACRANIAL", "LACRIMALA", "LATVENTRICLE", "MCA",
        "MOUTH", "NOSE", "OCCPITALA", "OCCIPTALV", "OPHTHALMICA", "PCA", "POSCOMMA", "SCALP", "SCLERA",
        "THALAMUS", "3RDVENTRICLE", "TONGUE",
    ),
    "HEADNECK": ("ENDONASOPHARYNYX", "NASOPHARYNX", "PHARYNX", "PHARYNXLARYNX", "VERTEBRALA"),
    "NECK": (
        "CAROTID", "BULB", "CCA", "ECA", "EXTJUGV", "HYPOPHARYNX", "ICA", "INTJUGULARV", "LINGUALA",
        "PARATHYROID", "SUPRACLAVICULAR", "SUPTHYROIDA", "THYROID",
    ),
    "CHEST": (
        "ANTCARDIACV", "AORTICARCH", "ASCAORTA", "AZYGOSVEIN", "CORONARYARTERY", "CORONARYSINUS",
        "DESCAORTA", "INNOMINATEA", "INNOMINATEV", "INTMAMMARYA", "LATRIUM", "LPULMONARYA", "LVENTRICLE",
        "LUNG", "PARASTERNAL", "PULMONARYA", "PULMONARYV", "RATRIUM", "RPULMONARYA", "RVENTRICLE",
        "SUBCLAVIANA", "SUBCLAVIANV", "LSUPPULMONARYV", "RSUPPULMONARYV", "SVC", "THORACICAORTA",
        "THYMUS", "TRACHEABRONCHUS",
    ),
    "CHESTABDOMEN": ("AORTA", "INFVENACAVA", "UPPERTRUNK"),
    "ABDOMEN": (
        "ABDOMENPELVIS", "ABDOMINALAORTA", "ADRENAL", "APPENDIX", "ASCENDINGCOLON", "BILIARYTRACT",
        "CELIACA", "COMMONBILEDUCT", "DESCENDINGCOLON", "ENDORENAL", "EPIGASTRIC", "FLANK", "GASTRICV",
        "HEPATICA", "HEPATICV", "INFMESA", "KIDNEY", "LOWERTRUNK", "LHEPATICV", "LHYPOCHONDRIAC", "LLQ",
        "LLUMBAR", "LPORTALV", "LUQ", "LIVER", "LUMBARA", "LUMBAR", "MESENTRICA", "MESENTRICV",
        "MIDHEPATICV", "MORISONSPOUCH", "PANCREAS", "PANCREATICDUCT", "PORTALV", "RENALA", "RENALV",
        "RETROPERITONEUM", "RHEPATICV", "RHYPOCHONDRIAC", "RLQ", "RLUMBAR", "RPORTALV", "RUQ", "SPLEEN",
        "SPLENICA", "SPLENICV", "SUBCOSTAL", "SMA", "TRANSVERSECOLON", "UMBILICAL",
    ),
    "PELVIS": (
        "AMNIOTICFLUID", "ANUSRECTUMSIGMD", "BLADDERURETHRA", "CERVIX", "COMILIACA", "COMILIACV",
        "ENDOMETRIUM", "ENDOVAGINAL", "ENDOVESICAL", "EPIDIDYMIS", "EXTILIACA", "EXTILIACV", "GESTSAC",
        "HYPOGASTRIC", "ILIACA", "ILIACV", "INGUINAL", "INTILIACA", "LINGUINAL", "OVARY", "PENILEA",
        "PENIS", "PERINEUM", "PLACENTA", "CULDESAC", "RINGUINAL", "SCROTUM", "SEMVESICLE", "SIGMOID",
        "SUPRAPUBIC", "TESTIS", "UMBILICALA", "UMBILICALV", "UTERUS", "VAGINA", "VULVA",
    ),
    "SPINE": ("ANTSPINALA", "BACK", "CTSPINE", "LSSPINE", "SPINALCORD", "TLSPINE"),
    "UPPERARM": ("AXILLARYA", "AXILLARYV", "BRACHIALA", "BRACHIALV"),
    "FOREARM": ("RADIALA", "RADIUS", "RADIUSULNA", "ULNA", "ULNARA"),
    "UPPERLIMB": ("ANTECUBITALV", "AXILLA", "CEPHALICV"),
    "LOWERLIMB": (
        "BUTTOCK", "CFA", "CFV", "FEMORALA", "FEMORALV", "GENICULARA", "GLUTEAL", "GSV", "HIP",
        "LFEMORALA", "PELVISLOWEXTREMT", "PERONEALA", "POPLITEALA", "POPLITEALFOSSA", "POPLITEALV",
        "PROFFEMA", "PROFFEMV", "RFEMORALA", "SFJ", "SAPHENOUSV", "SFA", "SFV",
    ),
    "LOWERLEG": ("ANTTIBIALA", "CALF", "POSTIBIALA", "TIBIA", "TIBIAFIBULA"),
    "CHESTABDPELVIS": ("TRUNK",),
}  # fmt: skip


def side_of(source: Source) -> str:
    """The side, "L" or "R", if the image shows one side of a body part that is known to be paired; else
    "".
    """
    part = body_part_of(source)
    return stated_side(source) if part and part.upper() not in _UNPAIRED else ""


def stated_side(source: Source) -> str:
    """ "L" or "R" as Image Laterality (0020,0062) or Laterality (0020,0060) says; "" if neither does or they
    disagree.
    """
    given = [source.header.get(keyword) for keyword in ("ImageLaterality", "Laterality")]
    sides = {str(side).upper() for side in given if side}
    return sides.pop() if len(sides) == 1 and sides <= {"L", "R"} else ""


def body_part_of(source: Source) -> str:
    """The body part of an image as Body Part Examined names it, in words of PS3.16 Annex L; "" if unknown.

    It is Body Part Examined (0018,0015), else derived from Anatomic Region Sequence (0008,2218); "" if the
    two name different regions of the body.
    """
    return _body_part(source)[0]


def _body_part(source: Source) -> tuple[str, bool]:
    """The body part of an image ("" if unknown), and whether its header names two different regions of the
    body.
    """
    today = {former.value: value for value, former in FORMER_REGIONS.items()}
    words = (
        body_part_word(today.get(code.value, code.value))
        for code in _codes(source.header, "AnatomicRegionSequence")
    )
    parts = [str(source.header.get("BodyPartExamined") or ""), next(filter(None, words), "")]
    named = {(_regions_of_organs().get(code.value) or code).value for code in map(region_code, parts) if code}
    return ("", True) if len(named) > 1 else (next(filter(None, parts), ""), False)


def regions_of(context: ResultContext, source: Source) -> Iterator[CodedConcept | DicomCode]:
    """Yield the codes of the body region: those of Anatomic Region Sequence, Body Part Examined, and the
    pipeline.

    Only the pipeline's if the two attributes contradict each other.
    """
    if not _body_part(source)[1]:
        yield from _codes(source.header, "AnatomicRegionSequence")
        if named := region_code(source.header.get("BodyPartExamined")):
            yield named
    if context.region is not None:
        yield coded(context.region)


def target_of(context: ResultContext, source: Source) -> CodedConcept | None:
    """The code of the target region in the image library (TID 1602), a member of CID 4031; None if none is
    known.

    It is the first such region that image or pipeline name, else the one around an organ that the image
    names.
    """
    for one in regions_of(context, source):
        if found := common_region(region_of(one) or one):
            return found
    return None


def region_of(part: CodedConcept | DicomCode) -> CodedConcept | None:
    """The region of the body in which an organ lies; None for a code that is no known organ.

    Also understands an organ whose meaning begins with its side or "entire", such as "Left kidney".
    """
    region = _regions_of_organs().get(part.value)
    if region is None and _BEFORE.match(str(part.meaning)):
        whole = region_code(_BEFORE.sub("", str(part.meaning)))
        return whole and (_regions_of_organs().get(whole.value) or whole)
    return region


def common_region(region: CodedConcept | DicomCode) -> CodedConcept | None:
    """The member of CID 4031 with the code of ``region``, in words of the standard; None if no member has
    it.
    """
    given = DicomCode(region.value, region.scheme_designator, region.meaning)
    known = (code for code in _common_regions() if given in (code, FORMER_REGIONS.get(code.value, code)))
    member = next(known, None)
    if member is None or member.value not in FORMER_REGIONS:
        return member and CodedConcept.from_code(member)
    return with_equivalent(FORMER_REGIONS[member.value], member)


@cache
def _common_regions() -> tuple[DicomCode, ...]:
    """The members of CID 4031 that validators of 2022 know."""
    members = [getattr(codes.cid4031, word) for word in codes.cid4031.dir()]
    return tuple(code for code in members if code.value not in NEW_REGIONS)


@cache
def _regions_of_organs() -> dict[str, CodedConcept]:
    """The code of the region in which an organ lies, by the SNOMED CT code value of the organ."""
    found: dict[str, CodedConcept] = {}
    for region, words in _ORGANS.items():
        found |= {organ.value: body_parts()[region] for word in words if (organ := region_code(word))}
    return found


def view_of(source: Source) -> CodedConcept | DicomCode | None:
    """The code of a radiograph's view; None for other images, or if it is unknown.

    It is the code for the View Position that the pipeline assumed or the header states; without either the
    first of View Code Sequence (0054,0220).
    """
    if source.header.get("Modality") not in _RADIOGRAPHS:
        return None
    given = [] if source.view else _codes(source.header, "ViewCodeSequence")
    return given[0] if given else VIEWS.get(source.view)


def procedure_reported(source: Source) -> DicomCode:
    """The Procedure Reported of a report on this image, a code of CID 100: radiograph or imaging in
    general.
    """
    radiograph = source.header.get("Modality") in _RADIOGRAPHS
    return codes.LN.XRUnspecifiedBodyRegion if radiograph else codes.SCT.ImagingProcedure


def procedures_performed(sources: Sequence[Source]) -> list[CodedConcept]:
    """The codes for Performed Procedure Code Sequence (0040,A372), each once.

    They are those of each source's Procedure Code Sequence (0008,1032); for a source without, a code of the
    examination by its modality and body part.
    """
    return each_once(
        code
        for source in sources
        for code in _codes(source.header, "ProcedureCodeSequence") or [_examination(source)]
    )


def _examination(source: Source) -> DicomCode:
    """The code of the examination that made this image, by its modality and body part."""
    modality = source.header.get("Modality")
    if modality in _RADIOGRAPHS:
        return CHEST_RADIOGRAPHY if body_part_of(source).upper() == "CHEST" else codes.SCT.PlainRadiography
    return codes.SCT.DiagnosticUltrasonography if modality in {"US", "IVUS"} else codes.SCT.ImagingProcedure


def each_once(given: Iterable[CodedConcept | DicomCode]) -> list[CodedConcept]:
    """The codes in their order, without repeats."""
    found = {(code.scheme_designator, code.value): code for code in given}
    return [CodedConcept(code.value, code.scheme_designator, code.meaning) for code in found.values()]


def _codes(header: Dataset, keyword: str) -> list[CodedConcept]:
    """The codes in a sequence of the header; those without a coding scheme (URNs) are left out, as SR cannot
    state them.
    """
    items = [code_alone(item) for item in header.get(keyword) or []]
    return [CodedConcept.from_dataset(item) for item in items if "CodingSchemeDesignator" in item]


# Raised with every change that makes other bytes from the same input; written into every object.
BUILDER_VERSION: Final = "14"


def series_uid(context: ResultContext, kind: ResultKind, source: Source, *parts: str) -> str:
    """The Series Instance UID for all results of one kind in a study, also for images that arrive later.

    It changes when the patient's identity changes, because a series has one patient. ``parts``: texts that
    distinguish several series of one kind.
    """
    of_study = (source.study_uid, source.stored.identity_sha256)
    return derived_uid("series", *_shaping_texts(context), context.charset, kind, *of_study, *parts)


def tracking_uid(context: ResultContext, source: Source, *parts: str) -> str:
    """The Tracking UID of a finding, derived only from its image and ``parts`` (what the finding is), so that
    all objects about it agree.
    """
    return derived_uid("tracking", *_shaping_texts(context), source.study_uid, *_source_parts(source), *parts)


def statement_uid(context: ResultContext, what: str, *parts: str) -> str:
    """The SOP Instance UID of a person's statement on results, derived from its content: same input, same
    UID.

    ``what``: the kind of statement, "assessment" or "rejection". ``parts``: all texts that it states.
    """
    return derived_uid(what, *_shaping_texts(context), *parts)


def _shaping_texts(context: ResultContext) -> tuple[str, ...]:
    """The texts that shape every result of a job and are part of its UIDs: versions, node, options and
    models.
    """
    options = json.dumps(dict(context.options), sort_keys=True, default=str, ensure_ascii=True)
    return BUILDER_VERSION, context.installation.device_uid, options, *_program_texts(context)


def _program_texts(context: ResultContext) -> tuple[str, ...]:
    """The texts that name the pipeline and its models, with versions and hashes."""
    models = [part for model in context.models for part in _model_parts(model)]
    return context.pipeline, context.pipeline_version, *models


def _model_parts(model: contract.ModelRef) -> tuple[str, str, str, str]:
    """The (name, version, hash of the weights, hash of the model card) of a model; the card is the file about
    it.
    """
    return (model.id, model.version, model.sha256, model.card_sha256)


def _source_parts(source: Source) -> tuple[str, str, str]:
    """The (SOP Instance UID, hash of the pixels, hash of the identity) of an image, as part of the UIDs of
    its results.
    """
    return (source.uid, source.stored.pixels_sha256, source.stored.identity_sha256)


def unbuilt_object(
    context: ResultContext,
    kind: ResultKind,
    sop_class_uid: str,
    sources: Sequence[Source],
    parts: tuple[str, ...] = (),
    series_parts: tuple[str, ...] = (),
) -> BuiltObject:
    """A result with its UIDs and without its bytes, by which one finds out whether it was built before.

    ``sources``: the images that it is about. ``parts`` and ``series_parts``: texts that distinguish several
    objects, or series, of one kind.
    """
    named = [part for source in sorted(sources, key=lambda s: s.uid) for part in _source_parts(source)]
    return BuiltObject(
        kind=kind,
        sop_instance_uid=derived_uid(
            "object", *_shaping_texts(context), context.charset, kind, sources[0].study_uid, *named, *parts
        ),
        sop_class_uid=str(sop_class_uid),
        series_instance_uid=series_uid(context, kind, sources[0], *series_parts),
        supersedes=context.supersedes if kind is ResultKind.SR else "",
        data=None,
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
    """Whether highdicom knows the modules of this SOP class, because it is in the present standard."""
    return get_sop_class_iod_map().get(sop_class_uid) in get_iod_module_map()


@cache
def has_frames(sop_class_uid: str) -> bool:
    """Whether an object of this SOP class, which must be known (``is_known``), may have several frames."""
    return bool(is_attribute_in_iod("NumberOfFrames", sop_class_uid))


def usages(sop_class_uid: str) -> dict[str, str]:
    """The usage (M, C or U) of each module of a known SOP class, by highdicom's names of modules
    ("general-study").
    """
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    return {module["key"]: module["usage"] for module in modules}


def mandatory_modules(sop_class_uid: str) -> list[str]:
    """The names of the modules that are mandatory (usage M) in a known SOP class."""
    return [module for module, usage in usages(sop_class_uid).items() if usage == "M"]


def attributes_of(module: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield (keywords of the enclosing sequences, keyword, Type) for each attribute of a module."""
    for item in get_module_attribute_map()[module]:
        yield tuple(item["path"]), item["keyword"], item["type"]


def missing_attribute(dataset: Dataset, module: str) -> str:
    """A sentence on the first Type 1 or 2 attribute of the module that the object lacks; "" if it lacks
    none.
    """
    try:
        check_required_attributes(dataset, module, check_optional_sequences=False)
    except AttributeError as error:
        return f"{error} (module {module})"
    return ""


def region_code(body_part: object) -> CodedConcept | None:
    """The code of a Body Part Examined (0018,0015) in any usual spelling; None if it has no code."""
    word, known = re.sub("[ _]", "", str(body_part or "").upper()), body_parts()
    return known.get(word) or known.get(word.removesuffix("S"))


def body_part_word(code_value: object) -> str:
    """The Body Part Examined (PS3.16 Annex L) for a SNOMED CT code value; "" if there is none.

    If two words have one code, it is the word that names no endoscopy.
    """
    words = [part for part, code in body_parts().items() if code.value == code_value]
    return min(words, key=lambda word: word.startswith("ENDO"), default="")


@cache
def body_parts() -> dict[str, CodedConcept]:
    """The codes of body parts by Body Part Examined; words of former editions and of devices come last."""
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
RULE_STEP: Final = 100
"""Between the series numbers of two rules of a study."""
# From 9001 on, above the numbers that modalities give: results are listed behind the series of the study.
OUTLINES_SERIES_NUMBER: Final = 9010
"""Of outlined organs: in a series of their own."""
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
    """The arguments that all constructors of highdicom share, for a result of this kind.

    ``uid``: its SOP Instance UID; ``number``: its Instance Number (from 1); ``series_parts``: texts that
    distinguish several series of one kind.
    """
    return {
        **general_equipment(context),
        "series_instance_uid": series_uid(context, kind, source, *series_parts),
        "series_number": SERIES_NUMBERS[kind] + context.series_offset,
        "sop_instance_uid": uid,
        "instance_number": number,
        "contributing_equipment": contributing_equipment(context, offset_of(source), kind),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "specific_character_set": UTF8,
        "coding_schemes": coding_schemes(context.scheme),
    }


def series_description(context: ResultContext, kind: ResultKind, name: str = "") -> str:
    """The Series Description (0008,103E) of results: name, whole warning, and the pipeline's name.

    VR LO holds 64 characters; the pipeline's name comes last and is cut if needed. ``name`` replaces the
    usual name of this kind of series; "" for the usual one.
    """
    warning = "inpainted, not for measurement" if kind is ResultKind.CLEANED else "not for diagnostic use"
    return f"{name or _SERIES_NAMES[kind]} - {warning} - {context.pipeline}"[:64]


def disclaimer(context: ResultContext) -> str:
    """The sentence in every result that says that it is not for diagnostic use, and names the models."""
    models = ", ".join(f"model {model.id} version {model.version}" for model in context.models)
    return "AI result - not for diagnostic use, " + (
        models or f"{context.pipeline} version {context.pipeline_version}"
    )


def offset_of(source: Source) -> str:
    """The Timezone Offset From UTC (0008,0201) of the source, such as ``+0100``; "" if it has none."""
    return str(source.header.get("TimezoneOffsetFromUTC") or "")


def complete(
    dataset: Dataset, context: ResultContext, kind: ResultKind, sources: Sequence[Source]
) -> Dataset:
    """Set the attributes that highdicom left open, took from the stand-in, or set to the present time;
    returns ``dataset``.

    ``sources``: the images that it is about; patient and study are copied from the first.
    """
    source = sources[0]
    # Patient and study as they are in the source: one value for one patient (PS3.3 A.1.2). What the source
    # does not have is left as highdicom wrote it: absent, or empty where it is of Type 2.
    for keyword in COPIED:
        if keyword in source.header:
            dataset[keyword] = deepcopy(source.header[keyword])
    # Type 2C of animals (PS3.3 C.7.1.1, C.7.2.2), which have a species: empty where the source does not say.
    for keyword in _OF_ANIMALS if "PatientSpeciesDescription" in dataset else ():
        dataset.setdefault(keyword, None)
    with quiet_pydicom():
        for name in dataset:
            if name.VR == "PN" and name.value:
                # As text: pydicom would otherwise keep the bytes of the source's character set.
                name.value = [PersonName(str(one)) for one in name.value] if name.VM > 1 else str(name.value)
    _freeze_times(dataset, context, offset_of(source))
    # Series Date and Time (PS3.3 C.7.3.1): the same in all objects of a series, those of later jobs too.
    began = local(
        context.series_began(str(dataset.SeriesInstanceUID)) or context.analysed_at, offset_of(source)
    )
    dataset.SeriesDate, dataset.SeriesTime = f"{began:%Y%m%d}", f"{began:%H%M%S.%f}"
    _correct_references(dataset, sources)
    dataset.SeriesDescription = series_description(context, kind)
    if context.station_name:
        dataset.StationName = context.station_name[:16]
    if kind not in (ResultKind.SR, ResultKind.PDF):
        # General Series (PS3.3 C.7.3.1): Laterality is Type 2C, for paired parts only, never in a
        # Segmentation. Empty says that the part may have a side and the source does not tell it.
        part = body_part_of(source)
        if part:
            dataset.BodyPartExamined = part
        if kind is not ResultKind.SEG and part.upper() not in _UNPAIRED:
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
    """The Part 10 file of a result, in ISO_IR 192 or, if the context says so, in the source's character
    set.
    """
    return _encode_in_charset_of(dataset, source.header if context.charset == "source" else Dataset())


def _encode_in_charset_of(dataset: Dataset, source: Dataset) -> bytes:
    """The Part 10 file of a data set in the character set of ``source``.

    If that cannot encode a text (a label of a model), or names none, ISO_IR 192 is used: "?" is never
    written.
    """
    charset = character_sets(source)
    dataset.SpecificCharacterSet = UTF8
    if any(charset) and can_encode(charset, dataset):
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
    """Complete and encode a person's statement about the result ``about``, in the character set of that
    result.

    Times and equipment must already be set. ``supersedes``: SOP Instance UID of the statement that it
    replaces, "" for none.
    """
    document.SeriesDescription = series_description(context, kind)
    _freeze_times(document, context, str(about.get("TimezoneOffsetFromUTC") or ""))
    return BuiltObject(
        kind=kind,
        sop_instance_uid=document.SOPInstanceUID,
        sop_class_uid=document.SOPClassUID,
        series_instance_uid=document.SeriesInstanceUID,
        supersedes=supersedes,
        data=_encode_in_charset_of(document, about),
    )


def _freeze_times(dataset: Dataset, context: ResultContext, offset: str) -> None:
    """Set all times to the time of the analysis, so that two builds do not differ, and the attributes of the
    maker that highdicom's constructors do not accept.

    ``offset``: the Timezone Offset From UTC in which times are written, "" for that of this machine.
    """
    analysed = local(context.analysed_at, offset)
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
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = dicom_datetime(context.analysed_at, offset)
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
        uid = str(item.get("ReferencedSOPInstanceUID") or "")
        if uid in classes and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = classes[uid]
        # PS3.3 C.10.4, C.18.6: for images with a total pixel matrix; highdicom says VOLUME of all others.
        item.pop("PixelOriginInterpretation", None)


def general_equipment(context: ResultContext) -> dict[str, Any]:
    """The arguments of highdicom's constructors for General Equipment (PS3.3 C.7.5.1, C.7.5.2)."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(context),
        "device_serial_number": context.installation.serial_number,
    }


def software_versions(context: ResultContext) -> list[str]:
    """The Software Versions of a result: the builder's version and the pipeline's; not the release of the
    node.

    A result is identified by what decides its content, and a new release need not change that.
    """
    return [f"results {BUILDER_VERSION}", f"{context.pipeline} {context.pipeline_version}"[:64]]


def contributing_equipment(
    context: ResultContext, offset: str, kind: ResultKind
) -> list[ContributingEquipment]:
    """The items of Contributing Equipment Sequence: one for the node, and one for each of its models (IHE AIR
    6.5.3.1).

    ``offset``: Timezone Offset From UTC, "" if unknown. Purposes are from CID 7005. A cleaned image has a
    second item for the node, which changed the source's pixels.
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
        # The UID changes with the weights or the card.
        uid = derived_uid("model", context.installation.device_uid, *_model_parts(model))
        what = f"AI model: inference; SHA-256 of weights {model.sha256}, of card {model.card_sha256}"
        purpose = codes.DCM.ProcessingEquipment
        items.append(
            _equipment_item(context, offset, uid, model.id[:64], [model.version[:64]], what, purpose)
        )
    return items


def device_observer(context: ResultContext) -> ObserverContext:
    """The SR items (TID 1004) that name this node as observer; its UID is derived from installation, pipeline
    and models.
    """
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derived_uid("observer", context.installation.device_uid, *_program_texts(context)),
            name=context.station_name or MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=context.installation.serial_number,
        ),
    )


def algorithm(model: contract.ModelRef, finding: contract.Finding | None = None) -> AlgorithmIdentification:
    """The SR items (TID 4019) that name a model; for a ``finding`` with the operating threshold of its
    label.
    """
    threshold = finding.threshold if finding is not None else None
    parameters = None if threshold is None else [f"operating threshold {threshold:.4g}"]
    return AlgorithmIdentification(name=model.id, version=model.version, parameters=parameters)


def node_equipment(
    context: ResultContext, offset: str, what: str, purpose: DicomCode
) -> ContributingEquipment:
    """The item of Contributing Equipment Sequence that says that this node did ``what``, for a ``purpose`` of
    CID 7005.

    ``offset``: Timezone Offset From UTC, "" if unknown.
    """
    uid = context.installation.device_uid
    return _equipment_item(context, offset, uid, MODEL_NAME, software_versions(context), what, purpose)


def _equipment_item(
    context: ResultContext,
    offset: str,
    uid: str,
    name: str,
    versions: list[str],
    what: str,
    purpose: DicomCode,
) -> ContributingEquipment:
    """An item of Contributing Equipment Sequence for the node or a model that did ``what``.

    ``name`` and ``versions``: its model name and software versions; ``uid``: its Device UID.
    """
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=name,
        software_versions=versions,
        device_serial_number=context.installation.serial_number,
        station_name=context.station_name[:16] or None,
        contribution_datetime=dicom_datetime(context.analysed_at, offset),
        contribution_description=what,
    )
    item.DeviceUID = uid
    return item


_OFFSET: Final = re.compile(r"([+-])([01]\d)([0-5]\d)")


def dicom_datetime(moment: datetime, offset: str) -> str:
    """The moment as VR DT in the zone of ``offset`` (``+0100``; "" for this machine's), without the offset
    itself.

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
    """The moment in the zone of the Timezone Offset From UTC (0008,0201) ``offset``; for "" in this machine's
    zone.

    An offset of our own choice would be a lie about the copied Study Date and Time, which it also governs.
    """
    return moment.astimezone(zone_of(offset))
