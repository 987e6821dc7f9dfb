"""Withdrawing results of a study: what it would do, and doing it, with a rejection note to the peers
(IHE IOCM).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input, all_of
from dicom_node.base.actions.columns import Column
from dicom_node.base.actions.inputs import StudyUids
from dicom_node.base.actions.nouns import STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.events import RESULT_WITHDRAWN
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    AuditAction,
    DeliveryState,
    RejectionReason,
    RemovalState,
    ResultKind,
    UserRole,
)
from dicom_node.base.store import deliveries, transitions
from dicom_node.base.store.tables import Delivery, Feedback, Removal, Result, Study, Withdrawal
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.people import (
    Row,
    audit,
    existing,
    studies,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.studies import CHANGED

_WAITS = (DeliveryState.UNASSESSED, DeliveryState.PENDING, DeliveryState.DEAD)
_BEING_SENT = "a result is being sent right now: try again in a moment"


def results_to_withdraw(session: Session, settings: Settings, study: int) -> View:
    """The results that can be withdrawn, the withdrawn results, and the effect of a withdrawal at the peers.

    ``study``: its number. The effect: which peers get a rejection note, which delete the results, and at
    which ones a person must remove them. Raises NotFound.
    """
    existing(session, Study, study, "there is no such study")
    rows = _results(session, study)
    withdrawals = _withdrawn(session, rows)
    kept = [row for row in rows if row.id not in withdrawals]
    gone = [row for row in rows if row.id in withdrawals]
    reached = set[str]().union(*map(_peers_reached, kept))
    deleting = {peer.name for peer in settings.peers if peer.withdraw == "delete"}
    return {
        "kept": [
            {
                **columns(row, "id", "kind", "sop_instance_uid", "deidentified", "created_at"),
                "arrived": sorted(_peers_reached(row)),
                "waits": any(delivery.state in _WAITS for delivery in row.deliveries),
            }
            for row in kept
        ],
        "told": sorted(_peers_with_notes(settings) & reached),
        "deleting": sorted(deleting & reached),
        "removals": _removals(session, study),
        "gone": [
            {
                **columns(row, "id", "kind", "sop_instance_uid"),
                **columns(withdrawals[row.id], "at", "actor", "reason", "because"),
            }
            for row in gone
        ],
        "by_hand": _by_hand(session, gone),
    }


def _removals(session: Session, study: int) -> list[View]:
    """The removals of results of a study at its peers, by peer."""
    rows = session.execute(
        select(Removal, Delivery.destination, Result.kind, Result.sop_instance_uid)
        .join(Delivery, Delivery.id == Removal.id)
        .join(Delivery.result)
        .where(Result.study_id == study)
        .order_by(Delivery.destination, Removal.id)
    )
    return [
        {
            "destination": name,
            "kind": kind,
            "sop_instance_uid": uid,
            **columns(row, "state", "reason", "attempts", "next_at", "ended_at"),
        }
        for row, name, kind, uid in rows
    ]


@Action(
    STUDIES,
    "withdraw",
    "Withdraw the results of studies: peers with iocm get a rejection note; UIDs are printed for the "
    "others.\n\nEach study is withdrawn alone; exit status 1 if one refuses.",
    '1.2.3 --reason safety --because "other patient"',
    columns=(
        *CHANGED,
        Column(
            "to be removed by hand",
            lambda row: "; ".join(f"{peer}: {', '.join(uids)}" for peer, uids in row["by_hand"].items()),
        ),
    ),
    status=all_of("done"),
    role=UserRole.OPERATOR,
)
def withdraw_studies(
    settings: Settings,
    study_instance_uids: StudyUids,
    by: Person = COMMAND_LINE,
    *,
    reason: Annotated[RejectionReason, Input("Reason that the PACS gets.", "--reason")],
    because: Annotated[str, Input("The reason, which the rejection note contains.", "--because", "TEXT")],
    only: Annotated[Sequence[str], Input("Only this SOP Instance UID; repeatable.", "--result", "UID")] = (),
) -> list[Row]:
    """Withdraw all results of these studies, or of one study ``only`` those with these UIDs.

    Returns a row for each, with the ``reason`` if it was refused and ``by_hand``: what persons must remove.
    The refusal of an only study is raised. Raises NotFound, NotAllowedNow, FaultyInput.
    """
    studies.refuse_choices(study_instance_uids, only)
    audit.checked_reason(because)
    by_hand: dict[str, dict[str, list[str]]] = {}

    def withdraw(uid: str) -> None:
        """Withdraw results of one study."""
        by_hand[uid] = withdraw_results(settings, uid, only or None, reason=reason, because=because, by=by)

    rows = studies.change_each(study_instance_uids, withdraw, raises_alone=True)
    return [row.model_copy(update={"by_hand": by_hand.get(row["study"], {})}) for row in rows]


def withdraw_results(
    settings: Settings,
    study_instance_uid: str,
    results: Sequence[int | str] | None,
    *,
    reason: RejectionReason,
    because: str,
    by: Person = COMMAND_LINE,
) -> dict[str, list[str]]:
    """Withdraw these results of a study, by number or SOP Instance UID (None: all), with a note to the peers.

    ``reason``: the coded reason, ``because``: a person's words. Returns the UIDs that persons must remove
    themselves, by peer. Raises NotFound, NotAllowedNow (something is being sent, or nothing is left to
    withdraw), FaultyInput.
    """
    from dicom_node.base.store import results as stored_results
    from dicom_node.deliver import outbox
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
                        note_id=note_ids.get(row.id),
                        at=now,
                        actor=by.name,
                        reason=reason,
                        because=words,
                    )
                )
                _withdraw_result(session, settings, row, reason)
            stored_results.forget_findings(session, [row.id for row in chosen])
            audit.note(
                session,
                by,
                AuditAction.RESULT_WITHDRAWN,
                study_id=study.id,
                reason=reason,
                results=[row.id for row in chosen],
                words=words,
                what={"results": [row.sop_instance_uid for row in chosen], "reason": reason},
            )
            transitions.settle_study(session, study.id)
            session.flush()
            # One that was there is of a try that was killed before its rows were written.
            put_in_place([file for file in files.values() if not file.was_there], door)
        return _by_hand(session, chosen)


def _withdraw_result(session: Session, settings: Settings, result: Result, reason: RejectionReason) -> None:
    """Discard the deliveries of a result that wait, record its withdrawal, and queue its removal at peers.

    Raises NotAllowedNow if it is being sent.
    """
    from dicom_node.deliver import removals

    for delivery in result.deliveries:
        if delivery.state in _WAITS and not deliveries.discard(session, delivery, deliveries.WITHDRAWN):
            raise NotAllowedNow(_BEING_SENT)
    session.flush()
    transitions.record(
        session,
        RESULT_WITHDRAWN,
        result.study_id,
        instance=result.sop_instance_uid,
        kind=result.kind,
        reason=reason,
    )
    removals.queue_removal(session, result, settings.peers)


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
        # Assessments of a report are withdrawn with it, and with any result the key objects that name it.
        named = [known[name] for name in wanted]
        reports = [row for row in named if row.kind is ResultKind.SR]
        numbers = {row.id for row in (*named, *_key_objects(rows, named))}
        numbers |= {*_assessments(session, study, rows, reports)}
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


def _key_objects(rows: Sequence[Result], named: Sequence[Result]) -> list[Result]:
    """The key objects among ``rows`` that may name one of these results: those of the same rules."""
    rules = {row.job.rule for row in named}
    return [row for row in rows if row.kind is ResultKind.KEY_OBJECTS and row.job.rule in rules]


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
            .join(Removal)
            .where(Delivery.result_id == row.id, Removal.state != RemovalState.BY_HAND)
        )
        cared_for = {*session.scalars(informed), *session.scalars(deleted)}
        for name in sorted(_peers_reached(row) - cared_for):
            found.setdefault(name, []).append(row.sop_instance_uid)
    return found
