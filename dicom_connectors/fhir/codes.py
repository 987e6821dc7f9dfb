"""DICOM codes as FHIR codes: the URI of each coding scheme (PS3.16 8, terminology.hl7.org)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydicom.dataset import Dataset

Resource = dict[str, Any]
"""A resource of FHIR, or a part of one, as JSON has it."""
StatedSystems = Mapping[str, str]
"""URIs by Coding Scheme Designator (0008,0102)."""

PRELIMINARY: Final = "preliminary"
"""The status of a report, and of what it observes: nobody has verified what an AI reports."""
UNITS: Final = "http://unitsofmeasure.org"
LOINC: Final = "http://loinc.org"
SNOMED: Final = "http://snomed.info/sct"
DICOM_UID: Final = "urn:dicom:uid"
"""The identifier system of UIDs, whose values are ``urn:oid:...`` (FHIR R4, ImagingStudy)."""
_KNOWN: Final[StatedSystems] = MappingProxyType(
    {
        "SCT": SNOMED,
        "LN": LOINC,
        "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        "UCUM": UNITS,
        "UMLS": "http://www.nlm.nih.gov/research/umls",
        "RADLEX": "http://radlex.org",
        "I10": "http://hl7.org/fhir/sid/icd-10",
    }
)


def systems(document: Dataset) -> StatedSystems:
    """FHIR's system URI by coding scheme; for other schemes the UID in the document (0008,0110)."""
    identified = document.get("CodingSchemeIdentificationSequence") or ()
    own = {
        str(item.CodingSchemeDesignator): f"urn:oid:{item.CodingSchemeUID}"
        for item in identified
        if item.get("CodingSchemeUID")
    }
    return {**own, **_KNOWN}


def coding(named: StatedSystems, value: str, scheme: str, meaning: str = "") -> Resource:
    """A Coding; without system if neither FHIR nor the document identifies the scheme."""
    system = {"system": named[scheme]} if scheme in named else {}
    return {**system, "code": value, **({"display": meaning} if meaning else {})}


def concept(named: StatedSystems, value: str, scheme: str, meaning: str) -> Resource:
    """A CodeableConcept with its meaning as text."""
    return {"coding": [coding(named, value, scheme, meaning)], "text": meaning}


def uid_identifier(uid: str) -> Resource:
    """An Identifier of a DICOM UID."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}
