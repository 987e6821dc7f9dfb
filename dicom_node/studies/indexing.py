"""The index of the spool: rows of received objects in the database, and what they mean for their studies.

Each acknowledged object is indexed once, also after a crash: the rows are committed first and the file is
moved after. If the node dies in between, the next scan finds the row and completes the move. Nothing
received is overwritten. A study that changed or is in doubt is stopped: a conflict puts it into quarantine.

The listener's journal becomes rows of associations and events: an open association keeps its studies open.

Received objects are deleted once all results of their study are confirmed, never before; the files of results
later. Files are marked as purged before they are deleted. So a file outside ``incoming`` without a row means
a lost database, and a row without its file a lost disk.
"""

import logging
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, identity_sha256, patient_sha256
from dicom_node.base.dicom.uids import role_of
from dicom_node.base.errors import NodeError, NotAllowedNow, NotFound, NotInSpool, SpoolError, StoreAway
from dicom_node.base.files import Files, lock_indexing, waiting_paths
from dicom_node.base.lifecycle import (
    NOT_CHOSEN,
    OPEN_DELIVERIES,
    READ_FROM_WORK,
    AssociationOutcome,
    DeliveryState,
    FetchState,
    JobState,
    ObjectRole,
    Outcome,
    ResultKind,
    ReviewVerdict,
    StudyState,
)
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store import (
    deliveries,
    fetches,
    intake,
    queue,
    requested,
    results,
    sight,
    views,
)
from dicom_node.base.store.database import Database, batches, stamp
from dicom_node.base.store.tables import (
    Association,
    CleaningReview,
    Cursor,
    Delivery,
    Fetch,
    Instance,
    ReceivedObject,
    Result,
    Study,
)
from dicom_node.base.store.transitions import (
    FOR_UPDATE,
    append,
    move,
    move_study,
    record,
    steady_now,
    try_move,
    utc_now,
)
from dicom_node.jobs.queue import decide_study, forward_late
from dicom_node.receive.inspection import CODING, Inspected, Inspector, ReaderLost, unread
from dicom_node.receive.spool import (
    Arrival,
    Spool,
    Turns,
    journal_folders,
    listeners_of,
    read_arrival,
    read_journal,
    remove_read,
    same_object,
    sender_in_name,
)


def quarantine_study(session: Session, study: Study, reason: str) -> None:
    """Quarantine a study for ``reason``: none of its results is sent until a person releases it."""
    if study.state is StudyState.QUARANTINED:
        if reason not in study.reason:
            study.reason = f"{study.reason}; {reason}"[:2000]
            session.flush()
        return
    study.due_at = None
    session.flush()
    stop_study(session, study, "the study is in quarantine")
    move_study(session, study, events.STUDY_QUARANTINED, reason=reason)


def release_study(session: Session, study_id: int, now: datetime | None = None) -> None:
    """Release a study from quarantine: it is assembled again from the current versions of its objects.

    The versions were chosen before (:mod:`dicom_node.studies.choose`). Raises NotFound, NotAllowedNow.
    """
    study = session.get(Study, study_id, with_for_update=FOR_UPDATE)
    if study is None:
        raise NotFound(f"no study has the number {study_id}")
    if study.state is not StudyState.QUARANTINED:
        raise NotAllowedNow(f"the study is {study.state}: only one in quarantine can be released")
    study.revision += 1  # its jobs may have been made before the conflict came
    study.due_at = now or utc_now()
    session.flush()
    move_study(session, study, events.STUDY_RELEASED, reason="released by a person")


def drop_waiting(session: Session, study: Study, reason: str) -> None:
    """Cancel the study's jobs that have not started, because jobs of a newer revision replace them."""
    for job in queue.of_study(session, study.id, (JobState.QUEUED, JobState.HELD)):
        try_move(session, job, events.JOB_CANCELLED, reason=reason, finished_at=utc_now())


def stop_study(session: Session, study: Study, reason: str, *, same_data: bool = False) -> None:
    """Send nothing more of a study: cancel waiting jobs and deliveries, and request that running jobs stop.

    What is being sent, or was given up, is not sent again either, nor may a person send an older result
    until a job wants it again. ``same_data``: the study's objects are unchanged, so these, assessments and
    received images are still delivered, because no job asks for them again.
    """
    drop_waiting(session, study, reason)
    for job in queue.of_study(session, study.id, (JobState.RUNNING,)):
        job.cancel_requested, job.reason = True, reason
    states, is_of_study = {DeliveryState.PENDING, DeliveryState.UNASSESSED}, study.id == deliveries.STUDY
    is_stopped: ColumnElement[bool] = Result.kind.not_in(NOT_CHOSEN)
    if not same_data:
        states |= OPEN_DELIVERIES | {DeliveryState.DEAD}
        is_stopped = func.coalesce(Result.kind != ResultKind.REJECTION, True)  # received objects too
        session.execute(
            update(Result)
            .where(Result.study_id == study.id, Result.kind != ResultKind.REJECTION)
            .values(outdated=True)
        )
    unsent = session.scalars(
        deliveries.with_objects(select(Delivery))
        .where(is_of_study, is_stopped, Delivery.state.in_(states))
        # Locked, so that one that its sender takes at this moment is seen as being sent.
        .with_for_update(of=Delivery)
        .execution_options(populate_existing=True)
    ).all()
    for delivery in unsent:
        deliveries.withdraw(session, delivery, reason)
    session.flush()


_PRIORITY = {1: 1, 2: -1}  # C-STORE priority (PS3.7 9.1.1: 0 medium, 1 high, 2 low) → ours
_EVENTS: dict[Outcome, events.EventType] = {
    Outcome.NEW: events.OBJECT_INDEXED,
    Outcome.DUPLICATE: events.OBJECT_DUPLICATE,
    Outcome.REVISION: events.OBJECT_REVISED,
    Outcome.CONFLICT: events.OBJECT_CONFLICT,
    Outcome.QUARANTINED: events.OBJECT_QUARANTINED,
    Outcome.SET_ASIDE: events.IDENTITY_NOT_TAKEN,
}
_NOT_SEEN = "its study, or the object, is here from senders that the user who stored it does not see"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A spooled file to be indexed, with how it arrived (``arrival``) and what its header says (``found``).
    ``size``: bytes of the file.

    By the path of an already indexed file: ``copies``: whether it has the same bytes; ``same_image``: whether
    it decodes to the same samples, None if one of the two does not decode.
    """

    path: Path
    arrival: Arrival
    found: Inspected
    size: int
    copies: dict[str, bool] = field(default_factory=dict)
    same_image: dict[str, bool | None] = field(default_factory=dict)

    @property
    def spool_name(self) -> str:
        """The spool name under which the object was acknowledged."""
        return self.path.stem


TWO_PATIENTS = "this study has images of two patients (by ID, name, birth date or sex)"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a received version; ``reason``: one sentence if it is not accepted."""

    outcome: Outcome
    reason: str = ""


class Indexing:
    """Writes the database rows of received objects, one after the other, in the caller's transaction."""

    def __init__(self, spool: Spool, settings: Settings, inspector: Inspector) -> None:
        """Prepare to index the files of ``spool``; ``inspector`` compares images."""
        self._spool, self._inspector, self._settings = spool, inspector, settings
        self._files = Files(settings)
        self._peers = {peer.ae_title: peer for peer in settings.peers if "send" in peer.may}
        self.names = PatientNames(settings.node.data_dir, make_key=True)

    def compare_ahead(
        self, database: Database, item: Arrived, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> None:
        """Compare the object with earlier versions of it, and note the outcome in ``item``, before the
        database is locked for writing.

        ``batch``: objects that are to be indexed before it. ``again``: the inspector of a second try, None at
        the first. Raises ReaderLost at the first try.
        """
        uid, pixels = item.found.sop_instance_uid, item.found.pixels_sha256
        with database.read() as session, suppress(StoreAway):  # it waits: indexing says so
            self._stored_copy(session, item)
            former = intake.instance(session, uid)
            known = [(former.path, former.pixels_sha256)] if former else []
            for one in batch:
                if one.found.sop_instance_uid == uid and not one.found.fault:
                    known.append((self._files.relative(self._place(one, bad=False)), one.found.pixels_sha256))
            for path, sha256 in known if not item.found.fault else ():
                if sha256 != pixels:
                    item.same_image[path] = None  # where one does not decode or is purged
                    with suppress(NotInSpool):
                        first, inspector = self._where(session, path, item), again or self._inspector
                        item.same_image[path] = inspector.same_image(first, item.path, again=bool(again))

    def index(self, session: Session, item: Arrived) -> Path:
        """Write the rows of a received object; return the path for its file, or of a stored file with the
        same bytes.

        Raises IntegrityError if another process indexed it first, StoreAway if it must be compared with an
        object that another machine has not uploaded yet.
        """
        with sight.seen_by(item.arrival.senders):
            is_hidden = bool(item.arrival.senders) and sight.is_hidden(
                session, item.found.study_instance_uid, item.found.sop_instance_uid
            )
        # By a person who sees some senders only: it changes nothing of others.
        found = Inspected(item.found.transfer_syntax_uid, fault=_NOT_SEEN) if is_hidden else item.found
        item = replace(item, found=found)
        study = self._study(session, item)  # locked first: what is stored of it cannot be purged from here on
        kept = self._stored_copy(session, item)
        role = self._role(session, item)
        former = intake.instance(session, found.sop_instance_uid)
        if found.fault:
            judgement = Judgement(Outcome.QUARANTINED, found.fault)
        elif is_of_another_study(session, item.arrival.association, found.study_instance_uid):
            judgement = Judgement(Outcome.QUARANTINED, OTHER_STUDY)
        else:
            judgement = self._judge(session, study, item, role, former)
        bad = judgement.outcome in (Outcome.CONFLICT, Outcome.QUARANTINED)
        place = self._files.data_dir / kept.path if kept else self._place(item, bad=bad)
        event, reason, late = _EVENTS[judgement.outcome], judgement.reason, None
        # A faulty copy of which nothing is known but the intact object: same study, same patient, as far as
        # read. It changes nothing, so no sender can replace, hide or stop a good object by it. One whose
        # identity is another or unreadable may be a correction: then nothing may leave with the old name.
        is_faulty_copy = bool(found.fault and found.identity and former and former.study_id == study.id) and (
            former is not None and former.identity_sha256 == identity_sha256(found.identity)
        )
        if kept and kept.study_id == study.id and (bad or kept.outcome is Outcome.SET_ASIDE):
            # It repeats this copy, of which a person may have decided since.
            judgement = Judgement(kept.outcome, kept.reason)
            event, reason = events.OBJECT_DUPLICATE, ""
        elif is_faulty_copy:
            event = events.IDENTITY_NOT_TAKEN
        elif bad:
            self._quarantine(session, study, item, judgement, place)
            if former is not None and former.study_id != study.id and not found.fault:
                quarantine_study(
                    session,
                    session.get_one(Study, former.study_id),
                    _with_object(judgement.reason, item),
                )
            return place
        else:
            self._receive(session, study, item, role, judgement.outcome)
            if former is None or judgement.outcome is Outcome.REVISION:
                row = self._write_instance(session, study, item, role, place)
                add_prior_queries(session, study, row, self._settings)
                late = row if role is ObjectRole.NON_SOURCE and study.state in READ_FROM_WORK else None
            elif former.purged and judgement.outcome is Outcome.DUPLICATE:
                # The new copy takes its place.
                former.path, former.purged = self._files.relative(place), False
                former.transfer_syntax_uid = item.found.transfer_syntax_uid
            if role is ObjectRole.OWN and judgement.outcome is Outcome.NEW:
                # Unknown: of another node, or a copied mark.
                event = (
                    events.OWN_RESULT_RETURNED
                    if results.is_result(session, found.sop_instance_uid)
                    else events.UNKNOWN_RESULT
                )
        self._write_received(session, study, item, judgement, place)
        if late is not None:
            forward_late(session, study, late, self._settings)
        self._record(session, study, item, event, reason=reason)
        return place

    def make_current(self, session: Session, study: Study, item: Arrived) -> None:
        """Make this version, which a person chose, the current one, without moving its file."""
        row = self._write_instance(session, study, item, self._role(session, item), item.path)
        row.study_id, row.pixels_sha256 = study.id, item.found.pixels_sha256
        session.flush()

    def _stored_copy(self, session: Session, item: Arrived) -> ReceivedObject | None:
        """Return the first received object whose file has the same bytes; None if there is none."""
        if not item.arrival.calling_ae:  # a stray file, not written by the listener
            return None
        return next(
            (
                row
                for row in intake.stored_copies(session, item.found.sop_instance_uid, limit=20)
                if self._is_copy(session, row.path, item)
            ),
            None,
        )

    def _is_copy(self, session: Session, kept: str, item: Arrived) -> bool:
        """Return whether the object ``item`` is the same (:func:`same_object`) as that in the indexed file
        ``kept``.
        """
        if kept not in item.copies:
            try:
                item.copies[kept] = same_object(self._where(session, kept, item), item.path)
            except (OSError, struct.error, NotInSpool):  # gone or truncated: then this one is stored
                item.copies[kept] = False
        return item.copies[kept]

    def _where(self, session: Session, kept: str, item: Arrived) -> Path:
        """Return the present path of an indexed file; a file of the same batch is not moved yet."""
        on_its_way = item.path.with_name(Path(kept).name)
        return on_its_way if on_its_way.is_file() else self._files.here(session, kept)

    def _judge(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, former: Instance | None
    ) -> Judgement:
        """Decide whether the object is new, a duplicate, a revision, or in conflict with its study or its
        current version ``former`` (None: it has none).
        """
        if role is ObjectRole.OWN:  # a PACS may have changed it on its way: we know what we sent
            return Judgement(Outcome.DUPLICATE if former else Outcome.NEW)
        if former is None:
            if any(
                item.found.patient.contradicts(other)
                for other in intake.patients(session, study.id, (ObjectRole.SOURCE, ObjectRole.NON_SOURCE))
            ):
                return Judgement(Outcome.CONFLICT, TWO_PATIENTS)
            return Judgement(Outcome.NEW)
        return judge(item, former, session.get_one(Study, former.study_id))

    def _role(self, session: Session, item: Arrived) -> ObjectRole:
        """Return the role of the object in its study: own result, source of an analysis, or neither."""
        if item.found.own or results.is_result(session, item.found.sop_instance_uid):
            return ObjectRole.OWN
        sender = self._settings.sender_names.get(item.arrival.calling_ae, "")
        grabber = any(sender in rule.secondary_captures_from for rule in self._settings.rules)
        return role_of(
            item.found.sop_class_uid,
            frozenset(self._settings.listener.further_storage_classes),
            takes_secondary_captures=grabber,
        )

    def _study(self, session: Session, item: Arrived) -> Study:
        """Return the study of the object, created if it is new.

        All objects of a sender without Study Instance UID within an hour share one entry, so that they do not
        flood the list.
        """
        found, at = item.found, item.arrival.received_at
        uid, mark = found.study_instance_uid or None, sender_in_name(item.path.name)
        if uid:
            study = intake.study(session, uid)
        else:
            study = intake.faulty_entry(session, mark, at - timedelta(hours=1)) if mark else None
        if study is not None:
            study.priority = max(study.priority, _PRIORITY.get(item.arrival.priority, 0))
            return study
        study = Study(
            study_instance_uid=uid,
            patient_id=found.patient_id,
            issuer_of_patient_id=found.issuer_of_patient_id,
            accession_number=_accession(found),
            study_date=found.study_date,
            state=StudyState.RECEIVING,
            reason="",
            revision=1,
            first_received_at=at,
            last_received_at=at,
            due_at=steady_now() + timedelta(seconds=self._quiet_seconds(item)),
            priority=_PRIORITY.get(item.arrival.priority, 0),
        )
        session.add(study)
        session.flush()
        self.names.enter(session, study, found.identity.get("PatientName", ""))
        record(session, events.STUDY_RECEIVING, study.id, study=uid, calling=item.arrival.calling_ae)
        return study

    def _receive(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, outcome: Outcome
    ) -> None:
        """Extend the study's quiet time, or reopen the study after completion; only an image for analysis
        reopens it.
        """
        if role is ObjectRole.OWN or outcome in (Outcome.DUPLICATE, Outcome.SET_ASIDE):
            return
        study.last_received_at = max(study.last_received_at, item.arrival.received_at)
        if study.state is StudyState.QUARANTINED:
            return
        if study.state is not StudyState.RECEIVING:
            if role is not ObjectRole.SOURCE:
                return
            study.revision += 1
        due_at = steady_now() + timedelta(seconds=self._quiet_seconds(item))
        study.due_at = max(due_at, study.due_at) if study.due_at else due_at
        session.flush()
        if outcome is Outcome.REVISION and role is ObjectRole.SOURCE:
            # Nothing more may leave with the old name, or the old side, on it.
            stop_study(session, study, "an image came again with another header")
        if study.state is not StudyState.RECEIVING:
            drop_waiting(session, study, f"replaced by revision {study.revision} of the study")
            move_study(session, study, events.STUDY_REOPENED)

    def _quiet_seconds(self, item: Arrived) -> float:
        """Return how many seconds nothing may arrive after this object until the study is complete, by its
        sender or modality.
        """
        peer = self._peers.get(item.arrival.calling_ae)
        if peer is not None and peer.quiet_seconds is not None:
            return peer.quiet_seconds
        assembly = self._settings.assembly
        return assembly.quiet_seconds_us if item.found.modality == "US" else assembly.quiet_seconds

    def _quarantine(
        self, session: Session, study: Study, item: Arrived, judgement: Judgement, place: Path
    ) -> None:
        """Write the row of an object that is in conflict or faulty, and quarantine its study.

        A further object in an entry without Study Instance UID gets no event of its own.
        """
        study.last_received_at = max(study.last_received_at, item.arrival.received_at)
        self._write_received(session, study, item, judgement, place)
        if study.study_instance_uid is None and study.state is StudyState.QUARANTINED:
            return
        self._record(session, study, item, _EVENTS[judgement.outcome], reason=judgement.reason)
        is_faulty = judgement.outcome is Outcome.QUARANTINED
        what_to_do = "; send it again repaired, or release the study without it" if is_faulty else ""
        quarantine_study(session, study, _with_object(judgement.reason, item) + what_to_do)

    def _write_instance(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, place: Path
    ) -> Instance:
        """Make this version the current one; the study's patient is then that of this version."""
        found, arrival = item.found, item.arrival
        former = intake.instance(session, found.sop_instance_uid)
        row = former or Instance(study_id=study.id, sop_instance_uid=found.sop_instance_uid)
        row.sop_class_uid, row.series_instance_uid = found.sop_class_uid, found.series_instance_uid
        row.transfer_syntax_uid, row.modality, row.role = found.transfer_syntax_uid, found.modality, role
        row.path, row.purged, row.bytes = self._files.relative(place), False, item.size
        # The hash that became part of result UIDs stays: another transfer syntax is the same image.
        row.pixels_sha256 = former.pixels_sha256 if former else found.pixels_sha256
        row.identity_sha256, row.patient = identity_sha256(found.identity), str(found.patient)
        row.header_sha256 = found.header_sha256
        row.attributes, row.assumed_charset = dict(found.attributes), found.assumed_charset
        row.calling_ae, row.called_ae = arrival.calling_ae, arrival.called_ae
        row.received_at, row.revision = arrival.received_at, study.revision
        session.add(row)
        if former is not None and role is ObjectRole.SOURCE:
            self.describe_study(session, study, found)
        session.flush()
        return row

    def describe_study(self, session: Session, study: Study, found: Inspected) -> None:
        """Set patient, accession number and date of a study to those of the object ``found``."""
        study.patient_id, study.issuer_of_patient_id = found.patient_id, found.issuer_of_patient_id
        study.accession_number, study.study_date = _accession(found), found.study_date
        self.names.enter(session, study, found.identity.get("PatientName", ""))

    def _place(self, item: Arrived, *, bad: bool) -> Path:
        """Return the path for the object's file: in the folder of its study, or in quarantine if ``bad``."""
        return self._spool.place(item.path, None if bad else item.found.study_instance_uid)

    def _write_received(
        self, session: Session, study: Study, item: Arrived, judgement: Judgement, place: Path
    ) -> None:
        """Add the row of a received object, with what became of it."""
        session.add(
            ReceivedObject(
                spool_name=item.spool_name,
                path=self._files.relative(place),
                dataset_sha256=item.found.dataset_sha256,
                sha256="" if self._files.bucket and place.stem == item.spool_name else None,
                study_id=study.id,
                sop_instance_uid=item.found.sop_instance_uid,
                outcome=judgement.outcome,
                reason=judgement.reason,
                association=item.arrival.association,
                calling_ae=item.arrival.calling_ae,
                called_ae=item.arrival.called_ae,
                bytes=item.size,
                received_at=item.arrival.received_at,
            )
        )
        session.flush()

    def _record(
        self, session: Session, study: Study, item: Arrived, event: events.EventType, reason: str = ""
    ) -> None:
        """Record an event about the object, with its study, its association and its sender."""
        record(
            session,
            event,
            study.id,
            study=study.study_instance_uid,
            instance=item.found.sop_instance_uid,
            association=item.arrival.association,
            calling=item.arrival.calling_ae,
            spool_name=item.spool_name if reason else "",
            reason=reason,
        )


def _accession(found: Inspected) -> str:
    """Return the Accession Number, cut to the length that its VR allows."""
    return found.identity.get("AccessionNumber", "")[:16]  # SH, PS3.5 6.2


def _with_object(reason: str, item: Arrived) -> str:
    """Return the reason with the object, its sender and the time, because a study may have hundreds of
    objects.
    """
    at, uid = item.arrival.received_at, item.found.sop_instance_uid or "without SOP Instance UID"
    sender = item.arrival.calling_ae or "an unknown sender"
    return f"{reason} (object {uid} from {sender}, {at:%Y-%m-%d %H:%M:%S} UTC)"


def add_prior_queries(session: Session, study: Study, image: Instance, settings: Settings) -> None:
    """Queue the queries for the patient's earlier studies of all rules that take this image, each once per
    revision of the study.

    None for a study that is itself an earlier study for comparison.
    """
    if not settings.queried_by_rules or image.role is not ObjectRole.SOURCE or not study.study_instance_uid:
        return
    if not fetches.is_prior(session, study.id):
        for decision in decide_study(session, study, [image], settings):
            if decision.rule.priors and not decision.held_reason:
                fetches.add_prior_query(session, study, decision.rule.name, decision.rule.priors)


OTHER_PATIENT = "the fetched images name another patient than the peer's answer"
OTHER_STUDY = "it came in answer to the retrieval of another study"


def is_of_another_study(session: Session, association: str, study_instance_uid: str) -> bool:
    """Return whether an object arrived in the node's retrieval of a study (``association``) but belongs to
    another one.
    """
    number = association.removeprefix("fetch-")  # fetch.ASSOCIATION
    if number == association or not number.isdecimal():
        return False
    row = session.get(Fetch, int(number))
    return row is None or row.study_instance_uid != study_instance_uid


def is_of_another_patient(session: Session, study: Study) -> bool:
    """Return whether the images of a fetched study name another patient than the query answer that led to the
    fetch.

    False once :func:`note_other_patient` was called: a person who releases the study from quarantine has
    checked it.
    """
    row = fetches.of_study(session, study.study_instance_uid)
    if row is None or row.state is FetchState.OTHER_PATIENT:
        return False
    named = Patient.parse(row.patient)
    others = intake.patients(session, study.id, [ObjectRole.SOURCE, ObjectRole.NON_SOURCE])
    other_id = row.patient_id and study.patient_id and row.patient_id != study.patient_id
    issuers = {row.issuer_of_patient_id, study.issuer_of_patient_id} - {""}
    return bool(other_id) or len(issuers) > 1 or any(named.disagrees(one) for one in others)


def note_other_patient(session: Session, study: Study) -> None:
    """Record that the images of a fetched study name another patient, whatever the state of its fetch."""
    row = fetches.of_study(session, study.study_instance_uid, lock=True)
    if row is not None and row.state is not FetchState.OTHER_PATIENT:
        move(session, row, events.FETCHED_OTHER_PATIENT)


def judge(item: Arrived, former: Instance, study: Study) -> Judgement:
    """Compare a received version of an object with its current version ``former`` in ``study``, and decide
    what becomes of it.

    The pixels may be the same although the bytes differ, as in another transfer syntax. Raises StoreAway if
    the pixels were not compared ahead, because nothing is decoded while the database is locked.
    """
    found = item.found
    if (study.study_instance_uid or "") != found.study_instance_uid:
        return Judgement(Outcome.CONFLICT, "an image came again with another Study Instance UID")
    if former.pixels_sha256 != found.pixels_sha256:
        if former.path not in item.same_image:
            raise StoreAway("it was not compared yet")
        if item.same_image[former.path] is None:
            return Judgement(Outcome.CONFLICT, "an image came again and cannot be compared with the first")
        if not item.same_image[former.path]:
            return Judgement(Outcome.CONFLICT, "an image came again with other pixels")
    # The same bytes under another colour model are another picture.
    is_same_header = former.header_sha256 == found.header_sha256 and (
        former.pixels_sha256 != found.pixels_sha256
        or all(former.attributes.get(keyword) == found.attributes.get(keyword) for keyword in CODING)
    )
    if is_same_header and former.identity_sha256 == identity_sha256(found.identity):
        return Judgement(Outcome.DUPLICATE)
    return _compare_header(found, former, study, is_its_sender=item.arrival.calling_ae == former.calling_ae)


def _compare_header(found: Inspected, former: Instance, study: Study, *, is_its_sender: bool) -> Judgement:
    """Decide what becomes of an image that arrived again with another header. ``is_its_sender``: it comes
    from the sender of the current version.

    Empty patient attributes replace nothing, and only the sender of the image can correct it.
    """
    before, issuer = Patient.parse(former.patient), study.issuer_of_patient_id
    # Whether it says the same Patient ID without its issuer, which is part of the hash.
    names_no_issuer = found.patient_id and issuer and not found.issuer_of_patient_id
    lacks_issuer = names_no_issuer and before.id == patient_sha256(found.patient_id, issuer)
    patient = replace(found.patient, id=before.id) if lacks_issuer else found.patient
    lacks = lacks_issuer or patient.lacks(before)
    if patient.corrects(before):
        if is_its_sender and not lacks:
            return Judgement(Outcome.REVISION)
        return Judgement(
            Outcome.CONFLICT,
            "an image came again for another patient, with a part of the identity left empty"
            if is_its_sender
            else "an image came again from another sender for another patient",
        )
    if lacks:
        return Judgement(
            Outcome.SET_ASIDE, "it leaves patient attributes empty that the version in force has"
        )
    if is_its_sender:
        return Judgement(Outcome.REVISION)
    return Judgement(Outcome.SET_ASIDE, "corrections are taken from the sender of the version in force only")


_LOGGER = logging.getLogger(__name__)
_BATCH = 32  # one commit (4 ms of fsync) for as many objects, while others still get their turn to write
_BATCH_SECONDS = 0.1  # of reading, so that slow objects of one peer do not keep the next peer's waiting
# Until a copy is compared again with an object that another machine has not handed over.
_STORE_SECONDS, _STORE_LONGEST_SECONDS = 0.5, 30.0
_AGAIN_SECONDS = 10.0  # until a file that the disk would not read is tried again
_LONGEST_WAIT = timedelta(minutes=10)  # for an unreadable file: a bad sector never gets better


_Placed = tuple[Path, Path | None]
"""A file and the place that its rows name: another file's where the same bytes are stored already."""


class Indexer:
    """Reads listeners' journals and spooled files into the database. One thread per data folder at a time
    runs it.
    """

    def __init__(
        self, database: Database, spool: Spool, settings: Settings, inspector: Inspector | None = None
    ) -> None:
        """Prepare to index the files of ``spool``. ``inspector``: None for a new one."""
        self._database = database
        self._spool = spool
        self._data_dir = settings.node.data_dir
        self._assumed = {peer.ae_title: peer.assume_charset for peer in settings.peers if "send" in peer.may}
        self._journals: dict[Path, JournalIngest] = {}
        self._inspector = inspector or Inspector()
        self._crashes = CrashRecord(spool.crash_record)
        # Second tries take minutes: they are made one after the other beside the indexing of other files.
        self._slow = self._inspector.fresh()
        self._pool = ThreadPoolExecutor(1, "second tries")
        self._again: dict[Path, Future[Arrived | None]] = {}
        self._turns = Turns()
        self._oldest: Sequence[Path] = ()  # that waits, of each sender
        self._files = Files(settings)
        self._indexing = Indexing(spool, settings, self._inspector)
        self.behind: frozenset[str] = frozenset()
        """Marks of senders of whom more waits than was indexed in the last round, or is to be tried again."""
        self._watched: Sequence[Path] = ()
        self._unreadable: dict[Path, float] = {}  # to when they are tried again, monotonic seconds

    def waiting(self) -> int:
        """Return the number of spooled files that wait to be indexed."""
        return len(self._spool.pending())

    def change_marks(self) -> Sequence[object]:
        """Return values that change whenever a listener spools a file or writes to its journal; cheaper than
        listing the spool.
        """
        return [stamp(path) for path in self._watched]

    def run_once(self, seconds: float = float("inf")) -> int:
        """Read the journals, then index pending files, senders taking turns; return the number of files.

        In this order: when an association is known to have ended, all its objects are pending or indexed. No
        further file is begun after ``seconds``, so that the caller can look for new files.
        """
        end = time.monotonic() + seconds
        folders = journal_folders(self._data_dir)
        self._watched = [
            self._spool.incoming,
            *folders,
            *(path for folder in folders for path in folder.glob("*.jsonl")),
        ]
        for folder in folders:
            if folder not in self._journals:
                self._journals[folder] = JournalIngest(self._database, folder)
            self._journals[folder].run_once()
        pending = self._spool.pending()
        self._oldest = tuple({sender_in_name(path.name): path for path in reversed(pending)}.values())
        ready = [path for path, again in self._again.items() if again.done()]
        self._unreadable = {
            path: until for path, until in [*self._unreadable.items()] if until > time.monotonic()
        }
        waiting = (path for path in pending if path not in self._again and path not in self._unreadable)
        files = chain(ready, self._turns.in_turn(waiting))
        done = 0
        while arrived := list(self._batch(files)):
            with self._database.write() as session:
                if self._files.bucket:  # machines that share a folder share its lock
                    lock_indexing(session)
                placed = [placed for item in arrived if (placed := self._index_one(session, item))]
            for path, place in placed:  # the rows are committed
                try:
                    if place is None:
                        path.unlink(missing_ok=True)  # a copy of a stored one
                    else:
                        self._spool.settle(path, place)
                except (SpoolError, OSError) as error:  # it stays where it is, and the next scan moves it
                    _LOGGER.error("spooled file %s cannot be moved: %s", path.name, error)
                    self._unreadable[path] = time.monotonic() + _AGAIN_SECONDS
            done += len(placed)
            if time.monotonic() > end:
                break
        since = f"{datetime.now(UTC) - _LONGEST_WAIT:%Y%m%dT%H%M%S}"  # names begin with the time of arrival
        unread = (path for path in self._unreadable if path.name > since)
        self.behind = frozenset(sender_in_name(path.name) for path in (*files, *self._again, *unread))
        return done

    def forget_cursors(self) -> None:
        """Forget the read positions in the journals, so that they are loaded from the database again.

        Another process may have changed them.
        """
        self._journals.clear()

    def leave(self) -> None:
        """End as planned: the file being read is then not suspected of having killed this process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._slow.close()
        with suppress(OSError):  # a full disk, where the record never took a block: it is empty
            self._crashes.clear()

    def _batch(self, files: Iterator[Path]) -> Iterator[Arrived]:
        """Read the next files to index, and yield what was read: as many as fit into one transaction and a
        limit of time.
        """
        end, batch = time.monotonic() + _BATCH_SECONDS, list[Arrived]()
        for path in islice(files, _BATCH):
            begun, again = time.monotonic(), self._again.pop(path, None)
            item = again.result() if again else self._read_and_compare(path, batch)
            now = time.monotonic()
            if not again:
                self._turns.took(path, now - begun)
            if item:
                batch.append(item)
                yield item
            if now > end and batch:
                return

    def _read_and_compare(
        self, path: Path, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> Arrived | None:
        """Read a file, and compare it with the stored versions of its object and with the files in ``batch``,
        which are indexed before it; None if it is to be tried again later.

        ``again``: the inspector of a second try, None at the first.
        """
        try:
            item = self._read(path, again)
            self._indexing.compare_ahead(self._database, item, batch, again)
        except StoreAway:
            self._unreadable[path] = time.monotonic() + _STORE_SECONDS
        except ReaderLost as lost:
            _LOGGER.warning("spooled file %s is read once more, alone: %s", path.name, lost)
            self._again[path] = self._pool.submit(self._read_and_compare, path, again=self._slow)
        except OSError as error:
            _LOGGER.error("spooled file %s cannot be read: %s", path.name, error.strerror)
            self._unreadable[path] = time.monotonic() + _AGAIN_SECONDS
        else:
            return item
        return None

    def _read(self, path: Path, again: Inspector | None) -> Arrived:
        """Read how a spooled file arrived and what its header says. Raises StoreAway, ReaderLost, OSError.

        ``again``: the inspector of a second try, None at the first.
        """
        size = path.stat().st_size
        try:
            arrival = read_arrival(path)
        except (SpoolError, ValueError, TypeError, KeyError):
            # A file that was put into the folder by hand: without a sender.
            by_hand = Arrival("", "", "", "", 0, datetime.fromtimestamp(path.stat().st_mtime, UTC))
            return Arrived(path, by_hand, Inspected(fault="not written by our listener"), size)
        # Older objects of other senders that wait may be of the same study.
        others = [one for one in self._oldest if sender_in_name(one.name) != sender_in_name(path.name)]
        if arrival.senders and min([path, *others]) < path:
            raise StoreAway("nobody knows yet whose the study is")
        charset = self._assumed.get(arrival.calling_ae, "")
        try:
            if self._crashes.count(path.name) > 1:  # once may have another cause
                found = unread(path, "the node died twice while it was being read")
            elif again:
                found = again.inspect(path, charset, again=True)
            else:
                self._inspector.start()  # before it is noted: a node killed now did not die of this object
                with self._crashes.noted(path.name):
                    found = self._inspector.inspect(path, charset)
        except (OSError, ReaderLost):
            raise
        except Exception as error:  # noqa: BLE001  (anything may be in a received file; the next must go on)
            found = Inspected(fault=f"cannot be indexed ({type(error).__name__})")
        return Arrived(path, arrival, found, size)

    def _index_one(self, session: Session, item: Arrived) -> _Placed | None:
        """Write the rows of one file; return its path and new path, None if another process indexes it or it
        is tried again later.
        """
        known = intake.received_object(session, item.spool_name)
        if known is not None:
            # Purged, and here again after a power failure: it has no place any more.
            return self._placed(session, item.path, None if known.purged else self._data_dir / known.path)
        try:
            with session.begin_nested():
                place = self._indexing.index(session, item)
            return self._placed(session, item.path, place)
        except StoreAway:
            waited = (datetime.now(UTC) - item.arrival.received_at).total_seconds()
            self._unreadable[item.path] = time.monotonic() + min(
                max(waited / 2, _STORE_SECONDS), _STORE_LONGEST_SECONDS
            )
        except IntegrityError:
            _LOGGER.info("spooled file %s is indexed by another process", item.spool_name)
        except (NodeError, DataError) as error:  # a defect of ours; the other files are indexed all the same
            _LOGGER.error("spooled file %s is not indexed: %s", item.spool_name, type(error).__name__)
            self._unreadable[item.path] = time.monotonic() + _AGAIN_SECONDS
        return None

    def _placed(self, session: Session, path: Path, place: Path | None) -> _Placed:
        """Return the file and its new path; None as the path if the object store has a copy, so that no local
        file is needed.
        """
        is_copy = place is not None and place.name != path.name
        is_stored = is_copy and place and self._files.has(session, self._files.relative(place))
        return path, None if is_stored else place


_LENGTH = 300  # bytes: a number, a file name and a process
_THIS_PROCESS = secrets.token_hex(8)  # in a container each process of the node has the same number


class CrashRecord:
    """A file that names the spooled file being read, so that a crash can be attributed to it.

    The record survives the process, not a power failure, which no object causes.
    """

    def __init__(self, path: Path) -> None:
        """Open the record, and count a death of the node if a former process left a file name in it."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deaths, _, rest = os.pread(self._file, _LENGTH, 0).decode("utf-8", "replace").strip().partition(" ")
        self._suspect, _, process = rest.partition(" ")
        # This process lives: it reads on under another configuration.
        self._deaths = int(deaths) + (process != _THIS_PROCESS) if deaths.isdecimal() else 0

    def count(self, name: str) -> int:
        """Return how many times in a row the node died while it read the spooled file ``name``."""
        return self._deaths if name == self._suspect else 0

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Context manager: record that the spooled file ``name`` is being read, in case the node dies."""
        self._write(f"{self.count(name)} {name} {_THIS_PROCESS}")
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Record that no file is being read, or that the node stops as planned."""
        self._write("")

    def _write(self, text: str) -> None:
        """Replace the content of the record."""
        os.pwrite(self._file, text.encode("utf-8", "replace")[:_LENGTH].ljust(_LENGTH), 0)

    def __del__(self) -> None:
        """Close the file."""
        with suppress(AttributeError):
            os.close(self._file)


_ENDS = {
    events.ASSOCIATION_RELEASED: AssociationOutcome.RELEASED,
    events.ASSOCIATION_ABORTED: AssociationOutcome.ABORTED,
}


class JournalIngest:
    """Stores the lines of a listener's journal in the database, each once: the read position is stored in the
    same transaction.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        """Load the read positions in the journal ``folder`` from the database."""
        self._database, self._folder = database, folder
        with database.read() as session:
            known = session.execute(select(Cursor.name, Cursor.offset)).all()
        # Listeners of other machines have folders of their own.
        self._cursor = {name: offset for name, offset in known if (folder / name).exists()}
        self._gone: set[str] = set()

    def run_once(self) -> None:
        """Store the lines appended since the last run."""
        # First: a listener that starts now holds the lock before its file is there.
        gone, _ = listeners_of(self._folder)
        while lines := read_journal(self._folder, self._cursor):
            moved = {name: offset for name, offset, _ in lines}
            with self._database.write() as session:
                for _, _, event in lines:
                    _ingest(session, event)
                for name, offset in moved.items():
                    session.merge(Cursor(name=name, offset=offset))
            self._cursor |= moved
        if gone != self._gone:  # an association that hangs must not hold its studies open
            with self._database.write() as session:
                intake.lose_associations(session, Association.listener.in_(gone), utc_now())
            self._gone = gone
        if len(self._cursor) > 1:  # files of former listeners, or full ones
            remove_read(self._folder, self._cursor)
            if removed := {name for name in self._cursor if not (self._folder / name).exists()}:
                with self._database.write() as session:
                    session.execute(delete(Cursor).where(Cursor.name.in_(removed)))
                self._cursor = {name: at for name, at in self._cursor.items() if name not in removed}


def _ingest(session: Session, event: events.Event) -> None:
    """Store an event of the journal; of events about many objects, the event table gets their number in place
    of UIDs.
    """
    fields = event.fields
    if event.type is events.COMMITMENT_REPORTED:
        transaction, calling = str(fields["transaction"]), str(fields["calling"])
        committed, failed = fields["committed"], fields["failed"]
        intake.keep_report(session, transaction, calling, committed, failed, event.at)
        record(
            session,
            event.type,
            transaction=transaction,
            calling=calling,
            committed=len(committed),
            failed=len(failed),
        )
    elif event.type is events.COMMITMENT_ASKED:  # by a peer
        peer, calling, transaction = (str(fields[name]) for name in ("peer", "calling", "transaction"))
        objects = fields["objects"]
        refusal = requested.keep_request(session, peer, calling, transaction, objects, event.at)
        record(
            session,
            events.COMMITMENT_ASK_REFUSED if refusal else event.type,
            peer=peer,
            calling=calling,
            transaction=transaction,
            objects=len(objects),
            reason=refusal,
        )
    elif event.type is events.STEP_REPORTED:
        requested.keep_step(session, fields, event.at)
        known = fetches.present_studies(session, fields["studies"])
        names = ("step", "status", "calling", "peer", "association")
        shown = {name: fields[name] for name in names} | {"objects": len(fields["objects"])}
        for uid in fields["studies"]:
            study = known.get(uid)
            record(session, event.type, study.id if study else None, study=uid, **shown)
    else:
        append(session, event)
        _keep_association(session, event)


def _keep_association(session: Session, event: events.Event) -> None:
    """Store the beginning or the end of an association, if the event is one."""
    association = str(event.fields.get("association", ""))
    if event.type is events.ASSOCIATION_ACCEPTED:
        fields, refused = event.fields, event.fields.get("refused") or []
        session.merge(
            Association(
                id=association,
                listener=str(fields.get("listener", "")),
                calling_ae=str(fields.get("calling", ""))[:16],
                called_ae=str(fields.get("called", ""))[:16],
                address=str(fields.get("address", "")),
                opened_at=event.at,
                closed_at=None,
                outcome=AssociationOutcome.OPEN,
                objects=0,
                refused=refused,
                refused_count=fields.get("refused_count") or len(refused),
                reason="",
            )
        )
        session.flush()
    elif event.type in _ENDS:
        session.execute(
            update(Association)
            .where(Association.id == association, Association.closed_at.is_(None))
            .values(
                closed_at=event.at,
                outcome=_ENDS[event.type],
                objects=int(event.fields.get("objects") or 0),
                reason=str(event.fields.get("reason") or ""),
            )
        )
    elif event.type is events.LISTENER_STOPPED:
        intake.lose_associations(session, Association.listener == event.fields.get("listener"), event.at)


_STUDIES = 100  # studies in one transaction: it holds up other writers for some 50 ms


def purge(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete the received objects of studies that ended ``spool.keep_days`` ago; return the number of files.

    Quarantined studies, and studies with a result that is not confirmed, are left alone. The rows are
    committed first; a file that a crash leaves behind is deleted when spool and index are compared.
    """
    before = (now or utc_now()) - timedelta(days=settings.spool.keep_days)
    total, studies = 0, [0]
    while studies:
        studies, number = _purge(database, settings, before, _STUDIES)
        total += number
    return total


def purge_results(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete the files of results that are older than ``spool.result_days`` (0: never); return their number.

    Their rows stay, and are locked while the files are deleted, so that no process sends one meanwhile. A
    file is deleted before its row says so: after a crash the row is found again the next time.
    """
    if not settings.spool.result_days:
        return 0
    before = (now or utc_now()) - timedelta(days=settings.spool.result_days)
    total, files = 0, Files(settings)
    while True:
        with database.write() as session:
            rows = results.lock_outdated(session, before, _STUDIES)
            files.delete(*(row.path for row in rows))
            for row in rows:
                row.purged = True
            if rows:
                record(session, events.FILES_PURGED, results=len(rows))
        if not rows:
            return total
        total += len(rows)


def purge_now(
    database: Database, settings: Settings, study_ids: Sequence[int], also: Callable[[Session, int], None]
) -> list[int]:
    """Delete the received objects of these studies regardless of their age, if all results are delivered;
    return the studies whose objects were deleted.

    ``also`` writes in the same transaction, called for each of them.
    """
    tomorrow = utc_now() + timedelta(days=1)
    return _purge(database, settings, tomorrow, len(study_ids), study_ids, also)[0]


def _purge(
    database: Database,
    settings: Settings,
    before: datetime,
    most: int,
    among: Sequence[int] | None = None,
    also: Callable[[Session, int], None] | None = None,
) -> tuple[list[int], int]:
    """Mark objects of at most ``most`` purgeable studies as deleted, end their reviews, and delete the files;
    return the study ids and the number of files.

    Parameters as of ``intake.purgeable`` and ``purge_now``. Files that an unreachable object store keeps are
    deleted when it is compared with the index.
    """
    with database.write() as session:
        studies = intake.lock_purgeable(session, before, most, among)
        paths = [path for study_id in studies for path in intake.mark_purged(session, study_id)]
        for study_id in studies:
            session.execute(
                update(CleaningReview)
                .where(CleaningReview.study_id == study_id, CleaningReview.verdict.is_(None))
                .values(verdict=ReviewVerdict.REPLACED, decided_at=utc_now())
            )
            if also:
                also(session, study_id)
        if paths:
            record(session, events.FILES_PURGED, objects=len(paths))
    with suppress(StoreAway):
        Files(settings).delete(*paths)
    return studies, len(paths)


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between the files of the spool and the index.

    ``unknown``: files without a row, in order of arrival. ``left_over``: files whose row says that they are
    deleted. ``missing``: the number of rows whose file does not exist.
    """

    unknown: Sequence[Path]
    left_over: Sequence[Path]
    missing: int

    def __str__(self) -> str:
        """Return the differences that a person should act on, with the remedies; "" if there are none."""
        parts = []
        if self.unknown:
            parts.append(f"objects unknown to the database: {len(self.unknown)} (dicom-node spool reindex)")
        if self.missing:
            parts.append(f"objects of the database without a file: {self.missing} (restore or send again)")
        return "; ".join(parts)


def compare(database: Database, spool: Spool, files: Files) -> Difference:
    """Compare the files of the spool with the rows of the index, both ways; takes some 20 s for a million
    objects. Raises StoreAway.
    """
    unknown, left_over = [], []
    in_store = set(files.stored("spool"))
    fetched = (files.data_dir / key for key in in_store if key.endswith(".dcm"))  # where it lies then
    only_there = (path for path in fetched if not path.is_file())
    for batch in batches(chain(spool.stored(), only_there)):
        with database.read() as session:
            purged = intake.indexed(session, [path.stem for path in batch])
        unknown += [path for path in batch if path.stem not in purged]
        left_over += [path for path in batch if purged.get(path.stem)]
    with database.read() as session:
        # Maybe elsewhere: on the way from another machine.
        there = in_store | waiting_paths(session)
    last = missing = 0
    while True:
        with database.read() as session:
            rows = intake.paths_after(session, last, 500)
        if not rows:
            break
        last = rows[-1][0]
        paths = (files.data_dir / path for _, path in rows if path not in there)
        # at its place, or still on the way to it
        missing += sum(not (one.is_file() or spool.is_pending(one.name) or one.is_file()) for one in paths)
    return Difference(sorted(unknown, key=lambda path: path.name), left_over, missing)


def reconcile(database: Database, spool: Spool, files: Files) -> None:
    """Delete files whose row says that they are deleted; record event 2030 for other differences between
    spool and index, and 2036 when there are none any more.

    Files that were never indexed are never deleted here: ``reindex`` puts them back.
    """
    try:
        found = compare(database, spool, files)
    except StoreAway:  # the handover logs it; tried again tomorrow
        return
    for path in found.left_over:
        files.delete(files.relative(path))
    numbers = events.SPOOL_DIFFERS.number, events.SPOOL_AGREES.number
    with database.write() as session:
        if text := str(found):
            record(
                session, events.SPOOL_DIFFERS, unknown=len(found.unknown), missing=found.missing, remedy=text
            )
        elif any(one["number"] == numbers[0] for one in views.list_events(session, numbers=numbers, limit=1)):
            record(session, events.SPOOL_AGREES)


def reindex(database: Database, spool: Spool, files: Files, progress: Callable[[int, int], None]) -> int:
    """Move files without a row back to ``incoming``, where the node indexes them like any other; return their
    number.

    Associations that were open when the database was saved are closed: their listeners, and the journals with
    their ends, are gone, and their studies would wait. ``progress`` is called with (done, all). May be
    interrupted and run again. Raises SpoolError.
    """
    writing = set().union(*(listeners_of(folder)[1] for folder in journal_folders(files.data_dir)))
    with database.write() as session:
        intake.lose_associations(session, Association.listener.not_in(writing), utc_now())
    unknown = compare(database, spool, files).unknown
    for done, path in enumerate(unknown, 1):
        files.fetch_unknown(path)
        spool.put_back(path)
        progress(done, len(unknown))
    if unknown:
        with database.write() as session:
            record(session, events.OBJECTS_REINDEXED, objects=len(unknown))
    reconcile(database, spool, files)
    return len(unknown)
