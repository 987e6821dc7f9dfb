"""The patient of an image: the attributes that results copy, and hashes to compare patients without names."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date, timedelta
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from ai_pipeline.images.dates import as_da, as_dt, as_tm

if TYPE_CHECKING:  # lists do without pydicom
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

COPIED: Final = (
    # patient
    "ReferencedPatientSequence", "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence", "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence", "PatientBirthDate", "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar", "PatientSex", "QualityControlSubject", "StrainDescription",
    "StrainNomenclature", "StrainStockSequence", "StrainAdditionalInformation", "StrainCodeSequence",
    "GeneticModificationsSequence", "OtherPatientNames", "OtherPatientIDsSequence",
    "EthnicGroupCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence",
    "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization", "PatientComments",
    # clinical-trial-subject
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "IssuerOfClinicalTrialProtocolID", "OtherClinicalTrialProtocolIDsSequence", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "IssuerOfClinicalTrialSiteID", "ClinicalTrialSubjectID",
    "IssuerOfClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "IssuerOfClinicalTrialSubjectReadingID", "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    # general-study
    "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence", "StudyDescription", "ProcedureCodeSequence",
    "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence", "StudyInstanceUID",
    "StudyID", "RequestingService", "RequestingServiceCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # patient-study
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize",
    "PatientSizeCodeSequence", "PatientBodyMassIndex", "MeasuredAPDimension",
    "MeasuredLateralDimension", "PatientWeight", "MedicalAlerts", "Allergies", "Occupation",
    "SmokingStatus", "AdditionalPatientHistory", "PregnancyStatus", "LastMenstrualDate",
    "PatientSexNeutered", "ReasonForVisit", "ReasonForVisitCodeSequence", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState",
    # clinical-trial-study
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    "LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType",
    "ClinicalTrialTimePointTypeCodeSequence", "IssuerOfClinicalTrialTimePointID",
    "ConsentForClinicalTrialUseSequence",
    # of the SOP Common module: times of results are written in it
    "TimezoneOffsetFromUTC",
)  # fmt: skip
"""What every result takes over from its source: attributes of patient and study (PS3.3 A.1.2.1, A.1.2.2).

All of the five modules but what is never ours to say (Patient Identity Removed and how), and photographs,
which are references to objects that the PACS may not have.
"""
IDENTIFYING: Final = frozenset(
    {
        "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
        "OtherPatientNames", "OtherPatientIDsSequence", "ResponsiblePerson",
        "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
        "StudyInstanceUID", "StudyID", "AccessionNumber", "AdmissionID",
        "ReferringPhysicianName", "ConsultingPhysicianName", "PhysiciansOfRecord",
        "NameOfPhysiciansReadingStudy",
    }
)  # fmt: skip
"""Attributes that say who, or which order: an object in which one cannot be read is refused, and results
repeat their text to the letter. What names nobody is left out where it is faulty.
"""
SAYS_WHO: Final = (
    "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientName",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
"""Attributes by which patients are compared."""
_COMPARED: Final = {
    "name": "PatientName",
    "ideographic": "PatientName",
    "phonetic": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
}
_IN_WORDS: Final = {"PatientName": "name", "PatientBirthDate": "birth date", "PatientSex": "sex"}
_UNIVERSAL: Final = ("(0040,0032)", "(0040,0033)")  # Universal Entity ID and its type, as _text names tags
_ANYBODY: Final = (  # what is written, in small letters, where nobody knows who somebody is
    "unkn|unbek|anonym|anónim|anônim|noname|nobody|emerg|notfall|trauma|urgen|inconn|desconoc|"
    "desconhec|sconosc|ignot|onbekend|okänd|ukendt|ukjent|tuntemat|nieznan|neznám|bilinmeyen|"
    "неизвест|невідом|άγνωστ|مجهول|אלמוני|不明|不詳|不详|未知|無名|无名|佚名|미상|무명|불명|अज्ञात|"
    r"undefin|missing|dummy|muster|fulan[oa]|(?<![^\W\d_])(?:[jt]?doe|roe|n\W[na]|null|none|temp|"
    r"man|woman|male|female|mann|frau|baby)(?![^\W\d_])"
)
_SHARED_ID: Final = re.compile(
    rf"(?:\D*|[\W_]*(?:0*(\d)\1*0*|0?1234(?:5(?:6(?:7(?:8(?:90?)?)?)?)?)?)[\W_]*)\Z|.*?(?:{_ANYBODY})",
    re.DOTALL,
)
_SHARED_NAME: Final = re.compile(rf"\d|{_ANYBODY}")
_OLDEST: Final = 110  # years: hardly anybody is older
_VERSION: Final = "v2:"  # raised when a hash is made of something else
_READ: Final = {"DA": as_da, "DT": as_dt, "TM": as_tm}
REQUIRED_MAYBE_EMPTY: Final = frozenset(
    {
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ClinicalTrialProtocolName",
        "ClinicalTrialSiteID", "ClinicalTrialSiteName", "StudyDate", "StudyTime", "AccessionNumber",
        "ReferringPhysicianName", "StudyID", "ClinicalTrialTimePointID",
    }
)  # fmt: skip
"""Attributes of Type 2 (PS3.5 7.4.3): one that cannot be repaired is emptied, not left out."""


@dataclass(frozen=True, slots=True)
class Patient:
    """The identity of the patient of an object: a hash of each attribute, "" if it is empty.

    ``id`` is the hash of Patient ID with its issuer. The three groups of the name (PS3.5 6.2.1) have a hash
    each, because senders leave out the ideographic and the phonetic group. ``doubts`` has a letter for each
    value that several persons may share: i for the ID, n for name and sex, b for the birth date.
    """

    id: str = ""
    name: str = ""
    ideographic: str = ""
    phonetic: str = ""
    birth_date: str = ""
    sex: str = ""
    doubts: str = ""

    @classmethod
    def from_values(cls, patient_id: str, issuer: str, name: str, birth_date: str, sex: str) -> Patient:
        """Hash the decoded values of Patient ID (0010,0020), its issuer (as of :func:`issuer_of`), Patient's
        Name (0010,0010), Birth Date (0010,0030) and Sex (0010,0040).
        """
        groups = [_plain_name(group) for group in (*name.split("="), "", "")][:3]
        day = as_da(birth_date) or re.sub(r"\D", "", birth_date)
        texts = (*groups, day if day.strip("0") else "", sex.strip().casefold())
        known = patient_sha256(patient_id, issuer) if patient_id_of(patient_id) else ""
        doubts = _doubts(patient_id, "^".join(groups), as_da(birth_date) or "", texts[-1])
        return cls(*[known, *(digest((value,)) if value else "" for value in texts), doubts])

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Patient:
        """Hash what attributes (decoded, by keyword, such as of ``identity_texts``) say of the patient."""
        patient_id, _, _, *others = (texts.get(word, "") for word in SAYS_WHO)
        return cls.from_values(patient_id, issuer_of(texts), *others)

    @classmethod
    def parse(cls, text: str) -> Patient:
        """Return the patient that ``str(patient)`` wrote as ``text``."""
        return cls(*text.split(";"))

    def __str__(self) -> str:
        """Return the hashes, separated by semicolons, as :meth:`parse` reads them."""
        return ";".join(astuple(self))

    def contradicts(self, other: Patient) -> bool:
        """Return whether the two cannot be one person.

        An ID identifies a patient, so a patient with an ID and one without differ. Two without an ID are
        compared by the other attributes, and by whether they have a name. An empty birth date or sex
        contradicts nothing, nor does an empty name beside the same ID.
        """
        return self.corrects(other) or other.corrects(self)

    def corrects(self, former: Patient) -> bool:
        """Return whether this patient is another one than ``former``, or identifies a person where ``former``
        does not.
        """
        if self.id not in ("", former.id) or (self._is_somebody and not former._is_somebody):
            return True
        return self.disagrees(former)

    def disagrees(self, other: Patient) -> bool:
        """Return whether name, birth date or sex differs although both patients have it; IDs are not
        compared.
        """
        return bool(self.differences(other))

    def differences(self, other: Patient) -> list[str]:
        """Return the keywords of PatientName, PatientBirthDate and PatientSex that differ although both
        patients have a value, in this order.
        """
        values = ((word, getattr(self, name), getattr(other, name)) for name, word in _COMPARED.items())
        return list(dict.fromkeys(word for word, mine, its in values if differ(mine, its)))

    def is_surely(self, other: Patient) -> bool:
        """Return whether the two are one person beyond doubt: the same ID and issuer, the same birth date or
        the same name and sex (both, if the ID may be shared), and nothing that differs.

        An ID alone identifies nobody: emergencies of a hospital share ``UNKNOWN`` or ``0``, and often a
        ``19000101`` or ``Trauma^Male`` as well, which count as empty here.
        """
        ids, *names, births, sexes, doubts = zip(astuple(self), astuple(other), strict=True)
        doubtful = "".join(doubts)
        is_named = "n" not in doubtful and any(mine and mine == its for mine, its in names) and all(sexes)
        is_dated = "b" not in doubtful and all(births)
        is_enough = is_named and is_dated if "i" in doubtful else is_named or is_dated
        return all(ids) and is_enough and not self.contradicts(other)

    @property
    def key(self) -> str:
        """A hash that is the same for all objects of this person and for nobody else's; "" if there is
        none.
        """
        if "i" not in self.doubts:
            return self.id
        return digest(self._parts) if self.is_surely(self) else ""

    def lacks(self, former: Patient) -> bool:
        """Return whether ID, name, birth date or sex is empty here but not in ``former``."""
        return any(its and not mine for mine, its in zip(self._parts, former._parts, strict=True))

    @property
    def _is_somebody(self) -> bool:
        """Whether the patient has an ID or a name."""
        return bool(self.id or self._name)

    @property
    def _name(self) -> str:
        """The hash of the first group of the name that is not empty (alphabetic, ideographic, phonetic)."""
        return self.name or self.ideographic or self.phonetic

    @property
    def _parts(self) -> tuple[str, str, str, str]:
        """The hashes of ID, name, birth date and sex."""
        return self.id, self._name, self.birth_date, self.sex


def in_words(keywords: Iterable[str]) -> str:
    """Return what differs between two patients, as of :meth:`Patient.differences`, as "name and sex"."""
    return " and ".join(_IN_WORDS[word] for word in keywords)


def are_one_patient(patients: Iterable[Patient]) -> bool:
    """Return whether all ``patients`` can be the same person, because no two contradict each other."""
    return not any(one.contradicts(other) for one, other in combinations(set(patients), 2))


def identity_texts(header: Dataset, keywords: Iterable[str] = COPIED) -> dict[str, str]:
    """Return these attributes of a decoded header, keyword -> text, without empty ones; at first those that
    results copy.

    Padding and trailing delimiters of names (PS3.5 6.2) are removed, dates and times have the form of PS3.5,
    and sequences are JSON.
    """
    texts = {keyword: _text(header[keyword]) for keyword in keywords if keyword in header}
    return {keyword: text for keyword, text in texts.items() if text}


def identity_sha256(texts: Mapping[str, str]) -> str:
    """Return the hash of ``texts`` (from ``identity_texts``), at most 64 characters; it becomes part of the
    UIDs of results.
    """
    return _VERSION + digest(part for item in texts.items() for part in item)[: 64 - len(_VERSION)]


def patient_id_of(value: object) -> str:
    """Return a Patient ID (0010,0020) as all of the node reads it: without padding; "" if nothing is left.

    A space before it counts, as for a PACS: " 4711" is another patient than "4711".
    """
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value or "",)
    text = "\\".join(map(str, values)).replace("\0", "").rstrip(" ")
    return text if text.strip(" ") else ""


def issuer_of(texts: Mapping[str, str]) -> str:
    """Return who issued the Patient ID, from ``identity_texts``: Issuer of Patient ID (0010,0021), and behind
    it the universal ID and its type of the first of its qualifiers (0010,0024; PS3.3 10.14) that has one, as
    HL7 writes an assigning authority: ``NAME&ID&TYPE``.
    """
    name = texts.get("IssuerOfPatientID", "").strip()
    for item in json.loads(texts.get("IssuerOfPatientIDQualifiersSequence") or "[]"):
        entity, kind = (item.get(tag, "") for tag in _UNIVERSAL)
        if entity:
            return f"{name}&{entity}&{kind}"
    return name


def issuer_parts(issuer: str) -> tuple[str, str]:
    """Return name and universal ID of an issuer as of :func:`issuer_of`, each "" where it is not said."""
    name, _, universal = issuer.partition("&")
    return name, universal


def issuers_differ(one: str, other: str) -> bool:
    """Return whether two issuers that are not empty differ in name or universal ID, as far as both have
    it.
    """
    return any(map(differ, issuer_parts(one), issuer_parts(other)))


def differ(*values: str) -> bool:
    """Return whether two of the ``values`` that are not empty differ."""
    return len({*values} - {""}) > 1


def patient_sha256(patient_id: str, issuer_of_patient_id: str) -> str:
    """Return the hash of Patient ID (0010,0020) and its issuer (as of :func:`issuer_of`), without padding."""
    return digest((patient_id_of(patient_id), issuer_of_patient_id.strip()))


def digest(values: Iterable[str]) -> str:
    """Return the SHA-256, as hex, over the values and their lengths, so that different lists have different
    hashes.
    """
    text = "\x1f".join(f"{len(value)}:{value}" for value in values)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def with_doubts(text: str, patient_id: str) -> str:
    """Return ``str`` of a patient as release 0.1.0 wrote it, with the doubts, which that did not know.

    Its name stays in doubt; a birth date is known by its hash. ``patient_id``: that of its study.
    """
    former = Patient.parse(text)
    return str(replace(former, doubts=_doubts(patient_id, "", _days().get(former.birth_date, ""), "")))


@cache
def _days() -> dict[str, str]:
    """Return the days on which somebody alive may be born (YYYYMMDD), by their hash in ``Patient``."""
    today = date.today()
    days = (f"{today - timedelta(days=ago):%Y%m%d}" for ago in range(366 * (_OLDEST + 1)))
    return {digest((day,)): day for day in days}


def _text(element: DataElement) -> str:
    """Return the value of an element as text; of a sequence as JSON."""
    if element.VR == "SQ":
        items = [{str(inner.tag): _text(inner) for inner in item} for item in element.value]
        return json.dumps(items, ensure_ascii=False, sort_keys=True) if any(items) else ""
    values: list[Any] = element.value if element.VM > 1 else [element.value]
    if read := _READ.get(element.VR):
        values = [read(str(value)) or value for value in values]
    text = "\\".join("" if value is None else str(value) for value in values).replace("\0", "")
    text = patient_id_of(text) if element.keyword == "PatientID" else text.strip()
    if element.VR == "PN":
        return "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
    return text


def _doubts(patient_id: str, name: str, birth_date: str, sex: str) -> str:
    """Return ``Patient.doubts`` of these values, the last three in the form of which the hashes are made.

    Doubtful are: an ID without digits, of one digit again and again, or of 1234…; a name that has no two
    words, or a digit; another sex than M and F; the first and last day of a year, a day to come, or one that
    hardly anybody alive has seen; and any ID or name with a word such as "unknown".
    """
    today = date.today()
    words = {*re.findall(r"[^\W\d_]{2,}|[^\W\d_a-z]", name)}
    is_named = sex in {"m", "f"} and len(words) > 1 and not _SHARED_NAME.search(name)
    is_day = f"{today.year - _OLDEST}" <= birth_date <= f"{today:%Y%m%d}"
    return (
        "i" * bool(_SHARED_ID.match(_plain_name(patient_id[:64])))
        + "n" * (not is_named)
        + "b" * (not is_day or birth_date[4:] in {"0101", "1231"})
    )


def _plain_name(group: str) -> str:
    """Return one group of a name without differences of spelling between senders: case, width, spaces and
    trailing delimiters.
    """
    plain = unicodedata.normalize("NFKC", group).casefold()
    return "^".join(" ".join(component.split()) for component in plain.split("^")).rstrip("^")
