"""Studies that are fetched from peers, and questions to peers about earlier studies of a patient.

Queries only: ``studies/fetch.py`` decides.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.base.lifecycle import FetchPurpose, FetchState, QuestionState
from dicom_node.base.store.tables import ArchiveQuestion, Fetch, Study
from dicom_node.base.store.transitions import utc_now

_S = FetchState


def of_study(session: Session, study_instance_uid: str | None, *, lock: bool = False) -> Fetch | None:
    """The fetch of this study, None if it was never requested.

    ``lock``: as it is now, and nobody else changes it until the transaction ends.
    """
    chosen = select(Fetch).where(Fetch.study_instance_uid == study_instance_uid)
    if lock:
        chosen = chosen.with_for_update().execution_options(populate_existing=True)
    return session.scalar(chosen)


def of_studies(session: Session, study_instance_uids: Collection[str]) -> dict[str, Fetch]:
    """The fetches of several studies, by Study Instance UID."""
    return {
        row.study_instance_uid: row
        for row in session.scalars(select(Fetch).where(Fetch.study_instance_uid.in_(study_instance_uids)))
    }


def states_by_peer(session: Session) -> dict[str, dict[FetchState, int]]:
    """The number of fetches in each state, for each peer."""
    found: dict[str, dict[FetchState, int]] = {}
    for peer, state, number in session.execute(
        select(Fetch.peer, Fetch.state, func.count()).group_by(Fetch.peer, Fetch.state).order_by(Fetch.peer)
    ):
        found.setdefault(peer, {})[state] = number
    return found


def listed(
    session: Session,
    peer: str = "",
    states: Collection[FetchState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> Sequence[Fetch]:
    """Fetches, the newest first; of one peer, in these states, with numbers below ``before``."""
    chosen = select(Fetch).order_by(Fetch.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(Fetch.id < before)
    if peer:
        chosen = chosen.where(Fetch.peer == peer)
    if states:
        chosen = chosen.where(Fetch.state.in_(states))
    return session.scalars(chosen).all()


def is_not_under_way(silent_since: datetime) -> ColumnElement[bool]:
    """SQL: whether no fetch of the study is running or waits for its next try.

    A study that received nothing since ``silent_since`` is no longer kept open for its fetch.
    """
    tried = or_(Fetch.state == _S.FETCHING, (Fetch.state == _S.WAITING) & (Fetch.attempts > 0))
    under_way = exists().where(Fetch.study_instance_uid == Study.study_instance_uid, tried)
    return ~(under_way & (Study.due_at > silent_since))


def is_prior(session: Session, study_id: int) -> bool:
    """Whether a study was fetched as a prior; results of a prior are never sent."""
    uid = select(Study.study_instance_uid).where(Study.id == study_id).scalar_subquery()
    prior = exists().where(Fetch.study_instance_uid == uid, Fetch.purpose == FetchPurpose.PRIOR)
    return bool(session.scalar(select(prior)))


def present_studies(session: Session, study_instance_uids: Collection[str]) -> dict[str, Study]:
    """The studies among these UIDs that this node has, by UID."""
    return {
        str(row.study_instance_uid): row
        for row in session.scalars(select(Study).where(Study.study_instance_uid.in_(study_instance_uids)))
    }


def question_of_rule(session: Session, study: Study, rule: str) -> ArchiveQuestion | None:
    """The question that a rule has about this revision of the study; None without one."""
    row = ArchiveQuestion
    return session.scalar(
        select(row).where(row.study_id == study.id, row.revision == study.revision, row.rule == rule)
    )


def add_question(session: Session, study: Study, rule: str, peer: str) -> None:
    """Add the question of a rule about this revision of the study, once."""
    if question_of_rule(session, study, rule) is None:
        mine = {"study_id": study.id, "revision": study.revision, "rule": rule}
        session.add(ArchiveQuestion(**mine, peer=peer, next_at=utc_now()))
        session.flush()


def wait_for_priors(session: Session, study: Study, rule: str, until: datetime) -> bool:
    """Let the rule's question about earlier studies end by ``until``; returns whether the rule's job must
    wait for it.
    """
    row = question_of_rule(session, study, rule)
    if row is None or row.state is QuestionState.ENDED:
        return False
    row.until = until
    return True
