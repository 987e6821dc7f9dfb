"""A source image of results: its decoded header, and a stand-in that highdicom accepts."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from ai_pipeline import contract
from ai_pipeline.images.numbers import value_of, whole_of
from dicom_node.base.dicom.header import (
    Repairs,
    read_header,
    repair,
)
from dicom_node.base.dicom.identity import (
    COPIED,
    REQUIRED_MAYBE_EMPTY,
    SAYS_WHO,
    Patient,
    are_one_patient,
    identity_texts,
)
from dicom_node.base.dicom.uids import (
    SECONDARY_CAPTURES,
)
from dicom_node.base.errors import ResultRefused
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.standard import has_frames, is_known


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
        return self.judged_view or text_of(self.header, "ViewPosition").upper()


def patient_of(header: Dataset) -> Patient:
    """Return the hashes of what a header says of the patient."""
    return Patient.of(identity_texts(header, SAYS_WHO))


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
    if not are_one_patient(patient_of(source.header) for source in sources):
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
        text_of(header, "PhotometricInterpretation"),
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
    stand_in = without_identity(
        stand_in_of(
            _class_for_highdicom(header, image.frames),
            header.SOPInstanceUID,
            header.StudyInstanceUID,
            header.SeriesInstanceUID,
        )
    )
    stand_in.Rows, stand_in.Columns = image.rows, image.columns
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
    modality = text_of(header, "Modality") or "OT"
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
        still, cine = _OF_MODALITY.get(text_of(header, "Modality"), ("", ""))
        return (cine or _SC_MULTI_FRAME) if frames > 1 else (still or _STORAGE + "7")
    if frames > 1 and not has_frames(found):
        # Cines under the single-frame class are common in old ultrasound.
        return _US_MULTI_FRAME if found == _STORAGE + "6.1" else _SC_MULTI_FRAME
    return found


def offset_of(dataset: Dataset) -> str:
    """The Timezone Offset From UTC (0008,0201) of a data set, such as ``+0100``; "" if it has none."""
    return text_of(dataset, "TimezoneOffsetFromUTC")
