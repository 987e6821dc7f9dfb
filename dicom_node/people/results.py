"""Withdraw results: stop their delivery; peers delete them, get a rejection note, or are listed for a
person.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.events import RESULT_WITHDRAWN
from dicom_node.base.files import Files
from dicom_node.base.kinds import AuditAction, RejectionReason, RemovalState, ResultKind
from dicom_node.base.lifecycle import OPEN_DELIVERIES, DeliveryState
from dicom_node.base.store import deliveries, transitions
from dicom_node.base.store import results as stored
from dicom_node.base.store.tables import Delivery, Feedback, Removal, Result, Study, Withdrawal
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.deliver import outbox
from dicom_node.people import audit, existing, writing

_WAITS = (DeliveryState.UNASSESSED, DeliveryState.PENDING, DeliveryState.DEAD)
_INFORMED = OPEN_DELIVERIES | {DeliveryState.CONFIRMED}
_BEING_SENT = "a result is being sent right now: try again in a moment"


def show(session: Session, settings: Settings, study: int) -> View:
    """The results that can be withdrawn, the withdrawn results, and the effect of a withdrawal at the peers.

    The effect: which peers get a note of the withdrawal, and at which peers a person must remove results by
    hand. Raises NotFound.
    """
    existing(session, Study, study, "there is no such study")
    rows = _results(session, study)
    gone = _withdrawn(session, rows)
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
        "removals": _removals(session, study),
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


def withdraw(
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
                row = Result(study_id=study.id, job_id=rows[0].job_id, created_at=now, **values)
                note = stored.add(session, row)
                reached = set().union(*map(_arrived, rows)) & _iocm(settings)
                outbox.enqueue(session, note, [peer for peer in settings.peers if peer.name in reached])
                note_ids |= {row.id: note.id for row in rows}
            for row in chosen:
                _withdraw(
                    session,
                    row,
                    Withdrawal(
                        result_id=row.id,
                        at=now,
                        actor=by.name,
                        reason=reason,
                        because=words,
                        note_id=note_ids.get(row.id),
                    ),
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
    chosen = select(Result).where(Result.study_id == study, Result.kind != ResultKind.REJECTION)
    return list(session.scalars(chosen.order_by(Result.id)))


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
    theirs = select(Delivery).where(Delivery.result_id.in_([row.id for row in chosen]))
    locked = session.scalars(theirs.with_for_update().execution_options(populate_existing=True))
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
    elsewhere = select(Feedback.sent_in).where(Feedback.study_id == study, Feedback.report_uid.not_in(uids))
    of_others = set(session.scalars(elsewhere))
    for row in reversed(rows):
        if row.kind is ResultKind.ASSESSMENT and row.job_id in jobs:
            if row.sop_instance_uid not in of_others:
                yield row.id
            else:
                of_others.add(row.supersedes)


def _withdraw(session: Session, row: Result, withdrawal: Withdrawal) -> None:
    session.add(withdrawal)
    for delivery in row.deliveries:
        if delivery.state in _WAITS and not deliveries.discard(session, delivery, deliveries.WITHDRAWN):
            raise NotAllowedNow(_BEING_SENT)
    session.flush()
    transitions.record(
        session,
        RESULT_WITHDRAWN,
        row.study_id,
        instance=row.sop_instance_uid,
        kind=row.kind.value,
        reason=withdrawal.reason.value,
    )


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


def _removals(session: Session, study: int) -> list[View]:
    """How far peers are that delete withdrawn results of the study."""
    rows = session.execute(
        select(Removal, Delivery.destination, Result.kind, Result.sop_instance_uid)
        .join(Delivery, Delivery.id == Removal.id)
        .join(Result, Result.id == Delivery.result_id)
        .where(Result.study_id == study)
        .order_by(Delivery.destination, Removal.id)
    )
    return [
        {
            "destination": name,
            "kind": kind.value,
            "sop_instance_uid": uid,
            **columns(row, "state", "reason", "attempts", "next_at", "ended_at"),
        }
        for row, name, kind, uid in rows
    ]


def _by_hand(session: Session, rows: Sequence[Result]) -> dict[str, list[str]]:
    """The withdrawn results at each peer that gets no note of the withdrawal and does not delete them.

    A peer gets the note when it has it or the note is on its way. It does not when it refused the note, or
    when the delivery was discarded.
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        note = session.get_one(Withdrawal, row.id).note_id
        informed = select(Delivery.destination).where(
            Delivery.result_id == note, Delivery.state.in_(_INFORMED)
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
