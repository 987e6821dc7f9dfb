"""Words and numbers of a header that say whose an image is, and where, when and by whom it was made."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Final

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import DAMAGE

MOST_ELEMENTS: Final = 20_000
"""Elements of a header, also in items of sequences, that are read for its identity."""
MOST_WORDS: Final = 2_000
"""Words and numbers that an identity may have."""
_DEEPEST: Final = 16  # items in items of sequences
_IDENTIFYING: Final = frozenset(
    {
        "AccessionNumber", "AdmissionID", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
        "ClinicalTrialSponsorName", "ClinicalTrialSubjectID", "CountryOfResidence", "CurrentPatientLocation",
        "DeviceSerialNumber",
        "FillerOrderNumberImagingServiceRequest", "GantryID", "InstitutionAddress", "InstitutionName",
        "InstitutionalDepartmentName", "IssuerOfPatientID", "MedicalRecordLocator", "OtherPatientIDs",
        "PatientAddress", "PatientComments", "PatientID", "PatientInstitutionResidence",
        "ReferringPhysicianAddress", "StudyComments", "PatientTelephoneNumbers", "PerformedStationAETitle",
        "PerformedStationName", "PlacerOrderNumberImagingServiceRequest", "RegionOfResidence",
        "RequestedProcedureID", "RequestingService", "ResponsibleOrganization", "ScheduledStationAETitle",
        "ScheduledStationName", "ServiceEpisodeID", "StationAETitle", "StationName", "StudyID",
    }
)  # fmt: skip
_OF_PERSONS: Final = frozenset(
    {
        "InstitutionCodeSequence", "OperatorIdentificationSequence",
        "PerformingPhysicianIdentificationSequence",
        "PhysiciansOfRecordIdentificationSequence", "PhysiciansReadingStudyIdentificationSequence",
        "ReferringPhysicianIdentificationSequence", "RequestingPhysicianIdentificationSequence",
    }
)  # fmt: skip
"""Sequences whose codes name a person or an institution."""
_SHORTEST: Final = 3
"""Letters and digits from which a part of an identity is looked for inside of words."""
_ALIKE: Final = 0.8
"""Likeness from which a word of four letters may be a misread word of the identity."""


@dataclass(frozen=True, slots=True, repr=False)
class HeaderIdentity:
    """The identity in a header: ``words`` of names of persons and places and of identifiers, in small letters
    without marks; ``numbers``: digits of identifiers and dates.
    """

    words: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()

    def is_in(self, text: str) -> bool:
        """Whether ``text`` equals or contains a part of the identity, or may be a misread part."""
        words = _words(text)
        if not self.words.isdisjoint(words):
            return True
        if any(_are_alike(word, known) for word in words for known in self.words):
            return True
        inside = ((self.words, "".join(words)), (self.numbers, "".join(re.findall(r"\d", text))))
        return any(len(part) >= _SHORTEST and part in joined for parts, joined in inside for part in parts)


def identity_of(dataset: Dataset) -> HeaderIdentity | None:
    """The identity in a header: all names of persons (VR PN) and dates, also in items of sequences and
    private attributes, and the identifiers of patient, order, institution and station. None if it cannot be
    known: the header has more than :data:`MOST_ELEMENTS` elements, or more words than :data:`MOST_WORDS`.
    """
    words, numbers = set[str](), set[str]()
    elements = list(islice(_elements(dataset, _DEEPEST), MOST_ELEMENTS + 1))
    for element in elements:
        text = str(element.value) if element.VR == "PN" or element.keyword in _IDENTIFYING else ""
        if element.VR in {"DA", "DT"}:
            numbers |= _spellings_of_date(str(element.value))
        elif text:
            words.update(word for word in _words(text) if len(word) > 1)
            numbers.update(number.lstrip("0") for number in re.findall(r"\d+", text))
    if len(elements) > MOST_ELEMENTS or len(words) + len(numbers) > MOST_WORDS:
        return None
    return HeaderIdentity(frozenset(words), frozenset(numbers))


def _elements(dataset: Dataset, deeper: int) -> Iterator[DataElement]:
    """Every element but sequences, also in items; one that cannot be read counts as a name of its bytes.
    ``deeper``: levels of items that may still follow.
    """
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
            items = list(element.value or ()) if element.VR == "SQ" else None
            if element.keyword in _OF_PERSONS:
                items = [_as_names(item) for item in items or ()]
        except DAMAGE:
            raw = str(dataset.get_item(tag, keep_deferred=True).value)
            element, items = DataElement(tag, "PN", raw, validation_mode=config.IGNORE), None
        if items is None:
            yield element
        for item in (items or ()) if deeper else ():
            yield from _elements(item, deeper - 1)


def _as_names(item: Dataset) -> Dataset:
    """The texts of an item that is about a person or an institution, each as a name."""
    named = Dataset()
    for element in _elements(item, 2):
        if element.VR in {"LO", "SH", "ST", "LT", "UT", "UC", "PN"}:
            tag = len(named) + 0x00110010
            named[tag] = DataElement(tag, "PN", str(element.value), validation_mode=config.IGNORE)
    return named


def _words(text: str) -> list[str]:
    """The words of a text in small letters, without marks."""
    split = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in split if not unicodedata.combining(letter))
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", plain))


def _spellings_of_date(text: str) -> set[str]:
    """The digits of a date as it may be written: all of it, the year, day and month in both orders."""
    day = date_of(text[:8])
    if day is None:
        return set()
    days, months = ({f"{number}", f"{number:02}"} for number in (day.day, day.month))
    pairs = {
        one + other for first, second in ((days, months), (months, days)) for one in first for other in second
    }
    return {f"{day:%Y%m%d}", f"{day.year}", *pairs}


def _are_alike(word: str, known: str) -> bool:
    """Whether a word may be a misreading of a ``known`` one of four letters or more."""
    if min(len(word), len(known)) <= _SHORTEST or abs(len(word) - len(known)) > 2:
        return False
    return SequenceMatcher(None, word, known, autojunk=False).ratio() >= _ALIKE
