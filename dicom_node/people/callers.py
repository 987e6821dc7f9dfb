"""A caller of the node: what it tried, what was refused and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from dicom_node.base.actions.action import declared
from dicom_node.base.actions.columns import Column, fields, times, yes_no
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.events import (
    ASSOCIATION_REJECTED,
    CONNECTIONS_FAILED,
    STORE_REFUSED,
    TLS_FAILED,
    EventType,
)
from dicom_node.base.store import views
from dicom_node.base.store.views import View
from dicom_node.deliver.outages import outages
from dicom_node.people import reading
from dicom_node.people.advice import Record, advise, is_address
from dicom_node.people.happened import MOST_READ
from dicom_node.receive.limits import REFUSED_CONTEXTS_NAMED
from dicom_node.receive.policy import addresses, network

_NUMBERS = [kind.number for kind in (ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED, CONNECTIONS_FAILED)]
_SHOWN = 10
_Occurrence = tuple[View, int, str]
"""A row, how often it occurred, and when."""
_TEXTS = {
    "no_place": "closed at once: too many connections waited",
    "too_late": "no association request within listener.acse_timeout_seconds",
    "malformed": "not a DICOM association request",
    "rejected": "rejected, not listed one by one",
    "no_tls": "no TLS, not listed one by one",
}


_COUNTED: Final = (*fields("count"), *times("last: last_at"))
_SINCE_THEN: Final = yes_no("since then", "outdated", "got through", "")

PARTS_OF_CALLER: Final[Mapping[str, Sequence[Column]]] = {
    "associations": declared(views.list_associations).columns,
    "refused_contexts": (*fields("classes", "context"), *_COUNTED),
    "rejections": (
        *fields("calling: calling_ae", "called: called_ae", "address", "meaning"),
        *_COUNTED,
        _SINCE_THEN,
    ),
    "refused_objects": (*fields("calling: calling_ae", "status", "reason"), *_COUNTED, _SINCE_THEN),
    "failures": (*fields("address", "text"), *_COUNTED),
}
"""The parts of ``peers why``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An address under all its AE titles, or a peer or an AE title at all its addresses.

    ``peers``: those that it may be. ``networks``: its addresses, or networks of IPv6.
    """

    is_address: bool
    peers: Sequence[PeerSettings]
    titles: frozenset[str]
    networks: frozenset[str]

    @property
    def capitals(self) -> frozenset[str]:
        """Its AE titles in capitals, for comparisons."""
        return frozenset(title.upper() for title in self.titles)

    def made(self, call: Record) -> bool:
        """Whether this call (an association, or the fields of an event) is by the caller."""
        title = _title(call)
        if title and not self.is_address:
            return title.upper() in self.capitals
        return call.get("address") in self.networks


def why(settings: Settings, caller: str, since: datetime | None = None) -> View:
    """Everything about one caller of the node: what it tried, what was refused, and what would allow it.

    ``caller``: a peer's name, an AE title or an address. ``since``: None for all that is recorded. The keys
    are in docs/reference/lists.md. Raises NotFound for a caller that is unknown and did not call.
    """
    with reading(settings) as session:
        associations = views.list_associations(session, since=since, limit=MOST_READ)
        events = views.list_events(session, since=since, numbers=_NUMBERS, limit=MOST_READ)
        lost = outages(session)
    calls = [*associations, *(event["fields"] for event in events)]
    meant = _caller(settings, caller, calls)
    capitals = meant.capitals
    mine = [row for row in associations if meant.made(row)]
    theirs = [event for event in events if meant.made(event["fields"])]
    others = {title for title in _titles_from(meant.networks, calls) if title.upper() not in capitals}
    found: View = {
        "asked": caller,
        "peer": next((peer.name for peer in meant.peers), None),
        "ae_titles": sorted(meant.titles),
        "addresses": sorted(meant.networks),
        "others": sorted(others),
        "associations": mine[:_SHOWN],
        "refused_contexts": _count_equal_rows(_refused_context_rows(mine)),
        "rejections": _rejections(settings, mine, theirs),
        "refused_objects": _refused_objects(mine, theirs),
        "failures": _count_equal_rows(_failure_rows(theirs)),
    }
    return {**found, "advice": list(advise(settings, meant.peers, found, lost))}


def _caller(settings: Settings, asked: str, calls: Sequence[Record]) -> Caller:
    """Find the caller that a person asks about, with the addresses that it called from. Raises NotFound."""
    find = _caller_at if is_address(asked) else _caller_named
    found = find(settings, asked, calls)
    called_from = {str(call["address"]) for call in calls if _title(call) and found.made(call)}
    return replace(found, networks=found.networks | called_from)


def _caller_at(settings: Settings, address: str, calls: Sequence[Record]) -> Caller:
    """The caller at an address, with the AE titles that were used there."""
    networks = frozenset({network(address)})
    titles = _titles_from(networks, calls)
    peers = [peer for peer in settings.peers if peer.host == address or peer.ae_title in titles]
    return Caller(True, peers, titles.union(peer.ae_title for peer in peers), networks)


def _caller_named(settings: Settings, name: str, calls: Sequence[Record]) -> Caller:
    """The caller with this peer's name or AE title. Raises NotFound if it is no peer and did not call."""
    peers = [peer for peer in settings.peers if name in (peer.name, peer.ae_title)]
    called = set(map(_title, calls))
    if not peers and name not in called:
        known = sorted(called.union(*((peer.name, peer.ae_title) for peer in settings.peers)))
        hint = did_you_mean(name, known, "known")
        raise NotFound(f"{name!r} is no peer and did not call in this time; {hint}")
    titles = frozenset(peer.ae_title for peer in peers) or frozenset({name})
    hosts = [peer.host for peer in peers if peer.host]
    return Caller(
        False, peers, titles, frozenset(network(number) for host in hosts for number in addresses(host))
    )


def _titles_from(networks: frozenset[str], calls: Iterable[Record]) -> frozenset[str]:
    """The AE titles under which calls came from these networks."""
    return frozenset(_title(call) for call in calls if call.get("address") in networks) - {""}


def _title(call: Record) -> str:
    """The AE title under which a call came: that of an association's row, or of an event's fields."""
    return str(call.get("calling_ae") or call.get("calling") or "")


def _rejections(settings: Settings, mine: Sequence[Record], theirs: Iterable[Record]) -> list[View]:
    """The caller's rejected associations; ``mine``: its accepted ones, ``theirs``: its events."""
    names = {"calling_ae": "calling", "called_ae": "called", "address": "address", "meaning": "meaning"}
    # Not by an echo alone, which anybody may send: a peer's association, or one that brought objects.
    entitled = {peer.ae_title for peer in settings.peers}
    through = [row for row in mine if row["objects"] or row["calling_ae"] in entitled]
    return _refusals(ASSOCIATION_REJECTED, theirs, names, through)


def _refused_objects(mine: Sequence[Record], theirs: Iterable[Record]) -> list[View]:
    """The objects that were refused; ``mine``: the caller's associations, ``theirs``: its events."""
    names = {"calling_ae": "calling", "status": "status", "reason": "reason"}
    brought = [row for row in mine if row["objects"]]
    return _refusals(STORE_REFUSED, theirs, names, brought)


def _refused_context_rows(associations: Iterable[Record]) -> Iterator[_Occurrence]:
    """Yield (row, count 1, time) for each refused presentation context of these associations."""
    for row in associations:
        if row["refused_count"] > REFUSED_CONTEXTS_NAMED:
            few = ", ".join([*row["refused"], "…"])
            yield {"context": few, "classes": row["refused_count"]}, 1, row["opened_at"]
        else:
            for context in row["refused"]:
                yield {"context": context, "classes": 1}, 1, row["opened_at"]


def _refusals(
    kind: EventType, events: Iterable[Record], names: Mapping[str, str], successes: Sequence[Record]
) -> list[View]:
    """The different events of one kind as counted rows, each marked (``outdated``) if the caller succeeded
    afterwards.

    ``names``: the event's field for each key of a row. ``successes``: the caller's successful associations.
    """
    rows = _count_equal_rows(
        ({key: str(event["fields"].get(name, "")) for key, name in names.items()}, 1, event["at"])
        for event in events
        if event["number"] == kind.number
    )
    for row in rows:
        row["outdated"] = any(
            success["opened_at"] > row["last_at"]
            and row["calling_ae"].upper() in ("", success["calling_ae"].upper())
            for success in successes
        )
    return rows


def _failure_rows(events: Iterable[Record]) -> Iterator[_Occurrence]:
    """Yield (row, count, time) for failed connections: without TLS, or with faulty messages."""
    for event in events:
        address = str(event["fields"].get("address", ""))
        if event["number"] == TLS_FAILED.number:
            yield (
                {"address": address, "text": f"no TLS: {event['fields'].get('reason', '')}"},
                1,
                event["at"],
            )
        elif event["number"] == CONNECTIONS_FAILED.number:
            for failure, text in _TEXTS.items():
                if count := int(event["fields"].get(failure) or 0):
                    yield {"address": address, "text": text}, count, event["at"]


def _count_equal_rows(items: Iterable[_Occurrence]) -> list[View]:
    """Each different row once, with its total count and its last time, the most recent first."""
    found: dict[tuple[Any, ...], View] = {}
    for item, count, at in items:
        row = found.setdefault(tuple(item.values()), {**item, "count": 0, "last_at": at, "outdated": False})
        row["count"] += count
        row["last_at"] = max(row["last_at"], at)
    return sorted(found.values(), key=lambda row: str(row["last_at"]), reverse=True)
