"""Indexing of one received object: its rows, the version in force, and the effect on its study.

Checks that a fetched object belongs to the requested study and to the patient named in the answer.

Questions to peers about a study, from the rules that take an image of it.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import CODING
from dicom_node.base.dicom.identity import Patient, identity_sha256, patient_sha256
from dicom_node.base.dicom.uids import role_of
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.files import Files
from dicom_node.base.kinds import ObjectRole, Outcome
from dicom_node.base.lifecycle import READ_FROM_WORK, FetchState, StudyState
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store import fetches, intake, requested, results, sight
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Fetch, Instance, ReceivedObject, Study
from dicom_node.base.store.transitions import move, move_study, record, steady_now
from dicom_node.jobs.enqueue import decide_study, forward_late
from dicom_node.receive.inspection import Arrival, Inspected, same_object
from dicom_node.receive.inspector import Inspector
from dicom_node.receive.spool import Spool, marked
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
_COMPARED = 20  # versions of one object that a new one is compared with at most
_NOT_SEEN = "its study, or the object, is here from senders that the user who stored it does not see"
_LOOK_BACK = 3  # objects that show how a sender uses associations
_ONE_ENTRY = timedelta(hours=1)  # a sender's faulty objects without a study are one entry for so long


@dataclass(frozen=True, slots=True)
class Arrived:
    """A spooled file with its arrival and its content. ``size`` in bytes, file header included.

    By the path of an indexed file: ``copies``, whether it has the same bytes; ``same_image``, whether it
    decodes to the same samples, None where one of both does not decode.
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
    """The outcome for a new version; ``reason`` is one sentence if it is not accepted."""

    outcome: Outcome
    reason: str = ""


class Indexing:
    """Indexes objects, one after the other, within the caller's transaction."""

    def __init__(self, spool: Spool, settings: Settings, inspector: Inspector) -> None:
        self._spool = spool
        self._inspector = inspector
        self._settings = settings
        self._files = Files(settings)
        self._peers = {peer.ae_title: peer for peer in settings.peers if "send" in peer.may}
        self._further = frozenset(settings.listener.further_storage_classes)
        self._mpps = any(peer.mpps for peer in settings.peers)
        self._grabbers = {name for rule in settings.rules for name in rule.secondary_captures_from}
        self.names = PatientNames(settings.node.data_dir, make_key=True)

    def compare_ahead(
        self, database: Database, item: Arrived, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> None:
        """Compare with objects that were received before, before the database is locked for writing.

        ``batch``: those that are to be indexed before it. Raises ReaderLost, unless it is tried ``again``,
        by this inspector.
        """
        uid, pixels = item.found.sop_instance_uid, item.found.pixels_sha256
        with database.read() as session, suppress(StoreAway):  # it waits: indexing says so
            self._kept_copy(session, item)
            former = intake.instance(session, uid)
            known = [(former.path, former.pixels_sha256)] if former else []
            for one in batch:
                if one.found.sop_instance_uid == uid and not one.found.fault:
                    place = self._files.relative(self._place(one, bad=False))
                    known.append((place, one.found.pixels_sha256))
            for path, sha256 in known if not item.found.fault else ():
                if sha256 != pixels:
                    item.same_image[path] = None  # where one does not decode or is purged
                    with suppress(NotInSpool):
                        first, inspector = self._where(session, path, item), again or self._inspector
                        item.same_image[path] = inspector.same_image(first, item.path, again=bool(again))

    def index(self, session: Session, item: Arrived) -> Path:
        """Write the object's rows; returns the path for its file, or of a stored file with the same bytes.

        Raises IntegrityError if another process indexed it first, StoreAway if it must be compared with an
        object that another machine has not uploaded yet.
        """
        with sight.seen_by(item.arrival.senders):
            is_hidden = bool(item.arrival.senders) and sight.is_hidden(
                session, item.found.study_instance_uid, item.found.sop_instance_uid
            )
        if is_hidden:  # by a person who sees some senders only: it changes nothing of others
            item = replace(item, found=Inspected(item.found.transfer_syntax_uid, fault=_NOT_SEEN))
        found = item.found
        study = self._study(session, item)  # locked first: what is stored of it cannot be purged from here on
        kept = self._kept_copy(session, item)
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
        if kept and kept.study_id == study.id and (bad or kept.outcome is Outcome.SET_ASIDE):
            # It repeats this copy, of which a person may have decided since.
            self._write_received(session, study, item, Judgement(kept.outcome, kept.reason), place)
            self._record(session, study, item, events.OBJECT_DUPLICATE)
            return place
        if _is_faulty_copy(found, former, study):
            self._write_received(session, study, item, judgement, place)
            self._record(session, study, item, events.IDENTITY_NOT_TAKEN, reason=judgement.reason)
            return place
        if bad:
            self._quarantine(session, study, item, judgement, place)
            if former is not None and former.study_id != study.id and not found.fault:
                other = session.get_one(Study, former.study_id)
                quarantine_study(session, other, _with_object(judgement.reason, item))
            return place
        self._receive(session, study, item, role, judgement.outcome)
        late: Instance | None = None
        if judgement.outcome is Outcome.REVISION or (former is None and judgement.outcome is Outcome.NEW):
            row = self._write_instance(session, study, item, role, place)
            ask_about(session, study, row, self._settings)
            late = row if role is ObjectRole.NON_SOURCE and study.state in READ_FROM_WORK else None
        elif former is not None and former.purged and judgement.outcome is Outcome.DUPLICATE:
            # The new copy takes its place.
            former.path, former.purged = self._files.relative(place), False
            former.transfer_syntax_uid = item.found.transfer_syntax_uid
        self._write_received(session, study, item, judgement, place)
        if late is not None:
            forward_late(session, study, late, self._settings)
        event = _EVENTS[judgement.outcome]
        if role is ObjectRole.OWN and judgement.outcome is Outcome.NEW:
            # Unknown: of another node, or a copied mark.
            is_ours = results.is_result(session, found.sop_instance_uid)
            event = events.OWN_RESULT_RETURNED if is_ours else events.UNKNOWN_RESULT
        self._record(session, study, item, event, reason=judgement.reason)
        return place

    def take(self, session: Session, study: Study, item: Arrived) -> None:
        """Make this version, which a person chose, the version in force, without moving its file."""
        row = self._write_instance(session, study, item, self._role(session, item), item.path)
        row.study_id, row.pixels_sha256 = study.id, item.found.pixels_sha256
        session.flush()

    def _kept_copy(self, session: Session, item: Arrived) -> ReceivedObject | None:
        """The first received object with the same bytes; None when there is none."""
        if not item.arrival.calling_ae:  # a stray file, not written by the listener
            return None
        rows = intake.kept_copies(session, item.found.sop_instance_uid, _COMPARED)
        return next((row for row in rows if self._is_copy(session, row.path, item)), None)

    def _is_copy(self, session: Session, kept: str, item: Arrived) -> bool:
        if kept not in item.copies:
            try:
                item.copies[kept] = same_object(self._where(session, kept, item), item.path)
            except (OSError, struct.error, NotInSpool):  # gone or truncated: then this one is stored
                item.copies[kept] = False
        return item.copies[kept]

    def _where(self, session: Session, kept: str, item: Arrived) -> Path:
        """An indexed file; one of the same batch was not moved yet."""
        on_its_way = item.path.with_name(Path(kept).name)
        return on_its_way if on_its_way.is_file() else self._files.here(session, kept)

    def _judge(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, former: Instance | None
    ) -> Judgement:
        if role is ObjectRole.OWN:  # a PACS may have changed it on its way: we know what we sent
            return Judgement(Outcome.DUPLICATE if former else Outcome.NEW)
        if former is None:
            others = intake.patients(session, study.id, (ObjectRole.SOURCE, ObjectRole.NON_SOURCE))
            if any(item.found.patient.contradicts(other) for other in others):
                return Judgement(Outcome.CONFLICT, TWO_PATIENTS)
            return Judgement(Outcome.NEW)
        return judge(item, former, session.get_one(Study, former.study_id))

    def _role(self, session: Session, item: Arrived) -> ObjectRole:
        if item.found.own or results.is_result(session, item.found.sop_instance_uid):
            return ObjectRole.OWN
        grabber = self._settings.sender_names.get(item.arrival.calling_ae, "") in self._grabbers
        return role_of(item.found.sop_class_uid, self._further, takes_secondary_captures=grabber)

    def _study(self, session: Session, item: Arrived) -> Study:
        """The object's study. Objects without Study Instance UID are listed as one entry of their sender: a
        flood of them fills no list.
        """
        found, at = item.found, item.arrival.received_at
        uid, mark = found.study_instance_uid or None, marked(item.path.name)
        if uid:
            study = intake.study(session, uid)
        else:
            study = intake.faulty_entry(session, mark, at - _ONE_ENTRY) if mark else None
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
        if self._mpps:
            requested.adopt_events(session, study)
        record(session, events.STUDY_RECEIVING, study.id, study=uid, calling=item.arrival.calling_ae)
        return study

    def _receive(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, outcome: Outcome
    ) -> None:
        """Put the study's quiet time off, or reopen it; a non-source puts it off but reopens nothing."""
        if role is ObjectRole.OWN or outcome in (Outcome.DUPLICATE, Outcome.SET_ASIDE):
            return
        study.last_received_at = max(study.last_received_at, item.arrival.received_at)
        if study.state is StudyState.QUARANTINED:
            return
        if study.state is not StudyState.RECEIVING:
            if role is not ObjectRole.SOURCE:
                return
            study.revision += 1
        # The end of the quiet time after this object; doubled for one association an image.
        seconds = self._quiet_seconds(item)
        last = [item.arrival.association, *intake.last_associations(session, study.id, _LOOK_BACK - 1)]
        if len(last) > 1 and len(set(last)) == len(last):
            seconds *= 2
        due_at = steady_now() + timedelta(seconds=seconds)
        study.due_at = max(due_at, study.due_at) if study.due_at else due_at
        session.flush()
        if outcome is Outcome.REVISION and role is ObjectRole.SOURCE:
            # Nothing more may leave with the old name, or the old side, on it.
            stop_study(session, study, "superseded: an image came again with another header")
        if study.state is not StudyState.RECEIVING:
            drop_waiting(session, study, f"superseded by revision {study.revision}")
            move_study(session, study, events.STUDY_REOPENED)

    def _quiet_seconds(self, item: Arrived) -> float:
        peer = self._peers.get(item.arrival.calling_ae)
        if peer is not None and peer.quiet_seconds is not None:
            return peer.quiet_seconds
        assembly = self._settings.assembly
        return assembly.quiet_seconds_us if item.found.modality == "US" else assembly.quiet_seconds

    def _quarantine(
        self, session: Session, study: Study, item: Arrived, judgement: Judgement, place: Path
    ) -> None:
        """Record an object that is not put in force, and quarantine its study.

        A further one of an entry without Study Instance UID is counted there, without an event of its own.
        """
        study.last_received_at = max(study.last_received_at, item.arrival.received_at)
        self._write_received(session, study, item, judgement, place)
        if study.study_instance_uid is None and study.state is StudyState.QUARANTINED:
            return
        self._record(session, study, item, _EVENTS[judgement.outcome], reason=judgement.reason)
        quarantine_study(session, study, _with_object(judgement.reason, item))

    def _write_instance(
        self, session: Session, study: Study, item: Arrived, role: ObjectRole, place: Path
    ) -> Instance:
        """Put this version in force; the study's patient is that of the newest version."""
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
            study.patient_id, study.issuer_of_patient_id = found.patient_id, found.issuer_of_patient_id
            study.accession_number, study.study_date = _accession(found), found.study_date
            self.names.enter(session, study, found.identity.get("PatientName", ""))
        session.flush()
        return row

    def _place(self, item: Arrived, *, bad: bool) -> Path:
        if bad:
            return self._spool.quarantine_place(item.path)
        return self._spool.place(item.path, item.found.study_instance_uid)

    def _write_received(
        self, session: Session, study: Study, item: Arrived, judgement: Judgement, place: Path
    ) -> None:
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


def _is_faulty_copy(found: Inspected, former: Instance | None, study: Study) -> bool:
    """Whether nothing but the intact object itself is known of it: same study, same patient, as far as read.

    It changes nothing, so no sender can replace, hide or stop a good object by it. One whose identity is
    another or cannot be read may be a correction, after which nothing may leave with the old name.
    """
    if not (found.fault and former and former.study_id == study.id and found.identity):
        return False
    return former.identity_sha256 == identity_sha256(found.identity)


def _accession(found: Inspected) -> str:
    return found.identity.get("AccessionNumber", "")[:16]  # SH, PS3.5 6.2


def _with_object(reason: str, item: Arrived) -> str:
    """The reason with the object, its sender and the time: the study may have hundreds of objects."""
    at, uid = item.arrival.received_at, item.found.sop_instance_uid or "without SOP Instance UID"
    sender = item.arrival.calling_ae or "an unknown sender"
    return f"{reason} (object {uid} from {sender}, {at:%Y-%m-%d %H:%M:%S} UTC)"


def ask_about(session: Session, study: Study, image: Instance, settings: Settings) -> None:
    """Add the questions of the rules that take this image, each once per revision.

    Nothing is asked about a study that was fetched as a prior: its priors would have priors.
    """
    if not settings.asked_by_rules or image.role is not ObjectRole.SOURCE or not study.study_instance_uid:
        return
    if not fetches.is_prior(session, study.id):
        for decision in decide_study(session, study, [image], settings):
            if decision.rule.priors and not decision.held_reason:
                fetches.add_question(session, study, decision.rule.name, decision.rule.priors)


OTHER_PATIENT = "the fetched images name another patient than the peer's answer"
OTHER_STUDY = "it came in answer to the retrieval of another study"
_ASSOCIATION = "fetch-"  # fetch.incoming.ASSOCIATION


def is_of_another_study(session: Session, association: str, study_instance_uid: str) -> bool:
    """Whether an object arrived on our own association, during the retrieval of another study."""
    number = association.removeprefix(_ASSOCIATION)
    if number == association or not number.isdecimal():
        return False
    row = session.get(Fetch, int(number))
    return row is None or row.study_instance_uid != study_instance_uid


def is_of_another_patient(session: Session, study: Study) -> bool:
    """Whether a study's images name another patient than the query answer that led to the fetch.

    False once :func:`note_other_patient` was called: a person who releases the study from quarantine has
    looked.
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
    """Record that the images of a fetched study name another patient, whatever its fetch is doing now."""
    row = fetches.of_study(session, study.study_instance_uid, lock=True)
    if row is not None and row.state is not FetchState.OTHER_PATIENT:
        move(session, row, events.FETCHED_OTHER_PATIENT)


def judge(item: Arrived, former: Instance, study: Study) -> Judgement:
    """Compare a valid object with the version in force before it, which is in ``study``.

    Their pixels may be the same although their bytes differ, as they do in another transfer syntax. Raises
    StoreAway if they were not compared ahead: nothing is decoded while the database is locked.
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
    """The same image with another header: of the patient, what is empty replaces nothing; no sender corrects
    another's.
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
        emptied = "an image came again for another patient, with a part of the identity left empty"
        other = "an image came again from another sender for another patient"
        return Judgement(Outcome.CONFLICT, emptied if is_its_sender else other)
    if lacks:
        return Judgement(
            Outcome.SET_ASIDE, "it leaves patient attributes empty that the version in force has"
        )
    if is_its_sender:
        return Judgement(Outcome.REVISION)
    return Judgement(Outcome.SET_ASIDE, "corrections are taken from the sender of the version in force only")
