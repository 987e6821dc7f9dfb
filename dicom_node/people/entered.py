"""Peers and rules that a person enters by page or command; those in configuration files cannot be changed.

Each change is a new version of the file of entered peers and rules
(:mod:`dicom_node.base.config.toml_files`).
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

import tomlkit
from pydantic import BaseModel

from dicom_node.base.config import addresses, loading
from dicom_node.base.config.mistakes import did_you_mean
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import NEEDS_RESTART, REVEALED, PeerSettings, RuleSettings, Settings
from dicom_node.base.config.toml_files import SAVED, TomlFiles, edition, file_of, newest, versions
from dicom_node.base.errors import (
    ChangedMeanwhile,
    ConfigProblem,
    ConfigurationError,
    DatabaseUnusable,
    FaultyInput,
    HoldUndercut,
    NotAllowedNow,
    NotFound,
    Unavailable,
)
from dicom_node.base.events import CONFIGURATION_REFUSED, CONFIGURATION_RELOADED
from dicom_node.base.files import bucket_of, write_new
from dicom_node.base.kinds import AuditAction, Role
from dicom_node.base.processes import files_of, running
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, list_events
from dicom_node.people import Row, ServiceResult, audit, reading, writing

Kind = Literal["peers", "rules"]
LONGEST: Final = 16 * 1024
"""Characters of peers or rules that a person writes."""
_MODELS: Final[Mapping[str, type[BaseModel]]] = {"peers": PeerSettings, "rules": RuleSettings}
SECRET: Final = ("username", "password", "token")
PROGRAMS: Final = ("command", "container")
"""Pipelines of rules that only the configuration files may have."""


class Saved(ServiceResult):
    """A saved peer or rule, which the node takes over at once. ``warnings`` are from ``dicom-node check``."""

    name: str
    version: int
    warnings: list[str]


class Version(Row):
    """A version of all entered peers and rules: ``saved`` says when, by whom, and what was changed."""

    version: int
    saved: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Warnings of ``check`` for the whole configuration, and the holds that a change would bypass."""

    settings: Settings
    warnings: tuple[str, ...]
    undercut: tuple[str, ...]


_Entries = dict[tuple[str, str], dict[str, Any]]
"""Peers and rules by kind and name."""


def history(settings: Settings) -> list[Version]:
    """All versions, the newest first."""
    numbers = reversed(versions(settings.node.data_dir))
    return [Version(version=number, saved=_saved(_text(settings, number))) for number in numbers]


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
        raise FaultyInput(f"write the keys of one {kind[:-1]}, a name among them")
    return _plain(kind, data)


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
    content = _plain(kind, {"name": name, **keys})
    if content["name"] != name:
        raise FaultyInput(f"name: the address says {name}")
    return content


def _plain(kind: Kind, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as our own lines of TOML give it back. Raises FaultyInput where none can hold it."""
    try:
        text = as_text(kind, content)
        text.encode()
    except (RecursionError, TypeError, UnicodeEncodeError):
        raise FaultyInput("a key or value in it is of a kind that no setting has") from None
    return tables(text)


def save(
    settings: Settings,
    kind: Kind,
    content: Mapping[str, Any],
    version: int | None = None,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    despite_hold: bool = False,
) -> Saved:
    """Add a peer or rule, or change one; ``apply`` puts it in force.

    ``version``: of the entry as the person saw it, 0 to add one, None: whichever exists. ``despite_hold``: a
    person confirmed that the rule sends results at once that another rule holds. Raises FaultyInput with
    every mistake that ``check`` would find, NotAllowedNow (the entry is in a file, or none can be written),
    ChangedMeanwhile, HoldUndercut.
    """
    name = content["name"]
    now, after = _changed(settings, kind, name, content, version)
    _, warnings = _write(settings, now, after, f"{kind[:-1]} {name}", by, despite_hold=despite_hold)
    return Saved(name=name, version=edition(_entries(after)[kind, name]), warnings=warnings)


def check(settings: Settings, kind: Kind, content: Mapping[str, Any], version: int | None = None) -> Warned:
    """The warnings of ``save``; raises its errors except HoldUndercut. Nothing is changed."""
    _, after = _changed(settings, kind, content["name"], content, version)
    return _checked(settings, _entries(after), kind)


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
    now, after = _changed(settings, kind, name, None, version)
    _write(settings, now, after, f"{kind[:-1]} {name} removed", by, despite_hold=True)


def undo(
    settings: Settings,
    version: int,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    despite_hold: bool = False,
) -> Saved:
    """Have all entered peers and rules as in this version (0: none). Raises NotFound, and as ``save``."""
    if version not in (0, *versions(settings.node.data_dir)):
        raise NotFound(f"there is no version {version} of the entered peers and rules")
    after, what = _text(settings, version), f"as in version {version}"
    number, warnings = _write(settings, _newest(settings), after, what, by, despite_hold=despite_hold)
    return Saved(name=f"version {number}", version=number, warnings=warnings)


def put_file(settings: Settings, kind: Kind, file: Path, *, despite_hold: bool = False) -> View:
    """Save the peer or rule of a file, and let the nodes here load it. Raises as ``save``."""
    try:
        content = parsed(kind, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyInput(f"{file} cannot be read: {type(error).__name__}") from None
    return _in_force(settings, save(settings, kind, content, despite_hold=despite_hold))


def remove_now(settings: Settings, kind: Kind, name: str) -> View:
    """Remove an entered peer or rule, and let the nodes here load the change. Raises as ``remove``."""
    remove(settings, kind, name)
    return _in_force(settings, Saved(name=name, version=0, warnings=[]))


def undo_now(settings: Settings, version: int, *, despite_hold: bool = False) -> View:
    """Have all as in this version, and let the nodes here load it. Raises as ``undo``."""
    return _in_force(settings, undo(settings, version, despite_hold=despite_hold))


def _in_force(settings: Settings, saved: Saved) -> View:
    says = "The node takes it over (event 6010; 6011 if not)." if apply(settings) else "No node runs here."
    done = f"{saved.name} is {'saved' if saved.version else 'removed'}. {says}"
    return {"name": saved.name, "text": "\n".join([*(f"warning: {one}" for one in saved.warnings), done])}


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
    """An entered peer or rule, and its version, which a change of it names.

    Raises NotFound; NotAllowedNow for one in the configuration files, FaultyInput for one with a secret.
    """
    _, text = _newest(settings)
    if content := _entries(text).get((kind, name)):
        _refuse_for_files(kind, content)  # who may not enter it may not see it
        return {"name": name, "version": edition(content), "content": content}
    if name in {one.name for one in getattr(settings, kind)}:
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    raise NotFound(f"no {kind[:-1]} is called {name!r}")


def _text(settings: Settings, version: int) -> str:
    file = file_of(settings.node.data_dir, version)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _saved(text: str) -> str:
    with suppress(ValueError):
        return str(tomllib.loads(text).get(SAVED, "by hand"))
    return "damaged"


def _entries(text: str) -> _Entries:
    """Raises NotAllowedNow for a text that was edited by hand and cannot be read."""
    try:
        data = tomllib.loads(text)
        return {(kind, str(one.get("name"))): one for kind in _MODELS for one in data.get(kind, ())}
    except (ValueError, TypeError, AttributeError):
        raise NotAllowedNow("what was entered is damaged: correct it, dicom-node check says where") from None


def _newest(settings: Settings) -> tuple[int, str]:
    """The newest version and its text. Raises NotAllowedNow where nothing can be entered."""
    if bucket_of(settings):
        raise NotAllowedNow(
            "machines with [object_store] share no folder: peers and rules are in the configuration files"
        )
    number = newest(settings.node.data_dir)
    return number, _text(settings, number)


def _changed(
    settings: Settings, kind: Kind, name: str, content: Mapping[str, Any] | None, version: int | None
) -> tuple[tuple[int, str], str]:
    """The newest version, and its text with this peer or rule, or without; comments and order stay."""
    if content is not None:
        _refuse_risky(settings, kind, content)
    number, text = _newest(settings)
    known = _entries(text)
    here = known.get((kind, name))
    if here is None and content is None:
        hint = did_you_mean(name, [one for other, one in known if other == kind])
        raise NotFound(f"no {kind[:-1]} that was entered is called {name!r}; {hint}")
    if version == 0 and here:
        raise ChangedMeanwhile(f"there is a {kind[:-1]} {name} already: nothing was saved")
    if version not in (None, edition(here)):
        what = f"{name} was {'changed' if here else 'removed'} after you opened it: nothing was saved"
        raise ChangedMeanwhile(f"{what}. What was saved last: {_saved(text)}")
    if here is None and any(one.name == name and not one.entered for one in getattr(settings, kind)):
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    document = tomlkit.parse(text)
    rows: Any = document.setdefault(kind, tomlkit.aot())
    at = next((at for at, one in enumerate(rows) if one["name"] == name), len(rows))
    if content is None:
        del rows[at]
    else:
        written: Any = tomlkit.parse(f"[[{kind}]]\n{as_text(kind, content)}\n")[kind]
        if here is None:
            rows.append(written[0])
        for key in {*rows[at]} - {*content}:
            del rows[at][key]
        rows[at].update({key: value for key, value in written[0].items() if rows[at].get(key) != value})
    if not rows:
        del document[kind]
    return (number, text), tomlkit.dumps(document)


def _write(
    settings: Settings, now: tuple[int, str], after: str, what: str, by: audit.Person, *, despite_hold: bool
) -> tuple[int, list[str]]:
    """Check the whole, note each change in the audit, and write the next version: its number, warnings."""
    number, before = now
    old, new = _entries(before), _entries(after)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    warned = _checked(settings, new, "rules" if "rules" in dict(changed) else "peers")
    if warned.undercut and not despite_hold:
        raise HoldUndercut(
            f"{'; '.join(warned.undercut)}: give it assess_first = true, or confirm it (despite_hold)"
        )
    document = tomlkit.parse(after)
    document[SAVED] = f"{utc_now():%Y-%m-%dT%H:%M:%SZ}, {by.name}: {what}"
    fields: dict[str, Any] = {"despite_hold": "; ".join(warned.undercut)} if warned.undercut else {}
    with writing(settings) as session:
        for kind, entry in changed:
            action = AuditAction(f"{kind[:-1]}_{'saved' if (kind, entry) in new else 'removed'}")
            audit.note(session, by, action, name=entry, version=number + 1, **fields)
        session.flush()  # nothing is in force that the audit does not know
        try:
            if _text(settings, number) != before:  # edited by hand
                raise FileExistsError
            write_new(file_of(settings.node.data_dir, number + 1), tomlkit.dumps(document))
        except FileExistsError:
            raise ChangedMeanwhile("somebody else saved something just now: nothing was saved") from None
        except OSError as error:
            raise NotAllowedNow(f"nothing can be entered here: {error.strerror}") from None
    return number + 1, list(warned.warnings)


def _refuse_risky(settings: Settings, kind: Kind, content: Mapping[str, Any]) -> None:
    """What a browser must not be able to do: read files and variables, run programs, keep passwords, and have
    the node call itself or the network behind it."""
    _refuse_for_files(kind, content)
    if "entered" in content:
        raise FaultyInput("entered: the node itself sets it: leave it out")
    if kind == "peers" and not settings.console.local_peers:
        _refuse_local(content)
    if kind == "rules" and content.get("pipeline") in PROGRAMS:
        raise FaultyInput("pipeline: rules that run programs belong in the configuration files")


def _refuse_for_files(kind: Kind, content: Mapping[str, Any]) -> None:
    if "${" in as_text(kind, content):
        raise FaultyInput("variables and files (${...}) are for the configuration files only")
    if kind == "peers" and (secret := [key for key in SECRET if content.get(key)]):
        raise FaultyInput(f"{', '.join(secret)}: a peer with a login belongs in the configuration files")
    if kind == "peers" and "@" in str(content.get("url", "")):
        raise FaultyInput("url: a peer with a login belongs in the configuration files")


def _refuse_local(content: Mapping[str, Any]) -> None:
    """A name is looked up again at each call."""
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


def _checked(settings: Settings, after: _Entries, changed: Kind) -> Warned:
    """Check the configuration with these entries in place of those with which the node runs."""
    tables: dict[str, Any] = {}
    for kind in _MODELS:
        in_files = [one for one in getattr(settings, kind) if not one.entered]
        tables[kind] = [
            one.model_dump(mode="json", context=REVEALED, exclude_defaults=True) for one in in_files
        ]
        tables[kind] += [one for (other, _), one in after.items() if other == kind]
    return checked(settings, tables, changed)


def checked(settings: Settings, tables: dict[str, Any], changed: Kind = "peers") -> Warned:
    """What ``check`` warns of in the configuration with other ``tables``. Raises FaultyInput with its
    mistakes.
    """
    from dicom_node.people import preflight

    data = settings.model_dump(mode="json", context=REVEALED, exclude_defaults=True) | tables
    found = preflight.check_data(data, _role_here(settings, changed))
    if found.problems:
        raise FaultyInput("\n".join(map(_in_words, found.problems)), found.problems)
    assert found.settings is not None, "without settings there are problems"
    known = set(loading.undercuts(settings))
    return Warned(
        found.settings,
        tuple(f"{one.subject}: {one.text}" for one in found.tried if not one.ok),
        tuple(f"rule {one.rule}: {one}" for one in loading.undercuts(found.settings) if one not in known),
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


_NOT_LOADED = "the running node cannot load it: restart the node if it was installed since its start"
_IN_ITS_LOG = "the node's log says why (6011)"
_RELOAD_SECONDS = 90.0  # deliveries may have 20 s to finish what they send


def reload_node(files: Sequence[Path]) -> list[str]:
    """Let the running nodes of this machine load the configuration ``files``; returns the places of the
    nodes.

    Only nodes on the data folder that the files name are asked. Raises ConfigurationError (before any node is
    asked), Unavailable, NotAllowedNow.
    """
    from dicom_node.people import preflight

    settings, read = loading.examine(files)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    found = running(settings.node.data_dir)
    if not found:
        if settings.node.data_dir.exists() and not os.access(settings.node.data_dir, os.R_OK | os.X_OK):
            raise NotAllowedNow(
                f"{settings.node.data_dir} is closed to this user: run this as the user that the node runs as"
            )
        raise Unavailable(f"no node runs on {settings.node.data_dir} here: dicom-node serve starts one")
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
        not_loaded = key.endswith(".pipeline") and _NOT_LOADED
        read.add_named(key, "", NEEDS_RESTART if key in settings.fixed else not_loaded or _IN_ITS_LOG)
    why = [str(problem) for problem in read.problems] or [_IN_ITS_LOG]
    return "\n  ".join(["the node keeps the configuration before:", *why])


def _hang_up(settings: Settings, place: str, pid: int) -> Mapping[str, Any] | None:
    """SIGHUP, and wait for what the node says of it: None where it is content, else the event."""
    from dicom_node.people.monitoring import node_name

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
