"""Peers: who is configured, who called, why somebody does not get through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from dicom_node import services
from dicom_node.console.web.access import Asked, Visit, needs
from dicom_node.errors import ChangedMeanwhile, FaultyInput, NotAllowedNow, NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import contacts, entered
from dicom_node.services.console.peers import conformance, directory, form, trial_study

router = APIRouter(prefix="/peers")

Caller = Annotated[str, Query(max_length=64, pattern=r"^[ -~]*$")]


@router.get("")
@needs(UserRole.VIEWER)
def list_peers(asked: Asked) -> Response:
    """All peers, and who called that is none."""
    with asked.site.database.read() as session:
        rows = directory.peers(session, asked.site.settings)
        strangers = directory.strangers(session, asked.site.settings)
        known = entered.listed(session, "peers")
    return asked.page("peers.html", rows=rows, strangers=strangers, days=directory.DAYS, entered=known)


@router.get("/why")
@needs(UserRole.VIEWER)
def why(asked: Asked, caller: Caller = "") -> Response:
    """What a machine tried, what it was refused, and which lines would let it in."""
    found, problem = None, ""
    if caller.strip():
        try:
            found = contacts.why(asked.site.settings, caller.strip(), _since())
        except NotFound as error:
            problem = str(error)
    return asked.page("why.html", caller=caller.strip(), found=found, problem=problem, days=directory.DAYS)


@router.get("/new")
@needs(UserRole.ADMIN)
def new(asked: Asked, caller: Caller = "", host: Caller = "") -> Response:
    """An empty form; with what is known of a machine that called and is no peer."""
    known = {"name": [contacts.short_name(caller)], "ae_title": [caller], "host": [host]}
    return asked.page("peer_form.html", **form.empty(known))


@router.post("/new")
@needs(UserRole.ADMIN)
def add(asked: Asked) -> Response:
    """Add the peer of the form."""
    return _save(asked, "")


@router.get("/{name}/change")
@needs(UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """A form with what it is now."""
    return asked.page("peer_form.html", **form.of(entered.of(asked.site.settings, "peers", name)))


@router.post("/{name}/change")
@needs(UserRole.ADMIN)
def save(asked: Asked, name: str) -> Response:
    """Save the form, unless somebody else did meanwhile."""
    return _save(asked, name)


@router.post("/{name}/remove")
@needs(UserRole.ADMIN)
def remove(asked: Asked, name: str) -> Response:
    """Take it out."""
    entered.remove(asked.site.settings, "peers", name, asked.number("version"), asked.person)
    return asked.in_force(f"{name} is removed.", "/peers")


@router.get("/{name}")
@needs(UserRole.VIEWER)
def show(asked: Asked, name: str) -> Response:
    """One peer."""
    return _page(asked, name)


@router.get("/{name}/conformance")
@needs(UserRole.VIEWER)
def conformance_of(asked: Asked, name: str) -> Response:
    """How the last objects kept to the standard, as far as the node has written it down."""
    found = conformance.report(asked.site.settings, name, validate=False)
    return asked.page("conformance.html", found=found, newer="")


@router.post("/{name}/conformance")
@needs(UserRole.OPERATOR)
def validate(asked: Asked, name: str) -> Response:
    """The same with what a validator says of the files, as a page or as a file to keep."""
    found = conformance.report(asked.site.settings, name)
    if asked.text("act") != "file":
        return asked.page("conformance.html", found=found, newer=conformance.NEWER)
    conformance.note_export(asked.site.settings, name, asked.person)
    kept = {"Content-Disposition": 'attachment; filename="conformance.md"'}
    return Response(conformance.as_text(found), media_type="text/markdown; charset=utf-8", headers=kept)


@router.post("/{name}/test")
@needs(UserRole.OPERATOR)
def test(asked: Asked, name: str) -> Response:
    """Try what delivery to it needs, or a C-ECHO where it gets nothing; nothing is stored."""
    asked.site.settings.peer(name)
    checks = services.test_peers(asked.site.settings, [name], asked.person)
    return _page(asked, name, checks)


@router.post("/{name}/trial")
@needs(UserRole.OPERATOR)
def send_trial(asked: Asked, name: str) -> Response:
    """Send it a study of nobody, to see in its viewer what that shows."""
    asked.site.settings.peer(name)
    rows = trial_study.send(asked.site.settings, name, asked.person)
    return asked.page("trial.html", name=name, rows=rows, patient=trial_study.PATIENT_ID)


@router.post("/{name}/shows")
@needs(UserRole.ADMIN)
def set_shows(asked: Asked, name: str) -> Response:
    """Take over what a person saw there."""
    kinds = asked.fields().get("shows", [])
    line = trial_study.set_results(asked.site.settings, name, kinds, asked.person)
    if not line:
        return asked.in_force(f"{name} is saved.", f"/peers/{name}")
    return asked.page("trial_line.html", name=name, line=line)


def _save(asked: Visit, name: str) -> Response:
    fields, version = asked.fields(), asked.number("version")
    content, unread = form.content(fields, name)
    named = content["name"]
    try:
        if unread:
            entered.check(asked.site.settings, "peers", content, version)
        else:
            entered.save(asked.site.settings, "peers", content, version, asked.person)
        faults = {}
    except FaultyInput as error:
        faults = form.faults(error.problems, named) if error.problems else {"": str(error).splitlines()}
    except (NotAllowedNow, ChangedMeanwhile) as error:
        if not name:  # it is taken
            faults = form.faults(unread, named) | {"name": [str(error)]}
            return _mend(asked, name, 409, above=faults.pop("", []), faults=faults)
        return _mend(asked, name, 409, above=[str(error)], is_old=True)
    if faults := faults | form.faults(unread, named):
        return _mend(asked, name, 400, above=faults.pop("", []), faults=faults)
    return asked.in_force(f"{named} is saved.", f"/peers/{named}")


def _mend(asked: Visit, name: str, status: int, **said: object) -> Response:
    return asked.page("peer_form.html", status, **form.as_given(asked.fields(), name) | said)


def _page(asked: Visit, name: str, checks: list[dict[str, object]] | None = None) -> Response:
    with asked.site.database.read() as session:
        row = directory.peer(session, asked.site.settings, name)
        known = entered.listed(session, "peers").get(name)
    found = contacts.why(asked.site.settings, name, _since())
    return asked.page("peer.html", peer=row, found=found, checks=checks, days=directory.DAYS, entered=known)


def _since() -> datetime:
    return datetime.now(UTC) - timedelta(days=directory.DAYS)
