"""Sends studies to one vendor's AI server and awaits its answers: every step is a row's state.

The images are sent by C-STORE until the vendor has acknowledged all; after a kill they are sent again, which
changes nothing there: their UIDs are the same. Then the deadline runs. When the answer is whole, or does not
come, the job is due and a worker ends it.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from dicom_connectors.remote import copies, fetching
from dicom_connectors.remote.answer import add_row, is_asked_again
from dicom_connectors.remote.calls import Calls
from dicom_connectors.remote.matching import has_broken_off
from dicom_connectors.remote.settings import Vendor
from dicom_connectors.remote.web import Posted, post_study
from dicom_connectors.remote.work_request import WorkRequests, work_item_uid
from dicom_connectors.worklist.manager import ChangeStatus
from dicom_connectors.worklist.requested import WorkOutcome
from dicom_connectors.worklist.workitem import ProcedureStepState
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, ResultRefused, StorageError, Unavailable
from dicom_node.base.events import (
    ANSWER_AWAITED,
    ANSWER_DROPPED,
    ANSWER_LATE,
    ANSWER_SENDING,
    ANSWER_SILENT,
    ANSWER_WHOLE,
    EventType,
)
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import OPEN_AWAITED, OPEN_JOBS, AwaitedState, JobState
from dicom_node.base.outcomes import NotYet, Outcome, Retry
from dicom_node.base.runner import Lane, wait_before_retry
from dicom_node.base.store import queue
from dicom_node.base.store.awaited import AnswerObject, AwaitedAnswer
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Association, Job, ReceivedObject
from dicom_node.base.store.transitions import move, update_queue_place, utc_now
from dicom_node.deliver import scu
from dicom_node.deliver.scu import Outgoing, SendReport, SendStatus
from dicom_node.jobs.queue import retry
from dicom_node.receive.spool import Spool, mark_of, sender_in_name
from dicom_node.studies.fetch import closing_on_stop

_SOON: Final = timedelta(seconds=1)
_AT_ONCE: Final = 50
"""Objects between two looks whether the study is still to be sent."""
_LONGEST_SECONDS: Final = 600.0  # of one try, for the lease
_OPEN: Final = timedelta(minutes=10)
"""How long an open association that brings nothing keeps an answer from being whole, at most."""
_SENT: Final = (SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY)
_NEVER: Final = (SendStatus.REFUSED, SendStatus.NARROWED, SendStatus.FAULTY)
OpenDestination = Callable[[PeerSettings, Settings], scu.Destination]


class AwaitedAnswers(Lane[AwaitedAnswer]):
    """Service that takes the next step for each study that goes to one vendor, or is there."""

    table = AwaitedAnswer

    def __init__(
        self,
        database: Database,
        settings: Settings,
        vendor: Vendor,
        owner: str,
        open_destination: OpenDestination = scu.open_destination,
    ) -> None:
        """Prepare for one vendor. ``owner``: the process, under which its lease is taken."""
        super().__init__(database, settings, f"AI of {vendor.peer.name}", owner, _LONGEST_SECONDS)
        self._vendor, self._open, self._files = vendor, open_destination, Files(settings)
        self._deadline = timedelta(minutes=vendor.options.deadline)
        self._quiet = timedelta(seconds=vendor.quiet_seconds)
        self._requests = WorkRequests(vendor, vendor.manager, settings) if vendor.manager else None
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._by_http = vendor.peer.transport == "dicomweb"
        self._fetches = vendor.options.answers == "fetched"
        self._posts = Calls[Posted](vendor.options.under_way, f"{self.name} post")
        self._looks = Calls[fetching.Polled](vendor.options.under_way, f"{self.name} look")

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Return the SQL conditions for studies that go to this vendor, or whose answer is awaited."""
        return AwaitedAnswer.peer == self._vendor.peer.name, AwaitedAnswer.state.in_(OPEN_AWAITED)

    def order(self) -> Sequence[object]:
        """Return the SQL order: what waited longest first."""
        return AwaitedAnswer.next_at, AwaitedAnswer.id

    def move(self, session: Session, row: AwaitedAnswer, outcome: Outcome) -> None:
        """Change nothing: ``work`` stores each step itself."""

    def work(self, row: AwaitedAnswer, stop: threading.Event) -> Outcome:
        """Take the next step for one study. Return NotYet once it is stored, else Retry."""
        is_requested = self._requests is not None and row.state is AwaitedState.AWAITED
        said = self._work_outcome(row) if is_requested else None
        with self._database.write() as session:
            outcome = self._step(session, row.id, said)
        if is_requested:
            self._cancel_if_over(row)
        if outcome is not None:
            return outcome
        with self._database.read() as session:
            now_row = session.get_one(AwaitedAnswer, row.id)  # the step has changed it
            session.expunge(now_row)
        if now_row.state is AwaitedState.AWAITED:
            return self._fetch(now_row, stop)
        return self._post(now_row, stop) if self._by_http else self._send(row, stop)

    def _step(self, session: Session, number: int, said: WorkOutcome | None) -> Outcome | None:
        """Take the next step for a study that needs no network; return None if it is to be sent now.

        ``said``: how far its work item is, if work is requested by one, and the manager answers.
        """
        found = self._locked(session, number)
        if found is None:
            return NotYet()
        row, job = found
        now = utc_now()
        if row.next_at > now:  # an object came meanwhile: the answer has to be quiet anew
            return NotYet()
        if row.state is not AwaitedState.LATE and job.state not in OPEN_JOBS:
            return self._drop(session, row, f"its job is {job.state}")
        if self._requests is not None and row.state is AwaitedState.AWAITED:
            return self._follow(session, row, job, now, said)
        if self._fetches and row.state is AwaitedState.AWAITED:
            return self._before_look(session, row, job, now)
        steps = {
            AwaitedState.WAITING: self._begin,
            AwaitedState.SENDING: self._go_on_sending,
            AwaitedState.AWAITED: self._look,
            AwaitedState.LATE: self._take_late,
        }
        return steps[row.state](session, row, job, now)

    def _locked(self, session: Session, number: int) -> tuple[AwaitedAnswer, Job] | None:
        """Return a row and its job, locked after their study; None if the row is no longer open."""
        job_id = session.scalar(select(AwaitedAnswer.job_id).where(AwaitedAnswer.id == number))
        job = queue.locked_job(session, job_id or 0)
        row = session.get(AwaitedAnswer, number, with_for_update=True, populate_existing=True)
        return (row, job) if row and job and row.state in OPEN_AWAITED else None

    def _begin(self, session: Session, row: AwaitedAnswer, _job: Job, now: datetime) -> Outcome | None:
        """Begin to send a study, unless the vendor has as many as it may have."""
        there = select(func.count()).where(
            AwaitedAnswer.peer == row.peer,
            AwaitedAnswer.state.in_((AwaitedState.SENDING, AwaitedState.AWAITED)),
        )
        if (session.scalar(there) or 0) >= self._vendor.options.under_way:
            return self._later(session, row, _SOON)
        move(session, row, ANSWER_SENDING, limit_at=now + self._deadline)
        return None

    def _go_on_sending(self, session: Session, row: AwaitedAnswer, job: Job, now: datetime) -> Outcome | None:
        """Return None if a study is to be sent, unless that has failed for too long."""
        if now < row.limit_at:
            return None
        minutes = self._vendor.options.deadline
        why = f"it could not be sent to {row.peer} in {minutes:g} minutes: {row.reason or 'no answer'}"
        return self._give_up(session, row, job, why)

    def _look(self, session: Session, row: AwaitedAnswer, job: Job, now: datetime) -> Outcome:
        """Look whether the answer is whole, or did not come in time."""
        if job.state is JobState.RUNNING:  # a worker looks at it now, and hands it back
            return self._later(session, row, _SOON)
        if row.last_at is not None and row.last_at <= row.limit_at:
            if self._is_coming(session, row, now):
                return self._later(session, row, _SOON)
            if has_broken_off(session, row):
                if now < row.limit_at:
                    return self._later(session, row, _SOON)
                job.assess_first = True
            self._wake(session, row, job, ANSWER_WHOLE, reason="")
            return NotYet()
        # What was received in time may not be in the index yet.
        if now < row.limit_at + self._quiet:
            return self._later(session, row, row.limit_at + self._quiet - now)
        minutes = self._vendor.options.deadline
        return self._give_up(session, row, job, f"no answer from {row.peer} in {minutes:g} minutes")

    def _is_coming(self, session: Session, row: AwaitedAnswer, now: datetime) -> bool:
        """Return whether an open association brings objects of the answer, or some wait for the index."""
        brings = (
            select(ReceivedObject.association)
            .join(AnswerObject, AnswerObject.received_id == ReceivedObject.id)
            .where(AnswerObject.awaited_id == row.id)
        )
        is_open = exists().where(Association.id.in_(brings), Association.closed_at.is_(None))
        if row.last_at is None or now >= row.last_at + _OPEN:
            return False
        return bool(session.scalar(select(is_open))) or self._wait_for_index()

    def _wait_for_index(self) -> bool:
        """Return whether objects of this vendor wait in the spool to be indexed."""
        peer = self._vendor.peer
        marks = {mark_of(peer.name), mark_of(peer.ae_title)}
        return any(sender_in_name(path.name) in marks for path in self._spool.pending())

    # Work items

    def _work_outcome(self, row: AwaitedAnswer) -> WorkOutcome | None:
        """Return how far the work item of a study is; None if its manager does not answer."""
        assert self._requests is not None
        with self._database.read() as session:
            uid = work_item_uid(session, row)
        try:
            return self._requests.outcome(uid)
        except Unavailable:
            return None

    def _follow(
        self, session: Session, row: AwaitedAnswer, job: Job, now: datetime, said: WorkOutcome | None
    ) -> Outcome:
        """Look whether the work item of a study has ended and all results that it names came, or the time
        for that is over.
        """
        if job.state is JobState.RUNNING:  # a worker looks at it now, and hands it back
            return self._later(session, row, _SOON)
        if said is not None and (why := said.failure()):
            return self._give_up(session, row, job, why)
        is_completed = said is not None and said.state == ProcedureStepState.COMPLETED
        if said is not None and is_completed and not said.names_all:
            return self._look(session, row, job, now)
        minutes = self._vendor.options.deadline
        why = f"no answer from {row.peer} in {minutes:g} minutes"
        if said is not None and is_completed:
            missing = said.results - self._came(session, row)
            if not missing:
                self._wake(session, row, job, ANSWER_WHOLE, reason="")
                return NotYet()
            why = f"{len(missing)} of {len(said.results)} results that the work item names did not come"
        if now < row.limit_at + self._quiet:
            return self._later(session, row, min(self._vendor.look_up, row.limit_at + self._quiet - now))
        return self._give_up(session, row, job, why)

    def _came(self, session: Session, row: AwaitedAnswer) -> set[str]:
        """Return the SOP Instance UIDs of what came for a study."""
        chosen = (
            select(ReceivedObject.sop_instance_uid)
            .join(AnswerObject, AnswerObject.received_id == ReceivedObject.id)
            .where(AnswerObject.awaited_id == row.id)
        )
        return {uid for uid in session.scalars(chosen) if uid}

    def _cancel_if_over(self, row: AwaitedAnswer) -> None:
        """Request that a work item is cancelled if its results are no longer awaited."""
        assert self._requests is not None
        with self._database.read() as session:
            state = session.scalar(select(AwaitedAnswer.state).where(AwaitedAnswer.id == row.id))
            uid = work_item_uid(session, row)
        if state in (AwaitedState.SILENT, AwaitedState.LATE, AwaitedState.DROPPED):
            self._requests.request_cancellation(uid)

    def _request(self, row: AwaitedAnswer, objects: Sequence[Outgoing]) -> Outcome | None:
        """Create the work item of a study that the vendor has; return None if the manager has it."""
        assert self._requests is not None
        with self._database.read() as session:
            uid = work_item_uid(session, row)
        answer = self._requests.create(uid, objects, utc_now())
        if answer.status is ChangeStatus.DONE:
            return None
        if answer.status is ChangeStatus.RETRY:
            return Retry(f"the worklist manager: {answer.text}")
        with self._database.write() as session:
            if found := self._locked(session, row.id):
                why = f"the worklist manager refuses the work item: {answer.text}"
                return self._give_up(session, *found, why)
        return NotYet()

    def _take_late(self, session: Session, row: AwaitedAnswer, job: Job, now: datetime) -> Outcome:
        """Have a late answer judged once it is quiet: its results wait for a person."""
        if self._is_coming(session, row, now) or not is_asked_again(session, row):
            return self._later(session, row, _SOON)
        try:
            if job.state is JobState.FAILED:
                retry(session, job.id)
            elif job.state not in OPEN_JOBS:
                return self._drop(session, row, f"its job is {job.state}")
        except NotAllowedNow as error:
            return self._drop(session, row, str(error))
        job.assess_first = True
        self._wake(session, row, job, ANSWER_WHOLE, reason="")
        return NotYet()

    def _give_up(self, session: Session, row: AwaitedAnswer, job: Job, why: str) -> Outcome:
        """Stop awaiting an answer: the job fails, with this reason."""
        if job.state is JobState.RUNNING:
            return self._later(session, row, _SOON)
        now = utc_now()
        row.reason = why[:255]
        session.flush()
        copies.forget(self._settings, row.id)
        self._wake(session, row, job, ANSWER_SILENT, ended_at=now)
        if row.last_at is not None:  # it has begun to come, too late
            move(session, row, ANSWER_LATE, next_at=now + self._quiet)
        return NotYet()

    def _wake(
        self, session: Session, row: AwaitedAnswer, job: Job, event: EventType, **values: object
    ) -> None:
        """Store that an answer is whole, or does not come, and have a worker claim its job now."""
        move(session, row, event, **values)
        if job.state is JobState.QUEUED:
            job.run_at = utc_now()
            session.flush()
            update_queue_place(session, job)

    def _drop(self, session: Session, row: AwaitedAnswer, why: str) -> Outcome:
        """Stop awaiting an answer of which nothing would come."""
        row.reason = why[:255]
        session.flush()
        copies.forget(self._settings, row.id)
        move(session, row, ANSWER_DROPPED, ended_at=utc_now())
        return NotYet()

    def _later(self, session: Session, row: AwaitedAnswer, after: timedelta) -> Outcome:
        """Look at a row again after some time."""
        row.next_at = utc_now() + min(after, timedelta(minutes=10))
        session.flush()
        return NotYet()

    # Sending

    def _send(self, row: AwaitedAnswer, stop: threading.Event) -> Outcome:
        """Send the images of a study. Return NotYet if that is decided, Retry if waiting may help."""
        try:
            objects = self._outgoing(row)
        except StorageError as error:
            return Retry(str(error))
        except ResultRefused as error:
            return self._not_sent(row, [SendReport(SendStatus.FAULTY, "", str(error))])
        client = self._open(self._vendor.peer, self._settings)
        with closing(client), closing_on_stop(stop, client):
            for start in range(0, len(objects), _AT_ONCE):
                reports = client.send(objects[start : start + _AT_ONCE])
                if bad := [one for one in reports if one.status not in _SENT]:
                    return self._not_sent(row, bad)
                with self._database.read() as session:
                    job = session.get_one(Job, row.job_id)
                    if job.state not in OPEN_JOBS or stop.is_set():
                        return NotYet()
        if self._requests is not None and (outcome := self._request(row, objects)) is not None:
            return outcome
        return self._sent(row)

    def _before_look(self, session: Session, row: AwaitedAnswer, job: Job, now: datetime) -> Outcome | None:
        """Return None if a server is to be polled now for results of a study."""
        if now < row.limit_at:
            return self._later(session, row, _SOON) if self._wait_for_index() else None
        minutes = self._vendor.options.deadline
        why = f"{row.peer} had no whole answer in {minutes:g} minutes: {row.reason}".removesuffix(": ")
        return self._give_up(session, row, job, why)

    def _fetch(self, row: AwaitedAnswer, stop: threading.Event) -> Outcome:
        """Fetch results of a study that the server has, beside other studies."""
        with self._database.read() as session:
            sent = session.get_one(Job, row.job_id).source_uids
        if self._vendor.options.deidentify:
            known_as = copies.pseudonyms_for(self._settings, row.peer)
            sent = [known_as.uid(uid) for uid in sent]
        look = partial(fetching.look, self._database, self._settings, self._vendor, row, sent, stop)
        polled = self._looks.result(row.id, look)
        with self._database.write() as session:
            found = self._locked(session, row.id)
            if found is None or found[0].state is not AwaitedState.AWAITED:
                return NotYet()
            now_row, job = found
            if polled is None:
                return self._later(session, now_row, _SOON)
            if polled.is_final:
                return self._give_up(session, now_row, job, polled.why)
            now = utc_now()
            is_all = not (polled.has_new or polled.why)
            if is_all and fetching.is_time(now_row, now, self._quiet) and job.state is not JobState.RUNNING:
                self._wake(session, now_row, job, ANSWER_WHOLE, reason="")
                return NotYet()
            now_row.reason = polled.why[:255]
            return self._later(session, now_row, fetching.pause(now - now_row.limit_at + self._deadline))

    def _post(self, row: AwaitedAnswer, stop: threading.Event) -> Outcome:
        """Send a study by HTTP, beside other studies."""
        objects = partial(self._outgoing, row)
        posted = self._posts.result(
            row.id, partial(post_study, self._settings, self._vendor, row, objects, stop)
        )
        if posted is None:
            with self._database.write() as session:
                found = self._locked(session, row.id)
                return self._later(session, found[0], _SOON) if found else NotYet()
        report = posted.report
        if report.status in _SENT:
            return self._sent(row)
        if report.status in _NEVER or report.status is SendStatus.UNREACHABLE:
            return self._not_sent(row, [report])
        after = (
            timedelta(seconds=posted.after)
            if posted.after
            else wait_before_retry(row.attempts + 1, self._settings.outbox)
        )
        return Retry(f"{report.code} {report.text}".strip(), min(after, max(row.limit_at - utc_now(), _SOON)))

    def _sent(self, row: AwaitedAnswer) -> Outcome:
        """Note that the vendor has the whole study: now its answer is awaited."""
        copies.forget(self._settings, row.id)
        with self._database.write() as session:
            if (found := self._locked(session, row.id)) and found[0].state is AwaitedState.SENDING:
                now = utc_now()
                move(
                    session,
                    found[0],
                    ANSWER_AWAITED,
                    reason="",
                    limit_at=now + self._deadline,
                    next_at=now + min(self._quiet, self._deadline),
                )
        return NotYet()

    def _outgoing(self, row: AwaitedAnswer) -> list[Outgoing]:
        """Return the images of a row's job: as they were received, or copies without the identity. Raises
        StoreAway, NotInSpool; ResultRefused if an image cannot be copied so.
        """
        with self._database.read() as session:
            images = copies.images_of(session, session.get_one(Job, row.job_id))
            originals = [
                Outgoing(
                    one.sop_class_uid,
                    one.sop_instance_uid,
                    row.study_instance_uid,
                    one.series_instance_uid,
                    self._files.here(session, one.path),
                    "",
                    study=row.study_id,
                    bytes=one.bytes,
                    is_original=True,
                )
                for one in images
            ]
        return [self._copy(row, one) for one in originals] if self._vendor.options.deidentify else originals

    def _copy(self, row: AwaitedAnswer, image: Outgoing) -> Outgoing:
        """Make the de-identified copy of an image that goes to the vendor. Raises ResultRefused."""
        path, header = copies.make_copy(image.path, self._settings, row.peer, row.id)
        return replace(
            image,
            sop_instance_uid=str(header.SOPInstanceUID),
            series_instance_uid=str(header.SeriesInstanceUID),
            path=path,
            bytes=path.stat().st_size,
        )

    def _not_sent(self, row: AwaitedAnswer, reports: Sequence[SendReport]) -> Outcome:
        """Note why images were not taken: a refusal is final, everything else is tried again."""
        final = next((one for one in reports if one.status in _NEVER), None)
        if final is None:
            first = reports[0]
            if first.status is SendStatus.UNREACHABLE and self._hand_over(row):
                return NotYet()
            after = wait_before_retry(row.attempts + 1, self._settings.outbox)
            ends = (row.limit_at - self._deadline / 2 - utc_now(), row.limit_at - utc_now())
            soonest = min((end for end in ends if end > _SOON), default=_SOON)
            return Retry(f"{first.code} {first.text}".strip(), min(after, soonest))
        with self._database.write() as session:
            found = self._locked(session, row.id)
            if found is None:
                return NotYet()
            refused = f"{row.peer} refuses the images: {final.code} {final.text}".strip()
            why = final.text if final.status is SendStatus.FAULTY else refused
            return self._give_up(session, *found, why)

    def _hand_over(self, row: AwaitedAnswer) -> bool:
        """Give a study to the second server if there is one and this one is not reached after half of the
        deadline; return whether it was given.
        """
        second = self._vendor.second
        if second is None:
            return False
        with self._database.write() as session:
            found = self._locked(session, row.id)
            if found is None or found[1].state not in OPEN_JOBS:
                return False
            given, job = found
            if given.state is not AwaitedState.SENDING or utc_now() < given.limit_at - self._deadline / 2:
                return False
            self._drop(session, given, f"{given.peer} is not reached: the study goes to {second.name}")
            add_row(session, self._settings, job, second.name)
        return True
