"""De-identified copies of received images (PS3.15 E.2), for an AI elsewhere that must not know the patient,
and what it answers, mapped back.

The pixels are those of the source. So only images whose pixels show no text are copied: of CT, MR, PET and
nuclear medicine, as the device made them. Copies that hold anything of the identity are refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
)

from dicom_node.base.dicom.header import items, listed, quiet_pydicom
from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.base.errors import ResultRefused
from dicom_node.results.dataset import UTF8, text_of
from dicom_node.results.deidentified.identity import KnownIdentity
from dicom_node.results.deidentified.profile import apply_basic
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.source import patient_of

WITHOUT_TEXT: Final = frozenset(
    {
        CTImageStorage,
        EnhancedCTImageStorage,
        MRImageStorage,
        EnhancedMRImageStorage,
        PositronEmissionTomographyImageStorage,
        EnhancedPETImageStorage,
        NuclearMedicineImageStorage,
    }
)
"""SOP classes of images into which devices write no text."""
_PATIENT: Final = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex",
)  # fmt: skip
_TEXTS: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_OVERLAY_BIT: Final = 0x0102  # Overlay Bit Position (60xx,0102): a plane in unused bits of the pixels
_FAULTY: Final = (
    InvalidDicomError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, TypeError,
    ValueError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SentAs:
    """What the copies of one study say instead of the truth. ``patient``: the pseudonym; ``source``: the
    header of an image of the patient; ``uids``: the original of each UID in the copies.
    """

    patient: str
    source: Dataset
    uids: Mapping[str, str]

    @classmethod
    def of(cls, headers: Iterable[Dataset], pseudonyms: Pseudonyms) -> "SentAs":
        """Collect the UIDs of all images of a study, at least one. ``headers``: decoded."""
        headers = list(headers)
        uids = {pseudonyms.uid(value): value for one in headers for value in _private_uids(one)}
        study = text_of(headers[0], "StudyInstanceUID")
        return cls(pseudonyms.patient(patient_of(headers[0]), study), headers[0], uids)

    def mapped_back(self, data: bytes) -> bytes:
        """Return an object of an answer (a Part 10 file) with the patient and the UIDs of the originals.

        What bears another patient than the pseudonym, or cannot be read, is returned as it is: the gate
        refuses it.
        """
        try:
            with quiet_pydicom():
                read = dcmread(BytesIO(data))
                if text_of(read, "PatientID").strip() != self.patient:
                    return data
                read.decode()
                _replace_uids(read, self.uids)
                read.SpecificCharacterSet = UTF8
                for keyword in _PATIENT:
                    if keyword in self.source:
                        setattr(read, keyword, text_of(self.source, keyword))
                    elif keyword in read:
                        del read[keyword]
                read.file_meta.MediaStorageSOPInstanceUID = read.SOPInstanceUID
                written = BytesIO()
                dcmwrite(written, read, enforce_file_format=True)
        except _FAULTY:
            return data
        return written.getvalue()


def why_no_copy(image: Dataset) -> str:
    """Return why an image cannot be copied without its identity; "" if it can."""
    if text_of(image, "SOPClassUID") not in WITHOUT_TEXT:
        return "its pixels may show a name: only CT, MR, PET and nuclear medicine are copied"
    if text_of(image, "BurnedInAnnotation").upper() not in ("", "NO"):
        return "its header says that text is burned into the pixels"
    if "SECONDARY" in (str(value).upper() for value in listed(image.get("ImageType"))):
        return "it is a secondary image, which may show text"
    if any(_is_overlay_bit(element) and element.value for element in image):
        return "unused bits of its pixels may hold an overlay with text"
    return ""


def _is_overlay_bit(element: DataElement) -> bool:
    """Return whether an attribute is Overlay Bit Position (60xx,0102)."""
    return bool(element.tag.group & 0xFF00 == 0x6000 and element.tag.element == _OVERLAY_BIT)


def deidentified_copy(image: Dataset, pseudonyms: Pseudonyms) -> bytes:
    """Return a copy of ``image``, with its pixels, as a Part 10 file that does not say who the patient is.

    Raises ResultRefused, without any value, if the image cannot be copied so.
    """
    if why := why_no_copy(image):
        raise ResultRefused(why)
    identity = KnownIdentity.from_datasets([image])
    patient = pseudonyms.patient(patient_of(image), text_of(image, "StudyInstanceUID"))
    with quiet_pydicom():
        copy = dcmread(BytesIO(_encoded(image)))
        apply_basic(copy)
        _remove_texts(copy, identity)
        _replace_uids(copy, {value: pseudonyms.uid(value) for value in _private_uids(copy)})
        copy.PatientID, copy.PatientName = patient, f"{patient}^"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = copy.SOPClassUID, copy.SOPInstanceUID
        meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        copy.file_meta, copy.preamble = meta, bytes(128)
        data = _encoded(copy)
        read = dcmread(BytesIO(data), stop_before_pixels=True)
        scanner = [text_of(image, keyword) for keyword in ("Manufacturer", "ManufacturerModelName")]
        found = list(identity.found_in(read, data, [patient], scanner))
    if found:
        raise ResultRefused(f"a copy without the identity cannot be made: {found[0]}")
    return data


def _remove_texts(copy: Dataset, identity: KnownIdentity) -> None:
    """Remove the free texts of a copy that hold a part of the identity, as a manufacturer's name may be the
    patient's, too. Meanings of codes stay: people are called Left.
    """
    for item in items(copy):
        for element in list(item):
            if element.VR in _TEXTS and element.keyword != "CodeMeaning" and identity.is_in(element):
                del item[element.tag]


def _encoded(dataset: Dataset) -> bytes:
    """Return a data set as a Part 10 file."""
    written = BytesIO()
    dcmwrite(written, dataset, enforce_file_format=True)
    return written.getvalue()


def _private_uids(dataset: Dataset) -> Iterator[str]:
    """Yield the UIDs in a data set and its items that the standard does not define."""
    for item in items(dataset):
        for element in item:
            if element.VR == "UI":
                for value in listed(element.value):
                    if value and UID(str(value)).is_private:
                        yield str(value)


def _replace_uids(dataset: Dataset, others: Mapping[str, str]) -> None:
    """Replace UIDs in a data set and its items in place."""
    for item in items(dataset):
        for element in item:
            if element.VR == "UI" and (values := listed(element.value)):
                replaced = [others.get(str(value), str(value)) for value in values]
                element.value = replaced if len(replaced) > 1 else replaced[0]
