"""Loading of the configuration from TOML files, and of the peers and rules that persons enter.

All mistakes are reported together (exit status 78), in words that an admin uses, with file and line; also
mistakes between keys: names that refer to each other, conditions that never hold, rules that bypass a hold
(``assess_first``) of another rule by sending the same results to a peer at once.

What persons enter by page or program is in ``node.data_dir/entered/000001.toml``, … Each version is a file
of its own, and the last one is read besides the configuration files. No version is ever written over: so the
folder is the history, and machines of a site that share the folder share the entries.
"""

import copy
import os
import re
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import Conditions, RuleSettings, matches
from dicom_node.base.config.section import AE_TITLE, HOST, MODALITY, NAME, did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every, unimportable
from dicom_node.base.errors import ConfigProblem, ConfigurationError
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, CONSOLE_NAME, Retained
from dicom_node.base.logs import redacted

Place = tuple[str | int, ...]  # ("peers", 0, "port")
FOLDER: Final = "entered"
SAVED: Final = "saved"
"""The key of a version that says when it was written, by whom, and what changed."""


def load(files: Sequence[Path]) -> Settings:
    """Read the configuration from one or more TOML files. Raises ConfigurationError with every mistake.

    Relative paths in the files count from the current folder. It is a mistake if such a path names an empty
    data folder while the node's data folder lies beside the first file.
    """
    settings, read = examine(files)
    if read.problems or settings is None:
        raise ConfigurationError(read.problems)
    return settings


def load_to_read(files: Sequence[Path]) -> tuple[Settings, int]:
    """Read the settings for a program that only reads the database, leaving out faulty keys.

    Returns the settings and the number of keys left out. Raises ConfigurationError if a mistake concerns the
    location of the database.
    """
    settings, read = examine(files)
    if settings is None or any(problem.key.split(".")[0] in ("node", "file") for problem in read.problems):
        raise ConfigurationError(read.problems)
    return settings, len(read.problems)


def examine(files: Sequence[Path]) -> tuple[Settings | None, "TomlFiles"]:
    """Read the configuration files; return the settings without their faulty keys, and the files with all
    mistakes.

    The settings are None if no valid key is left, or if a file could not be read: defaults must not replace
    its content.
    """
    read = TomlFiles()
    for file in files:
        read.add_file(file)
    given = read.at(("node", "data_dir"))
    data_dir = Path(given) if isinstance(given, str) else Settings.model_fields["node"].get_default().data_dir
    number = newest(data_dir)
    entered = file_of(data_dir, number)
    if os.access(entered, os.R_OK):  # who may not read it may not change the node either
        read.add_file(entered)
        read.data.pop(SAVED, None)
        with suppress(TypeError):  # "node" is no table: a mistake of its own
            read.data.setdefault("node", {})["entered"] = number
        for kind in ("peers", "rules"):
            for place, table in read.tables(kind):
                if read.files_of((kind, place)) == [entered]:
                    table["entered"] = fingerprint(table)
    settings = validated(read)
    if settings is not None:
        # Started elsewhere, a relative data folder would be a second, empty node, which lists would show.
        folder, beside = settings.node.data_dir, files[0].resolve().parent
        if not folder.is_absolute() and not _has_node_data(folder) and _has_node_data(beside / folder):
            meant = (beside / folder).resolve()
            read.add(
                ("node", "data_dir"),
                repr(str(folder)),
                (
                    f"is {folder.resolve()} in the folder you are in, where no node is, and {meant} is one: "
                    f"start this in {beside}, or write the whole path"
                ),
            )
    return settings, read


def _has_node_data(folder: Path) -> bool:
    """Return whether the folder contains a database or a spool; False also if the folder cannot be read."""
    return any(os.access(folder / name, os.F_OK) for name in ("node.db", "spool"))


def validated(read: "TomlFiles") -> Settings | None:
    """Validate the content of the files ``read``: return the settings without faulty keys, and add each
    mistake to ``read``; None if no usable settings are left.
    """
    try:
        settings: Settings | None = Settings.model_validate(read.data)
    except ValidationError as error:
        settings, mistakes = None, error.errors()
        for found in mistakes:
            place, value = found["loc"], read.at(found["loc"])
            shown = "" if value is None or isinstance(value, dict | list) else repr(value)
            if found["type"] == "extra_forbidden":
                read.add(place, "", _unknown_key(place))  # a misspelt key may hold a password
            elif not read.is_faulty(place):  # such as by an unset variable
                read.add(place, shown, _remedy(found))
        # Without the faulty keys, so that the other mistakes can be found in the same run. A required key
        # cannot be left out: its peer or rule goes.
        for depth in (None, 2):
            with suppress(ValidationError):
                left = _without(read.data, {found["loc"][:depth] for found in mistakes})
                settings = settings or Settings.model_validate(left)
    add_unimportable(read)
    if settings is None or read.unread:
        return None
    _cross_check(settings, read)
    return settings


def add_unimportable(read: "TomlFiles") -> None:
    """Add to ``read`` the connectors that cannot be imported, each once: what they read and do would be left
    out in silence.
    """
    known = {problem.remedy for problem in read.problems}
    for name, why in unimportable():
        remedy = f"{why}: install what it needs, or uninstall the package"
        if remedy not in known:
            known.add(remedy)
            read.add_named(f"connector {name}", "", remedy)


def _without(data: dict[str, Any], places: set[Place]) -> dict[str, Any]:
    """Return a copy of ``data`` without the keys at ``places``."""
    left = copy.deepcopy(data)
    for *path, key in sorted(places, reverse=True):
        with suppress(KeyError, TypeError):  # what is missing, and what is within a faulty value
            del _value_at(left, path)[key]
    return left


def _value_at(value: Any, place: Sequence[str | int]) -> Any:
    """Return the value at the path ``place`` within nested tables and lists; None if there is none.

    A text where a list is expected is returned as it is.
    """
    for part in place:
        try:
            value = value if isinstance(value, str) else value[part]
        except (LookupError, TypeError):
            return None
    return value


def _unknown_key(place: Place) -> str:
    """Return the remedy for an unknown key at ``place``: the most similar known key, or all known keys."""
    *path, key = (part for part in place if isinstance(part, str))
    model: type[BaseModel] = Settings
    for part in path:
        model = sections(model)[part]
    return f"unknown key: {did_you_mean(key, model.model_fields, 'the keys here are')}"


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the fields of a settings class that are tables or lists of tables: name -> class of the
    table.
    """
    return {
        name: kind
        for name, field in model.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _remedy(found: ErrorDetails) -> str:
    """Return in words what to do about a mistake that pydantic found."""
    kind, given, context = found["type"], found.get("input"), found.get("ctx", {})
    match kind:
        case "value_error":
            remedy = found["msg"].removeprefix("Value error, ")
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'", context["expected"])
            named, hint = ", ".join(choice or '""' for choice in choices), did_you_mean(given, choices)
            remedy = f"must be one of {named}{f'; {hint}' if hint.startswith('did') else ''}"
        case "string_pattern_mismatch":
            remedy = _WRITTEN.get(
                context["pattern"], "has not the form that docs/reference/settings.md gives"
            )
        case "string_too_long":
            remedy = f"has more than {context['max_length']} characters"
        case "tuple_type" if found["loc"][-2:-1] == ("when",):
            remedy = 'must be text in quotes, or a list, such as ["a", "b"]'
        case "tuple_type" if isinstance(given, dict) and found["loc"] in (("peers",), ("rules",)):
            remedy = f"write [[{found['loc'][-1]}]], with two brackets: there may be several"
        case _ if kind in _BOUNDS:
            remedy = f"must be {_BOUNDS[kind]} {next(iter(context.values())):g}"
        case _:
            remedy = _REMEDIES.get(kind, _REMEDIES.get(kind.partition("_")[0], "cannot be used here"))
    return remedy


_REMEDIES: Mapping[str, str] = {
    "missing": "is missing",
    "string_too_short": "must not be empty",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be text, in quotes",
    "path": "must be a path, in quotes",
    "ip": "must be an address, or a network without bits of a host, such as 10.0.0.0/8",
    "tuple": 'must be a list, such as ["a", "b"]',
    "list": 'must be a list, such as ["a", "b"]',
    "model": "must be a table, such as [node] or { key = value }",
    "dict": "must be a table, such as { key = value }",
    "mapping": "must be a table, such as { key = value }",
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
_WRITTEN: Mapping[str, str] = {
    AE_TITLE: "an AE title has letters of ASCII, figures and signs, no backslash and no space in front",
    NAME: "a name has letters of ASCII, figures, dot, dash and underscore, no space",
    HOST: "is no name or address of a machine: letters, figures, dots and dashes, no space",
    MODALITY: "a modality is a code in capital letters, such as US, CR or DX",
}


def _cross_check(settings: Settings, read: "TomlFiles") -> None:
    """Find mistakes that concern several keys together, such as a rule with an unknown peer, and add them to
    ``read``.
    """
    for key in ("peers", "rules"):
        read.check_names(key)
    _check_peers(settings, read)
    for number, rule in enumerate(settings.rules):
        _check_peers_of(rule, settings, read)
        place = read.place_of("rules", rule.name)
        when = (*place, "when")
        if not read.at(when):
            read.add(when, "", 'has no condition: say which images, such as { modality = "US" } ("*": all)')
        for name, patterns in rule.when:
            for pattern in patterns:
                if remedy := why_never_calls(name, pattern, settings, read):
                    read.add((*when, name), repr(pattern), remedy)
        before = (one for one in settings.rules[:number] if one.name != rule.name)
        if other := next((one.name for one in before if _effect(one) == _effect(rule)), ""):
            read.add(place, "", f"does the same as rule {other}: everything would be analysed and sent twice")
    for check in every("settings.checks"):
        check(settings, read)


def _effect(rule: RuleSettings) -> tuple[object, ...]:
    """Return everything a rule does, for comparison: equal for two rules that differ only in name."""
    return rule.when, rule.pipeline, dict(rule.options), frozenset(rule.send_to)


def _check_peers(settings: Settings, read: "TomlFiles") -> None:
    """Add mistakes between peers, such as two peers with one AE title, and between peers and other settings,
    to ``read``.
    """
    ours = {settings.node.ae_title, *settings.listener.further_ae_titles}
    senders: dict[str, PeerSettings] = {}
    retained: dict[str | None, set[Retained]] = {}
    for peer in settings.peers:
        table = read.place_of("peers", peer.name)
        place = (*table, "ae_title")
        if peer.ae_title in ours and not read.is_faulty(("node", "ae_title")):
            read.add(place, repr(peer.ae_title), "is this node's own AE title: enter the peer's")
        if peer.ae_title == CONSOLE_AE_TITLE:
            read.add(place, repr(peer.ae_title), "is the console's: enter another, here and at the peer")
        # Peers of one pseudonym domain get the same objects, so their options must agree.
        if peer.deidentify and retained.setdefault(peer.pseudonym_domain, {*peer.retain}) != {*peer.retain}:
            read.add(
                (*table, "retain"),
                ", ".join(peer.retain) or "nothing",
                "another peer shares its pseudonyms and retains other attributes: give one a "
                "pseudonym_domain of its own",
            )
        if "send" not in peer.may:
            continue
        other = senders.setdefault(peer.ae_title.casefold(), peer)
        if other is not peer and other.name != peer.name:
            same = "the same AE title" if other.ae_title == peer.ae_title else "it but for capitals"
            read.add(place, repr(peer.ae_title), f"peer {other.name}, who may send too, bears {same}")


def _check_peers_of(rule: RuleSettings, settings: Settings, read: "TomlFiles") -> None:
    """Add mistakes about the peers that a rule names, such as an unknown one, to ``read``."""
    place = read.place_of("rules", rule.name)
    if rule.is_seen_by_nobody:
        read.add((*place, "send_to"), "[]", "is empty: the results would go nowhere")
    known = [name for _, name in read.numbered_names("peers")]  # those that are faulty in another way, too
    peers = {peer.name: peer for peer in settings.peers}
    for key, names, may in _uses_of_peers(rule):
        for name, times in Counter(names).items():
            peer = peers.get(name)
            remedy = "is listed twice" if times > 1 and may else ""
            if name not in known and (may or name != CONSOLE_NAME):
                remedy = f"no such peer; {did_you_mean(name, known)}" if read.all_named("peers") else ""
            elif peer and may and may not in peer.may:
                remedy = "" if read.is_faulty((*read.place_of("peers", name), "may")) else _MAY[may]
            elif peer and key == ("forward",):
                remedy = _why_not_forward(rule, peer) or remedy
            if remedy:
                read.add((*place, *key), repr(name), remedy)


def _uses_of_peers(rule: RuleSettings) -> list[tuple[Place, Sequence[str], str]]:
    """Return the keys of a rule that name peers, with these names and what such a peer must be allowed."""
    return [
        (("send_to",), rule.send_to, "receive"),
        (("forward",), rule.forward, "receive"),
        *((("then", n, "send_to"), part.send_to, "receive") for n, part in enumerate(rule.then)),
        (("priors",), [rule.priors] if rule.priors else [], "query"),
        (("secondary_captures_from",), rule.secondary_captures_from, ""),
    ]


def _why_not_forward(rule: RuleSettings, peer: PeerSettings) -> str:
    """Return why the received images of a rule cannot go to the peer; "" if they can."""
    if peer.deidentify:
        return "this peer gets nothing that names a patient: received images do"
    if rule.when.calling_ae and set(rule.when.calling_ae) <= set(peer.titles):
        return "this peer sent the images itself, and gets none of them back"
    return ""


_MAY: Final = {
    "receive": 'this peer may not receive: add may = ["receive"]',
    "query": 'this peer may not be asked: add may = ["query"]',
}


def why_never_calls(name: str, pattern: str, settings: Settings, read: "TomlFiles") -> str:
    """Return why a rule's condition on an AE title never holds, because no association can have a title that
    matches ``pattern``, with the likely right title; "" if one can.

    ``name``: the condition, ``calling_ae`` or ``called_ae``; ``read``: the configuration files with their
    mistakes.
    """
    listener = settings.listener
    if name == "calling_ae":
        titles = [*(str(table.get("ae_title", "")) for _, table in read.tables("peers")), CONSOLE_AE_TITLE]
        places: list[Place] = [("peers", number, "ae_title") for number, _ in read.tables("peers")]
        if not read.all_named("peers"):
            return ""
        whose = "no peer bears this AE title"
    elif name == "called_ae" and listener.check_called_ae:
        titles = [settings.node.ae_title, *listener.further_ae_titles]
        places = [("node", "ae_title"), ("listener", "further_ae_titles")]
        whose = "it is no AE title of this node"
    else:
        return ""
    if any(matches(pattern, title) for title in titles) or any(map(read.is_faulty, places)):
        return ""
    return f"never holds: {whose}; {did_you_mean(pattern, titles)}"


def undercuts(settings: Settings) -> Iterator[str]:
    """Yield one sentence for each rule that sends results to a peer at once although another rule makes the
    same results wait for a person's acceptance.
    """
    # Peers with the same transport, address and de-identification get the same objects.
    places = {
        peer.name: (
            peer.transport,
            peer.url if peer.by_http else peer.address_of("storage"),
            peer.deidentify,
        )
        for peer in settings.peers
    }
    for holding in (rule for rule in settings.rules if rule.assess_first):
        held = {places.get(name, name) for name in holding.receivers}
        for rule in settings.rules:
            peers = ", ".join(sorted(name for name in rule.receivers if places.get(name, name) in held))
            if not peers or rule.assess_first or rule.pipeline != holding.pipeline:
                continue
            if not any(
                _exclude_each_other(getattr(rule.when, key), getattr(holding.when, key))
                for key in Conditions.model_fields
            ):
                yield (
                    f"rule {rule.name}: {peers} gets by it at once what {holding.name} holds of the same "
                    "study"
                )


def _exclude_each_other(patterns: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Return whether no value can match both conditions, each a list of patterns; False in doubt."""
    return bool(patterns and others) and not any(
        _may_both_hold(pattern, other) for pattern in patterns for other in others
    )


def _may_both_hold(pattern: str, other: str) -> bool:
    """Return whether a value may match both patterns; of two with * or ? it is not known."""
    both_vary = {"*", "?"} & set(pattern) and {"*", "?"} & set(other)
    return bool(both_vary) or matches(pattern, other) or matches(other, pattern)


def file_of(data_dir: Path, version: int) -> Path:
    """Return the path of the TOML file with version ``version`` (from 1) of the peers and rules that were
    entered in the console or by command.
    """
    return data_dir / FOLDER / f"{version:06}.toml"


def versions(data_dir: Path) -> list[int]:
    """Return the version numbers of the entered peers and rules, ascending."""
    return sorted(int(file.stem) for file in (data_dir / FOLDER).glob("[0-9]" * 6 + ".toml"))


def newest(data_dir: Path) -> int:
    """Return the newest version number of the entered peers and rules; 0 if none was ever entered."""
    return max(versions(data_dir), default=0)


def fingerprint(entry: Mapping[str, Any] | None) -> int:
    """Return a checksum of the table of a peer or rule, by which a later request detects a change in between;
    0 for None or an empty table.
    """
    return zlib.crc32(repr(entry).encode()) % 10**9 or 1 if entry else 0


def is_behind(settings: Settings) -> bool:
    """Return whether the data folder has a newer version of the entered peers and rules than ``settings``
    contains; the node will load it soon.
    """
    return newest(settings.node.data_dir) != settings.node.entered


@dataclass(slots=True)
class TomlFiles:
    """The merged content of TOML files with ``${NAME}`` and ``${file:PATH}`` replaced, and the mistakes
    found. Lists of tables (peers, rules) are joined.

    ``unread``: whether a file is missing, empty or not TOML, so that ``data`` is not the whole configuration.
    """

    data: dict[str, Any] = field(default_factory=dict)
    unread: bool = False
    _origins: dict[Place, tuple[Path, Place]] = field(default_factory=dict)
    """For each top-level key and each table of a list: the file and the place in that file where it
    begins.
    """
    _texts: dict[Path, str] = field(default_factory=dict)
    _written: dict[Place, str] = field(default_factory=dict)
    """Values as the file has them, before ``${...}`` was replaced, by place."""
    _problems: list[ConfigProblem] = field(default_factory=list)

    @property
    def problems(self) -> list[ConfigProblem]:
        """Every mistake, ordered by file and line; mistakes that belong to no file come last."""
        rank = {str(file): number for number, file in enumerate(self._texts)}
        return sorted(self._problems, key=lambda known: (rank.get(known.file, len(rank)), known.line))

    def is_faulty(self, place: Place) -> bool:
        """Return whether a mistake was found at this place, or inside it."""
        key = self._spelled(place)
        return any(f"{problem.key}.".startswith((f"{key}.", f"{key}[")) for problem in self._problems)

    def add(self, place: Place, value: str, remedy: str) -> None:
        """Add a mistake about the value at ``place``; ``value`` as it is to be shown ("" for none)."""
        self._add(*self._origin(place), self._spelled(place), value, remedy)

    def add_named(self, key: str, value: str, remedy: str) -> None:
        """Add a mistake about a key in dotted form, such as ``peers.pacs.port``; ``value`` as it is to be
        shown ("" for none).
        """
        self._add(*self._origin(self._place(key)), key, value, remedy)

    def files_of(self, place: Place) -> list[Path]:
        """Return the files that contain the value at ``place``: the TOML file, or the files named in
        ``${file:PATH}``.

        Empty if the value comes from environment variables only.
        """
        written = self._written.get(place)
        if written is None:
            return [Path(self._origin(place)[0])]
        return [Path(path) for path, _, _ in _VARIABLE.findall(written) if path]

    def as_written(self, text: str) -> str:
        """Return a message with secrets replaced: values from the environment or from files appear as
        ``${NAME}`` or ``${file:...}``.
        """
        for place, written in self._written.items():
            value = str(self.at(place))
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(repr(value)[1:-1], written).replace(value, written)
        return text

    def at(self, place: Place) -> Any:
        """Return the value at this place; None if there is none."""
        return _value_at(self.data, place)

    def tables(self, key: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the tables of the list ``key``, also faulty ones, each with its index in the list."""
        items = self.data.get(key)
        numbered = enumerate(items if isinstance(items, list) else ())
        return [(number, item) for number, item in numbered if isinstance(item, dict)]

    def numbered_names(self, key: str) -> list[tuple[int, str]]:
        """Return index and name of each table in the list ``key`` that has a name."""
        return [(number, str(table["name"])) for number, table in self.tables(key) if "name" in table]

    def all_named(self, key: str) -> bool:
        """Return whether the name of each table in the list ``key`` could be read: else a name that is none
        of them is no mistake, as another mistake hides the one that is meant.
        """
        items = self.data.get(key, [])
        names = [table.get("name") for _, table in self.tables(key)]
        readable = [name for name in names if isinstance(name, str) and re.fullmatch(NAME, name)]
        return isinstance(items, list) and len(readable) == len(items)

    def place_of(self, key: str, name: str) -> Place:
        """Return the place of the table named ``name`` in the list ``key``; the place of the list if there is
        none.
        """
        return next(((key, number) for number, known in self.numbered_names(key) if known == name), (key,))

    def check_names(self, key: str) -> None:
        """Add a mistake for each name that two tables of the list ``key`` share, ignoring case."""
        seen: dict[str, str] = {}
        for number, name in self.numbered_names(key):
            if other := seen.get(name.casefold()):
                problem = "is used twice" if other == name else f"differs from {other} in capitals only"
                self.add(
                    (key, number, "name"), repr(name), f"{problem}: give each of the {key} a name of its own"
                )
            seen.setdefault(name.casefold(), name)

    def add_file(self, file: Path) -> None:
        """Read one more configuration file and merge its content; a file that cannot be read becomes a
        mistake.
        """
        line, remedy, self._texts[file] = 0, "", ""
        try:
            self._texts[file] = _bytes_of(file).decode("utf-8-sig").replace("\r\n", "\n")
            read = tomllib.loads(self._texts[file])
        except OSError as error:
            remedy = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            remedy = "holds a letter that is not in UTF-8: save the file as UTF-8"
        except tomllib.TOMLDecodeError as error:
            line, remedy = _syntax_mistake(error, self._texts[file])
        else:
            remedy = "" if read else "is empty: nothing is configured there"
            for key, value in read.items():
                self._merge(file, key, value)
        if remedy:
            self.unread = True
            self._add(str(file), line, "file", "", remedy)

    def _merge(self, file: Path, key: str, value: Any) -> None:
        """Merge one top-level key of a file into the content; a key that another file has already is a
        mistake, unless both are lists.
        """
        is_list = isinstance(value, list)
        if key in self.data and not (is_list and isinstance(self.data[key], list)):
            self._add(str(file), _line(self._texts[file], (key,)), key, "", "is in another file already")
            return
        self._origins.setdefault((key,), (file, (key,)))
        # First as it is, so that a mistake found in it can be named.
        if not is_list:
            self.data[key] = value
            self.data[key] = self._expand(value, (key,))
            return
        known = self.data.setdefault(key, [])
        before = len(known)
        known += value
        for number, item in enumerate(value):
            self._origins[key, before + number] = (file, (key, number))
            known[before + number] = self._expand(item, (key, before + number))

    def _expand(self, value: Any, place: Place) -> Any:
        """Return the value with ``${NAME}`` and ``${file:PATH}`` replaced, also inside tables and lists."""
        if isinstance(value, dict):
            return {name: self._expand(item, (*place, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, (*place, number)) for number, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def replace(match: re.Match[str]) -> str:
            """Return the text for one ``${...}``; a missing variable or file becomes a mistake, and the text
            is then the default or "".
            """
            path, name, default = match.groups()
            if path:
                try:
                    return _bytes_of(path).decode().replace("\r\n", "\n").removesuffix("\n")
                except (OSError, UnicodeDecodeError):
                    self.add(place, str(Path(path)), "this file cannot be read")
                    return ""
            if name not in os.environ and default is None:
                self.add(place, match.group(0), f"environment variable {name} is not set")
            return os.environ.get(name, default or "")

        if (expanded := _VARIABLE.sub(replace, value)) != value:
            self._written[place] = value
        return expanded

    def _add(self, file: str, line: int, key: str, value: str, remedy: str) -> None:
        """Add a mistake with secrets in its value replaced; all mistakes are added by this method."""
        shown = "" if any(_SECRET.fullmatch(part) for part in re.split(r"[.\[]", key)) else redacted(value)
        key, shown, remedy = (self.as_written(text) for text in (key, shown, remedy))
        self._problems.append(ConfigProblem(file, key, shown, remedy, line))

    def _origin(self, place: Place) -> tuple[str, int]:
        """Return file and line (from 1) of the value at ``place``; for a missing key, those of its table."""
        for length in range(len(place), 0, -1):
            if place[:length] in self._origins:
                file, local = self._origins[place[:length]]
                return str(file), _line(self._texts[file], (*local, *place[length:]))
        return ", ".join(map(str, self._texts)), 0

    def _place(self, key: str) -> Place:
        """Return the place (path of keys and list indexes) of a key in dotted form, such as
        ``peers.pacs.port``.
        """
        for table in self.data:
            for number, name in self.numbered_names(table):
                if f"{key}.".startswith(f"{table}.{name}."):
                    return (table, number, *key.removeprefix(f"{table}.{name}").split(".")[1:])
        return tuple(key.split("."))

    def _spelled(self, place: Place) -> str:
        """Return a place in dotted form: ``peers.pacs.port``, or ``peers[0].port`` if the peer has no
        name.
        """
        spelled = ""
        for length, part in enumerate(place, start=1):
            table = self.at(place[:length])
            name = table.get("name") if isinstance(table, dict) and isinstance(part, int) else part
            spelled += f".{name}" if isinstance(name, str) else f"[{part}]"
        return spelled.lstrip(".") or "file"


_SHORTEST_SECRET = 4  # characters; a shorter value would be found in words of the message
_SECRET = re.compile(r"\w*(?:password|passwd|passphrase|secret|token|key|credentials?)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(?:file:([^}]+)|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?)\}")


def _bytes_of(file: str | Path) -> bytes:
    """Return the bytes of a file. A FIFO without a writer counts as empty, so that the node does not wait for
    it.

    Raises OSError.
    """
    with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
        os.set_blocking(opened.fileno(), True)
        return opened.read()


def _line(text: str, place: Place) -> int:
    """Return the line (from 1) of the statement in the TOML ``text`` that sets ``place``, or else of the
    table around it.
    """
    lines = _lines(text)
    return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 1)


@lru_cache(maxsize=16)
def _lines(text: str) -> dict[Place, int]:
    """Return the line (from 1) at which the TOML statement of each key and table begins.

    Each statement is parsed by itself: a line that is not valid TOML is continued on the next one. So the
    standard library finds the lines, and no second parser has to know the grammar.
    """
    found: dict[Place, int] = {}
    numbers: Counter[Place] = Counter()  # of tables in a list, such as [[peers]]
    table: Place = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        statement, first = (f"{statement}\n{line}", first) if statement else (line, number)
        with suppress(tomllib.TOMLDecodeError):
            read: Any = tomllib.loads(statement)
            is_heading, statement = statement.lstrip().startswith("["), ""
            place = () if is_heading else table
            while isinstance(read, dict) and len(read) == 1:
                [(key, read)] = read.items()
                place = (*place, key)
                if is_heading and isinstance(read, list):
                    [read] = read
                    numbers[place] += 1
                if is_heading and numbers[place]:
                    found.setdefault(place, first)
                    place = (*place, numbers[place] - 1)
                found.setdefault(place, first)
            table = place if is_heading else table
    return found


def _syntax_mistake(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """Return line (from 1) and remedy of a mistake in the TOML syntax."""
    message, _, where = str(error).partition(" (at ")
    found, lines = re.match(r"line (\d+)", where), text.rstrip("\n").split("\n")
    number = int(found[1]) if found else len(lines)
    line = next(iter(lines[number - 1 : number]), "").strip()
    fits = (row[2] for row in _SYNTAX if re.match(row[0], message) and re.match(row[1], line))
    return number, f"is no TOML: {next(fits, message)}"


# How the message of the standard library's parser begins, how the line looks, and the remedy.
_SYNTAX: Final = (
    ("Invalid|Expected", ".*[\u2018-\u201f\u00ab\u00bb]", 'quotes must be straight ones: "'),
    ("Invalid value", r"[^=]*=\s*(#|$)", "the key has no value: write one, or leave the key out"),
    ("Invalid value", r"(?i)[^=]*=\s*(null|none|nil)\b", "there is no null in TOML: leave the key out"),
    ("Invalid value", r"(?i)[^=]*=\s*(true|false)\b", "write true or false, in small letters"),
    ("Invalid value", "", 'text must be in quotes, such as "us1"'),
    ("Cannot", r"\[+\s*(peers|rules)\b", "write [[peers]] or [[rules]], with two brackets, each time"),
    ("Cannot", r"\[", "the heading is given twice: put its keys together under one"),
    ("Cannot overwrite|Duplicate inline", "", "a key is given twice here: leave one out"),
    (
        "Unterminated string|Illegal character '\\\\n'",
        "",
        'the quotes are not closed: put a " at its end',
    ),
    ("Unclosed array", "", 'a list is not closed, or a comma is missing in it: write ["a", "b"]'),
    ("Unclosed inline", "", "a table is not closed, or a comma is missing in it: write { key = value }"),
    ("Expected '=' after a key", "", "write it as key = value"),
    (r"Expected '\]", "", "a heading is not closed: write it as [node] or [[peers]]"),
    ("Expected newline", "", "nothing but a # comment may follow the value; text must be in quotes"),
    ("Invalid hex value|Unescaped", "", "write \\\\ for a \\ in a text, or put the text in single quotes"),
    ("Invalid initial", "", "a key has letters of ASCII, figures, dash and underscore"),
)
