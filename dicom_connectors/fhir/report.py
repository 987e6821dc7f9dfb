"""A report as one transaction (FHIR R4 3.1.0.11): DiagnosticReport, findings and numbers, study and models.
Sending it twice has the effect of once. Codes are by the URI of their scheme (PS3.16 8, terminology.hl7.org).

A report that replaces an earlier one updates the earlier DiagnosticReport on the server, which gets one
identifier more; the earlier Observations are marked as entered in error.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from ai_pipeline.contract import BURNED_IN
from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.identity import patient_id_of
from dicom_node.base.dicom.uids import MANUFACTURER, derived_uid
from dicom_node.base.errors import FaultyInput
from dicom_node.results import stated_report
from dicom_node.results.stated_report import StatedCode, StatedFinding, StatedNumber
from dicom_node.results.times import zone_of

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
    """Return FHIR's system URI by coding scheme designator.

    A scheme that FHIR does not know has the UID that the document gives it (0008,0110), if any.
    """
    identified = document.get("CodingSchemeIdentificationSequence") or ()
    own = {
        str(item.CodingSchemeDesignator): f"urn:oid:{item.CodingSchemeUID}"
        for item in identified
        if item.get("CodingSchemeUID")
    }
    return {**own, **_KNOWN}


def coding(named: StatedSystems, value: str, scheme: str, meaning: str = "") -> Resource:
    """Return a FHIR Coding for the code ``value`` of ``scheme``.

    ``named``: system URIs by scheme, as ``systems`` returns them; a scheme that is not in it gives a Coding
    without system. ``meaning``: the display text, "" for none.
    """
    system = {"system": named[scheme]} if scheme in named else {}
    return {**system, "code": value, **({"display": meaning} if meaning else {})}


def concept(named: StatedSystems, value: str, scheme: str, meaning: str) -> Resource:
    """Return a FHIR CodeableConcept for the code ``value`` of ``scheme``, with ``meaning`` as its text.

    ``named``: system URIs by scheme, as ``systems`` returns them.
    """
    return {"coding": [coding(named, value, scheme, meaning)], "text": meaning}


def uid_identifier(uid: str) -> Resource:
    """Return a FHIR Identifier that holds a DICOM UID."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


# Universal Entity ID Type (0040,0033): those that are URIs, or become one.
_URIS: Final = {"ISO": "urn:oid:", "UUID": "urn:uuid:", "URI": ""}


def patient_identifier(document: Dataset, by_issuer: Mapping[str, str]) -> Resource:
    """Return the document's Patient ID (0010,0020) as a FHIR Identifier; {} if it has none.

    Its system is the issuer's universal ID (0010,0024), else the entry of ``by_issuer`` for the Issuer of
    Patient ID (0010,0021). Without either it has no system, because nobody knows who assigned the ID.
    """
    number = patient_id_of(document.get("PatientID"))
    issuer = str(document.get("IssuerOfPatientID") or "").strip()
    if not number:
        return {}
    system = _system_of_issuer(document) or by_issuer.get(issuer, "")
    assigner = {"assigner": {"display": issuer}} if issuer else {}
    return {**({"system": system} if system else {}), "value": number, **assigner}


def patient_reference(identifier: Resource, found: str = "") -> Resource:
    """Return a FHIR Reference to the patient with this identifier ({}: none is known).

    ``found``: ``Patient/ID`` if the server has exactly one such patient, else "".
    """
    literal = {"reference": found} if found else {}
    named = {"identifier": identifier} if identifier else {"display": "no Patient ID"}
    return {**literal, "type": "Patient", **named}


def _system_of_issuer(document: Dataset) -> str:
    """Return the system URI that the document states for the issuer of its Patient ID; "" if it
    states none.
    """
    for item in document.get("IssuerOfPatientIDQualifiersSequence") or ():
        prefix = _URIS.get(str(item.get("UniversalEntityIDType") or ""))
        named = str(item.get("UniversalEntityID") or "")
        if prefix is not None and named:
            return f"{prefix}{named}"
    return ""


def date_time(document: Dataset, date: str, time: str) -> str:
    """Return a FHIR dateTime from the document's attributes ``date`` and ``time`` (keywords).

    It is only a date if the time or the offset from UTC (0008,0201) is unknown, and "" without a date.
    """
    day, offset = _value(DA, document, date), _offset(document)
    if day is None:
        return ""
    at = _value(TM, document, time)
    if at is None or offset is None:
        return str(day.isoformat())
    return datetime.combine(day, at, offset).isoformat(timespec="seconds")


def content_instant(document: Dataset) -> str:
    """Return the FHIR instant when the document's content was made, "" if unknown.

    If the document names no time zone, it is that of this machine.
    """
    day, at = _value(DA, document, "ContentDate"), _value(TM, document, "ContentTime")
    if day is None or at is None:
        return ""
    moment = datetime.combine(day, at, _offset(document))
    return (moment if moment.tzinfo else moment.astimezone()).isoformat(timespec="seconds")


def _value(kind: type[DA] | type[TM], document: Dataset, keyword: str) -> Any:
    """Return the document's date (``kind`` DA) or time (TM) of this keyword; None if it has no valid one."""
    try:
        return kind(document.get(keyword) or None)
    except ValueError:
        return None


def _offset(document: Dataset) -> timezone | None:
    """Return the document's offset from UTC (0008,0201) as a time zone; None if it states none."""
    return zone_of(str(document.get("TimezoneOffsetFromUTC") or ""))


WITHDRAWN: Final = "entered-in-error"


def created(resource: Resource) -> Resource:
    """Return a Bundle entry that creates ``resource``, unless the server has one of its type with its first
    UID.
    """
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
    """Return a Bundle entry that puts ``resource`` in place of ``now``, the server's version; the server
    refuses it if its version has changed since.
    """
    version = (now.get("meta") or {}).get("versionId")
    url = f"{resource['resourceType']}/{now['id']}"
    match = {"ifMatch": f'W/"{version}"'} if version else {}
    return {"resource": resource, "request": {"method": "PUT", "url": url, **match}}


def entered_in_error(resource: Resource) -> Resource:
    """Return a Bundle entry that sets the status of ``resource`` to "entered-in-error"."""
    return updated({**resource, "status": WITHDRAWN}, resource)


def reference(entry: Resource) -> Resource:
    """Return a FHIR Reference to the resource that the Bundle entry ``entry`` creates."""
    return {"reference": entry["fullUrl"]}


def transaction(entries: Sequence[Resource]) -> str:
    """Return a transaction Bundle of these entries as JSON. Raises FaultyInput if it is not valid FHIR."""
    from fhir.resources.R4B.bundle import Bundle  # as R4 in all that is used here

    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        places = sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)})
        raise FaultyInput(f"it makes no valid FHIR resources: {', '.join(places[:3])}") from None
    return json.dumps(bundle, ensure_ascii=False)


def identifier_query(*uids: str) -> str:
    """Return the value of FHIR's search parameter ``identifier`` that matches any of these UIDs."""
    return ",".join(f"{DICOM_UID}|urn:oid:{uid}" for uid in uids)


def uids_of(resource: Mapping[str, Any]) -> list[str]:
    """Return the DICOM UIDs among the identifiers of a FHIR resource."""
    named = [one for one in resource.get("identifier") or () if one.get("system") == DICOM_UID]
    uids = [str(one.get("value") or "") for one in named]
    return [uid.removeprefix("urn:oid:") for uid in uids if uid.startswith("urn:oid:")]


_HL7: Final = "http://terminology.hl7.org/CodeSystem"
_RADIOLOGY: Final = (
    {"system": f"{_HL7}/v2-0074", "code": "RAD", "display": "Radiology"},
    {"system": LOINC, "code": "LP29684-5", "display": "Radiology"},
)
_IMAGING: Final = {"system": f"{_HL7}/observation-category", "code": "imaging", "display": "Imaging"}
_IMAGING_STUDY: Final = {"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
_SOFTWARE: Final = {"system": SNOMED, "code": "706687001", "display": "Software"}
_ACCESSION: Final = {"system": f"{_HL7}/v2-0203", "code": "ACSN"}
_INTERPRETATIONS: Final = {
    "present": ("POS", "Positive"),
    "absent": ("NEG", "Negative"),
    "indeterminate": ("IND", "Indeterminate"),
}
_LATERALITY: Final = ("272741003", "SCT", "Laterality")
_OF_MODELS: Final = "AI model: inference"
"""How Contribution Description (0018,A003) of a model begins in our results; its hashes follow."""
_PROCEDURE: Final = "121058"  # PS3.16 TID 1500: Procedure reported
MOST_OBSERVATIONS: Final = 500
"""Of one report."""
_OBSERVATION: Final = re.compile(r"Observation/[A-Za-z0-9.-]{1,64}")
_OLD: Final = "old"  # Identifier.use


@dataclass(frozen=True, slots=True)
class FiledReport:
    """A DiagnosticReport that the FHIR server has, with those of its Observations that this node made."""

    report: Resource
    observations: Sequence[Resource] = ()

    @property
    def is_withdrawn(self) -> bool:
        """Whether the status of the DiagnosticReport is "entered-in-error"."""
        return self.report.get("status") == WITHDRAWN

    @property
    def is_as_sent(self) -> bool:
        """Whether the DiagnosticReport still has the status "preliminary" that it was sent with; False once a
        person has amended it.
        """
        return self.report.get("status") == PRELIMINARY

    @property
    def newest_uid(self) -> str:
        """SOP Instance UID of the newest report whose content the DiagnosticReport shows; "" if it
        has none.
        """
        identifiers = [one for one in self.report["identifier"] if one.get("use") != _OLD]
        return next(iter(uids_of({"identifier": identifiers})), "")

    def identifiers_but(self, uid: str) -> list[Resource]:
        """Return the DiagnosticReport's identifiers without ``uid``, its other UIDs marked as old.

        The report that replaces it keeps them.
        """
        return [
            {**one, "use": _OLD} if uids_of({"identifier": [one]}) else one
            for one in self.report["identifier"]
            if uids_of({"identifier": [one]}) != [uid]
        ]

    @property
    def results(self) -> list[str]:
        """``Observation/ID`` of each Observation that the DiagnosticReport refers to on its own server."""
        named = [str(one.get("reference") or "") for one in self.report.get("result") or ()]
        return [one for one in named if _OBSERVATION.fullmatch(one)][:MOST_OBSERVATIONS]

    def owns(self, observation: Resource) -> bool:
        """Return whether this node made ``observation`` for this report or one that it replaced; other
        systems may have added Observations.
        """
        ours = {observation_uid(uid, at) for uid in uids_of(self.report) for at in range(MOST_OBSERVATIONS)}
        return not ours.isdisjoint(uids_of(observation))

    def withdrawn(self) -> str:
        """Return a transaction, as JSON, that marks the report and its Observations as entered in error.

        Raises FaultyInput if it is not valid FHIR.
        """
        observations = [one for one in self.observations if one.get("status") != WITHDRAWN]
        return transaction([entered_in_error(one) for one in (self.report, *observations)])


def observation_uid(report: str, at: int) -> str:
    """Return the UID that identifies Observation number ``at`` (from 0) of a report.

    ``report``: the report's SOP Instance UID.
    """
    return derived_uid("fhir observation", report, str(at))


class ReportTransaction:
    """Makes the FHIR transaction of one report, read from its SR file.

    ``by_issuer``: identifier systems (URIs) of Patient IDs by Issuer of Patient ID. Raises FaultyInput if the
    file contains no report.
    """

    def __init__(self, path: Path, by_issuer: Mapping[str, str]) -> None:
        self._document = dcmread(path)
        if "ContentSequence" not in self._document:
            raise FaultyInput("it is no report")
        self._stated = stated_report.read_report(self._document)
        self._systems = systems(self._document)
        self.uid = str(self._document.SOPInstanceUID)
        self.patient = patient_identifier(self._document, by_issuer)

    @property
    def replaces(self) -> str:
        """SOP Instance UID of the earlier report that this report replaces (PS3.3 C.17.2); "" if it replaces
        none.
        """
        for study in self._document.get("PredecessorDocumentsSequence") or ():
            for series in study.get("ReferencedSeriesSequence") or ():
                for item in series.get("ReferencedSOPSequence") or ():
                    return str(item.ReferencedSOPInstanceUID)
        return ""

    def bundle(self, patient: str = "", earlier: FiledReport | None = None) -> str:
        """Return the transaction that creates or replaces the report, as JSON.

        ``patient``: ``Patient/ID`` if the server has exactly one such patient, else "". ``earlier``: the
        server's report to replace, None to create one. Raises FaultyInput if it is not valid FHIR, or has too
        many Observations.
        """
        entries, report = self._entries(patient_reference(self.patient, patient))
        if earlier is None:
            return transaction([*entries, created(report)])
        now = earlier.report
        identifiers = [*report["identifier"], *earlier.identifiers_but(self.uid)]
        report = {**report, "id": now["id"], "identifier": identifiers}
        return transaction([*entries, updated(report, now), *map(entered_in_error, earlier.observations)])

    def _entries(self, subject: Resource) -> tuple[list[Resource], Resource]:
        """Return (Bundle entries of study, models and Observations; the DiagnosticReport).

        ``subject``: Reference to the patient.
        """
        study = created(
            _without_empty(
                resourceType="ImagingStudy",
                identifier=[uid_identifier(str(self._document.StudyInstanceUID))],
                status="available",
                subject=subject,
                started=self._study_time,
                description=str(self._document.get("StudyDescription") or ""),
            )
        )
        devices = {name: created(device) for name, device in self._devices()}
        observations = [created(one) for one in self._observations(subject, study, devices)]
        report = self._report(subject, study, [reference(one) for one in observations])
        return [study, *devices.values(), *observations], report

    def _report(self, subject: Resource, study: Resource, results: Sequence[Resource]) -> Resource:
        """Return the DiagnosticReport.

        ``subject``: Reference to the patient; ``study``: Bundle entry of the study; ``results``: References
        to its Observations.
        """
        codes = [*self._procedures(), _IMAGING_STUDY]
        accession = str(self._document.get("AccessionNumber") or "")
        order = {
            "type": "ServiceRequest",
            "identifier": {"type": {"coding": [_ACCESSION]}, "value": accession},
        }
        return _without_empty(
            resourceType="DiagnosticReport",
            identifier=[{"use": "official", **uid_identifier(self.uid)}],
            basedOn=[order] if accession else [],
            status=PRELIMINARY,
            category=[{"coding": list(_RADIOLOGY)}],
            code={"coding": codes, "text": codes[0]["display"]},
            subject=subject,
            effectiveDateTime=self._study_time,
            issued=content_instant(self._document),
            result=results,
            imagingStudy=[reference(study)],
            conclusion="\n".join([f"{self._statement}:", *self._stated.short_result]),
        )

    @property
    def _statement(self) -> str:
        """The sentence that says that an AI made the report: it names the models or, without models, the
        pipeline of Software Versions (0018,1020).
        """
        models = ", ".join(f"{name}@{version}" for name, version, _ in self._models)
        *_, pipeline = listed(self._document.get("SoftwareVersions")) or ("unknown",)
        return f"AI, {models or pipeline.replace(' ', '@')}, not for diagnostic use, not assessed when made"

    @cached_property
    def _models(self) -> list[tuple[str, str, str]]:
        """(Name, version, Device UID (0018,1002)) of each model that made the report."""
        return [
            (str(item.ManufacturerModelName), str(item.SoftwareVersions), str(item.DeviceUID))
            for item in self._document.get("ContributingEquipmentSequence") or ()
            if str(item.get("ContributionDescription") or "").startswith(_OF_MODELS)
        ]

    @property
    def _study_time(self) -> str:
        """The date and time of the study as FHIR dateTime."""
        return date_time(self._document, "StudyDate", "StudyTime")

    def _procedures(self) -> list[Resource]:
        """Return Codings of LOINC for the procedure: those of Performed Procedure Code Sequence, else the
        procedure that the report states.
        """
        performed = self._document.get("PerformedProcedureCodeSequence") or ()
        reported = [
            code
            for item in self._document.ContentSequence
            if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].get("CodeValue") == _PROCEDURE
            for code in item.ConceptCodeSequence
        ]
        known = [
            [code for code in codes if code.get("CodingSchemeDesignator") == "LN" and "CodeValue" in code]
            for codes in (performed, reported)
        ]
        return [
            coding(self._systems, str(code.CodeValue), "LN", str(code.CodeMeaning))
            for code in known[0] or known[1]
        ]

    def _devices(self) -> Iterator[tuple[str, Resource]]:
        """Yield ("NAME VERSION", FHIR Device) for each model."""
        for name, version, uid in self._models:
            yield (
                f"{name} {version}",
                {
                    "resourceType": "Device",
                    "identifier": [uid_identifier(uid)],
                    "status": "active",
                    "manufacturer": MANUFACTURER,
                    "deviceName": [{"name": name, "type": "model-name"}],
                    "type": {"coding": [_SOFTWARE], "text": "AI model"},
                    "version": [{"value": version}],
                },
            )

    def _observations(
        self, subject: Resource, study: Resource, devices: Mapping[str, Resource]
    ) -> Iterator[Resource]:
        """Yield an Observation for each finding in the report's order, then for each measurement; findings of
        text burned into images are left out.

        ``subject``: Reference to the patient; ``study``: Bundle entry of the study; ``devices``: those of the
        models by "NAME VERSION". Raises FaultyInput if there are too many.
        """
        shown = [one for one in self._stated.findings if one.code != (BURNED_IN.value, BURNED_IN.scheme)]
        said = [(one.model, one.tracking_uid, self._finding(one)) for one in shown]
        said += [(one.model, one.tracking_uid, self._measurement(one)) for one in self._stated.numbers]
        if len(said) > MOST_OBSERVATIONS:
            raise FaultyInput(f"it has more than {MOST_OBSERVATIONS} findings and numbers")
        for at, (model, tracking, content) in enumerate(said):
            uids = [observation_uid(self.uid, at), *([tracking] if tracking else [])]
            yield _without_empty(
                resourceType="Observation",
                identifier=[uid_identifier(uid) for uid in uids],
                status=PRELIMINARY,
                category=[{"coding": [_IMAGING]}],
                subject=subject,
                effectiveDateTime=self._study_time,
                issued=content_instant(self._document),
                device=reference(devices[model]) if model in devices else {},
                derivedFrom=[reference(study)],
                **content,
            )

    def _finding(self, finding: StatedFinding) -> Resource:
        """Return the elements of an Observation that state this finding: code, decision, body site and
        scores.
        """
        code, display = _INTERPRETATIONS[finding.decision]
        meaning = {"system": f"{_HL7}/v3-ObservationInterpretation", "code": code, "display": display}
        return {
            "code": concept(self._systems, *finding.code, finding.meaning),
            "valueCodeableConcept": concept(self._systems, *finding.presence),
            "interpretation": [{"coding": [meaning]}],
            "bodySite": self._site(finding.sites),
            "component": [
                *self._side(finding.sites),
                *(
                    {"code": {"text": name}, "valueQuantity": _quantity(*number.split(" ", 1))}
                    for name, number in finding.numbers.items()
                ),
            ],
        }

    def _measurement(self, number: StatedNumber) -> Resource:
        """Return the elements of an Observation that state this measurement: code, value with unit, fetus,
        body site and side.
        """
        of_fetus = f", fetus {number.fetus}" if number.fetus else ""
        fetus = derived_uid("fhir fetus", str(self._document.StudyInstanceUID), number.fetus)
        value, scheme = number.code
        code = concept(self._systems, value, scheme, number.meaning)
        return {
            "code": {**code, "text": f"{number.meaning}{of_fetus}"},
            "valueQuantity": _quantity(str(number.value), number.unit[0]),
            # What is observed, where the subject is the mother. It is no resource of the server.
            "focus": [{"identifier": uid_identifier(fetus), "display": f"Fetus {number.fetus}"}]
            if number.fetus
            else [],
            "bodySite": self._site(number.sites),
            "component": self._side(number.sites),
        }

    def _side(self, sites: Sequence[StatedCode]) -> list[Resource]:
        """Return Observation components that state the side (laterality), because bodySite of FHIR R4 takes
        one concept only.

        ``sites``: the anatomical site, then its side if it has one; [] without a side.
        """
        return [
            {
                "code": concept(self._systems, *_LATERALITY),
                "valueCodeableConcept": concept(self._systems, *side),
            }
            for side in sites[1:]
        ]

    def _site(self, sites: Sequence[StatedCode]) -> Resource:
        """Return the anatomical site as bodySite, with its side in the text; {} without a site.

        ``sites``: the site, then its side if it has one.
        """
        if not sites:
            return {}
        [(value, scheme, meaning), *sides] = sites
        words = ", ".join([meaning, *(side for _, _, side in sides)])
        return {**concept(self._systems, value, scheme, meaning), "text": words}


def _quantity(value: str, unit: str) -> Resource:
    """Return a FHIR Quantity. ``unit``: its UCUM code."""
    return {"value": float(value), "unit": unit, "system": UNITS, "code": unit}


def _without_empty(**elements: Any) -> Resource:
    """Return the elements whose value is not empty, because FHIR allows no empty ones."""
    return {name: value for name, value in elements.items() if value}
