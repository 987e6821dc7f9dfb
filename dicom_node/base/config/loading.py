"""Mistakes in values of a configuration, in words that an admin uses.

Loading of the configuration from files: all mistakes are reported together (exit status 78).

Mistakes between keys: names that refer to each other, conditions that never hold. Rules that bypass a hold
(``assess_first``) of another rule: they send the same results to a peer at once.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dicom_node.base.config.mistakes import described, did_you_mean
from dicom_node.base.config.settings import Conditions, PeerSettings, RuleSettings, Settings, matches
from dicom_node.base.config.toml_files import SAVED, Place, TomlFiles, edition, file_of, newest
from dicom_node.base.connectors import every
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.kinds import CONSOLE_AE_TITLE, CONSOLE_NAME


def load(files: Sequence[Path]) -> Settings:
    """Read one or more TOML files (peers and rules may be in separate files).

    Relative paths in the files count from the current folder. It is a mistake if such a path names an empty
    data folder while the node's data folder lies beside the first file. Raises ConfigurationError with every
    mistake.
    """
    settings, read = examine(files)
    if read.problems or settings is None:
        raise ConfigurationError(read.problems)
    return settings


def load_to_read(files: Sequence[Path]) -> tuple[Settings, int]:
    """The settings for programs that only read the database, without faulty keys; and the number of these
    keys.

    Raises ConfigurationError if the mistakes concern the location of the database.
    """
    settings, read = examine(files)
    if settings is None or any(problem.key.split(".")[0] in ("node", "file") for problem in read.problems):
        raise ConfigurationError(read.problems)
    return settings, len(read.problems)


def examine(files: Sequence[Path]) -> tuple[Settings | None, TomlFiles]:
    """The settings without faulty keys, and the files with their mistakes.

    The settings are None if no key is left, or if a file could not be read: defaults must not replace its
    content.
    """
    read = TomlFiles.read(files)
    given = read.at(("node", "data_dir"))
    data_dir = Path(given) if isinstance(given, str) else Settings.model_fields["node"].get_default().data_dir
    number = newest(data_dir)
    file = file_of(data_dir, number)
    if os.access(file, os.R_OK):  # who may not read it may not change the node either
        in_files = {kind: len(read.numbered_names(kind)) for kind in ("peers", "rules")}
        read.add_file(file)
        read.data.pop(SAVED, None)
        with suppress(TypeError):  # "node" is no table: a mistake of its own
            read.data.setdefault("node", {})["entered"] = number
        for kind, before in in_files.items():
            for place, _ in read.numbered_names(kind)[before:]:
                read.data[kind][place]["entered"] = edition(read.data[kind][place])
    settings = examined(read)
    if settings is not None:
        # Started elsewhere, a relative data folder would be a second, empty node, which lists would show.
        folder, beside = settings.node.data_dir, files[0].resolve().parent
        if not folder.is_absolute() and not _has_a_node(folder) and _has_a_node(beside / folder):
            meant = (beside / folder).resolve()
            remedy = (
                f"is {folder.resolve()} in the folder you are in, where no node is, and {meant} is one: "
                f"start this in {beside}, or write the whole path"
            )
            read.add_named("node.data_dir", repr(str(folder)), remedy)
    return settings, read


def examined(read: TomlFiles) -> Settings | None:
    """The settings without faulty keys; each mistake is added to the mistakes of ``read``."""
    try:
        settings: Settings | None = Settings.model_validate(read.data)
    except ValidationError as error:
        mistakes = list(described(error, Settings))
        for place, known, remedy in mistakes:
            value = read.shown(place, read.at(place)) if known else ""  # a misspelt key may hold a password
            if not read.is_faulty(place):  # such as by an unset variable
                read.add(place, value, remedy)
        # Without the faulty keys, so that the other mistakes can be found in the same run. A required key
        # cannot be left out: its peer or rule goes.
        settings, keys = None, [place for place, _, _ in mistakes]
        for places in (keys, [place[:2] for place in keys]):
            with suppress(ValidationError):
                settings = settings or Settings.model_validate(read.without(places))
    if settings is None or read.unread:
        return None
    cross_check(settings, read)
    return settings


def _has_a_node(folder: Path) -> bool:
    """Not of one that cannot be looked into: who opens it says why."""
    return any(os.access(folder / name, os.F_OK) for name in ("node.db", "spool"))


# Modalities that a near one is suggested from (PS3.3 C.7.3.1.1.1); a rule may name any other code.
_MODALITIES = ("US", "IVUS", "CR", "DX", "MG", "XA", "RF", "CT", "MR", "NM", "PT", "OT")
_CODE_STRING = re.compile(r"[A-Z0-9_ *?]+")  # PS3.5 6.2, CS, with the signs of patterns
# Most characters that a value of this attribute may have (PS3.5 6.2: CS and SH 16, AE 16, LO 64).
_LONGEST = {"study_description": 64, "series_description": 64}
_LONGEST_CODE = 16


def cross_check(settings: Settings, read: TomlFiles) -> None:
    """Add every mistake between keys to the mistakes of ``read``."""
    for key in ("peers", "rules"):
        read.check_names(key)
    _check_ae_titles(settings, read)
    _check_retained(settings, read)
    for rule in settings.rules:
        _check_peers_of(rule, settings, read)
        when = (*read.place_of("rules", rule.name), "when")
        if not read.at(when):
            read.add(when, "", 'has no condition: say which images, such as { modality = "US" } ("*": all)')
        for name, pattern, remedy in _faults_of(rule.when, settings, read):
            read.add((*when, name), repr(pattern), remedy)
    for number, rule in enumerate(settings.rules):
        before = (one for one in settings.rules[:number] if one.name != rule.name)
        if other := next((one.name for one in before if _does(one) == _does(rule)), ""):
            remedy = f"does the same as rule {other}: everything would be analysed and sent twice"
            read.add(read.place_of("rules", rule.name), "", remedy)
    for check in every("settings.checks"):
        check(settings, read)


def _check_ae_titles(settings: Settings, read: TomlFiles) -> None:
    ours = {settings.node.ae_title, *settings.listener.further_ae_titles}
    senders: dict[str, PeerSettings] = {}
    for peer in settings.peers:
        place = (*read.place_of("peers", peer.name), "ae_title")
        if peer.ae_title in ours and not read.is_faulty(("node", "ae_title")):
            read.add(place, repr(peer.ae_title), "is this node's own AE title: enter the peer's")
        if peer.ae_title == CONSOLE_AE_TITLE:
            read.add(place, repr(peer.ae_title), "is the console's: enter another, here and at the peer")
        if "send" not in peer.may:
            continue
        other = senders.setdefault(peer.ae_title.casefold(), peer)
        if other is not peer and other.name != peer.name:
            same = "the same AE title" if other.ae_title == peer.ae_title else "it but for capitals"
            read.add(place, repr(peer.ae_title), f"peer {other.name}, who may send too, bears {same}")


def _check_retained(settings: Settings, read: TomlFiles) -> None:
    """Peers of one pseudonym domain get the same objects, so their options must agree."""
    first: dict[str | None, PeerSettings] = {}
    for peer in settings.peers:
        if peer.deidentify:
            other = first.setdefault(peer.pseudonym_domain, peer)
            if set(other.retain) != set(peer.retain):
                place = (*read.place_of("peers", peer.name), "retain")
                remedy = f"peer {other.name} shares its pseudonyms and retains other attributes: give one a "
                read.add(place, ", ".join(peer.retain) or "nothing", f"{remedy}pseudonym_domain of its own")


_MAY = {
    "receive": 'this peer may not receive: add may = ["receive"]',
    "query": 'this peer may not be asked: add may = ["query"]',
}


def _check_peers_of(rule: RuleSettings, settings: Settings, read: TomlFiles) -> None:
    place = read.place_of("rules", rule.name)
    if not read.at((*place, "send_to")):
        read.add((*place, "send_to"), "[]", "is empty: the results would go nowhere")
    known = [name for _, name in read.numbered_names("peers")]  # those that are faulty in another way, too
    peers = {peer.name: peer for peer in settings.peers}
    uses: list[tuple[Place, Sequence[str], str]] = [
        (("send_to",), rule.send_to, "receive"),
        (("forward",), rule.forward, "receive"),
        *((("then", n, "send_to"), one.send_to, "receive") for n, one in enumerate(rule.then)),
        (("priors", "peer"), [rule.priors.peer] if rule.priors else [], "query"),
        (("secondary_captures_from",), rule.secondary_captures_from, ""),
    ]
    for key, names, may in uses:
        for name, times in Counter(names).items():
            peer = peers.get(name)
            if name not in known and (may or name != CONSOLE_NAME):
                remedy = f"no such peer; {did_you_mean(name, known)}"
            elif peer and may and may not in peer.may:
                remedy = "" if read.is_faulty((*read.place_of("peers", name), "may")) else _MAY[may]
            elif peer and key == ("forward",) and peer.deidentify:
                remedy = "this peer gets nothing that names a patient: received images do"
            elif (
                peer
                and key == ("forward",)
                and rule.when.calling_ae
                and set(rule.when.calling_ae) <= set(peer.titles)
            ):
                remedy = "this peer sent the images itself, and gets none of them back"
            else:
                remedy = "is listed twice" if times > 1 and may else ""
            if remedy:
                read.add((*place, *key), repr(name), remedy)


def _faults_of(when: Conditions, settings: Settings, read: TomlFiles) -> Iterator[tuple[str, str, str]]:
    """Condition, pattern, remedy."""
    for name, patterns in when:
        longest = _LONGEST.get(name, _LONGEST_CODE)
        for pattern in patterns:
            if not pattern.strip():
                yield name, pattern, "is empty and would match images without a value only: leave it out"
            elif len(pattern.replace("*", "")) > longest:
                yield name, pattern, f"never holds: a value has at most {longest} characters"
            elif name == "modality" and (pattern != pattern.strip() or not _CODE_STRING.fullmatch(pattern)):
                near = did_you_mean(pattern.strip(" *?"), _MODALITIES, "such as")
                yield name, pattern, f"a modality is a code in capital letters; {near}"
            elif remedy := never_calls(name, pattern, settings, read):
                yield name, pattern, remedy


def never_calls(name: str, pattern: str, settings: Settings, read: TomlFiles) -> str:
    """Why no association that we accept has such an AE title, "" where one may."""
    listener = settings.listener
    if name == "calling_ae" and listener.unknown_callers == "refuse":
        titles: Sequence[str] = [str(title) for title in read.values("peers", "ae_title")]
        titles = [*titles, CONSOLE_AE_TITLE]
        places: Sequence[Place] = [("peers", n, "ae_title") for n, _ in enumerate(read.at(("peers",)) or ())]
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


def _does(rule: RuleSettings) -> tuple[object, ...]:
    return rule.when, rule.pipeline, dict(rule.options), frozenset(rule.send_to)


@dataclass(frozen=True, slots=True)
class Undercut:
    """``rule`` sends to ``peers`` at once the results that ``holding`` keeps until a person has accepted
    them.
    """

    rule: str
    holding: str
    peers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.peers)} gets by it at once what {self.holding} holds of the same study"


def undercuts(settings: Settings) -> Iterator[Undercut]:
    """Each rule that sends at once the same results that another rule holds for a person."""
    places = {peer.name: _place(peer) for peer in settings.peers}
    for holding in (rule for rule in settings.rules if rule.assess_first):
        held = {places.get(name, name) for name in holding.receivers}
        for rule in settings.rules:
            peers = tuple(sorted(name for name in rule.receivers if places.get(name, name) in held))
            if not peers or rule.assess_first or rule.pipeline != holding.pipeline:
                continue
            when = [(getattr(rule.when, key), getattr(holding.when, key)) for key in Conditions.model_fields]
            if not any(_exclude_each_other(*both) for both in when):
                yield Undercut(rule.name, holding.name, peers)


def _place(peer: PeerSettings) -> object:
    """Where it is: one PACS may be two peers. De-identified objects are others than those with a name."""
    where = peer.url if peer.by_http else peer.address_of("storage")
    return peer.transport, where, peer.deidentify


def _exclude_each_other(patterns: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether no value can match both conditions; False where two patterns may have a value in common."""
    return bool(patterns and others) and not any(
        matches(one, two) or matches(two, one) or ({"*", "?"} & set(one) and {"*", "?"} & set(two))
        for one in patterns
        for two in others
    )
