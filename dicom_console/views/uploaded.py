"""The progress of an upload, study by study, from the spool to the peers; without file names."""

from collections import Counter
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_console.views import listing, search
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import END_STATES, OPEN_JOBS, AuditAction, DeliveryState, Outcome, StudyState
from dicom_node.base.store import views
from dicom_node.base.store.tables import AuditRow, Delivery, Job, ReceivedObject, Result, Study
from dicom_node.base.store.views import View, columns

LISTED: Final = 5
"""Uploads that the page lists, the newest."""
_STUDIES = 50  # of one upload that its page shows
_AT_REST: Final = END_STATES | {StudyState.UNASSESSED}
_AS_USUAL: Final = (Outcome.NEW, Outcome.TAKEN)


def newest(session: Session) -> list[View]:
    """Return the newest uploads: user, time, and how many objects were accepted and refused."""
    by_people = AuditRow.fields["way"].as_string().is_(None)
    chosen = select(AuditRow).where(AuditRow.action == AuditAction.UPLOADED, by_people)
    rows = session.scalars(chosen.order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(LISTED))
    return [_brief(row) for row in rows]


def show(session: Session, settings: Settings, number: int) -> View:
    """Return one upload, what became of its objects, and the progress of their studies.

    ``number``: of its audit record. Raises NotFound.
    """
    row = session.get(AuditRow, number)
    if row is None or row.action is not AuditAction.UPLOADED:
        raise NotFound("there is no such upload")
    chosen = select(ReceivedObject).where(ReceivedObject.association == row.fields["association"])
    received = session.scalars(chosen.order_by(ReceivedObject.id)).all()
    by_study = search.grouped((one.study_id, one) for one in received)
    studies = _studies(session, settings, [study for study in by_study if study is not None][:_STUDIES])
    brief = _brief(row)
    return brief | {
        "indexed": len(received),
        "studies": [study | _outcomes(by_study[study["id"]]) for study in studies],
        "more": len(by_study.keys() - {None}) - len(studies),
        "unfit": _outcomes(by_study[None]),
        "ended": len(received) >= brief["objects"] and all(study["ended"] for study in studies),
    }


def _brief(row: AuditRow) -> View:
    """Return an upload as lists show it."""
    counted = {key: row.fields.get(key, 0) for key in ("objects", "refused")}
    return {"number": row.id, **columns(row, "at", "actor"), **counted}


def _outcomes(received: list[ReceivedObject]) -> View:
    """Return the number of received objects, and number and reason for each unusual outcome."""
    counted = Counter(one.outcome for one in received)
    reasons = {one.outcome: one.reason for one in reversed(received)}
    unusual = [
        {"outcome": outcome.value, "number": number, "reason": reasons[outcome]}
        for outcome, number in counted.items()
        if outcome not in _AS_USUAL
    ]
    return {"objects": len(received), "unusual": unusual}


def _studies(session: Session, settings: Settings, numbers: list[int]) -> list[View]:
    """Return the studies with these numbers, each with its progress."""
    shown = views.numbered_studies(session, select(Study).where(Study.id.in_(numbers)).order_by(Study.id))
    rows = search.with_withdrawals(session, [{"id": number, **row} for number, row in shown.items()])
    named = listing.named(session, settings, rows)
    return [
        row
        | {
            "ending": named[row["study_instance_uid"]]["ending"] if row["study_instance_uid"] else "no UID",
            "steps": _steps(session, row),
            "ended": row["job_held"] or StudyState(row["state"]) in _AT_REST,
        }
        for row in rows
    ]


def _steps(session: Session, row: View) -> list[View]:
    """Return the steps of a study (received, analysed, delivered): whether each is done, and how
    far it is.
    """
    of_now = (Job.study_id == row["id"]) & (Job.study_revision == row["revision"])
    jobs = list(session.scalars(select(Job.state).where(of_now)))
    done = sum(state not in OPEN_JOBS for state in jobs)
    chosen = select(Delivery.state).join(Result, Delivery.result_id == Result.id)
    sent = list(session.scalars(chosen.where(Result.study_id == row["id"])))
    arrived = sent.count(DeliveryState.CONFIRMED)
    came = row["state"] != StudyState.RECEIVING
    steps = (
        ("received", came, "" if came else "waiting for further images"),
        ("analysed", bool(jobs) and done == len(jobs), f"{done} of {len(jobs)} jobs" if jobs else ""),
        ("delivered", bool(sent) and arrived == len(sent), f"{arrived} of {len(sent)}" if sent else ""),
    )
    return [{"word": word, "done": is_done, "how_far": how_far} for word, is_done, how_far in steps]
