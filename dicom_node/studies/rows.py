"""The rows of a received object, and what it does to its study.

A study that changed or is in doubt is stopped: a conflict puts it into quarantine.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Arrival, Claim, every
from dicom_node.base.dicom.identity import identity_sha256
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    READ_FROM_WORK,
    ObjectRole,
    Outcome,
    StudyState,
)
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store import (
    fetches,
    intake,
    merges,
    results,
    sight,
)
from dicom_node.base.store.tables import (
    Instance,
    ReceivedObject,
    Study,
)
from dicom_node.base.store.transitions import (
    move_study,
    record,
    steady_now,
)
from dicom_node.jobs.queue import decide_study, forward_late
from dicom_node.jobs.roles import role_by_rules
from dicom_node.receive.inspection import Inspected
from dicom_node.receive.spool import (
    Spool,
    sender_in_name,
)
from dicom_node.studies.comparison import Comparison
from dicom_node.studies.corrections import note_other_id
from dicom_node.studies.fetched import OTHER_STUDY, is_of_another_study
from dicom_node.studies.judgement import TWO_PATIENTS, Arrived, Judgement, judge
from dicom_node.studies.quarantine import drop_waiting, quarantine_study, stop_study

_PRIORITY = {1: 1, 2: -1}  # C-STORE priority (PS3.7 9.1.1: 0 medium, 1 high, 2 low) → ours
_EVENTS: dict[Outcome, events.EventType] = {
    Outcome.NEW: events.OBJECT_INDEXED,
    Outcome.DUPLICATE: events.OBJECT_DUPLICATE,
    Outcome.REVISION: events.OBJECT_REVISED,
    Outcome.CONFLICT: events.OBJECT_CONFLICT,
    Outcome.QUARANTINED: events.OBJECT_QUARANTINED,
    Outcome.SET_ASIDE: events.IDENTITY_NOT_TAKEN,
}
_OF_NOBODY: dict[str, Any] = {
    **dict.fromkeys(("study_instance_uid", "patient_id", "issuer_of_patient_id", "study_date"), ""),
    "identity": {},
}
_OF_OTHERS = (ObjectRole.SOURCE, ObjectRole.NON_SOURCE)
_NOT_SEEN = "its study, or the object, is here from senders that the user who stored it does not see"


@dataclass(frozen=True, slots=True)
class JudgedObject:
    """A received object with its study and its ``role`` there, what becomes of it (``judgement``) and the
    ``place`` of its file.

    ``former``: its current version, None if it has none.
    """

    study: Study
    item: Arrived
    role: ObjectRole
    former: Instance | None
    judgement: Judgement
    place: Path

    @property
    def is_faulty_copy(self) -> bool:
        """Whether nothing is known of it but the intact object: same patient and study, as far as read; both
        are in the hash of the identity.

        It changes nothing, so no sender can replace, hide or stop a good object by it. One whose identity is
        another or unreadable may be a correction: then nothing may leave with the old name.
        """
        found, former = self.item.found, self.former
        if not found.fault or not found.identity or former is None:
            return False
        return former.identity_sha256 == identity_sha256(found.identity)


class ObjectRows:
    """Writes the database rows of received objects, one after the other, in the caller's transaction."""

    def __init__(self, spool: Spool, settings: Settings, comparison: Comparison) -> None:
        """Prepare to index the files of ``spool``; ``comparison`` finds stored copies."""
        self._spool, self._comparison, self._settings = spool, comparison, settings
        self._files = Files(settings)
        self._peers = {peer.ae_title: peer for peer in settings.peers if "send" in peer.may}
        self.names = PatientNames(settings.node.data_dir, make_key=True)
        self._offers = [offer for make in every("arrivals") if (offer := make(settings))]

    def index(self, session: Session, item: Arrived) -> Path:
        """Write the rows of a received object; return the path for its file, or of a stored file with the
        same bytes.

        Raises IntegrityError if another process indexed it first, StoreAway if it must be compared with an
        object that another machine has not uploaded yet.
        """
        item = _as_seen(session, item)
        if claim := self._claimed(session, item):
            return self._write_claimed(session, item, claim)
        role = self._role(session, item)
        study = self._study(session, item, role)  # locked first: what is stored of it cannot be purged now
        kept = self._comparison.stored_copy(session, item)
        former = intake.instance(session, item.found.sop_instance_uid)
        judgement = self._judge(session, study, item, role, former)
        bad = judgement.outcome in (Outcome.CONFLICT, Outcome.QUARANTINED)
        if kept:
            place = self._files.data_dir / kept.path
        else:
            place = self._spool.place(item.path, None if bad else item.found.study_instance_uid)
        judged = JudgedObject(study, item, role, former, judgement, place)
        if kept and kept.study_id == study.id and (bad or kept.outcome is Outcome.SET_ASIDE):
            # It repeats this copy, of which a person may have decided since.
            repeated = replace(judged, judgement=Judgement(kept.outcome, kept.reason))
            self._write_received(session, repeated)
            _record(session, study, item, events.OBJECT_DUPLICATE)
        elif judged.is_faulty_copy:
            reason = f"{judgement.reason}: the intact copy of it stays in force"
            set_aside = replace(judged, judgement=replace(judgement, reason=reason))
            self._write_received(session, set_aside)
            _record(session, study, item, events.IDENTITY_NOT_TAKEN, reason)
        elif bad:
            self._quarantine(session, judged)
        else:
            self._accept(session, judged)
        return place

    def _claimed(self, session: Session, item: Arrived) -> Claim | None:
        """Return the claim of the connector that takes this object; None if no connector does, or if it is a
        result of ours.
        """
        found, arrival = item.found, item.arrival
        if not self._offers or results.is_result(session, found.sop_instance_uid):
            return None
        offered = Arrival(
            arrival.calling_ae,
            found.study_instance_uid,
            found.sop_instance_uid,
            found.dataset_sha256,
            arrival.received_at,
        )
        return next(filter(None, (offer(session, offered) for offer in self._offers)), None)

    def _write_claimed(self, session: Session, item: Arrived, claim: Claim) -> Path:
        """Write the row of an object that a connector takes; return the path for its file.

        In quarantine, in the entry of its sender, it says nothing of patient and study: these are of others.
        """
        role = ObjectRole.NON_SOURCE
        if claim.study_id is None:
            found = replace(item.found, **_OF_NOBODY, fault=item.found.fault or claim.reason)
            item = replace(item, found=found)
            study, judgement = self._study(session, item, role), Judgement(Outcome.QUARANTINED, found.fault)
            if study.state is not StudyState.QUARANTINED:  # of a flood the first one
                _record(session, study, item, claim.event, claim.reason)
            place = self._spool.place(item.path, None)
            self._quarantine(session, JudgedObject(study, item, role, None, judgement, place))
            return place
        study, judgement = session.get_one(Study, claim.study_id), Judgement(Outcome.ANSWER, claim.reason)
        place = self._spool.place(item.path, item.found.study_instance_uid)
        received = self._write_received(session, JudgedObject(study, item, role, None, judgement, place))
        if claim.keep:
            claim.keep(received)
        _record(session, study, item, claim.event, claim.reason)
        return place

    def make_current(self, session: Session, study: Study, item: Arrived) -> None:
        """Make this version, which a person chose, the current one, without moving its file."""
        row = self._write_instance(session, study, item, self._role(session, item), item.path)
        row.study_id, row.pixels_sha256 = study.id, item.found.pixels_sha256
        session.flush()

    def _judge(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, former: Instance | None
    ) -> Judgement:
        """Decide whether the object is faulty, new, a duplicate, a revision, or in conflict with its study or
        its current version ``former`` (None: it has none).
        """
        found = item.found
        if found.fault:
            return Judgement(Outcome.QUARANTINED, found.fault)
        if is_of_another_study(session, item.arrival.association, found.study_instance_uid):
            return Judgement(Outcome.QUARANTINED, OTHER_STUDY)
        if role is ObjectRole.OWN:  # a PACS may have changed it on its way: we know what we sent
            return Judgement(Outcome.DUPLICATE if former else Outcome.NEW)
        if former is None:
            others = intake.patients(session, study.id, _OF_OTHERS)
            if any(found.patient.contradicts(other) for other in others):
                return Judgement(Outcome.CONFLICT, TWO_PATIENTS)
            return Judgement(Outcome.NEW, found.remark)
        there = session.get_one(Study, former.study_id)
        who = found.patient_id, found.issuer_of_patient_id, found.patient
        return judge(item, former, there, is_awaited=merges.is_awaited(session, there, *who))

    def _role(self, session: Session, item: Arrived) -> ObjectRole:
        """Return the role of the object in its study: own result, source of an analysis, or neither.

        What bears our mark, but the UID of an object of others, is judged as any version of that is.
        """
        uid = item.found.sop_instance_uid
        if item.found.own or results.is_result(session, uid):
            former = intake.instance(session, uid)
            if former is None or former.role is ObjectRole.OWN:
                return ObjectRole.OWN
        sender = self._settings.sender_names.get(item.arrival.calling_ae, "")
        return role_by_rules(self._settings, item.found.sop_class_uid, item.found.modality, sender)

    def _study(self, session: Session, item: Arrived, role: ObjectRole) -> Study:
        """Return the study of the object, created if it is new; one of our results names no patient.

        All objects of a sender without Study Instance UID within an hour share one entry, so that they do not
        flood the list.
        """
        found, at = item.found, item.arrival.received_at
        uid, mark = found.study_instance_uid or None, sender_in_name(item.path.name)
        if uid:
            study = intake.study(session, uid)
        else:
            study = intake.faulty_entry(session, mark, at - timedelta(hours=1)) if mark else None
        priority = _PRIORITY.get(item.arrival.priority, 0)
        if study is not None:
            study.priority = max(study.priority, priority)
            return study
        study = Study(
            study_instance_uid=uid,
            first_received_at=at,
            last_received_at=at,
            due_at=self._due_at(item),
            priority=priority,
        )
        session.add(study)
        session.flush()
        if role is not ObjectRole.OWN:
            self.describe_study(session, study, found)
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
        due_at = self._due_at(item)
        study.due_at = max(due_at, study.due_at) if study.due_at else due_at
        session.flush()
        if outcome is Outcome.REVISION and role is ObjectRole.SOURCE:
            # Nothing more may leave with the old name, or the old side, on it.
            stop_study(session, study, "an image came again with another header")
        if study.state is not StudyState.RECEIVING:
            drop_waiting(session, study, f"replaced by revision {study.revision} of the study")
            move_study(session, study, events.STUDY_REOPENED)

    def _due_at(self, item: Arrived) -> datetime:
        """Return when the study is complete if nothing arrives after this object, by its sender or
        modality.
        """
        peer, assembly = self._peers.get(item.arrival.calling_ae), self._settings.assembly
        seconds = assembly.quiet_seconds_us if item.found.modality == "US" else assembly.quiet_seconds
        if peer is not None and peer.quiet_seconds is not None:
            seconds = peer.quiet_seconds
        return steady_now() + timedelta(seconds=seconds)

    def _accept(self, session: Session, judged: JudgedObject) -> None:
        """Make an object part of its study; a new one and a revision become the current version."""
        study, item, former = judged.study, judged.item, judged.former
        outcome, row = judged.judgement.outcome, None
        self._receive(session, study, item, judged.role, outcome)
        if former is None or outcome is Outcome.REVISION:
            row = self._write_instance(session, study, item, judged.role, judged.place)
        elif former.purged and outcome is Outcome.DUPLICATE:
            # The new copy takes its place.
            former.path, former.purged = self._files.relative(judged.place), False
            former.transfer_syntax_uid = item.found.transfer_syntax_uid
        self._write_received(session, judged)
        if row is not None:
            add_prior_queries(session, study, row, self._settings)
            if judged.role is ObjectRole.NON_SOURCE and study.state in READ_FROM_WORK:
                forward_late(session, study, row, self._settings)
        _record(session, study, item, _acceptance(session, judged), judged.judgement.reason)

    def _quarantine(self, session: Session, judged: JudgedObject) -> None:
        """Write the row of an object that is in conflict or faulty, and quarantine its study, and the other
        study that has the object already.

        A further object in an entry without Study Instance UID gets no event of its own.
        """
        study, item, former = judged.study, judged.item, judged.former
        reason = _with_object(judged.judgement.reason, item)
        study.last_received_at = max(study.last_received_at, item.arrival.received_at)
        self._write_received(session, judged)
        if study.study_instance_uid is not None or study.state is not StudyState.QUARANTINED:
            outcome = judged.judgement.outcome
            _record(session, study, item, _EVENTS[outcome], judged.judgement.reason)
            is_faulty = outcome is Outcome.QUARANTINED
            what_to_do = "; send it again repaired, or release the study without it" if is_faulty else ""
            quarantine_study(session, study, reason + what_to_do)
        if former is not None and former.study_id != study.id and not item.found.fault:
            quarantine_study(session, session.get_one(Study, former.study_id), reason)

    def _write_instance(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, place: Path
    ) -> Instance:
        """Make this version the current one.

        The study's patient is that of the first object that is not our own, and then of each corrected image.
        """
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
        is_first = role is not ObjectRole.OWN and not intake.patients(session, study.id, _OF_OTHERS)
        session.add(row)
        if is_first or (former is not None and role is ObjectRole.SOURCE):
            note_other_id(session, study, found.patient_id, found.issuer_of_patient_id)
            self.describe_study(session, study, found)
        session.flush()
        return row

    def describe_study(self, session: Session, study: Study, found: Inspected) -> None:
        """Set patient, accession number and date of a study to those of the object ``found``."""
        study.patient_id, study.issuer_of_patient_id = found.patient_id, found.issuer_of_patient_id
        study.accession_number = found.identity.get("AccessionNumber", "")[:16]  # SH, PS3.5 6.2
        study.study_date = found.study_date
        self.names.enter(session, study, found.identity.get("PatientName", ""))

    def _write_received(self, session: Session, judged: JudgedObject) -> int:
        """Add the row of a received object, with what became of it; return its id."""
        item = judged.item
        row = ReceivedObject(
            spool_name=item.spool_name,
            path=self._files.relative(judged.place),
            dataset_sha256=item.found.dataset_sha256,
            sha256="" if self._files.bucket and judged.place.stem == item.spool_name else None,
            study_id=judged.study.id,
            sop_instance_uid=item.found.sop_instance_uid,
            outcome=judged.judgement.outcome,
            reason=judged.judgement.reason,
            association=item.arrival.association,
            calling_ae=item.arrival.calling_ae,
            called_ae=item.arrival.called_ae,
            bytes=item.size,
            received_at=item.arrival.received_at,
        )
        session.add(row)
        session.flush()
        return row.id


def _as_seen(session: Session, item: Arrived) -> Arrived:
    """Return the object; without its content if a user who sees some senders only stored it where others'
    objects are, so that it changes nothing of them.
    """
    found, senders = item.found, item.arrival.senders
    if not senders:
        return item
    with sight.seen_by(senders):
        if not sight.is_hidden(session, found.study_instance_uid, found.sop_instance_uid):
            return item
    return replace(item, found=Inspected(found.transfer_syntax_uid, fault=_NOT_SEEN))


def _acceptance(session: Session, judged: JudgedObject) -> events.EventType:
    """Return the event that records an accepted object."""
    if judged.role is not ObjectRole.OWN or judged.judgement.outcome is not Outcome.NEW:
        return _EVENTS[judged.judgement.outcome]
    if results.is_result(session, judged.item.found.sop_instance_uid):
        return events.OWN_RESULT_RETURNED
    return events.UNKNOWN_RESULT  # of another node, or a copied mark


def _record(session: Session, study: Study, item: Arrived, event: events.EventType, reason: str = "") -> None:
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

    None for a study whose results stay here.
    """
    if not settings.queried_by_rules or image.role is not ObjectRole.SOURCE or not study.study_instance_uid:
        return
    if not intake.stays_here(session, study.id):
        for decision in decide_study(session, study, [image], settings):
            if decision.rule.priors and not decision.held_reason:
                fetches.add_prior_query(session, study, decision.rule.name, decision.rule.priors)
