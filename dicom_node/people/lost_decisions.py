"""Persons' decisions that a restored database lacks: listed, applied again, or settled by a person.

Each is applied by the function that applied it first, in one transaction with its audit record, under the
name and the time of the person who decided. A decision that cannot be applied yet waits: the study may still
come back from the spool, the result from its job. Deliveries that it would prevent wait with it
(``people/audit.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import STUDY_UID, fields, times, yes_no
from dicom_node.base.actions.inputs import Reason
from dicom_node.base.actions.nouns import DECISIONS
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError, NotAllowedNow
from dicom_node.base.lifecycle import (
    DELIVERY,
    END_STATES,
    AuditAction,
    DeliveryState,
    HeldState,
    JobState,
    ReaderVerdict,
    RejectionReason,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store import results, transitions, views
from dicom_node.base.store.tables import (
    FAULT,
    DecisionRow,
    Delivery,
    DrawnByHand,
    Instance,
    Job,
    Result,
    Study,
)
from dicom_node.base.store.views import View
from dicom_node.deliver import holding, outbox
from dicom_node.jobs.queue import cancel
from dicom_node.people import audit, existing, open_database, reading, spool, studies, withdrawal, writing
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.jobs import sources_sha256

_SHOWN = 100  # decisions that are named


class _NotYet(Exception):
    """Raised if a decision cannot be applied again yet, because its subject is missing; the text says
    what.
    """


def reconcile_decisions(settings: Settings) -> list[View]:
    """Enter persons' decisions that the database lost, and apply them again if they can be applied now.

    Returns all lost decisions as rows with the outcome of each. Raises OSError, StoreAway.
    """
    with open_database(settings) as database:
        audit.copy_decisions(database, settings)
        new = {row.id for row in audit.enter_copies(database, settings)}
        with database.read() as session:
            lost = [as_view(row) for row in audit.waiting_decisions(session)]
    apply_waiting_decisions(settings)
    with reading(settings) as session:
        left = {row["decision"]: row for row in waiting_decisions(session)}
    return [
        left.get(row["decision"], row | {"state": "applied", "waits_for": ""})
        for row in lost
        if row["decision"] in new or row["decision"] in left
    ]


def apply_waiting_decisions(settings: Settings) -> int:
    """Apply again the lost decisions that can be applied now, in their order; returns how many."""
    with reading(settings) as session:
        lost = [row for row in audit.waiting_decisions(session) if row.action != FAULT]
        session.expunge_all()
    done = 0
    behind: set[str] = set()  # studies of which an earlier one waits
    for one in lost:
        reason = "a decision before it" if one.study_uid in behind else ""
        try:
            if not reason:
                _AGAIN.get(one.action, _apply_with_audit)(settings, one)
        except (NodeError, _NotYet) as not_yet:
            reason = str(not_yet)
        except LookupError:  # another process was quicker
            reason = ""
        if not reason:
            done += 1
            continue
        behind |= {one.study_uid} if one.holds and one.study_uid else set()
        if one.waits_for != reason[:255]:
            with writing(settings) as session:
                here = session.get_one(DecisionRow, one.id, with_for_update=True)
                here.waits_for = reason[:255] if here.applied_at is None else here.waits_for
    return done


@Action(
    DECISIONS,
    "list",
    "List decisions of persons that the database lost and that could not be applied again yet.\n\n"
    'No result of a study is sent while one of its decisions marked "holds" waits.',
    columns=(
        *fields("decision"),
        *times("at"),
        *fields("actor", "action"),
        STUDY_UID,
        yes_no("holds", "holds", "yes", ""),
        *fields("waits_for"),
    ),
    none="No decision waits.",
    role=UserRole.OPERATOR,
)
def waiting_decisions(session: Session) -> list[View]:
    """Lost decisions that are not applied again yet, as rows, the oldest first; ``waits_for``: the reason for
    each.
    """
    return [as_view(row) for row in audit.waiting_decisions(session)]


@Action(
    DECISIONS,
    "settle",
    "Answer for a decision that cannot be done again, or a changed line: it holds nothing back any more.",
    '3f2a... --because "study was sent again"',
    says="Settled: results that it held back are sent.",
    role=UserRole.ADMIN,
)
def settle_decision(
    settings: Settings,
    number: Annotated[str, Input("As `decisions list` shows it.", metavar="DECISION")],
    *,
    because: Reason,
    by: Person = COMMAND_LINE,
) -> None:
    """Mark a lost decision that cannot be applied again as settled; deliveries stop waiting for it.

    ``number``: its id. ``because``: a person's reason. Raises NotFound, NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        row = existing(session, DecisionRow, number, "there is no such decision", lock=True)
        try:
            audit.mark_applied(session, number)
        except LookupError:
            raise NotAllowedNow("this decision is applied") from None
        row.waits_for = f"settled by a person: {words}"
        transitions.record(session, events.DECISION_SETTLED, decision=number, action=row.action)
        audit.note(session, by, AuditAction.DECISION_SETTLED, decision=number, of=row.action)


def describe_lost(settings: Settings) -> list[str]:
    """Lines for the admin on the decisions made after the restored backup was written, with the outcome of
    each.

    Empty if there is no such decision.
    """
    try:
        lost = reconcile_decisions(settings)
    except (NodeError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        return [f"What persons decided since is compared when the node starts, before it sends: {text}"]
    if not lost:
        return []
    waits = [row for row in lost if row["state"] == "waits"]
    lines = [
        f"  {row['at']} {row['actor']} {row['action']} {row['study_instance_uid']}: "
        + (f"waits: {row['waits_for']}" if row in waits else "applied again")
        for row in lost[:_SHOWN]
    ]
    return [
        f"{len(lost)} decision{'s' if len(lost) != 1 else ''} of persons unknown to the database: "
        f"{len(lost) - len(waits)} applied again, {len(waits)} wait (dicom-node decisions list); "
        f"deliveries of {sum(row['holds'] for row in waits)} wait for them",
        *lines,
        *(["  …"] if len(lost) > _SHOWN else []),
    ]


def as_view(row: DecisionRow) -> View:
    """A decision as a row of lists."""
    return {
        "decision": row.id,
        "at": views.as_json(row.at),
        "actor": row.record.get("actor", ""),
        "action": row.action,
        "study_instance_uid": row.study_uid,
        "holds": row.holds,
        "state": "waits" if row.applied_at is None else "applied",
        "waits_for": row.waits_for,
    }


def _author(wanted: DecisionRow) -> Person:
    """The person who made a decision, with the time and id of that decision."""
    record = wanted.record
    return Person(record["actor"], record["address"], decided_at=wanted.at, decision=wanted.id)


def _apply_with_audit(settings: Settings, wanted: DecisionRow) -> None:
    """Apply a decision again (``wanted``) and add its entry to the audit, in one transaction.

    Of some decisions only the entry is added: their effect is stored elsewhere, or a person requests it
    again.
    """
    with writing(settings) as session:
        study = views.find_study(session, wanted.study_uid).id if wanted.study_uid else None
        if again := _AGAIN_WITH_AUDIT.get(wanted.action):
            again(session, settings, wanted)
        audit.note(
            session, _author(wanted), AuditAction(wanted.action), study_id=study, **wanted.record["fields"]
        )


def _withdraw(settings: Settings, wanted: DecisionRow) -> None:
    """Withdraw results again that a person withdrew. Raises _NotYet.

    What was sent after the backup was written is at its peer, and the database does not know it.
    """
    what = wanted.record["what"]
    uids, reason = what["results"], RejectionReason(what["reason"])
    with writing(settings) as session:
        for row in _results(session, uids):
            for delivery in row.deliveries:
                if delivery.state in (DeliveryState.PENDING, DeliveryState.DEAD):
                    delivery.sent_at = delivery.sent_at or wanted.at
    withdrawal.withdraw_results(
        settings, wanted.study_uid, uids, reason=reason, because=wanted.record["words"], by=_author(wanted)
    )


def _assess(settings: Settings, wanted: DecisionRow) -> None:
    """Accept or reject results again, as a person did. Raises _NotYet."""
    from dicom_node.people import held_results  # loads what builds results

    what = wanted.record["what"]
    with reading(settings) as session:
        _results(session, what["results"])
        study = views.find_study(session, wanted.study_uid).id
        decided_again = any(
            row.applied_at is not None and {*row.record["what"]["results"]} >= {*what["results"]}
            for row in _later_decisions(session, wanted)
        )
        if not decided_again and {
            session.get_one(Result, row.result_id).sop_instance_uid
            for row in holding.decidable_results(session, study)
        } != {*what["results"]}:
            raise _NotYet("the waiting results changed since they were assessed")
    if decided_again:  # by a person, before this decision could be applied
        _apply_with_audit(settings, wanted)
    elif what["verdict"] == HeldState.REJECTED:
        held_results.reject_results(
            settings, wanted.study_uid, _author(wanted), because=wanted.record["words"]
        )
    else:
        held_results.accept_results(settings, wanted.study_uid, _author(wanted), rejected=what["rejected"])


def _release(settings: Settings, wanted: DecisionRow) -> None:
    """Release a study from quarantine again, with the choices that a person made. Raises _NotYet."""
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        with database.read() as session:
            study = views.find_study(session, wanted.study_uid)
            number, came_through = study.id, study.state in END_STATES - {StudyState.QUARANTINED}
            came_through |= bool(_later_decisions(session, wanted))
        take = Choice(database, settings).present_numbers(number, wanted.record["what"])
    if take is not None:
        studies.release(settings, wanted.study_uid, take, _author(wanted))
    elif came_through:  # without this decision
        _apply_with_audit(settings, wanted)
    else:
        raise _NotYet("the study is not in quarantine with the objects that were released")


def _discard(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Discard deliveries again that a person discarded."""
    for delivery in _deliveries(session, wanted.record["what"]["deliveries"]):
        if (delivery.state, events.DELIVERY_DISCARDED) in DELIVERY:
            outbox.discard(session, delivery.id, wanted.record["words"])


def _retry(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Send deliveries again that a person sent again."""
    for delivery in _deliveries(session, wanted.record["what"]["deliveries"]):
        if delivery.state in (DeliveryState.DISCARDED, DeliveryState.DEAD):
            outbox.retry(session, delivery.id)


def _give_feedback(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Store a person's verdict on findings again."""
    from dicom_node.people import verdicts  # loads what builds results

    what, words = wanted.record["what"], wanted.record["words"]
    study, verdict = views.find_study(session, wanted.study_uid).id, ReaderVerdict(what["verdict"])
    verdicts.store_verdicts(session, study, [what["finding"]], verdict, _author(wanted), words)


def _judge_cleaning(session: Session, settings: Settings, wanted: DecisionRow) -> None:
    """Apply a person's verdict on the cleaning of an image again. Raises _NotYet."""
    from dicom_node.studies import reruns

    what, actor = wanted.record["what"], wanted.record["actor"]
    instance = session.scalar(select(Instance).where(Instance.sop_instance_uid == what["image"]))
    if instance is None or instance.pixels_sha256 != what["pixels_sha256"]:
        raise _NotYet("the image that was judged is not here")
    verdict = ReviewVerdict(what["verdict"])
    study = session.get_one(Study, instance.study_id, with_for_update=transitions.FOR_UPDATE)
    results.end_reviews_of_image(session, instance.id, verdict, actor)
    if verdict is ReviewVerdict.DRAWN:
        session.merge(
            DrawnByHand(
                instance_id=instance.id,
                at=wanted.at,
                actor=actor,
                role=UserRole(what["role"]),
                pixels_sha256=what["pixels_sha256"],
                boxes=what["boxes"],
            )
        )
        if study.state is not StudyState.RECEIVING:
            reruns.rerun(session, study.id, settings)


def _change_job(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Cancel a job again that a person cancelled; if it has finished, discard its unsent results."""
    what = wanted.record["what"]
    study = views.find_study(session, wanted.study_uid).id
    if what["change"] == "cancel":
        newest_first = session.scalars(
            select(Job).where(Job.study_id == study, Job.rule == what["rule"]).order_by(Job.id.desc())
        )
        job = next((job for job in newest_first if sources_sha256(job) == what["images"]), None)
        if job is None:
            raise _NotYet("the job that was cancelled is not there")
        if job.state in (JobState.QUEUED, JobState.HELD, JobState.RUNNING):
            cancel(session, job.id)
        for delivery in session.scalars(
            select(Delivery).join(Delivery.result).where(Result.job_id == job.id).order_by(Delivery.id)
        ).all():
            if (delivery.state, events.DELIVERY_DISCARDED) in DELIVERY:
                outbox.discard(session, delivery.id, "its job was cancelled by a person")


def _delete_received(settings: Settings, wanted: DecisionRow) -> None:
    """Delete the received objects of a study again. Raises _NotYet if they must stay."""
    [row] = spool.delete_by_uid(settings, [wanted.study_uid], _author(wanted))
    if not row["deleted"]:
        raise _NotYet(row["reason"])


_AGAIN: Mapping[str, Callable[[Settings, DecisionRow], None]] = {
    AuditAction.RESULT_WITHDRAWN: _withdraw,
    AuditAction.RESULTS_ASSESSED: _assess,
    AuditAction.STUDY_RELEASED: _release,
    AuditAction.OBJECTS_DELETED: _delete_received,
}
_AGAIN_WITH_AUDIT: Mapping[str, Callable[[Session, Settings, DecisionRow], None]] = {
    AuditAction.FEEDBACK_GIVEN: _give_feedback,
    AuditAction.CLEANING_JUDGED: _judge_cleaning,
    AuditAction.DISCARDED: _discard,
    AuditAction.DELIVERY_RETRIED: _retry,
    AuditAction.JOB_CHANGED: _change_job,
}


def _later_decisions(session: Session, wanted: DecisionRow) -> Sequence[DecisionRow]:
    """The decisions of the same kind on the same study that were made after this one."""
    return session.scalars(
        select(DecisionRow)
        .filter_by(study_uid=wanted.study_uid, action=wanted.action)
        .where(DecisionRow.at > wanted.at)
    ).all()


def _results(session: Session, uids: Sequence[str]) -> Sequence[Result]:
    """The results with these SOP Instance UIDs. Raises _NotYet if one is missing."""
    rows = session.scalars(select(Result).where(Result.sop_instance_uid.in_(uids))).all()
    if missing := len(set(uids)) - len(rows):
        raise _NotYet(f"{missing} of {len(set(uids))} results are not built (any more)")
    return rows


def _deliveries(session: Session, pairs: Sequence[Sequence[str]]) -> list[Delivery]:
    """The deliveries for these pairs of SOP Instance UID and peer. Raises _NotYet if one is missing."""
    rows = {row.sop_instance_uid: row.id for row in _results(session, [uid for uid, _ in pairs])}
    chosen = (select(Delivery).filter_by(result_id=rows[uid], destination=peer) for uid, peer in pairs)
    there = [row for one in chosen if (row := session.scalar(one)) is not None]
    if len(there) < len(pairs):
        raise _NotYet("its results do not go to that peer (yet)")
    return there
