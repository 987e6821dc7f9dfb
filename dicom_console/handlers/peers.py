"""Peers: the configured peers, machines that called, and the reasons why a machine was refused."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from dicom_console.forms import peer as peer_form
from dicom_console.handlers.entered import add_handlers, put
from dicom_console.views import directory
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Name
from dicom_console.web.languages import SAVED
from dicom_node.base.errors import FaultyInput, HoldUndercut, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import Row, advice, callers, entered
from dicom_node.people.peers import list_peers, try_peers

faces = Faces()
add_handlers(faces, "peers")

Caller = Annotated[str, Query(max_length=64, pattern=r"^[ -~]*$")]


@faces.handler("GET", "/peers", list_peers)
def peers(request: CurrentRequest) -> list[Row]:
    """Return the configured peers, each with its last association."""
    return [Row(**row) for row in request.read(directory.peers, request.settings)]


@faces.page_of(peers)
def _peers_page(request: ConsoleRequest, rows: list[Row]) -> Response:
    """Return the page of all peers, and of callers that are no peer."""
    strangers = request.read(directory.strangers, request.settings)
    return request.page("peers.html", rows=rows, strangers=strangers, days=directory.DAYS)


@faces.page("GET", "/peers/why", UserRole.VIEWER)
def why(request: CurrentRequest, caller: Caller = "") -> Response:
    """Show what a machine tried, what was refused, and the settings that would allow it.

    ``caller``: its AE title or address, "" for a list of refused callers.
    """
    caller, found, problem = caller.strip(), None, ""
    try:
        found = callers.why(request.settings, caller, _since()) if caller else None
    except NotFound as error:
        problem = str(error)
    return request.page(
        "why.html",
        caller=caller,
        found=found,
        problem=problem,
        refused=[] if caller else request.read(directory.refused),
        days=directory.DAYS,
    )


@faces.page("GET", "/peers/new", entered.save_entry)
def new(request: CurrentRequest, caller: Caller = "", host: Caller = "") -> Response:
    """Show the form for a new peer, filled in with what is known of a caller. ``caller``: its AE title."""
    known = {"name": [advice.short_name(caller)], "ae_title": [caller], "host": [host]}
    return request.page("peer_form.html", **peer_form.empty(known))


@faces.page("GET", "/peers/{name}/change", entered.save_entry)
def change(request: CurrentRequest, name: str) -> Response:
    """Show the form for changing the peer ``name``, filled in with its present settings."""
    return request.page(
        "peer_form.html", **peer_form.filled(entered.show_entry(request.settings, "peers", name))
    )


@faces.handler("POST", "/peers/{name}/test", try_peers)
def test_peer(request: CurrentRequest, name: Name) -> list[Row]:
    """Test each step that delivery to this peer needs; nothing is stored there."""
    request.settings.peer(name)
    return try_peers(request.settings, [name], request.person)


@faces.page("GET", "/peers/{name}", UserRole.VIEWER)
def show(request: CurrentRequest) -> Response:
    """Show one peer."""
    return _page(request, None)


@faces.page_of(test_peer)
def _page(request: ConsoleRequest, checks: list[Row] | None) -> Response:
    """Return the page of a peer. ``checks``: the results of a test just done, None without one."""
    name = request.http.path_params["name"]
    return request.page(
        "peer.html",
        peer=request.read(directory.peer, request.settings, name),
        found=callers.why(request.settings, name, _since()),
        checks=checks,
        days=directory.DAYS,
        most_asked=directory.ASKED,
    )


@faces.page("POST", "/peers/new", entered.save_entry)
@faces.page("POST", "/peers/{name}/change", entered.save_entry)
def save(request: CurrentRequest) -> Response:
    """Save the peer in the form, new or changed; if it is refused, show the form again with the mistakes."""
    name = request.http.path_params.get("name", "")
    version = request.number("version")
    content, unread = peer_form.content(request.fields(), name)
    named = content["name"]
    faults = peer_form.faults(unread, named)
    try:
        if not unread:
            saved = put(request, "peers", content, version, despite_hold=bool(request.text("despite_hold")))
            return request.in_force(SAVED, f"/peers/{named}", *saved["warnings"], name=named)
        entered.check_entry(request.settings, "peers", content, version)
    except FaultyInput as error:
        found = peer_form.faults(error.problems, named) if error.problems else {"": str(error).splitlines()}
        faults = found | faults
    except HoldUndercut as error:
        return _form_again(request, name, 409, above=[str(error)], undercuts=True)
    except NotAllowedNow as error:
        if name:
            return _form_again(request, name, 409, above=[str(error)], is_old=True)
        faults |= {"name": [str(error)]}  # it is taken
        return _form_again(request, name, 409, above=faults.pop("", []), faults=faults)
    return _form_again(request, name, 400, above=faults.pop("", []), faults=faults)


def _form_again(request: ConsoleRequest, name: str, status: int, **shown: object) -> Response:
    """Return the form with the values as sent, with ``shown`` as what is wrong.

    ``name``: the peer that is changed, "" for a new one; ``status``: HTTP status.
    """
    return request.page("peer_form.html", status, **peer_form.as_given(request.fields(), name) | shown)


def _since() -> datetime:
    """Return the beginning of the period that pages about callers cover."""
    return datetime.now(UTC) - timedelta(days=directory.DAYS)
