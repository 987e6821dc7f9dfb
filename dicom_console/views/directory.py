"""Peers for the console: their configuration, and the last call of each."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.events import ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED
from dicom_node.base.lifecycle import OPEN_DELIVERIES, DeliveryState
from dicom_node.base.store import requested
from dicom_node.base.store.tables import Association, Delivery
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json, columns, list_events

DAYS = 30
"""How far back it is looked who called."""
ASKED = 50
"""Requests for storage commitment that the page of a peer lists."""
_SECRET = frozenset({"username", "password", "token"})
_STRANGERS = 20
_LOOKED_AT = 5000  # events
_REFUSALS = [kind.number for kind in (ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED)]


def peers(session: Session, settings: Settings) -> list[View]:
    """Return the configured peers in their order, each with its last association and last confirmed
    delivery.
    """
    last = _last_associations(session)
    return [
        _shown(peer) | {"last": last.get(peer.ae_title), "took": _last_confirmed(session, peer)}
        for peer in settings.peers
    ]


def peer(session: Session, settings: Settings, name: str) -> View:
    """Return the peer ``name`` with all settings that differ from their defaults, but for secrets.

    Raises NotFound.
    """
    found = settings.peer(name)
    given = found.model_dump(mode="json", exclude_defaults=True, exclude={*_SECRET, "entered"})
    keys = {key: value for key, value in given.items() if value not in (None, "")}
    unreported = requested.unreported(session, name, ASKED) if found.commit_after else []
    request = [
        columns(row, "asked_at", "state", "attempts", "reason", "transaction_uid")
        | {"objects": len(row.objects), "failed": len(row.failed)}
        for row in unreported
    ]
    waiting = select(func.count()).where(Delivery.destination == name, Delivery.state.in_(OPEN_DELIVERIES))
    shown = _shown(found) | {
        "keys": keys,
        "took": _last_confirmed(session, found),
        "waiting": session.scalar(waiting),
    }
    return shown | {"asked": request if found.commit_after else None}


def strangers(session: Session, settings: Settings) -> list[View]:
    """Return the AE titles that were rejected in the last days and belong to no peer, the latest first."""
    known = {peer.ae_title for peer in settings.peers}
    rejected = _callers(session, [ASSOCIATION_REJECTED.number], "calling")
    return [row for row in rejected if row["caller"] not in known][:_STRANGERS]


def refused(session: Session) -> list[View]:
    """Return the callers that were refused anything in the last days, the latest first: how often, and what
    the last time.
    """
    return _callers(session, _REFUSALS, "calling", "address")[:_STRANGERS]


def _callers(session: Session, numbers: list[int], *called: str) -> list[View]:
    """Return the callers in events with these numbers, the latest first.

    ``called``: event fields that may name the caller, of which the first with a value counts.
    """
    found: dict[str, View] = {}
    since = utc_now() - timedelta(days=DAYS)
    for event in reversed(list_events(session, since=since, numbers=numbers, limit=_LOOKED_AT)):
        fields = event["fields"]
        if caller := next((str(fields[key]) for key in called if fields.get(key)), ""):
            row = {"caller": caller, "address": fields.get("address", ""), "times": 0, **event}
            found.setdefault(caller, row)["times"] += 1
    return list(found.values())


def _shown(peer: PeerSettings) -> View:
    """Return a peer's settings as lists show them, without secrets."""
    row: dict[str, Any] = peer.model_dump(mode="json", exclude=set(_SECRET))
    place = f"{row['host']}:{row['port']}" if row["host"] and row["port"] else row["host"]
    return {
        **{
            key: row[key]
            for key in ("name", "ae_title", "may", "transport", "results", "confirm", "deidentify")
        },
        "version": peer.entered or None,
        "address": (row["url"] if peer.by_http else place) or "",
        "tls": bool(peer.tls) or str(row["url"] or "").startswith("https:"),
    }


def _last_confirmed(session: Session, peer: PeerSettings) -> str | None:
    """Return when the newest delivery to the peer was confirmed; None if none was, or the peer gets no
    results.
    """
    if "receive" not in peer.may:
        return None
    here = Delivery.destination == peer.name, Delivery.state == DeliveryState.CONFIRMED
    at = session.scalar(select(Delivery.confirmed_at).where(*here).order_by(Delivery.id.desc()).limit(1))
    return str(as_json(at)) if at else None


def _last_associations(session: Session) -> dict[str, View]:
    """Return the last association of each calling AE title."""
    newest = (
        select(Association.calling_ae, func.max(Association.opened_at).label("at"))
        .group_by(Association.calling_ae)
        .subquery()
    )
    same = (Association.calling_ae == newest.c.calling_ae) & (Association.opened_at == newest.c.at)
    rows = session.scalars(select(Association).join(newest, same))
    names = ("opened_at", "outcome", "objects", "refused_count", "address")
    return {row.calling_ae: columns(row, *names) for row in rows}
