"""The Basic Application Level Confidentiality Profile (PS3.15 E.2), by Table E.1-1 of edition 2026c.

The table is from dicom-anonymizer. The meaning of X/Z/D and similar actions depends on the attribute's type
in the object's IOD, which highdicom's tables give. The iteration is our own: the library's acts only on the
root of a data set and draws new UIDs at random.

UIDs (action U) are not changed here: objects are built from sources that have other UIDs already. Nor are the
attributes that options retain kept here: the builder copies them from those sources.

Further attributes for a de-identified destination, by its peer's options of PS3.15 E.3.
Values are cleaned here, before anything is built: shifted dates, plausible numbers and terms, known words.
Other values are left out.

Pseudonyms of patients and objects: constant for one site key and one pseudonym domain.
HMAC-SHA256 under keys that are derived from the site key. Without the key nobody can test whether a known
Patient ID or UID gives a pseudonym; with a plain hash anybody could.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Final

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from highdicom.sr import CodedConcept
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import BaseTag

from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import decimal
from dicom_node.dicom.identity import patient_sha256
from dicom_node.dicom.walk import items
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import OPTIONS, Retained, is_deidentified, retained_by
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common import concepts, iods
from dicom_node.sitekey import SiteKey

EDITION: Final = "2026c"
DUMMY_DATE: Final = "19000101"
BASIC_PROFILE: Final = DicomCode("113100", "DCM", "Basic Application Confidentiality Profile")
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

Place = tuple[str, ...]


_REMOVE, _REPLACE, _UID = "X", "D", "U"
"""Actions for an attribute in Table E.1-1 (PS3.15 E.1.1); the others stand in ``_actions``."""


def apply(dataset: Dataset, kind: ResultKind, options: Set[Retained] = frozenset()) -> None:
    """De-identify a result in place, items of sequences too, and mark it (PS3.15 E.1.1, PS3.3 C.7.1.1).

    The Content Sequence of a report stays, by the Clean Structured Content Option (E.3.4): the gate checks
    each of its items. Raises ResultRefused if a value must be replaced and cannot be.
    """
    _walk(dataset, _types(str(dataset.SOPClassUID)), ())
    retained = [DicomCode(OPTIONS[option][0], "DCM", OPTIONS[option][1]) for option in sorted(options)]
    codes = [BASIC_PROFILE, *_OPTIONS.get(kind, ()), *retained]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [f"DICOM PS3.15 {EDITION} Table E.1-1", "DICOM AI Node"]
    dataset.DeidentificationMethodCodeSequence = [CodedConcept.from_code(code) for code in codes]
    dataset.LongitudinalTemporalInformationModified = _dates(options)


def faults(read: Dataset, options: Set[Retained] = frozenset()) -> Iterator[str]:
    """Attributes that violate the profile, because they are present or missing: one sentence each, no
    values.
    """
    kept = {keyword for option in options for keyword in KEYWORDS[option]}
    if read.get("PatientIdentityRemoved") != "YES":
        yield "PatientIdentityRemoved is not YES"
    if read.get("LongitudinalTemporalInformationModified") != _dates(options):
        yield f"LongitudinalTemporalInformationModified is not {_dates(options)}"
    if retained_by(read) != options:
        yield "the codes of what is retained are not those of the options"
    if not is_deidentified(read):
        yield "the code of the basic confidentiality profile is missing"
    yield from _structured_content(read)
    for item in items(read):
        for element in item:
            allowed = element.keyword in OUR_WORDS or (item is read and element.keyword in kept)
            if action_of(element.tag) == _REMOVE and not allowed:
                yield f"{element.keyword or element.tag} has to be removed"


def _dates(options: Set[Retained]) -> str:
    return "MODIFIED" if Retained.MODIFIED_DATES in options else "REMOVED"


def action_of(tag: BaseTag) -> str | None:
    """The table's action for an attribute; None: the attribute is not listed and is kept."""
    if tag.is_private or (tag.group & _REPEATED) in {_CURVES, _OVERLAYS}:
        return _REMOVE  # of overlays the table names data and comments: the rest says nothing without
    return _actions().get(int(tag))


def _structured_content(read: Dataset) -> Iterator[str]:
    """The Clean Structured Content Option (PS3.15 E.3.4): content items that the node fills with its own."""
    for item in items(read):
        value_type = str(item.get("ValueType") or "")
        if not value_type:
            continue
        if value_type not in _CONTENT_OF_OURS:
            yield f"a content item is of type {value_type}"
        elif value_type == "TEXT" and concepts.name_of(item) not in _TEXTS_OF_OURS:
            yield "a text of the report is not one that the node writes"


def _walk(dataset: Dataset, types: dict[tuple[Place, str], str], place: Place) -> None:
    for element in list(dataset):
        action = action_of(element.tag)
        if action == _REPLACE and element.keyword == "ContentSequence":
            action = None
        kind = types.get((place, element.keyword), "3")
        if action is not None and action != _UID:
            _act(dataset, element, action, kind)
        if element.tag in dataset and element.VR == "SQ":
            for item in dataset[element.tag].value:
                _walk(item, types, (*place, element.keyword))


def _act(dataset: Dataset, element: DataElement, action: str, kind: str) -> None:
    """The least that the IOD bears: removed if of Type 3, emptied if of Type 2, else replaced."""
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
def _types(sop_class_uid: str) -> dict[tuple[Place, str], str]:
    """The strictest type of each attribute in the IOD's mandatory modules, by the sequences it stands in."""
    found: dict[tuple[Place, str], str] = {}
    for module in iods.mandatory_modules(sop_class_uid):
        for place, keyword, kind in iods.attributes(module):
            found[place, keyword] = min(kind, found.get((place, keyword), "3"))
    return found


KEYWORDS: Final[Mapping[Retained, tuple[str, ...]]] = {
    Retained.MODIFIED_DATES: ("StudyDate",),
    Retained.PATIENT_CHARACTERISTICS: ("PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    Retained.DEVICE: ("DeviceSerialNumber", "StationName", "SoftwareVersions"),
    Retained.DESCRIPTORS: ("StudyDescription",),
}
"""Attributes of the source that an option keeps. Those of the device stand in Contributing Equipment."""
_OLDEST: Final = 90  # years: an age above it may identify a person, so it is written as this age
_LARGEST: Final = {"PatientSize": 3.0, "PatientWeight": 500.0}  # metres, kilograms
_ONE_WORD: Final = re.compile(r"[^\W\d_]+")
_WORDS_OF_EXAMINATIONS: Final = (
    "abdo and ap bedside beside bilateral biopsy bladder bone breast cardiac carotid chest complete "
    "contrast control cyst decubitus doppler duplex echo echocardiography erect exam examination "
    "expiration fetal first follow for frontal guided gynecology heart inspiration kidney kidneys knee "
    "lat lateral left limited liver lung lungs lying mobile musculoskeletal neck no obstetric "
    "obstetrics of or ovarian ovaries pa pediatric pelvic pelvis portable post postoperative pre "
    "pregnancy preoperative projection prone radiograph ray right scan screening second series single "
    "sitting soft standing study supine third thorax thyroid tissue transabdominal transvaginal "
    "trimester tube two ultrasonography ultrasound up upright us vascular venous view views with "
    "without x xr xray "
)


def retained(given: Dataset, options: Set[Retained], days: int) -> Dataset:
    """The values of ``given``, a decoded header, that ``options`` retain, cleaned; dates are ``days``
    earlier.
    """
    clean: dict[str, Callable[[str], object]] = {
        "StudyDate": lambda text: _earlier(text, days),
        "PatientSex": lambda text: text if text in {"M", "F", "O"} else None,
        "PatientAge": _age,
        "StudyDescription": known_words,
    }
    found = Dataset()
    for keyword in (keyword for option in sorted(options) for keyword in KEYWORDS[option]):
        value = given.get(keyword)
        if keyword in _LARGEST:  # a DS of one value
            value = value if 0 < (decimal(value) or 0.0) <= _LARGEST[keyword] else None
        elif isinstance(value, MultiValue) and dictionary_VM(keyword) == "1":
            value = None  # which of them is meant is not known, and no such object may be built
        elif keyword in clean:
            value = clean[keyword](str(value or "").strip())
        if value:
            setattr(found, keyword, value)
    return found


def known_words(text: str) -> str:
    """Only the words of ``text`` that name anatomy, side or kind of an examination.

    Known words are in PS3.16 CID 4 (anatomic region), CID 4031 (common anatomic regions) and CID 244
    (laterality), and in a list of ours; a word with a digit is never kept.
    """
    words = re.split(r"[^\w]+", text)
    kept = [word for word in words if _ONE_WORD.fullmatch(word) and word.casefold() in _known()]
    return " ".join(kept)[:64]


@cache
def _known() -> frozenset[str]:
    """The known words of code meanings: the first word of each and words in lower case.

    Other words with a capital are names of people (circle of Willis).
    """
    contexts = (codes.cid4, codes.cid4031, codes.cid244)
    meanings = [getattr(context, name).meaning for context in contexts for name in context.dir()]
    words = [re.findall(r"[^\W\d_]+(?:'s)?", meaning) for meaning in meanings]
    first = {found[0].casefold() for found in words if "'" not in found[0]}
    others = {word for found in words for word in found if word.islower()}
    return frozenset({*first, *others, *_WORDS_OF_EXAMINATIONS.split()})


def _earlier(text: str, days: int) -> str:
    """A DA, shifted; "" for what is none."""
    try:
        day = date_of(text)
        return f"{day - timedelta(days):%Y%m%d}" if day else ""
    except OverflowError:
        return ""


def _age(text: str) -> str:
    """An AS; "" for what is none."""
    found = re.fullmatch(r"(\d{3})([DWMY])", text)
    if found is None:
        return ""
    years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]
    return f"{_OLDEST:03}Y" if years > _OLDEST else text


PREFIX: Final = "AI-"  # a reader sees that it is no Patient ID of a hospital


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Replaces identifiers in de-identified objects, by keys of the site.

    Neither ``repr`` nor ``str`` shows the keys.
    """

    _uids: bytes = field(repr=False)
    _patients: bytes = field(repr=False)
    _digests: bytes = field(repr=False)
    _dates: bytes = field(repr=False)
    domain: str = ""

    @classmethod
    def of(cls, key: SiteKey, domain: str = "") -> Pseudonyms:
        """The pseudonyms of a site for destinations in one pseudonym ``domain``; "": no domain.

        Every key is derived for a different purpose, because the name of a domain has neither a blank nor a
        colon.
        """
        purpose = f"de-identification for {domain}" if domain else "de-identification"
        uids, patients, digests, dates = (
            key.derive(f"{purpose}: {what}") for what in ("UIDs", "patients", "digests", "dates")
        )
        return cls(uids, patients, digests, dates, domain)

    def uid(self, original: str) -> str:
        """The UID that replaces ``original``: under 2.25 (PS3.5 B.2), from a UUID of version 8 (RFC 9562)."""
        digest = bytearray(_mac(self._uids, original.strip("\0 "))[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"

    def patient(self, patient_id: str, issuer_of_patient_id: str, study_uid: str) -> str:
        """The pseudonym of a patient, for Patient ID and Patient's Name.

        A patient without Patient ID gets a pseudonym for this study only, so that such patients are not one
        person.
        """
        named = (
            patient_sha256(patient_id, issuer_of_patient_id) if patient_id.strip() else f"study {study_uid}"
        )
        text = base64.b32encode(_mac(self._patients, named)).decode("ascii")
        return PREFIX + text[:20]  # of base32: 100 bits

    def days_earlier(self, patient: str) -> int:
        """The number of days by which a patient's dates are moved back: one to eleven years.

        ``patient``: the pseudonym. All dates of one patient move by the same number, so that intervals do not
        change.
        """
        return 365 + int.from_bytes(_mac(self._dates, patient)[:4], "big") % 3650

    def digest(self, of_original: str) -> str:
        """A keyed hash that replaces a hash of the original; the UIDs of results are derived from it.

        With a plain hash anybody could test candidate originals against a UID.
        """
        return _mac(self._digests, of_original).hex()


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
