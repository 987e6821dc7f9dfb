"""Identifying values of the source images, and the search for them in the finished bytes of an object.

They are collected from the whole files of the sources (private attributes and items of sequences too). The
search shows no value: it names the attribute.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ai_pipeline.images.dates import as_da
from dicom_node.base.dicom.header import quiet_pydicom, values
from dicom_node.base.dicom.uids import NO_INSTALLATION
from dicom_node.results.deidentified.profile import DUMMY_DATE
from dicom_node.results.source import Source

# Named after what stands there: a station is often called like its scanner.
_STATIONS: Final = frozenset(
    {
        "GantryID", "PerformedStationAETitle", "PerformedStationName", "ScheduledStationAETitle",
        "ScheduledStationName", "StationAETitle", "StationName",
    }
)  # fmt: skip
_IDENTIFYING: Final = _STATIONS | {
    "AccessionNumber", "AdmissionID", "DeviceSerialNumber", "FillerOrderNumberImagingServiceRequest",
    "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName", "InsurancePlanIdentification",
    "IssuerOfPatientID", "MedicalRecordLocator", "OtherPatientIDs", "PatientAddress", "PatientID",
    "PatientTelephoneNumbers", "PerformedProcedureStepID", "PlacerOrderNumberImagingServiceRequest",
    "RequestedProcedureID", "ScheduledProcedureStepID", "ServiceEpisodeID", "StudyID",
}  # fmt: skip
_OF_STANDARDS: Final = frozenset(
    {"CodingSchemeUID", "ContextUID", "MappingResourceUID", "ReferencedSOPClassUID", "SOPClassUID"}
)
_FREE_TEXT: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"})
_WORDS_OF_OURS: Final = (
    "AI burned-in text found inpainted and verified to be gone not for measurement diagnostic use result "
    "model version removed image mask cleaned findings summary DICOM node project US"
)
_NUMBERS: Final = frozenset({"DS", "FD", "FL", "IS", "SL", "SV", "UL", "UV"})
_IN_BYTES: Final = 6  # characters: shorter values are found in any bytes by chance
_DIGITS_IN_BYTES: Final = 10  # digits: UIDs and hashes are full of shorter numbers
_AS_TWO: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "æ": "ae", "å": "aa"})
_NAME_PART: Final = 4  # letters of a single part of a name that is looked for alone; in other scripts 2
_DIGITS: Final = 6  # digits of an ID that are looked for alone
_DIGITS_OF_COPIED: Final = 4  # the same in what is copied and counts, or is text


@dataclass(frozen=True, slots=True, repr=False)
class KnownIdentity:
    """Identifying values of the source images, none of which may occur in a de-identified object."""

    _phrases: set[str] = field(default_factory=set)
    _stations: set[str] = field(default_factory=set)
    _name_parts: set[str] = field(default_factory=set)
    _numbers: set[str] = field(default_factory=set)
    _uids: set[str] = field(default_factory=set)

    @classmethod
    def from_sources(cls, sources: Sequence[Source], retained: Collection[str] = ()) -> "KnownIdentity":
        """Collect the identifying values in the files of these sources and in their decoded headers.

        ``retained``: keywords of attributes that are kept on purpose; their values are left out, except
        dates.
        """
        with quiet_pydicom():
            files = [pydicom.dcmread(source.stored.path, stop_before_pixels=True) for source in sources]
        return cls.from_datasets([*files, *(source.header for source in sources)], retained)

    @classmethod
    def from_datasets(cls, datasets: Iterable[Dataset], retained: Collection[str] = ()) -> "KnownIdentity":
        """Collect the identifying values in these data sets; ``retained`` as in :meth:`from_sources`."""
        found = cls()
        with quiet_pydicom():
            for dataset in datasets:
                for keyword, vr, value in _values(dataset):
                    # A retained date is shifted: the true date still identifies.
                    if vr == "DA" or keyword not in retained:
                        found._note(keyword, vr, value)
        found._stations.difference_update(found._phrases)
        found._uids.discard(NO_INSTALLATION.device_uid)
        return found

    def is_in(self, copied: DataElement) -> bool:
        """Whether an attribute of the source holds any part of the identity, also in items of sequences: a
        part of a name, an ID or its digits, a date, however it is spelt and whatever it is joined to.
        """
        holder = Dataset()
        holder[copied.tag] = copied
        known = {text for phrase in self._phrases for text in _spellings(phrase)}
        known |= {word for name in self._name_parts for text in _spellings(name) for word in text.split()}
        for _, vr, value in _values(holder):
            is_measure = vr in _NUMBERS and vr != "IS"
            if self._has_digits(value, _DIGITS if is_measure else _DIGITS_OF_COPIED):
                return True
            if vr in _FREE_TEXT and any(_is_in(text, known) for text in _spellings(value)):
                return True
        return False

    def _has_digits(self, text: str, least: int) -> bool:
        """Whether a number in ``text``, or all its digits, is one of an identifying value, of at least so
        many digits.
        """
        runs = re.findall(r"\d+", text)
        found = {digits.lstrip("0") for digits in (*runs, "".join(runs))}
        return any(len(digits) >= least for digits in found & self._numbers)

    def found_in(
        self, read: Dataset, header: bytes, ours: Iterable[str], scanner: Iterable[str]
    ) -> Iterator[str]:
        """Yield one sentence for each place in which an object identifies the patient.

        ``read``: the object. ``header``: its bytes before Pixel Data. ``ours``: texts that the node writes
        into every such object; their words do not count as parts of a name. ``scanner``: manufacturer and
        model of the device; a station may have the same name.
        """
        known = _words(_WORDS_OF_OURS, *ours)
        wanted = _without(known, self._phrases) | _without(known | _words(*scanner), self._stations)
        phrases = [_pattern(phrase) for phrase in wanted]
        parts = [_pattern(part) for part in self._name_parts - known if _is_long(part)]
        for keyword, vr, value in _values(read):
            text = _normalised(value)
            if vr == "UI" and value in self._uids:
                yield f"{keyword} is a UID of the source"
            elif vr in {"DA", "DT"} and text[:8] in self._phrases:
                yield f"{keyword} is a date of the source"
            elif vr in _FREE_TEXT and _holds(text, keyword, phrases, parts):
                yield f"{keyword} holds what identifies the source"
            elif vr in _NUMBERS and self._has_digits(value, _DIGITS):
                yield f"{keyword} is a number of what identifies the source"
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
                self._name_parts.update(word for word in words if not word.isascii() or len(word) > 1)
        elif vr in {"DA", "DT"}:
            if (day := as_da(value)) and day != DUMMY_DATE:
                year, month, date = day[:4], day[4:6], day[6:]
                self._phrases.update(
                    {day, f"{year}-{month}-{date}", f"{date}.{month}.{year}", f"{month}/{date}/{year}"}
                )
                orders = (day, date + month + year, month + date + year)
                self._numbers.update(digits.lstrip("0") for digits in orders)
        elif keyword in _IDENTIFYING and len(_normalised(value)) > 1:
            (self._stations if keyword in _STATIONS else self._phrases).add(_normalised(value))
            digits = re.findall(r"\d+", value)
            self._numbers.update(number.lstrip("0") for number in (*digits, "".join(digits)))


def _holds(
    text: str, keyword: str, phrases: Sequence[re.Pattern[str]], parts: Sequence[re.Pattern[str]]
) -> bool:
    """Whether the free text of an attribute holds an identifying phrase, or a single part of a name.

    Parts are not looked for in the meanings of codes: people are called Left.
    """
    wanted = phrases if keyword == "CodeMeaning" else [*phrases, *parts]
    return any(pattern.search(text) for pattern in wanted)


def _spellings(text: str) -> set[str]:
    """The words of a text in small letters without marks: umlauts as one letter, and as two."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    split = (unicodedata.normalize("NFKD", one) for one in (plain, plain.translate(_AS_TWO)))
    bare = ("".join(letter for letter in one if not unicodedata.combining(letter)) for one in split)
    return {" ".join(re.findall(r"[^\W_]+", one)) for one in bare}


def _is_in(text: str, known: Iterable[str]) -> bool:
    """Whether one of the ``known`` spellings is in a text (also of ``_spellings``): a short one as a word."""
    words, joined = f" {text} ", text.replace(" ", "")
    return any(one.replace(" ", "") in joined if _is_long(one) else f" {one} " in words for one in known)


def _is_long(part: str) -> bool:
    """Whether a part of a name is looked for alone in all texts."""
    return len(part) >= (_NAME_PART if part.isascii() else 2)


def _pattern(phrase: str) -> re.Pattern[str]:
    """A pattern that finds the phrase as a whole word; a number of few digits only as the whole value ("12"
    is in "image 12" too).
    """
    escaped = re.escape(phrase)
    short = phrase.isdigit() and len(phrase) < _NAME_PART
    return re.compile(rf"^{escaped}$" if short else rf"(?<!\w){escaped}(?!\w)")


def _without(known: Set[str], phrases: Set[str]) -> set[str]:
    """The phrases that have a word besides those that are ``known``."""
    return {phrase for phrase in phrases if not _words(phrase) <= known}


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
