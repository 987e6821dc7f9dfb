"""A caller of the node: what it tried, what was refused and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dicom_node.base.actions.action import declared
from dicom_node.base.actions.columns import Column, fields, times, yes_no
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
from dicom_node.deliver.outages import outages
from dicom_node.people import reading
from dicom_node.people.advice import Record, advise, is_address
from dicom_node.people.happened import MOST_READ
from dicom_node.receive.limits import REFUSED_CONTEXTS_NAMED
from dicom_node.receive.policy import addresses, network

_NUMBERS = [kind.number for kind in (ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED, CONNECTIONS_FAILED)]
_SHOWN = 10
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


def why(settings: Settings, caller: str, since: datetime | None = None) -> dict[str, Any]:
    """Everything about one caller of the node: what it tried, what was refused, and what would allow it.

    ``caller``: a peer's name, an AE title or an address. ``since``: None for all that is recorded. The keys
    are in docs/reference/lists.md. Raises NotFound for a caller that is unknown and did not call.
    """
    with reading(settings) as session:
        rows = views.list_associations(session, since=since, limit=MOST_READ)
        events = views.list_events(session, since=since, numbers=_NUMBERS, limit=MOST_READ)
        lost = outages(session)
    associations = [{**row, "calling": row["calling_ae"]} for row in rows]
    calls = [*associations, *(event["fields"] for event in events)]
    by_address = is_address(caller)
    networks: set[str] = {network(caller)} if by_address else set()

    def titles_from_there() -> set[str]:
        """The AE titles under which calls came from the caller's networks."""
        return {str(call.get("calling", "")) for call in calls if call.get("address") in networks} - {""}

    if by_address:
        there = titles_from_there()
        peers = [peer for peer in settings.peers if peer.host == caller or peer.ae_title in there]
        titles = there | {peer.ae_title for peer in peers}
    else:
        peers = [peer for peer in settings.peers if caller in (peer.name, peer.ae_title)]
        titles = {peer.ae_title for peer in peers} or {caller}
        if not peers and not any(call.get("calling") == caller for call in calls):
            titles = {str(call.get("calling", "")) for call in calls} - {""}
            known = sorted(titles.union(*((peer.name, peer.ae_title) for peer in settings.peers)))
            hint = did_you_mean(caller, known, "known")
            raise NotFound(f"{caller!r} is no peer and did not call in this time; {hint}")
        networks |= {network(one) for peer in peers if peer.host for one in addresses(peer.host)}
    capitals = {title.upper() for title in titles}

    def is_meant(call: Record) -> bool:
        """Whether this call (an association, or the fields of an event) is by the caller."""
        title = str(call.get("calling", ""))
        return title.upper() in capitals if title and not by_address else call.get("address") in networks

    networks |= {str(call["address"]) for call in calls if call.get("calling") and is_meant(call)}
    mine = [row for row in associations if is_meant(row)]
    theirs = [event for event in events if is_meant(event["fields"])]
    # Not by an echo alone, which anybody may send: a peer's association, or one that brought objects.
    entitled = {peer.ae_title for peer in settings.peers}
    through = [row for row in mine if row["objects"] or row["calling_ae"] in entitled]
    names = {"calling_ae": "calling", "called_ae": "called", "address": "address", "meaning": "meaning"}
    refused = {"calling_ae": "calling", "status": "status", "reason": "reason"}
    found: dict[str, Any] = {
        "asked": caller,
        "peer": next((peer.name for peer in peers), None),
        "ae_titles": sorted(titles),
        "addresses": sorted(networks),
        "others": sorted(title for title in titles_from_there() if title.upper() not in capitals),
        "associations": [{k: v for k, v in row.items() if k != "calling"} for row in mine[:_SHOWN]],
        "refused_contexts": _count_equal_rows(_refused_context_rows(mine)),
        "rejections": _mark_outdated(
            _count_equal_rows(_rows_of_kind(ASSOCIATION_REJECTED, theirs, names)), through
        ),
        "refused_objects": _mark_outdated(
            _count_equal_rows(_rows_of_kind(STORE_REFUSED, theirs, refused)),
            [row for row in mine if row["objects"]],
        ),
        "failures": _count_equal_rows(_failure_rows(theirs)),
    }
    return {**found, "advice": list(advise(settings, peers, found, lost))}


def _refused_context_rows(associations: Iterable[Record]) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield (row, count 1, time) for each refused presentation context of these associations."""
    for row in associations:
        if row["refused_count"] > REFUSED_CONTEXTS_NAMED:
            few = ", ".join([*row["refused"], "…"])
            yield {"context": few, "classes": row["refused_count"]}, 1, row["opened_at"]
        else:
            for context in row["refused"]:
                yield {"context": context, "classes": 1}, 1, row["opened_at"]


def _rows_of_kind(
    kind: EventType, events: Iterable[Record], names: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield (row, count 1, time) for each event of one kind; ``names``: the event's field for each key of a
    row.
    """
    for event in events:
        if event["number"] == kind.number:
            yield {key: str(event["fields"].get(name, "")) for key, name in names.items()}, 1, event["at"]


def _failure_rows(events: Iterable[Record]) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield (row, count, time) for failed connections: without TLS, or with faulty messages."""
    for event in events:
        address = str(event["fields"].get("address", ""))
        if event["number"] == TLS_FAILED.number:
            yield {"address": address, "text": f"no TLS: {event['fields'].get('reason', '')}"}, 1, event["at"]
        elif event["number"] == CONNECTIONS_FAILED.number:
            for failure, text in _TEXTS.items():
                if count := int(event["fields"].get(failure) or 0):
                    yield {"address": address, "text": text}, count, event["at"]


def _count_equal_rows(items: Iterable[tuple[dict[str, Any], int, str]]) -> list[dict[str, Any]]:
    """Each different row once, with its total count and its last time, the most recent first.

    ``items``: tuples of row, count and time.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item, count, at in items:
        row = found.setdefault(tuple(item.values()), {**item, "count": 0, "last_at": at, "outdated": False})
        row["count"] += count
        row["last_at"] = max(row["last_at"], at)
    return sorted(found.values(), key=lambda row: str(row["last_at"]), reverse=True)


def _mark_outdated(rows: list[dict[str, Any]], successes: Sequence[Record]) -> list[dict[str, Any]]:
    """Set in each row whether the caller succeeded afterwards (``outdated``), by AE title if the row has one;
    returns ``rows``.

    ``successes``: the caller's successful associations.
    """
    for row in rows:
        title = str(row.get("calling_ae", "")).upper()
        row["outdated"] = any(
            success["opened_at"] > row["last_at"] and title in ("", success["calling_ae"].upper())
            for success in successes
        )
    return rows
