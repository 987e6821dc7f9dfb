"""Performs work of one worklist manager (UPS, PS3.4 CC; IHE AIW-I performer): claims, reports and ends it.

A work item is stored with its Transaction UID before it is claimed, and its outcome before the outcome is
reported: a kill or a lost answer costs only a second, identical request. If an answer was lost, the manager's
state of the item decides. If the item's study is not here, it is fetched; then the rules apply to it as
usual. The item is COMPLETED when the study's results are confirmed, never before. Requests to cancel claimed
items are recorded here, and the performer ends the items.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from dicom_connectors.worklist import workitem as ups
from dicom_connectors.worklist.events import UpsEvents
from dicom_connectors.worklist.manager import (
    ChangeAnswer,
    ChangeStatus,
    DimseManager,
    UpsRsManager,
    WorklistManager,
)
from dicom_connectors.worklist.settings import WorklistPeer
from dicom_connectors.worklist.workitem import CancelReason, Output, ProcedureStepState, Workitem
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.dicom.identity import differ, issuers_differ
from dicom_node.base.errors import Unavailable
from dicom_node.base.events import (
    FETCH_ASKED,
    FETCH_CANCELLED,
    JOB_CANCELLED,
    WORKITEM_CANCELED,
    WORKITEM_CLAIMED,
    WORKITEM_COMPLETED,
    WORKITEM_DECIDED,
    WORKITEM_GIVEN_UP,
    WORKITEM_LOST,
    WORKITEM_PASSED,
    WORKITEM_STOPPED,
    WORKITEM_WANTED,
    WORKLIST_AWAY,
    WORKLIST_BACK,
    EventType,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    OPEN_WORKITEMS,
    FetchState,
    JobState,
    StudyState,
    WorkitemState,
)
from dicom_node.base.outcomes import Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import NEVER, Lane
from dicom_node.base.store import fetches, requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.tables import ClaimedWorkitem, Fetch, Job, Study
from dicom_node.base.store.transitions import (
    record,
    settle_study,
    try_move,
    utc_now,
)
from dicom_node.deliver.scu import FoundStudy
from dicom_node.studies.fetch import closing_on_stop
from dicom_node.studies.fetch_queue import queue_fetch

LOOK_AGAIN: Final = timedelta(seconds=2)
"""Between looks at how far the study of a claimed item is."""
INDEXED: Final = timedelta(minutes=2)
"""What was fetched is in the index by then."""
_BATCH: Final = 50
_MOST_PASSED: Final = 1000  # items that are remembered as not taken
_CALL_SECONDS: Final = 150.0  # an association made and released, at its slowest
_NOT_AT_HAND: Final = "its input is not here, and no peer that may be queried has it"
_STOPPED: Final = "its work item was cancelled, or is another performer's"
_PHASES: Final = {
    StudyState.RECEIVING: (20, "input is being received"),
    StudyState.QUARANTINED: (20, "input waits for a person"),
    StudyState.COMPLETE: (30, "analysis waits"),
    StudyState.QUEUED: (30, "analysis waits"),
    StudyState.RUNNING: (40, "analysis runs"),
    StudyState.UNASSESSED: (80, "results wait for a person"),
    StudyState.DELIVERING: (90, "results are being delivered"),
}
_ENDS: Final = {
    StudyState.NOT_APPLICABLE: CancelReason.NOT_APPLICABLE,
    StudyState.FAILED: CancelReason.FAILED,
    StudyState.CANCELLED: CancelReason.STOPPED,
}


@dataclass(frozen=True, slots=True)
class _ItemStatus:
    """How far the node has come with a work item: its progress (``percent``, ``doing``), or the state in
    which it ends (``outcome``) and why.

    ``wants_fetch``: its input is not here, and its fetch is not queued yet.
    """

    percent: int = 0
    doing: str = ""
    outcome: ProcedureStepState | None = None
    reason: str = ""
    wants_fetch: bool = False


def open_manager(peer: PeerSettings, settings: Settings) -> WorklistManager:
    """Return a client of this worklist manager, for DIMSE or UPS-RS by the peer's ``transport``.

    It is for one thread, and not connected yet.
    """
    return DimseManager(peer, settings) if peer.transport == "dimse" else UpsRsManager(peer, settings)


class Worklist(Lane[ClaimedWorkitem]):
    """Service that claims and does the work items (UPS) of one worklist manager.

    Each call to ``run_once`` advances the claimed items by one step.
    """

    table, is_one_peer = ClaimedWorkitem, True

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        open_manager: Callable[[PeerSettings, Settings], WorklistManager] = open_manager,
    ) -> None:
        seconds = 4 * (settings.outbox.answer_seconds + _CALL_SECONDS)
        super().__init__(database, settings, f"worklist of {peer.name}", owner, seconds)
        self._peer, self._work = peer, typed_section(peer, WorklistPeer)
        self._open = open_manager
        self._every = timedelta(seconds=self._work.worklist_seconds)
        self._limit = timedelta(hours=self._work.worklist_hours)
        self._search_at = 0.0
        self._passed: dict[str, str] = {}  # an item is an event once, or once more after a restart
        self._is_away = False

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Return the SQL conditions for claimed work items of this manager that have not ended."""
        return ClaimedWorkitem.peer == self._peer.name, ClaimedWorkitem.state.in_(OPEN_WORKITEMS)

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Search for new work items when that is due, and take the next step for each that is claimed; return
        0.
        """
        is_time = time.monotonic() >= self._search_at
        if not (is_time or self._next()) or not self._lease.keep():
            return 0
        self._manager = self._open(self._peer, self._settings)
        with closing(self._manager), closing_on_stop(stop, self._manager):
            try:
                if is_time:
                    self._search_at = time.monotonic() + self._work.worklist_seconds
                    self._search(self._manager)
            except Unavailable as error:  # the next calls would wait as long
                return self._note_availability(away=str(error), stop=stop)
            return super().run_once(stop)

    def work(self, row: ClaimedWorkitem, stop: threading.Event) -> Outcome:
        """Do the next step for the work item ``row``.

        Return NotYet after a step that succeeded, and is stored; Failed if it has failed for
        ``worklist_hours``, else Retry.
        """
        step = {WorkitemState.CLAIMING: self._claim, WorkitemState.CLAIMED: self._report}
        try:
            why = step.get(row.state, self._end)(self._manager, row)
        except Unavailable as error:
            why = str(error)
            self._note_availability(away=why, stop=stop)
        if not why:
            return NotYet()
        since = row.began_at if row.state is WorkitemState.CLAIMING else row.decided_at
        if since is not None and utc_now() - since >= self._limit:
            return Failed(why)
        return Retry(why if row.decided_at is None else row.reason)  # why it was cancelled is said there

    def move(self, session: Session, row: ClaimedWorkitem, outcome: Outcome) -> None:
        """Store that a work item is given up if its outcome is Failed: as lost if it was never claimed."""
        if isinstance(outcome, Failed):
            event = WORKITEM_LOST if row.state is WorkitemState.CLAIMING else WORKITEM_GIVEN_UP
            try_move(session, row, event, ended_at=utc_now())

    # New items

    def _search(self, manager: WorklistManager) -> None:
        """Search for new work items at the manager, and store those that the node will claim, urgent ones
        first. Raises Unavailable.
        """
        with self._database.read() as session:
            room = self._work.worklist_items - (
                session.scalar(
                    select(func.count())
                    .select_from(ClaimedWorkitem)
                    .where(ClaimedWorkitem.peer == self._peer.name, ClaimedWorkitem.state.in_(OPEN_WORKITEMS))
                )
                or 0
            )
        if room <= 0:
            return
        answers = manager.search()
        found = [item for given in answers if (item := ups.read_workitem(given))]
        self._note_availability(away="")
        self._note_unread({ups.uid_of(given) for given in answers} - {one.uid for one in found if one.state})
        station = self._settings.node.ae_title
        mine = [item for item in found if item.is_for(self._work.worklist, station)]
        with self._database.read() as session:
            known = set(
                session.scalars(
                    select(ClaimedWorkitem.workitem_uid).where(
                        ClaimedWorkitem.peer == self._peer.name,
                        ClaimedWorkitem.workitem_uid.in_([item.uid for item in mine]),
                    )
                )
            )
        for item in sorted(mine, key=lambda one: not one.is_urgent):
            if room and item.uid not in known and self._accept_item(manager, item):
                known.add(item.uid)
                room -= 1

    def _accept_item(self, manager: WorklistManager, item: Workitem) -> bool:
        """Store a work item that the node can do, so that it is claimed next; return False if the node cannot
        do it.

        Raises Unavailable.
        """
        if not item.study_instance_uid:  # a search need not return the input
            given = manager.read(item.uid)
            item = (ups.read_workitem(given, item.uid) if given is not None else None) or item
        with self._database.write() as session:
            if why := self._hindrance(session, item):
                self._note_not_accepted(session, item.uid, why)
                return False
            now = utc_now()
            row = ClaimedWorkitem(
                peer=self._peer.name,
                workitem_uid=item.uid,
                transaction_uid=str(generate_uid()),
                study_instance_uid=item.study_instance_uid,
                work=item.work,
                began_at=now,
                checked_at=now,
                next_at=now,
            )
            session.add(row)
            record(
                session,
                WORKITEM_WANTED,
                peer=self._peer.name,
                asked="work items",
                study=item.study_instance_uid,
                workitem=item.uid,
            )
        return True

    def _hindrance(self, session: Session, item: Workitem) -> str:
        """Return why the node cannot do this work item now; "" if it can."""
        if not item.study_instance_uid:
            return "its input is none, or of several studies"
        study = fetches.present_studies(session, [item.study_instance_uid]).get(item.study_instance_uid)
        if study is None:
            return "" if self._source(item) else _NOT_AT_HAND
        is_other_issuer = issuers_differ(item.issuer_of_patient_id, study.issuer_of_patient_id)
        if is_other_issuer or differ(item.patient_id, study.patient_id):
            return "it names another patient than the study that is here"
        ended = study.state in _ENDS or study.state is StudyState.QUARANTINED
        return f"the study is {study.state.value} here" if ended else ""

    def _source(self, item: Workitem) -> PeerSettings | None:
        """Return the configured peer from which the input of a work item is fetched: one that the item names,
        by AE title or URL; if it names no place at all, the manager itself; None if it names only others, or
        the peer may not be queried.

        No address outside the configuration is ever called.
        """
        for peer in self._settings.peers:
            if "query" not in peer.may:
                continue
            urls = [
                source
                for source in item.sources
                if peer.url and source.startswith(peer.url.rstrip("/") + "/")
            ]
            if urls or item.sources & set(peer.titles) or (not item.sources and peer.name == self._peer.name):
                return peer
        return None

    def _note_unread(self, uids: set[str]) -> None:
        """Store an event for each work item that cannot be read; "" is of one whose UID cannot be, either."""
        with self._database.write() as session:
            for uid in uids - {""}:
                self._note_not_accepted(session, uid, "what the node needs of it cannot be read")

    def _note_not_accepted(self, session: Session, uid: str, why: str) -> None:
        """Store an event that a work item is not accepted, once for the same reason."""
        if self._passed.get(uid) != why:
            if len(self._passed) >= _MOST_PASSED:
                self._passed.clear()
            self._passed[uid] = why
            record(session, WORKITEM_PASSED, peer=self._peer.name, workitem=uid, reason=why)

    # Claimed items

    def _claim(self, manager: WorklistManager, row: ClaimedWorkitem) -> str:
        """Claim a work item; return "" if that is decided, else why it must be tried again.

        If the manager's answer was lost, an update shows whether the claim succeeded. Raises Unavailable.
        """
        answer = _raise_if_retry(
            manager.change_state(row.workitem_uid, row.transaction_uid, ProcedureStepState.IN_PROGRESS)
        )
        is_ours, why = answer.status is ChangeStatus.DONE, answer.text
        if answer.status is ChangeStatus.CONFLICT:
            state = self._state(manager, row)
            if state == ProcedureStepState.SCHEDULED:
                return why
            is_ours = state == ProcedureStepState.IN_PROGRESS and self._is_ours(manager, row)
            why = f"{why}: {state or 'it is gone'}"
        if is_ours:
            self._move(row, WORKITEM_CLAIMED, attempts=0, next_at=utc_now())
        else:
            self._mark_lost(row, why)
        return ""

    def _is_ours(self, manager: WorklistManager, row: ClaimedWorkitem) -> bool:
        """Return whether the manager accepts an update under this node's Transaction UID.

        Raises Unavailable.
        """
        claimed = ups.progress(0, "claimed")
        answer = _raise_if_retry(manager.update(row.workitem_uid, row.transaction_uid, claimed))
        return answer.status is ChangeStatus.DONE

    def _report(self, manager: WorklistManager, row: ClaimedWorkitem) -> str:
        """Report the progress of a claimed work item, queue the fetch of its input, or store its outcome;
        return "".

        Raises Unavailable.
        """
        standing = self._status(row)
        if standing.wants_fetch:
            self._fetch(manager, row)
        elif standing.outcome is not None:
            self._decide(row, standing)
        elif (standing.percent, standing.doing) != (row.percent, row.doing):
            changes = ups.progress(standing.percent, standing.doing)
            answer = _raise_if_retry(manager.update(row.workitem_uid, row.transaction_uid, changes))
            if answer.status is ChangeStatus.DONE or self._check_in_progress(manager, row):
                self._look_again_soon(row, standing)
        elif utc_now() - row.checked_at < self._every or self._check_in_progress(manager, row):
            self._look_again_soon(row, None)
        return ""

    def _check_in_progress(self, manager: WorklistManager, row: ClaimedWorkitem) -> bool:
        """Return whether the manager still has the work item in progress; if not, it is stored as lost.

        Raises Unavailable.
        """
        state = self._state(manager, row)
        if state != ProcedureStepState.IN_PROGRESS:
            self._mark_lost(row, state or "it is gone")
            return False
        self._note_availability(away="")
        with self._database.write() as session:
            session.get_one(ClaimedWorkitem, row.id).checked_at = utc_now()
        return True

    def _end(self, manager: WorklistManager, row: ClaimedWorkitem) -> str:
        """Report the outcome of a work item: its final attributes, then its state.

        Return "" if that is settled, else why it must be tried again. Raises Unavailable.
        """
        outcome = ProcedureStepState(row.outcome)
        answer = _raise_if_retry(
            manager.update(row.workitem_uid, row.transaction_uid, self._final_attributes(row, outcome))
        )
        if answer.status in (ChangeStatus.DONE, ChangeStatus.REFUSED):
            answer = _raise_if_retry(manager.change_state(row.workitem_uid, row.transaction_uid, outcome))
        if answer.status is ChangeStatus.CONFLICT:
            answer = self._corrected_answer(manager, row, answer)
        ended = WORKITEM_COMPLETED if outcome is ProcedureStepState.COMPLETED else WORKITEM_CANCELED
        if answer.status is ChangeStatus.DONE:
            self._move(row, ended, ended_at=utc_now(), attempts=0)
        elif answer.status is ChangeStatus.ABSENT:
            self._mark_lost(row, answer.text)
        elif answer.status is ChangeStatus.REFUSED:
            self._move(row, WORKITEM_GIVEN_UP, reason=answer.text[:255], ended_at=utc_now())
        else:
            return answer.text
        return ""

    def _corrected_answer(
        self, manager: WorklistManager, row: ClaimedWorkitem, answer: ChangeAnswer
    ) -> ChangeAnswer:
        """Return the answer to a change that the manager refused as a conflict, corrected by the item's state
        there: an earlier change may have succeeded while its answer was lost.

        Raises Unavailable.
        """
        state = self._state(manager, row)
        if state == row.outcome:
            return ChangeAnswer(ChangeStatus.DONE, answer.text)
        if state != ProcedureStepState.IN_PROGRESS:
            return ChangeAnswer(ChangeStatus.ABSENT, state or "it is gone")
        return answer

    def _state(self, manager: WorklistManager, row: ClaimedWorkitem) -> str:
        """Return the state of the work item at the manager; "" if it is gone. Raises Unavailable."""
        given = manager.read(row.workitem_uid)
        return "" if given is None else ups.state_of(given)

    def _status(self, row: ClaimedWorkitem) -> _ItemStatus:
        """Return how far a claimed work item is, or the outcome it must end with."""
        with self._database.read() as session:
            study = fetches.present_studies(session, [row.study_instance_uid]).get(row.study_instance_uid)
            if row.cancel_asked:
                found = _cancelled_status(CancelReason.ON_REQUEST)
            elif study is None:
                found = _status_by_fetch(fetches.of_study(session, row.study_instance_uid), row)
            else:
                found = _status_by_study(session, study)
        if found.outcome is None and utc_now() - row.began_at >= self._limit:
            return _cancelled_status(CancelReason.EXPIRED)
        return found

    def _fetch(self, manager: WorklistManager, row: ClaimedWorkitem) -> None:
        """Queue the fetch of a work item's input, with the patient whom the item names.

        Raises Unavailable.
        """
        given = manager.read(row.workitem_uid)
        item = ups.read_workitem(given, row.workitem_uid) if given is not None else None
        peer = self._source(item) if item is not None else None
        with self._database.write() as session:
            mine = session.get_one(ClaimedWorkitem, row.id)
            mine.fetch_asked, mine.next_at = True, utc_now()
            if item is None or peer is None:
                return
            known = fetches.of_study(session, row.study_instance_uid)
            if known is None:
                named = FoundStudy(
                    row.study_instance_uid,
                    patient_id=item.patient_id,
                    issuer_of_patient_id=item.issuer_of_patient_id,
                    patient=item.patient,
                )
                known = queue_fetch(session, peer.name, named)
            elif known.state not in OPEN_FETCHES:
                known.peer = peer.name
                try_move(session, known, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())
            known.urgent = True

    def _decide(self, row: ClaimedWorkitem, standing: _ItemStatus) -> None:
        """Store the outcome of a work item, which is reported to the manager next."""
        now = utc_now()
        outcome = standing.outcome.value if standing.outcome else ""
        values = {"outcome": outcome, "reason": standing.reason, "decided_at": now, "next_at": now}
        if outcome == ProcedureStepState.CANCELED:
            self._stop_study(row)
        self._move(row, WORKITEM_DECIDED, attempts=0, **values)

    def _final_attributes(self, row: ClaimedWorkitem, outcome: ProcedureStepState) -> Dataset:
        """Return the attributes that the manager must get before the work item's final state ``outcome``."""
        station, work = self._settings.node.ae_title, ups.parse_work(row.work)
        times = (row.began_at, row.decided_at or utc_now())
        if outcome is ProcedureStepState.CANCELED:
            return ups.cancelled(CancelReason(row.reason), row.percent, work, station, *times)
        return ups.completed(row.study_instance_uid, self._outputs(row), work, station, *times)

    def _outputs(self, row: ClaimedWorkitem) -> list[Output]:
        """Return the results for a work item by series, each with the peers that have them."""
        with self._database.read() as session:
            study = fetches.present_studies(session, [row.study_instance_uid]).get(row.study_instance_uid)
            found = requested.delivered_series(session, study.id) if study is not None else {}
        peers = {peer.name: peer for peer in self._settings.peers}
        outputs = []
        for series, delivered in found.items():
            places = [peers[name] for name in sorted(delivered.destinations) if name in peers]
            at = f"studies/{row.study_instance_uid}/series/{series}"
            outputs.append(
                Output(
                    series,
                    [(sop_class, uid) for uid, sop_class in delivered.objects.items()],
                    [one.ae_title for one in places if one.transport in ("dimse", "orthanc")],
                    [f"{one.url.rstrip('/')}/{at}" for one in places if one.transport == "dicomweb"],
                )
            )
        return outputs

    def _mark_lost(self, row: ClaimedWorkitem, reason: str) -> None:
        """Store that a work item is lost to this node, and stop the work on its study."""
        self._stop_study(row)
        self._move(row, WORKITEM_LOST, reason=reason[:255], ended_at=utc_now())

    def _stop_study(self, row: ClaimedWorkitem) -> None:
        """Cancel fetch and jobs of a study that was fetched for this work item only.

        A study that was here before goes on: somebody sent it for its results.
        """
        with self._database.write() as session:
            others = exists().where(
                ClaimedWorkitem.study_instance_uid == row.study_instance_uid,
                ClaimedWorkitem.id != row.id,
                ClaimedWorkitem.state.in_(OPEN_WORKITEMS),
            )
            if not row.fetch_asked or session.scalar(select(others)):
                return
            lock_studies(session, Study.study_instance_uid == row.study_instance_uid)
            fetch = fetches.of_study(session, row.study_instance_uid)
            if fetch is not None and fetch.state is FetchState.WAITING:
                try_move(session, fetch, FETCH_CANCELLED, ended_at=utc_now())
            study = fetches.present_studies(session, [row.study_instance_uid]).get(row.study_instance_uid)
            if study is None:
                return
            for job in session.scalars(
                select(Job).where(
                    Job.study_id == study.id,
                    Job.state.in_((JobState.HELD, JobState.QUEUED, JobState.RUNNING)),
                )
            ).all():
                if job.state is JobState.RUNNING:
                    job.cancel_requested, job.reason = True, _STOPPED
                else:
                    try_move(session, job, JOB_CANCELLED, reason=_STOPPED, finished_at=utc_now())
            settle_study(session, study.id)

    def _move(self, row: ClaimedWorkitem, event: EventType, **values: object) -> None:
        """Change the stored state of a work item by this event, unless another process has changed it."""
        with self._database.write() as session:
            current = session.get_one(ClaimedWorkitem, row.id)
            if current.state is row.state:  # else the lease ended, and another process moved it
                try_move(session, current, event, **values)

    def _look_again_soon(self, row: ClaimedWorkitem, reported: _ItemStatus | None) -> None:
        """Set when a work item is looked at next.

        ``reported``: the progress that the manager has just accepted, None if none was reported.
        """
        now = utc_now()
        with self._database.write() as session:
            current = session.get_one(ClaimedWorkitem, row.id)
            current.next_at, current.attempts = now + LOOK_AGAIN, 0
            if reported is not None:
                current.percent, current.doing, current.checked_at = reported.percent, reported.doing, now

    def _note_availability(self, away: str, stop: threading.Event = NEVER) -> int:
        """Store an event when the manager stops answering, and when it answers again; return 0.

        ``away``: why it does not answer, "" if it does; ``stop``: when set, the node stops and nothing is
        stored.
        """
        if bool(away) != self._is_away and not stop.is_set():
            self._is_away = bool(away)
            with self._database.write() as session:
                event = WORKLIST_AWAY if away else WORKLIST_BACK
                record(session, event, peer=self._peer.name, reason=away.removeprefix(f"{self._peer.name}: "))
        return 0


def give_up_workitems(database: Database, settings: Settings) -> None:
    """Give up the open work items of peers that are no worklist managers in the settings any more."""
    peers = [peer.name for peer in settings.peers if typed_section(peer, WorklistPeer).worklist]
    with database.write() as session:
        for row in session.scalars(
            select(ClaimedWorkitem)
            .where(ClaimedWorkitem.state.in_(OPEN_WORKITEMS), ClaimedWorkitem.peer.not_in(peers))
            .limit(_BATCH)
        ).all():
            values = {"reason": "the peer is not configured with worklist any more", "ended_at": utc_now()}
            try_move(session, row, WORKITEM_GIVEN_UP, **values)


def _raise_if_retry(answer: ChangeAnswer) -> ChangeAnswer:
    """Return ``answer``, or raise Unavailable if a later try of the change may succeed."""
    if answer.status is ChangeStatus.RETRY:
        raise Unavailable(answer.text)
    return answer


def _status_by_fetch(fetch: Fetch | None, row: ClaimedWorkitem) -> _ItemStatus:
    """Return how far a work item is whose study is not here yet.

    ``fetch``: the fetch of its study, None if none is queued.
    """
    if not row.fetch_asked:
        return _ItemStatus(wants_fetch=True)
    if fetch is None or fetch.state in (FetchState.FAILED, FetchState.CANCELLED, FetchState.OTHER_PATIENT):
        return _cancelled_status(CancelReason.NOT_AT_HAND)
    if fetch.state in OPEN_FETCHES:
        return _ItemStatus(10 if fetch.state is FetchState.FETCHING else 0, "input is being fetched")
    if fetch.ended_at is None or utc_now() - fetch.ended_at < INDEXED:
        return _ItemStatus(20, "input is being received")
    return _cancelled_status(CancelReason.NOT_AT_HAND)


def _status_by_study(session: Session, study: Study) -> _ItemStatus:
    """Return how far a work item is by the state of its study."""
    if study.state in _ENDS:
        return _cancelled_status(_ENDS[study.state])
    if study.state is StudyState.DELIVERED:
        if requested.delivered_series(session, study.id):
            return _ItemStatus(100, outcome=ProcedureStepState.COMPLETED)
        return _cancelled_status(CancelReason.NOT_APPLICABLE)
    percent, doing = _PHASES[study.state]
    if study.state is StudyState.RUNNING:
        percent += 10 * round(4 * requested.share_done(session, study.id))
    return _ItemStatus(percent, doing)


def _cancelled_status(reason: CancelReason) -> _ItemStatus:
    """Return the status of a work item that must end as CANCELED for this reason."""
    return _ItemStatus(outcome=ProcedureStepState.CANCELED, reason=reason.value)


_AGAIN_SECONDS: Final = 60.0
"""Until a manager without a channel, or whose channel ended, is tried again."""


class Cancellations:
    """Service that listens for requests to cancel claimed work items of one worklist manager (UPS-RS), while
    there are any.

    If several machines of a site listen, a request is stored once.
    """

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings) -> None:
        self._database, self._settings, self._peer = database, settings, peer
        self._not_before = 0.0

    def run_once(self, stop: threading.Event) -> None:
        """Subscribe and listen until no work item is claimed, the event channel ends, or ``stop`` is set."""
        if time.monotonic() < self._not_before or not self._claimed_uids():
            return
        self._not_before = time.monotonic() + _AGAIN_SECONDS
        events, subscribed = UpsEvents(self._peer, self._settings), set[str]()

        def goes_on() -> bool:
            """Subscribe to the work items claimed since the last call; return whether any are claimed and the
            node is not stopping.
            """
            claimed = self._claimed_uids()
            for uid in claimed - subscribed:
                events.subscribe(uid)  # one that is refused is not asked again on this channel
            subscribed.update(claimed)
            return bool(claimed) and not stop.is_set()

        with closing(events), closing_on_stop(stop, events):
            try:
                for uid in events.listen(goes_on):
                    self._note(uid)
                self._not_before = 0.0
            except Unavailable:
                return

    def _claimed_uids(self) -> set[str]:
        """Return the UIDs of this manager's claimed work items that nobody has asked to cancel."""
        with self._database.read() as session:
            return set(session.scalars(select(ClaimedWorkitem.workitem_uid).where(*self._claim_conditions())))

    def _claim_conditions(self) -> tuple[ColumnElement[bool], ...]:
        """Return the SQL conditions for this manager's claimed work items that nobody has asked to cancel."""
        return (
            ClaimedWorkitem.peer == self._peer.name,
            ClaimedWorkitem.state == WorkitemState.CLAIMED,
            ClaimedWorkitem.cancel_asked.is_(False),
        )

    def _note(self, uid: str) -> None:
        """Store that somebody asks to cancel the work item ``uid``."""
        with self._database.write() as session:
            for row in session.scalars(
                select(ClaimedWorkitem).where(*self._claim_conditions(), ClaimedWorkitem.workitem_uid == uid)
            ).all():
                row.cancel_asked, row.next_at = True, utc_now()
                study = row.study_instance_uid
                record(session, WORKITEM_STOPPED, peer=self._peer.name, study=study, workitem=uid)
