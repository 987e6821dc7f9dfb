"""The delivery table for one destination. Each method is one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import DELIVERY_STARTED, DESTINATION_HUNG
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.outbox.moves import Moves
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.store import deliveries
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery
from dicom_node.store.transitions import move_delivery, record, settle_studies, utc_now

_TURN = 4  # of so many claims one is of what has waited longest: STAT studies cannot hold up others for ever
_BATCH = 32  # objects of one study on one association
_STORED = frozenset({SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY})
_AWAY = frozenset({SendStatus.UNREACHABLE, SendStatus.HUNG})
_LEFT = frozenset({DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED})


@dataclass(frozen=True, slots=True)
class Leased:
    """One leased delivery, usable without a database session."""

    delivery: int
    attempts: int
    study: int
    bytes: int
    pseudonym_domain: str
    object: Outgoing
    is_original: bool = False
    """A received object, of whose file the hash is not known."""


class Ledger:
    """Leases and outcomes of deliveries to one peer; other processes may work for the same peer.

    ``owner``: the process that works on them. ``lease``: after this time without renewal another owner takes
    a delivery over.
    """

    def __init__(
        self, database: Database, settings: Settings, peer: PeerSettings, owner: str, lease: timedelta
    ) -> None:
        self._database, self._settings, self._peer = database, settings, peer
        self._owner, self._lease = owner, lease
        self._folder = settings.node.data_dir.resolve()
        self._claims = 0

    def claim(self) -> tuple[list[Leased], list[Leased]]:
        """Lease the due deliveries of one study; returns the deliveries to send, and those to query."""
        now = utc_now()
        to_send, to_ask = [], []
        with self._database.write() as session:
            moves = self._moves(session)
            self._claims += 1
            by_waiting = self._claims % _TURN == 0
            due = deliveries.due_batch(session, self._peer.name, now, _BATCH, by_waiting=by_waiting)
            for delivery in due:
                if delivery.state is DeliveryState.SENDING:
                    moves.sender_lost(delivery)
            deliveries.discard_withdrawn(session, due)
            for delivery in due:
                if delivery.state is DeliveryState.PENDING and _is_in_quarantine(delivery):
                    deliveries.withdraw(session, delivery, "the study is in quarantine")
                elif delivery.state is DeliveryState.PENDING and deliveries.is_outdated(session, delivery):
                    deliveries.withdraw(session, delivery, "a newer version of the object replaces it")
                elif delivery.state is DeliveryState.PENDING:
                    until = utc_now() + self._lease
                    started = {"attempts": delivery.attempts + 1, "lease_owner": self._owner}
                    move_delivery(session, delivery, DELIVERY_STARTED, lease_until=until, **started)
                    to_send.append(self._leased(session, delivery))
                elif delivery.state is DeliveryState.UNCONFIRMED:
                    deliveries.hold(delivery, self._owner, now + self._lease)
                    to_ask.append(self._leased(session, delivery))
        return to_send, to_ask

    def renew(self, batch: Sequence[Leased]) -> None:
        """Renew the leases: the owner is alive."""
        numbers = [one.delivery for one in batch]
        with self._database.write() as session:
            deliveries.renew(session, numbers, self._owner, utc_now() + self._lease)

    def give_up(self, faults: Mapping[Leased, str]) -> None:
        """Give up deliveries that must not be sent to the peer. ``faults``: the reason for each."""
        with self._entering(list(faults)) as (_, moves, rows):
            for one, row in rows.items():
                if row.attempts == one.attempts:
                    moves.give_up(row, faults[one])

    def enter_reports(self, reports: Mapping[Leased, SendReport]) -> list[Leased]:
        """Record the outcome of sending; returns deliveries that the peer acknowledged but has not
        confirmed.
        """
        narrowed = [one for one, report in reports.items() if report.status is SendStatus.NARROWED]
        with self._entering(list(reports)) as (session, moves, rows):
            mine = {one: row for one, row in rows.items() if row.attempts == one.attempts}
            for one, row in mine.items():
                if one not in narrowed:
                    moves.sent(row, reports[one])
            takes_others = bool(narrowed) and self._takes_others(session, narrowed)
            for one in narrowed:
                if one in mine:
                    # Results that are left out harm nobody, but of a note or an original a person must know.
                    result = mine[one].result
                    may_lack = result is not None and result.kind is not ResultKind.REJECTION
                    moves.narrowed(mine[one], reports[one], takes_others=takes_others and may_lack)
            self._pace(session, reports)
            if any(report.status is SendStatus.HUNG for report in reports.values()):
                self._record_hung(session, list(reports), "send")
        return [one for one, row in rows.items() if row.state is DeliveryState.UNCONFIRMED]

    def enter_confirmations(self, answers: Mapping[Leased, Confirmation]) -> None:
        """Record the peer's answers to the queries about these deliveries."""
        with self._entering(list(answers)) as (session, moves, rows):
            for one, row in rows.items():
                if row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, answers[one])
            if any(answer.presence is Presence.HUNG for answer in answers.values()):
                self._record_hung(session, list(answers), "query")

    def put_off(self, batch: Sequence[Leased], reason: str) -> None:
        """Postpone these deliveries without sending or querying: the object store is unreachable."""
        with self._entering(batch) as (_, moves, rows):
            for one, row in rows.items():
                if row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, Confirmation(Presence.UNKNOWN, reason))
                elif row.attempts == one.attempts:
                    moves.sent(row, SendReport(SendStatus.UNREACHABLE, "", reason))

    @contextmanager
    def _entering(
        self, batch: Sequence[Leased]
    ) -> Iterator[tuple[Session, Moves, Mapping[Leased, Delivery]]]:
        """A transaction with the rows of the batch that the owner still holds; then their studies follow."""
        with self._database.write() as session:
            moves = self._moves(session)
            held = deliveries.held_by(session, self._owner, [one.delivery for one in batch])
            yield session, moves, {one: held[one.delivery] for one in batch if one.delivery in held}
            deliveries.discard_withdrawn(session, held.values())
            settle_studies(session, (one.study for one in batch))

    def _moves(self, session: Session) -> Moves:
        return Moves(session, self._peer, self._settings.outbox, utc_now())

    def _leased(self, session: Session, delivery: Delivery) -> Leased:
        item, result = delivery.item, delivery.result
        domain = result.pseudonym_domain if result else ""
        outgoing = self._outgoing(delivery)
        if result is not None and (result.supersedes or result.kind is ResultKind.REJECTION):
            former = deliveries.former_of(session, result, self._peer.name)
            outgoing = replace(outgoing, former=tuple(map(self._outgoing, former)))
        return Leased(
            delivery.id, delivery.attempts, item.study_id, item.bytes, domain, outgoing, result is None
        )

    def _outgoing(self, delivery: Delivery) -> Outgoing:
        item, result = delivery.item, delivery.result
        study = item.study.study_instance_uid or ""
        return Outgoing(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            study_instance_uid="" if result and result.deidentified else study,  # read from its file
            series_instance_uid=item.series_instance_uid,
            path=self._folder / item.path,
            sha256=result.sha256 if result else "",
            study=item.study_id,
            rule=result.job.rule if result else "",
        )

    def _takes_others(self, session: Session, narrowed: Sequence[Leased]) -> bool:
        """Whether the peer gets, or has got, any other result of the study."""
        numbers = [one.delivery for one in narrowed]
        others = deliveries.others_of_study(session, narrowed[0].study, self._peer.name, but=numbers)
        return any(other.state not in _LEFT for other in others)

    def _pace(self, session: Session, reports: Mapping[Leased, SendReport]) -> None:
        """Postpone what waits for a peer that does not answer; make it due when the peer answers again."""
        attempts = max(one.attempts for one in reports)
        if all(report.status in _AWAY for report in reports.values()):
            until = utc_now() + wait_before_retry(attempts, self._settings.outbox)
            deliveries.postpone(session, self._peer.name, until)
        elif attempts > 1 and any(report.status in _STORED for report in reports.values()):
            deliveries.hurry(session, utc_now(), self._peer.name)

    def _record_hung(self, session: Session, batch: Sequence[Leased], doing: str) -> None:
        fields = {"destination": self._peer.name, "doing": doing, "objects": len(batch)}
        record(session, DESTINATION_HUNG, batch[0].study, **fields)


def give_up_all(database: Database, settings: Settings, destination: str) -> int:
    """Give up deliveries to a name that is no longer in the configuration; returns how many."""
    peer = PeerSettings(name=destination, ae_title="UNKNOWN")
    now = utc_now()
    with database.write() as session:
        moves = Moves(session, peer, settings.outbox, now)
        batch = deliveries.due_batch(session, destination, now, _BATCH)
        for delivery in batch:
            moves.give_up(delivery, "no peer of this name may receive: configure it, then retry")
        settle_studies(session, (delivery.item.study_id for delivery in batch))
    return len(batch)


def _is_in_quarantine(delivery: Delivery) -> bool:
    """Whether its study is in quarantine; a note that takes results back goes all the same."""
    is_note = delivery.result is not None and delivery.result.kind is ResultKind.REJECTION
    return delivery.item.study.state is StudyState.QUARANTINED and not is_note
