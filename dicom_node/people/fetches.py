"""Studies that the running node fetches from peers: what a person asks for, lists and cancels."""

from collections.abc import Collection
from datetime import date
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input, allowed_to
from dicom_node.base.actions.columns import STUDY_UID, Column, fields, times, yes_no
from dicom_node.base.actions.inputs import limit, states
from dicom_node.base.actions.nouns import FETCHES
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ExitCode, FaultyInput, NotFound
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    AuditAction,
    FetchState,
    UserRole,
)
from dicom_node.base.store import fetches, sight
from dicom_node.base.store.views import View, columns
from dicom_node.people import (
    Row,
    ServiceRequest,
    audit,
    open_database,
    reading,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person

FetchChange = Literal["again", "cancel"]


LONGEST_RANGE = 366 * 30
"""Days of one request."""


_PeerName = Annotated[str, Input('A peer with may = ["query"].', metavar="PEER")]


class FetchRequest(ServiceRequest):
    """A request to fetch studies from a peer, from the day ``first`` to the day ``last``.

    ``modalities``: () for all. ``rule``: the only rule that may take them, "" for all rules. ``per_minute``:
    studies per minute, 0 for the peer's setting.
    """

    peer: str
    first: date
    last: date
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    rule: str = ""
    per_minute: Annotated[float, Field(ge=0, le=600)] = 0

    @property
    def questions(self) -> int:
        """The number of queries to the peer that the request leads to: one for each day and modality."""
        return max((self.last - self.first).days + 1, 0) * max(len(self.modalities), 1)


@allowed_to(UserRole.OPERATOR)
def request_fetches(
    settings: Settings,
    request: FetchRequest,
    by: Person = COMMAND_LINE,
) -> Row:
    """Query a peer for studies, and queue the fetch of those that the node does not have.

    Returns the number of studies ``found``, those ``here`` already, those fetched or given up ``before``, of
    answers that did not match the query (``strays``), and of queued fetches (``wanted``), with the ``first``
    number of these. Raises NotFound, FaultyInput, Unavailable; fetches that were queued before the error
    remain.
    """
    from dicom_node.deliver import scu
    from dicom_node.studies import fetch_queue

    peer = _peer_to_query(settings, request.peer)
    if request.rule and settings.rule(request.rule) is None:
        raise NotFound(
            f"no rule is called {request.rule!r}; "
            + did_you_mean(request.rule, [rule.name for rule in settings.rules], "configured")
        )
    if not 0 <= (request.last - request.first).days <= LONGEST_RANGE:
        raise FaultyInput("the last day lies before the first, or 30 years after it")
    archive = scu.open_archive(peer, settings)
    with open_database(settings) as database:
        asked = fetch_queue.ask(
            database,
            archive,
            peer.name,
            fetch_queue.daily_queries(request.first, request.last, request.modalities),
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
    return Row(**asked)


@Action(
    FETCHES,
    "list",
    "List studies that were asked for, the newest first.",
    "--state failed --config node.toml",
    columns=(
        *fields("fetch", "state", "from: peer"),
        STUDY_UID,
        *fields("rule", "tries: attempts", "objects"),
        *times("asked: asked_at", "ended: ended_at"),
        *fields("reason"),
    ),
    none="No study was asked for.",
)
def list_fetches(
    session: Session,
    *,
    states: Annotated[Collection[FetchState], states(*FetchState)] = (),
    peer: Annotated[str, Input("Only of this peer.", "--peer", "PEER")] = "",
    limit: Annotated[int | None, limit(50)] = None,
    before: int | None = None,
) -> list[View]:
    """Rows for studies that the node fetches from peers, the newest first.

    ``peer``, ``states``: only these, empty for all. ``before``: only those with a lower number.
    """
    return [
        {
            "fetch": row.id,
            **columns(row, "peer", "study_instance_uid", "rule", "state", "reason", "attempts"),
            **columns(row, "objects", "asked_at", "started_at", "ended_at"),
        }
        for row in fetches.listed(session, peer, states, limit, before)
    ]


@Action(
    FETCHES,
    "again",
    "Fetch once more what was given up or cancelled of a peer.",
    "pacs --config node.toml",
    says="{result} studies are fetched again.",
    role=UserRole.OPERATOR,
)
def fetch_again(settings: Settings, name: _PeerName, by: Person = COMMAND_LINE) -> int:
    """Fetch given-up and cancelled studies of a peer again; returns how many. ``name``: of the peer.

    Raises NotFound, FaultyInput.
    """
    _peer_to_query(settings, name)
    return _change_fetches(settings, name, "again", by)


@Action(
    FETCHES,
    "cancel",
    "Do not fetch what waits for a peer; the study that is under way still comes.",
    "pacs --config node.toml",
    says="{result} studies are not fetched.",
    role=UserRole.OPERATOR,
)
def cancel_fetches(settings: Settings, name: _PeerName, by: Person = COMMAND_LINE) -> int:
    """Cancel the waiting fetches of a peer; returns how many.

    ``name``: the peer, which need not be configured any more.
    """
    return _change_fetches(settings, name, "cancel", by)


@Action(
    FETCHES,
    "missing",
    "List studies of a peer that should have a result by the rules, and have none.\n\nConditions of "
    "rules on single images cannot be tried on a peer's answer. Exit status 1: there are some.",
    "pacs --days 3 --config node.toml",
    columns=(
        STUDY_UID,
        *fields("date: study_date"),
        Column("modality", lambda row: "/".join(row["modalities"])),
        *fields("rule", "why"),
        yes_no("fetched", "fetched"),
    ),
    none="Every study has its result.",
    status=lambda rows: ExitCode.FAILED if rows else ExitCode.OK,
    role=UserRole.OPERATOR,
)
def missing_studies(
    settings: Settings,
    name: _PeerName,
    days: Annotated[int, Input("Today and so many days before.", "--days", default=3, least=0, most=90)],
    by: Person = COMMAND_LINE,
    *,
    fetch_them: Annotated[bool, Input("Fetch the studies that never came, or not whole.", "--fetch")] = False,
) -> list[View]:
    """Rows for a peer's studies of the last ``days`` that should have a result according to the rules, and
    have none.

    ``name``: the peer. ``fetch_them``: fetch the studies that never arrived, or arrived incomplete. Raises
    NotFound, Unavailable.
    """
    from dicom_node.studies.missing_studies import fetch_missing, missing

    peer = _peer_to_query(settings, name)
    with open_database(settings) as database:
        found = missing(database, settings, peer, days)
        fetched = [one for one in found if one.fetchable] if fetch_them else []
        if fetched:
            with database.write() as session:
                for one in fetched:
                    fetch_missing(session, peer.name, one)
                audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=peer.name, studies=len(fetched))
    return [
        {
            **columns(one.found, "study_instance_uid", "study_date"),
            "modalities": list(one.found.modalities),
            **columns(one, "rule", "why"),
            "fetched": one in fetched,
        }
        for one in found
    ]


def fetches_by_peer(settings: Settings) -> dict[str, View]:
    """The number of studies of each peer that were fetched, are still to be fetched (``open``), or failed."""
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


def _peer_to_query(settings: Settings, name: str) -> PeerSettings:
    """The settings of a peer to query. Raises NotFound, and FaultyInput if it answers no queries or the
    person may see only some studies.
    """
    peer = settings.peer(name)
    if sight.SENDERS.get():  # it would fetch again what is here, and list what is hidden
        raise FaultyInput("studies of a peer are of all senders, and this user sees some only")
    if "query" not in peer.may:
        raise FaultyInput(f'peer {name} may not be asked for studies: add "query" to its may')
    return peer


def _change_fetches(settings: Settings, name: str, change: FetchChange, by: Person) -> int:
    """Change the fetches of a peer in the database, with the audit; returns how many."""
    from dicom_node.studies import fetch_queue

    with writing(settings) as session:
        number = {"again": fetch_queue.fetch_again, "cancel": fetch_queue.cancel}[change](session, name)
        audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=name, studies=number, did=change)
    return number
