"""Persons' decisions that a restored database lacks: listed, applied again, or settled by a person.

Each is applied by the function that applied it first, in one transaction with its audit record, under the
name and the time of the person who decided. A decision that cannot be applied yet waits: the study may still
come back from the spool, the result from its job. Deliveries that it would prevent wait with it
(``base/store/decisions.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError, NotAllowedNow
from dicom_node.base.events import DECISION_SETTLED, DELIVERY_DISCARDED
from dicom_node.base.kinds import AuditAction, RejectionReason, ReviewVerdict, UserRole
from dicom_node.base.lifecycle import DELIVERY, END_STATES, DeliveryState, HeldState, JobState, StudyState
from dicom_node.base.store import decision_copies, transitions
from dicom_node.base.store.results import end_reviews_of_image
from dicom_node.base.store.tables import FAULT, DecisionRow, Delivery, DrawnByHand, Instance, Job, Result
from dicom_node.base.store.views import View, as_json, find_study
from dicom_node.deliver import outbox
from dicom_node.jobs.enqueue import cancel
from dicom_node.people import audit, existing, open_database, reading, results, studies, writing
from dicom_node.people.jobs import sources_sha256

_SHOWN = 100  # decisions that are named


@dataclass(frozen=True, slots=True)
class LostDecision:
    """A decision that must be applied again."""

    action: AuditAction
    study: str
    by: audit.Person
    holds: bool
    waits_for: str
    what: Mapping[str, Any]
    words: str
    fields: Mapping[str, Any]


class _NotYet(Exception):
    """What it is about is not there (any more), in words."""


def reconcile(settings: Settings) -> list[View]:
    """Enter persons' decisions that the database lost, and apply them again if they can be applied now.

    Returns all lost decisions with the outcome for each. Raises OSError, StoreAway.
    """
    with open_database(settings) as database:
        decision_copies.copy(database, settings)
        new = {row.id for row in decision_copies.take_in(database, settings)}
        with database.read() as session:
            lost = [as_view(row) for row in decision_copies.waiting(session)]
    apply_waiting(settings)
    with reading(settings) as session:
        left = {row["decision"]: row for row in waiting(session)}
    return [
        left.get(row["decision"], row | {"state": "applied", "waits_for": ""})
        for row in lost
        if row["decision"] in new or row["decision"] in left
    ]


def apply_waiting(settings: Settings) -> int:
    """Apply the waiting decisions that can be applied now, in their order; returns how many."""
    with reading(settings) as session:
        lost = [_lost(row) for row in decision_copies.waiting(session) if row.action != FAULT]
    done = 0
    behind: set[str] = set()  # studies of which an earlier one waits
    for one in lost:
        reason = "a decision before it" if one.study in behind else _done(settings, one)
        if not reason:
            done += 1
            continue
        behind |= {one.study} if one.holds and one.study else set()
        if one.waits_for != reason[:255]:
            with writing(settings) as session:
                here = session.get_one(DecisionRow, one.by.decision, with_for_update=True)
                here.waits_for = reason[:255] if here.applied_at is None else here.waits_for
    return done


def waiting(session: Session) -> list[View]:
    """Lost decisions that are not applied yet, the oldest first; ``waits_for``: the reason for each."""
    return [as_view(row) for row in decision_copies.waiting(session)]


def settle(settings: Settings, number: str, *, because: str, by: audit.Person = audit.COMMAND_LINE) -> None:
    """Settle a decision that cannot be applied again, with a person's reason; deliveries stop waiting for it.

    Raises NotFound, NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        row = existing(session, DecisionRow, number, "there is no such decision", lock=True)
        try:
            decision_copies.apply(session, number)
        except LookupError:
            raise NotAllowedNow("this decision is applied") from None
        row.waits_for = f"settled by a person: {words}"
        transitions.record(session, DECISION_SETTLED, decision=number, action=row.action)
        audit.note(session, by, AuditAction.DECISION_SETTLED, decision=number, of=row.action)


def describe_lost(settings: Settings) -> list[str]:
    """Lines on the decisions made after the restored backup was written, with the outcome for each.

    Empty if there is no such decision.
    """
    try:
        lost = reconcile(settings)
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
    """One decision, as lists show it."""
    return {
        "decision": row.id,
        "at": as_json(row.at),
        "actor": row.record.get("actor", ""),
        "action": row.action,
        "study_instance_uid": row.study_uid,
        "holds": row.holds,
        "state": "waits" if row.applied_at is None else "applied",
        "waits_for": row.waits_for,
    }


def _lost(row: DecisionRow) -> LostDecision:
    record_ = row.record
    by = audit.Person(record_["actor"], record_["address"], decided_at=row.at, decision=row.id)
    about = {name: record_[name] for name in ("what", "words", "fields")}
    return LostDecision(AuditAction(row.action), row.study_uid, by, row.holds, row.waits_for, **about)


def _done(settings: Settings, wanted: LostDecision) -> str:
    """Do it again; "" when it is done, else what it waits for."""
    try:
        _AGAIN.get(wanted.action, _with_audit)(settings, wanted)
    except (NodeError, _NotYet) as not_yet:
        return str(not_yet)
    except LookupError:  # another process was quicker
        return ""
    return ""


def _with_audit(settings: Settings, wanted: LostDecision) -> None:
    """What is done in one transaction with its entry in the audit. Of other decisions the entry alone: what
    they did is there, or a person asks for it again.
    """
    with writing(settings) as session:
        if again := _AGAIN_WITH_AUDIT.get(wanted.action):
            again(session, wanted)
        study = find_study(session, wanted.study).id if wanted.study else None
        _note(session, wanted, study)


def _note(session: Session, wanted: LostDecision, study: int | None) -> None:
    audit.note(session, wanted.by, wanted.action, study_id=study, **wanted.fields)


def _withdraw(settings: Settings, wanted: LostDecision) -> None:
    uids, reason = wanted.what["results"], RejectionReason(wanted.what["reason"])
    with reading(settings) as session:
        _results(session, uids)
    results.withdraw(settings, wanted.study, uids, reason=reason, because=wanted.words, by=wanted.by)


def _assess(settings: Settings, wanted: LostDecision) -> None:
    from dicom_node.people import assessments  # loads what builds results

    what = wanted.what
    with reading(settings) as session:
        _results(session, what["results"])
        study = find_study(session, wanted.study).id
        asked = [session.get_one(Result, row.result_id) for row in outbox.in_question(session, study)]
        if {row.sop_instance_uid for row in asked} != set(what["results"]):
            raise _NotYet("the waiting results changed since they were assessed")
    if what["verdict"] == HeldState.REJECTED:
        assessments.reject_results(settings, wanted.study, wanted.by, because=wanted.words)
    else:
        assessments.accept_results(settings, wanted.study, wanted.by, rejected=what["rejected"])


def _give_feedback(settings: Settings, wanted: LostDecision) -> None:
    from dicom_node.people import assessments  # loads what builds results

    with writing(settings) as session:
        study = find_study(session, wanted.study).id
        assessments.assess_again(session, study, wanted.what, wanted.by, wanted.words)


def _release(settings: Settings, wanted: LostDecision) -> None:
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = studies.number_of(database, wanted.study)
        take = Choice(database, settings).again(study, wanted.what)
        with database.read() as session:
            state = find_study(session, wanted.study).state
            same = (DecisionRow.study_uid == wanted.study, DecisionRow.action == wanted.action)
            later = select(DecisionRow.id).where(*same, DecisionRow.at > wanted.by.now).limit(1)
            released_later = session.scalar(later) is not None
    if take is not None:
        studies.release(settings, wanted.study, take, wanted.by)
    elif released_later or state in END_STATES - {StudyState.QUARANTINED}:  # it came through without it
        _with_audit(settings, wanted)
    else:
        raise _NotYet("the study is not in quarantine with the objects that were released")


def _discard(session: Session, wanted: LostDecision) -> None:
    for delivery in _deliveries(session, wanted.what["deliveries"]):
        if (delivery.state, DELIVERY_DISCARDED) in DELIVERY:
            outbox.discard(session, delivery.id, wanted.words)


def _retry(session: Session, wanted: LostDecision) -> None:
    for delivery in _deliveries(session, wanted.what["deliveries"]):
        if delivery.state in (DeliveryState.DISCARDED, DeliveryState.DEAD):
            outbox.retry(session, delivery.id)


def _judge_cleaning(settings: Settings, wanted: LostDecision) -> None:
    from dicom_node.studies import rerun

    what = wanted.what
    verdict = ReviewVerdict(what["verdict"])
    with writing(settings) as session:
        study = find_study(session, wanted.study)
        instance = session.scalar(select(Instance).where(Instance.sop_instance_uid == what["image"]))
        if instance is None or instance.pixels_sha256 != what["pixels_sha256"]:
            raise _NotYet("the image that was judged is not here")
        if verdict is ReviewVerdict.DRAWN:
            session.merge(
                DrawnByHand(
                    instance_id=instance.id,
                    pixels_sha256=what["pixels_sha256"],
                    boxes=what["boxes"],
                    at=wanted.by.now,
                    actor=wanted.by.name,
                    role=UserRole(what["role"]),
                )
            )
        end_reviews_of_image(session, instance.id, verdict, wanted.by.name)
        _note(session, wanted, study.id)
        if verdict is ReviewVerdict.DRAWN and study.state is not StudyState.RECEIVING:
            rerun.rerun(session, study.id, settings)


def _change_job(session: Session, wanted: LostDecision) -> None:
    """A job that was cancelled is cancelled; where it was quicker, nothing of it leaves that did not yet."""
    what = wanted.what
    study = find_study(session, wanted.study).id
    if what["change"] == "cancel":
        of_rule = select(Job).where(Job.study_id == study, Job.rule == what["rule"])
        newest_first = session.scalars(of_rule.order_by(Job.id.desc()))
        job = next((job for job in newest_first if sources_sha256(job) == what["images"]), None)
        if job is None:
            raise _NotYet("the job that was cancelled is not there")
        if job.state in (JobState.QUEUED, JobState.HELD, JobState.RUNNING):
            cancel(session, job.id)
        of_job = select(Delivery).join(Result, Result.id == Delivery.result_id).where(Result.job_id == job.id)
        for delivery in session.scalars(of_job.order_by(Delivery.id)).all():
            if (delivery.state, DELIVERY_DISCARDED) in DELIVERY:
                outbox.discard(session, delivery.id, "its job was cancelled by a person")


def _delete_received(settings: Settings, wanted: LostDecision) -> None:
    with open_database(settings) as database:
        study = studies.number_of(database, wanted.study)
    [row] = studies.delete_received(settings, [study], wanted.by)
    if not row["deleted"]:
        raise _NotYet(row["reason"])


_AGAIN: Mapping[AuditAction, Callable[[Settings, LostDecision], None]] = {
    AuditAction.RESULT_WITHDRAWN: _withdraw,
    AuditAction.RESULTS_ASSESSED: _assess,
    AuditAction.FEEDBACK_GIVEN: _give_feedback,
    AuditAction.STUDY_RELEASED: _release,
    AuditAction.CLEANING_JUDGED: _judge_cleaning,
    AuditAction.OBJECTS_DELETED: _delete_received,
}
_AGAIN_WITH_AUDIT: Mapping[AuditAction, Callable[[Session, LostDecision], None]] = {
    AuditAction.DISCARDED: _discard,
    AuditAction.DELIVERY_RETRIED: _retry,
    AuditAction.JOB_CHANGED: _change_job,
}


def _results(session: Session, uids: Sequence[str]) -> Sequence[Result]:
    """All of them, of a study whose results stand. Raises _NotYet."""
    rows = session.scalars(select(Result).where(Result.sop_instance_uid.in_(uids))).all()
    if missing := len(set(uids)) - len(rows):
        raise _NotYet(f"{missing} of {len(set(uids))} results are not built (any more)")
    return rows


def _deliveries(session: Session, pairs: Sequence[Sequence[str]]) -> list[Delivery]:
    rows = {row.sop_instance_uid: row.id for row in _results(session, [uid for uid, _ in pairs])}
    chosen = (select(Delivery).filter_by(result_id=rows[uid], destination=peer) for uid, peer in pairs)
    there = [row for one in chosen if (row := session.scalar(one)) is not None]
    if len(there) < len(pairs):
        raise _NotYet("its results do not go to that peer (yet)")
    return there
