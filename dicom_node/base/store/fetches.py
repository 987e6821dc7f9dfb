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
    """Return the fetch (retrieval from a peer) of this study; None if it was never requested.

    ``lock``: read it anew and lock it until the transaction ends.
    """
    chosen = select(Fetch).where(Fetch.study_instance_uid == study_instance_uid)
    if lock:
        chosen = chosen.with_for_update().execution_options(populate_existing=True)
    return session.scalar(chosen)


def of_studies(session: Session, study_instance_uids: Collection[str]) -> dict[str, Fetch]:
    """Return the fetches (retrievals from a peer) of several studies, by Study Instance UID."""
    return {
        row.study_instance_uid: row
        for row in session.scalars(select(Fetch).where(Fetch.study_instance_uid.in_(study_instance_uids)))
    }


def states_by_peer(session: Session) -> dict[str, dict[FetchState, int]]:
    """Return the number of fetches in each state, for each peer."""
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
    """Return at most ``limit`` fetches, newest first; only of ``peer`` and in ``states`` unless these are
    empty, and with ids below ``before``.
    """
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

    A fetch does not count if the study received nothing since ``silent_since``.
    """
    tried = or_(Fetch.state == _S.FETCHING, (Fetch.state == _S.WAITING) & (Fetch.attempts > 0))
    under_way = exists().where(Fetch.study_instance_uid == Study.study_instance_uid, tried)
    return ~(under_way & (Study.due_at > silent_since))


def is_prior(session: Session, study_id: int) -> bool:
    """Return whether a study was fetched as an earlier study for comparison; its results are never sent."""
    uid = select(Study.study_instance_uid).where(Study.id == study_id).scalar_subquery()
    prior = exists().where(Fetch.study_instance_uid == uid, Fetch.purpose == FetchPurpose.PRIOR)
    return bool(session.scalar(select(prior)))


def present_studies(session: Session, study_instance_uids: Collection[str]) -> dict[str, Study]:
    """Return those studies with these UIDs that this node has, by Study Instance UID."""
    return {
        str(row.study_instance_uid): row
        for row in session.scalars(select(Study).where(Study.study_instance_uid.in_(study_instance_uids)))
    }


def prior_query_of(session: Session, study: Study, rule: str) -> ArchiveQuestion | None:
    """Return the stored query to a peer by which ``rule`` looks for the patient's earlier studies, for this
    revision of the study; None if there is none.
    """
    row = ArchiveQuestion
    return session.scalar(
        select(row).where(row.study_id == study.id, row.revision == study.revision, row.rule == rule)
    )


def add_prior_query(session: Session, study: Study, rule: str, peer: str) -> None:
    """Queue the query to ``peer`` by which ``rule`` looks for the patient's earlier studies, for this
    revision of the study, unless it is queued already.
    """
    if prior_query_of(session, study, rule) is None:
        session.add(
            ArchiveQuestion(
                study_id=study.id, revision=study.revision, rule=rule, peer=peer, next_at=utc_now()
            )
        )
        session.flush()


def wait_for_priors(session: Session, study: Study, rule: str, until: datetime) -> bool:
    """Set ``until`` as the latest end of the query for earlier studies that ``rule`` makes for ``study``;
    return whether the rule's job must wait for the query.
    """
    row = prior_query_of(session, study, rule)
    if row is None or row.state is QuestionState.ENDED:
        return False
    row.until = until
    return True
