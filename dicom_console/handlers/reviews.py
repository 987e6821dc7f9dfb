"""Review of cleaned images: the waiting images, boxes drawn by hand, and device rules made from the boxes."""

from typing import Annotated

from fastapi import Body, HTTPException, Response

from dicom_console.views import listing, pictures, viewer
from dicom_console.views.pictures import PictureKind
from dicom_console.web.faces import ROWS, ConsoleRequest, CurrentRequest, Faces, Number, Since, see_other
from dicom_console.web.languages import N_
from dicom_node.base.actions.action import role_of
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.store.views import View
from dicom_node.people import Done, Row, cleaning_reviews, device_rules, screens
from dicom_node.people.cleaning_reviews import Boxes, Reviews
from dicom_node.people.device_rules import NewRule

faces = Faces()

_EDGES = ("left", "top", "right", "bottom")


@faces.handler("GET", "/reviews", cleaning_reviews.waiting_reviews)
def list_reviews(request: CurrentRequest, after: Since = None) -> Reviews:
    """Return the images that wait for a person's review of their cleaning, the longest waiting first."""
    rows, more = request.read(cleaning_reviews.waiting_reviews, after)
    return Reviews(reviews=[Row(**row) for row in rows], next=more)


@faces.page_of(list_reviews)
def _reviews_page(request: ConsoleRequest, found: Reviews) -> Response:
    """Return the page of images that wait for a review of their cleaning."""
    first = not request.query("after")
    return request.page(
        "reviews.html",
        rows=found.reviews,
        more=found.next,
        first=first,
        groups=request.read(cleaning_reviews.waiting_groups) if first else [],
        screens=_learnt_screens(request) if first else [],
    )


def _learnt_screens(request: ConsoleRequest) -> list[View]:
    """Return the newest screens that are learnt, for a person who may confirm them; none for others."""
    if not request.user.role.includes(role_of(screens.list_screens)):
        return []
    return request.read(screens.list_screens, request.settings, limit=ROWS)


@faces.handler("GET", "/reviews/{number}", cleaning_reviews.show_review)
def show(request: CurrentRequest, number: Number) -> Row:
    """Return one image that waits for a review, with the detected text and boxes drawn before."""
    found = request.read(cleaning_reviews.show_review, request.settings, number)
    request.note_sight(found["study_id"])
    return Row(**found)


def _to_the_next(request: ConsoleRequest, _done: None = None) -> Response:
    """Redirect to the next image that waits for a review, or to the list if none does."""
    following = request.read(cleaning_reviews.review_after, int(request.http.path_params["number"]))
    return see_other(f"/reviews/{following}" if following else "/reviews")


@faces.handler("POST", "/reviews/{number}/accept", cleaning_reviews.accept_cleaning, _to_the_next)
def accept(request: CurrentRequest, number: Number) -> None:
    """Accept the cleaning of an image (removal of burned-in text): it stays as it is."""
    cleaning_reviews.accept_cleaning(request.settings, number, request.person)


@faces.handler(
    "POST",
    "/reviews/{number}/accept_alike",
    cleaning_reviews.accept_alike,
    lambda _request, _done: see_other("/reviews"),
)
def accept_alike(request: CurrentRequest, number: Number) -> Done:
    """Accept the cleaning of all waiting images of the device and cause of this one, up to it; images that
    are withheld or in doubt are looked at one by one.
    """
    return Done(objects=cleaning_reviews.accept_alike(request.settings, number, request.person))


@faces.handler("POST", "/reviews/{number}/boxes", cleaning_reviews.draw_boxes)
def draw(request: CurrentRequest, number: Number, drawn: Annotated[Boxes, Body()]) -> None:
    """Clean an image again, and also black out the content of these boxes.

    They replace boxes that a person drew before.
    """
    cleaning_reviews.draw_boxes(request.settings, number, drawn.boxes, request.person, request.user.role)


@faces.handler("POST", "/reviews/{number}/device-rule/try", device_rules.try_device_rule)
def try_rule(request: CurrentRequest, number: Number, rule: Annotated[NewRule, Body()]) -> Row:
    """Show what a device rule with these boxes would black out; nothing is changed."""
    return Row(**request.read(device_rules.try_device_rule, request.settings, number, rule.name, rule.boxes))


@faces.handler("POST", "/reviews/{number}/device-rule", device_rules.save_rule)
def save_rule(request: CurrentRequest, number: Number, rule: Annotated[NewRule, Body()]) -> Row:
    """Save a device rule with these boxes, and clean the image again.

    A device rule names areas to black out in all images of a device. ``not_cleaned`` in the answer says why
    the second cleaning failed, "" if it did not.
    """
    why_not = device_rules.save_rule(
        request.settings, number, rule.name, rule.boxes, request.person, request.user.role
    )
    request.take_over()
    return Row(name=rule.name, not_cleaned=why_not)


@faces.page_of(show)
def _review_page(request: ConsoleRequest, review: Row) -> Response:
    """Return the page on which a person reviews the cleaning of one image."""
    return _form(request, review, [list(map(str, box)) for box in review["drawn"]])


@faces.page("POST", "/reviews/{number}/boxes", cleaning_reviews.draw_boxes)
def use_boxes(request: CurrentRequest, number: Number) -> Response:
    """Clean the image again with the boxes drawn in the form or, as the form says, test or save a device rule
    with them.
    """
    act, name = request.text("act"), request.text("name")[:64]
    if act not in ("clean", "try", "save"):
        raise HTTPException(400, "Choose an action for the boxes.")
    if act == "save" and not request.user.role.includes(role_of(device_rules.save_rule)):
        raise HTTPException(403, "This needs the role admin: device rules are for all images of a device.")
    try:
        boxes = cleaning_reviews.boxes_of(request.fields())
        rule = NewRule.model_construct(name=name, boxes=boxes)  # the service says what is wrong with it
        if act == "try":
            return request.page("device_rule.html", number=number, found=try_rule(request, number, rule))
        if act == "save":
            return _saved(request, number, save_rule(request, number, rule))
        draw(request, number, rule)
    except (FaultyInput, NotAllowedNow) as error:
        status = 400 if isinstance(error, FaultyInput) else 409
        edges = (request.fields().get(edge, []) for edge in _EDGES)
        given = [list(box) for box in zip(*edges, strict=False)]
        return _form(request, show(request, number), given, name=name, problem=str(error), status=status)
    return _to_the_next(request)


def _saved(request: ConsoleRequest, number: int, saved: Row) -> Response:
    """Return the page after a device rule was saved; it says whether the image was cleaned again.

    ``saved``: the outcome.
    """
    if not saved["not_cleaned"]:
        cleaned = N_("The device rule %(name)s is saved; the image is cleaned again.")
        return request.in_force(cleaned, "/reviews", name=saved["name"])
    besides = f"This image was not cleaned again with it, and waits as before: {saved['not_cleaned']}."
    return request.in_force(
        N_("The device rule %(name)s is saved."), f"/reviews/{number}", besides, name=saved["name"]
    )


def _form(
    request: ConsoleRequest,
    review: Row,
    edges: list[list[str]],
    *,
    name: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    """Return the page of one review.

    ``edges``: (left, top, right, bottom) of each box as typed; ``name``: of a device rule; ``problem``: what
    is wrong with the form, "" for nothing.
    """
    shown = request.read(pictures.find, request.settings, PictureKind.IMAGES, review["instance_id"])
    empty = [["", "", "", ""]] * (cleaning_reviews.MOST_BOXES - len(edges))
    return request.page(
        "review.html",
        status,
        review=review,
        study=request.read(listing.study_heading, request.settings, review["study_id"]),
        given=[*edges[: cleaning_reviews.MOST_BOXES], *empty],
        edges=_EDGES,
        name=name,
        problem=problem,
        about=viewer.described(shown) | {"frame": 1},
        following=request.read(cleaning_reviews.review_after, review["id"]),
    )
