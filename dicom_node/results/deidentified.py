"""Results for a destination that must not know the patient: PS3.15 Annex E, Basic Profile, Clean Pixel Data.

These objects are built in addition to those for other destinations, by the same builders from pseudonymised
sources, with UIDs of their own. Such a source has only the listed attributes, which describe the picture: a
name that is not in the header cannot get into a result. Mask and report refer to the cleaned image instead of
its source. Images that were not cleaned and verified are left out, with all findings in them.

The Basic Application Level Confidentiality Profile (PS3.15 E.2), by Table E.1-1 of edition 2026c, is applied
to each built object. The table is from dicom-anonymizer. The meaning of X/Z/D and similar actions depends on
the attribute's type in the object's IOD, which highdicom's tables give. The iteration is our own: the
library's acts only on the root of a data set and draws new UIDs at random. UIDs (action U) are not changed by
it: the sources have other UIDs already.

The peer's key ``retain`` (options of PS3.15 E.3) lists further attributes; their values are cleaned before
anything is built: shifted dates, plausible numbers and terms. Other values are left out.

Pseudonyms of patients and objects are constant for one site key and one pseudonym domain: HMAC-SHA256 under
keys that are derived from the site key. Without the key nobody can test whether a known Patient ID or UID
gives a pseudonym; with a plain hash anybody could.

A second check searches the finished bytes for identifying values, which are collected from the whole files of
the sources (private attributes and items of sequences too). It shows no value: it names the attribute.
"""

import base64
import contextlib
import hashlib
import hmac
import re
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from highdicom.sr import CodedConcept
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import BaseTag
from pydicom.uid import UID

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import decimal
from dicom_node.base.dicom.header import items, quiet_pydicom, values
from dicom_node.base.dicom.identity import patient_sha256
from dicom_node.base.dicom.uids import NO_INSTALLATION
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import OPTIONS, ResultKind, Retained, is_deidentified, retained_by
from dicom_node.base.sitekey import SiteKey
from dicom_node.results import gate
from dicom_node.results.build import ResultBuilder
from dicom_node.results.envelope import (
    UTF8,
    BuiltObject,
    ResultContext,
    Source,
    SourceObject,
    attributes_of,
    disclaimer,
    encode,
    mandatory_modules,
    name_of,
    node_equipment,
    read_sources,
    region_code,
    series_description,
    set_values,
    source_of,
)
from dicom_node.results.pictures import (
    build_cleaned,
    build_segmentation,
    cleaned_class,
    frames_of,
    is_empty,
    modality_of,
)
from dicom_node.results.report import not_here, report_of
from dicom_node.results.sr import build_document

DUMMY_DATE: Final = "19000101"
"""In the place of a date that has to be there."""
_IDENTIFYING: Final = frozenset(
    {
        "AccessionNumber", "AdmissionID", "DeviceSerialNumber", "FillerOrderNumberImagingServiceRequest",
        "GantryID", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName",
        "InsurancePlanIdentification", "IssuerOfPatientID", "MedicalRecordLocator", "OtherPatientIDs",
        "PatientAddress", "PatientID", "PatientTelephoneNumbers", "PerformedProcedureStepID",
        "PerformedStationAETitle", "PerformedStationName", "PlacerOrderNumberImagingServiceRequest",
        "RequestedProcedureID", "ScheduledProcedureStepID", "ScheduledStationAETitle", "ScheduledStationName",
        "ServiceEpisodeID", "StationAETitle", "StationName", "StudyID",
    }
)  # fmt: skip
# Named after what stands there: a station is often called like its scanner.
_PLACES: Final = frozenset(
    {
        "GantryID", "InstitutionName", "InstitutionalDepartmentName", "PerformedStationAETitle",
        "PerformedStationName", "ScheduledStationAETitle", "ScheduledStationName", "StationAETitle",
        "StationName",
    }
)  # fmt: skip
_OF_STANDARDS: Final = frozenset(
    {"CodingSchemeUID", "ContextUID", "MappingResourceUID", "ReferencedSOPClassUID", "SOPClassUID"}
)
_FREE_TEXT: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"})
_WORDS_OF_OURS: Final = (
    "AI burned-in text found inpainted and verified to be gone not for measurement diagnostic use result "
    "model version removed image mask cleaned findings summary DICOM node project US"
)
_WORDS_OF_OTHERS: Final = frozenset({"CodeMeaning", "Manufacturer", "ManufacturerModelName"})
_IN_BYTES: Final = 6  # characters: shorter values are found in any bytes by chance
_DIGITS_IN_BYTES: Final = 10  # digits: UIDs and hashes are full of shorter numbers
_NAME_PART: Final = 4  # letters of a single part of a name that is looked for alone; in other scripts 2


@dataclass(frozen=True, slots=True)
class KnownIdentity:
    """Identifying values of the source images, none of which may occur in a de-identified object."""

    _phrases: set[str] = field(repr=False, default_factory=set)
    _places: set[str] = field(repr=False, default_factory=set)
    _name_parts: set[str] = field(repr=False, default_factory=set)
    _uids: set[str] = field(repr=False, default_factory=set)

    @classmethod
    def from_sources(cls, sources: Sequence[Source], retained: Collection[str] = ()) -> "KnownIdentity":
        """Collect the identifying values in the files of these sources and in their decoded headers.

        ``retained``: keywords of attributes that are kept on purpose; their values are left out, except
        dates.
        """
        found = cls()
        for source in sources:
            with quiet_pydicom():
                whole = pydicom.dcmread(source.stored.path, stop_before_pixels=True)
                for dataset in (whole, source.header):
                    for keyword, vr, value in _values(dataset):
                        # A retained date is shifted: the true date still identifies.
                        if vr == "DA" or keyword not in retained:
                            found._note(keyword, vr, value)
        found._places.difference_update(found._phrases)
        found._uids.discard(NO_INSTALLATION.device_uid)
        return found

    def found_in(
        self, read: Dataset, header: bytes, ours: Iterable[str], scanner: Iterable[str]
    ) -> Iterator[str]:
        """Yield one sentence for each place in which an object identifies the patient.

        ``read``: the object. ``header``: its bytes before Pixel Data. ``ours``: texts that the node writes
        into every such object; their words do not count as parts of a name. ``scanner``: manufacturer and
        model of the device; a station may have the same name.
        """
        known = _words(_WORDS_OF_OURS, *ours)
        wanted = {phrase for phrase in self._phrases if not _words(phrase) <= known}
        wanted |= {place for place in self._places if not _words(place) <= known | _words(*scanner)}
        phrases = [_pattern(phrase) for phrase in wanted]
        parts = [_pattern(part) for part in self._name_parts - known]
        for keyword, vr, value in _values(read):
            text = _normalised(value)
            if vr == "UI" and value in self._uids:
                yield f"{keyword} is a UID of the source"
            elif vr in {"DA", "DT"} and text[:8] in self._phrases:
                yield f"{keyword} is a date of the source"
            # Single parts of a name not where words of others stand: people are called Left, or Philips.
            elif vr in _FREE_TEXT and any(
                one.search(text) for one in (phrases if keyword in _WORDS_OF_OTHERS else [*phrases, *parts])
            ):
                yield f"{keyword} holds what identifies the source"
            elif vr == "CS" and len(text) >= _IN_BYTES and text in wanted:
                yield f"{keyword} is what identifies the source"
        if any(value in header for value in self._encoded(wanted)):
            yield "its bytes hold what identifies the source"

    def _encoded(self, wanted: set[str]) -> Iterator[bytes]:
        """Yield the identifying UIDs and ``wanted`` phrases, in usual spellings, as bytes to search for in a
        file.

        Short ones are left out, because they occur in any bytes by chance.
        """
        yield from (uid.encode("ascii", "replace") for uid in self._uids if len(uid) >= _DIGITS_IN_BYTES)
        for phrase in wanted:
            if len(phrase) >= (_DIGITS_IN_BYTES if re.sub(r"\W", "", phrase).isdigit() else _IN_BYTES):
                spellings = (phrase, phrase.upper(), phrase.title())
                yield from {one.encode() for text in spellings for one in (text, text.replace(" ", "^"))}

    def _note(self, keyword: str, vr: str, value: str) -> None:
        """Add the value of one attribute to the identifying values, if it is one; ``vr``: its value
        representation.
        """
        if vr == "UI":
            if keyword not in _OF_STANDARDS and UID(value).is_private:
                self._uids.add(value)
        elif vr == "PN":
            for words in (_normalised(name).split() for name in value.split("=")):
                if len(words) > 1:
                    self._phrases.update({" ".join(words), " ".join(reversed(words))})
                self._name_parts.update(
                    word for word in words if len(word) >= (_NAME_PART if word.isascii() else 2)
                )
        elif vr in {"DA", "DT"}:
            if (day := re.match(r"(\d{4})(\d\d)(\d\d)", value)) and day[0] != DUMMY_DATE:
                year, month, date = day.groups()
                self._phrases.update(
                    {day[0], f"{year}-{month}-{date}", f"{date}.{month}.{year}", f"{month}/{date}/{year}"}
                )
        elif keyword in _IDENTIFYING and len(_normalised(value)) > 1:
            (self._places if keyword in _PLACES else self._phrases).add(_normalised(value))


def _pattern(phrase: str) -> re.Pattern[str]:
    """A pattern that finds the phrase as a whole word; a number of few digits only as the whole value ("12"
    is in "image 12" too).
    """
    escaped = re.escape(phrase)
    short = phrase.isdigit() and len(phrase) < _NAME_PART
    return re.compile(rf"^{escaped}$" if short else rf"(?<!\w){escaped}(?!\w)")


def _words(*texts: str) -> set[str]:
    """The set of words in these texts, normalised."""
    return set(_normalised(" ".join(texts)).split())


def _normalised(value: str) -> str:
    """The text normalised for comparison: case, separators of name parts and repeated blanks do not count."""
    return re.sub(r"[\^=\s\0]+", " ", unicodedata.normalize("NFKC", value).casefold()).strip()


def _values(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """Yield (keyword, VR, text) of every value, also in items of sequences; bytes of any VR are read as
    Latin-1.
    """
    for element, value in values(dataset):
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if text and value is not None:
            yield keyword_for_tag(element.tag) or str(element.tag), str(element.VR), text


EDITION: Final = "2026c"
# A mask has neither pixels of the source nor content items: the basic profile is all that was applied to it.
_OPTIONS: Final = {
    ResultKind.CLEANED: (DicomCode("113101", "DCM", "Clean Pixel Data Option"),),
    ResultKind.SR: (DicomCode("113104", "DCM", "Clean Structured Content Option"),),
}

# A non-zero value for where an IOD wants one (action D), by value representation.
_DUMMIES: Final = {
    "AE": "REMOVED", "AS": "000Y", "CS": "REMOVED", "DA": DUMMY_DATE, "DS": "0", "DT": DUMMY_DATE, "IS": "0",
    "LO": "REMOVED", "LT": "REMOVED", "PN": "REMOVED", "SH": "REMOVED", "ST": "REMOVED", "TM": "000000",
    "UC": "REMOVED", "UT": "REMOVED",
}  # fmt: skip
_CURVES, _OVERLAYS, _REPEATED = 0x5000, 0x6000, 0xFF00

# What may stand in a de-identified report; its texts: algorithm, orientation, tracker, observer, which fetus,
# conclusion, comment.
_CONTENT_OF_OURS: Final = frozenset({"CODE", "CONTAINER", "IMAGE", "NUM", "SCOORD", "TEXT", "UIDREF"})
_TEXTS_OF_OURS: Final = frozenset(
    {
        "111001", "111002", "111003", "111043", "111044", "112039", "121013", "121014", "121015", "121016",
        "121030", "121077", "121106",
    }
)  # fmt: skip
OUR_WORDS: Final = ("SeriesDescription", "DerivationDescription")
"""The profile removes what others wrote into them; the node writes its own words again, of no patient."""

_REMOVE, _REPLACE, _UID = "X", "D", "U"
"""Actions for an attribute in Table E.1-1 (PS3.15 E.1.1); the others stand in ``_actions``."""

KEYWORDS: Final[Mapping[Retained, tuple[str, ...]]] = {
    Retained.MODIFIED_DATES: ("StudyDate",),
    Retained.PATIENT_CHARACTERISTICS: ("PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
}
"""Attributes of the source that an option keeps."""
_OLDEST: Final = 90  # years: an age above it may identify a person, so it is written as this age
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
    "Modality": re.compile(r"US|IVUS|CR|DX|MG|XA|RF|OT"),
    "PatientOrientation": re.compile(r"[RLAPHF]{1,3}"),
    "Laterality": re.compile(r"[RLBU]"),
    "ImageLaterality": re.compile(r"[RLBU]"),
    "VOILUTFunction": re.compile(r"LINEAR|LINEAR_EXACT|SIGMOID"),
    "LossyImageCompression": re.compile(r"0[01]"),
    "SyntheticData": re.compile(r"YES|NO"),
    "LossyImageCompressionMethod": re.compile(r"ISO_\d{5}_\d{1,2}"),
}
_GAP: Final = 16  # pixels without a mark that part two boxes: wider than between letters of a caption
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

    def patient(self, patient_id: str, issuer_of_patient_id: str, study_uid: str) -> str:
        """The pseudonym of a patient, for Patient ID and Patient's Name.

        A patient without Patient ID gets a pseudonym for this study only, so that such patients are not one
        person.
        """
        named = (
            patient_sha256(patient_id.strip(), issuer_of_patient_id)
            if patient_id.strip()
            else f"study {study_uid}"
        )
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


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The de-identified objects of a job. ``withheld``: why others were not built, one sentence each without
    PHI.
    """

    objects: tuple[BuiltObject, ...]
    withheld: tuple[str, ...]


def build_deidentified(
    context: ResultContext,
    sources: Sequence[SourceObject],
    result: PipelineResult,
    pseudonyms: Pseudonyms,
    options: Set[Retained] = frozenset(),
) -> Deidentified:
    """Build the cleaned images with their masks, and the report on them, for de-identified destinations.

    ``options``: the attributes to retain. An object that fails the check before release is left out, and with
    a cleaned image all objects that would refer to it; the other destinations of the job do not wait for it.
    Raises ResultRefused and DecodedDifferently for faulty sources, as ``build`` does.
    """
    builder = _Builder(context, read_sources(sources), pseudonyms, options)
    builder.add_all(result)
    marked = (replace(one, deidentified=True, pseudonym_domain=pseudonyms.domain) for one in builder.built)
    return Deidentified(tuple(marked), tuple(builder.withheld))


class _Builder(ResultBuilder):
    """Builds the de-identified objects of one job. ``withheld``: the reasons why other objects were not
    built.
    """

    def __init__(
        self,
        context: ResultContext,
        sources: Sequence[Source],
        pseudonyms: Pseudonyms,
        options: Set[Retained],
    ) -> None:
        """Prepare for one job; ``sources``: the true images, ``options``: what is retained."""
        super().__init__(
            replace(
                context,
                station_name="",
                installation=NO_INSTALLATION,
                charset="utf8",
                previous={},  # another study is nobody's business there
                study_day=None,
                kinds=context.kinds | {ResultKind.CLEANED},  # what the others refer to
            )
        )
        self.withheld: list[str] = []
        self._wanted, self._sources = context.kinds, sources
        self._pseudonyms, self._options = pseudonyms, options
        self._identity = KnownIdentity.from_sources(sources, _keywords(options))

    def add_all(self, result: PipelineResult) -> None:
        """Add the cleaned images with their masks, and the report on them."""
        known: dict[str, Source] = {}
        for source in self._sources:
            of_image = [image for image in result.images if image.source_uid == source.uid]
            masks = [image for image in of_image if image.kind is ImageKind.MASK]
            for image in of_image:
                if image.kind is ImageKind.CLEANED:
                    with self._withholding():
                        known[source.uid] = cleaned = self._add_cleaned(
                            source, image, next(iter(masks), None)
                        )
                        for mask in masks:
                            if ResultKind.SEG in self._wanted and not is_empty(mask):
                                make = partial(build_segmentation, self.context, cleaned, in_boxes(mask))
                                self.add(ResultKind.SEG, [cleaned], make)
        if known:
            of_job = of_cleaned(result, known)
            sources = list(known.values())
            with self._withholding():
                self.add(
                    ResultKind.SR,
                    sources,
                    lambda uid: build_document(report_of(self.context, sources, of_job), uid),
                    not_here(result),
                )

    @contextlib.contextmanager
    def _withholding(self) -> Iterator[None]:
        """Context manager: an object that is refused inside is left out, and the reason is added to
        ``withheld``.
        """
        try:
            yield
        except ResultRefused as refused:
            self.withheld.append(str(refused))

    def _add_cleaned(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> Source:
        """Add the cleaned image of ``source``; return a pseudonymised source that refers to the cleaned image
        instead.

        ``mask``: the pixels that were filled; None if that is not known.
        """
        source = pseudonymised(source, self._pseudonyms, self._options)
        make = partial(build_cleaned, self.context, source, image, mask)
        sop_class, series = cleaned_class(frames_of(source, image)), (modality_of(source),)
        self.add(ResultKind.CLEANED, [source], make, of_series=series, sop_class_uid=sop_class)
        header, made = deepcopy(source.header), self.built[-1]  # of the same size and frames
        set_values(
            header,
            SOPClassUID=made.sop_class_uid,
            SOPInstanceUID=made.sop_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
        )
        return source_of(source.stored, header)

    def encode_checked(self, dataset: Dataset, kind: ResultKind, sources: Sequence[Source]) -> bytes:
        """Apply the confidentiality profile to an object, check that nothing in it identifies the patient,
        and return its bytes. Raises ResultRefused.
        """
        ours = {keyword: dataset[keyword].value for keyword in OUR_WORDS if keyword in dataset}
        what = "AI node: applied the confidentiality profile"
        dataset.ContributingEquipmentSequence.append(
            node_equipment(self.context, "", what, codes.DCM.DeIdentifyingEquipment)
        )
        apply(dataset, kind, self._options)
        set_values(dataset, **ours)
        given = sources[0].header
        kept = (word for word in _keywords(self._options) if word in given)
        for keyword in ("PatientID", "PatientName", *kept):
            dataset[keyword] = given[keyword]
        data = encode(dataset, self.context, sources[0])
        further = partial(profile_violations, self.context, kind, given, self._identity, self._options)
        gate.check(data, dataset, self.context, kind, sources, further)
        return data


def profile_violations(
    context: ResultContext,
    kind: ResultKind,
    source: Dataset,
    identity: KnownIdentity,
    options: Set[Retained],
    read: Dataset,
    header: bytes,
) -> Iterator[str]:
    """Yield one sentence for each violation of the profile in an object, and for each value that identifies
    the patient.

    ``source``: the pseudonymised header of its source. ``identity``: the values that must not occur.
    ``options``: what is retained. ``read``: the object; ``header``: its bytes before Pixel Data.
    """
    ours = (series_description(context, kind), disclaimer(context), context.pipeline)
    scanner = [str(source.get(word) or "") for word in ("Manufacturer", "ManufacturerModelName")]
    yield from faults(read, options)
    yield from identity.found_in(read, header, ours, scanner)


def apply(dataset: Dataset, kind: ResultKind, options: Set[Retained] = frozenset()) -> None:
    """De-identify a result in place, items of sequences too, and mark it (PS3.15 E.1.1, PS3.3 C.7.1.1).

    The Content Sequence of a report stays, by the Clean Structured Content Option (E.3.4): the check before
    release looks at each of its items. ``options``: what is retained. Raises ResultRefused if a value must be
    replaced and no dummy value exists for its VR.
    """
    _apply_actions(dataset, _attribute_types(str(dataset.SOPClassUID)), ())
    retained = [DicomCode(OPTIONS[option][0], "DCM", OPTIONS[option][1]) for option in sorted(options)]
    named = [codes.DCM.BasicApplicationConfidentialityProfile, *_OPTIONS.get(kind, ()), *retained]
    set_values(
        dataset,
        PatientIdentityRemoved="YES",
        DeidentificationMethod=[f"DICOM PS3.15 {EDITION} Table E.1-1", "DICOM AI Node"],
        DeidentificationMethodCodeSequence=[CodedConcept.from_code(code) for code in named],
        LongitudinalTemporalInformationModified=_temporal_information(options),
    )


def faults(read: Dataset, options: Set[Retained] = frozenset()) -> Iterator[str]:
    """Yield one sentence, without values, for each attribute that violates the profile by being present or
    missing.

    ``read``: the object. ``options``: what is retained.
    """
    kept = _keywords(options)
    wanted = {
        "PatientIdentityRemoved is not YES": read.get("PatientIdentityRemoved") == "YES",
        f"LongitudinalTemporalInformationModified is not {_temporal_information(options)}": (
            read.get("LongitudinalTemporalInformationModified") == _temporal_information(options)
        ),
        "the codes of what is retained are not those of the options": retained_by(read) == options,
        "the code of the basic confidentiality profile is missing": is_deidentified(read),
    }
    yield from (fault for fault, holds in wanted.items() if not holds)
    yield from _structured_content(read)
    for item in items(read):
        for element in item:
            allowed = element.keyword in OUR_WORDS or (item is read and element.keyword in kept)
            if action_of(element.tag) == _REMOVE and not allowed:
                yield f"{element.keyword or element.tag} has to be removed"


def _temporal_information(options: Set[Retained]) -> str:
    """The value of Longitudinal Temporal Information Modified (0028,0303): MODIFIED if dates are retained,
    else REMOVED.
    """
    return "MODIFIED" if Retained.MODIFIED_DATES in options else "REMOVED"


def action_of(tag: BaseTag) -> str | None:
    """The action code of PS3.15 Table E.1-1 for an attribute (X, Z, D, U, X/Z ...); None if it is not listed
    and stays.
    """
    if tag.is_private or (tag.group & _REPEATED) in {_CURVES, _OVERLAYS}:
        return _REMOVE  # of overlays the table names data and comments: the rest says nothing without
    return _actions().get(int(tag))


def _structured_content(read: Dataset) -> Iterator[str]:
    """Yield faults by the Clean Structured Content Option (PS3.15 E.3.4): content items that the node does
    not write.
    """
    for item in items(read):
        value_type = str(item.get("ValueType") or "")
        if value_type and value_type not in _CONTENT_OF_OURS:
            yield f"a content item is of type {value_type}"
        elif value_type == "TEXT" and name_of(item) not in _TEXTS_OF_OURS:
            yield "a text of the report is not one that the node writes"


def _apply_actions(
    dataset: Dataset, types: dict[tuple[tuple[str, ...], str], str], place: tuple[str, ...]
) -> None:
    """Apply the actions of Table E.1-1 to all attributes of a data set in place, items of sequences too.

    ``types``: Type of each attribute in the IOD, by (keywords of the enclosing sequences, keyword).
    ``place``: keywords of the sequences around this data set, () for the root.
    """
    for element in list(dataset):
        action = action_of(element.tag)
        if action == _REPLACE and element.keyword == "ContentSequence":
            action = None
        if action is not None and action != _UID:
            _apply_action(dataset, element, action, types.get((place, element.keyword), "3"))
        if element.tag in dataset and element.VR == "SQ":
            for item in dataset[element.tag].value:
                _apply_actions(item, types, (*place, element.keyword))


def _apply_action(dataset: Dataset, element: DataElement, action: str, kind: str) -> None:
    """Remove, empty or replace one attribute: the least of what ``action`` allows that its Type in the IOD
    bears.

    ``kind``: that Type; 3 is removed, 2 emptied, 1 replaced. Raises ResultRefused if there is no dummy value.
    """
    allowed = action.rstrip("*").split("/")
    wanted = {"1": ("D", "U", "Z", "X"), "2": ("U", "Z", "D", "X")}.get(kind[:1], ("X", "Z", "D", "U"))
    chosen = next(letter for letter in wanted if letter in allowed)
    if chosen == "X":
        del dataset[element.tag]
    elif chosen == "Z":
        element.value = [] if element.VR == "SQ" else None
    elif chosen == "D":
        if element.VR not in _DUMMIES:
            raise ResultRefused(f"{element.keyword} has to be replaced, and there is no dummy of its VR")
        element.value = _DUMMIES[element.VR]


@cache
def _actions() -> dict[int, str]:
    """The action codes of PS3.15 Table E.1-1, by attribute tag."""
    groups: dict[str, Sequence[tuple[int, ...]]] = {
        _REMOVE: table.X_TAGS,
        "Z": table.Z_TAGS,
        _REPLACE: table.D_TAGS,
        _UID: table.U_TAGS,
        "X/Z": table.X_Z_TAGS,
        "X/D": table.X_D_TAGS,
        "Z/D": table.Z_D_TAGS,
        "X/Z/D": table.X_Z_D_TAGS,
        "X/Z/U*": table.X_Z_U_STAR_TAGS,
    }
    return {
        (tag[0] << 16) + tag[1]: action
        for action, tags in groups.items()
        for tag in tags
        if len(tag) == 2  # repeating groups (curves, overlays) have masks too
    }


@cache
def _attribute_types(sop_class_uid: str) -> dict[tuple[tuple[str, ...], str], str]:
    """The strictest Type of each attribute in the IOD's mandatory modules, by (keywords of the enclosing
    sequences, keyword).
    """
    found: dict[tuple[tuple[str, ...], str], str] = {}
    for module in mandatory_modules(sop_class_uid):
        for place, keyword, kind in attributes_of(module):
            found[place, keyword] = min(kind, found.get((place, keyword), "3"))
    return found


def retained(given: Dataset, options: Set[Retained], days: int) -> Dataset:
    """The attributes of ``given``, a decoded header, that ``options`` retain, with cleaned values.

    ``days``: the number of days by which dates are moved back.
    """
    clean: dict[str, Callable[[str], str]] = {
        "StudyDate": lambda text: _earlier(text, days),
        "PatientSex": lambda text: text if text in {"M", "F", "O"} else "",
        "PatientAge": _age,
        "PatientSize": lambda text: text if 0 < (decimal(text) or 0.0) <= 3 else "",  # metres
        "PatientWeight": lambda text: text if 0 < (decimal(text) or 0.0) <= 500 else "",  # kilograms
    }
    found = Dataset()
    for keyword in _keywords(options):
        # Of several values none passes: which is meant is not known.
        if value := clean[keyword](str(given.get(keyword) or "").strip()):
            setattr(found, keyword, value)
    return found


def _keywords(options: Set[Retained]) -> list[str]:
    """The keywords of the attributes that these options retain."""
    return [keyword for option in sorted(options) for keyword in KEYWORDS[option]]


def _earlier(text: str, days: int) -> str:
    """The DICOM date (VR DA) moved back by ``days``; "" if the text is no date."""
    with contextlib.suppress(OverflowError):
        if day := date_of(text):
            return f"{day - timedelta(days):%Y%m%d}"
    return ""


def _age(text: str) -> str:
    """The DICOM age (VR AS), at most 90 years; "" if the text is no age."""
    if not (found := re.fullmatch(r"(\d{3})([DWMY])", text)):
        return ""
    years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]
    return f"{_OLDEST:03}Y" if years > _OLDEST else text


def pseudonymised(source: Source, pseudonyms: Pseudonyms, options: Set[Retained] = frozenset()) -> Source:
    """The source image with a pseudonym, replaced UIDs, the attributes of its pixels, and those that
    ``options`` retain.
    """
    given = source.header
    patient = pseudonyms.patient(
        str(given.get("PatientID") or ""), str(given.get("IssuerOfPatientID") or ""), source.study_uid
    )
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
        if keyword in given and (kept := _harmless_copy(given[keyword])) is not None:
            header[keyword] = kept
    for keyword, allowed in _TERMS.items():
        if keyword in given:
            values = given[keyword].value if given[keyword].VM > 1 else [given[keyword].value]
            if all(allowed.fullmatch(str(value)) for value in values):
                header[keyword] = deepcopy(given[keyword])
    if region_code(given.get("BodyPartExamined")):
        header.BodyPartExamined = str(given.BodyPartExamined).upper()
    header.update(retained(given, options, pseudonyms.days_earlier(patient)))
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = str(given.file_meta.get("TransferSyntaxUID") or "")
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


def of_cleaned(result: PipelineResult, cleaned: dict[str, Source]) -> PipelineResult:
    """The findings and notes on cleaned images, with the UID of each source replaced by that of its cleaned
    image.

    ``cleaned``: the cleaned images by the UIDs of their sources. Left out are measurements read from the
    pixels, and tracking UIDs that other destinations know too.
    """
    return PipelineResult(
        findings=tuple(
            replace(finding, source_uid=cleaned[finding.source_uid].uid, tracking_uid="")
            for finding in result.findings
            if finding.source_uid in cleaned
        ),
        quality=tuple(
            replace(note, source_uid=cleaned[note.source_uid].uid if note.source_uid else None)
            for note in result.quality
            if note.source_uid is None or note.source_uid in cleaned
        ),
        models=result.models,
        measurements=tuple(
            replace(measurement, source_uid=cleaned[measurement.source_uid].uid)
            for measurement in result.measurements
            if measurement.model is not None and measurement.source_uid in cleaned
        ),
    )


def in_boxes(mask: DerivedImage) -> DerivedImage:
    """The mask as filled boxes, because a mask along the strokes of letters would show the removed text.

    For a cine, the boxes cover the pixels that were changed in any frame.
    """
    frames = mask.frames if mask.frames.ndim == 3 else mask.frames[None]
    filled = np.zeros(frames.shape[1:], np.bool_)
    _fill(np.any(frames, axis=0), filled)
    return replace(mask, frames=np.broadcast_to(filled, frames.shape))


def _harmless_copy(element: DataElement) -> DataElement | None:
    """A copy of an attribute, in whose sequence items only numbers are left; None if it is not of the VR that
    its keyword promises, or a lookup table without values.
    """
    if element.VR not in dictionary_VR(element.tag).split(" or "):
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
            values = inner.value if inner.VM > 1 else [inner.value]
            # Bytes are no numbers, as they may be anything; a lookup table can have 65,536.
            if (
                inner.keyword not in _KEPT_IN_ITEMS
                or inner.VR not in dictionary_VR(inner.tag).split(" or ")
                or len(values) > 65_536
                or not all(isinstance(value, int | float) for value in values)
            ):
                del item[inner.tag]
    if copy.keyword == "VOILUTSequence" and not all("LUTData" in item for item in copy.value):
        return None  # a table without its values is none
    return copy


def _fill(mask: npt.NDArray[np.bool_], filled: npt.NDArray[np.bool_]) -> None:
    """Set in ``filled`` the boxes around the marked pixels of ``mask``, by recursive cuts along empty rows
    and columns (XY cut); what cannot be cut is one box.
    """
    for rows in _runs(mask, axis=1):
        for columns in _runs(mask[rows], axis=0):
            part = mask[rows, columns]
            inner = _runs(part, axis=1)
            if len(inner) == 1:
                filled[rows, columns][inner[0]] = True
            else:
                _fill(part, filled[rows, columns])


def _runs(mask: npt.NDArray[np.bool_], axis: int) -> list[slice]:
    """The ranges of rows (``axis`` 1) or columns (``axis`` 0) with marked pixels; ranges at most ``_GAP``
    pixels apart are joined.
    """
    places = np.flatnonzero(np.any(mask, axis=axis))
    if not len(places):
        return []
    cuts = np.flatnonzero(np.diff(places) > _GAP)
    starts, ends = np.append(places[0], places[cuts + 1]), np.append(places[cuts], places[-1])
    return [slice(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]
