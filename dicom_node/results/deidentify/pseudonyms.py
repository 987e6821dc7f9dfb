"""Pseudonyms of patients and objects: constant for one site key and one pseudonym domain.

HMAC-SHA256 under keys that are derived from the site key. Without the key nobody can test whether a known
Patient ID or UID gives a pseudonym; with a plain hash anybody could.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from dataclasses import dataclass, field
from typing import Final

from dicom_node.dicom.identity import patient_sha256
from dicom_node.sitekey import SiteKey

PREFIX: Final = "AI-"  # a reader sees that it is no Patient ID of a hospital
_CHARACTERS: Final = 20  # of base32: 100 bits


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
        return PREFIX + text[:_CHARACTERS]

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
