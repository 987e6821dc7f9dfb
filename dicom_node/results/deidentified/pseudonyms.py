"""Pseudonyms of patients and objects, and source images that bear them.

Pseudonyms are constant for one site key and one pseudonym domain: HMAC-SHA256 under keys that are derived
from the site key. Without the key nobody can test whether a known Patient ID or UID gives a pseudonym; with a
plain hash anybody could. A pseudonymised source has only the listed attributes, which describe the picture: a
name that is not in the header cannot get into a result.
"""

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Set
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset

from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.lifecycle import Retained
from dicom_node.base.sitekey import SiteKey
from dicom_node.results.dataset import UTF8, set_values, text_of
from dicom_node.results.deidentified.identity import KnownIdentity
from dicom_node.results.deidentified.retained import retained
from dicom_node.results.source import Source, patient_of, source_of
from dicom_node.results.standard import region_code

# Type 2 in the Patient and General Study modules: present, and empty (action Z of PS3.15 Table E.1-1).
_EMPTIED: Final = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
_KEPT: Final = (
    "InstanceNumber", "Manufacturer", "ManufacturerModelName",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "Rows", "Columns", "NumberOfFrames",
    "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "NominalScannedPixelSpacing",
    "WindowCenter", "WindowWidth", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "PixelPaddingValue",
    "SequenceOfUltrasoundRegions",
    "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay",
    "ActualFrameDuration", "StartTrim", "StopTrim", "PreferredPlaybackSequencing",
    "LossyImageCompressionRatio",
)  # fmt: skip
# Of the items of kept sequences: numbers that say what a pixel is worth (PS3.3 C.8.5.5.1, C.11.2).
_KEPT_IN_ITEMS: Final = frozenset(
    {
        "RegionSpatialFormat", "RegionDataType", "RegionFlags",
        "RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1",
        "ReferencePixelX0", "ReferencePixelY0",
        "ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY",
        "PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY",
        "TransducerFrequency", "PulseRepetitionFrequency", "DopplerCorrectionAngle", "SteeringAngle",
        "DopplerSampleVolumeXPosition", "DopplerSampleVolumeYPosition",
        "TMLinePositionX0", "TMLinePositionY0", "TMLinePositionX1", "TMLinePositionY1",
        "PixelComponentOrganization", "PixelComponentMask",
        "PixelComponentRangeStart", "PixelComponentRangeStop",
        "PixelComponentPhysicalUnits", "PixelComponentDataType",
        "NumberOfTableBreakPoints", "TableOfXBreakPoints", "TableOfYBreakPoints",
        "NumberOfTableEntries", "TableOfPixelValues", "TableOfParameterValues",
        "LUTDescriptor", "LUTData",
    }
)  # fmt: skip
# Code strings, kept where they are what the standard lets them be: a console may let people type.
_TERMS: Final = {
    "Modality": r"US|IVUS|CR|DX|MG|XA|RF|OT",
    "PatientOrientation": r"[RLAPHF]{1,3}",
    "Laterality": r"[RLBU]",
    "ImageLaterality": r"[RLBU]",
    "VOILUTFunction": r"LINEAR|LINEAR_EXACT|SIGMOID",
    "LossyImageCompression": r"0[01]",
    "SyntheticData": r"YES|NO",
    "LossyImageCompressionMethod": r"ISO_\d{5}_\d{1,2}",
}
_NOBODY: Final = KnownIdentity()
PREFIX: Final = "AI-"  # a reader sees that it is no Patient ID of a hospital


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Replaces identifiers in de-identified objects by values derived from the site's secret key.

    Neither ``repr`` nor ``str`` shows the key. ``domain``: the pseudonym domain of the destinations (""
    without any); each domain has other pseudonyms.
    """

    _key: SiteKey = field(repr=False)
    domain: str = ""
    """Of the destinations, "" without any."""

    def uid(self, original: str) -> str:
        """The UID that replaces ``original``: under 2.25 (PS3.5 B.2), from a UUID of version 8 (RFC 9562)."""
        digest = bytearray(self._mac("UIDs", original.strip("\0 "))[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"

    def patient(self, who: Patient, study_uid: str) -> str:
        """The pseudonym of a patient, for Patient ID and Patient's Name.

        A patient whom the ID does not tell from others gets a pseudonym for this study only, so that such
        patients are not one person.
        """
        named = who.key or f"study {study_uid}"
        return PREFIX + base64.b32encode(self._mac("patients", named)).decode("ascii")[:20]  # 100 bits

    def days_earlier(self, patient: str) -> int:
        """The number of days by which a patient's dates are moved back: one to eleven years.

        ``patient``: the patient's pseudonym. All dates of one patient move by the same number, so that
        intervals do not change.
        """
        return 365 + int.from_bytes(self._mac("dates", patient)[:4], "big") % 3650

    def digest(self, of_original: str) -> str:
        """A keyed hash of ``of_original``, itself a hash of the original image or identity; UIDs of results
        derive from it.

        With a plain hash anybody could test candidate originals against a UID.
        """
        return self._mac("digests", of_original).hex()

    def _mac(self, what: str, text: str) -> bytes:
        """The HMAC-SHA256 of ``text`` under a key for the purpose ``what`` and this domain.

        The name of a domain has neither a blank nor a colon, so keys of two purposes cannot be equal.
        """
        purpose = f"de-identification for {self.domain}" if self.domain else "de-identification"
        key = self._key.derive(f"{purpose}: {what}")
        return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def pseudonymised(
    source: Source,
    pseudonyms: Pseudonyms,
    options: Set[Retained] = frozenset(),
    identity: KnownIdentity = _NOBODY,
) -> Source:
    """The source image with a pseudonym, replaced UIDs, the attributes of its pixels, and those that
    ``options`` retain. An attribute of the pixels that holds a part of ``identity`` is left out.
    """
    given = source.header
    patient = pseudonyms.patient(patient_of(given), source.study_uid)
    header = Dataset()
    set_values(
        header,
        SpecificCharacterSet=UTF8,
        SOPClassUID=source.sop_class_uid,
        SOPInstanceUID=pseudonyms.uid(source.uid),
        SeriesInstanceUID=pseudonyms.uid(source.series_uid),
        StudyInstanceUID=pseudonyms.uid(source.study_uid),
        PatientID=patient,
        PatientName=f"{patient}^",  # without "^" it has the retired form of ACR-NEMA
        **dict.fromkeys(_EMPTIED),
    )
    for keyword in _KEPT:
        kept = _harmless_copy(given[keyword]) if keyword in given else None
        if kept is not None and not identity.is_in(kept):
            header[keyword] = kept
    for keyword, allowed in _TERMS.items():
        values = listed(given.get(keyword))
        if values and all(re.fullmatch(allowed, str(value)) for value in values):
            header[keyword] = deepcopy(given[keyword])
    if region_code(given.get("BodyPartExamined")):
        header.BodyPartExamined = str(given.BodyPartExamined).upper()
    header.update(retained(given, options, pseudonyms.days_earlier(patient)))
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = text_of(given.file_meta, "TransferSyntaxUID")
    keeps = "".join(f" {option}" for option in sorted(options))
    return source_of(
        replace(
            source.stored,
            # With what is kept: an object that says more is another one.
            pixels_sha256=pseudonyms.digest(source.stored.pixels_sha256 + keeps),
            # Whose it is, by the pseudonym: a corrected name makes no second object where no name is.
            identity_sha256=pseudonyms.digest(patient),
            by_hand=source.stored.by_hand.partition(" on ")[0],  # without a date near the patient's
        ),
        header,
    )


def _harmless_copy(element: DataElement) -> DataElement | None:
    """A copy of an attribute, in whose sequence items only numbers are left; None if it is not of the VR that
    its keyword promises, or a lookup table without values.
    """
    if not _has_promised_vr(element):
        return None
    copy = deepcopy(element)
    if copy.VR != "SQ":
        return copy
    for item in copy.value:
        # LUT Data that came as OW (PS3.3 C.11.2.1.1), where it has as many entries as its descriptor says.
        data, described = item.get("LUTData"), item.get("LUTDescriptor")
        if isinstance(data, bytes) and described and len(data) == 2 * (int(described[0]) or 65_536):
            item.add_new("LUTData", "US", np.frombuffer(data, "<u2").tolist())
        for inner in list(item):
            if inner.keyword not in _KEPT_IN_ITEMS or not (_has_promised_vr(inner) and _are_numbers(inner)):
                del item[inner.tag]
    if copy.keyword == "VOILUTSequence" and not all("LUTData" in item for item in copy.value):
        return None  # a table without its values is none
    return copy


def _has_promised_vr(element: DataElement) -> bool:
    """Whether an attribute is of a VR that its keyword promises."""
    return element.VR in dictionary_VR(element.tag).split(" or ")


def _are_numbers(element: DataElement) -> bool:
    """Whether an attribute holds numbers, as many as a lookup table can have; bytes may be anything."""
    values = element.value if element.VM > 1 else [element.value]
    return len(values) <= 65_536 and all(isinstance(value, int | float) for value in values)
