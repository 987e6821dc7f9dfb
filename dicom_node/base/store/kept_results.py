"""Why results of a study have no delivery: they go to nobody, and stay at the console."""

from collections import defaultdict

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, selectinload

from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Delivery, Result


def reasons(session: Session, settings: Settings, study_id: int) -> dict[int, str]:
    """Return, by id of each result of a study that has no delivery, why it goes to nobody, in words."""
    kept = select(Result).where(Result.study_id == study_id, ~exists().where(Delivery.result_id == Result.id))
    rows = session.scalars(kept.options(selectinload(Result.job))).all()
    if not rows:
        return {}
    if intake.stays_here(session, study_id):
        return {
            row.id: "it was tried here, or fetched for a comparison: such results stay here" for row in rows
        }
    sent: dict[tuple[int, str], set[ResultKind]] = defaultdict(set)
    for job, kind, peer in session.execute(
        select(Result.job_id, Result.kind, Delivery.destination)
        .join(Delivery, Delivery.result_id == Result.id)
        .where(Result.study_id == study_id)
    ):
        sent[job, peer].add(kind)
    return {row.id: _reason(settings, row, sent) for row in rows}


def _reason(settings: Settings, row: Result, sent: dict[tuple[int, str], set[ResultKind]]) -> str:
    """Return why a result goes to none of its job's peers. ``sent``: the kinds of results that each peer
    gets, by job and peer.
    """
    known = {peer.name: peer for peer in settings.peers}
    named = [known[name] for name in row.job.destinations if name in known]
    if not row.job.destinations:
        return f"rule {row.job.rule} sends to no peer: see its send_to"
    if not named:
        return f"of the peers of rule {row.job.rule} none is configured any more"
    names = ", ".join(peer.name for peer in named)
    taking = [peer for peer in named if peer.takes(row.kind)]
    if not taking:
        return f"{names} takes no {row.kind}: see results of the peer"
    wanting = [peer for peer in taking if peer.deidentify is row.deidentified]
    if not wanting:
        return f"{names} takes " + (
            "none of the de-identified results" if row.deidentified else "only de-identified results"
        )
    if any(sent.get((row.job_id, peer.name)) for peer in wanting):
        return "nothing in it needs a word: its other results say all (no_call of the rule)"
    return "nothing in it needs a word, or other results replaced it: see no_call of the rule"
