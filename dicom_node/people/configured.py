"""What is configured: peers and rules that persons enter, the effect of rules, models and their drift.

Peers and rules in configuration files cannot be changed here. Each change of the entered ones is a new
version of their file (:mod:`dicom_node.base.config.loading`). A running node loads a changed configuration
completely or not at all. Rules are tried on files, new studies and past studies. A model of a pipeline can be
exchanged for another one of the site.

A new node from five answers: configuration, systemd unit, first admin. Nothing is overwritten.
"""

import getpass
import os
import re
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import tomlkit
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelSlot, PipelineCard
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.store import folder
from ai_pipeline.pipelines import slots, try_out
from dicom_node.base.config.loading import (
    SAVED,
    TomlFiles,
    examine,
    file_of,
    fingerprint,
    newest,
    undercuts,
    validated,
    versions,
)
from dicom_node.base.config.sample import FIRST_RULES, toml_value
from dicom_node.base.config.settings import (
    NEEDS_RESTART,
    REVEALED,
    LocalAddress,
    PeerSettings,
    RuleSettings,
    Settings,
    did_you_mean,
    remote_address,
)
from dicom_node.base.dicom.uids import role_of
from dicom_node.base.durable import write_new
from dicom_node.base.errors import (
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
from dicom_node.base.files import bucket_of
from dicom_node.base.lifecycle import AuditAction, ObjectRole, Role, StudyState, UserRole
from dicom_node.base.processes import console_program, files_of, running
from dicom_node.base.store import intake, transitions
from dicom_node.base.store.tables import Instance, Study
from dicom_node.base.store.views import View, columns, list_events
from dicom_node.jobs import drift
from dicom_node.jobs.queue import FIRST_STUDIES, decide, decide_study, explain, why_none
from dicom_node.people import (
    Row,
    audit,
    open_database,
    preflight,
    processes,
    reading,
    upgrade_database,
    users,
    writing,
)
from dicom_node.people.peers import SECRET
from dicom_node.receive.inspection import Inspected, inspect

Kind = Literal["peers", "rules"]
LONGEST: Final = 16 * 1024
"""Characters of peers or rules that a person writes."""
_MODELS: Final[Mapping[str, type[BaseModel]]] = {"peers": PeerSettings, "rules": RuleSettings}
PROGRAMS: Final = ("command", "container")
"""Pipelines of rules that only the configuration files may have."""


@dataclass(frozen=True, slots=True)
class Warned:
    """The outcome of checking a changed configuration. ``settings``: the configuration; ``warnings``: texts.

    ``undercut``: a sentence for each rule that would send results at once that another rule makes wait for a
    person.
    """

    settings: Settings
    warnings: tuple[str, ...]
    undercut: tuple[str, ...]


_Entries = dict[tuple[str, str], dict[str, Any]]
"""Peers and rules by kind and name."""


def entered_versions(settings: Settings) -> list[Row]:
    """All versions of the peers and rules that persons entered, the newest first.

    ``saved``: when, by whom, and what was changed.
    """
    return [
        Row(version=number, saved=_saved_in_words(_text(settings, number)))
        for number in reversed(versions(settings.node.data_dir))
    ]


def as_text(kind: Kind, content: Mapping[str, Any]) -> str:
    """A peer or rule as lines of TOML, with its keys in the order of the documentation."""
    known = [key for key in _MODELS[kind].model_fields if key in content]
    rest = [key for key in content if key not in known]
    return "".join(f"{key} = {toml_value(content[key])}\n" for key in [*known, *rest])


def parse_entry(kind: Kind, text: str) -> dict[str, Any]:
    """Read one peer or rule from lines of TOML, with or without its heading. Raises FaultyInput."""
    data = tables(text)
    if set(data) == {kind} and isinstance(data[kind], list) and len(data[kind]) == 1:
        data = data[kind][0]
    if not isinstance(data.get("name"), str):
        raise FaultyInput(f"write the keys of one {kind[:-1]}, a name among them")
    return _as_toml_gives_it(kind, data)


def tables(text: str) -> dict[str, Any]:
    """Read a person's TOML text into its tables. Raises FaultyInput if it is too long or no TOML."""
    if len(text) > LONGEST:
        raise FaultyInput(f"that is too long: {LONGEST // 1024} KiB at most")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # thousands of brackets
        raise FaultyInput(f"this is no TOML: {error}") from None


def from_keys(kind: Kind, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The peer or rule with this name and these keys, with values as TOML would give them. Raises
    FaultyInput.
    """
    content = _as_toml_gives_it(kind, {"name": name, **keys})
    if content["name"] != name:
        raise FaultyInput(f"name: the address says {name}")
    return content


def _as_toml_gives_it(kind: Kind, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it is after it was written as TOML and read again. Raises FaultyInput if TOML cannot
    hold it.
    """
    try:
        text = as_text(kind, content)
        text.encode()
    except (RecursionError, TypeError, UnicodeEncodeError):
        raise FaultyInput("a key or value in it is of a kind that no setting has") from None
    return tables(text)


def save_entry(
    settings: Settings,
    kind: Kind,
    content: Mapping[str, Any],
    version: int | None = None,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    despite_hold: bool = False,
) -> Row:
    """Add or change an entered peer or rule; ``apply_now`` puts it in force. Returns name, version and
    warnings.

    ``version``: the version of the entry as the person saw it, 0 to add one, None: not compared.
    ``despite_hold``: a person confirmed that the rule sends results at once that another rule makes wait.
    Raises FaultyInput with every mistake that ``check`` would find; NotAllowedNow if it was changed
    meanwhile, is in a configuration file, or none can be written; HoldUndercut without that confirmation.
    """
    name = content["name"]
    now, after = _with_change(settings, kind, name, content, version)
    _, warnings = _write(settings, now, after, f"{kind[:-1]} {name}", by, despite_hold=despite_hold)
    return Row(name=name, version=fingerprint(_entries(after)[kind, name]), warnings=warnings)


def check_entry(
    settings: Settings, kind: Kind, content: Mapping[str, Any], version: int | None = None
) -> Warned:
    """The warnings that ``save_entry`` would return, without a change. Raises its errors except
    HoldUndercut.
    """
    _, after = _with_change(settings, kind, content["name"], content, version)
    return _checked(settings, _entries(after), kind)


def remove_entry(
    settings: Settings,
    kind: Kind,
    name: str,
    version: int | None = None,
    by: audit.Person = audit.COMMAND_LINE,
) -> Row:
    """Remove an entered peer or rule; ``version`` as in ``save_entry``. The warnings say what becomes of
    results that wait for a peer.

    Raises NotFound, NotAllowedNow, FaultyInput (a rule needs the peer).
    """
    now, after = _with_change(settings, kind, name, None, version)
    _, warnings = _write(settings, now, after, f"{kind[:-1]} {name} removed", by, despite_hold=True)
    return Row(name=name, warnings=warnings)


def undo_to(
    settings: Settings,
    version: int,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    despite_hold: bool = False,
) -> Row:
    """Set all entered peers and rules back to this version (0: none); returns the new version and warnings.

    ``despite_hold`` as in ``save_entry``. Raises NotFound, and the errors of ``save_entry``.
    """
    if version not in (0, *versions(settings.node.data_dir)):
        raise NotFound(f"there is no version {version} of the entered peers and rules")
    after, what = _text(settings, version), f"as in version {version}"
    number, warnings = _write(settings, _newest(settings), after, what, by, despite_hold=despite_hold)
    return Row(name=f"version {number}", version=number, warnings=warnings)


def apply_now(settings: Settings) -> int:
    """Let the nodes of this machine load the entered peers and rules at once; returns how many nodes.

    Nodes of other machines load them within 30 s.
    """
    asked = 0
    for pid in running(settings.node.data_dir).values():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGHUP)
            asked += 1
    return asked


def show_entry(settings: Settings, kind: Kind, name: str) -> View:
    """An entered peer or rule (``content``) with its version, which a change of it must name.

    Raises NotFound; NotAllowedNow for one in the configuration files, FaultyInput for one with a secret.
    """
    _, text = _newest(settings)
    if content := _entries(text).get((kind, name)):
        _refuse_for_files(kind, content)  # who may not enter it may not see it
        return {"name": name, "version": fingerprint(content), "content": content}
    if name in {one.name for one in getattr(settings, kind)}:
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    raise NotFound(f"no {kind[:-1]} is called {name!r}")


def _text(settings: Settings, version: int) -> str:
    """The text of a version of the entered peers and rules; "" if it does not exist."""
    file = file_of(settings.node.data_dir, version)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _saved_in_words(text: str) -> str:
    """When, by whom and why a version was saved, read from its ``text``; "by hand" or "damaged" if it does
    not say so.
    """
    with suppress(ValueError):
        return str(tomllib.loads(text).get(SAVED, "by hand"))
    return "damaged"


def _entries(text: str) -> _Entries:
    """The peers and rules in the text of a version. Raises NotAllowedNow if it was edited by hand and cannot
    be read.
    """
    try:
        data = tomllib.loads(text)
        return {(kind, str(one.get("name"))): one for kind in _MODELS for one in data.get(kind, ())}
    except (ValueError, TypeError, AttributeError):
        raise NotAllowedNow("what was entered is damaged: correct it, dicom-node check says where") from None


def _newest(settings: Settings) -> tuple[int, str]:
    """The number of the newest version and its text. Raises NotAllowedNow where nothing can be entered."""
    if bucket_of(settings):
        raise NotAllowedNow(
            "machines with [object_store] share no folder: peers and rules are in the configuration files"
        )
    number = newest(settings.node.data_dir)
    return number, _text(settings, number)


def _with_change(
    settings: Settings, kind: Kind, name: str, content: Mapping[str, Any] | None, version: int | None
) -> tuple[tuple[int, str], str]:
    """((number and text of the newest version), its text with this peer or rule changed); comments and order
    stay.

    ``content``: None to remove it. ``version`` as in ``save_entry``, and its errors.
    """
    if content is not None:
        _refuse_risky(settings, kind, content)
    number, text = _newest(settings)
    known = _entries(text)
    here = known.get((kind, name))
    if here is None and content is None:
        hint = did_you_mean(name, [one for other, one in known if other == kind])
        raise NotFound(f"no {kind[:-1]} that was entered is called {name!r}; {hint}")
    if version == 0 and here:
        raise NotAllowedNow(f"there is a {kind[:-1]} {name} already: nothing was saved")
    if version not in (None, fingerprint(here)):
        raise NotAllowedNow(
            f"{name} was {'changed' if here else 'removed'} after you opened it: nothing was saved. "
            f"What was saved last: {_saved_in_words(text)}"
        )
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
    """Check the whole configuration, note each change in the audit, and write the next version; returns (its
    number, warnings).

    ``now``: number and text of the present version; ``after``: the new text; ``what``: the change in words;
    ``by``: the person; ``despite_hold`` as in ``save_entry``, with its errors.
    """
    number, before = now
    old, new = _entries(before), _entries(after)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    warned = _checked(settings, new, "rules" if "rules" in dict(changed) else "peers")
    if warned.undercut and not despite_hold:
        raise HoldUndercut(
            f"{'; '.join(warned.undercut)}: give it assess_first = true, or confirm it (despite_hold)"
        )
    document = tomlkit.parse(after)
    document[SAVED] = f"{transitions.utc_now():%Y-%m-%dT%H:%M:%SZ}, {by.name}: {what}"
    fields: dict[str, Any] = {"despite_hold": "; ".join(warned.undercut)} if warned.undercut else {}
    with writing(settings) as session:
        for kind, entry in changed:
            action = AuditAction(f"{kind[:-1]}_{'saved' if (kind, entry) in new else 'removed'}")
            audit.note(session, by, action, name=entry, version=number + 1, **fields)
        left = preflight.left_behind(session, warned.settings.peers)
        session.flush()  # nothing is in force that the audit does not know
        try:
            if _text(settings, number) != before:  # edited by hand
                raise FileExistsError
            write_new(file_of(settings.node.data_dir, number + 1), tomlkit.dumps(document))
        except FileExistsError:
            raise NotAllowedNow("somebody else saved something just now: nothing was saved") from None
        except OSError as error:
            raise NotAllowedNow(f"nothing can be entered here: {error.strerror}") from None
    return number + 1, [*warned.warnings, *left]


def _refuse_risky(settings: Settings, kind: Kind, content: Mapping[str, Any]) -> None:
    """Raise FaultyInput for content that is too dangerous to be entered in a browser.

    Such content reads files or variables, runs programs, stores passwords, or has the node call itself or the
    network behind it.
    """
    _refuse_for_files(kind, content)
    if "entered" in content:
        raise FaultyInput("entered: the node itself sets it: leave it out")
    if kind == "peers" and not settings.console.local_peers:
        _refuse_local(content)
    if kind == "rules" and content.get("pipeline") in PROGRAMS:
        raise FaultyInput("pipeline: rules that run programs belong in the configuration files")


def _refuse_for_files(kind: Kind, content: Mapping[str, Any]) -> None:
    """Raise FaultyInput for content that only configuration files may have: variables, files, secrets."""
    if "${" in as_text(kind, content):
        raise FaultyInput("variables and files (${...}) are for the configuration files only")
    if kind == "peers" and (secret := [key for key in SECRET if content.get(key)]):
        raise FaultyInput(f"{', '.join(secret)}: a peer with a login belongs in the configuration files")
    if kind == "peers" and "@" in str(content.get("url", "")):
        raise FaultyInput("url: a peer with a login belongs in the configuration files")


def _refuse_local(content: Mapping[str, Any]) -> None:
    """Raise FaultyInput for a URL or host that leads to this machine; a name is looked up again at each call,
    too.
    """
    problems = []
    for key in ("host", "query_host", "commitment_host", "url"):
        given = str(content.get(key) or "")
        try:
            host = urlsplit(given).hostname if key == "url" else given
            if host:
                remote_address(host)
        except LocalAddress as error:
            problems.append(ConfigProblem("", f"peers.{content['name']}.{key}", repr(given), str(error)))
        except (OSError, ValueError):  # nobody knows it yet, or the check of the settings says what is wrong
            continue
    if problems:
        raise FaultyInput("\n".join(map(_in_words, problems)), problems)


def _checked(settings: Settings, after: _Entries, changed: Kind) -> Warned:
    """Check the configuration with the entries ``after`` in place of the present ones; returns the warnings.

    ``changed``: which kind of entry changed. Raises FaultyInput with all mistakes.
    """
    tables: dict[str, Any] = {}
    for kind in _MODELS:
        tables[kind] = [
            one.model_dump(mode="json", context=REVEALED, exclude_defaults=True)
            for one in getattr(settings, kind)
            if not one.entered
        ]
        tables[kind] += [one for (other, _), one in after.items() if other == kind]
    data = settings.model_dump(mode="json", context=REVEALED, exclude_defaults=True) | tables
    found = preflight.check_data(data, _role_here(settings, changed))
    if found.problems:
        raise FaultyInput("\n".join(map(_in_words, found.problems)), found.problems)
    assert found.settings is not None, "without settings there are problems"
    known = set(undercuts(settings))
    return Warned(
        found.settings,
        tuple(f"{one.subject}: {one.text}" for one in found.tried if not one.ok),
        tuple(one for one in undercuts(found.settings) if one not in known),
    )


def _role_here(settings: Settings, changed: Kind) -> Role:
    """The role under which to check a change on this machine.

    Models are checked only where they run, and only for rules, because it takes a while.
    """
    here = {Role.at(place) for place in running(settings.node.data_dir)} or {Role.ALL}
    if changed == "rules" and any(role.runs_models for role in here):
        return Role.ALL
    if any(role.receives for role in here):
        return Role.LISTENER
    return Role.CONSOLE if Role.CONSOLE in here else min(here)


def _in_words(problem: ConfigProblem) -> str:
    """A mistake of the configuration in one line: key, value and remedy."""
    return f"{problem.key}{f' = {problem.value}' if problem.value else ''}: {problem.remedy}"


_IN_ITS_LOG = "the node's log says why (6011); what was installed since its start needs a restart"
_RELOAD_SECONDS = 90.0  # deliveries may have 20 s to finish what they send


def reload_node(files: Sequence[Path]) -> list[str]:
    """Let the running nodes of this machine load the configuration ``files``; returns the names of the nodes.

    Only nodes on the data folder that the files name are asked. Raises ConfigurationError (before any node is
    asked), Unavailable, NotAllowedNow.
    """
    settings, read = examine(files)
    found = running(settings.node.data_dir) if settings else {}
    if settings is None or read.problems:  # all mistakes at once: also those that only a node's checks find
        checked = (preflight.check(files, Role.at(place)).problems for place in found)
        raise ConfigurationError(next(checked, read.problems))
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
            if problems := preflight.check(files, Role.at(place)).problems:
                raise ConfigurationError(problems)
            if refused := _hang_up(settings, place, pid):
                # Event 6011 with the lines of the settings that it names.
                for key in filter(None, str(refused["fields"].get("keys", "")).split(", ")):
                    read.add_named(key, "", NEEDS_RESTART if key in settings.fixed else _IN_ITS_LOG)
                why = [str(problem) for problem in read.problems] or [_IN_ITS_LOG]
                raise NotAllowedNow("\n  ".join(["the node keeps the configuration before:", *why]))
            done.append(place)
    finally:
        if done:  # whatever the other processes answered
            with writing(settings) as session:
                audit.note(session, audit.COMMAND_LINE, AuditAction.CONFIG_RELOADED, nodes=done)
    return done


def _hang_up(settings: Settings, place: str, pid: int) -> Mapping[str, Any] | None:
    """Send SIGHUP to a node, and wait for its event.

    Returns None if it loaded the configuration, else the event that says why not. Raises NotAllowedNow.
    ``place``: the name of the node; ``pid``: its process.
    """
    asked = datetime.now(UTC)
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise NotAllowedNow(f"process {pid} belongs to another user: run this as that user") from None
    ours, numbers = processes.node_name(place), (CONFIGURATION_RELOADED.number, CONFIGURATION_REFUSED.number)
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


TRIED = 50
"""Studies that rules are tried against, the newest."""


def list_rules(settings: Settings) -> list[View]:
    """The rules in their order; a study gets a job for each rule that takes it."""
    return [
        {
            "name": rule.name,
            "when": {key: list(value) for key, value in rule.when if value},
            "pipeline": rule.pipeline,
            "send_to": list(rule.send_to),
            "forward": list(rule.forward),
            "then": [str(one) for one in rule.then],
            "priority": rule.priority,
            "options": {key: toml_value(value) for key, value in rule.options.items()},
            "limits": _limits_in_words(rule),
            "version": rule.entered or None,
        }
        for rule in settings.rules
    ]


def _limits_in_words(rule: RuleSettings) -> list[str]:
    """The limits of a rule, such as the age of studies, as texts."""
    applies = {
        f"holds studies older than {rule.max_study_age_days:g} days": rule.max_study_age_days,
        f"secondary captures of {', '.join(rule.secondary_captures_from)} too": rule.secondary_captures_from,
        "results wait until a person has accepted them": rule.assess_first,
    }
    return [text for text, value in applies.items() if value]


def try_rules(session: Session, settings: Settings, other: Settings | None = None) -> list[View]:
    """Show for each of the newest studies which rules take it (rows, the newest first).

    ``other``: changed settings to compare with; None: no comparison.
    """
    chosen = (
        select(Study)
        .where(Study.state.not_in((StudyState.RECEIVING, StudyState.QUARANTINED)))
        .order_by(Study.last_received_at.desc(), Study.id.desc())
        .limit(TRIED)
    )
    found = []
    for study in session.scalars(chosen):
        row = columns(study, "id", "state", "last_received_at", "study_instance_uid")
        row["now"] = _rules_taking(session, study, settings)
        if other is not None:
            row["then"] = _rules_taking(session, study, other)
            row["changes"] = _rules_and_actions(row["then"]) != _rules_and_actions(row["now"])
        sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
        row["modalities"] = sorted({source.modality for source in sources})
        found.append(row)
    return found


def try_files(settings: Settings, files: Sequence[Path], sender: str = "") -> list[dict[str, Any]]:
    """Show for each file (also in folders) and rule whether the rule applies, and why (not), as rows.

    ``sender``: name or AE title of the peer that is assumed to have sent them, "" for none. Raises NotFound.
    """
    from dicom_node.deliver.scu.storage import dicom_files

    peer = settings.sender(sender) if sender else None
    read = [_read_file(path, settings, peer) for path in dicom_files(files)]
    today = transitions.utc_now().date()
    rows: list[dict[str, Any]] = []
    for path, image, facts in read:
        about = {
            "file": str(path),
            "study_instance_uid": image.study_instance_uid,
            "sop_instance_uid": image.sop_instance_uid,
            "modality": image.modality,
        }
        if image.fault:
            rows.append(
                {
                    **about,
                    "rule": "",
                    "pipeline": "",
                    "applies": False,
                    "reason": f"quarantined: {image.fault}",
                    "then": [],
                }
            )
            continue
        decisions = decide(settings.rules, image.study_date, [facts], today, settings.sender_names)
        held = {decision.rule.name: decision.held_reason for decision in decisions}
        for rule, failed in explain(settings.rules, facts, settings.sender_names):
            limit = held.get(rule.name, "")
            rows.append(
                {
                    **about,
                    "rule": rule.name,
                    "pipeline": rule.pipeline,
                    "applies": not failed,
                    "reason": f"a person must start it, except of the first {FIRST_STUDIES} studies: {limit}"
                    if limit
                    else failed or "all conditions hold",
                    "then": [] if failed else [str(one) for one in rule.then],
                }
            )
    return rows


def replay_rules(settings: Settings, since: datetime, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Apply the rules to studies received after ``since`` that should get a job by now and did not get it.

    Returns a row for each such study and rule that takes it. ``dry_run``: only return the rows.
    """
    from dicom_node.studies import choose

    def note(session: Session, study: int) -> None:
        """Note in the audit that the rules were applied to this study."""
        audit.note(session, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study, replay=True)

    with open_database(settings) as database:
        return choose.replay(database, settings, since, None if dry_run else note)


def _rules_taking(session: Session, study: Study, settings: Settings) -> View:
    """The rules that take the study, each with the limit that would hold its job; ``why``: why none takes
    it.
    """
    sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
    decisions = decide_study(session, study, sources, settings)
    return {
        "rules": [
            {
                "name": decision.rule.name,
                "images": len(decision.source_uids),
                "held": decision.held_reason,
                "send_to": list(decision.rule.send_to),
                "then": [str(one) for one in decision.rule.then],
            }
            for decision in decisions
        ],
        "why": "" if decisions else why_none(settings.rules, sources, settings.sender_names),
    }


def _rules_and_actions(decided: View) -> set[tuple[str, ...]]:
    """The rules that take a study and what they do with it, as a set for a comparison."""
    return {(rule["name"], *rule["then"]) for rule in decided["rules"]}


def _read_file(
    path: Path, settings: Settings, sender: PeerSettings | None
) -> tuple[Path, Inspected, Instance]:
    """Read a DICOM file as rules see it; returns (path, what the inspection found, the row that it would
    get).
    """
    found = inspect(path, sender.assume_charset if sender else "")
    name = sender.name if sender else ""
    role = role_of(
        found.sop_class_uid,
        frozenset(settings.listener.further_storage_classes),
        takes_secondary_captures=any(name in rule.secondary_captures_from for rule in settings.rules),
    )
    return (
        path,
        found,
        Instance(
            sop_instance_uid=found.sop_instance_uid,
            sop_class_uid=found.sop_class_uid,
            modality=found.modality,
            role=ObjectRole.OWN if found.own else role,
            calling_ae=sender.ae_title if sender else "",
            called_ae=settings.node.ae_title,
            attributes=dict(found.attributes),
        ),
    )


TRIAL_SECONDS = 120
"""How long a model may take on the pictures that it is tried on before it is used."""


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """The models' cards (files about a model) as rows. Raises FaultyInput if a card cannot be read."""
    return [
        {
            "id": card.id,
            "version": card.version,
            "task": card.task,
            "architecture": card.architecture,
            "licence": card.licence,
            "intended_use": card.intended_use,
            "limits": list(card.limits),
            "calibrated": card.calibrated,
            "labels": [label.name for label in card.labels if label.supported],
            "weights": [{"role": w.role, "file": w.path.name, "sha256": w.sha256} for w in card.weights],
            "card_sha256": card.sha256,
        }
        for card in model_cards(settings)
    ]


def model_drift(settings: Settings, since: datetime | None = None) -> list[dict[str, Any]]:
    """Rows that compare the scores and refusals of each model with its card's reference, for each sending
    peer.

    The sender "other" stands for all that are not configured. ``since``: only from this day (UTC) on; None:
    the last ``drift.WINDOW_DAYS``. Raises FaultyInput.
    """
    day = drift.window(transitions.utc_now()) if since is None else since.astimezone(UTC).date()
    with reading(settings) as session, _refusing_faulty_cards():
        return drift.drift(session, settings.workers.models_dir, day)


def models_in_use(settings: Settings) -> dict[str, str]:
    """The model ("id@version", "" for none) in each slot; a slot is a place in a pipeline for a model of the
    site's choice.

    Raises FaultyInput.
    """
    found = {}
    for name, (_, slot) in slots().items():
        with _refusing_faulty_cards():
            card = folder.in_use(slot, settings.workers.models_dir)
        found[name] = card.name if card else ""
    return found


def activate_model(settings: Settings, slot: str, name: str, by: audit.Person) -> None:
    """Use a model of ``workers.models_dir`` in a pipeline's slot, after a trial. Raises FaultyInput,
    NotFound.
    """
    pipeline, chosen, models_dir = _slot(settings, slot)
    with _refusing_faulty_cards():
        card = registry.find(name, models_dir)
        try_out(pipeline.name, card.path, TRIAL_SECONDS)
        with writing(settings) as session:
            audit.note(session, by, AuditAction.MODEL_ACTIVATED, pipeline=slot, model=card.name)
            session.flush()  # no change that cannot be noted
            folder.activate(chosen, card, models_dir)


def roll_back_model(settings: Settings, slot: str, by: audit.Person) -> None:
    """Use the previous model in a pipeline's slot again. Raises FaultyInput, NotFound."""
    _, chosen, models_dir = _slot(settings, slot)
    with _refusing_faulty_cards(), writing(settings) as session:
        card = folder.previous_model(chosen, models_dir)
        audit.note(session, by, AuditAction.MODEL_ROLLBACK, pipeline=slot, model=card.name if card else "")
        session.flush()  # no change that cannot be noted
        folder.rollback(chosen, models_dir)


def _slot(settings: Settings, name: str) -> tuple[PipelineCard, ModelSlot, Path]:
    """(pipeline of the slot with this name, the slot, the folder of the site's models). Raises NotFound,
    FaultyInput.
    """
    known = slots()
    if name not in known:
        raise NotFound("the model of this pipeline cannot be exchanged")
    if settings.workers.models_dir is None:
        raise FaultyInput(
            "there is no folder for models of your own: set workers.models_dir, then `ai-pipeline models add`"
        )
    return *known[name], settings.workers.models_dir


def model_cards(settings: Settings) -> Sequence[registry.Card]:
    """The cards (files about a model) of shipped models and of the site's own. Raises FaultyInput."""
    with _refusing_faulty_cards():
        return registry.cards(settings.workers.models_dir)


@contextmanager
def _refusing_faulty_cards() -> Iterator[None]:
    """Context manager: a model card that cannot be used raises FaultyInput."""
    try:
        yield
    except CardError as error:
        raise FaultyInput(str(error)) from None


_HEAD = "# Made by `dicom-node init`. `dicom-node config sample` shows every key with its default.\n\n"
_USER = "dicom-node"
_PROGRAM, _CONFIGURED, _STATE = (  # in the unit that ships
    "/opt/dicom-node/bin/dicom-node",
    "/etc/dicom-node/node.toml",
    "/var/lib/dicom-node",
)


Answers = Mapping[str, str]
"""``ae_title``, ``data_dir``, ``pacs`` (AE@HOST:PORT), ``machines`` (AE@HOST, …), ``admin``; what is missing
is the default, or empty."""


def examine_answers(answers: Answers) -> Settings:
    """The settings that these answers for a new node give. Raises FaultyInput, ConfigurationError for
    unusable ones.
    """
    read = TomlFiles(data=_tables(answers))
    settings = validated(read)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    data_dir = settings.node.data_dir
    if "data_dir" in answers and data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise FaultyInput(f"{data_dir} is no empty folder: take another")
    if answers.get("admin") and not console_program():
        raise FaultyInput("the console needs its package: pip install ./dicom_console (or leave it out)")
    return settings


def new_files(folder: Path) -> tuple[Path, Path]:
    """The configuration and the unit that ``create_node`` writes. Raises FaultyInput if one exists."""
    paths = folder / "node.toml", folder / "dicom-node.service"
    for path in paths:
        if path.exists() or path.is_symlink():
            raise FaultyInput(f"{path} is there already, and stays as it is")
    return paths


def create_node(answers: Answers, folder: Path, password: str = "") -> tuple[Path, Path]:
    """Write configuration and systemd unit of a new node into ``folder``; returns the paths of both files.

    If the answers name an admin, the database is made, too, with this account and ``password``. Everything is
    checked before anything is written. Raises the errors of :func:`examine_answers` and of
    ``users.checked_password``, and FaultyInput if something would be overwritten.
    """
    configuration, unit = new_files(folder)
    settings = examine_answers(answers)
    data_dir, admin = settings.node.data_dir, answers.get("admin", "")
    for path in (folder, data_dir):
        if not re.fullmatch(r"/[\w./-]*", str(path)):
            raise FaultyInput(
                f"{str(path)!r}: a unit needs a path of letters, figures, dot, dash and underscore"
            )
    if admin:
        users.checked_password(admin, password)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (configuration, _HEAD + tomlkit.dumps(_tables(answers))),
            (unit, _unit(data_dir, configuration)),
        ):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise FaultyInput(f"{error.filename} cannot be made: {error.strerror}") from None
    if admin:
        upgrade_database(settings)
        users.add_user(settings, admin, UserRole.ADMIN, password)
    if getpass.getuser() == "root":
        with suppress(LookupError):  # there may be no such user yet
            for path in (configuration, data_dir, *data_dir.rglob("*")):
                shutil.chown(path, _USER, _USER)
    return configuration, unit


def _tables(answers: Answers) -> dict[str, Any]:
    """The answers for a new node as tables of the configuration. Raises FaultyInput."""
    machines = filter(None, map(str.strip, answers.get("machines", "").split(",")))
    peers = [
        _peer(r"(.+)@(.+)", machine, "machine: write AE@HOST, such as US1@192.0.2.21") for machine in machines
    ]
    data_dir = Path(answers.get("data_dir", _STATE).strip()).absolute()
    found: dict[str, Any] = {
        "node": {"ae_title": answers.get("ae_title", "AINODE").strip(), "data_dir": str(data_dir)},
        "listener": {"host": "0.0.0.0"},  # modalities are on other machines
        "console": {"enabled": bool(answers.get("admin"))},
        "peers": peers,
    }
    if text := answers.get("pacs", "").strip():
        pacs = _peer(r"(.+)@(.+):(\d{1,9})", text, "PACS: write AE@HOST:PORT, such as PACS@192.0.2.10:104")
        pacs |= {"name": "pacs", "may": ["send", "receive"]}
        pacs["results"] = ["sr", "gsps", "sc", "summary", "cleaned"]
        peers.insert(0, pacs)
        found["rules"] = [
            {"name": name, "when": {"modality": modality}, "pipeline": pipeline, "send_to": ["pacs"]}
            for name, (modality, pipeline) in FIRST_RULES.items()
        ]
    return found


def _peer(form: str, text: str, otherwise: str) -> dict[str, Any]:
    """Read a peer from a text such as AE@HOST:PORT; ``form``: the regular expression for it.

    Raises FaultyInput, whose text ends with ``otherwise``.
    """
    if not (found := re.fullmatch(form, text)):
        raise FaultyInput(f"{text!r} is no {otherwise}")
    ae_title, host, *port = found.groups()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", ae_title.lower())
    return {"name": name, "ae_title": ae_title, "host": host, **({"port": int(port[0])} if port else {})}


def _unit(data: Path, configuration: Path) -> str:
    """The text of the systemd unit, with the paths and the user of this node."""
    text = (files("dicom_node.base.config") / "dicom-node.service").read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("dicom-node")
    if str(data) != _STATE:
        text = text.replace("StateDirectory=dicom-node\nStateDirectoryMode=0700", f"ReadWritePaths={data}")
    if any(
        path.is_relative_to(home) for path in (data, program, configuration) for home in ("/home", "/root")
    ):
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
    user = getpass.getuser()
    for shipped, ours in (
        (f"User={_USER}", f"User={user if user != 'root' else _USER}"),
        (f"Group={_USER}\n", "" if user != "root" else f"Group={_USER}\n"),
        (_PROGRAM, str(program)),
        (_CONFIGURED, str(configuration)),
        (_STATE, str(data)),
    ):
        text = text.replace(shipped, ours)
    return text
