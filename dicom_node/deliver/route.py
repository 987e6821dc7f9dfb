"""The route to one peer: claim due deliveries of one study, send, query, record the answers.

One process of a site at a time does it, under a lease for this peer, which is renewed while the work lasts,
but no longer than it can last at most; if the process is killed or hangs, another one takes over when the
lease has ended. No transaction is open while the node waits for the network.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.errors import disk_fault
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.events import COMMITMENT_REQUESTED, DELIVERY_STARTED, DESTINATION_HUNG
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import CommitmentState, DeliveryState, ResultKind, StudyState
from dicom_node.base.outcomes import Done, Retry
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.store import deliveries, intake
from dicom_node.base.store.database import Database, reason_of
from dicom_node.base.store.tables import Commitment, Delivery
from dicom_node.base.store.transitions import (
    acquire_lease,
    lock_lease,
    move,
    record,
    release_lease,
    settle_studies,
    take_lease,
    utc_now,
)
from dicom_node.deliver import inspection, scu
from dicom_node.deliver.commitment_requests import locked_request
from dicom_node.deliver.moves import Moves

_CALLS_SECONDS = 240.0  # two associations made and released for an object, at their slowest
_TURN = 4  # of so many claims one is of what has waited longest: STAT studies cannot hold up others for ever
BATCH = 32  # objects of one study on one association
_LOGGER = logging.getLogger(__name__)
_ANSWERED = {scu.SendStatus.STORED, scu.SendStatus.WARNED, scu.SendStatus.VERIFY}
_AWAY = {scu.SendStatus.UNREACHABLE, scu.SendStatus.HUNG}

OpenDestination = Callable[[PeerSettings, Settings], scu.Destination]


class Route:
    """Delivery to one peer, one round at a time: a round sends and confirms due deliveries of one study.

    ``owner``: the name under which the peer's lease is taken; a round is made only with the lease, which
    lasts ``lease_seconds`` after each renewal.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        lease_seconds: float,
        open_destination: OpenDestination,
    ) -> None:
        """Prepare delivery to ``peer``; ``open_destination``: makes the client of a peer."""
        self._database, self._settings, self.peer = database, settings, peer
        self._files, self._folder = Files(settings), settings.node.data_dir.resolve()
        self.owner, self._lease_seconds, self._open = owner, lease_seconds, open_destination
        self._lease, self._renew_at = deliveries.lane(peer.name), float("inf")
        self._calls: list[scu.Destination | scu.CommitmentPeer] = []
        self._claims = 0
        self._stopping = False
        self.sending: Sequence[int] = ()
        """The numbers of the deliveries that the round under way sends."""
        self.overdue_at = float("inf")
        """When (monotonic seconds) the round under way must have ended."""

    def hang_up(self) -> None:
        """End the round under way and begin no other; any thread may call it.

        Answers that have come are still recorded, as long as nobody else has the lease.
        """
        self._stopping = True
        self.cut_off()

    def cut_off(self) -> None:
        """End the calls of the round under way; any thread may call it.

        What was not sent is tried again later, unless it was withdrawn.
        """
        for call in self._calls:
            call.close()

    def renew(self) -> None:
        """Renew the lease if that is due, while a round is under way that has not taken too long."""
        if self._renew_at <= time.monotonic() < self.overdue_at < float("inf"):
            self._renew_at = time.monotonic() + self._lease_seconds / 3
            acquire_lease(self._database, self._lease, self.owner, self._lease_seconds)

    def release_its_lease(self) -> None:
        """Release the lease, so that another process may deliver to this peer at once."""
        if self._renew_at < float("inf"):
            release_lease(self._database, self._lease, self.owner)
            self._renew_at = float("inf")

    def run_once(self) -> int:
        """Send and confirm the due deliveries of one study; returns how many."""
        to_send, to_ask = self._claim()
        batch = [*to_send, *to_ask]
        if not batch:
            return 0
        # How long sending and asking for these can take at most.
        limits, self.sending = self._settings.outbox, [one.delivery for one in to_send]
        sending = sum(limits.seconds_for(one.bytes) for one in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        self.overdue_at = time.monotonic() + 2 * sending + calls * (limits.answer_seconds + _CALLS_SECONDS)
        try:
            self._work(to_send, to_ask)
        finally:
            self.overdue_at, self._calls, self.sending = float("inf"), [], ()
        return len(batch)

    def _work(self, to_send: Sequence[scu.Outgoing], to_ask: Sequence[scu.Outgoing]) -> None:
        """Send the deliveries ``to_send``, query the peer about ``to_ask``, and record what came of both."""
        try:
            to_send, to_ask = self._fetch_files(to_send), self._fetch_files(to_ask)
        except StoreAway as away:
            unsent = scu.SendReport(scu.SendStatus.UNREACHABLE, "", str(away))
            self._enter_reports(dict.fromkeys(to_send, unsent))
            unknown = scu.Confirmation(scu.Presence.UNKNOWN, str(away))
            self._enter_confirmations(dict.fromkeys(to_ask, unknown))
            return
        destination = self._open(self.peer, self._settings)
        self._register_client(destination)
        to_query = [*self._send(destination, to_send), *to_ask]
        if self.peer.confirm == "commitment" and to_query and not self._stopping:
            to_query = self._request_commitment({one.delivery: one for one in to_query})
        if to_query:
            try:
                answers = destination.confirm(to_query)
            except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
                answers = [scu.Confirmation(scu.Presence.UNKNOWN, _cause_of(error))] * len(to_query)
            self._enter_confirmations(dict(zip(to_query, answers, strict=True)))

    def _request_commitment(self, objects: Mapping[int, scu.Outgoing]) -> list[scu.Outgoing]:
        """Request storage commitment for deliveries that have no request under way; ``objects``: their
        objects, by number of the delivery.

        Returns the objects about which the peer must be queried instead, because no report came or it accepts
        no request.
        """
        transaction = generate_uid()
        wanted, to_query = self._store_request(transaction, objects)
        if wanted:
            requestor = scu.open_commitment(self.peer, self._settings)
            self._register_client(requestor)
            answer = requestor.ask(transaction, [objects[number] for number in wanted], self._store_report)
            with self._recording_answers(wanted, DeliveryState.UNCONFIRMED) as (session, moves, rows):
                request = locked_request(session, transaction)
                if isinstance(answer, Done) and request and request.state is CommitmentState.ASKED:
                    move(session, request, COMMITMENT_REQUESTED)
                for row in rows.values():
                    if isinstance(answer, Done):
                        moves.await_report(row)
                    elif isinstance(answer, Retry):
                        moves.query_again(row, answer.why)
                    else:
                        row.transaction_uid = ""
                        to_query += moves.commitment_missing(row, answer.why)
        return [objects[number] for number in to_query]

    def _store_request(
        self, transaction: str, objects: Mapping[int, scu.Outgoing]
    ) -> tuple[list[int], list[int]]:
        """Store a request for storage commitment before it is sent; returns (deliveries that it covers,
        deliveries about which the peer must be queried instead), by number.

        ``transaction``: its Transaction UID. ``objects``: by number of the delivery.
        """
        wanted, to_query = [], []
        with self._recording_answers(objects, DeliveryState.UNCONFIRMED) as (session, moves, rows):
            for row in rows.values():
                before = select(Commitment.state).where(Commitment.transaction_uid == row.transaction_uid)
                if row.sent_at is None:
                    to_query.append(row.id)
                elif moves.commitment_is_overdue(row):
                    to_query += moves.commitment_missing(row, "no storage commitment report came")
                # In a request that reached the destination; a kill may have stopped one that was asked.
                elif session.scalar(before) in (CommitmentState.ACCEPTED, CommitmentState.REPORTED):
                    moves.await_report(row)
                else:
                    wanted.append(row.id)
                    row.transaction_uid = transaction
            if wanted:
                session.add(
                    Commitment(
                        transaction_uid=transaction,
                        destination=self.peer.name,
                        deliveries=wanted,
                        asked_at=utc_now(),
                    )
                )
        return wanted, to_query

    def _store_report(self, report: dimse_n.CommitmentReport) -> None:
        """Store a storage commitment report that came on the association of the request."""
        with self._database.write() as session:
            intake.keep_report(
                session,
                report.transaction_uid,
                self.peer.reporting_titles[-1],
                report.committed,
                report.failed,
                utc_now(),
            )

    def _register_client(self, client: scu.Destination | scu.CommitmentPeer) -> None:
        """Register a client of the peer, so that its calls are ended when the node stops."""
        self._calls.append(client)
        if self._stopping:
            client.close()

    def _fetch_files(self, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Fetch the files of a batch from the object store to this machine; returns the batch with all Study
        Instance UIDs.

        A file that is lost or damaged is not fetched, and its object is refused before it is sent. Raises
        StoreAway.
        """
        fetched = []
        for one in batch:
            for item in (one, *one.former):
                with suppress(NotInSpool), self._database.read() as session:
                    self._files.here(session, str(item.path.relative_to(self._folder)))
            try:
                study = one.study_instance_uid or inspection.study_of(one.path)
            except OSError as error:
                raise StoreAway.of_disk(error) from error
            fetched.append(replace(one, study_instance_uid=study))
        return fetched

    def _send(self, destination: scu.Destination, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Send the objects that may be sent to this peer (``inspection.fault``); returns those that it
        accepted and that are not confirmed yet.
        """
        unsent = {one: report for one in batch if (report := self._why_unsent(one))}
        whole = [one for one in batch if one not in unsent]
        try:
            sent = destination.send(whole) if whole else []
        except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
            # A defect of ours in a destination is a failed try like any other; some may have been sent.
            sent = [scu.SendReport(scu.SendStatus.RETRY, "", _cause_of(error))] * len(whole)
        return self._enter_reports(unsent | dict(zip(whole, sent, strict=True)))

    def _why_unsent(self, item: scu.Outgoing) -> scu.SendReport | None:
        """The report on an object that must not be sent, or that the disk does not read now; else None."""
        try:
            why = inspection.fault(item, self.peer)
        except OSError as error:
            return scu.SendReport(scu.SendStatus.NOT_READ, "", str(StoreAway.of_disk(error)))
        # An original's file may be on its way to its place: it is tried again.
        status = scu.SendStatus.REFUSED if item.is_original else scu.SendStatus.FAULTY
        return scu.SendReport(status, "", why) if why else None

    def _claim(self) -> tuple[list[scu.Outgoing], list[scu.Outgoing]]:
        """Take the peer's lease and claim the due deliveries of one study; returns (objects to send, objects
        to query).

        Both are empty if nothing is due or another process has the lease.
        """
        now = utc_now()
        to_send, to_ask = [], []
        self._claims += 1
        with self._database.write() as session:
            study = deliveries.due_study(session, self.peer.name, now, by_waiting=self._claims % _TURN == 0)
            if study is None or self._stopping:
                return [], []
            # Before any delivery is locked: who has the lease locks it first, too.
            if not take_lease(session, self._lease, self.owner, self._lease_seconds):
                return [], []
            self._renew_at = time.monotonic() + self._lease_seconds / 3
            moves = self._moves(session)
            due = deliveries.due_batch(session, self.peer.name, study, now, BATCH)
            for delivery in due:
                if delivery.state is DeliveryState.SENDING:
                    moves.sender_lost(delivery)
            deliveries.discard_withdrawn(session, due)
            for delivery in due:
                if delivery.state is DeliveryState.UNCONFIRMED:
                    to_ask.append(self._outgoing_with_former(session, delivery))
                if delivery.state is not DeliveryState.PENDING:
                    continue
                # A note that takes results back goes all the same.
                is_note = delivery.result is not None and delivery.result.kind is ResultKind.REJECTION
                if delivery.item.study.state is StudyState.QUARANTINED and not is_note:
                    deliveries.withdraw(session, delivery, "the study is in quarantine")
                elif deliveries.is_outdated(session, delivery):
                    deliveries.withdraw(session, delivery, "a newer version replaces it")
                else:
                    move(session, delivery, DELIVERY_STARTED, attempts=delivery.attempts + 1)
                    to_send.append(self._outgoing_with_former(session, delivery))
        return to_send, to_ask

    @contextmanager
    def _recording_answers(
        self, numbers: Collection[int], state: DeliveryState
    ) -> Iterator[tuple[Session, Moves, Mapping[int, Delivery]]]:
        """Context manager: a transaction in which the peer's answers about deliveries are recorded.

        Gives (session, object that changes states, deliveries by number). The deliveries are those of
        ``numbers`` that are in ``state``; none if another owner has the lease. At the end the state of their
        studies is derived.
        """
        with self._database.write() as session:
            mine = numbers if lock_lease(session, self._lease, self.owner) else ()
            rows = {row.id: row for row in deliveries.of_numbers(session, mine) if row.state is state}
            yield session, self._moves(session), rows
            deliveries.discard_withdrawn(session, rows.values())
            settle_studies(session, (row.item.study_id for row in rows.values()))

    def _enter_reports(self, reports: Mapping[scu.Outgoing, scu.SendReport]) -> list[scu.Outgoing]:
        """Record the outcome of sending; returns the objects that the peer acknowledged but has not
        confirmed.
        """
        if not reports:
            return []
        numbers = [one.delivery for one in reports]
        with self._recording_answers(numbers, DeliveryState.SENDING) as (session, moves, rows):
            narrowed = []
            for item, report in reports.items():
                row = rows.get(item.delivery)
                if row is None or row.attempts != item.attempts:  # this round is sending it no more
                    continue
                if report.status is scu.SendStatus.NARROWED:
                    narrowed.append((row, report))
                else:
                    moves.sent(row, report)
            takes_others = bool(narrowed) and self._takes_others(session, [row for row, _ in narrowed])
            for row, report in narrowed:
                moves.narrowed(row, report, takes_others=takes_others)
            statuses = {report.status for report in reports.values()}
            self._reschedule_others(session, statuses, max(item.attempts for item in reports))
            if scu.SendStatus.HUNG in statuses:
                self._record_hung(session, list(reports), "send")
            acknowledged = [id for id, row in rows.items() if row.state is DeliveryState.UNCONFIRMED]
        return [item for item in reports if item.delivery in acknowledged]

    def _takes_others(self, session: Session, narrowed: Sequence[Delivery]) -> bool:
        """Whether the peer gets, or has got, another result of the study than these, which it does not
        accept.
        """
        others = deliveries.others_of_study(
            session, narrowed[0].item.study_id, self.peer.name, but=[row.id for row in narrowed]
        )
        left_out = (DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED)
        return any(other.state not in left_out for other in others)

    def _reschedule_others(
        self, session: Session, statuses: Collection[scu.SendStatus], attempts: int
    ) -> None:
        """Postpone what else waits for a peer that is away; make it due if the peer is back.

        ``statuses``: of the objects just sent; ``attempts``: the number of their tries.
        """
        answered = not _ANSWERED.isdisjoint(statuses)
        if not answered and not _AWAY.isdisjoint(statuses):
            until = utc_now() + wait_before_retry(attempts, self._settings.outbox)
            deliveries.reschedule(
                session,
                until,
                Delivery.destination == self.peer.name,
                Delivery.state == DeliveryState.PENDING,
                Delivery.next_at < until,
            )
        elif answered and attempts > 1:
            deliveries.hurry(session, utc_now(), self.peer.name)

    def _enter_confirmations(self, answers: Mapping[scu.Outgoing, scu.Confirmation]) -> None:
        """Record the peer's answers to the queries about these deliveries."""
        by_number = {one.delivery: answer for one, answer in answers.items()}
        with self._recording_answers(by_number, DeliveryState.UNCONFIRMED) as (session, moves, rows):
            for number, row in rows.items():
                moves.query_answered(row, by_number[number])
            if any(answer.presence is scu.Presence.HUNG for answer in answers.values()):
                self._record_hung(session, list(answers), "query")

    def _moves(self, session: Session) -> Moves:
        """An object that changes the state of deliveries to this peer, within the transaction of
        ``session``.
        """
        return Moves(session, self.peer, self._settings.outbox, utc_now())

    def _outgoing_with_former(self, session: Session, delivery: Delivery) -> scu.Outgoing:
        """The object of a claimed delivery, as it is sent, with the former versions that the peer may
        have.
        """
        result = delivery.result
        revises = result is not None and (result.supersedes or result.kind is ResultKind.REJECTION)
        former = deliveries.former_of(session, result, self.peer.name) if result and revises else []
        return replace(self._outgoing(delivery), former=tuple(map(self._outgoing, former)))

    def _outgoing(self, delivery: Delivery) -> scu.Outgoing:
        """The object of a delivery, as it is sent."""
        item, result = delivery.item, delivery.result
        return scu.Outgoing(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            # Of a de-identified result it is read from its file.
            study_instance_uid="" if result and result.deidentified else item.study.study_instance_uid or "",
            series_instance_uid=item.series_instance_uid,
            path=self._folder / item.path,
            sha256=result.sha256 if result else "",
            study=item.study_id,
            rule=result.job.rule if result else "",
            delivery=delivery.id,
            attempts=delivery.attempts,
            bytes=item.bytes,
            pseudonym_domain=result.pseudonym_domain if result else "",
            is_original=result is None,
        )

    def _record_hung(self, session: Session, batch: Sequence[scu.Outgoing], doing: str) -> None:
        """Record the event that the peer hung at these objects; ``doing``: "send" or "query"."""
        record(
            session,
            DESTINATION_HUNG,
            batch[0].study,
            destination=self.peer.name,
            doing=doing,
            objects=len(batch),
        )


def _cause_of(error: Exception) -> str:
    """The reason for a failed try in words, without the text of the exception; a defect is logged."""
    if not disk_fault(error):
        _LOGGER.error("defect while delivering", exc_info=error)
    return reason_of(error)
