"""Whose image it is, as hashes: to compare patients and studies without spreading their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def patient_sha256(patient_id: str, issuer_of_patient_id: str) -> str:
    """Identity of a patient: Patient ID (0010,0020) and Issuer of Patient ID (0010,0021), without padding."""
    return digest((patient_id.strip(), issuer_of_patient_id.strip()))


def digest(values: Iterable[str]) -> str:
    """SHA-256 over the values and their lengths, so that no two lists of values look alike."""
    text = "\x1f".join(f"{len(value)}:{value}" for value in values)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
