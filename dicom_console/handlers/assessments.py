"""Assessments: findings one by one, and results that wait until a person has accepted them."""

from typing import Annotated

from fastapi import Body
from pydantic import AwareDatetime

from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, back_to
from dicom_node.base.lifecycle import AuditAction, ReaderVerdict, UserRole
from dicom_node.people import Done, Row, audit, reviews
from dicom_node.people.reviews import (
    AcceptResults,
    FindingAssessed,
    RejectResults,
)

faces = Faces()
_BACK = back_to("/studies/{number}")


def _finding_of_form(request: ConsoleRequest) -> FindingAssessed:
    """The assessment in a form. A missing finding is chosen together with its model, and has no place."""
    given = {name: request.text(name) for name in FindingAssessed.model_fields}
    if given["verdict"] == ReaderVerdict.MISSING:
        finding, _, model = given["finding"].partition(" | ")
        given |= {"finding": finding, "model": model, "tracking_uid": ""}
    return FindingAssessed.model_validate(given)


@faces.handler("GET", "/studies/{number}/assessment", UserRole.VIEWER)
def held(request: CurrentRequest, number: Number) -> Row:
    """The results of a study that wait for a person, and what was decided before."""
    request.study_uid(number)
    found = request.read(reviews.held_results, request.settings, number)
    audit.note_sight(request.site.database, request.person, number)
    return Row(**found)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/findings",
    UserRole.READER,
    back_to("/studies/{number}#findings"),
    at="/studies/{number}/feedback",
    reads=_finding_of_form,
)
def assess(request: CurrentRequest, number: Number, given: Annotated[FindingAssessed, Body()]) -> None:
    """Assess a finding: accepted, modified, rejected, or missing."""
    reviews.assess(request.settings, number, given, request.person)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/accept",
    UserRole.READER,
    _BACK,
    at="/studies/{number}/accept",
)
def accept(request: CurrentRequest, number: Number, given: Annotated[AcceptResults, Body()]) -> Done:
    """Accept results that wait for an assessment or were rejected before, so that they are sent."""
    uid = request.study_uid(number)
    return Done(objects=reviews.accept_results(request.settings, uid, request.person, as_of=given.as_of))


@faces.handler(
    "POST",
    "/studies/{number}/assessment/reject",
    UserRole.READER,
    _BACK,
    at="/studies/{number}/reject",
)
def reject(request: CurrentRequest, number: Number, given: Annotated[RejectResults, Body()]) -> Done:
    """Reject the waiting results of a study: none of them is sent."""
    rejected = reviews.reject_results(
        request.settings, request.study_uid(number), request.person, because=given.because, as_of=given.as_of
    )
    return Done(objects=rejected)


@faces.handler(
    "POST",
    "/studies/{number}/assessment/send",
    UserRole.READER,
    _BACK,
    at="/studies/{number}/assessment",
)
def send(request: CurrentRequest, number: Number) -> list[str]:
    """Send your assessments to the peers that take them; returns the peers' names."""
    return reviews.send_assessments(request.settings, request.study_uid(number), request.person)


@faces.handler("GET", "/assessments", UserRole.READER)
def export(request: CurrentRequest, since: AwareDatetime | None = None) -> list[Row]:
    """All assessments of findings, the oldest first."""
    with request.site.database.write() as session:
        audit.note(session, request.person, AuditAction.EXPORTED, list="feedback")
    return [Row(**row) for row in request.read(reviews.all_assessments, since=since)]
