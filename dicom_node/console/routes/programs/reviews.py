"""The REST API of the review desk for cleaning: what waits, what a person decides, device rules."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Body, HTTPException
from pydantic import BaseModel, Field

from dicom_node.console.routes.programs.answers import STATUSES, VERSION, Asking, Name, Printable, Row
from dicom_node.console.web.access import Asked, Number, Since, needs
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import ReviewCause, ReviewVerdict
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from dicom_node.services.console.studies import device_rules, reviews

router = APIRouter(prefix=VERSION, responses=STATUSES)

Edge = Annotated[int, Field(ge=0, lt=100_000)]
Box = tuple[Edge, Edge, Edge, Edge]
"""Left, top, right, bottom in pixels of the image, the last two exclusive."""


class ReviewRow(Row):
    """An image whose cleaning a person should look at; ``verdict`` is null while it waits."""

    id: int
    study_id: int
    cause: ReviewCause
    verdict: ReviewVerdict | None


class Reviews(BaseModel):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    reviews: list[ReviewRow]
    next: int | None


class Boxes(Asking):
    """What a person saw that must go."""

    boxes: list[Box] = Field(min_length=1, max_length=reviews.MOST)


class NewRule(Boxes):
    """A device rule of these boxes."""

    name: str = Field(min_length=1, max_length=64, pattern=Printable)


class RuleTried(Row):
    """The rule as its file would have it, and the newest images of the device with its boxes."""

    name: str
    text: str


class RuleSaved(BaseModel):
    """The rule is saved; ``not_cleaned`` says why the image was not cleaned again, "" where it is."""

    name: str
    not_cleaned: str


class RuleDrawn(Row):
    """A device rule that was drawn here."""

    name: str


@router.get("/reviews")
@needs(UserRole.OPERATOR)
def list_reviews(asked: Asked, after: Since = None) -> Reviews:
    """What waits, the longest first."""
    with asked.site.database.read() as session:
        rows, more = reviews.waiting(session, after)
    return Reviews(reviews=[ReviewRow(**row) for row in rows], next=more)


@router.get("/reviews/device-rules")
@needs(UserRole.OPERATOR)
def list_rules(asked: Asked) -> list[RuleDrawn]:
    """The device rules that were drawn here."""
    return [RuleDrawn(**row) for row in device_rules.made_here(asked.site.settings)]


@router.delete("/reviews/device-rules/{name}", status_code=204)
@needs(UserRole.ADMIN)
def remove_rule(asked: Asked, name: Name, tasks: BackgroundTasks) -> None:
    """Take a device rule back that was drawn here."""
    device_rules.remove(asked.site.settings, name, asked.person)
    tasks.add_task(entered.apply, asked.site.settings)


@router.get("/reviews/{number}")
@needs(UserRole.OPERATOR)
def show(asked: Asked, number: Number) -> ReviewRow:
    """One image with the places that were found, and what a person drew before."""
    with asked.site.database.read() as session:
        found = reviews.show(session, asked.site.settings, number)
    audit.note_sight(asked.site.database, asked.person, found["study_id"])
    return ReviewRow(**found)


@router.post("/reviews/{number}/accept", status_code=204)
@needs(UserRole.OPERATOR)
def accept(asked: Asked, number: Number) -> None:
    """It stays as it is."""
    reviews.accept(asked.site.settings, number, asked.person)


@router.post("/reviews/{number}/boxes", status_code=204)
@needs(UserRole.OPERATOR)
def draw(asked: Asked, number: Number, drawn: Annotated[Boxes, Body()]) -> None:
    """Have the image cleaned again without what is in these boxes, in place of those drawn before."""
    try:
        reviews.draw(asked.site.settings, number, drawn.boxes, asked.person, asked.user.role)
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None


@router.post("/reviews/{number}/device-rule/try")
@needs(UserRole.OPERATOR)
def try_rule(asked: Asked, number: Number, rule: Annotated[NewRule, Body()]) -> RuleTried:
    """What a device rule of these boxes would black out; nothing is changed."""
    try:
        with asked.site.database.read() as session:
            found = device_rules.tried(session, asked.site.settings, number, rule.name, rule.boxes)
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None
    return RuleTried(**found)


@router.post("/reviews/{number}/device-rule")
@needs(UserRole.ADMIN)
def save_rule(
    asked: Asked, number: Number, rule: Annotated[NewRule, Body()], tasks: BackgroundTasks
) -> RuleSaved:
    """Save a device rule of these boxes, and clean the image again with it."""
    try:
        why_not = device_rules.save_and_clean(
            asked.site.settings, number, rule.name, rule.boxes, asked.person, asked.user.role
        )
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None
    tasks.add_task(entered.apply, asked.site.settings)
    return RuleSaved(name=rule.name, not_cleaned=why_not)
