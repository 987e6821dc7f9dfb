"""Parts of FHIR resources: codes by the URI of their scheme (PS3.16 8, terminology.hl7.org), patient, times,
and the entries of a transaction Bundle (FHIR R4 3.1.0.11); sending a Bundle twice has the effect of once.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import FaultyInput
from dicom_node.results.envelope import zone_of

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


def date_time(document: Dataset, date: str, time: str) -> str:
    """A dateTime from two attributes.

    Without a known offset (0008,0201) or time it is only the date; without a date it is "".
    """
    day, offset = _value(DA, document, date), _offset(document)
    if day is None:
        return ""
    at = _value(TM, document, time)
    if at is None or offset is None:
        return str(day.isoformat())
    return datetime.combine(day, at, offset).isoformat(timespec="seconds")


def written(document: Dataset) -> str:
    """The instant when the content was made; this machine's zone if the report names none."""
    day, at = _value(DA, document, "ContentDate"), _value(TM, document, "ContentTime")
    if day is None or at is None:
        return ""
    moment = datetime.combine(day, at, _offset(document))
    return (moment if moment.tzinfo else moment.astimezone()).isoformat(timespec="seconds")


def _value(kind: type[DA] | type[TM], document: Dataset, keyword: str) -> Any:
    """A date or time; None where it is none."""
    try:
        return kind(document.get(keyword) or None)
    except ValueError:
        return None


def _offset(document: Dataset) -> timezone | None:
    return zone_of(str(document.get("TimezoneOffsetFromUTC") or ""))


WITHDRAWN: Final = "entered-in-error"


def created(resource: Resource) -> Resource:
    """An entry that creates ``resource``, unless the server has one of its kind with its first UID."""
    kind, [own, *_] = resource["resourceType"], uids_of(resource)
    number = int(derived_uid("fhir entry", kind, own).removeprefix("2.25."))
    return {
        "fullUrl": f"urn:uuid:{uuid.UUID(int=number)}",
        "resource": resource,
        "request": {
            "method": "POST",
            "url": kind,
            "ifNoneExist": f"identifier={quote(identifier_query(own), safe='|:')}",
        },
    }


def updated(resource: Resource, now: Resource) -> Resource:
    """An entry that replaces ``now`` by ``resource``, if the server still has that version of ``now``."""
    version = (now.get("meta") or {}).get("versionId")
    url = f"{resource['resourceType']}/{now['id']}"
    match = {"ifMatch": f'W/"{version}"'} if version else {}
    return {"resource": resource, "request": {"method": "PUT", "url": url, **match}}


def marked(resource: Resource) -> Resource:
    """An entry that marks ``resource`` as entered in error."""
    return updated({**resource, "status": WITHDRAWN}, resource)


def reference(entry: Resource) -> Resource:
    """A Reference to the resource that another entry creates."""
    return {"reference": entry["fullUrl"]}


def transaction(entries: Sequence[Resource]) -> str:
    """The Bundle as JSON. Raises FaultyInput if it is invalid."""
    from fhir.resources.R4B.bundle import Bundle  # as R4 in all that is used here

    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        places = sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)})
        raise FaultyInput(f"it makes no valid FHIR resources: {', '.join(places[:3])}") from None
    return json.dumps(bundle, ensure_ascii=False)


def identifier_query(*uids: str) -> str:
    """The value of the search parameter ``identifier`` that matches any of these UIDs."""
    return ",".join(f"{DICOM_UID}|urn:oid:{uid}" for uid in uids)


def uids_of(resource: Mapping[str, Any]) -> list[str]:
    """The UIDs among the identifiers of a resource."""
    named = [one for one in resource.get("identifier") or () if one.get("system") == DICOM_UID]
    uids = [str(one.get("value") or "") for one in named]
    return [uid.removeprefix("urn:oid:") for uid in uids if uid.startswith("urn:oid:")]
