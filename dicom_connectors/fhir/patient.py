"""The patient of a report: Patient ID with its issuer as an Identifier of FHIR."""

from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset

from dicom_connectors.fhir.codes import Resource

# Universal Entity ID Type (0040,0033): those that are URIs, or become one.
_URIS: Final = {"ISO": "urn:oid:", "UUID": "urn:uuid:", "URI": ""}


def patient_identifier(document: Dataset, by_issuer: Mapping[str, str]) -> Resource:
    """Patient ID (0010,0020) as an Identifier with its system; {} without an ID.

    The system is the issuer's universal ID (0010,0024), else the entry of ``by_issuer`` for the Issuer of
    Patient ID (0010,0021). Without either the ID has no system: it is unknown who assigned the ID.
    """
    number, issuer = (str(document.get(key) or "").strip() for key in ("PatientID", "IssuerOfPatientID"))
    if not number:
        return {}
    system = _universal(document) or by_issuer.get(issuer, "")
    assigner = {"assigner": {"display": issuer}} if issuer else {}
    return {**({"system": system} if system else {}), "value": number, **assigner}


def patient_reference(identifier: Resource, found: str = "") -> Resource:
    """A Reference by identifier; ``found``: ``Patient/ID`` if the server has exactly one such patient."""
    literal = {"reference": found} if found else {}
    named = {"identifier": identifier} if identifier else {"display": "no Patient ID"}
    return {**literal, "type": "Patient", **named}


def _universal(document: Dataset) -> str:
    for item in document.get("IssuerOfPatientIDQualifiersSequence") or ():
        prefix = _URIS.get(str(item.get("UniversalEntityIDType") or ""))
        named = str(item.get("UniversalEntityID") or "")
        if prefix is not None and named:
            return f"{prefix}{named}"
    return ""
