"""Studies: the list, the page of one study, and the actions of a person.

Assessments: findings one by one, and results that wait until a person has accepted them.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Body, HTTPException, Query, Response
from pydantic import AwareDatetime

from dicom_console.views import listing, models, pictures, search
from dicom_console.views.pictures import PictureKind
from dicom_console.views.search import Order, Search
from dicom_console.web.faces import (
    ConsoleRequest,
    CurrentRequest,
    Faces,
    Number,
    Since,
    Text,
    back_to,
    see_other,
)
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import AuditAction, ReaderVerdict, RejectionReason, StudyState, UserRole
from dicom_node.base.store import views
from dicom_node.people import (
    Done,
    Row,
    assessments,
    audit,
    held_results,
    outbox,
    spool,
    studies,
    users,
    verdicts,
    withdrawal,
)
from dicom_node.people.held_results import AcceptResults, RejectResults
from dicom_node.people.outbox import Receiver
from dicom_node.people.studies import Studies, Wanted
from dicom_node.people.verdicts import FindingAssessed

faces = Faces()
_BACK = back_to("/studies/{number}")
_FILTERS = ("state", "modality", "sender", "finding", "since", "until", "days", "day", "order", "person")
_PICK = re.compile(r"[0-9]{1,8}(-[0-9]{1,8})?")  # "7", or "7-2": it counts only together with answer 2
_IN_ADDRESS = tuple(name for name in _FILTERS if name != "person")  # that one is of this session only

Date = Annotated[str, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")]


@faces.handler("GET", "/studies", views.list_studies)
def list_studies(
    request: CurrentRequest,
    state: Annotated[list[StudyState | Literal["held", "trial"]] | None, Query()] = None,
    modality: Annotated[str, Query(max_length=16, pattern=r"^[A-Z0-9_]*$")] = "",
    sender: Annotated[str, Query(max_length=16, pattern=r"^[ -\[\]-~]*$")] = "",  # an AE title
    finding: Text = "",
    since: Date = "",
    until: Date = "",
    days: Annotated[int | None, Query(ge=1, le=366)] = None,
    day: Date = "",
    order: Order = Order.RECEIVED,
    after: Since = None,
) -> Studies:
    """Return studies, a page at a time.

    ``since`` and ``until``: Study Dates, YYYY-MM-DD. ``sender``: a calling AE title. ``finding``: only
    studies in whose newest reports this finding is present. ``days``: only studies that received an object in
    the last so many days, today included; ``day``: on this day, YYYY-MM-DD. Without a ``state`` pictures that
    a person tried are left out.
    """
    about = _searched_for(request)
    received, received_until = _times_received(days, day)
    wanted = Search(
        patient=about.get("patient", ""),
        words=search.name_words(request.settings, about.get("name", "")),
        accession=about.get("accession", ""),
        modality=modality,
        sender=sender.strip(),
        finding=finding.strip(),
        since=since.replace("-", ""),
        until=until.replace("-", ""),
        received=received,
        received_until=received_until,
        states=state or (),
        order=order,
    )
    request.note_list("studies")
    return _studies_found(request, wanted, after)


def first_midnight(days: int, today: date) -> datetime:
    """Return when the first of so many ``days`` up to ``today`` began by this machine's clock, whatever time
    it kept then.
    """
    return datetime.combine(today - timedelta(days=days - 1), time()).astimezone()


def _times_received(days: int | None, day: str) -> tuple[datetime | None, datetime | None]:
    """Return from when and until when an object of a study has to have come. ``day``: goes before ``days``.
    Raises FaultyInput for a day that does not exist.
    """
    if day:
        try:
            chosen = date.fromisoformat(day)
            return first_midnight(1, chosen), first_midnight(1, chosen + timedelta(days=1))
        except (ValueError, OverflowError):
            raise FaultyInput(f"{day!r} is no day: write it as 2026-03-01") from None
    return (first_midnight(days, datetime.now().astimezone().date()) if days else None), None


@faces.page_of(list_studies)
def _studies_page(request: ConsoleRequest, found: Studies) -> Response:
    """Return the page of a list of studies, with its filters."""
    filters = {"order": Order.RECEIVED.value}
    filters |= {key: value for key in _FILTERS if (value := request.query(key))}
    return request.page(
        "studies.html",
        rows=found.studies,
        names=request.read(search.names, request.settings, [row["id"] for row in found.studies]),
        more=found.next,
        first=not request.query("after"),
        filters=filters,
        about=_searched_for(request),
        states=[*StudyState, views.HELD, views.TRIAL],
        findings=models.findings(request.settings),
    )


@faces.handler("POST", "/studies/search", views.list_studies)
def search_studies(
    request: CurrentRequest, wanted: Annotated[Wanted, Body()], after: Since = None
) -> Studies:
    """Return the studies of a patient (by name or Patient ID), or with an accession number."""
    with request.site.database.write() as session:
        by = [key for key, value in wanted if value]
        audit.note(session, request.person, AuditAction.STUDY_SEARCHED, searched_by=by)
    words = search.name_words(request.settings, wanted.name)
    return _studies_found(
        request, Search(patient=wanted.patient, words=words, accession=wanted.accession), after
    )


@faces.page("POST", "/studies/search", views.list_studies)
def keep_search(request: CurrentRequest) -> Response:
    """Store the searched name, Patient ID and accession number in the session, and redirect to the list;
    further filters go into the address.
    """
    given = {key: request.text(key)[:64] for key in ("name", "accession")} | {"patient": request.patient_id()}
    about = {key: value for key, value in given.items() if value}
    users.keep_search(request.site.database, request.token, about, request.person)
    rest = {key: request.text(key)[:16] for key in _IN_ADDRESS}
    rest["finding"] = request.text("finding")[:64]
    rest["modality"] = rest["modality"].upper()
    return see_other("/studies", **rest, person="1" if about else "")


@faces.page("GET", "/studies/{number}/thumbnail", UserRole.VIEWER)
def thumbnail(request: CurrentRequest, number: Number) -> Response:
    """Return the small picture of an image, for the list of studies.

    ``number``: of the image. The audit has the list.
    """
    shown = request.read(pictures.find, request.settings, PictureKind.IMAGES, number)
    return Response(pictures.thumbnail(shown), media_type="image/jpeg")


@faces.handler("GET", "/studies/{number}", views.show_study)
def show(request: CurrentRequest, number: Number) -> Row:
    """Return one study with its images, findings, results, jobs and events."""
    study = request.read(listing.show, request.settings, number)
    request.note_sight(number)
    return Row(**study)


def _viewer_links(viewers: Mapping[str, str], study: Row) -> dict[str, str]:
    """Return the study's address in each configured viewer, by the viewer's name.

    ``viewers``: addresses with placeholders; those that need an accession number are left out if the study
    has none.
    """
    uid, accession = str(study["study"]), str(study["accession"] or "")
    if not re.fullmatch(r"[\d.]+", uid):
        return {}
    values = {"{study}": uid, "{accession}": quote(accession, safe="")}
    return {
        name: re.sub(r"{\w+}", lambda found: values[found[0]], address)
        for name, address in viewers.items()
        if accession or "{accession}" not in address
    }


@faces.page_of(show)
def _study_page(request: ConsoleRequest, study: Row) -> Response:
    """Return the page of one study."""
    had = {sent["destination"] for row in study["results"] for sent in row["deliveries"]}
    takers = [one.name for one in request.settings.peers if "receive" in one.may and one.results]
    further = [name for name in takers if name not in had and study["withdrawn"] != "all"]
    return request.page(
        "study.html",
        study=study,
        further=further,
        open_in=_viewer_links(request.settings.console.open_in, study),
    )


@faces.handler("POST", "/studies/{number}/rerun", studies.rerun_rules, _BACK)
def rerun(request: CurrentRequest, number: Number) -> list[Row]:
    """Apply the rules to a study again; returns a row for each rule that takes the study."""
    return [
        Row(**row)
        for row in studies.rerun_rules(request.settings, [request.study_uid(number)], request.person)
    ]


@faces.handler("POST", "/studies/{number}/send", studies.send_studies, _BACK)
def send(request: CurrentRequest, number: Number, to: Annotated[Receiver, Body()]) -> Done:
    """Send the newest results of a study to a further peer."""
    return Done(
        objects=outbox.send_study(request.settings, request.study_uid(number), to.peer, request.person)
    )


@faces.handler("POST", "/studies/{number}/erase", spool.erase_study, _BACK)
def erase(request: CurrentRequest, number: Number) -> Done:
    """Delete the received images and built results of a study; 409 while a job or a delivery is under way."""
    return Done(objects=spool.erase_study(request.settings, request.study_uid(number), request.person))


@faces.page("GET", "/studies/{number}/withdraw", withdrawal.withdraw_studies)
def ask_to_withdraw(request: CurrentRequest, number: Number) -> Response:
    """Show the form for withdrawing results, with the effect of a withdrawal and the results withdrawn
    before.
    """
    shown = request.read(withdrawal.results_to_withdraw, request.settings, number)
    study = request.read(listing.study_heading, request.settings, number)
    request.note_sight(number)
    return request.page("withdraw.html", number=number, shown=shown, study=study)


@faces.page("POST", "/studies/{number}/withdraw", withdrawal.withdraw_studies)
def withdraw(request: CurrentRequest, number: Number) -> Response:
    """Withdraw the results chosen in the form, and show the study's withdrawals."""
    numbers = request.fields().get("result", [])
    chosen = [int(one) for one in numbers if one.isascii() and one.isdecimal() and len(one) < 9]
    try:
        reason = RejectionReason(request.text("reason"))
    except ValueError:
        raise HTTPException(400, "Say whether it is for quality or for the patient's safety.") from None
    withdrawal.withdraw_results(
        request.settings,
        request.study_uid(number),
        chosen,
        reason=reason,
        because=request.text("because"),
        by=request.person,
    )
    return see_other(f"/studies/{number}/withdraw")


@faces.page("GET", "/studies/{number}/versions", studies.versions)
def versions(request: CurrentRequest, number: Number) -> Response:
    """Show the patients and versions of objects to choose from before a study leaves quarantine."""
    uid = request.study_uid(number)
    request.note_sight(number)
    rows = studies.versions(request.settings, uid)
    return request.page(
        "versions.html",
        study=request.read(listing.brief, number),
        questions=listing.questions(rows),
        registered={row["choose"]: row["differs"] for row in rows if row["number"] is None},
        as_of=rows[0]["as_of"] if rows else "",
    )


@faces.page("POST", "/studies/{number}/release", studies.release_studies)
def release(request: CurrentRequest, number: Number) -> Response:
    """Release a study from quarantine with the patient and versions chosen in the form."""
    picked = [one for key, values in request.fields().items() if key.startswith("take") for one in values]
    answers = [one.partition("-") for one in picked if _PICK.fullmatch(one)]
    taken = {number for number, _, _ in answers}  # a form sends also what belongs to a patient who is not
    take = sorted({int(number) for number, _, patient in answers if not patient or patient in taken})
    as_of = request.text("as_of") if take else None  # a choice says among what it was made
    studies.release(request.settings, request.study_uid(number), take, request.person, as_of=as_of)
    return see_other(f"/studies/{number}")


def _searched_for(request: ConsoleRequest) -> dict[str, str]:
    """Return the name, Patient ID or accession number that the person searched for, from the session; {} for
    a list without such a search.
    """
    return (
        users.search_of(request.site.database, request.token)
        if request.token and request.query("person")
        else {}
    )


def _studies_found(request: ConsoleRequest, wanted: Search, after: int | None) -> Studies:
    """Return one page of the studies that match a search."""
    rows, more = request.read(search.search, wanted, after)
    return Studies(studies=[Row(**row) for row in rows], next=more)


def _finding_of_form(request: ConsoleRequest) -> FindingAssessed:
    """Return a reader's assessment of a finding from a form.

    A finding that the AI missed is chosen together with its model, and has no tracking UID.
    """
    given = {name: request.text(name) for name in FindingAssessed.model_fields}
    if given["verdict"] == ReaderVerdict.MISSING:
        finding, _, model = given["finding"].partition(" | ")
        given |= {"finding": finding, "model": model, "tracking_uid": ""}
    return FindingAssessed.model_validate(given)


@faces.handler("GET", "/studies/{number}/assessment", UserRole.VIEWER)
def held(request: CurrentRequest, number: Number) -> Row:
    """Return the results of a study that wait for a person, and what was decided before."""
    request.study_uid(number)
    found = request.read(held_results.held_results, request.settings, number)
    request.note_sight(number)
    return Row(**found)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/findings",
    verdicts.assess,
    back_to("/studies/{number}#findings"),
    at="/studies/{number}/feedback",
    reads=_finding_of_form,
)
def assess(request: CurrentRequest, number: Number, given: Annotated[FindingAssessed, Body()]) -> None:
    """Store a reader's assessment of a finding: accepted, modified, rejected, or missing."""
    verdicts.assess(request.settings, number, given, request.person)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/accept",
    held_results.accept_results,
    _BACK,
    at="/studies/{number}/accept",
)
def accept(request: CurrentRequest, number: Number, given: Annotated[AcceptResults, Body()]) -> Done:
    """Accept results of a study that wait for a person or were rejected before: they are sent."""
    uid = request.study_uid(number)
    return Done(objects=held_results.accept_results(request.settings, uid, request.person, as_of=given.as_of))


@faces.handler(
    "POST",
    "/studies/{number}/assessment/reject",
    held_results.reject_results,
    _BACK,
    at="/studies/{number}/reject",
)
def reject(request: CurrentRequest, number: Number, given: Annotated[RejectResults, Body()]) -> Done:
    """Reject the waiting results of a study: none of them is sent."""
    rejected = held_results.reject_results(
        request.settings, request.study_uid(number), request.person, because=given.because, as_of=given.as_of
    )
    return Done(objects=rejected)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/send",
    assessments.send_assessments,
    _BACK,
    at="/studies/{number}/assessment",
)
def send_assessments(request: CurrentRequest, number: Number) -> list[str]:
    """Send your assessments to the peers that take them; returns the peers' names."""
    return assessments.send_assessments(request.settings, request.study_uid(number), request.person)


@faces.handler("GET", "/assessments", verdicts.all_assessments)
def export(request: CurrentRequest, since: AwareDatetime | None = None) -> list[Row]:
    """Return all assessments of findings, the oldest first. ``since``: only those made since then."""
    with request.site.database.write() as session:
        audit.note(session, request.person, AuditAction.EXPORTED, list="feedback")
    return [Row(**row) for row in request.read(verdicts.all_assessments, since=since)]
