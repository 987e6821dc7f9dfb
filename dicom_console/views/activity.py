"""Trends of the node over time: received studies, durations, failures and findings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, case, cast, extract, func, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import BURNED_IN
from dicom_node.base import events
from dicom_node.base.lifecycle import AssociationOutcome, ReaderVerdict
from dicom_node.base.store.tables import (
    Association,
    Delivery,
    EventRow,
    Feedback,
    ReportedFinding,
    Result,
    Study,
)
from dicom_node.base.store.transitions import utc_now

_HOUR, _DAY, _WEEK = 3600, 86400, 7 * 86400
SPANS: Final[Mapping[int, tuple[int, int]]] = {
    1: (_HOUR, _HOUR), 7: (_HOUR, _DAY), 30: (_DAY, _DAY), 91: (_DAY, _WEEK),
}  # fmt: skip
"""Days of a trend → length of its steps (seconds): of received studies, and of everything else."""
_MONDAY: Final = 3 * _DAY  # before 1970-01-01, a Thursday: weeks begin with it
EDGES: Final = (
    1,
    2,
    3,
    5,
    7.5,
    10,
    15,
    20,
    30,
    45,
    60,
    90,
    120,
    180,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    14400,
    86400,
)
"""Upper ends of the steps in which durations are counted (seconds)."""
_MOST_FINDINGS: Final = 8


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time. ``values``: one per step, None for a step without a value."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Activity:
    """The trends of some days; ``times`` are the beginnings of the steps."""

    hours: Sequence[datetime]
    """Of ``received``."""
    times: Sequence[datetime]
    """Of the others."""
    received: Series
    """Studies whose first object came then."""
    turnaround: Sequence[Series]
    """Median and 95th percentile, from the last object to the last confirmed delivery (seconds)."""
    findings: Sequence[Series]
    """Reports that suspect a finding, the most frequent ones."""
    agreement: Sequence[Series]
    """Share of assessed suspected findings that readers accepted or modified, by model (0 to 1)."""
    failures: Sequence[Mapping[str, Any]]
    """By peer: deliveries given up and failed tries, associations that did not end well."""


@dataclass(frozen=True, slots=True)
class _Steps:
    """Times in steps of one length (seconds), in this machine's zone.

    ``shift``: what makes them begin at midnight here, and weeks on Monday (seconds). ``all``: since 1970.
    """

    since: datetime
    length: int
    shift: int
    all: range

    def of(self, column: Any) -> ColumnElement[int]:
        """The step of a column of times."""
        return (cast(extract("epoch", column), BigInteger) + self.shift) // self.length

    def times(self) -> list[datetime]:
        """The beginning of each step."""
        return [datetime.fromtimestamp(step * self.length - self.shift, UTC) for step in self.all]

    def values(self, found: Mapping[int, float], empty: float | None = None) -> list[float | None]:
        """The value of each step. ``empty``: for steps without one."""
        return [found.get(step, empty) for step in self.all]


def activity(session: Session, days: int) -> Activity:
    """The trends of the last ``days``, which must be one of SPANS."""
    now = utc_now()
    since = now - timedelta(days=days)
    fine, coarse = (_steps(since, now, length) for length in SPANS[days])
    step = fine.of(Study.first_received_at)
    chosen = select(step, func.count()).where(Study.last_received_at >= since)
    received = session.execute(chosen.group_by(step))
    return Activity(
        fine.times(),
        coarse.times(),
        Series("received", fine.values({place: float(number) for place, number in received}, 0.0)),
        list(_turnaround(session, coarse)),
        _findings(session, coarse),
        _agreement(session, coarse),
        _failures(session, since),
    )


def _steps(since: datetime, now: datetime, length: int) -> _Steps:
    """The steps of this length from ``since`` to ``now``."""
    offset = datetime.now().astimezone().utcoffset()
    shift = _MONDAY + int(offset.total_seconds() if offset else 0)
    first, last = ((int(at.timestamp()) + shift) // length for at in (since, now))
    return _Steps(since, length, shift, range(first, last + 1))


def _turnaround(session: Session, steps: _Steps) -> Iterator[Series]:
    """The quantiles of the time from the last image to the delivery."""
    ended = func.max(Delivery.confirmed_at).label("ended")
    last = (
        select(Result.study_id, ended)
        .join(Delivery, Delivery.result_id == Result.id)
        .where(Result.created_at >= steps.since, Delivery.confirmed_at.is_not(None))
        .group_by(Result.study_id)
        .subquery()
    )
    ends, begins = (cast(extract("epoch", at), BigInteger) for at in (last.c.ended, Study.last_received_at))
    bin_ = case(*((ends - begins <= edge, place) for place, edge in enumerate(EDGES)), else_=len(EDGES))
    step = steps.of(Study.last_received_at)
    chosen = select(step, bin_, func.count()).join(last, last.c.study_id == Study.id)
    chosen = chosen.where(Study.last_received_at >= steps.since).group_by(step, bin_)
    counted = _by_step(session.execute(chosen))
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        yield Series(name, steps.values({place: quantile(bins, share) for place, bins in counted.items()}))


def quantile(bins: Mapping[int, float], share: float) -> float:
    """A quantile, in seconds, of durations counted between EDGES; linear within a bin."""
    wanted, below = share * sum(bins.values()), 0.0
    for place, (low, high) in enumerate(pairwise((0, *EDGES))):
        number = bins.get(place, 0.0)
        if number and below + number >= wanted:
            return low + (high - low) * (wanted - below) / number
        below += number
    return float(EDGES[-1])


def _by_step(rows: Iterable[Any]) -> dict[Any, dict[int, float]]:
    """Numbers by name and by step or bin. ``rows``: (name, step or bin, number)."""
    found: defaultdict[Any, dict[int, float]] = defaultdict(dict)
    for name, place, number in rows:
        found[name][place] = float(number)
    return found


def _findings(session: Session, steps: _Steps) -> list[Series]:
    """The number of reports with each of the most frequent findings."""
    step = steps.of(Result.created_at)
    chosen = select(ReportedFinding.finding, step, func.count())
    chosen = chosen.join(Result, Result.id == ReportedFinding.result_id)
    chosen = chosen.where(Result.created_at >= steps.since, ReportedFinding.finding != BURNED_IN.meaning)
    found = _by_step(session.execute(chosen.group_by(ReportedFinding.finding, step)))
    often = sorted(found, key=lambda name: (-sum(found[name].values()), name))[:_MOST_FINDINGS]
    return [Series(name, steps.values(found[name], 0.0)) for name in often]


def _agreement(session: Session, steps: _Steps) -> list[Series]:
    """The share of findings that readers did not reject, by model."""
    step = steps.of(Feedback.at)
    agreed = func.sum(case((Feedback.verdict != ReaderVerdict.REJECTED, 1), else_=0))
    chosen = select(Feedback.model, Feedback.version, step, func.count(), agreed)
    chosen = chosen.where(Feedback.at >= steps.since, Feedback.decision == "present")
    rows = session.execute(chosen.group_by(Feedback.model, Feedback.version, step))
    found: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for model, version, place, every, part in rows:
        found[f"{model}@{version}"][place] = part / every
    return [Series(name, steps.values(shares)) for name, shares in sorted(found.items())]


def _failures(session: Session, since: datetime) -> list[dict[str, Any]]:
    """The failed tries, given-up deliveries and failed associations of each peer."""
    to = EventRow.fields["destination"].as_string()
    chosen = select(to, EventRow.number, func.count()).where(EventRow.at >= since)
    failed = (events.DELIVERY_DEAD.number, events.DELIVERY_RETRIED.number)
    found: defaultdict[str, dict[str, int]] = defaultdict(
        lambda: {"given_up": 0, "failed": 0, "associations": 0}
    )
    for peer, number, times in session.execute(
        chosen.where(EventRow.number.in_(failed)).group_by(to, EventRow.number)
    ):
        found[peer or ""]["given_up" if number == failed[0] else "failed"] = times
    good = (AssociationOutcome.OPEN, AssociationOutcome.RELEASED)
    bad = select(Association.calling_ae, func.count()).where(
        Association.opened_at >= since, Association.outcome.not_in(good)
    )
    for title, times in session.execute(bad.group_by(Association.calling_ae)):
        found[title]["associations"] = times
    return [{"peer": peer, **counts} for peer, counts in sorted(found.items())]
