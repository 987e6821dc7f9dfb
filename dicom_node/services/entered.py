"""Peers and rules that a person enters by page or command; those in configuration files cannot be changed.

Reload: a running node loads a changed configuration completely or not at all.
"""

import os
import signal
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel
from sqlalchemy.orm import Session

from dicom_node.config import addresses, loading, mistakes
from dicom_node.config.sample import toml_value
from dicom_node.config.sections import REVEALED
from dicom_node.config.settings import NEEDS_RESTART, PeerSettings, RuleSettings, Settings
from dicom_node.config.toml_files import TomlFiles
from dicom_node.errors import (
    ChangedMeanwhile,
    ConfigProblem,
    ConfigurationError,
    DatabaseUnusable,
    FaultyInput,
    HoldUndercut,
    NotAllowedNow,
    NotFound,
    NotRunning,
)
from dicom_node.events import CONFIGURATION_REFUSED, CONFIGURATION_RELOADED
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import Role
from dicom_node.processes import files_of, running
from dicom_node.services import ServiceResult, audit, open_database, reading, writing
from dicom_node.store.entered import EnteredFile, entered
from dicom_node.store.tables import EnteredTable
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, columns, list_events

Kind = Literal["peers", "rules"]
LONGEST: Final = 16 * 1024
"""Characters of peers or rules that a person writes."""
_MODELS: Mapping[str, type[BaseModel]] = {"peers": PeerSettings, "rules": RuleSettings}
_ONE: Mapping[str, str] = {"peers": "peer", "rules": "rule"}
_SAVED = {"peers": AuditAction.PEER_SAVED, "rules": AuditAction.RULE_SAVED}
_REMOVED = {"peers": AuditAction.PEER_REMOVED, "rules": AuditAction.RULE_REMOVED}
_SECRET = ("username", "password", "token")
PROGRAMS: Final = ("command", "container")
"""Pipelines of rules that only the configuration files may have."""


class Saved(ServiceResult):
    """A saved peer or rule, which the node takes over at once. ``warnings`` are from ``dicom-node check``."""

    name: str
    version: int
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Warned:
    """Warnings of ``check`` for the whole configuration, and the holds that a change would bypass."""

    warnings: tuple[str, ...]
    undercut: tuple[str, ...]


def listed(session: Session, kind: Kind) -> dict[str, View]:
    """The peers (or rules) that were entered in the database, by name; peers and rules in files are not
    included.
    """
    return {
        row.name: columns(row, "name", "version", "changed_at", "changed_by", "keys")
        for row in entered(session, kind)
    }


def as_text(kind: Kind, content: Mapping[str, Any]) -> str:
    """A peer or rule as lines of TOML, in the order of the documentation."""
    known = [key for key in _MODELS[kind].model_fields if key in content]
    rest = [key for key in content if key not in known]
    return "".join(f"{key} = {toml_value(content[key])}\n" for key in [*known, *rest])


def parsed(kind: Kind, text: str) -> dict[str, Any]:
    """One peer or rule from lines of TOML, with or without its heading. Raises FaultyInput."""
    data = tables(text)
    if set(data) == {kind} and isinstance(data[kind], list) and len(data[kind]) == 1:
        data = data[kind][0]
    if not isinstance(data.get("name"), str):
        raise FaultyInput(f"write the keys of one {_ONE[kind]}, a name among them")
    try:
        tomllib.loads(as_text(kind, data))
    except (TypeError, tomllib.TOMLDecodeError):
        raise FaultyInput("a key or value in it is of a kind that no setting has") from None
    return data


def tables(text: str) -> dict[str, Any]:
    """The tables in a person's TOML text. Raises FaultyInput."""
    if len(text) > LONGEST:
        raise FaultyInput(f"that is too long: {LONGEST // 1024} KiB at most")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # thousands of brackets
        raise FaultyInput(f"this is no TOML: {error}") from None


def from_keys(kind: Kind, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The peer or rule with this name and these keys, as if read from TOML. Raises FaultyInput."""
    if keys.get("name", name) != name:
        raise FaultyInput(f"name: the address says {name}")
    try:
        text = as_text(kind, {"name": name, **keys})
        text.encode()
    except (RecursionError, TypeError, UnicodeEncodeError):
        raise FaultyInput("a key or value in it is of a kind that no setting has") from None
    content = parsed(kind, text)
    if content["name"] != name:
        raise FaultyInput(f"name: the address says {name}")
    return content


def save(
    settings: Settings,
    kind: Kind,
    content: Mapping[str, Any],
    version: int | None = None,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    despite_hold: bool = False,
) -> Saved:
    """Add a peer or rule, or change one; ``apply`` puts it in force. Returns its version and warnings.

    ``version``: of the entry to change, 0 to add one, None: whichever exists. ``despite_hold``: a person
    confirmed that the rule sends results at once that another rule loading. Raises FaultyInput with every
    mistake that ``check`` would find, NotAllowedNow (the entry is in a file), ChangedMeanwhile, HoldUndercut.
    """
    name = str(content["name"])
    _refuse_risky(settings, kind, content)
    with open_database(settings) as database:
        with database.write() as session:
            row = session.get(EnteredTable, (kind, name), with_for_update=True)
            warned = _refuse(session, settings, kind, content, row, version)
            if warned.undercut and not despite_hold:
                raise HoldUndercut(
                    f"{'; '.join(warned.undercut)}: give it assess_first = true, or confirm it (despite_hold)"
                )
            if row is None:
                row = EnteredTable(kind=kind, name=name, version=0)
                session.add(row)
            row.keys, row.version = as_text(kind, content), row.version + 1
            row.changed_at, row.changed_by = utc_now(), by.name
            despite: dict[str, Any] = {"despite_hold": "; ".join(warned.undercut)} if warned.undercut else {}
            audit.note(session, by, _SAVED[kind], name=name, version=row.version, **despite)
            saved = Saved(name=name, version=row.version, warnings=list(warned.warnings))
        EnteredFile(database, settings.node.data_dir).renew()
    return saved


def check(settings: Settings, kind: Kind, content: Mapping[str, Any], version: int | None = None) -> Warned:
    """The warnings of ``save``; raises its errors except HoldUndercut. Nothing is changed."""
    _refuse_risky(settings, kind, content)
    with reading(settings) as session:
        row = session.get(EnteredTable, (kind, str(content["name"])))
        return _refuse(session, settings, kind, content, row, version)


def remove(
    settings: Settings,
    kind: Kind,
    name: str,
    version: int | None = None,
    by: audit.Person = audit.COMMAND_LINE,
) -> None:
    """Remove an entered peer or rule. Raises NotFound, ChangedMeanwhile, FaultyInput (a rule needs the
    peer).
    """
    with open_database(settings) as database:
        with database.write() as session:
            row = session.get(EnteredTable, (kind, name), with_for_update=True)
            rows = {(one.kind, one.name): one.keys for one in entered(session)}
            if row is None:
                hint = mistakes.did_you_mean(name, [known for other, known in rows if other == kind])
                raise NotFound(f"no {_ONE[kind]} that was entered is called {name!r}; {hint}")
            _refuse_conflict(kind, name, row, version)
            _refuse_mistakes(
                settings, kind, rows, {key: keys for key, keys in rows.items() if key != (kind, name)}
            )
            session.delete(row)
            audit.note(session, by, _REMOVED[kind], name=name)
        EnteredFile(database, settings.node.data_dir).renew()


def apply(settings: Settings) -> int:
    """Let the nodes of this machine load the entries at once; returns how many. Others load them within 30
    s.
    """
    asked = 0
    for pid in running(settings.node.data_dir).values():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGHUP)
            asked += 1
    return asked


def show_entry(settings: Settings, kind: Kind, name: str) -> View:
    """An entered peer or rule: its keys, ``version``, who changed it and when.

    Raises NotFound; NotAllowedNow for one in the configuration files.
    """
    with reading(settings) as session:
        found = listed(session, kind).get(name)
    if found is not None:
        return found | {"content": tomllib.loads(found["keys"])}
    if name in {one.name for one in getattr(settings, kind)}:
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    raise NotFound(f"no {_ONE[kind]} is called {name!r}")


def _refuse(
    session: Session,
    settings: Settings,
    kind: Kind,
    content: Mapping[str, Any],
    row: EnteredTable | None,
    version: int | None,
) -> Warned:
    """Raise what may not be saved. ``row``: the one that is there."""
    name = str(content["name"])
    _refuse_conflict(kind, name, row, version)
    rows = {(one.kind, one.name): one.keys for one in entered(session)}
    if row is None and name in {one.name for one in getattr(settings, kind)}:
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    return _refuse_mistakes(settings, kind, rows, rows | {(kind, name): as_text(kind, content)})


def _refuse_conflict(kind: Kind, name: str, row: EnteredTable | None, version: int | None) -> None:
    if version is None or version == (row.version if row else 0):
        return
    if row is None:
        raise ChangedMeanwhile(f"somebody removed {name} after you opened it: nothing was saved")
    if version == 0:
        raise ChangedMeanwhile(f"there is a {_ONE[kind]} {name} already: nothing was saved")
    at = row.changed_at.astimezone()
    raise ChangedMeanwhile(
        f"{row.changed_by} changed {name} at {at:%Y-%m-%d %H:%M:%S}, after you opened it: nothing was saved"
    )


def _refuse_risky(settings: Settings, kind: Kind, content: Mapping[str, Any]) -> None:
    """What a browser must not be able to do: read files and variables, run programs, keep passwords, and have
    the node call itself or the network behind it."""
    if "${" in as_text(kind, content):
        raise FaultyInput("variables and files (${...}) are for the configuration files only")
    if kind == "peers" and (secret := [key for key in _SECRET if content.get(key)]):
        raise FaultyInput(f"{', '.join(secret)}: a peer with a login belongs in the configuration files")
    if kind == "peers" and "@" in str(content.get("url", "")):
        raise FaultyInput("url: a peer with a login belongs in the configuration files")
    if kind == "peers" and "entered" in content:
        raise FaultyInput("entered: the node itself sets it: leave it out")
    if kind == "peers" and not settings.console.local_peers:
        _refuse_local(content)
    if kind == "rules" and content.get("pipeline") in PROGRAMS:
        raise FaultyInput("pipeline: rules that run programs belong in the configuration files")


def _refuse_local(content: Mapping[str, Any]) -> None:
    """Before the database is locked: a name server may take seconds. Each call looks the name up again."""
    problems = []
    for key in ("host", "query_host", "commitment_host", "url"):
        given = str(content.get(key) or "")
        try:
            host = urlsplit(given).hostname if key == "url" else given
            if host:
                addresses.remote_address(host)
        except addresses.LocalAddress as error:
            problems.append(ConfigProblem("", f"peers.{content['name']}.{key}", repr(given), str(error)))
        except (OSError, ValueError):  # nobody knows it yet, or the check of the settings says what is wrong
            continue
    if problems:
        raise FaultyInput("\n".join(map(_in_words, problems)), problems)


def _refuse_mistakes(
    settings: Settings,
    changed: Kind,
    before: Mapping[tuple[str, str], str],
    after: Mapping[tuple[str, str], str],
) -> Warned:
    """What ``check`` warns of in the configuration as it would be. Raises FaultyInput with its mistakes."""
    from dicom_node import preflight

    data = settings.model_dump(mode="json", context=REVEALED, exclude_defaults=True)
    for kind in _MODELS:
        in_files = [one for one in data.get(kind, ()) if (kind, one["name"]) not in {*before, *after}]
        data[kind] = in_files + [tomllib.loads(keys) for (other, _), keys in after.items() if other == kind]
    checked = preflight.check_data(data, _role_here(settings, changed))
    if checked.problems:
        raise FaultyInput("\n".join(map(_in_words, checked.problems)), checked.problems)
    assert checked.settings is not None, "without settings there are problems"
    known = set(loading.undercuts(settings))
    return Warned(
        tuple(f"{one.subject}: {one.text}" for one in checked.tried if not one.ok),
        tuple(f"rule {one.rule}: {one}" for one in loading.undercuts(checked.settings) if one not in known),
    )


def _role_here(settings: Settings, changed: Kind) -> Role:
    """As which the change is checked: models only where they run, and of a rule, as that takes a while."""
    here = {Role.at(place) for place in running(settings.node.data_dir)} or {Role.ALL}
    if changed == "rules" and any(role.runs_models for role in here):
        return Role.ALL
    if any(role.receives for role in here):
        return Role.LISTENER
    return Role.CONSOLE if Role.CONSOLE in here else min(here)


def _in_words(problem: ConfigProblem) -> str:
    shown = f" = {problem.value}" if problem.value else ""
    return f"{problem.key}{shown}: {problem.remedy}"


_RELOAD_SECONDS = 90.0  # deliveries may have 20 s to finish what they send


def reload_node(files: Sequence[Path]) -> list[str]:
    """Let the running nodes of this machine load the configuration ``files``; returns the places of the
    nodes.

    Only nodes on the data folder that the files name are asked. Raises ConfigurationError (before any node is
    asked), NotRunning, NotAllowedNow.
    """
    from dicom_node import preflight

    settings, read = loading.examine(files)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    found = running(settings.node.data_dir)
    if not found:
        if settings.node.data_dir.exists() and not os.access(settings.node.data_dir, os.R_OK | os.X_OK):
            raise NotAllowedNow(
                f"{settings.node.data_dir} is closed to this user: run this as the user that the node runs as"
            )
        raise NotRunning(f"no node runs on {settings.node.data_dir} here: dicom-node serve starts one")
    given = {path.resolve() for path in files}
    for place in found:
        # A node reads the files again that it was started with, whatever stands in others.
        known = files_of(settings.node.data_dir, place)
        if known and given != {path.resolve() for path in known}:
            runs, asked = (", ".join(sorted(map(str, paths))) for paths in (known, files))
            raise NotAllowedNow(
                f"the node runs with {runs}, not with {asked}: give it these, or start it again with others"
            )
    done = []
    try:
        for place, pid in found.items():
            role = Role.at(place)
            if problems := preflight.check(files, role).problems:
                raise ConfigurationError(problems)
            if refused := _hang_up(settings, place, pid):
                raise NotAllowedNow(_refusal(refused, settings, read))
            done.append(place)
    finally:
        if done:  # whatever the other processes answered
            with writing(settings) as session:
                audit.note(session, audit.COMMAND_LINE, AuditAction.CONFIG_RELOADED, nodes=done)
    return done


def _refusal(event: Mapping[str, Any], settings: Settings, read: TomlFiles) -> str:
    """What event 6011 says, with the lines of the settings that it names."""
    for key in filter(None, str(event["fields"].get("keys", "")).split(", ")):
        read.add_named(key, "", _why_refused(key, settings))
    why = [str(problem) for problem in read.problems] or ["its log says why (6011)"]
    return "\n  ".join(["the node keeps the configuration before:", *why])


def _why_refused(key: str, settings: Settings) -> str:
    if key in settings.fixed:
        return NEEDS_RESTART
    if key.endswith(".pipeline"):
        return "the running node cannot load it: restart the node if it was installed since its start"
    return "the node's log says why (6011)"


def _hang_up(settings: Settings, place: str, pid: int) -> Mapping[str, Any] | None:
    """SIGHUP, and wait for what the node says of it: None where it is content, else the event."""
    from dicom_node.monitoring.processes import node_name

    asked = datetime.now(UTC)
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise NotAllowedNow(f"process {pid} belongs to another user: run this as that user") from None
    ours, numbers = node_name(place), (CONFIGURATION_RELOADED.number, CONFIGURATION_REFUSED.number)
    end = time.monotonic() + _RELOAD_SECONDS
    while time.monotonic() < end:
        try:
            with reading(settings) as session:
                events = [
                    event
                    for event in list_events(session, since=asked, numbers=numbers)
                    if event["fields"].get("node", ours) == ours  # other machines take things over, too
                ]
        except DatabaseUnusable as error:
            raise NotAllowedNow(
                f"the node was asked; its log has the answer (6010 taken over, 6011 not): {error}"
            ) from error
        if events:
            return events[0] if events[0]["number"] == CONFIGURATION_REFUSED.number else None
        time.sleep(0.1)
    raise NotAllowedNow(f"the node did not answer within {_RELOAD_SECONDS:.0f} s: look into its log")
