"""Screens of devices that the node has learnt: what stays on each, for an admin to confirm."""

from typing import Annotated

from fastapi import Body, HTTPException, Response

from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, back_to
from dicom_console.web.languages import N_
from dicom_node.people import Row, screens
from dicom_node.people.screens import ChosenTexts

faces = Faces()

list_screens = faces.list_of(screens.list_screens)


@faces.handler("GET", "/screens/{number}", screens.show_screen)
def show(request: CurrentRequest, number: Number) -> Row:
    """Return a learnt screen with its texts: what stays, what goes, and what is asked about."""
    return Row(**request.read(screens.show_screen, request.settings, number))


@faces.page_of(show)
def _screen_page(request: ConsoleRequest, screen: Row) -> Response:
    """Return the page of a screen: its places as boxes, and the texts to choose from."""
    return request.page("screen.html", screen=screen)


@faces.handler("POST", "/screens/{number}/confirm", screens.confirm_screen)
def confirm(request: CurrentRequest, number: Number, chosen: Annotated[ChosenTexts, Body()]) -> Row:
    """Confirm a screen: these texts stay from now on, or all that are proposed if none is named."""
    stay = screens.confirm_screen(request.settings, number, chosen.texts, request.person)
    request.take_over()
    return Row(texts=stay)


@faces.page("POST", "/screens/{number}/confirm", screens.confirm_screen)
def confirm_form(request: CurrentRequest, number: Number) -> Response:
    """Confirm a screen with the texts that are ticked."""
    texts = request.fields().get("text", [])
    if not texts:
        raise HTTPException(400, N_("Tick a text that stays, or go back."))
    confirm(request, number, ChosenTexts(texts=texts))
    name = request.read(screens.show_screen, request.settings, number)["name"]
    return request.in_force(N_("The device rule %(name)s is saved."), "/reviews", name=name)


@faces.handler("GET", "/screens/{number}/rule", screens.export_screen)
def rule(request: CurrentRequest, number: Number) -> Row:
    """Return the file of a confirmed screen, which other sites can take."""
    return Row(text=screens.export_screen(request.settings, number))


@faces.page_of(rule)
def _rule_file(_request: ConsoleRequest, exported: Row) -> Response:
    """Return the file of a confirmed screen."""
    name = {"content-disposition": 'attachment; filename="screen.toml"'}
    return Response(f"{exported['text']}\n", media_type="application/toml", headers=name)


@faces.handler("POST", "/screens/{number}/forget", screens.forget_screen, back_to("/reviews"))
def forget(request: CurrentRequest, number: Number) -> None:
    """Delete what is counted of a screen, and its device rule: it is learnt anew."""
    screens.forget_screen(request.settings, number, request.person)
    request.take_over()
