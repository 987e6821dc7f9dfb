"""The rules that send studies to vendors' AI servers, and what such rules and peers may not be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from dicom_node.base.connectors import typed_section

if TYPE_CHECKING:
    from dicom_connectors.remote.pipeline import RemoteOptions
    from dicom_node.base.config.loading import TomlFiles
    from dicom_node.base.config.peer import PeerSettings
    from dicom_node.base.config.rule import RuleSettings
    from dicom_node.base.config.settings import Settings

NAME: Final = "remote"
"""Name of the pipeline."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor's AI server: its peer, and the options of the rule that sends studies to it."""

    peer: PeerSettings
    options: RemoteOptions
    quiet_seconds: float
    """An answer is whole when no object of it came for so long."""
    second: PeerSettings | None = None
    """The server that gets what this one cannot be given, because it is not reached."""
    manager: PeerSettings | None = None
    """The worklist manager at which work is requested; None: what the vendor gets is request enough."""

    @property
    def look_up(self) -> timedelta:
        """How often a requested work item is looked up."""
        from dicom_connectors.worklist.settings import WorklistPeer

        assert self.manager is not None
        return timedelta(seconds=typed_section(self.manager, WorklistPeer).worklist_seconds)


def vendors(settings: Settings) -> Iterator[Vendor]:
    """Yield the vendor of each rule with the pipeline ``remote``, and the second one of rules that name one;
    faulty rules are left out.
    """
    rules = [rule for rule in settings.rules if rule.pipeline == NAME]
    if not rules:
        return
    from dicom_connectors.remote.pipeline import RemoteOptions

    peers = {peer.name: peer for peer in settings.peers}
    for rule in rules:
        if RemoteOptions.faults(rule.options):
            continue
        options = RemoteOptions.of(rule.options)
        second = peers.get(options.second)
        for peer in (peers.get(options.peer), second):
            if peer is not None:
                quiet = settings.assembly.quiet_seconds if peer.quiet_seconds is None else peer.quiet_seconds
                other = None if peer is second else second
                yield Vendor(peer, options, quiet, other, peers.get(options.manager))


def check_rules(settings: Settings, read: TomlFiles) -> None:
    """Add to ``read`` the mistakes in rules with the pipeline ``remote``, and rules that would have two
    vendors answer each other.
    """
    from dicom_node.base.config.section import did_you_mean

    peers = {peer.name: peer for peer in settings.peers}
    used: dict[str, str] = {}
    named = [(rule, key) for rule in settings.rules if rule.pipeline == NAME for key in ("peer", "second")]
    for rule, key in named:
        place = (*read.place_of("rules", rule.name), "options", key)
        name = rule.options.get(key)
        if not isinstance(name, str) or not name or not read.all_named("peers"):
            continue
        known = [known for _, known in read.numbered_names("peers")]
        if name not in known:
            read.add(place, repr(name), f"no such peer; {did_you_mean(name, known)}")
        elif other := used.get(name):
            remedy = f"rule {other} sends to it too: an answer could belong to either"
            read.add(place, repr(name), remedy)
        elif name in peers and (remedy := _why_no_vendor(peers[name], rule.options)):
            read.add(place, repr(name), remedy)
        elif name in peers and _calls_back(peers[name], rule.options) and not settings.console.enabled:
            remedy = 'sends its results to the console by HTTP: set console.enabled, or answers = "returned"'
            read.add(place, repr(name), remedy)
        used.setdefault(name, rule.name)
        if key == "peer":
            _check_manager(rule, peers, known, read)
    _check_receivers(settings, read, used)


def _check_receivers(settings: Settings, read: TomlFiles, used: Mapping[str, str]) -> None:
    """Add to ``read`` the rules that send results or images to a vendor's server. ``used``: the rule of each
    of these servers, by the name of its peer.
    """
    for rule in settings.rules:
        for key, name in _receivers(rule):
            if name in used:
                remedy = f"is the AI server of rule {used[name]}: it gets studies from that rule alone"
                read.add((*read.place_of("rules", rule.name), key), repr(name), remedy)


def _check_manager(
    rule: RuleSettings, peers: Mapping[str, PeerSettings], known: Sequence[str], read: TomlFiles
) -> None:
    """Add to ``read`` what is wrong with the worklist manager of a rule. ``known``: names of all peers, the
    faulty ones too.
    """
    from dicom_node.base.config.section import did_you_mean

    place = (*read.place_of("rules", rule.name), "options", "manager")
    name = rule.options.get("manager")
    if not name or not isinstance(name, str):
        return
    if name not in known:
        read.add(place, repr(name), f"no such peer; {did_you_mean(name, known)}")
    elif name in peers and not (peers[name].transport == "dicomweb" and peers[name].url):
        remedy = 'work is requested by UPS-RS: give the peer transport = "dicomweb" and url'
        read.add(place, repr(name), remedy)


def _calls_back(peer: PeerSettings, options: Mapping[str, object]) -> bool:
    """Return whether a vendor's AI sends its results by HTTP."""
    return peer.transport == "dicomweb" and options.get("answers", "sent") == "sent"


def _why_no_vendor(peer: PeerSettings, options: Mapping[str, object]) -> str:
    """Return why this peer cannot be a vendor's AI server by these options, as a remedy; "" if it can."""
    answers = options.get("answers", "sent")
    if peer.deidentify:
        return "the pipeline sends images as they are, with the patient's name: leave out deidentify"
    if peer.transport == "dicomweb":
        wrong = {
            'what comes under its AE title is no answer of it: give it may = ["receive"]': (
                peer.may != ("receive",)
            ),
            "a service that is reached by HTTP gets studies without work items: leave out manager": (
                bool(options.get("manager"))
            ),
        }
    else:
        wrong = {
            'the pipeline sends by C-STORE or STOW-RS: give it transport = "dimse" or "dicomweb"': (
                peer.transport != "dimse"
            ),
            'results are returned by HTTP only: give it transport = "dicomweb", or leave out answers': (
                answers == "returned"
            ),
            "what a work item names is sent: leave out manager, or answers": (
                answers == "fetched" and bool(options.get("manager"))
            ),
            'it gets studies and sends its answers: give it may = ["send", "receive"]': (
                not {"send", "receive"} <= {*peer.may}
            ),
            'what it sends is its answer: take "query" out of its may': "query" in peer.may,
        }
    return next((remedy for remedy, is_wrong in wrong.items() if is_wrong), "")


def _receivers(rule: RuleSettings) -> Iterator[tuple[str, str]]:
    """Yield each peer that gets results or images by this rule, with the key that names it."""
    yield from (("send_to", name) for name in rule.send_to)
    yield from (("forward", name) for name in rule.forward)
    yield from (("then", name) for one in rule.then for name in one.send_to)
    if rule.priors:
        yield "priors", rule.priors
