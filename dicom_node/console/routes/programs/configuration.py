"""The REST API of what is entered: peers, rules, registered patients, and the test study of a peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Body, HTTPException, Query
from pydantic import BaseModel, Field

from dicom_node.console.routes.programs.answers import STATUSES, VERSION, Asking, Name, Printable, Row
from dicom_node.console.web.access import Asked, Number, Visit, needs
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from dicom_node.services.console import registration
from dicom_node.services.console.peers import trial_study
from dicom_node.services.console.rules import trial
from dicom_node.services.entered import Kind

router = APIRouter(prefix=VERSION, responses=STATUSES)

Keys = Annotated[dict[str, Any], Body(max_length=200)]
"""The keys of one peer or rule, as the configuration file has them; without its name, which stands in the
address."""
Edition = Annotated[int | None, Query(alias="version", ge=0, le=2**31 - 1)]
"""Of the one that is changed, 0 to add one: another one is refused. Without it whichever is there."""


class RuleRow(Row):
    """A rule; ``version`` is null where it stands in the configuration files."""

    name: str
    pipeline: str
    version: int | None


class Saved(BaseModel):
    """What is saved; the node takes it over at once."""

    name: str
    version: int


class RuleTrial(Row):
    """One of the newest studies: which rules take it ``now``, and which ``then`` would."""

    study_instance_uid: str | None
    changes: bool


class Registration(Asking):
    """A patient: birth date YYYY-MM-DD, sex M, F or O."""

    PatientID: str = Field(min_length=1, max_length=64, pattern=Printable)
    PatientName: str = Field(min_length=1, max_length=64, pattern=Printable)
    PatientBirthDate: str = Field("", max_length=10, pattern=Printable)
    PatientSex: str = Field("", max_length=1, pattern=Printable)


class Registered(BaseModel):
    """The number of a registration."""

    registration: int


class RegisteredRow(Row):
    """A registered patient."""

    id: int
    PatientID: str


class TrialRow(BaseModel):
    """One object of a test study: what is to be seen of it, whether it was taken and is found by a query."""

    kind: str
    shows: str
    ok: bool
    status: str
    found: bool | None
    text: str


class ViewerShowed(Asking):
    """What a viewer showed."""

    shows: list[Literal["sr", "gsps", "sc", "heatmap", "cleaned", "seg"]] = Field(min_length=1, max_length=6)


class PeerLine(BaseModel):
    """The line to write where the peer stands in the configuration files, "" where it is saved."""

    line: str


@router.put("/peers/{name}")
@needs(UserRole.ADMIN)
def put_peer(asked: Asked, name: Name, keys: Keys, tasks: BackgroundTasks, version: Edition = None) -> Saved:
    """Add a peer, or change one that was entered."""
    return _put(asked, "peers", name, keys, tasks, version)


@router.delete("/peers/{name}", status_code=204)
@needs(UserRole.ADMIN)
def remove_peer(asked: Asked, name: Name, tasks: BackgroundTasks, version: Edition = None) -> None:
    """Take a peer out that was entered."""
    _remove(asked, "peers", name, tasks, version)


@router.post("/peers/{name}/test-study")
@needs(UserRole.OPERATOR)
def send_trial(asked: Asked, name: Name) -> list[TrialRow]:
    """Send it a study of nobody, with a known finding in each kind of result."""
    asked.site.settings.peer(name)
    return [TrialRow(**row) for row in trial_study.send(asked.site.settings, name, asked.person)]


@router.put("/peers/{name}/shows")
@needs(UserRole.ADMIN)
def set_shows(
    asked: Asked, name: Name, seen: Annotated[ViewerShowed, Body()], tasks: BackgroundTasks
) -> PeerLine:
    """Let it get what its viewer showed of the test study, and nothing else."""
    with _as_bad_request():
        line = trial_study.set_results(asked.site.settings, name, seen.shows, asked.person)
    if not line:
        tasks.add_task(entered.apply, asked.site.settings)
    return PeerLine(line=line)


@router.get("/rules")
@needs(UserRole.VIEWER)
def list_rules(asked: Asked) -> list[RuleRow]:
    """The rules in their order."""
    with asked.site.database.read() as session:
        known = entered.listed(session, "rules")
    found = trial.rules(asked.site.settings)
    return [RuleRow(**row, version=known.get(row["name"], {}).get("version")) for row in found]


@router.put("/rules/{name}")
@needs(UserRole.ADMIN)
def put_rule(asked: Asked, name: Name, keys: Keys, tasks: BackgroundTasks, version: Edition = None) -> Saved:
    """Add a rule, or change one that was entered."""
    return _put(asked, "rules", name, keys, tasks, version)


@router.post("/rules/{name}/try")
@needs(UserRole.OPERATOR)
def try_rule(asked: Asked, name: Name, keys: Keys) -> list[RuleTrial]:
    """What the rules with this one would make of the newest studies; nothing is changed."""
    settings = asked.site.settings
    with _as_bad_request():
        other = trial.with_rule(settings, _content("rules", name, keys))
    with asked.site.database.read() as session:
        return [RuleTrial(**row) for row in trial.tried(session, settings, other)]


@router.delete("/rules/{name}", status_code=204)
@needs(UserRole.ADMIN)
def remove_rule(asked: Asked, name: Name, tasks: BackgroundTasks, version: Edition = None) -> None:
    """Take a rule out that was entered."""
    _remove(asked, "rules", name, tasks, version)


@router.get("/patients/registered")
@needs(UserRole.OPERATOR)
def list_registered(asked: Asked) -> list[RegisteredRow]:
    """Who is registered for uploads."""
    audit.note_list(asked.site.database, asked.person, "patients")
    with asked.site.database.read() as session:
        return [RegisteredRow(**row) for row in registration.registered(session, asked.site.settings)]


@router.post("/patients/registered")
@needs(UserRole.OPERATOR)
def register(asked: Asked, patient: Annotated[Registration, Body()]) -> Registered:
    """Register a patient for uploads."""
    with _as_bad_request():
        number = registration.register(asked.site.settings, patient.model_dump(), asked.person)
    return Registered(registration=number)


@router.delete("/patients/registered/{number}", status_code=204)
@needs(UserRole.OPERATOR)
def unregister(asked: Asked, number: Number) -> None:
    """Take a registration back; studies stay."""
    registration.remove(asked.site.settings, number, asked.person)


def _put(
    asked: Visit, kind: Kind, name: str, keys: dict[str, Any], tasks: BackgroundTasks, version: int | None
) -> Saved:
    settings = asked.site.settings
    with _as_bad_request():
        saved = entered.save(settings, kind, _content(kind, name, keys), version, asked.person)
    tasks.add_task(entered.apply, settings)
    with asked.site.database.read() as session:
        return Saved(name=saved, version=entered.listed(session, kind)[saved]["version"])


def _remove(asked: Visit, kind: Kind, name: str, tasks: BackgroundTasks, version: int | None) -> None:
    with _as_bad_request():
        entered.remove(asked.site.settings, kind, name, version, asked.person)
    tasks.add_task(entered.apply, asked.site.settings)


def _content(kind: Kind, name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """One peer or rule, as the lines that it would be. Raises FaultyInput."""
    if keys.get("name", name) != name:
        raise FaultyInput(f"name: the address says {name}")
    try:
        text = entered.as_text(kind, {"name": name} | keys)
        text.encode()
    except (RecursionError, TypeError, UnicodeEncodeError):
        raise FaultyInput("a key or value in it is of a kind that no setting has") from None
    content = entered.parsed(kind, text)
    if content["name"] != name:
        raise FaultyInput(f"name: the address says {name}")
    return content


@contextmanager
def _as_bad_request() -> Iterator[None]:
    """What is wrong with the content is 400 here; 409 is for the state of things."""
    try:
        yield
    except FaultyInput as error:
        raise HTTPException(400, str(error)) from None
