"""Locks of rows in PostgreSQL, which other transactions wait for; SQLite has one writer at a time."""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from dicom_node.base.store.tables import Job, Study


def lock_studies(session: Session, *which: ColumnElement[bool]) -> None:
    """Lock the studies that fulfil these SQL conditions until the transaction ends.

    Whoever changes a study's jobs, results or deliveries locks the study before them, and several studies in
    one call: in the order of their numbers. So no two transactions wait for each other.
    """
    chosen = select(Study.id).where(*which).order_by(Study.id)
    session.execute(chosen.with_for_update(key_share=True))


def lock_free(session: Session, study_ids: Iterable[int]) -> Sequence[int]:
    """Lock these studies until the transaction ends, except those that another transaction is changing;
    return the locked ids.

    Evaluate the conditions of their choice again afterwards: a new statement sees what was committed
    meanwhile.
    """
    chosen = select(Study.id).where(Study.id.in_(study_ids)).order_by(Study.id)
    return session.scalars(chosen.with_for_update(key_share=True, skip_locked=True)).all()


def locked_with_study(chosen: Select[Job]) -> Select[Job]:
    """Add to a query of jobs that each is locked together with its study; jobs of which another transaction
    locks either are left out, so that nobody is waited for.
    """
    both = chosen.join(Job.study).with_for_update(of=(Study, Job), key_share=True, skip_locked=True)
    return both.execution_options(populate_existing=True)
