"""Peers: whether they answer; what a caller tried, why it was refused, and what would admit it.

Also the events and associations around a time, of all peers or of one. They name no patient.
"""

import difflib
import ipaddress
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.orm import Session

from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import PeerSettings, Settings, did_you_mean
from dicom_node.base.connectors import every
from dicom_node.base.errors import NotFound, Unavailable
from dicom_node.base.events import (
    ASSOCIATION_REJECTED,
    CONNECTIONS_FAILED,
    STORE_REFUSED,
    TLS_FAILED,
    EventType,
    all_types,
)
from dicom_node.base.lifecycle import AuditAction
from dicom_node.base.store import views
from dicom_node.deliver.outages import PeerOutage, outages
from dicom_node.people import Row, audit, reading, writing
from dicom_node.receive.limits import REFUSED_CONTEXTS_NAMED
from dicom_node.receive.messages import Proposal
from dicom_node.receive.policy import AEPolicy, accepted_classes, addresses, network, refused_class
from dicom_node.receive.statuses import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    NOT_AUTHORISED,
    TOO_LARGE,
)

if TYPE_CHECKING:
    from dicom_node.deliver.scu import Check

_tests = threading.Semaphore(2)
Record = Mapping[str, Any]
_NUMBERS = [kind.number for kind in (ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED, CONNECTIONS_FAILED)]
_READ = 5000  # events and associations, of each, that are looked through: the newest
_SHOWN = 10
SECRET: Final = ("username", "password", "token")
_STANDARD, _STORAGE = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1."  # PS3.4 B.5: other services lie elsewhere
_TEXTS = {
    "no_place": "closed at once: too many connections waited",
    "too_late": "no association request within listener.acse_timeout_seconds",
    "malformed": "not a DICOM association request",
    "rejected": "rejected, not listed one by one",
    "no_tls": "no TLS, not listed one by one",
}


def list_peers(settings: Settings) -> list[dict[str, Any]]:
    """The settings of the configured peers, without their secrets."""
    return [peer.model_dump(mode="json", exclude={*SECRET}) for peer in settings.peers]


def try_peers(settings: Settings, names: Sequence[str], by: audit.Person | None = None) -> list[Row]:
    """Test what delivery, queries and reports to these peers need; returns a row for each test.

    ``names``: empty for all peers that the node calls. ``by``: the person for the audit; None for the command
    line, which needs no database. The rows have ``peer``, ``check``, ``ok`` and ``text``. Raises NotFound,
    Unavailable.
    """
    chosen = [settings.peer(name) for name in names] or [one for one in settings.peers if one.is_called]
    # A peer that hangs keeps its place until its deadline.
    if not _tests.acquire(blocking=False):
        raise Unavailable("Other tests are under way: try again when they are done.")
    try:
        rows = [
            Row(peer=peer.name, check=check.name, ok=check.ok, text=check.text)
            for peer in chosen
            for check in _test_peer(peer, settings)
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
                failed=sorted({row["check"] for row in rows if not row["ok"]}),
            )
    return rows


def _test_peer(peer: PeerSettings, settings: Settings) -> "Iterator[Check]":
    """Test what the node needs of one peer; yields a result for each test."""
    from dicom_node.deliver.scu import open_archive, open_commitment, open_destination

    if "receive" in peer.may or not peer.is_called:
        yield from open_destination(peer, settings).test()
    if "query" in peer.may:
        yield from open_archive(peer, settings).test()
    if peer.commit_after:
        yield open_commitment(peer, settings).check()
    for test in every("peer_tests"):
        yield from test(peer, settings)


def why(settings: Settings, caller: str, since: datetime | None = None) -> dict[str, Any]:
    """Everything about one caller of the node: what it tried, what was refused, and what would allow it.

    ``caller``: a peer's name, an AE title or an address. ``since``: None for all that is recorded. The keys
    are in docs/reference/lists.md. Raises NotFound for a caller that is unknown and did not call.
    """
    with reading(settings) as session:
        rows = views.list_associations(session, since=since, limit=_READ)
        events = views.list_events(session, since=since, numbers=_NUMBERS, limit=_READ)
        lost = outages(session)
    associations = [{**row, "calling": row["calling_ae"]} for row in rows]
    calls = [*associations, *(event["fields"] for event in events)]
    is_address = _is_address(caller)
    networks: set[str] = {network(caller)} if is_address else set()

    def titles_from_there() -> set[str]:
        """The AE titles under which calls came from the caller's networks."""
        return {str(call.get("calling", "")) for call in calls if call.get("address") in networks} - {""}

    if is_address:
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
        return title.upper() in capitals if title and not is_address else call.get("address") in networks

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
    return {**found, "advice": list(_advice(settings, peers, found, lost))}


def short_name(title: str) -> str:
    """A valid name for a new peer with this AE title; "" without a title."""
    return title and (re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-") or "new")


def _is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


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


def _advice(
    settings: Settings, peers: Sequence[PeerSettings], found: Record, lost: Iterable[PeerOutage]
) -> Iterator[dict[str, Any]]:
    """Yield what a person should do, with lines of configuration that do it, for the most likely cause first.

    ``peers``: the peers that the caller may be. ``found``: what ``why`` found. ``lost``: outages of peers.
    """
    away = [one for one in lost if one.destination in {peer.name for peer in peers}]
    for one in away:
        yield {"concerns": "results"} | _lines(
            f"since {one.since:%Y-%m-%d %H:%M} UTC it takes none of the {one.waiting} results that wait "
            f"for it ({one.reason}). Does it run? dicom-node peers test {one.destination} tries it"
        )
    yield from _about_rejections(settings, found)
    yield from _about_contexts(settings, found)
    for row in found["refused_objects"]:
        sender = next((peer for peer in settings.peers if peer.ae_title == row["calling_ae"]), None)
        if row["status"] == f"{NOT_AUTHORISED.code:04X}":
            if sender is None or "send" not in sender.may:
                yield _lines("it may not send", _heading(sender), 'may = ["send", "receive"]')
        elif row["status"] == f"{TOO_LARGE.code:04X}":
            yield _lines(
                "an object was too large",
                "[listener]",
                f"maximum_object_mib = {2 * settings.listener.maximum_object_mib}",
            )
        elif not row["outdated"]:
            yield _lines(f"objects were refused with {row['status']}: {row['reason']}")
    may = {word for peer in peers for word in peer.may}
    if (
        away
        or may == {"receive"}
        or any(found[key] for key in ("associations", "rejections", "refused_objects", "failures"))
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


def _about_rejections(settings: Settings, found: Record) -> Iterator[dict[str, Any]]:
    """Yield advice about rejected associations in ``found``, according to the present configuration."""
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
            peer = next((one for one in settings.peers if one.ae_title == calling), None)
            yield _lines(
                f"{calling} opened more associations than it may: let it open fewer, or allow more",
                _heading(peer),
                f"maximum_associations = {2 * (peer.maximum_associations if peer else 20)}",
            )


def _about_calling(settings: Settings, title: str, address: str) -> dict[str, Any]:
    """Advice for a caller that is no peer, or calls from another address than its own; ``title``: its AE
    title.
    """
    known = next((peer for peer in settings.peers if peer.ae_title == title), None)
    if known is not None:
        return _lines(
            f"{title} calls from {address}, and check_address allows {known.host or 'no address'} only",
            _heading(known),
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
    """Yield advice about the refused presentation contexts in ``found``."""
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


def _heading(peer: PeerSettings | None) -> str:
    """The heading of a peer's table in TOML; None: of a peer that is not configured."""
    return f'[[peers]]  # name = "{peer.name}"' if peer else "[[peers]]  # of this machine"


def _lines(says: str, *lines: str) -> dict[str, Any]:
    """An advice for a person: the sentence ``says``, and lines of configuration."""
    return {"says": says, "lines": list(lines)}


MOST_SHOWN = 500
"""Events and associations that are shown, of each: the newest."""
_PROBLEMS = frozenset(kind.number for kind in all_types() if kind.level >= logging.WARNING)
_OF_ONE_OBJECT = frozenset({"instance", "spool_name", "association", "id"})


def happened_around(
    session: Session,
    settings: Settings,
    *,
    since: datetime,
    until: datetime,
    peer: str = "",
    number: int = 0,
    words: str = "",
    problems: bool = False,
) -> Row:
    """The events and associations from ``since`` until ``until``, the oldest first, optionally filtered.

    ``peer``: name, AE title or host of a peer, ``number``: of the event, ``words``: a text in it; "" and 0
    match all. ``problems``: only warnings and errors. In the result ``more`` says whether there are earlier
    ones, ``times`` how often an event happened in a row.
    """
    asked, folded = peer.casefold(), words.casefold()
    called = {asked}
    for one in settings.peers:
        names = {name.casefold() for name in (one.name, one.ae_title, one.host) if name}
        called |= names if asked in names else set()

    def is_meant(fields: Mapping[str, Any]) -> bool:
        """Whether a value in these fields names the wanted peer."""
        return not peer or any(str(value).casefold() in called for value in fields.values())

    numbers = {number} if number else _PROBLEMS if problems else frozenset[int]()
    read = views.list_events(session, since=since, until=until, numbers=numbers, debug=False, limit=_READ)
    events: list[views.View] = []
    for row in read:
        texts = (row["text"], *row["fields"].values())
        if problems and row["number"] not in _PROBLEMS:
            continue
        if not is_meant(row["fields"]) or not any(folded in str(text).casefold() for text in texts):
            continue
        if events and repeat_key(events[-1]) == repeat_key(row):
            events[-1] = row | {"times": events[-1]["times"] + 1}
        else:
            events.append(row | {"times": 1})
    associations: list[views.View] = []
    if not (number or words or problems):  # else events alone were asked for
        associations = [
            row
            for row in reversed(views.list_associations(session, since=since, until=until, limit=_READ))
            if is_meant(row)
        ]
    return Row(
        events=events[-MOST_SHOWN:],
        associations=associations[-MOST_SHOWN:],
        more=max(len(events), len(associations)) > MOST_SHOWN or len(read) == _READ,
    )


def repeat_key(row: views.View) -> object:
    """A key that is equal for events that differ only in numbers and in the object that they are about."""
    texts = sorted(
        (key, value)
        for key, value in row["fields"].items()
        if isinstance(value, str) and key not in _OF_ONE_OBJECT
    )
    return row["number"], row["study_instance_uid"], tuple(texts)
