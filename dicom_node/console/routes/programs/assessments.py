"""The REST API of assessment: findings one by one, and results that wait until a person has accepted them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, HTTPException
from pydantic import AwareDatetime, Field

from dicom_node.console.routes.programs.answers import (
    STATUSES,
    VERSION,
    Asking,
    Because,
    Done,
    Printable,
    Row,
)
from dicom_node.console.web.access import Asked, Number, Visit, needs
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import ReaderVerdict
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, work
from dicom_node.services.console.studies import assessment, feedback, listing

router = APIRouter(prefix=VERSION, responses=STATUSES)

AsOf = Annotated[str | None, Field(max_length=64, pattern=Printable)]


class StudyAssessment(Row):
    """How many results of a study wait or were rejected; ``as_of`` goes with a decision on them."""

    waiting: int
    rejected: int
    as_of: str


class Assessed(Row):
    """What a person said of a finding."""

    at: datetime
    actor: str
    verdict: ReaderVerdict


class FindingAssessed(Asking):
    """A finding of the study's newest report, as its page has it, and what it is; of what is modified or
    rejected also why."""

    finding: str = Field(max_length=64, pattern=Printable)
    model: str = Field(max_length=130, pattern=Printable)
    tracking_uid: str = Field("", max_length=64, pattern=Printable)
    verdict: ReaderVerdict
    because: str = Field("", max_length=work.LONGEST, pattern=Printable)


class AcceptResults(Asking):
    """``as_of``: of the results that were looked at; needed for rejected ones. Others are refused (409)."""

    as_of: AsOf = None


class RejectResults(Because):
    """The same, and why."""

    as_of: AsOf = None


@router.get("/studies/{number}/assessment")
@needs(UserRole.VIEWER)
def held(asked: Asked, number: Number) -> StudyAssessment:
    """Whether results of a study wait until a person has accepted them, and what was decided."""
    _uid(asked, number)
    with asked.site.database.read() as session:
        found = assessment.show(session, asked.site.settings, number)
    audit.note_sight(asked.site.database, asked.person, number)
    return StudyAssessment(**found)


@router.post("/studies/{number}/assessment/findings", status_code=204)
@needs(UserRole.READER)
def assess(asked: Asked, number: Number, said: Annotated[FindingAssessed, Body()]) -> None:
    """Assess a finding: accepted, modified, rejected, or missing."""
    about = {"finding": said.finding, "model": said.model, "tracking_uid": said.tracking_uid}
    try:
        feedback.give(asked.site.settings, number, about, said.verdict, asked.person, said.because)
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None


@router.post("/studies/{number}/assessment/accept")
@needs(UserRole.READER)
def accept(asked: Asked, number: Number, said: Annotated[AcceptResults, Body()]) -> Done:
    """Let the results leave that wait for it, or were rejected before."""
    uid = _uid(asked, number)
    return Done(objects=assessment.accept(asked.site.settings, uid, asked.person, as_of=said.as_of))


@router.post("/studies/{number}/assessment/reject")
@needs(UserRole.READER)
def reject(asked: Asked, number: Number, said: Annotated[RejectResults, Body()]) -> Done:
    """Let none of them leave."""
    uid, because = _uid(asked, number), said.because
    try:
        number = assessment.reject(asked.site.settings, uid, asked.person, because=because, as_of=said.as_of)
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None
    return Done(objects=number)


@router.post("/studies/{number}/assessment/send")
@needs(UserRole.READER)
def send(asked: Asked, number: Number) -> list[str]:
    """Send what you said of the findings to the peers that take it; returns their names."""
    return assessment.send(asked.site.settings, _uid(asked, number), asked.person)


@router.get("/assessments")
@needs(UserRole.READER)
def export(asked: Asked, since: AwareDatetime | None = None) -> list[Assessed]:
    """All assessments of findings, the oldest first."""
    audit.note_export(asked.site.database, asked.person, "feedback")
    with asked.site.database.read() as session:
        return [Assessed(**row) for row in feedback.rows(session, since=since)]


def _uid(asked: Visit, number: int) -> str:
    with asked.site.database.read() as session:
        return listing.uid(session, number)
