"""A person's actions on studies, on their results and on the spool; and one received image with the node's
results.

Several studies are changed one by one: if one is refused, the others are changed all the same.

Objects that come in by HTTP, by STOW-RS (PS3.18 10.5) or uploaded: spooled as those of a modality are.

They are written as they arrive, under the limits of the listener. Of an object only the file meta information
and the UID of its study are read here: the inspection opens it like any other.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from pydantic import Field
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.images.numbers import whole
from ai_pipeline.pipelines import cards
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES, is_uid, read_uids
from dicom_node.base.dicom.header import read_header
from dicom_node.base.dicom.uids import TransferSyntax, transfer_syntax
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow, NotFound, SpoolError
from dicom_node.base.events import RESULT_WITHDRAWN
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    CONSOLE_AE_TITLE,
    OPEN_DELIVERIES,
    AuditAction,
    DeliveryState,
    ObjectRole,
    RejectionReason,
    RemovalState,
    ResultKind,
)
from dicom_node.base.store import deliveries, sight, transitions
from dicom_node.base.store import results as stored_results
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Feedback, Instance, Job, Removal, Result, Study, Withdrawal
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.deliver import outbox, removals
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    existing,
    open_database,
    queues,
    reading,
    writing,
)
from dicom_node.receive.policy import accepted_classes
from dicom_node.receive.spool import Arrival, IncomingObject, Spool, WaitingObjects, read_meta
from dicom_node.receive.statuses import Status


class Studies(ServiceResult):
    """One page of studies. ``next``: the value of ``after`` for the next page, null at the end."""

    studies: list[Row]
    next: int | None


class Wanted(ServiceRequest):
    """A request to search studies by what identifies a patient; it is sent in the body, so that no address
    contains it.

    Each value is complete, or its beginning and an asterisk; ``name``: words or their beginnings. "" matches
    all.
    """

    patient: str = Field("", max_length=64, pattern=PRINTABLE)
    name: str = Field("", max_length=64, pattern=PRINTABLE)
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The choices that a person must make before a study can be released from quarantine, as rows; they name
    patients.

    Raises NotFound.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        return Choice(database, settings).rows(number_of(database, study_instance_uid))


def release(
    settings: Settings,
    study_instance_uid: str,
    take: Sequence[int] = (),
    by: audit.Person = audit.COMMAND_LINE,
    *,
    as_of: str | None = None,
) -> None:
    """Release a study from quarantine with the choices ``take`` (numbers), one for each question of
    ``versions``.

    ``as_of``: a hash of the choices that the person saw; None: not compared. Raises NotFound, or
    NotAllowedNow if it is not in quarantine, a choice is missing, or objects of the study have arrived since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = number_of(database, study_instance_uid)

        def note(session: Session, what: dict[str, Any]) -> None:
            """Note the release in the audit; ``what``: the choices by UID."""
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_rules(
    settings: Settings, study_instance_uids: Sequence[str], by: audit.Person = audit.COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; returns a row for each study and rule that takes
    it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import reruns

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in reruns.rerun(session, study, settings)]


def delete_by_uid(settings: Settings, study_instance_uids: Sequence[str]) -> list[View]:
    """Delete the received objects of studies, given by Study Instance UID; returns rows as
    ``delete_received``.

    Raises NotFound.
    """
    with open_database(settings) as database, database.read() as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies)


def delete_received(
    settings: Settings, studies: Sequence[int], by: audit.Person = audit.COMMAND_LINE
) -> list[View]:
    """Delete the received objects of these studies (numbers) now; returns a row for each, with the reason why
    not, or "".

    The rule is that of ``spool.keep_days`` without the days: a study must have ended, and each of its results
    be confirmed, cancelled or discarded. Built results stay.
    """
    from dicom_node.studies.purging import purge_now

    def note(session: Session, study: int) -> None:
        """Note the deletion in the audit."""
        audit.note(session, by, AuditAction.OBJECTS_DELETED, study_id=study)

    with open_database(settings) as database:
        deleted = set(purge_now(database, settings, studies, note))
        with database.read() as session:
            return [
                {
                    "study_instance_uid": session.get_one(Study, study).study_instance_uid,
                    "deleted": study in deleted,
                    "reason": "" if study in deleted else _NOT_DELETED,
                }
                for study in studies
            ]


def number_of(database: Database, study_instance_uid: str) -> int:
    """The study's number in the database. Raises NotFound."""
    with database.read() as session:
        return find_study(session, study_instance_uid).id


_NOT_DELETED = (
    "its images were deleted before, or must stay: release it from quarantine, wait until it has ended, and "
    "send, discard or cancel what is held or not confirmed"
)
StudyChange = Literal["retry", "send", "release", "withdraw"]


def change_studies(
    settings: Settings,
    study_instance_uids: Sequence[str],
    change: StudyChange,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    peer: str = "",
    reason: RejectionReason = RejectionReason.QUALITY,
    because: str = "",
    only: Sequence[str] = (),
    take: Sequence[int] = (),
    as_of: str | None = None,
    raises_alone: bool = False,
) -> list[Row]:
    """Make one change to each of these studies; returns a row for each, with the ``reason`` if it was
    refused.

    "retry" runs the stopped jobs again and sends the given-up deliveries again. "send" sends the results to
    ``peer``. "release" releases from quarantine; ``take`` and ``as_of`` as in ``release``, for one study
    only. "withdraw" withdraws all results, or ``only`` those with these UIDs, with ``reason`` (code) and
    ``because`` (a person's words). ``raises_alone``: if there is only one study, raise its refusal. Raises
    NotFound, FaultyInput.
    """
    if change == "send":
        settings.peer(peer)
    if len(study_instance_uids) > 1 and (take or as_of or only):
        raise FaultyInput("a choice of versions or results is for one study")
    if change == "withdraw":
        audit.checked_reason(because)
    rows = []
    for uid in study_instance_uids:
        why_not, by_hand = "", dict[str, list[str]]()
        try:
            match change:
                case "retry":
                    _retry(settings, uid, by)
                case "send":
                    queues.send_study(settings, uid, peer, by)
                case "release":
                    release(settings, uid, take, by, as_of=as_of)
                case "withdraw":
                    by_hand = withdraw_results(
                        settings, uid, only or None, reason=reason, because=because, by=by
                    )
        except NodeError as refused:
            if raises_alone and len(study_instance_uids) == 1:
                raise
            why_not = str(refused)
        rows.append(Row(study=uid, done=not why_not, reason=why_not, by_hand=by_hand))
    return rows


def _retry(settings: Settings, uid: str, by: audit.Person) -> None:
    """Run the stopped jobs of a study again, and send its given-up deliveries again. Raises NotAllowedNow
    without any.
    """
    with reading(settings) as session:
        study = find_study(session, uid)
        job_ids = session.scalars(
            select(Job.id)
            .where(Job.study_id == study.id, Job.study_revision == study.revision)
            .where(Job.state.in_(queues.STUCK))
        ).all()
        delivery_ids = session.scalars(
            select(Delivery.id)
            .join(Result)
            .where(Result.study_id == study.id, Delivery.state == DeliveryState.DEAD)
        ).all()
    if not job_ids and not delivery_ids:
        raise NotAllowedNow("no job was stopped and no delivery was given up")
    if job_ids:
        queues.change_jobs(settings, job_ids, "retry", by)
    if delivery_ids:
        queues.send_again(settings, delivery_ids, by=by)


def compare_spool(settings: Settings) -> str:
    """The differences between the spooled objects and the database in words, and what to do; "" if there is
    none.
    """
    from dicom_node.studies.reconciliation import compare

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        return str(compare(database, spool, Files(settings)))


def reindex_spool(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Let the node index spooled objects that its database does not know; returns how many.

    ``progress`` is called with (number done, number of all). Raises SpoolError.
    """
    from dicom_node.studies.reconciliation import reindex

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        done = reindex(database, spool, Files(settings), progress)
        if done:
            with database.write() as session:
                audit.note(session, audit.COMMAND_LINE, AuditAction.SPOOL_REINDEXED, objects=done)
    return done


_WAITS = (DeliveryState.UNASSESSED, DeliveryState.PENDING, DeliveryState.DEAD)
_BEING_SENT = "a result is being sent right now: try again in a moment"


def results_to_withdraw(session: Session, settings: Settings, study: int) -> View:
    """The results that can be withdrawn, the withdrawn results, and the effect of a withdrawal at the peers.

    ``study``: its number. The effect: which peers get a rejection note, which delete the results, and at
    which ones a person must remove them. Raises NotFound.
    """
    existing(session, Study, study, "there is no such study")
    rows = _results(session, study)
    gone = _withdrawn(session, rows)
    reached = set[str]().union(*(_peers_reached(row) for row in rows if row.id not in gone))
    removals = session.execute(
        select(Removal, Delivery.destination, Result.kind, Result.sop_instance_uid)
        .join(Delivery, Delivery.id == Removal.id)
        .join(Result, Result.id == Delivery.result_id)
        .where(Result.study_id == study)
        .order_by(Delivery.destination, Removal.id)
    )
    return {
        "kept": [
            {
                **columns(row, "id", "kind", "sop_instance_uid", "deidentified", "created_at"),
                "arrived": sorted(_peers_reached(row)),
            }
            for row in rows
            if row.id not in gone
        ],
        "told": sorted(_peers_with_notes(settings) & reached),
        "deleting": sorted(p.name for p in settings.peers if p.withdraw == "delete" and p.name in reached),
        "removals": [
            {
                "destination": name,
                "kind": kind.value,
                "sop_instance_uid": uid,
                **columns(row, "state", "reason", "attempts", "next_at", "ended_at"),
            }
            for row, name, kind, uid in removals
        ],
        "gone": [
            {
                **columns(row, "id", "kind", "sop_instance_uid"),
                **columns(gone[row.id], "at", "actor", "reason", "because"),
            }
            for row in rows
            if row.id in gone
        ],
        "by_hand": _by_hand(session, [row for row in rows if row.id in gone]),
    }


def withdraw_results(
    settings: Settings,
    study_instance_uid: str,
    results: Sequence[int | str] | None,
    *,
    reason: RejectionReason,
    because: str,
    by: audit.Person = audit.COMMAND_LINE,
) -> dict[str, list[str]]:
    """Withdraw these results of a study, by number or SOP Instance UID (None: all), with a note to the peers.

    ``reason``: the coded reason, ``because``: a person's words. Returns the UIDs that persons must remove
    themselves, by peer. Raises NotFound, NotAllowedNow (something is being sent, or nothing is left to
    withdraw), FaultyInput.
    """
    from dicom_node.results.files import put_in_place, row_values, temporary_files
    from dicom_node.results.rejection import build_rejection

    words, now = audit.checked_reason(because), by.now
    door = Files(settings)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid)
        session.get_one(Study, study.id, with_for_update=transitions.FOR_UPDATE)
        chosen = _chosen(session, study.id, results)
        by_us = stored_results.this_installation(session)
        notes = []
        for rows in _by_charset(settings, chosen):
            paths = [door.here(session, row.path) for row in rows]
            notes.append((build_rejection(paths, reason, words, now, settings.node.ae_title, by_us), rows))
        with temporary_files([built for built, _ in notes], door) as files:
            note_ids: dict[int, int] = {}
            for built, rows in notes:
                values = row_values(built, files[built.sop_instance_uid], door)
                note = stored_results.add(
                    session, Result(study_id=study.id, job_id=rows[0].job_id, created_at=now, **values)
                )
                reached = set().union(*map(_peers_reached, rows)) & _peers_with_notes(settings)
                outbox.enqueue(session, note, [peer for peer in settings.peers if peer.name in reached])
                note_ids |= {row.id: note.id for row in rows}
            for row in chosen:
                session.add(
                    Withdrawal(
                        result_id=row.id,
                        at=now,
                        actor=by.name,
                        reason=reason,
                        because=words,
                        note_id=note_ids.get(row.id),
                    )
                )
                for one in row.deliveries:
                    if one.state in _WAITS and not deliveries.discard(session, one, deliveries.WITHDRAWN):
                        raise NotAllowedNow(_BEING_SENT)
                session.flush()
                transitions.record(
                    session,
                    RESULT_WITHDRAWN,
                    study.id,
                    instance=row.sop_instance_uid,
                    kind=row.kind.value,
                    reason=reason.value,
                )
                removals.queue_removal(session, row, settings.peers)
            stored_results.forget_findings(session, [row.id for row in chosen])
            audit.note(
                session,
                by,
                AuditAction.RESULT_WITHDRAWN,
                study_id=study.id,
                reason=reason.value,
                results=[row.id for row in chosen],
                words=words,
                what={"results": [row.sop_instance_uid for row in chosen], "reason": reason.value},
            )
            transitions.settle_study(session, study.id)
            session.flush()
            # One that was there is of a try that was killed before its rows were written.
            put_in_place([file for file in files.values() if not file.was_there], door)
        return _by_hand(session, chosen)


def _results(session: Session, study: int) -> list[Result]:
    """The results of a study, without rejection notes; ``study``: its number."""
    return list(
        session.scalars(
            select(Result)
            .where(Result.study_id == study, Result.kind != ResultKind.REJECTION)
            .order_by(Result.id)
        )
    )


def _withdrawn(session: Session, rows: Sequence[Result]) -> dict[int, Withdrawal]:
    """The withdrawals of these results, by the results' numbers."""
    return {
        row.result_id: row
        for row in session.scalars(
            select(Withdrawal).where(Withdrawal.result_id.in_([row.id for row in rows]))
        )
    }


def _chosen(session: Session, study: int, wanted: Sequence[int | str] | None) -> list[Result]:
    """The results of the study to withdraw, with their deliveries locked; ``wanted``: numbers or UIDs, None
    for all.

    Raises NotFound, NotAllowedNow.
    """
    rows = _results(session, study)
    numbers = {row.id for row in rows}
    if wanted is not None:
        known = {name: row for row in rows for name in (row.id, row.sop_instance_uid)}
        if wrong := [name for name in wanted if name not in known]:
            raise NotFound(f"result {wrong[0]} is none of this study")
        # Assessments of a report are withdrawn with it.
        named = [known[name] for name in wanted]
        reports = [row for row in named if row.kind is ResultKind.SR]
        numbers = {*(row.id for row in named), *_assessments(session, study, rows, reports)}
    gone = _withdrawn(session, rows)
    chosen = [row for row in rows if row.id not in gone and row.id in numbers]
    if not chosen:
        raise NotAllowedNow("there is nothing to withdraw, or it was withdrawn before")
    # Locked until the end: a delivery that waits must not be taken by its sender meanwhile.
    locked = session.scalars(
        select(Delivery)
        .where(Delivery.result_id.in_([row.id for row in chosen]))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if any(delivery.state is DeliveryState.SENDING for delivery in locked.all()):
        raise NotAllowedNow(_BEING_SENT)
    return chosen


def _assessments(
    session: Session, study: int, rows: Sequence[Result], reports: Sequence[Result]
) -> Iterator[int]:
    """Yield the numbers of the results that are assessments of these reports; ``rows``: all results of the
    study.

    They belong to the jobs of the reports, but not to another report of the same job: an analysis has a
    report for each character set.
    """
    jobs, uids = {row.job_id for row in reports}, [row.sop_instance_uid for row in reports]
    of_others = set(
        session.scalars(
            select(Feedback.sent_in).where(Feedback.study_id == study, Feedback.report_uid.not_in(uids))
        )
    )
    for row in reversed(rows):
        if row.kind is ResultKind.ASSESSMENT and row.job_id in jobs:
            if row.sop_instance_uid not in of_others:
                yield row.id
            else:
                of_others.add(row.supersedes)


def _peers_reached(row: Result) -> set[str]:
    """The names of the peers that have the result or may have it, including peers that gave no answer."""
    return {one.destination for one in row.deliveries if deliveries.may_be_there(one)}


def _peers_with_notes(settings: Settings) -> set[str]:
    """The names of the peers that get rejection notes (IHE IOCM)."""
    return {peer.name for peer in settings.peers if peer.iocm and "receive" in peer.may}


def _by_charset(settings: Settings, rows: Sequence[Result]) -> list[list[Result]]:
    """The results in groups, one for each rejection note.

    Peers with ``charset = "source"`` get a note of their own, in the character set of their results.
    """
    old = {peer.name for peer in settings.peers if peer.charset == "source"}
    groups: tuple[list[Result], list[Result]] = ([], [])
    for row in rows:
        told = _peers_reached(row) & _peers_with_notes(settings)
        if told and not row.deidentified and not row.purged:
            groups[bool(told & old)].append(row)
    return [group for group in groups if group]


def _by_hand(session: Session, rows: Sequence[Result]) -> dict[str, list[str]]:
    """The withdrawn results that persons must remove themselves, as UIDs by peer: of the peers that get no
    rejection note and on which the node deletes nothing.

    A peer gets the note if it has the note already, or if the note is on its way; it does not if it refused
    the note, or if the delivery was discarded.
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        informed = select(Delivery.destination).where(
            Delivery.result_id == session.get_one(Withdrawal, row.id).note_id,
            Delivery.state.in_(OPEN_DELIVERIES | {DeliveryState.CONFIRMED}),
        )
        deleted = (
            select(Delivery.destination)
            .join(Removal, Removal.id == Delivery.id)
            .where(Delivery.result_id == row.id, Removal.state != RemovalState.BY_HAND)
        )
        cared_for = {*session.scalars(informed), *session.scalars(deleted)}
        for name in sorted(_peers_reached(row) - cared_for):
            found.setdefault(name, []).append(row.sop_instance_uid)
    return found


_PICTURES = (ResultKind.CLEANED, ResultKind.HEATMAP, ResultKind.SC)
_NOT_SHOWN = (ObjectRole.OWN, ObjectRole.ASIDE)
_PERSON = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDescription")
_MOST_RESULTS = 200  # results that are looked into


def image_view(session: Session, settings: Settings, number: int) -> View:
    """The received image with this number for a page: size, layers, marks, and the images before and after
    it.

    A layer is a result picture of the image; with ``same_size`` marks fit on it pixel by pixel. A mark is a
    line or region that a report draws. Raises NotFound.
    """
    row = session.get(Instance, number)
    if row is None or row.purged or row.role is ObjectRole.ASIDE:
        raise NotFound("there is no such image, or no longer")
    uid = row.sop_instance_uid
    in_order = [image.id for image in images_of(session, row.study_id) if not image.purged]
    place = in_order.index(number) if number in in_order else None
    marks = list(_marks(report_files(session, settings, row.study_id), uid))
    names = {mark["finding"] for mark in marks if not mark["decision"]}
    pictures: dict[str, Result] = {}  # the newest of each name
    for name, made in pictures_of(session, settings, row.study_id, uid):
        pictures.setdefault(name, made)
    gone = stored_results.withdrawn(session, [made.id for made in pictures.values()])
    return {
        "id": number,
        "uid": uid,
        "study": row.study_id,
        "columns": number_in(row, "Columns"),
        "rows": number_in(row, "Rows"),
        "layers": [
            {
                "id": made.id,
                "kind": made.kind.value,
                "name": name,
                "same_size": made.kind is ResultKind.CLEANED,
            }
            for name, made in sorted(
                pictures.items(), key=lambda one: (_PICTURES.index(one[1].kind), one[1].id)
            )
            if made.id not in gone
        ],
        "marks": marks,
        # What the cards of pipelines say of the lines that are drawn for measurements.
        "about_lines": [
            one.about
            for card in (cards() if names else ())
            for one in card.measures
            if one.about and one.code.meaning in names
        ],
        "before": in_order[place - 1] if place else None,
        "after": in_order[place + 1] if place is not None and place + 1 < len(in_order) else None,
    }


def images_of(session: Session, study: int) -> Sequence[Instance]:
    """The received objects of a study that have pixels, in the order of the examination; replaced ones are
    left out.
    """
    rows = session.scalars(
        select(Instance)
        .where(Instance.study_id == study, Instance.role.not_in(_NOT_SHOWN))
        .order_by(Instance.id)
        .limit(_MOST_RESULTS)
    )
    return sorted(
        (row for row in rows if row.attributes.get("Rows")),
        key=lambda row: (number_in(row, "SeriesNumber"), number_in(row, "InstanceNumber"), row.id),
    )


def number_in(row: Instance, keyword: str) -> int:
    """The value of this keyword in the image's header as a whole number; 0 if it is missing."""
    return whole(row.attributes.get(keyword, "")) or 0


def report_files(session: Session, settings: Settings, study: int) -> list[Path]:
    """The files of the newest reports that name the patient, one for each rule, as far as they exist.

    If the newest was withdrawn there is none: a replaced report does not come back. Reports on images that
    were purged before the newest was made are not replaced by it; they come first.
    """
    rows = session.execute(
        select(Result, Job.rule, Job.source_uids)
        .join(Job, Result.job_id == Job.id)
        .where(Result.study_id == study, Result.kind == ResultKind.SR, Result.deidentified.is_(False))
        .order_by(Result.id.desc())
    ).all()
    replaced = {row.supersedes for row, _, _ in rows}
    newest: list[Result] = []
    reported: dict[str, set[str]] = {}  # images of newer reports, by rule
    for row, rule, images in rows:
        if row.sop_instance_uid not in replaced and not reported.setdefault(rule, set()).issuperset(images):
            newest.insert(0, row)
            reported[rule].update(images)
    gone = stored_results.withdrawn(session, [row.id for row in newest])
    door = Files(settings)
    return [path for row in newest if row.id not in gone and (path := door.if_here(session, row.path))]


def pictures_of(session: Session, settings: Settings, study: int, uid: str) -> Iterator[tuple[str, Result]]:
    """Yield (what it shows, result) for each picture made of the image ``uid`` that is not de-identified, the
    newest first.

    ``study``: its number.
    """
    for row in session.scalars(
        select(Result)
        .where(Result.study_id == study, Result.kind.in_(_PICTURES), Result.deidentified.is_(False))
        .order_by(Result.id.desc())
        .limit(_MOST_RESULTS)
    ):
        path = Files(settings).if_here(session, row.path)
        if path and (name := _picture_name(row, path, uid)):
            yield name, row


def person_of(session: Session, settings: Settings, number: int) -> dict[str, str]:
    """The patient's name, birth date and sex, and the study's description, read from a file of the study; ""
    for missing.

    The database does not contain them all. ``number``: of the study.
    """
    row = session.scalar(
        select(Instance)
        .where(Instance.study_id == number, Instance.purged.is_(False), Instance.role.not_in(_NOT_SHOWN))
        .order_by(Instance.id.desc())
        .limit(1)
    )
    header = Dataset()
    if row is not None and (path := Files(settings).if_here(session, row.path)):
        with suppress(NodeError):  # its text does not decode: the study's reason says so
            header = read_header(path, _PERSON, row.assumed_charset).dataset
    return {keyword: str(header.get(keyword) or "") for keyword in _PERSON}


def heatmap_finding(session: Session, settings: Settings, row: Result) -> str:
    """The finding that a heat map shows; "" for other results, and if its file is missing."""
    path = Files(settings).if_here(session, row.path) if row.kind is ResultKind.HEATMAP else None
    if path is None:
        return ""
    return _finding_in_description(
        dcmread(path, stop_before_pixels=True, specific_tags=["DerivationDescription"])
    )


def _marks(files: Sequence[Path], uid: str) -> Iterator[View]:
    """Yield the lines and regions that reports (``files``) draw on the image ``uid``, each once; its text
    only once.
    """
    drawn: set[object] = set()
    named: set[tuple[str, object]] = set()
    from dicom_node.results.stated_report import (
        places,  # heavy, and the node's main process imports this module
    )

    for mark in (mark for path in files for mark in places(path) if mark["image"] == uid):
        place = (tuple(mark["points"]), tuple(mark["frames"]))
        if place in drawn:
            continue
        drawn.add(place)
        name = (mark["finding"], place if mark["decision"] else place[1])
        text = "" if name in named else mark["finding"]
        named.add(name)
        yield {
            **mark,
            "text": text,
            "points": [(round(x, 1), round(y, 1)) for x, y in mark["points"]],
        }


def _picture_name(row: Result, path: Path, uid: str) -> str:
    """What a result picture shows in words; "" if it was made of another image than ``uid``."""
    header = dcmread(
        path, stop_before_pixels=True, specific_tags=["SourceImageSequence", "DerivationDescription"]
    )
    if uid not in {item.ReferencedSOPInstanceUID for item in header.get("SourceImageSequence", [])}:
        return ""
    return _NAMES.get(row.kind) or f"Heat map: {_finding_in_description(header)}"


def _finding_in_description(header: Dataset) -> str:
    """The finding that a heat map shows, as the first sentence of its description says
    (``results.pictures.build_heatmap``).
    """
    return str(header.get("DerivationDescription", "")).partition(" of ")[2].partition(".")[0]


_NAMES = {ResultKind.CLEANED: "Cleaned", ResultKind.SC: "Drawn into the picture"}

HEAD = 2**20
"""Bytes of a data set in which the UIDs of its study and series are looked for."""

# PS3.18 Table I.2-2, but for the last: PS3.7 C.5.24
NO_ROOM = Status(
    0xA700,
    "Refused: Out of Resources",
    "less free disk space than spool.minimum_free_mib, or the spool cannot be written, or as many objects "
    "of the console wait to be indexed as spool.waiting_objects or spool.waiting_mib allow; send again later",
)
NO_SUCH_CLASS = Status(0x0122, "Refused: SOP Class Not Supported", "the SOP class is none that is accepted")
NO_SUCH_SYNTAX = Status(
    0xC122, "Referenced Transfer Syntax Not Supported", "the transfer syntax is none that is accepted"
)
OTHER_OBJECT = Status(
    0xA900,
    "Error: Data Set Does Not Match SOP Class",
    "the data set has another SOP Class or SOP Instance UID than the file meta information",
)
NO_OBJECT = Status(
    0xC000,
    "Error: Cannot understand",
    "the part is no file of DICOM (PS3.10) with valid UIDs and a data set, or its media type is not "
    "application/dicom, or its Study or SOP Instance UID is needed and not in its first MiB",
)
TOO_LARGE = Status(
    0xC001, "Error: Cannot understand", "the data set is larger than listener.maximum_object_mib"
)
OTHER_STUDY = Status(0xC409, "Error: Cannot understand", "it is of another study than the address names")
NOT_ITS_STUDY = Status(
    0x0124,
    "Refused: Not Authorized",
    "the user sees the studies of some senders only, and the study or the object is here from others",
)
REASONS: Final = (
    NO_ROOM, NO_SUCH_CLASS, NO_SUCH_SYNTAX, OTHER_OBJECT, NO_OBJECT, TOO_LARGE, OTHER_STUDY, NOT_ITS_STUDY,
)  # fmt: skip
"""Failure Reasons (0008,1197) of an answer."""


@dataclass(slots=True)
class StowedInstance:
    """The outcome for one object of a STOW-RS request or upload. UIDs are "" if they were not read.

    ``failure``: None if it was stored.
    """

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    failure: Status | None = None
    why: str = ""
    """The failure in words, where they say more than the status."""


class StowRequest:
    """The objects of one STOW-RS request or upload, stored like those of one association. Used by one thread
    at a time.

    ``study_uid``: the study that all objects must belong to, "" for any. ``about``: fields for the audit.
    Raises SpoolError, FaultyInput for an invalid UID.
    """

    def __init__(
        self, database: Database, settings: Settings, by: audit.Person, study_uid: str = "", **about: Any
    ) -> None:
        """Prepare to store the objects of one request by the person ``by``; the parameters are explained
        at the class.
        """
        if study_uid and not is_uid(study_uid):
            raise FaultyInput("the address has no valid Study Instance UID")
        self._database, self._settings, self._by, self._study_uid = database, settings, by, study_uid
        self._about = about
        self._classes = accepted_classes(settings.listener.further_storage_classes)
        self._spool, self._waiting = _place(
            settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20
        )
        self.association: Final = f"console-{secrets.token_hex(8)}"
        self.instances: Final[list[StowedInstance]] = []
        """What became of the parts that are whole."""
        self._part = _Part()

    def begin(self, media_type: str = "") -> None:
        """Begin a part of the request; ``media_type`` in lower case, "" if the part has none."""
        self._drop()
        self._part = _Part()
        if media_type not in ("", "application/dicom"):
            self._part.one.failure = NO_OBJECT

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Process the next bytes of the current part of the request; ``is_last``: they end the part."""
        part = self._part
        if part.one.failure is None:
            part.start += data
            try:
                if is_last or part.incoming is not None or len(part.start) >= META_BYTES:
                    self._spool_bytes(part)
                if is_last:
                    self._commit(part)
            except _Refused as refused:
                part.one.failure = refused.args[0]
            except FaultyInput as error:
                part.one.failure, part.one.why = NO_OBJECT, str(error)
            except SpoolError:
                part.one.failure = NO_ROOM
        if part.one.failure is not None:
            part.start.clear()
            self._drop()

    def end(self) -> None:
        """End the current part: its object is stored durably, or refused, when this returns."""
        self.write(b"", is_last=True)
        self.instances.append(self._part.one)

    def close(self) -> int:
        """End the request; returns the number of its row in the audit, 0 if it had no objects.

        An incomplete part is deleted, and the audit says how many objects were stored.
        """
        self._drop()
        if not self.instances:
            return 0
        with self._database.write() as session:
            row = audit.note(
                session,
                self._by,
                AuditAction.UPLOADED,
                **self._about,
                objects=self.stored,
                refused=len(self.instances) - self.stored,
                association=self.association,
            )
            session.flush()
            return row.id

    @property
    def stored(self) -> int:
        """How many objects of the request have been stored durably."""
        return sum(1 for one in self.instances if not one.failure)

    def _drop(self) -> None:
        """Delete the unfinished file of the current part."""
        if self._part.incoming is not None:
            self._part.incoming.abandon()
            self._part.incoming = None

    def _spool_bytes(self, part: "_Part") -> None:
        """Write the bytes of a part that came to its file; the first ones open it. Raises _Refused."""
        if part.incoming is None:
            meta = read_meta(bytes(part.start[:META_BYTES]))
            part.one.sop_class_uid, part.one.sop_instance_uid = meta.sop_class_uid, meta.sop_instance_uid
            part.syntax = transfer_syntax(meta.transfer_syntax_uid)
            if meta.sop_class_uid not in self._classes:
                raise _Refused(NO_SUCH_CLASS)
            if part.syntax is None:
                raise _Refused(NO_SUCH_SYNTAX)
            if not self._waiting.has_room(
                CONSOLE_AE_TITLE, self._settings.spool.waiting_objects, self._settings.spool.waiting_mib
            ):
                raise _Refused(NO_ROOM)
            arrival = Arrival(
                self.association,
                CONSOLE_AE_TITLE,
                self._settings.node.ae_title,
                self._by.address,
                0,  # C-STORE priority medium, PS3.7 9.1.1
                datetime.now(UTC),
                sight.SENDERS.get(),
            )
            part.incoming = self._spool.open(
                arrival, meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid
            )
            del part.start[: meta.length]
        data = bytes(part.start)
        part.start.clear()
        part.size += len(data)
        if part.size > self._settings.listener.maximum_object_mib * 2**20:
            raise _Refused(TOO_LARGE)
        part.head += data[: HEAD - len(part.head)]
        part.incoming.write(data)

    def _commit(self, part: "_Part") -> None:
        """Store the object of a complete part durably.

        Raises _Refused if its data set does not match its header, or if it belongs to a study that the user
        may not see.
        """
        assert part.incoming is not None and part.syntax is not None
        sop_class_uid, instance_uid, study_uid, _ = read_uids(part.head, part.syntax, HEAD)
        one, is_limited = part.one, bool(sight.SENDERS.get())
        if sop_class_uid not in ("", one.sop_class_uid) or instance_uid not in ("", one.sop_instance_uid):
            raise _Refused(OTHER_OBJECT)
        if (not study_uid and (self._study_uid or is_limited)) or (is_limited and not instance_uid):
            raise _Refused(NO_OBJECT)
        if self._study_uid and study_uid != self._study_uid:
            raise _Refused(OTHER_STUDY)
        if is_limited:
            with self._database.read() as session:
                if sight.is_hidden(session, study_uid, instance_uid):
                    raise _Refused(NOT_ITS_STUDY)
        part.incoming.commit()
        part.incoming = None
        self._waiting.add(CONSOLE_AE_TITLE, part.size)


@cache
def _place(folder: Path, minimum_free_bytes: int) -> tuple[Spool, WaitingObjects]:
    """The spool in this folder and its counts of waiting objects, which all requests of this process
    share.
    """
    spool = Spool(folder, minimum_free_bytes)
    return spool, WaitingObjects(spool.incoming)


class _Refused(Exception):
    """Raised if the node refuses to store an object; its argument is the status."""


@dataclass(slots=True)
class _Part:
    """A part of a request while it arrives.

    ``one``: its outcome. ``start``: bytes that are not written yet. ``head``: the first bytes of the data
    set. ``incoming``: its file in the spool; None before that is opened. ``size``: bytes of the data set so
    far.
    """

    one: StowedInstance = field(default_factory=StowedInstance)
    start: bytearray = field(default_factory=bytearray)
    head: bytearray = field(default_factory=bytearray)
    incoming: IncomingObject | None = None
    syntax: TransferSyntax | None = None
    size: int = 0


def take_files(
    database: Database, settings: Settings, sent: Sequence[tuple[str, BinaryIO]], by: audit.Person
) -> tuple[int, list[Row]]:
    """Store the acceptable files of an upload in the spool; ``sent``: pairs of name and opened file.

    Returns (number of the audit row that counts them, a row for each file). A row has ``name``, which may
    name a patient and is only for the page, and ``refusal``, "" if it was accepted. Raises FaultyInput
    without files, SpoolError.
    """
    if not sent:
        raise FaultyInput("choose the files to send")
    request = StowRequest(database, settings, by)
    rows = []
    try:
        for name, file in sent:
            request.begin()
            for piece in iter(partial(file.read, 2**20), b""):
                request.write(piece)
            request.end()
            done = request.instances[-1]
            rows.append(Row(name=name, refusal=done.why or done.failure.when if done.failure else ""))
    finally:
        number = request.close()
    return number, rows
