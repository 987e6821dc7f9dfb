"""Studies of peers: fetched by the running node, listed, and compared with the results here."""

from collections.abc import Callable, Collection
from datetime import date
from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session

from dicom_node.base.config.mistakes import did_you_mean
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import FaultyInput, NotFound
from dicom_node.base.kinds import AuditAction
from dicom_node.base.lifecycle import OPEN_FETCHES, FetchState
from dicom_node.base.store import fetches, sight
from dicom_node.base.store.views import View, columns
from dicom_node.people import Row, ServiceRequest, ServiceResult, audit, open_database, reading, writing

LONGEST_RANGE = 366 * 30
"""Days of one request."""


class FetchRequest(ServiceRequest):
    """Studies of a peer from one day to another; ``rule``: the only one that may take them."""

    peer: str
    first: date
    last: date
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    rule: str = ""
    per_minute: Annotated[float, Field(ge=0, le=600)] = 0

    @property
    def questions(self) -> int:
        """The number of queries to the peer: one for each day and modality."""
        return max((self.last - self.first).days + 1, 0) * max(len(self.modalities), 1)


class FetchAsked(ServiceResult):
    """The outcome: ``wanted`` studies are to be fetched or on their way, ``first`` is the lowest number."""

    found: int
    here: int
    before: int
    strays: int
    wanted: int
    first: int


class FetchRow(Row):
    """One study that was asked for."""

    fetch: int
    peer: str
    study_instance_uid: str
    state: FetchState
    reason: str


def ask(
    settings: Settings,
    request: FetchRequest,
    by: audit.Person = audit.COMMAND_LINE,
) -> FetchAsked:
    """Query a peer for studies, and queue the fetch of those that the node does not have.

    Raises UnknownPeer, NotFound, FaultyInput, PeerUnreachable;
    fetches that were queued before the error remain.
    """
    from dicom_node.deliver import scu
    from dicom_node.studies import fetch

    peer = _queried(settings, request.peer)
    if request.rule and settings.rule(request.rule) is None:
        raise NotFound(
            f"no rule is called {request.rule!r}; "
            + did_you_mean(request.rule, [rule.name for rule in settings.rules], "configured")
        )
    if not 0 <= (request.last - request.first).days <= LONGEST_RANGE:
        raise FaultyInput("the last day lies before the first, or 30 years after it")
    archive = scu.open_archive(peer, settings)
    with open_database(settings) as database:
        asked = fetch.ask(
            database,
            archive,
            peer.name,
            fetch.questions(request.first, request.last, request.modalities),
            rule=request.rule,
            per_minute=request.per_minute,
        )
        with database.write() as session:
            audit.note(
                session,
                by,
                AuditAction.STUDIES_FETCHED,
                peer=peer.name,
                studies=asked["wanted"],
                rule=request.rule,
            )
    return FetchAsked(**asked)


def again(settings: Settings, name: str, by: audit.Person = audit.COMMAND_LINE) -> int:
    """Fetch given-up and cancelled studies again; returns how many. Raises UnknownPeer, FaultyInput."""
    from dicom_node.studies import fetch

    _queried(settings, name)
    return _changed(settings, name, by, "again", fetch.ask_again)


def cancel(settings: Settings, name: str, by: audit.Person = audit.COMMAND_LINE) -> int:
    """Cancel the waiting fetches from this peer, configured or not; returns the number of studies."""
    from dicom_node.studies import fetch

    return _changed(settings, name, by, "cancelled", fetch.cancel)


def missing(
    settings: Settings,
    name: str,
    days: int,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    fetch_them: bool = False,
) -> list[View]:
    """Studies of the last days that should have a result according to the rules, and have none.

    ``fetch_them``: fetch the studies that never arrived, or arrived incomplete. Raises UnknownPeer,
    PeerUnreachable.
    """
    from dicom_node.studies import fetch

    peer = _queried(settings, name)
    with open_database(settings) as database:
        found = fetch.missing(database, settings, peer, days)
        fetched = [one for one in found if one.fetchable] if fetch_them else []
        if fetched:
            with database.write() as session:
                for one in fetched:
                    fetch.fetch_missing(session, peer.name, one)
                audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=peer.name, studies=len(fetched))
    return [
        {
            "study_instance_uid": one.found.study_instance_uid,
            "study_date": one.found.study_date,
            "modalities": list(one.found.modalities),
            "rule": one.rule,
            "why": one.why,
            "fetched": one in fetched,
        }
        for one in found
    ]


def by_peer(settings: Settings) -> dict[str, View]:
    """How many studies of each peer were fetched, are on their way, or were given up or cancelled."""
    with reading(settings) as session:
        counted = fetches.states_by_peer(session)
    return {
        peer: {
            "fetched": states.get(FetchState.FETCHED, 0),
            "open": sum(states.get(state, 0) for state in OPEN_FETCHES),
            "failed": states.get(FetchState.FAILED, 0) + states.get(FetchState.CANCELLED, 0),
        }
        for peer, states in counted.items()
    }


def list_fetches(
    session: Session,
    *,
    peer: str = "",
    states: Collection[FetchState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[View]:
    """Requested studies, the newest first; ``before``: only those with a lower number."""
    return [
        {
            "fetch": row.id,
            **columns(row, "peer", "study_instance_uid", "rule", "state", "reason", "attempts"),
            **columns(row, "objects", "asked_at", "started_at", "ended_at"),
        }
        for row in fetches.listed(session, peer, states, limit, before)
    ]


def _queried(settings: Settings, name: str) -> PeerSettings:
    """The peer, which may be asked, for a person who sees all studies. Raises UnknownPeer, FaultyInput."""
    peer = settings.peer(name)
    if sight.SENDERS.get():  # it would fetch again what is here, and list what is hidden
        raise FaultyInput("studies of a peer are of all senders, and this user sees some only")
    if "query" not in peer.may:
        raise FaultyInput(f'peer {name} may not be asked for studies: add "query" to its may')
    return peer


def _changed(settings: Settings, name: str, by: audit.Person, did: str, change: Callable[..., int]) -> int:
    with writing(settings) as session:
        number = change(session, name)
        audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=name, studies=number, did=did)
    return number
