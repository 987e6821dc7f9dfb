"""Views: lists and details as JSON-ready dicts with stable keys (docs/reference/lists.md).

Console and command line show the same rows. Only ``patient_id`` identifies a patient here; events never
contain it.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import ColumnElement, Select, exists, func, literal, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from dicom_node.base import events
from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import STUDY_UID, Column, Time, details, fields, times, uid
from dicom_node.base.actions.in_words import (
    delivery_totals,
    job_details,
    objects_in_words,
    results_in_words,
    runs,
    state_in_words,
    study_details,
    study_totals,
    withdrawal_in_words,
)
from dicom_node.base.actions.inputs import OfStudy, Since, StudyUid, Until, limit, states
from dicom_node.base.actions.nouns import ASSOCIATIONS, EVENTS, JOBS, OUTBOX, STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    DeliveryState,
    JobState,
    ObjectRole,
    Outcome,
    StudyState,
)
from dicom_node.base.store import completeness, deliveries, kept_results, requested
from dicom_node.base.store.intake import IS_TRIAL
from dicom_node.base.store.mapping import UtcDateTime
from dicom_node.base.store.tables import (
    RECORDS,
    Association,
    Delivery,
    EventRow,
    Instance,
    Job,
    ReceivedObject,
    Result,
    Study,
    StudyTrace,
    Withdrawal,
)
from dicom_node.base.store.transitions import utc_now

View = dict[str, Any]

PRIORITIES = {1: "stat", 0: "routine", -1: "low"}

HELD = "held"
"""What lists call a study that no rule runs yet, as a limit holds its job; ``not_applicable`` there."""

TRIAL = "trial"
"""What lists call a study that is a picture which a person tried; a list of all studies is without them."""

ORIGINAL = "original"
"""What the outbox calls a received object that is forwarded, among the kinds of results."""

_NO_UID = "no-uid-"  # and a number: what a study without Study Instance UID is called
_DIGITS = 18  # that a number in the database may have
_CANDIDATES = 5  # studies that are named where a UID's ending means several
_TOLD_LATE = timedelta(minutes=1)  # the end of an association that outlasted its listener
_RECEIVED = ("sop_instance_uid", "outcome", "reason", "calling_ae", "called_ae", "bytes", "received_at")
_NOT_COUNTED = (ObjectRole.OWN, ObjectRole.ASIDE)


@Action(
    STUDIES,
    "list",
    'List studies, the newest first. "held": a limit of its rule waits for a person (`jobs retry`). '
    '"trial": pictures that somebody tried at the console; without a state they are left out.',
    "--since 2026-03-01 --until 2026-03-02 --config node.toml",
    columns=(
        uid("study", "study"),
        Column("state", state_in_words),
        *fields("patient: patient_id", "modality: modalities"),
        Column("objects", objects_in_words),
        Column("results", lambda row: results_in_words(row["results"])),
        *times("received: last_received_at"),
        Column("reason", lambda row: "; ".join(filter(None, (row["reason"], *row["warnings"])))),
    ),
    none="No studies, or none that all filters let pass.",
    says=study_totals,
)
def list_studies(
    session: Session,
    *,
    states: Annotated[Iterable[StudyState | str], states(*StudyState, HELD, TRIAL)] = (),
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, limit(100)] = None,
) -> list[View]:
    """Return studies as JSON objects, the most recently received first. ``since`` and ``until``: only those
    with an object received since then, whose first one came before then.

    ``states``: only studies in these states (empty: all but trials), as :func:`in_states` takes them.
    """
    chosen = select(Study).order_by(Study.last_received_at.desc(), Study.id.desc()).limit(limit)
    chosen = chosen.where(in_states(tuple(states)))
    if since is not None:
        chosen = chosen.where(Study.last_received_at >= since)
    if until is not None:
        chosen = chosen.where(Study.first_received_at < until)
    return list(numbered_studies(session, chosen).values())


def in_states(wanted: Collection[StudyState | str]) -> ColumnElement[bool]:
    """SQL: whether the study has one of these states; none: all but trials.

    They may include ``HELD`` (a job is stopped by a rule's limit) and ``TRIAL`` (a tried picture, whatever
    its state). A trial that ended well was delivered to nobody: no other state has it.
    """
    if not wanted:
        return ~IS_TRIAL
    found: ColumnElement[bool] = Study.state.in_([state for state in wanted if state not in (HELD, TRIAL)])
    if HELD in wanted:
        found = or_(found, _ARE_HELD)
    return or_(found, IS_TRIAL) if TRIAL in wanted else found & ~(IS_TRIAL & _IS_DELIVERED)


def find_study(session: Session, uid: str) -> Study:
    """Return the study whose Study Instance UID is ``uid``, or the only one whose UID ends with it. Raises
    NotFound.

    A study without UID is named by its id, as in lists ("no-uid-7").
    """
    exact = session.scalar(select(Study).where(Study.study_instance_uid == uid))
    number = uid.removeprefix(_NO_UID)
    if uid.startswith(_NO_UID) and number.isdecimal():
        numbered = Study.id == int(number[:_DIGITS])
        exact = session.scalar(select(Study).where(numbered, Study.study_instance_uid.is_(None)))
    if exact is not None:
        return exact
    ending = Study.study_instance_uid.endswith(uid, autoescape=True)
    found = session.scalars(select(Study).where(ending).limit(_CANDIDATES + 1)).all() if uid else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no study has a UID that is or ends with {uid!r}")
    candidates = [str(study.study_instance_uid) for study in found[:_CANDIDATES]]
    more = ["and more"] if len(found) > _CANDIDATES else []
    raise NotFound(
        f"several studies have a UID that ends with {uid!r}, give more figures: "
        + ", ".join([*candidates, *more])
    )


@Action(
    STUDIES,
    "show",
    "Show one study: objects received, jobs, results, procedure steps, what happened.",
    "1.2.840.113619.2.1 --config node.toml",
    details=study_details,
    parts={
        "results": (
            *fields("kind", "sop_instance_uid"),
            Column("deliveries", lambda row: row["deliveries"] or f"none: {row['kept_because']}"),
            Column("withdrawn", withdrawal_in_words),
        ),
        "jobs": fields("job", "rule", "state", "attempts", "reason"),
        "received": (
            *times("received: received_at"),
            *fields("from: calling_ae", "sop_instance_uid", "outcome", "reason"),
        ),
        "steps": (
            *times("began: begun_at", "ended: ended_at"),
            *fields("from: calling_ae", "status", "objects", "missing"),
        ),
        "events": (*times("at"), *fields("number", "event: text"), Column("details", details)),
    },
)
def show_study(session: Session, settings: Settings, uid: StudyUid) -> View:
    """Return one study (by UID or its ending) as a JSON object with its jobs, received objects, MPPS steps
    and events. Raises NotFound.
    """
    found = find_study(session, uid)
    view = numbered_studies(session, select(Study).where(Study.id == found.id))[found.id]
    because = kept_results.reasons(session, settings, found.id)
    received = select(ReceivedObject).where(ReceivedObject.study_id == found.id).order_by(ReceivedObject.id)
    return view | {
        "trace": session.scalar(select(StudyTrace.trace_id).where(StudyTrace.study_id == found.id)),
        "results": [
            row | {"kept_because": because.get(number, "")}
            for number, row in _results(session, Result.study_id == found.id, by=Result.id)
        ],
        "jobs": _job_views(session, _jobs().where(Job.study_id == found.id)),
        "received": [
            columns(row, *_RECEIVED, "association") | {"path": "" if row.purged else row.path}
            for row in session.scalars(received)
        ],
        "steps": list_steps(session, found.study_instance_uid),
        "events": list_events(session, study_instance_uid=view["study"]),
    }


def list_steps(session: Session, study_instance_uid: str | None) -> list[View]:
    """Return the MPPS steps (performed procedure steps) of a study as JSON objects, by their beginning."""
    return [
        {
            **columns(row, "sop_instance_uid", "peer", "calling_ae", "status"),
            "objects": requested.objects_named(session, row.id),
            "missing": requested.objects_missing(session, [row.id]),
            **columns(row, "begun_at", "changed_at", "ended_at"),
        }
        for row in requested.steps_of(session, study_instance_uid)
    ]


@Action(
    JOBS,
    "list",
    "List jobs, the newest first.",
    "--state held --config node.toml",
    columns=(
        *fields("job"),
        Column(
            "state",
            lambda row: f"{row['state']} {row['share_done']:.0%}" if runs(row) else row["state"],
        ),
        *fields("rule"),
        STUDY_UID,
        *fields("priority"),
        *fields("tries: attempts"),
        *times("created: created_at"),
        Column("reason", lambda row: row["reason"] or (row["doing"] if runs(row) else "")),
    ),
    none="No jobs, or none that all filters let pass.",
)
def list_jobs(
    session: Session,
    *,
    states: Annotated[Iterable[JobState], states(*JobState)] = (),
    study_instance_uid: OfStudy = "",
    limit: Annotated[int | None, limit(100)] = None,
    before: int | None = None,
) -> list[View]:
    """Return jobs as JSON objects, newest first. ``before``: only jobs with a lower id. Raises NotFound for
    an unknown study.
    """
    chosen = _jobs().limit(limit)
    if before is not None:
        chosen = chosen.where(Job.id < before)
    if wanted := tuple(states):
        chosen = chosen.where(Job.state.in_(wanted))
    if study_instance_uid:
        chosen = chosen.where(Study.id == find_study(session, study_instance_uid).id)
    return _job_views(session, chosen)


@Action(
    JOBS,
    "show",
    "Show one job: its images, options, results.",
    "17 --config node.toml",
    details=job_details,
)
def show_job(
    session: Session, job_id: Annotated[int, Input("Its number, as `jobs list` shows it.", metavar="JOB")]
) -> View:
    """Return one job as a JSON object with the images that its rule matched, its results, and ``records``:
    texts that its programs left in ``result.json``, which may name the patient. Raises NotFound.
    """
    found = _job_views(session, _jobs().where(Job.id == job_id))
    if not found:
        raise NotFound(f"no job has the number {job_id}")
    row = session.get_one(Job, job_id)
    return found[0] | {
        **columns(row, "options", "source_uids", "models"),
        "records": (row.scores or {}).get(RECORDS, []),
        "results": [view for _, view in _results(session, Result.job_id == job_id)],
    }


@Action(
    OUTBOX,
    "list",
    "List deliveries, the newest first.",
    "--state dead --since 2026-03-01 --until 2026-03-02 --config node.toml",
    columns=(
        *fields("delivery", "state", "to: destination"),
        STUDY_UID,
        *fields("kind"),
        uid("sop instance", "sop_instance_uid"),
        *fields("tries: attempts"),
        Column("next try", lambda row: "" if row["confirmed_at"] else Time(row["next_at"])),
        *fields("status"),
        Column("reason", lambda row: row["discarded_because"] or row["reason"]),
    ),
    none="No deliveries, or none that all filters let pass.",
    says=delivery_totals,
)
def list_deliveries(
    session: Session,
    *,
    states: Annotated[Iterable[DeliveryState | str], states(*DeliveryState, "open")] = (),
    destination: Annotated[str, Input("Only to this peer.", "--to", "PEER")] = "",
    study_instance_uid: OfStudy = "",
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, limit(100)] = None,
    before: int | None = None,
) -> list[View]:
    """Return the outbox as JSON objects, one per object and destination, newest first.

    ``since`` and ``until``: only objects of studies that :func:`list_studies` lists for these times.
    ``before``: only deliveries with a lower id. ``states``: empty for all; "open" for all that are under way.
    A received object that is forwarded has the kind ``ORIGINAL``. Raises NotFound for an unknown study.
    """
    wanted = {state for one in states for state in (OPEN_DELIVERIES if one == "open" else (one,))}
    chosen = (
        deliveries.with_objects(
            select(
                Delivery,
                Result,
                Study.study_instance_uid,
                exists().where(Withdrawal.result_id == Delivery.result_id),
                deliveries.stalled(session),
            ).options(selectinload(Delivery.original))
        )
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    if wanted:
        chosen = chosen.where(Delivery.state.in_(wanted))
    if before is not None:
        chosen = chosen.where(Delivery.id < before)
    if destination:
        chosen = chosen.where(Delivery.destination == destination)
    if since is not None:
        chosen = chosen.where(Study.last_received_at >= since)
    if until is not None:
        chosen = chosen.where(Study.first_received_at < until)
    if study_instance_uid:
        chosen = chosen.where(Study.id == find_study(session, study_instance_uid).id)
    names = ("destination", "state", "reason", "status", "attempts", "queries", "next_at", "sent_at")
    held_back = deliveries.waiting_for_decisions(session)
    return [
        {
            "delivery": row.id,
            "study_instance_uid": study_uid,
            "kind": as_json(result.kind) if result else ORIGINAL,
            "sop_instance_uid": row.item.sop_instance_uid,
            "withdrawn": is_withdrawn,
            **columns(row, *names, "confirmed_at", "discarded_because"),
            **(
                {"reason": deliveries.WAITS}
                if row.state in OPEN_DELIVERIES and held_back & {study_uid, ""}
                else {"reason": deliveries.STALLED}
                if is_stalled
                else {}
            ),
            "stalled": is_stalled,
        }
        for row, result, study_uid, is_withdrawn, is_stalled in session.execute(chosen)
    ]


@Action(
    EVENTS,
    "list",
    "List events, the oldest first; of more than --limit the newest.",
    "--since 03:10 --until 03:15",
    columns=(
        *times("at"),
        *fields("number", "event: text"),
        STUDY_UID,
        Column("details", details),
    ),
    none="No events.",
)
def list_events(
    session: Session,
    *,
    study_instance_uid: OfStudy = "",
    since: Since = None,
    until: Until = None,
    numbers: Annotated[
        Iterable[int],
        Input("Only with this number (docs/reference/events.md); repeatable.", "--number", "NUMBER"),
    ] = (),
    debug: Annotated[bool, Input("Also events of the level debug.", "--debug", default=False)] = True,
    limit: Annotated[int | None, limit(200)] = None,
    oldest: bool = False,
) -> list[View]:
    """Return events as JSON objects, oldest first; with ``limit`` only the newest, or with ``oldest`` the
    oldest ones.

    A study's events include those of the associations that brought its objects. Debug events are included
    only with ``debug``, or if ``numbers`` (of event types; empty: all) names them.
    """
    chosen = select(EventRow, Study.study_instance_uid).join(
        Study, EventRow.study_id == Study.id, isouter=True
    )
    if study_instance_uid:
        chosen = chosen.where(_concerns(session, study_instance_uid))
    if since is not None:
        chosen = chosen.where(EventRow.at >= since)
    if until is not None:
        chosen = chosen.where(EventRow.at < until)
    if wanted := tuple(numbers):
        chosen = chosen.where(EventRow.number.in_(wanted))
    elif not debug:
        chosen = chosen.where(EventRow.number.not_in(_DEBUG_EVENTS))
    columns = (EventRow.at, EventRow.id)
    order = columns if oldest else [column.desc() for column in columns]
    rows = session.execute(chosen.order_by(*order).limit(limit)).all()
    return [_event(row, uid) for row, uid in (rows if oldest else reversed(rows))]


@Action(
    ASSOCIATIONS,
    "list",
    "List associations, the newest first; an open one has no closing time.",
    "--since 1h",
    columns=(
        *times("opened: opened_at", "closed: closed_at"),
        *fields("calling: calling_ae", "called: called_ae", "address", "outcome", "objects"),
        *fields("reason"),
        Column("refused classes", lambda row: row["refused_count"] or ""),
    ),
    none="No associations.",
)
def list_associations(
    session: Session,
    *,
    since: Since = None,
    until: datetime | None = None,
    limit: Annotated[int | None, limit(100)] = None,
) -> list[View]:
    """Return associations as JSON objects, newest first; an open one has no ``closed_at``."""
    chosen = select(Association).order_by(Association.opened_at.desc()).limit(limit)
    if since is not None:
        chosen = chosen.where(Association.opened_at >= since)
    if until is not None:
        chosen = chosen.where(Association.opened_at < until)
    names = ("calling_ae", "called_ae", "address", "opened_at", "closed_at", "outcome", "objects")
    return [
        {"association": row.id, **columns(row, *names, "refused", "refused_count", "reason")}
        for row in session.scalars(chosen)
    ]


def counts(session: Session) -> View:
    """Return the number of studies, jobs and deliveries in each state; empty states are left out."""

    def by_state(column: Any) -> dict[str, int]:
        """Return how many rows have each state in ``column``."""
        return {
            str(state): number
            for state, number in session.execute(select(column, func.count()).group_by(column))
        }

    return {
        "studies": by_state(Study.state),
        "jobs": by_state(Job.state),
        "deliveries": by_state(Delivery.state),
    }


def numbered_studies(session: Session, chosen: Select[Study]) -> dict[int, View]:
    """Return the studies of the query ``chosen`` as JSON objects by id, in the order of the query.

    This takes nine queries for any number of studies. A study deleted meanwhile is left out.
    """
    rows = session.scalars(chosen).all()
    ids = chosen.with_only_columns(Study.id).subquery()
    held = set(session.scalars(select(Study.id).where(Study.id.in_(select(ids.c.id)), _HAS_HELD_JOB)))
    tried = set(session.scalars(select(Study.id).where(Study.id.in_(select(ids.c.id)), IS_TRIAL)))
    of_study = select(ids.c.id).scalar_subquery()
    images = session.execute(
        select(Instance.study_id, Instance.modality, func.count())
        .where(Instance.study_id.in_(of_study), Instance.role.not_in(_NOT_COUNTED))
        .group_by(Instance.study_id, Instance.modality)
        .order_by(Instance.modality)
    ).all()
    # How many more faulty objects went to entries without a study than their reasons name.
    faulty = session.execute(
        select(Study.id, func.count())
        .join(ReceivedObject, ReceivedObject.study_id == Study.id)
        .where(Study.id.in_(of_study), Study.study_instance_uid.is_(None))
        .where(ReceivedObject.outcome == Outcome.QUARANTINED)
        .group_by(Study.id)
    ).all()
    warnings = completeness.warnings(session, of_study)
    set_aside = completeness.set_aside(session, of_study)
    more = {study: f"; and {n - 1} more faulty objects of this sender" for study, n in faulty if n > 1}
    modalities: dict[int, list[str]] = defaultdict(list)
    instances: dict[int, int] = defaultdict(int)
    for study_id, modality, number in images:
        instances[study_id] += number
        if modality:
            modalities[study_id].append(modality)
    results: dict[int, list[View]] = defaultdict(list)
    for study_id, result in _results(session, Result.study_id.in_(of_study)):
        results[study_id].append(result)
    return {
        row.id: {
            "study": row.study_instance_uid or f"{_NO_UID}{row.id}",
            **columns(row, "study_instance_uid", "state", "reason", "patient_id"),
            "reason": row.reason + more.get(row.id, ""),
            "job_held": row.id in held,
            "tried": row.id in tried,
            "modalities": modalities[row.id],
            "instances": instances[row.id],
            "set_aside": set_aside.get(row.id, 0),
            "warnings": [] if row.id in tried else [one.value for one in warnings.get(row.id, ())],
            "revision": row.revision,
            "priority": PRIORITIES.get(row.priority, str(row.priority)),
            **columns(row, "study_date", "first_received_at", "last_received_at"),
            "results": results[row.id],
        }
        for row in rows
    }


def _results(
    session: Session, which: ColumnElement[bool], by: InstrumentedAttribute[int] = Result.study_id
) -> list[tuple[int, View]]:
    """Return the results that fulfil ``which`` as pairs of the column ``by`` and JSON object, in the order in
    which they were built.
    """
    states: dict[int, dict[str, str]] = defaultdict(dict)
    for result_id, destination, state in session.execute(
        select(Result.id, Delivery.destination, Delivery.state)
        .join(Result.deliveries)
        .where(which)
        .order_by(Delivery.id)
    ):
        states[result_id][destination] = state.value
    found = session.execute(
        select(Result, Withdrawal)
        .join(Withdrawal, Withdrawal.result_id == Result.id, isouter=True)
        .where(which)
        .order_by(Result.id)
    )
    names = ("kind", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "supersedes", "deidentified")
    return [
        (
            getattr(row, by.key),
            columns(row, *names)
            | {
                "withdrawn": gone and columns(gone, "at", "actor", "reason", "because"),  # None: in force
                "deliveries": states[row.id],
            },
        )
        for row, gone in found
    ]


def _jobs() -> Select[Job, str | None]:
    """Return the query for jobs with their Study Instance UID, newest first."""
    return select(Job, Study.study_instance_uid).join(Study, Job.study_id == Study.id).order_by(Job.id.desc())


def _job_views(session: Session, chosen: Select[Job, str | None]) -> list[View]:
    """Return the jobs of the query ``chosen`` as JSON objects."""
    return [
        {
            "job": row.id,
            "study_instance_uid": study_instance_uid,
            "revision": row.study_revision,
            **columns(row, "rule", "pipeline", "state", "reason"),
            "priority": PRIORITIES.get(row.priority, str(row.priority)),
            "attempts": row.attempts,
            "sources": len(row.source_uids),
            **columns(row, "destinations", "share_done", "doing", "created_at", "run_at", "turn_at"),
            **columns(row, "cost_seconds", "started_at", "finished_at"),
        }
        for row, study_instance_uid in session.execute(chosen)
    ]


def _concerns(session: Session, study_instance_uid: str) -> ColumnElement[bool]:
    """SQL: events of the study, and events about the associations that brought its objects.

    Events about other objects of these associations are excluded: they may belong to other studies.
    """
    found = find_study(session, study_instance_uid).id
    brought = session.scalars(
        select(ReceivedObject.association).where(ReceivedObject.study_id == found).distinct()
    ).all()
    field = EventRow.fields["association"].as_string()
    since, until = session.execute(
        select(
            func.min(Association.opened_at),
            func.max(func.coalesce(Association.closed_at, literal(utc_now(), UtcDateTime()))),
        ).where(Association.id.in_(brought))
    ).one()
    if since is None:  # brought by none, or events and associations are forgotten
        return EventRow.study_id == found
    # By the index of times: fields have none, and SQLite would take the one of numbers for all associations.
    times = EventRow.at.between(min(since, until), max(since, until) + _TOLD_LATE)
    then = times & (EventRow.number // 1000 == 1)
    return or_(EventRow.study_id == found, then & field.in_([name for name in brought if name]))


def _event(row: EventRow, study_instance_uid: str | None) -> View:
    """Return one event as a JSON object."""
    try:
        known = events.by_number(row.number)
    except KeyError:  # written by a newer version
        text, level = "event of another version", "info"
    else:
        text, level = known.text, _LEVELS[known.level]
    return {
        "at": as_json(row.at),
        "number": row.number,
        "level": level,
        "text": text,
        "study_instance_uid": study_instance_uid,
        "fields": dict(row.fields),
    }


_HAS_HELD_JOB = exists().where(
    Job.study_id == Study.id, Job.study_revision == Study.revision, Job.state == JobState.HELD
)
# For a search, by the index of states first: few jobs are held, and studies without one are many.
_ARE_HELD = Study.id.in_(select(Job.study_id).where(Job.state == JobState.HELD)) & _HAS_HELD_JOB
_IS_DELIVERED = Study.state == StudyState.DELIVERED
_DEBUG_EVENTS = [kind.number for kind in events.all_types() if kind.level < logging.INFO]
_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error"}


def columns(row: object, *names: str) -> View:
    """Return these columns of a row, or fields of a record, as JSON values: times in UTC, states as their
    words.
    """
    return {name: as_json(getattr(row, name)) for name in names}


def as_json(value: Any) -> Any:
    """Return the value of a column as a JSON value: times in UTC, states as their words."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.value if isinstance(value, StrEnum) else value
