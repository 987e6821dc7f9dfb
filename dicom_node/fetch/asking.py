"""Queries to a peer for studies to fetch; each study is stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy.orm import Session

from dicom_node.events import FETCH_ASKED, FETCH_CANCELLED
from dicom_node.model.kinds import FetchPurpose
from dicom_node.model.lifecycle import OPEN_FETCHES, FetchState
from dicom_node.scu import Archive, FoundStudy, StudyQuery
from dicom_node.store import fetches
from dicom_node.store.database import Database
from dicom_node.store.tables import Fetch
from dicom_node.store.transitions import move_fetch, record, utc_now

_BATCH = 500  # studies of one transaction


@dataclass(slots=True)
class AskedStudies:
    """The outcome of querying a peer for studies."""

    found: int = 0
    here: int = 0
    """Studies that this node has: they are not fetched."""
    before: int = 0
    """Studies that were fetched, or given up, before."""
    strays: int = 0
    """Answers that did not fit the question."""
    wanted: int = 0
    """Studies that were written down, or wait already."""
    first: int = 0
    """The lowest number of their rows."""

    def want(self, row: Fetch) -> None:
        """Count a study that must be fetched."""
        self.wanted += 1
        self.first = min(self.first or row.id, row.id)


def questions(first: date, last: date, modalities: Sequence[str]) -> list[StudyQuery]:
    """One query for each day and modality: short answers, whatever limit the archive has."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [StudyQuery(day, day, modality) for day in days for modality in modalities or ("",)]


def ask(
    database: Database,
    archive: Archive,
    peer: str,
    asked: Sequence[StudyQuery],
    *,
    rule: str = "",
    per_minute: float = 0,
    advance: Callable[[], object] = bool,
) -> AskedStudies:
    """Query the archive, and store which studies are to be fetched; a repeated call continues.

    ``advance`` is called after each query. Raises PeerUnreachable; rows that were stored before remain.
    """
    outcome = AskedStudies()
    for question in asked:
        found = archive.find(question)
        outcome.strays += found.strays
        for start in range(0, len(found.studies), _BATCH):
            batch = found.studies[start : start + _BATCH]
            with database.write() as session:
                _write(session, peer, batch, rule, per_minute, outcome)
        advance()
    return outcome


def write_down(
    session: Session,
    peer: str,
    study: FoundStudy,
    rule: str = "",
    per_minute: float = 0,
    purpose: FetchPurpose = FetchPurpose.ASKED,
) -> Fetch:
    """Add a row for a study to fetch; studies that another study waits for are fetched first."""
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


def ask_again(session: Session, peer: str) -> int:
    """Fetch again the studies of this peer that were given up or cancelled; returns their number."""
    rows = fetches.listed(session, peer, (FetchState.FAILED, FetchState.CANCELLED))
    return sum(
        move_fetch(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now()) for row in rows
    )


def cancel(session: Session, peer: str) -> int:
    """Cancel the waiting fetches from this peer; returns the number of studies."""
    rows = fetches.listed(session, peer, (FetchState.WAITING,))
    return sum(move_fetch(session, row, FETCH_CANCELLED, ended_at=utc_now()) for row in rows)


def _write(
    session: Session,
    peer: str,
    studies: Sequence[FoundStudy],
    rule: str,
    per_minute: float,
    outcome: AskedStudies,
) -> None:
    uids = [study.study_instance_uid for study in studies]
    here, known = fetches.here(session, uids), fetches.of_studies(session, uids)
    for study in studies:
        outcome.found += 1
        row = known.get(study.study_instance_uid)
        if row is not None and row.state in OPEN_FETCHES:
            outcome.want(row)
        elif row is not None:
            outcome.before += 1
        elif study.study_instance_uid in here:
            outcome.here += 1
        else:
            outcome.want(write_down(session, peer, study, rule, per_minute))
