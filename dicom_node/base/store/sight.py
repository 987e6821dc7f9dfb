"""The studies that a user sees: all, or those whose every sender the user may see: who stores an object under
the UID of another one's study sees no more by it.

The condition is added here to every statement on a table that belongs to a study, so no page and no service
can forget it (SQLAlchemy: "Adding global WHERE / ON criteria").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, event, exists, false, func, or_, select, true
from sqlalchemy.orm import (
    InstrumentedAttribute,
    LoaderCriteriaOption,
    ORMExecuteState,
    Session,
    with_loader_criteria,
)

from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, AuditAction, ObjectRole, Outcome
from dicom_node.base.store.awaited import AnswerObject, AwaitedAnswer
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.merges import Hl7Message, ReplacedPatient
from dicom_node.base.store.tables import (
    Association,
    AuditRow,
    ClaimedWorkitem,
    CountedImage,
    Delivery,
    DrawnByHand,
    EventRow,
    Fetch,
    Instance,
    ModelCount,
    Notification,
    NotifiedEvent,
    Original,
    PerformedStep,
    ReceivedObject,
    RegisteredPatient,
    Removal,
    RequestedCommitment,
    Result,
    StepObject,
    StepStudy,
    Study,
    Withdrawal,
)

SENDERS: Final[ContextVar[tuple[str, ...]]] = ContextVar("senders", default=())
"""Calling AE titles whose studies are seen in this request; () for all."""

# Tables of Core, to which the conditions themselves are not added.
_instance, _received, _result, _original, _delivery, _study, _step_study, _awaited = (
    one.__table__
    for one in (Instance, ReceivedObject, Result, Original, Delivery, Study, StepStudy, AwaitedAnswer)
)

_NOT_TAKEN: Final = (Outcome.CONFLICT, Outcome.QUARANTINED, Outcome.SET_ASIDE)


def _studies(senders: Sequence[str]) -> Select[Any]:
    """SQL: the ids of the studies with objects of these senders (AE titles), and of no other.

    Copies of what is there, and results of ours that came back, are of nobody.
    """
    others, refused = _instance.alias(), _received.c.outcome.in_(_NOT_TAKEN)
    of_others = others.c.study_id == _instance.c.study_id, others.c.calling_ae.not_in(senders)
    set_aside = _received.c.study_id == _instance.c.study_id, _received.c.calling_ae.not_in(senders)
    return select(_instance.c.study_id).where(
        _instance.c.calling_ae.in_(senders),
        ~exists().where(*of_others, others.c.role != ObjectRole.OWN),
        ~exists().where(*set_aside, refused),
    )


def _images(senders: Sequence[str]) -> Select[Any]:
    """SQL: the ids of the objects in studies of these senders (AE titles)."""
    return select(_instance.c.id).where(_instance.c.study_id.in_(_studies(senders)))


def _results(senders: Sequence[str]) -> Select[Any]:
    """SQL: the ids of the results of studies of these senders (AE titles)."""
    return select(_result.c.id).where(_result.c.study_id.in_(_studies(senders)))


def _uids(senders: Sequence[str]) -> Select[Any]:
    """SQL: the Study Instance UIDs of studies of these senders (AE titles)."""
    return select(_study.c.study_instance_uid).where(_study.c.id.in_(_studies(senders)))


def _steps(senders: Sequence[str]) -> Select[Any]:
    """SQL: the ids of the MPPS steps of studies of these senders (AE titles)."""
    return select(_step_study.c.step_id).where(_step_study.c.study_instance_uid.in_(_uids(senders)))


def _visible_events(senders: Sequence[str]) -> ColumnElement[bool]:
    """SQL: events of these senders (AE titles) or their studies, and events about no sender, study or work
    item.
    """
    calling, study, *others = (
        EventRow.fields[field].as_string()
        for field in ("calling", "study", "studies", "instance", "workitem")
    )
    return or_(
        calling.in_(senders),
        study.in_(_uids(senders)),
        and_(*(field.is_(None) for field in (calling, study, *others))),
    )


_CONDITIONS: Final[Mapping[type[Base], Callable[[Sequence[str]], ColumnElement[bool]]]] = {
    Study: lambda senders: Study.id.in_(_studies(senders)),
    ReceivedObject: lambda senders: or_(
        ReceivedObject.study_id.in_(_studies(senders)),
        ReceivedObject.study_id.is_(None) & ReceivedObject.calling_ae.in_(senders),
    ),
    EventRow: lambda senders: or_(
        EventRow.study_id.in_(_studies(senders)), EventRow.study_id.is_(None) & _visible_events(senders)
    ),
    AuditRow: lambda senders: or_(
        AuditRow.study_id.in_(_studies(senders)),
        AuditRow.study_id.is_(None)
        & (true() if CONSOLE_AE_TITLE in senders else AuditRow.action != AuditAction.UPLOADED),
    ),
    Association: Association.calling_ae.in_,
    RequestedCommitment: RequestedCommitment.calling_ae.in_,
    Delivery: lambda senders: or_(
        Delivery.result_id.in_(_results(senders)),
        Delivery.original_id.in_(select(_original.c.id).where(_original.c.study_id.in_(_studies(senders)))),
    ),
    Withdrawal: lambda senders: Withdrawal.result_id.in_(_results(senders)),
    Removal: lambda senders: Removal.id.in_(
        select(_delivery.c.id).where(_delivery.c.result_id.in_(_results(senders)))
    ),
    Fetch: lambda senders: Fetch.study_instance_uid.in_(_uids(senders)),
    ClaimedWorkitem: lambda senders: ClaimedWorkitem.study_instance_uid.in_(_uids(senders)),
    PerformedStep: lambda senders: PerformedStep.id.in_(_steps(senders)),
    StepStudy: lambda senders: StepStudy.study_instance_uid.in_(_uids(senders)),
    StepObject: lambda senders: StepObject.step_id.in_(_steps(senders)),
    CountedImage: lambda senders: CountedImage.instance_id.in_(_images(senders)),
    DrawnByHand: lambda senders: DrawnByHand.instance_id.in_(_images(senders)),
    ModelCount: ModelCount.calling_ae.in_,
    AnswerObject: lambda senders: AnswerObject.awaited_id.in_(
        select(_awaited.c.id).where(_awaited.c.study_id.in_(_studies(senders)))
    ),
    RegisteredPatient: lambda _: false(),
    Hl7Message: lambda _: false(),
    ReplacedPatient: lambda _: false(),
    Notification: lambda _: false(),  # their texts name findings of all studies
    NotifiedEvent: lambda _: false(),
}
"""Of tables that have no ``study_id``, or in which it may be NULL."""


def condition_of(table: type[Base], senders: Sequence[str]) -> ColumnElement[bool] | None:
    """Return the SQL condition on the rows of ``table`` that belong to studies of these senders (AE titles);
    None for a table that belongs to no study.
    """
    if table in _CONDITIONS:
        return _CONDITIONS[table](senders)
    if "study_id" in table.__table__.columns:
        return table.study_id.in_(_studies(senders))  # type: ignore[attr-defined, no-any-return]
    return None


@contextmanager
def seen_by(senders: Sequence[str] = ()) -> Iterator[None]:
    """Context manager: limit all database queries to what a console user restricted to these senders (AE
    titles) may see.

    Without ``senders`` there is no limit: for unrestricted users, and for internal checks whose result nobody
    sees.
    """
    before = SENDERS.set(tuple(senders))
    try:
        yield
    finally:
        SENDERS.reset(before)


def is_hidden(session: Session, study_uid: str, *instance_uids: str) -> bool:
    """Return whether the node has the study, or an object with one of ``instance_uids``, and the present user
    may not see it.
    """
    by_others = _received.c.calling_ae.not_in(SENDERS.get())  # of a faulty object no study may be seen
    study_of_others = exists().where(_received.c.study_id == _study.c.id, by_others)
    asked: Sequence[tuple[InstrumentedAttribute[Any], Sequence[str], ColumnElement[bool]]] = (
        (Study.study_instance_uid, [study_uid], study_of_others),
        (Instance.sop_instance_uid, instance_uids, true()),
        (ReceivedObject.sop_instance_uid, instance_uids, by_others),
        (Result.sop_instance_uid, instance_uids, true()),
    )
    for attribute, uids, of_others in asked:
        column = attribute.property.columns[0]
        chosen = select(func.count()).where(column.in_(uids), of_others)
        seen = chosen.select_from(attribute.class_)
        if session.scalar(chosen.select_from(column.table)) != session.scalar(seen):
            return True
    return False


@event.listens_for(Session, "do_orm_execute")
def _limit_to_senders(state: ORMExecuteState) -> None:
    """Event handler: restrict each query of a session to the senders (AE titles) that the present user may
    see.
    """
    senders = SENDERS.get()
    if senders and state.is_orm_statement and not state.is_insert and not state.is_column_load:
        state.statement = state.statement.options(*_criteria(senders))


@lru_cache(maxsize=64)
def _criteria(senders: Sequence[str]) -> Sequence[LoaderCriteriaOption]:
    """The conditions on all tables; made once for each user's senders (AE titles), as each takes an alias."""
    tables = [mapper.class_ for mapper in Base.registry.mappers]
    conditions = [(table, condition_of(table, senders)) for table in tables]
    return [
        with_loader_criteria(table, condition, include_aliases=True)
        for table, condition in conditions
        if condition is not None
    ]
