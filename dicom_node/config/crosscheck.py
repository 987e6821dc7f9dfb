"""Mistakes between keys: names that refer to each other, conditions that never hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.settings import Conditions, PeerSettings, RuleSettings, Settings, matches
from dicom_node.config.toml_files import Place, TomlFiles
from dicom_node.model.kinds import CONSOLE_AE_TITLE, CONSOLE_NAME

# Modalities that a near one is suggested from (PS3.3 C.7.3.1.1.1); a rule may name any other code.
_MODALITIES = ("US", "IVUS", "CR", "DX", "MG", "XA", "RF", "CT", "MR", "NM", "PT", "OT")
_CODE_STRING = re.compile(r"[A-Z0-9_ *?]+")  # PS3.5 6.2, CS, with the signs of patterns
# Most characters that a value of this attribute may have (PS3.5 6.2: CS and SH 16, AE 16, LO 64).
_LONGEST = {"study_description": 64, "series_description": 64}
_LONGEST_CODE = 16


def cross_check(settings: Settings, read: TomlFiles) -> None:
    """Add every mistake between keys to the mistakes of ``read``."""
    for key in ("peers", "rules", "notifications"):
        _check_names(key, read)
    _check_ae_titles(settings, read)
    _check_retained(settings, read)
    for rule in settings.rules:
        _check_peers_of(rule, settings, read)
        when = (*read.place_of("rules", rule.name), "when")
        if not read.at(when):
            read.add(when, "", 'has no condition: say which images, such as { modality = "US" } ("*": all)')
        for name, pattern, remedy in _faults_of(rule.when, settings, read):
            read.add((*when, name), repr(pattern), remedy)
    _check_same_rules(settings, read)
    _check_group_senders(settings, read)
    _check_mail(settings, read)
    _check_occasions(settings, read)


def _check_group_senders(settings: Settings, read: TomlFiles) -> None:
    """Whoever is limited to senders that never call would see nothing."""
    accounts = settings.console.oidc
    for group, titles in accounts.senders.items() if accounts else ():
        for title in titles:
            if remedy := _never_calls("calling_ae", title, settings, read):
                read.add(("console", "oidc", "senders", group), repr(title), remedy)


def _check_mail(settings: Settings, read: TomlFiles) -> None:
    for notification in settings.notifications:
        if notification.to and not settings.mail.host and not read.is_faulty(("mail", "host")):
            place = (*read.place_of("notifications", notification.name), "to")
            read.add(place, "", "an e-mail needs a server: add [mail] with host and sender")


def _check_occasions(settings: Settings, read: TomlFiles) -> None:
    named = {name for rule in settings.rules for one in rule.then for name in one.notify}
    for one in settings.notifications:
        if not (one.on or one.events or one.findings or one.name in named):
            remedy = "says of nothing: give on, events or findings, or name it in then of a rule"
            read.add(read.place_of("notifications", one.name), "", remedy)


def _check_names(key: str, read: TomlFiles) -> None:
    seen: dict[str, str] = {}
    for number, name in read.numbered_names(key):
        if name.casefold() in seen:
            other = seen[name.casefold()]
            problem = "is used twice" if other == name else f"differs from {other} in capitals only"
            read.add(
                (key, number, "name"), repr(name), f"{problem}: give each of the {key} a name of its own"
            )
        seen.setdefault(name.casefold(), name)


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


def _check_peers_of(rule: RuleSettings, settings: Settings, read: TomlFiles) -> None:
    place = read.place_of("rules", rule.name)
    known = [name for _, name in read.numbered_names("peers")]  # those that are faulty in another way, too
    may_query = {peer.name for peer in settings.peers if "query" in peer.may}
    may_receive = {peer.name: "receive" in peer.may for peer in settings.peers}
    if not read.at((*place, "send_to")):
        read.add((*place, "send_to"), "[]", "is empty: the results would go nowhere")
    for name in dict.fromkeys(rule.send_to):
        if name not in known:
            remedy = f"no such peer; {did_you_mean(name, known)}"
            read.add((*place, "send_to"), repr(name), remedy)
        elif not may_receive.get(name, True) and not read.is_faulty((*read.place_of("peers", name), "may")):
            read.add((*place, "send_to"), repr(name), 'this peer may not receive: add may = ["receive"]')
        if rule.send_to.count(name) > 1:
            read.add((*place, "send_to"), repr(name), "is listed twice")
    _check_forward(rule, place, settings, known, read)
    _check_then(rule, place, may_receive, known, read)
    for key, asked in (
        (("complete_from",), rule.complete_from),
        (("priors", "peer"), rule.priors and rule.priors.peer),
    ):
        if asked and asked not in known:
            read.add((*place, *key), repr(asked), f"no such peer; {did_you_mean(asked, known)}")
        elif asked and asked not in may_query and not read.is_faulty((*read.place_of("peers", asked), "may")):
            read.add((*place, *key), repr(asked), 'this peer may not be asked: add may = ["query"]')
    senders = [*known, CONSOLE_NAME]  # maybe that of another machine
    for name in rule.secondary_captures_from:
        if name not in senders:
            remedy = f"no such peer; {did_you_mean(name, senders)}"
            read.add((*place, "secondary_captures_from"), repr(name), remedy)


def _check_forward(
    rule: RuleSettings, place: Place, settings: Settings, known: Sequence[str], read: TomlFiles
) -> None:
    here = (*place, "forward")
    peers = {peer.name: peer for peer in settings.peers}
    for name in dict.fromkeys(rule.forward):
        peer = peers.get(name)
        if name not in known:
            read.add(here, repr(name), f"no such peer; {did_you_mean(name, known)}")
        elif peer and "receive" not in peer.may:
            read.add(here, repr(name), 'this peer may not receive: add may = ["receive"]')
        elif peer and peer.deidentify:
            read.add(here, repr(name), "this peer gets nothing that names a patient: received images do")
        elif peer and rule.when.calling_ae and set(rule.when.calling_ae) <= set(peer.titles):
            read.add(here, repr(name), "this peer sent the images itself, and gets none of them back")
        if rule.forward.count(name) > 1:
            read.add(here, repr(name), "is listed twice")


def _check_then(
    rule: RuleSettings,
    place: Place,
    may_receive: Mapping[str, bool],
    peers: Sequence[str],
    read: TomlFiles,
) -> None:
    channels = [name for _, name in read.numbered_names("notifications")]
    for number, one in enumerate(rule.then):
        here = (*place, "then", number)
        for name in dict.fromkeys(one.send_to):
            if name not in peers:
                read.add((*here, "send_to"), repr(name), f"no such peer; {did_you_mean(name, peers)}")
            elif not may_receive.get(name, True):
                read.add((*here, "send_to"), repr(name), 'this peer may not receive: add may = ["receive"]')
        for name in dict.fromkeys(one.notify):
            if name not in channels:
                remedy = f"no such notification; {did_you_mean(name, channels)}"
                read.add((*here, "notify"), repr(name), remedy)


def _faults_of(when: Conditions, settings: Settings, read: TomlFiles) -> Iterator[tuple[str, str, str]]:
    """Condition, pattern, remedy."""
    given: dict[str, tuple[str, ...]] = {name: value for name, value in when if value}
    for name, patterns in given.items():
        longest = _LONGEST.get(name, _LONGEST_CODE)
        for pattern in patterns:
            if not pattern.strip():
                yield name, pattern, "is empty and would match images without a value only: leave it out"
            elif len(pattern.replace("*", "")) > longest:
                yield name, pattern, f"never holds: a value has at most {longest} characters"
            elif name == "modality" and (pattern != pattern.strip() or not _CODE_STRING.fullmatch(pattern)):
                near = did_you_mean(pattern.strip(" *?"), _MODALITIES, "such as")
                yield name, pattern, f"a modality is a code in capital letters; {near}"
            elif remedy := _never_calls(name, pattern, settings, read):
                yield name, pattern, remedy


def _never_calls(name: str, pattern: str, settings: Settings, read: TomlFiles) -> str:
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


def _check_same_rules(settings: Settings, read: TomlFiles) -> None:
    seen: list[RuleSettings] = []
    for rule in settings.rules:
        other = next((one for one in seen if _does(one) == _does(rule) and one.name != rule.name), None)
        if other is not None:
            remedy = f"does the same as rule {other.name}: everything would be analysed and sent twice"
            read.add(read.place_of("rules", rule.name), "", remedy)
        seen.append(rule)


def _does(rule: RuleSettings) -> tuple[object, ...]:
    return rule.when, rule.pipeline, dict(rule.options), frozenset(rule.send_to)
