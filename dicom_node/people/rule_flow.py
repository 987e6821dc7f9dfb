"""The flow of studies through each rule: sender, rule, pipeline, results, destinations."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action
from dicom_node.base.actions.columns import Column, fields, local
from dicom_node.base.actions.nouns import RULES
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    OPEN_JOBS,
    UNDECIDED,
    DeliveryState,
    JobState,
    ObjectRole,
)
from dicom_node.base.store.intake import IS_TRIAL
from dicom_node.base.store.tables import Delivery, HeldResult, Instance, Job, Original, Result, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json

DAY: Final = timedelta(days=1)
"""Counted are studies of which an object came in this time before now."""
_NOT_ENDED: Final = (JobState.HELD, *OPEN_JOBS)


@dataclass(slots=True)
class Waiting:
    """What waits, of studies of any day: how many, and since when the oldest (ISO 8601, UTC; None: none)."""

    number: int = 0
    since: str | None = None


@dataclass(slots=True)
class _Deliveries:
    """The deliveries to one destination: ``ended`` by state, and the others."""

    ended: dict[str, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)

    def add(self, state: DeliveryState, number: int, oldest: datetime) -> None:
        """Count deliveries in this state; ``oldest``: when the first object was there."""
        if state not in OPEN_DELIVERIES:
            self.ended[state.value] = number
            return
        times = [time for time in (self.waiting.since, as_json(oldest)) if time]
        self.waiting = Waiting(self.waiting.number + number, min(times))

    def row(self, destination: str, *, images: bool = False) -> View:
        """The row of this destination."""
        return {
            "destination": destination,
            "images": images,
            "deliveries": self.ended,
            "waiting": asdict(self.waiting),
        }


def _line(parts: Iterable[str]) -> str:
    """The parts that are not empty, with commas."""
    return ", ".join(part for part in parts if part) or "–"


def waiting_in_words(waiting: Mapping[str, Any], verb: str = "wait") -> str:
    """Say how many wait and since when; "" if nothing does."""
    return f"{waiting['number']} {verb} since {local(waiting['since'])}" if waiting["number"] else ""


def _counts_in_words(counts: Mapping[str, int]) -> list[str]:
    """Say how many there are of each state."""
    return [f"{number} {state.replace('_', ' ')}" for state, number in counts.items()]


def _destination_in_words(row: Mapping[str, Any]) -> str:
    """Say what a destination got and what waits for it."""
    counts = _counts_in_words(row["deliveries"])
    return f"{row['destination']}: {_line([*counts, waiting_in_words(row['waiting'])])}"


@Action(
    RULES,
    "flow",
    "Show how studies flow through each rule: senders, jobs, results and destinations, as counts of the last "
    "24 hours, and what waits since when.",
    "--config node.toml",
    columns=(
        Column("from", lambda row: _line(f"{one['sender']} ({one['studies']})" for one in row["senders"])),
        *fields("rule", "pipeline"),
        Column(
            "jobs",
            lambda row: _line(
                [
                    *_counts_in_words(row["jobs"]),
                    waiting_in_words(row["jobs_waiting"]),
                    waiting_in_words(row["jobs_held"], "held"),
                ]
            ),
        ),
        Column(
            "results",
            lambda row: _line(
                [f"{row['results']} built", waiting_in_words(row["to_accept"], "wait for a person")]
            ),
        ),
        Column("to", lambda row: "; ".join(map(_destination_in_words, row["destinations"])) or "nobody"),
    ),
    none="No rules are configured: nothing is analysed. `dicom-node config sample rules` prints some.",
)
def flow_of_rules(session: Session, settings: Settings) -> list[View]:
    """The flow of the last 24 hours through each rule in force, in the order of the rules.

    Counted are studies of which an object came in this time (pictures that a person only tried are not); what
    waits is counted of any day. A row has ``rule``, ``pipeline``, ``senders`` (``sender``, ``studies``),
    ``jobs`` (ended jobs by state), ``jobs_waiting``, ``jobs_held``, ``results`` (built), ``to_accept``
    (results that wait for a person), and ``destinations`` (``destination``, ``images``: it gets received
    images, ``deliveries`` by state, ``waiting``); what waits has ``number`` and ``since``.
    """
    since = utc_now() - DAY
    senders = _senders(session, settings, since)
    jobs = _ended_jobs(session, since)
    jobs_waiting = _jobs_waiting(session, OPEN_JOBS)
    jobs_held = _jobs_waiting(session, (JobState.HELD,))
    built = _results_built(session, since)
    to_accept = _results_to_accept(session)
    of_results = _deliveries_of_results(session, since)
    of_images = _deliveries_of_images(session, since)
    return [
        {
            "rule": rule.name,
            "pipeline": rule.pipeline,
            "senders": senders[rule.name],
            "jobs": jobs[rule.name],
            "jobs_waiting": asdict(jobs_waiting[rule.name]),
            "jobs_held": asdict(jobs_held[rule.name]),
            "results": built.get(rule.name, 0),
            "to_accept": asdict(to_accept[rule.name]),
            "destinations": [
                *(of_results[rule.name, name].row(name) for name in rule.send_to),
                *(of_images[name].row(name, images=True) for name in rule.forward),
            ],
        }
        for rule in settings.rules
    ]


def _senders(session: Session, settings: Settings, since: datetime) -> Mapping[str, list[View]]:
    """By rule, the peers that sent images of the studies with a job of it, and how many studies each."""
    names = settings.sender_names
    chosen = (
        select(Job.rule, Instance.calling_ae, func.count(Study.id.distinct()))
        .join(Study, Job.study_id == Study.id)
        .join(Instance, Instance.study_id == Study.id)
        .where(Study.last_received_at >= since, ~IS_TRIAL, Instance.role == ObjectRole.SOURCE)
        .group_by(Job.rule, Instance.calling_ae)
        .order_by(Job.rule, Instance.calling_ae)
    )
    found: dict[str, list[View]] = defaultdict(list)
    for rule, title, studies in session.execute(chosen):
        found[rule].append({"sender": names.get(title, title), "studies": studies})
    return found


def _ended_jobs(session: Session, since: datetime) -> Mapping[str, dict[str, int]]:
    """By rule, how many jobs of the studies as they are now ended in each state."""
    chosen = (
        select(Job.rule, Job.state, func.count())
        .join(Study, (Job.study_id == Study.id) & (Job.study_revision == Study.revision))
        .where(Study.last_received_at >= since, ~IS_TRIAL, Job.state.not_in(_NOT_ENDED))
        .group_by(Job.rule, Job.state)
        .order_by(Job.rule, Job.state)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for rule, state, number in session.execute(chosen):
        found[rule][state.value] = number
    return found


def _jobs_waiting(session: Session, states: Collection[JobState]) -> Mapping[str, Waiting]:
    """By rule, the jobs in these states, since the oldest was made."""
    chosen = (
        select(Job.rule, func.count(), func.min(Job.created_at))
        .join(Study, (Job.study_id == Study.id) & (Job.study_revision == Study.revision))
        .where(Job.state.in_(states))
        .group_by(Job.rule)
    )
    return _by_rule(session.execute(chosen))


def _results_built(session: Session, since: datetime) -> Mapping[str, int]:
    """By rule, how many results were built for the studies."""
    chosen = (
        select(Job.rule, func.count().label("results"))
        .join(Result, Result.job_id == Job.id)
        .join(Study, Result.study_id == Study.id)
        .where(Study.last_received_at >= since, ~IS_TRIAL)
        .group_by(Job.rule)
    )
    return {row.rule: row.results for row in session.execute(chosen)}


def _results_to_accept(session: Session) -> Mapping[str, Waiting]:
    """By rule, the results that a person has to accept first."""
    chosen = (
        select(Job.rule, func.count(), func.min(HeldResult.since))
        .join(Result, Result.job_id == Job.id)
        .join(HeldResult, HeldResult.result_id == Result.id)
        .where(HeldResult.state.in_(UNDECIDED))
        .group_by(Job.rule)
    )
    return _by_rule(session.execute(chosen))


def _by_rule(rows: Iterable[Any]) -> Mapping[str, Waiting]:
    """What waits by rule, from rows of rule, number and time."""
    found: dict[str, Waiting] = defaultdict(Waiting)
    found.update((rule, Waiting(number, as_json(oldest))) for rule, number, oldest in rows)
    return found


def _deliveries_of_results(session: Session, since: datetime) -> Mapping[tuple[str, str], _Deliveries]:
    """The deliveries of results by rule and destination."""
    chosen = (
        select(Job.rule, Delivery.destination, Delivery.state, func.count(), func.min(Result.created_at))
        .join(Result, Result.job_id == Job.id)
        .join(Delivery, Delivery.result_id == Result.id)
        .join(Study, Result.study_id == Study.id)
        .where(_counts(since))
        .group_by(Job.rule, Delivery.destination, Delivery.state)
        .order_by(Delivery.state)
    )
    found: dict[tuple[str, str], _Deliveries] = defaultdict(_Deliveries)
    for rule, destination, state, number, oldest in session.execute(chosen):
        found[rule, destination].add(state, number, oldest)
    return found


def _deliveries_of_images(session: Session, since: datetime) -> Mapping[str, _Deliveries]:
    """The deliveries of received images by destination: rules share them."""
    chosen = (
        select(Delivery.destination, Delivery.state, func.count(), func.min(Study.last_received_at))
        .join(Original, Delivery.original_id == Original.id)
        .join(Study, Original.study_id == Study.id)
        .where(_counts(since))
        .group_by(Delivery.destination, Delivery.state)
        .order_by(Delivery.state)
    )
    found: dict[str, _Deliveries] = defaultdict(_Deliveries)
    for destination, state, number, oldest in session.execute(chosen):
        found[destination].add(state, number, oldest)
    return found


def _counts(since: datetime) -> ColumnElement[bool]:
    """SQL: whether a delivery is counted: it is of a new study, or it is under way."""
    return (Study.last_received_at >= since) | Delivery.state.in_(OPEN_DELIVERIES)
