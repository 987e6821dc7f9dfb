"""A person's actions on a study, or on several: each is changed separately, a refused one stops no other; on
its results, which are withdrawn; and on the spool. And one received image with the node's results.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.images.numbers import whole
from ai_pipeline.pipelines import cards
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import read_header
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow, NotFound
from dicom_node.base.events import RESULT_WITHDRAWN
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    AuditAction,
    DeliveryState,
    ObjectRole,
    RejectionReason,
    RemovalState,
    ResultKind,
)
from dicom_node.base.store import deliveries, transitions
from dicom_node.base.store import results as stored
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Feedback, Instance, Job, Removal, Result, Study, Withdrawal
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.deliver import outbox
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
from dicom_node.receive.spool import Spool


class Studies(ServiceResult):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    studies: list[Row]
    next: int | None


class Wanted(ServiceRequest):
    """Whole values, or their beginning and an asterisk; of ``name`` whole words. No address holds them."""

    patient: str = Field("", max_length=64, pattern=PRINTABLE)
    name: str = Field("", max_length=64, pattern=PRINTABLE)
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The choices to make before a study can be released; they name patients. Raises NotFound."""
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
    """Release a study from quarantine with the options ``take``, one for each question of ``versions``.

    ``as_of``: the rows that the person saw. Raises NotFound, or NotAllowedNow if it is not in quarantine, a
    choice is missing, or objects of the study have arrived since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = number_of(database, study_instance_uid)

        def note(session: Session, what: dict[str, Any]) -> None:
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_rules(
    settings: Settings, study_instance_uids: Sequence[str], by: audit.Person = audit.COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; a row for each study and rule that takes it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import choose

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in choose.rerun(session, study, settings)]


def delete_by_uid(settings: Settings, study_instance_uids: Sequence[str]) -> list[View]:
    """Delete the received objects of studies, by UID. Raises NotFound."""
    with open_database(settings) as database, database.read() as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies)


def delete_received(
    settings: Settings, studies: Sequence[int], by: audit.Person = audit.COMMAND_LINE
) -> list[View]:
    """Delete the received objects of these studies now; a row for each, with the reason why not, or "".

    The rule is that of ``spool.keep_days`` without the days: a study must have ended, and each of its results
    be confirmed, cancelled or discarded. Built results stay.
    """
    from dicom_node.studies.indexing import purge_now

    def note(session: Session, study: int) -> None:
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
    """Change each of these studies; returns a row for each, with the ``reason`` if it was refused or failed.

    "retry": its stopped jobs and given-up deliveries. "release": from quarantine, with the choices ``take``
    among what ``as_of`` marks, which are for one study. "withdraw": its results, or ``only`` those with these
    UIDs. ``raises_alone``: of one study the refusal is raised. Raises NotFound, FaultyInput.
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
    """The differences between spool and index, and what to do; "" if there is none."""
    from dicom_node.studies.indexing import compare

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        return str(compare(database, spool, Files(settings)))


def reindex_spool(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Let the node index spooled objects that its database does not know; returns how many.

    ``progress`` is called with (done, all). Raises SpoolError.
    """
    from dicom_node.studies.indexing import reindex

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

    The effect: which peers get a note of the withdrawal, and at which peers a person must remove results by
    hand. Raises NotFound.
    """
    existing(session, Study, study, "there is no such study")
    rows = _results(session, study)
    gone = _withdrawn(session, rows)
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
                "arrived": sorted(_arrived(row)),
            }
            for row in rows
            if row.id not in gone
        ],
        "told": sorted(_iocm(settings)),
        "deleting": sorted(peer.name for peer in settings.peers if peer.withdraw == "delete"),
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
    """Withdraw these results of a study, by number or SOP Instance UID, or all.

    Returns the UIDs that persons must remove by hand, by peer. Raises NotFound, NotAllowedNow (something is
    being sent, or nothing is left to withdraw), FaultyInput.
    """
    from dicom_node.results.build import build_rejection, put_in_place, row_values, written

    words, now = audit.checked_reason(because), by.now
    door = Files(settings)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid)
        session.get_one(Study, study.id, with_for_update=transitions.FOR_UPDATE)
        chosen = _chosen(session, study.id, results)
        by_us = stored.this_installation(session)
        notes = []
        for rows in _by_charset(settings, chosen):
            paths = [door.here(session, row.path) for row in rows]
            built = build_rejection(paths, reason, words, now, settings.node.ae_title, by_us)
            notes.append((built, rows))
        with written([built for built, _ in notes], door) as files:
            note_ids: dict[int, int] = {}
            for built, rows in notes:
                values = row_values(built, files[built.sop_instance_uid], door)
                note = stored.add(
                    session, Result(study_id=study.id, job_id=rows[0].job_id, created_at=now, **values)
                )
                reached = set().union(*map(_arrived, rows)) & _iocm(settings)
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
                outbox.ask_to_remove(session, row, settings.peers)
            stored.forget_findings(session, [row.id for row in chosen])
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
    return list(
        session.scalars(
            select(Result)
            .where(Result.study_id == study, Result.kind != ResultKind.REJECTION)
            .order_by(Result.id)
        )
    )


def _withdrawn(session: Session, rows: Sequence[Result]) -> dict[int, Withdrawal]:
    chosen = select(Withdrawal).where(Withdrawal.result_id.in_([row.id for row in rows]))
    return {row.result_id: row for row in session.scalars(chosen)}


def _chosen(session: Session, study: int, wanted: Sequence[int | str] | None) -> list[Result]:
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
    """The assessments of these reports: those of their jobs, except what was said of another report of a job
    (one analysis has a report for each character set).
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


def _arrived(row: Result) -> set[str]:
    """The peers that have the result or may have it, including peers that gave no answer."""
    return {one.destination for one in row.deliveries if deliveries.may_be_there(one)}


def _iocm(settings: Settings) -> set[str]:
    return {peer.name for peer in settings.peers if peer.iocm and "receive" in peer.may}


def _by_charset(settings: Settings, rows: Sequence[Result]) -> list[list[Result]]:
    """The results that a note names, of each note: what peers with ``charset = "source"`` have is in a note
    of its own, in their character set.

    A note names what the files say: where they are gone, a person removes the results from the PACS.
    """
    old = {peer.name for peer in settings.peers if peer.charset == "source"}
    groups: tuple[list[Result], list[Result]] = ([], [])
    for row in rows:
        told = _arrived(row) & _iocm(settings)
        if told and not row.deidentified and not row.purged:
            groups[bool(told & old)].append(row)
    return [group for group in groups if group]


def _by_hand(session: Session, rows: Sequence[Result]) -> dict[str, list[str]]:
    """The withdrawn results at each peer that gets no note of the withdrawal and does not delete them.

    A peer gets the note when it has it or the note is on its way. It does not when it refused the note, or
    when the delivery was discarded.
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
        for name in sorted(_arrived(row) - cared_for):
            found.setdefault(name, []).append(row.sop_instance_uid)
    return found


_PICTURES = (ResultKind.CLEANED, ResultKind.HEATMAP, ResultKind.SC)
_NOT_SHOWN = (ObjectRole.OWN, ObjectRole.ASIDE)
_PERSON = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDescription")
_MOST_RESULTS = 200  # results that are looked into


def image_view(session: Session, settings: Settings, number: int) -> View:
    """The image with this number: size, layers, marks, and the images before and after it.

    A layer is a picture of the same image; with ``same_size``, marks and the received picture fit on the
    layer pixel by pixel. Raises NotFound.
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
    gone = stored.withdrawn(session, [made.id for made in pictures.values()])
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
    """The study's objects in force that have pixels, in the order of the examination."""
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
    """A number from the image's header, 0 if it is missing."""
    return whole(row.attributes.get(keyword, "")) or 0


def report_files(session: Session, settings: Settings, study: int) -> list[Path]:
    """The file of the newest report of each rule that names the patient, if the file exists.

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
    gone = stored.withdrawn(session, [row.id for row in newest])
    door = Files(settings)
    return [path for row in newest if row.id not in gone and (path := door.if_here(session, row.path))]


def pictures_of(session: Session, settings: Settings, study: int, uid: str) -> Iterator[tuple[str, Result]]:
    """All pictures made of the image that name the patient, the newest first, with their subjects."""
    for row in session.scalars(
        select(Result)
        .where(Result.study_id == study, Result.kind.in_(_PICTURES), Result.deidentified.is_(False))
        .order_by(Result.id.desc())
        .limit(_MOST_RESULTS)
    ):
        path = Files(settings).if_here(session, row.path)
        if path and (name := _name(row, path, uid)):
            yield name, row


def person_of(session: Session, settings: Settings, number: int) -> dict[str, str]:
    """Name, birth date and sex, read from a file of the study: the database does not contain them all."""
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


def subject(session: Session, settings: Settings, row: Result) -> str:
    """The finding of a heat map; "" for other results, and if its file is missing."""
    path = Files(settings).if_here(session, row.path) if row.kind is ResultKind.HEATMAP else None
    if path is None:
        return ""
    return _subject(dcmread(path, stop_before_pixels=True, specific_tags=["DerivationDescription"]))


def _marks(files: Sequence[Path], uid: str) -> Iterator[View]:
    """What reports draw on the image, each line once and the name of a measurement once."""
    drawn: set[object] = set()
    named: set[tuple[str, object]] = set()
    from dicom_node.results.sr import places  # heavy, and the node's main process imports this module

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


def _name(row: Result, path: Path, uid: str) -> str:
    """What the picture is called beside this image; "" where it is of another one."""
    header = dcmread(
        path, stop_before_pixels=True, specific_tags=["SourceImageSequence", "DerivationDescription"]
    )
    if uid not in {item.ReferencedSOPInstanceUID for item in header.get("SourceImageSequence", [])}:
        return ""
    return _NAMES.get(row.kind) or f"Heat map: {_subject(header)}"


def _subject(header: Dataset) -> str:
    """The finding that a heat map is of, as its first sentence says (``results.pictures.build_heatmap``)."""
    return str(header.get("DerivationDescription", "")).partition(" of ")[2].partition(".")[0]


_NAMES = {ResultKind.CLEANED: "Cleaned", ResultKind.SC: "Drawn into the picture"}
