"""The review desk for cleaning: what waits for a person, boxes drawn by hand, device rules made of them."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response

from dicom_node.console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_node.errors import FaultyInput, NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.services.console.studies import device_rules, listing, pictures, reviews
from dicom_node.services.console.studies.pictures import PictureKind

router = APIRouter(prefix="/reviews")


@router.get("")
@needs(UserRole.OPERATOR)
def list_reviews(asked: Asked, after: Since = None) -> Response:
    """What waits, and what was decided."""
    with asked.site.database.read() as session:
        rows, more = reviews.waiting(session, after)
        done = reviews.decided(session) if after is None else []
    made = device_rules.made_here(asked.site.settings)
    return asked.page("reviews.html", rows=rows, more=more, first=after is None, done=done, made=made)


@router.post("/rules/remove")
@needs(UserRole.ADMIN)
def remove_rule(asked: Asked) -> Response:
    """Take a device rule back that was drawn here."""
    name = asked.text("name")[:64]
    device_rules.remove(asked.site.settings, name, asked.person)
    return asked.in_force(f"The device rule {name} is removed.", "/reviews")


@router.get("/{number}")
@needs(UserRole.OPERATOR)
def show(asked: Asked, number: Number) -> Response:
    """One image with what was found."""
    return _page(asked, number)


@router.post("/{number}/accept")
@needs(UserRole.OPERATOR)
def accept(asked: Asked, number: Number) -> Response:
    """It stays as it is."""
    reviews.accept(asked.site.settings, number, asked.person)
    return see_other("/reviews")


@router.post("/{number}/boxes")
@needs(UserRole.OPERATOR)
def boxes(asked: Asked, number: Number) -> Response:
    """Clean the image again with these boxes, or try or save a device rule of them."""
    act, settings = asked.text("act"), asked.site.settings
    if act not in ("clean", "try", "save"):
        raise HTTPException(400, "Say what is to be done with the boxes.")
    if act == "save" and not asked.user.role.includes(UserRole.ADMIN):
        raise HTTPException(403, "This needs the role admin: device rules are for all images of a device.")
    fields, name = asked.fields(), asked.text("name")[:64]
    try:
        drawn = reviews.boxes_of(fields)
        if act == "try":
            with asked.site.database.read() as session:
                found = device_rules.tried(session, settings, number, name, drawn)
            return asked.page("device_rule.html", number=number, found=found)
        if act == "save":
            why_not = device_rules.save_and_clean(
                settings, number, name, drawn, asked.person, asked.user.role
            )
            return _saved(asked, number, name, why_not)
        reviews.draw(settings, number, drawn, asked.person, asked.user.role)
    except (FaultyInput, NotAllowedNow) as error:
        status = 400 if isinstance(error, FaultyInput) else 409
        return _page(asked, number, fields=fields, name=name, problem=str(error), status=status)
    return see_other("/reviews")


def _saved(asked: Visit, number: int, name: str, why_not: str) -> Response:
    """The rule is saved; ``why_not``: why this image was not cleaned again, "" where it is."""
    if not why_not:
        return asked.in_force(f"The device rule {name} is saved; the image is cleaned again.", "/reviews")
    besides = f"This image was not cleaned again with it, and waits as before: {why_not}."
    return asked.in_force(f"The device rule {name} is saved.", f"/reviews/{number}", besides)


def _page(
    asked: Visit,
    number: int,
    *,
    fields: dict[str, list[str]] | None = None,
    name: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    with asked.site.database.read() as session:
        review = reviews.show(session, asked.site.settings, number)
        shown = pictures.find(session, asked.site.settings, PictureKind.IMAGES, review["instance_id"])
        study = listing.whose(session, asked.site.settings, review["study_id"])
    audit.note_sight(asked.site.database, asked.person, review["study_id"])
    edges = ("left", "top", "right", "bottom")
    given = (
        [list(map(str, box)) for box in review["drawn"]]
        if fields is None
        else [list(box) for box in zip(*(fields.get(edge, []) for edge in edges), strict=False)]
    )
    empty = [["", "", "", ""]] * (reviews.MOST - len(given))
    return asked.page(
        "review.html", status, review=review, study=study,
        given=[*given[: reviews.MOST], *empty], edges=edges, name=name,
        problem=problem, frames=pictures.frames(shown, asked.site.settings),
    )  # fmt: skip
