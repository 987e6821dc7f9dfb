"""Queries to a peer, and the queue of the studies to fetch from it.

Queries store each study to fetch once; all state is in the database.
"""

from collections.abc import Sequence
from datetime import date, timedelta

from sqlalchemy.orm import Session

from dicom_node.base.events import (
    FETCH_ASKED,
    FETCH_CANCELLED,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    FetchPurpose,
    FetchState,
)
from dicom_node.base.store import fetches
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import Fetch
from dicom_node.base.store.transitions import record, try_move, utc_now
from dicom_node.deliver import scu


def daily_queries(first: date, last: date, modalities: Sequence[str]) -> list[scu.StudyQuery]:
    """Return one query for each day from ``first`` to ``last`` and each modality, so that no answer exceeds
    an archive's limit; no modalities: one query a day.
    """
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [scu.StudyQuery(day, day, modality) for day in days for modality in modalities or ("",)]


def ask(
    database: Database,
    archive: scu.Archive,
    peer: str,
    queries: Sequence[scu.StudyQuery],
    *,
    rule: str = "",
    per_minute: float = 0,
) -> dict[str, int]:
    """Query the archive and queue the retrieval of the studies found; a repeated call continues. Returns
    counts.

    ``found``: studies in the answers; ``here``: of these, the node has them; ``before``: fetched or given up
    before; ``wanted``: queued now or before; ``first``: the lowest id of those rows; ``strays``: answers that
    did not fit the query. ``rule``: the only rule that may take the studies, "" for all. ``per_minute``:
    studies to fetch a minute, 0 for the peer's setting. Raises Unavailable; rows stored before remain.
    """
    outcome = dict.fromkeys(("found", "here", "before", "strays", "wanted", "first"), 0)
    for question in queries:
        found = archive.find(question)
        outcome["strays"] += found.strays
        for batch in batches(found.studies):
            with database.write() as session:
                uids = [study.study_instance_uid for study in batch]
                here, known = fetches.present_studies(session, uids), fetches.of_studies(session, uids)
                for study in batch:
                    outcome["found"] += 1
                    row = known.get(study.study_instance_uid)
                    if row is None and study.study_instance_uid in here:
                        outcome["here"] += 1
                    elif row is not None and row.state not in OPEN_FETCHES:
                        outcome["before"] += 1
                    else:
                        row = row or queue_fetch(session, peer, study, rule, per_minute)
                        outcome["wanted"] += 1
                        outcome["first"] = min(outcome["first"] or row.id, row.id)
    return outcome


def queue_fetch(
    session: Session,
    peer: str,
    study: scu.FoundStudy,
    rule: str = "",
    per_minute: float = 0,
    purpose: FetchPurpose = FetchPurpose.ASKED,
) -> Fetch:
    """Queue the retrieval of a study from ``peer``; earlier studies for comparison come first.

    ``rule``, ``per_minute``: as of :func:`ask`.
    """
    now = utc_now()
    row = Fetch(
        peer=peer,
        study_instance_uid=study.study_instance_uid,
        rule=rule,
        per_minute=per_minute,
        purpose=purpose,
        urgent=purpose is not FetchPurpose.ASKED,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        patient=str(study.patient),
        asked_at=now,
        next_at=now,
    )
    session.add(row)
    session.flush()
    record(session, FETCH_ASKED, study=row.study_instance_uid, peer=peer)
    return row


def fetch_again(session: Session, peer: str) -> int:
    """Queue again the retrievals from this peer that failed or were cancelled; return their number."""
    return sum(
        try_move(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.FAILED, FetchState.CANCELLED))
    )


def cancel(session: Session, peer: str) -> int:
    """Cancel the waiting retrievals from this peer; return their number."""
    return sum(
        try_move(session, row, FETCH_CANCELLED, ended_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.WAITING,))
    )
