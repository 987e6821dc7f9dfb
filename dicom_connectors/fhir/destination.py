"""FHIR destination: a report as one transaction, by HL7 FHIR R4 (4.0.1) over HTTP.

Of a server's OperationOutcome only the codes are read: its texts may name a patient.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote_plus

import requests
from pydicom.uid import Comprehensive3DSRStorage, generate_uid

from dicom_connectors.fhir.report import FiledReport, ReportTransaction, Resource, identifier_query, uids_of
from dicom_connectors.fhir.settings import FhirPeer
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.errors import FaultyInput
from dicom_node.deliver.scu import (
    Check,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
)
from dicom_node.deliver.scu.http import (
    FAULTY_ANSWER,
    UNREADABLE,
    HttpDestination,
    NotWhole,
    http_report,
)

_JSON: Final = "application/fhir+json"
_PATIENT: Final = re.compile(r"Patient/[A-Za-z0-9.-]{1,64}")
_MOST_PAGES: Final = 100
_MOST_HOPS: Final = 5  # from a patient to the one in force
_CREATED: Final = ("Device", "DiagnosticReport", "ImagingStudy", "Observation")
_RELEASES: Final = ("4.0", "4.3")  # R4 and R4B, which are the same for these resources
_UNNAMED: Final = SendReport(SendStatus.VERIFY, "HTTP 200", "the answer does not say what became of it")
_AMENDED: Final = SendReport(
    SendStatus.REFUSED, "", "the report that it replaces was amended there: correct that one by hand"
)
# The codes of issue-type (R4) that say why.
_ISSUES: Final = frozenset(
    {
        "invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired",
        "forbidden", "suppressed", "processing", "not-supported", "duplicate", "multiple-matches",
        "not-found", "deleted", "too-long", "code-invalid", "extension", "too-costly", "business-rule",
        "conflict", "transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled",
    }
)  # fmt: skip


class FhirDestination(HttpDestination):
    """A FHIR server as destination: each report is sent as one transaction."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._is_queried = peer.answers_queries
        self._systems = typed_section(peer, FhirPeer).patient_systems
        self._session.headers["Accept"] = _JSON
        self._session.auth = _login(peer)

    def test(self) -> list[Check]:
        """Check the server: read its CapabilityStatement, and search for a report that cannot exist."""

        def ask() -> list[Check]:
            """Return the checks of the CapabilityStatement and of the search."""
            checks = list(_capabilities(self._resource("metadata")))
            self._resources_by_uid("DiagnosticReport", generate_uid())
            return [*checks, Check("search", True, "search for reports answered")]

        return self._checked("FHIR", ask)

    def _store(self, item: Outgoing) -> SendReport:
        """Send a report; a newer report replaces the earlier one on the server.

        Objects that are no report are not sent, nor is a report whose predecessor a person has amended on the
        server.
        """
        if item.sop_class_uid != Comprehensive3DSRStorage:
            return SendReport(SendStatus.NARROWED, "", "reports only go there")
        try:
            report = ReportTransaction(item.path, self._systems)
            earlier = self._report_to_replace(report)
            if earlier is not None and report.uid in uids_of(earlier.report):
                return SendReport(SendStatus.STORED, "", "the server has it, or a newer one")
            if earlier is not None and not earlier.is_as_sent:
                return _AMENDED
            return self._post(report.bundle(self._patient(report), earlier))
        except FaultyInput as error:
            return SendReport(SendStatus.REFUSED, "", str(error))

    def _query(self, item: Outgoing) -> Confirmation:
        """Return whether the server has a DiagnosticReport with this object's UID."""
        if self._resources_by_uid("DiagnosticReport", item.sop_instance_uid):
            return Confirmation(Presence.FOUND)
        return Confirmation(Presence.NOT_FOUND, "the server does not show it")

    def _remains(self, item: Outgoing) -> Confirmation:
        """Return whether the report is still in force on the server.

        A withdrawn report is not deleted there, but marked as entered in error.
        """
        left = self._reports_in_force(item.sop_instance_uid)
        return Confirmation(Presence.FOUND if left else Presence.NOT_FOUND)

    def _delete(self, item: Outgoing) -> None:
        """Mark the report, and its Observations, as entered in error on the server.

        Raises ValueError if the server's resources make no valid transaction.
        """
        for one in self._reports_in_force(item.sop_instance_uid):
            try:
                self._post(one.withdrawn())
            except FaultyInput as error:  # the server's own resources are not as FHIR has them
                raise ValueError(str(error)) from None

    def _reports_in_force(self, uid: str) -> list[FiledReport]:
        """Return the server's DiagnosticReports whose newest content is this report (SOP Instance UID
        ``uid``), without those entered in error.
        """
        return [
            one for one in self._filed_reports(uid) if one.newest_uid == uid and not _is_wholly_withdrawn(one)
        ]

    def _post(self, bundle: str) -> SendReport:
        """Post a transaction Bundle in JSON, and return its outcome. Raises requests.RequestException."""
        headers = {"Content-Type": _JSON, "Prefer": "return=minimal"}
        answer = self._session.post(self._url, data=bundle.encode(), headers=headers, timeout=self._timeout)
        answer.raise_for_status()
        try:
            return _outcome(answer.json())
        except FAULTY_ANSWER:
            return _UNNAMED if self._is_queried else UNREADABLE

    def _report_to_replace(self, report: ReportTransaction) -> FiledReport | None:
        """Return the report on the server that ``report`` replaces, or ``report`` itself if it was sent
        before; None if the server has neither.
        """
        if not report.replaces:
            return None
        filed = self._filed_reports(report.uid, report.replaces)
        mine = [one for one in filed if report.uid in uids_of(one.report)]
        others = [one for one in filed if not one.is_withdrawn]
        return next(iter([*mine, *others]), None)

    def _filed_reports(self, *uids: str) -> list[FiledReport]:
        """Return the server's DiagnosticReports with one of these UIDs, each with the Observations that this
        node made.
        """
        return [
            self._with_observations(FiledReport(one))
            for one in self._resources_by_uid("DiagnosticReport", *uids)
        ]

    def _with_observations(self, filed: FiledReport) -> FiledReport:
        """Return the report with those of its Observations on the server that this node made."""
        observations = [one for place in filed.results for one in self._read(place)]
        return replace(filed, observations=[one for one in observations if filed.owns(one)])

    def _read(self, place: str) -> list[Resource]:
        """Return the resource at ``place``, such as Observation/12, as a list of one; [] if somebody has
        deleted it.
        """
        answer = self._session.get(f"{self._url}/{place}", timeout=self._timeout)
        if answer.status_code in (404, 410):
            return []
        answer.raise_for_status()
        return [answer.json()]

    def _patient(self, report: ReportTransaction) -> str:
        """Return ``Patient/ID`` if the server has exactly one active patient with the report's Patient ID, or
        in place of those with it, else "".

        It searches by POST, because the address of a GET would leave the Patient ID in the logs of proxies.
        """
        system, value = (report.patient.get(key, "") for key in ("system", "value"))
        if not system:
            return ""
        answer = self._session.post(
            f"{self._url}/Patient/_search",
            data={"identifier": f"{system}|{value}"},
            timeout=self._timeout,
        )
        if answer.status_code in (403, 404, 405):  # patients cannot be read: the report goes by identifier
            return ""
        answer.raise_for_status()
        pages = self._pages(answer.json(), secret=value)
        if pages is None:
            return ""
        found = [one for page in pages for one in _resources(page, "Patient")]
        if not _is_whole(pages, found):
            return ""
        mine = [one for one in found if _has_identifier(one, system, value)]
        places = {self._in_force(one) for one in mine} - {None}
        return places.pop() or "" if len(places) == 1 else ""

    def _in_force(self, patient: Resource, hops: int = 0) -> str | None:
        """Return ``Patient/ID`` of this patient, or of the one that replaced it (R4 8.1, Patient.link); "" if
        the server does not say which one that is, None for a patient that is not active.

        ``hops``: links that were followed.
        """
        if not (replaced_by := _replacements(patient)):
            return f"Patient/{patient['id']}" if patient.get("active", True) is True else None
        place = replaced_by.pop().removeprefix(f"{self._url}/")
        if replaced_by or not _PATIENT.fullmatch(place) or hops >= _MOST_HOPS:
            return ""
        try:
            found = [one for one in self._read(place) if one["resourceType"] == "Patient"]
        except requests.HTTPError:  # it may not be read
            return ""
        return (self._in_force(found[0], hops + 1) if found else None) or ""

    def _pages(self, first: Any, secret: str = "") -> list[Any] | None:
        """Return all pages of a search (R4 3.1.1.4, link "next"), ``first`` among them.

        None if a page is on another server, or its address contains ``secret``, or there are too many. Raises
        requests.RequestException, and FAULTY_ANSWER for what is no page.
        """
        pages = [first]
        while links := [one["url"] for one in pages[-1].get("link") or () if one["relation"] == "next"]:
            place = links[0].removeprefix(f"{self._url}/").removeprefix(self._url)
            leads_on = not re.match(r"[a-z]+:|/", place, re.IGNORECASE)
            if not leads_on or (secret and secret in unquote_plus(place)) or len(pages) >= _MOST_PAGES:
                return None
            joined = "" if place.startswith("?") else "/"
            answer = self._session.get(f"{self._url}{joined}{place}", timeout=self._timeout)
            answer.raise_for_status()
            pages.append(answer.json())
        return pages

    def _resources_by_uid(self, kind: str, *uids: str) -> list[Resource]:
        """Return the server's resources of the type ``kind`` that have one of these UIDs as identifier.

        Raises requests.RequestException.
        """
        pages = self._pages(self._resource(kind, identifier=identifier_query(*uids)))
        if pages is None:
            raise ValueError("a page that cannot be read")
        found = [one for page in pages for one in _resources(page, kind)]
        if not _is_whole(pages, found):
            raise NotWhole
        return [one for one in found if not {*uids}.isdisjoint(uids_of(one))]

    def _resource(self, place: str, **search: str) -> Any:
        """Return the JSON at ``place`` below the server's base URL, with ``search`` as query parameters.

        Raises requests.RequestException.
        """
        answer = self._session.get(f"{self._url}/{place}", params=search, timeout=self._timeout)
        answer.raise_for_status()
        return answer.json()

    def _problem(self, error: requests.RequestException) -> SendReport:
        """Return the report for a failed request, with the issue codes of the server's OperationOutcome."""
        report = super()._problem(error)
        codes = _issues(error.response)
        return replace(report, text=f"{report.text} ({', '.join(codes)})") if codes else report


def _login(peer: PeerSettings) -> Any:
    """Return the authentication for requests: user name and password, or a function that adds the bearer
    token if there is one.

    Either keeps requests from using a login of ~/.netrc for this host.
    """
    token = typed_section(peer, FhirPeer).token.get_secret_value()

    def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the bearer token, if there is one, to a request."""
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return (peer.username, peer.password.get_secret_value()) if peer.username else signed


def _capabilities(stated: Any) -> Iterator[Check]:
    """Yield checks on whether the server can take reports, by its CapabilityStatement ``stated``.

    Raises the errors in FAULTY_ANSWER if it is no such statement.
    """
    if stated["resourceType"] != "CapabilityStatement":
        raise ValueError("no CapabilityStatement")
    version = str(stated.get("fhirVersion") or "")[:16]
    is_r4 = version.startswith(_RELEASES)
    yield Check("FHIR", is_r4, f"version {version}{'' if is_r4 else ': this node speaks 4.0.1'}")
    [rest, *_] = stated["rest"]
    takes = any(one["code"] == "transaction" for one in rest.get("interaction") or ())
    yield Check("transaction", takes, "supported" if takes else "it does not say that it takes transactions")
    listed = {one["type"] for one in rest.get("resource") or () if one.get("conditionalCreate")}
    missing = [kind for kind in _CREATED if kind not in listed]
    text = f"it does not say so of {', '.join(missing)}: a result that is sent again may be there twice"
    yield Check("conditional create", not missing, text if missing else "supported")


def _outcome(answer: Any) -> SendReport:
    """Return what became of a transaction, by the server's answer to it (FHIR R4 3.1.0.11.2).

    Raises the errors in FAULTY_ANSWER if the answer does not say it.
    """
    if answer["resourceType"] != "Bundle" or not str(answer["type"]).endswith("-response"):
        raise ValueError("no answer to a transaction")
    statuses = [int(str(one["response"]["status"])[:3]) for one in answer["entry"]]
    failed = [status for status in statuses if not 200 <= status < 300]
    if failed:
        return http_report(failed[0])
    if not statuses:
        raise ValueError("it names no resource")
    return SendReport(SendStatus.STORED, "HTTP 200", "stored")


def _resources(answer: Any, kind: str) -> list[Resource]:
    """Return the resources of the type ``kind`` in a searchset Bundle.

    Raises the errors in FAULTY_ANSWER for any other answer.
    """
    if answer["resourceType"] != "Bundle" or answer["type"] != "searchset":
        raise ValueError("no searchset")
    found = [one["resource"] for one in answer.get("entry") or ()]
    return [one for one in found if one["resourceType"] == kind]


def _is_whole(pages: Sequence[Any], found: Sequence[Resource]) -> bool:
    """Return whether the resources ``found`` are all that the pages of a search say to be there."""
    return len(found) >= int(pages[0].get("total") or 0) and not any(map(_is_incomplete, pages))


def _is_incomplete(page: Any) -> bool:
    """Return whether a searchset Bundle has an OperationOutcome by which it may lack matches."""
    outcomes = _resources(page, "OperationOutcome")
    issues = (issue for outcome in outcomes for issue in outcome.get("issue") or ())
    said = {issue.get(key) for issue in issues for key in ("severity", "code")}
    return not said.isdisjoint({"fatal", "error", "incomplete", "timeout", "too-costly"})


def _has_identifier(patient: Resource, system: str, value: str) -> bool:
    """Return whether the Patient resource has the identifier ``value`` of the identifier system
    ``system``.
    """
    identifiers = patient.get("identifier") or ()
    return any((one.get("system"), one.get("value")) == (system, value) for one in identifiers)


def _replacements(patient: Resource) -> set[str]:
    """Return the references to patients that replaced this one."""
    links = [one for one in patient.get("link") or () if one.get("type") == "replaced-by"]
    return {str((one.get("other") or {}).get("reference") or "") for one in links}


def _is_wholly_withdrawn(filed: FiledReport) -> bool:
    """Return whether the report and all its Observations are marked as entered in error."""
    return all(FiledReport(one).is_withdrawn for one in (filed.report, *filed.observations))


def _issues(answer: requests.Response | None) -> list[str]:
    """Return up to three issue codes of an OperationOutcome; [] if the answer has none.

    Its texts are not used: they may name a patient.
    """
    try:
        issues = answer.json()["issue"] if answer is not None else ()
        named = {str(one["code"]) for one in issues}
    except FAULTY_ANSWER:
        return []
    return sorted(named & _ISSUES)[:3]
