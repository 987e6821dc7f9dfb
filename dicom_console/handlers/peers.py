"""Peers: the configured peers, machines that called, and the reasons why a machine was refused."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from dicom_console.forms import peer as form
from dicom_console.handlers.entered import add_handlers, put
from dicom_console.views import directory
from dicom_console.web.faces import Asked, Faces, Name, Visit
from dicom_console.web.languages import SAVED
from dicom_node.base.errors import FaultyInput, HoldUndercut, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import Row, configured
from dicom_node.people import peers as services
from dicom_node.people.peers import try_peers

faces = Faces()
add_handlers(faces, "peers")

Caller = Annotated[str, Query(max_length=64, pattern=r"^[ -~]*$")]


@faces.handler("GET", "/peers", UserRole.VIEWER)
def peers(asked: Asked) -> list[Row]:
    """The configured peers, each with its last association."""
    return [Row(**row) for row in asked.read(directory.peers, asked.settings)]


@faces.page_of(peers)
def _peers_page(asked: Visit, rows: list[Row]) -> Response:
    """All peers, and who called that is none."""
    strangers = asked.read(directory.strangers, asked.settings)
    return asked.page("peers.html", rows=rows, strangers=strangers, days=directory.DAYS)


@faces.page("GET", "/peers/why", UserRole.VIEWER)
def why(asked: Asked, caller: Caller = "") -> Response:
    """List what a machine tried, what was refused, and the configuration lines that would allow it."""
    caller, found, problem = caller.strip(), None, ""
    try:
        found = services.why(asked.settings, caller, _since()) if caller else None
    except NotFound as error:
        problem = str(error)
    return asked.page(
        "why.html",
        caller=caller,
        found=found,
        problem=problem,
        refused=[] if caller else asked.read(directory.refused),
        days=directory.DAYS,
    )


@faces.page("GET", "/peers/new", UserRole.ADMIN)
def new(asked: Asked, caller: Caller = "", host: Caller = "") -> Response:
    """Show an empty form, filled in with what is known of a machine that called and is no peer yet."""
    known = {"name": [services.short_name(caller)], "ae_title": [caller], "host": [host]}
    return asked.page("peer_form.html", **form.empty(known))


@faces.page("GET", "/peers/{name}/change", UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """Show the form filled in with the peer's present settings."""
    return asked.page("peer_form.html", **form.filled(configured.show_entry(asked.settings, "peers", name)))


@faces.handler("POST", "/peers/{name}/test", UserRole.OPERATOR)
def test_peer(asked: Asked, name: Name) -> list[Row]:
    """Test each step that delivery to this peer needs; nothing is stored there."""
    asked.settings.peer(name)
    return try_peers(asked.settings, [name], asked.person)


@faces.page("GET", "/peers/{name}", UserRole.VIEWER)
def show(asked: Asked) -> Response:
    """One peer."""
    return _page(asked, None)


@faces.page_of(test_peer)
def _page(asked: Visit, checks: list[Row] | None) -> Response:
    name = asked.request.path_params["name"]
    return asked.page(
        "peer.html",
        peer=asked.read(directory.peer, asked.settings, name),
        found=services.why(asked.settings, name, _since()),
        checks=checks,
        days=directory.DAYS,
        most_asked=directory.ASKED,
    )


@faces.page("POST", "/peers/new", UserRole.ADMIN)
@faces.page("POST", "/peers/{name}/change", UserRole.ADMIN)
def save(asked: Asked) -> Response:
    """Add the peer of the form, or change it unless somebody else did meanwhile."""
    name = asked.request.path_params.get("name", "")
    version = asked.number("version")
    content, unread = form.content(asked.fields(), name)
    named = content["name"]
    faults = form.faults(unread, named)
    try:
        if not unread:
            saved = put(asked, "peers", content, version, despite_hold=bool(asked.text("despite_hold")))
            return asked.in_force(SAVED, f"/peers/{named}", *saved["warnings"], name=named)
        configured.check_entry(asked.settings, "peers", content, version)
    except FaultyInput as error:
        found = form.faults(error.problems, named) if error.problems else {"": str(error).splitlines()}
        faults = found | faults
    except HoldUndercut as error:
        return _mend(asked, name, 409, above=[str(error)], undercuts=True)
    except NotAllowedNow as error:
        if name:
            return _mend(asked, name, 409, above=[str(error)], is_old=True)
        faults |= {"name": [str(error)]}  # it is taken
        return _mend(asked, name, 409, above=faults.pop("", []), faults=faults)
    return _mend(asked, name, 400, above=faults.pop("", []), faults=faults)


def _mend(asked: Visit, name: str, status: int, **shown: object) -> Response:
    return asked.page("peer_form.html", status, **form.as_given(asked.fields(), name) | shown)


def _since() -> datetime:
    return datetime.now(UTC) - timedelta(days=directory.DAYS)
