"""Peers: whether they answer; what a caller tried, why it was refused, and what would admit it."""

from __future__ import annotations

import difflib
import ipaddress
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dicom_node.base.config.mistakes import did_you_mean
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import NotFound, TooManyAtOnce
from dicom_node.base.events import (
    ASSOCIATION_REJECTED,
    CONNECTIONS_FAILED,
    STORE_REFUSED,
    TLS_FAILED,
    EventType,
)
from dicom_node.base.kinds import AuditAction
from dicom_node.base.store import views
from dicom_node.deliver.outages import PeerOutage, outages
from dicom_node.people import Row, ServiceResult, audit, entered, reading, writing
from dicom_node.receive.entrance import Failure, network
from dicom_node.receive.limits import REFUSED_CONTEXTS_NAMED, REFUSED_CONTEXTS_OF_MANY
from dicom_node.receive.messages import Proposal
from dicom_node.receive.policy import AEPolicy, accepted_classes, addresses, refused_class
from dicom_node.receive.statuses import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    NOT_AUTHORISED,
    TOO_LARGE,
)

if TYPE_CHECKING:
    from dicom_node.deliver.scu.interfaces import Check

_tests = threading.Semaphore(2)
Record = Mapping[str, Any]
_NUMBERS = [kind.number for kind in (ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED, CONNECTIONS_FAILED)]
_ASSOCIATIONS, _EVENTS = 5000, 5000  # that are looked through, the newest
_SHOWN = 10
_STANDARD, _STORAGE = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1."  # PS3.4 B.5: other services lie elsewhere
_TEXTS = {
    Failure.NO_PLACE: "closed at once: too many connections waited",
    Failure.TOO_LATE: "no association request within listener.acse_timeout_seconds",
    Failure.MALFORMED: "not a DICOM association request",
    Failure.REJECTED: "rejected, not listed one by one",
    Failure.NO_TLS: "no TLS, not listed one by one",
}


class PeerRow(Row):
    """A configured peer; ``version`` is null if it is in the configuration files."""

    name: str
    ae_title: str
    version: int | None


class PeerCheck(ServiceResult):
    """One test of a peer and its outcome."""

    peer: str
    check: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who is asked about: AE titles, networks (``entrance.network``), and the peers that it may be.

    ``at_address``: an address was asked for, so only what came from there counts. One without titles stands
    for what has none: no association came of it.
    """

    titles: frozenset[str]
    networks: frozenset[str]
    peers: tuple[PeerSettings, ...]
    at_address: bool = False

    def is_meant(self, fields: Record) -> bool:
        """Whether this caller made the call. Calls without a title are told apart by address."""
        title, is_near = str(fields.get("calling", "")), fields.get("address") in self.networks
        if not title:
            return is_near and not (self.at_address and self.titles)
        return title in self.titles and is_near if self.at_address else self.bears(title)

    def bears(self, title: str) -> bool:
        """Whether it is one of the caller's titles, in any capitals: a machine that calls itself us1 may be
        US1.
        """
        return title.upper() in {known.upper() for known in self.titles}


@dataclass(frozen=True, slots=True)
class _SearchedRecords:
    """Associations and events that are looked through, and peers that take no results now."""

    associations: Sequence[Record]
    events: Sequence[Record]
    outages: Sequence[PeerOutage]

    @property
    def fields(self) -> list[Record]:
        """Who called whom from where, of both."""
        return [*self.associations, *(event["fields"] for event in self.events)]

    def titles(self, networks: frozenset[str] | None = None) -> set[str]:
        """Calling AE titles, from everywhere or from these networks."""
        return {
            str(row.get("calling", ""))
            for row in self.fields
            if networks is None or row.get("address") in networks
        } - {""}


def list_peers(settings: Settings) -> list[dict[str, Any]]:
    """The settings of the configured peers, without their secrets."""
    return [peer.model_dump(mode="json", exclude={*entered.SECRET}) for peer in settings.peers]


def try_peers(settings: Settings, names: Sequence[str], by: audit.Person | None = None) -> list[PeerCheck]:
    """Test what delivery, queries and reports to these peers need; by default to all peers that the node
    calls.

    ``by``: the person for the audit; None for the command line, which needs no database. Raises UnknownPeer,
    TooManyAtOnce.
    """
    chosen = [settings.peer(name) for name in names] or [one for one in settings.peers if one.is_called]
    # A peer that hangs keeps its place until its deadline.
    if not _tests.acquire(blocking=False):
        raise TooManyAtOnce("Other tests are under way: try again when they are done.")
    try:
        rows = [
            PeerCheck(peer=peer.name, check=check.name, ok=check.ok, text=check.text)
            for peer in chosen
            for check in _tried(peer, settings)
        ]
    finally:
        _tests.release()
    if by is not None:
        with writing(settings) as session:
            audit.note(
                session,
                by,
                AuditAction.PEER_TESTED,
                peers=[peer.name for peer in chosen],
                failed=sorted({row.check for row in rows if not row.ok}),
            )
    return rows


def _tried(peer: PeerSettings, settings: Settings) -> Iterator[Check]:
    from dicom_node.deliver.scu import open_archive, open_destination, open_reporter

    if "receive" in peer.may or not peer.is_called:
        yield from open_destination(peer, settings).test()
    if "query" in peer.may:
        yield from open_archive(peer, settings).test()
    if peer.commit_after:
        yield open_reporter(peer, settings).check()
    for test in every("peer_tests"):
        yield from test(peer, settings)


def why(settings: Settings, asked: str, since: datetime | None = None) -> dict[str, Any]:
    """All about the caller with this peer name, AE title or address; keys: docs/reference/lists.md.

    A name or title is only matched itself; other titles from its addresses are listed under ``others``. For
    an address, ``callers`` has an entry for each title that called from there. Raises NotFound for a name or
    title that belongs to no peer and never called.
    """
    with reading(settings) as session:
        associations = views.list_associations(session, since=since, limit=_ASSOCIATIONS)
        events = views.list_events(session, since=since, numbers=_NUMBERS, limit=_EVENTS)
        lost = outages(session)
    seen = _SearchedRecords([{**row, "calling": row["calling_ae"]} for row in associations], events, lost)
    if _is_address(asked):
        return _of_address(settings, asked, seen)
    peers = tuple(peer for peer in settings.peers if asked in (peer.name, peer.ae_title))
    titles = frozenset(peer.ae_title for peer in peers) or frozenset([asked])
    if not peers and asked not in seen.titles():
        raise _unknown(settings, asked, seen)
    hosts = {peer.host for peer in peers if peer.host}
    caller = _Caller(titles, frozenset(network(one) for host in hosts for one in addresses(host)), peers)
    called_from = {str(row["address"]) for row in seen.fields if caller.bears(str(row.get("calling", "")))}
    caller = replace(caller, networks=caller.networks | called_from)
    return _answer(settings, asked, caller, seen) | {
        "others": sorted(title for title in seen.titles(caller.networks) if not caller.bears(title))
    }


def short_name(title: str) -> str:
    """A name for a new peer with this AE title, valid by the rules for names; "" without a title."""
    return title and (re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-") or "new")


def _of_address(settings: Settings, asked: str, seen: _SearchedRecords) -> dict[str, Any]:
    networks = frozenset([network(asked)])
    here = {peer.ae_title for peer in settings.peers if peer.host == asked}
    peers = {
        title: tuple(peer for peer in settings.peers if peer.ae_title == title)
        for title in sorted(here | seen.titles(networks))
    }
    callers = [
        _answer(settings, title, _Caller(frozenset([title]), networks, theirs, True), seen)
        for title, theirs in peers.items()
    ]
    found = _answer(settings, asked, _Caller(frozenset(), networks, (), True), seen)
    if callers:  # each has its own advice; what came without a title needs none
        found["advice"] = []
    return found | {"ae_titles": list(peers), "callers": callers}


def _answer(settings: Settings, asked: str, caller: _Caller, seen: _SearchedRecords) -> dict[str, Any]:
    mine = [row for row in seen.associations if caller.is_meant(row)]
    theirs = [event for event in seen.events if caller.is_meant(event["fields"])]
    # Not by an echo alone, which anybody may send: a peer's association, or one that brought objects.
    titles = [peer.ae_title for peer in settings.peers]
    through = [row for row in mine if row["objects"] or row["calling_ae"] in titles]
    names = {"calling_ae": "calling", "called_ae": "called", "address": "address", "meaning": "meaning"}
    rejections = _of(ASSOCIATION_REJECTED, theirs, names)
    refusals = _of(STORE_REFUSED, theirs, {"status": "status", "reason": "reason"})
    found: dict[str, Any] = {
        "asked": asked,
        "peer": next((peer.name for peer in caller.peers), None),
        "ae_titles": sorted(caller.titles),
        "addresses": sorted(caller.networks),
        "others": [],
        "associations": [{k: v for k, v in row.items() if k != "calling"} for row in mine[:_SHOWN]],
        "refused_contexts": _counted(_contexts(mine)),
        "rejections": _outdated(_counted(rejections), through),
        "refused_objects": _outdated(_counted(refusals), [row for row in mine if row["objects"]]),
        "failures": _counted(_failures(theirs)),
        "callers": [],
    }
    return {**found, "advice": list(_advice(settings, caller, found, seen))}


def _unknown(settings: Settings, asked: str, seen: _SearchedRecords) -> NotFound:
    callers = {str(row.get("calling", "")) for row in seen.fields if asked == row.get("called")}
    if callers and asked != settings.node.ae_title:
        by = ", ".join(sorted(callers))
        return NotFound(
            f"{asked!r} is no peer; so {by} called this node: the node's AE title is "
            f"{settings.node.ae_title}; `dicom-node peers why` {by} says more"
        )
    known = sorted(seen.titles().union(*((peer.name, peer.ae_title) for peer in settings.peers)))
    hint = did_you_mean(asked, known, "known")
    return NotFound(f"{asked!r} is no peer and did not call in this time; {hint}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _contexts(associations: Iterable[Record]) -> Iterator[tuple[dict[str, Any], int, str]]:
    for row in associations:
        if row["refused_count"] > REFUSED_CONTEXTS_NAMED:
            few = ", ".join([*row["refused"][:REFUSED_CONTEXTS_OF_MANY], "…"])
            yield {"context": few, "classes": row["refused_count"]}, 1, row["opened_at"]
            continue
        for context in row["refused"]:
            yield {"context": context, "classes": 1}, 1, row["opened_at"]


def _of(
    kind: EventType, events: Iterable[Record], names: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], int, str]]:
    """What the events of one kind say; ``names``: of their fields, by those that we give them."""
    for event in events:
        if event["number"] == kind.number:
            fields = event["fields"]
            yield {key: str(fields.get(name, "")) for key, name in names.items()}, 1, event["at"]


def _failures(events: Iterable[Record]) -> Iterator[tuple[dict[str, Any], int, str]]:
    for event in events:
        address = str(event["fields"].get("address", ""))
        if event["number"] == TLS_FAILED.number:
            yield {"address": address, "text": f"no TLS: {event['fields'].get('reason', '')}"}, 1, event["at"]
        elif event["number"] == CONNECTIONS_FAILED.number:
            for failure, text in _TEXTS.items():
                if count := int(event["fields"].get(failure) or 0):
                    yield {"address": address, "text": text}, count, event["at"]


def _counted(items: Iterable[tuple[dict[str, Any], int, str]]) -> list[dict[str, Any]]:
    """Each different item once, with its count and its last time; the most recent first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item, count, at in items:
        row = found.setdefault(tuple(item.values()), {**item, "count": 0, "last_at": at, "outdated": False})
        row["count"] += count
        row["last_at"] = max(row["last_at"], at)
    return sorted(found.values(), key=lambda row: str(row["last_at"]), reverse=True)


def _outdated(rows: list[dict[str, Any]], successes: Sequence[Record]) -> list[dict[str, Any]]:
    """With whether the caller (of this title, where the row has one) got through afterwards."""
    for row in rows:
        title = str(row.get("calling_ae", "")).upper()
        row["outdated"] = any(
            success["opened_at"] > row["last_at"] and title in ("", success["calling_ae"].upper())
            for success in successes
        )
    return rows


def _advice(
    settings: Settings, caller: _Caller, found: Record, seen: _SearchedRecords
) -> Iterator[dict[str, Any]]:
    """What to do, and the lines of the configuration that do it; the most likely cause first."""
    lost = [one for one in seen.outages if one.destination in {peer.name for peer in caller.peers}]
    for one in lost:
        yield {"concerns": "results"} | _lines(
            f"since {one.since:%Y-%m-%d %H:%M} UTC it takes none of the {one.waiting} results that wait "
            f"for it ({one.reason}). Does it run? dicom-node peers test {one.destination} tries it"
        )
    yield from _about_rejections(settings, caller, found)
    yield from _about_contexts(settings, found)
    yield from _about_objects(settings, caller, found)
    if not lost:
        yield from _about_silence(settings, caller, found)


def _about_rejections(settings: Settings, caller: _Caller, found: Record) -> Iterator[dict[str, Any]]:
    policy = AEPolicy.from_settings(settings)
    for row in found["rejections"]:
        calling, called, address = row["calling_ae"], row["called_ae"], row["address"]
        verdict = policy.decide(Proposal(calling, called, address))  # as the configuration is by now
        if row["outdated"] and row["meaning"] != LOCAL_LIMIT_EXCEEDED.meaning:
            continue
        if verdict == CALLED_AE_NOT_RECOGNISED:
            known = settings.listener.further_ae_titles
            yield _lines(
                f"{calling} calls us {called}; we are {', '.join([settings.node.ae_title, *known])}: "
                "change it there, or add",
                "[listener]",
                f"further_ae_titles = {toml_value([*known, called])}",
            )
        elif verdict == CALLING_AE_NOT_RECOGNISED:
            yield _about_calling(settings, calling, address)
        elif row["meaning"] == LOCAL_LIMIT_EXCEEDED.meaning:
            limit = max((peer.maximum_associations for peer in caller.peers), default=20)
            yield _lines(
                f"{calling} opened more associations than it may: let it open fewer, or allow more",
                f"[[peers]]  # {_name(caller)}",
                f"maximum_associations = {2 * limit}",
            )


def _about_calling(settings: Settings, title: str, address: str) -> dict[str, Any]:
    known = next((peer for peer in settings.peers if peer.ae_title == title), None)
    if known is not None:
        return _lines(
            f"{title} calls from {address}, and check_address allows {known.host or 'no address'} only",
            f'[[peers]]  # name = "{known.name}"',
            f"host = {toml_value(address)}",
        )
    if "\\" in title or not title:
        return _lines(f"the machine at {address} calls itself {title!r}, no AE title: correct it there")
    titles = {peer.ae_title.upper(): peer.ae_title for peer in settings.peers}
    alike = difflib.get_close_matches(title.upper(), titles, n=1, cutoff=0.8)
    meant = f", which is not {titles[alike[0]]} (case counts): change it there, or add" if alike else ": add"
    return _lines(
        f"the machine at {address} calls itself {title}{meant}",
        "[[peers]]",
        f"name = {toml_value(short_name(title))}",
        f"ae_title = {toml_value(title)}",
        f"host = {toml_value(address)}",
        'may = ["send"]',
    )


def _about_contexts(settings: Settings, found: Record) -> Iterator[dict[str, Any]]:
    taken = accepted_classes(settings.listener.further_storage_classes)
    classes = []
    for row in found["refused_contexts"]:
        context = row["context"]
        if row["classes"] > 1:
            yield _lines(
                f"it offers {row['classes']} classes that we do not take, most likely all that it knows: "
                "nothing to do, unless it is to send one of them (listener.further_storage_classes)"
            )
            continue
        uid = refused_class(context)
        if ": " in context:
            yield _lines(f"no transfer syntax that we take was offered for {context}")
        elif uid and (uid.startswith(_STORAGE) or not uid.startswith(_STANDARD)):
            classes += [uid] if uid not in taken else []
        elif uid:
            yield _lines(f"{context} is not served here; if the machine insists on it, switch it off there")
    if classes:
        yield _lines(
            "it offers classes that this node refuses. Once accepted, objects are stored and start no job:",
            "[listener]",
            f"further_storage_classes = {toml_value([*settings.listener.further_storage_classes, *classes])}",
        )


def _about_objects(settings: Settings, caller: _Caller, found: Record) -> Iterator[dict[str, Any]]:
    for row in found["refused_objects"]:
        if row["status"] == f"{NOT_AUTHORISED.code:04X}":
            if not any("send" in peer.may for peer in caller.peers):
                yield _lines("it may not send", f"[[peers]]  # {_name(caller)}", 'may = ["send", "receive"]')
        elif row["status"] == f"{TOO_LARGE.code:04X}":
            limit = 2 * settings.listener.maximum_object_mib
            yield _lines("an object was too large", "[listener]", f"maximum_object_mib = {limit}")
        elif not row["outdated"]:
            yield _lines(f"objects were refused with {row['status']}: {row['reason']}")


def _about_silence(settings: Settings, caller: _Caller, found: Record) -> Iterator[dict[str, Any]]:
    may = {word for peer in caller.peers for word in peer.may}
    if may == {"receive"} or any(
        found[key] for key in ("associations", "rejections", "refused_objects", "failures")
    ):
        return
    listener, whether = settings.listener, "If it is to send, let" if "receive" in may else "Let"
    yield _lines(
        f"nothing of it reached this node. {whether} it call {settings.node.ae_title} at this machine, port "
        f"{listener.port}, and look at firewalls on the way"
    )
    if _is_address(listener.host) and ipaddress.ip_address(listener.host).is_loopback:
        yield _lines(
            f"the node listens on {listener.host} only, where no other machine gets through",
            "[listener]",
            'host = "0.0.0.0"',
        )


def _name(caller: _Caller) -> str:
    return f'name = "{caller.peers[0].name}"' if caller.peers else "of this machine"


def _lines(says: str, *lines: str) -> dict[str, Any]:
    return {"says": says, "lines": list(lines)}
