"""Whose image it is, as hashes: to compare patients and studies without spreading their names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Patient:
    """What an object says of its patient, each as a hash; "" where it says nothing.

    ``id`` is Patient ID with its issuer. The three groups of the name (PS3.5 6.2.1) stand apart, because
    senders leave out the ideographic and the phonetic one.
    """

    id: str = ""
    name: str = ""
    ideographic: str = ""
    phonetic: str = ""
    birth_date: str = ""
    sex: str = ""

    @classmethod
    def of(cls, patient_id: str, issuer: str, name: str, birth_date: str, sex: str) -> Patient:
        """From decoded values of (0010,0020), (0010,0021), (0010,0010), (0010,0030) and (0010,0040)."""
        groups = [_plain_name(group) for group in (*name.split("="), "", "")][:3]
        date = re.sub(r"\D", "", birth_date)  # ACR-NEMA wrote 1970.01.01
        said = (*groups, date if date.strip("0") else "", sex.strip().casefold())
        known = patient_sha256(patient_id, issuer) if patient_id.strip() else ""
        return cls(known, *(digest((value,)) if value else "" for value in said))

    @classmethod
    def parse(cls, text: str) -> Patient:
        """From ``str``."""
        return cls(*text.split(";"))

    def __str__(self) -> str:
        return ";".join(astuple(self))

    def contradicts(self, other: Patient) -> bool:
        """Whether the two cannot be one patient.

        An ID says who it is, so one with and one without differ; no ID is no identity, so that two without
        are told apart by the rest. Nothing said of name, birth date or sex contradicts nothing.
        """
        rest = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return self.id != other.id or any(mine and theirs and mine != theirs for mine, theirs in rest)


def are_one_patient(patients: Iterable[Patient]) -> bool:
    """Whether no two of them contradict each other."""
    return not any(one.contradicts(other) for one, other in combinations(set(patients), 2))


def patient_sha256(patient_id: str, issuer_of_patient_id: str) -> str:
    """Identity of a patient: Patient ID (0010,0020) and Issuer of Patient ID (0010,0021), without padding."""
    return digest((patient_id.strip(), issuer_of_patient_id.strip()))


def digest(values: Iterable[str]) -> str:
    """SHA-256 over the values and their lengths, so that no two lists of values look alike."""
    text = "\x1f".join(f"{len(value)}:{value}" for value in values)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain_name(group: str) -> str:
    """A name as two senders write it alike: case, width, spaces and trailing delimiters mean nothing."""
    components = unicodedata.normalize("NFKC", group).casefold().split("^")
    return "^".join(" ".join(component.split()) for component in components).rstrip("^")
