"""What a study's state does not say: its results were withdrawn, or wait for a peer that takes none."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.model.kinds import ResultKind
from dicom_node.outbox import outages
from dicom_node.store.accounts import Withdrawal
from dicom_node.store.tables import Result
from dicom_node.store.views import View


def remarked(session: Session, rows: Sequence[View]) -> list[View]:
    """Studies of a list (with ``id``) and of each ``withdrawn``: "all" of its results, "some" or "".

    ``reason`` of one that has none of its own: why a try to deliver its results failed.
    """
    numbers = [row["id"] for row in rows]
    chosen = select(Result.study_id, func.count(Result.id), func.count(Withdrawal.result_id))
    of_studies = Result.study_id.in_(numbers), Result.kind != ResultKind.REJECTION
    counted = chosen.outerjoin(Withdrawal, Withdrawal.result_id == Result.id).where(*of_studies)
    gone = {
        study: "all" if withdrawn == results else "some" if withdrawn else ""
        for study, results, withdrawn in session.execute(counted.group_by(Result.study_id))
    }
    waits = outages.reasons(session, Result.study_id.in_(numbers))
    return [
        {**row, "withdrawn": gone.get(row["id"], ""), "reason": row["reason"] or waits.get(row["id"], "")}
        for row in rows
    ]
