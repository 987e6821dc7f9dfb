"""Peers and rules that persons enter, in versions.

Those in the configuration files cannot be changed here. Each change of the entered ones is a new version of
their file (:mod:`dicom_node.base.config.loading`), which the whole configuration must be able to take.
"""

import os
import signal
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import tomlkit
from pydantic import BaseModel

from dicom_node.base.actions.action import allowed_to
from dicom_node.base.config.addresses import LocalAddress, remote_address
from dicom_node.base.config.loading import SAVED, file_of, fingerprint, newest, undercuts, versions
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import PROGRAMS, RuleSettings
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.section import REVEALED, did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.durable import write_new
from dicom_node.base.errors import ConfigProblem, FaultyInput, HoldUndercut, NotAllowedNow, NotFound
from dicom_node.base.files import bucket_of
from dicom_node.base.lifecycle import AuditAction, Role, UserRole
from dicom_node.base.processes import running
from dicom_node.base.store import transitions
from dicom_node.base.store.views import View
from dicom_node.people import Row, audit, preflight, writing
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.peers import SECRET

Kind = Literal["peers", "rules"]
LONGEST: Final = 16 * 1024
"""Characters of peers or rules that a person writes."""
_MODELS: Final[Mapping[str, type[BaseModel]]] = {"peers": PeerSettings, "rules": RuleSettings}


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


@allowed_to(UserRole.ADMIN)
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


@allowed_to(UserRole.ADMIN)
def save_entry(
    settings: Settings,
    kind: Kind,
    content: Mapping[str, Any],
    version: int | None = None,
    by: Person = COMMAND_LINE,
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


@allowed_to(UserRole.OPERATOR)
def check_entry(
    settings: Settings, kind: Kind, content: Mapping[str, Any], version: int | None = None
) -> Warned:
    """The warnings that ``save_entry`` would return, without a change. Raises its errors except
    HoldUndercut.
    """
    _, after = _with_change(settings, kind, content["name"], content, version)
    return _checked(settings, _entries(after), kind)


@allowed_to(UserRole.ADMIN)
def remove_entry(
    settings: Settings,
    kind: Kind,
    name: str,
    version: int | None = None,
    by: Person = COMMAND_LINE,
) -> Row:
    """Remove an entered peer or rule; ``version`` as in ``save_entry``. The warnings say what becomes of
    results that wait for a peer.

    Raises NotFound, NotAllowedNow, FaultyInput (a rule needs the peer).
    """
    now, after = _with_change(settings, kind, name, None, version)
    _, warnings = _write(settings, now, after, f"{kind[:-1]} {name} removed", by, despite_hold=True)
    return Row(name=name, warnings=warnings)


@allowed_to(UserRole.ADMIN)
def undo_to(
    settings: Settings,
    version: int,
    by: Person = COMMAND_LINE,
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
    """((number and text of the newest version), its text with this peer or rule changed).

    ``content``: None to remove it. ``version`` as in ``save_entry``, and its errors.
    """
    if content is not None:
        _refuse_risky(settings, kind, content)
    number, text = _newest(settings)
    known = _entries(text)
    here = known.get((kind, name))
    if here is None and content is None:
        hint = did_you_mean(name, [other for of_kind, other in known if of_kind == kind])
        raise NotFound(f"no {kind[:-1]} that was entered is called {name!r}; {hint}")
    if version == 0 and here:
        raise NotAllowedNow(f"there is a {kind[:-1]} {name} already: nothing was saved")
    if version not in (None, fingerprint(here)):
        raise NotAllowedNow(
            f"{name} was {'changed' if here else 'removed'} after you opened it: nothing was saved. "
            f"What was saved last: {_saved_in_words(text)}"
        )
    of_files = {entry.name for entry in getattr(settings, kind) if not entry.entered}
    if here is None and name in of_files:
        raise NotAllowedNow(f"{name} is in the configuration files: change it there")
    return (number, text), _changed_text(text, kind, name, content)


def _changed_text(text: str, kind: Kind, name: str, content: Mapping[str, Any] | None) -> str:
    """The text of a version with this peer or rule added, changed or (``content`` None) removed; comments and
    order stay.
    """
    document = tomlkit.parse(text)
    rows: Any = document.setdefault(kind, tomlkit.aot())
    at = next((at for at, row in enumerate(rows) if row["name"] == name), len(rows))
    if content is None:
        del rows[at]
    else:
        written: Any = tomlkit.parse(f"[[{kind}]]\n{as_text(kind, content)}\n")[kind]
        if at == len(rows):
            rows.append(written[0])
        for key in {*rows[at]} - {*content}:
            del rows[at][key]
        rows[at].update({key: value for key, value in written[0].items() if rows[at].get(key) != value})
    if not rows:
        del document[kind]
    return tomlkit.dumps(document)


def _write(
    settings: Settings, now: tuple[int, str], after: str, what: str, by: Person, *, despite_hold: bool
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
        raise FaultyInput("pipeline: rules that run programs of others belong in the configuration files")


def _refuse_for_files(kind: Kind, content: Mapping[str, Any]) -> None:
    """Raise FaultyInput for content that only configuration files may have: variables, files, secrets."""
    if "${" in as_text(kind, content):
        raise FaultyInput("variables and files (${...}) are for the configuration files only")
    if kind == "peers" and (secret := [key for key in SECRET if content.get(key)]):
        raise FaultyInput(f"{', '.join(secret)}: a peer with a login belongs in the configuration files")
    if kind == "peers" and content.get("authorities"):
        raise FaultyInput("authorities: a peer with a file belongs in the configuration files")
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
    data = settings.model_dump(mode="json", context=REVEALED, exclude_defaults=True)
    for kind in _MODELS:
        data[kind] = [one for one in data.get(kind, ()) if "entered" not in one]
        data[kind] += [one for (other, _), one in after.items() if other == kind]
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
