"""Trends of the node over time: received studies, durations, failures and findings.

Charts as SVG shapes: bars or lines over time, and a patient's measurements, in a small plot for each.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, Final, Literal

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
from dicom_node.base.store.views import View
from dicom_node.results.stated_report import StatedNumber

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
    """One line or row of bars in a chart.

    ``values``: one for each time step, None for a step without a value.
    """

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Activity:
    """Trends of the last days, for charts: numbers by time step."""

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
    """Time steps of equal ``length`` (seconds), which begin at midnight, weeks on Monday, in this machine's
    time zone.

    ``since``: beginning of the whole period; ``shifts``: from which second (UTC, from 1970, the latest first)
    how many seconds are added to UTC before division by ``length``; ``all``: the steps' numbers, from 1970.
    """

    since: datetime
    length: int
    shifts: Sequence[tuple[int, int]]
    all: range

    def of(self, column: Any) -> ColumnElement[int]:
        """Return the SQL expression for the number of the step in which a time column lies."""
        second = cast(extract("epoch", column), BigInteger)
        *later, (_, first) = self.shifts
        shift = case(*((second >= begin, added) for begin, added in later), else_=first) if later else first
        return (second + shift) // self.length

    def times(self) -> list[datetime]:
        """Return the beginning of each step."""
        return [self._time(step * self.length) for step in self.all]

    def _time(self, local: int) -> datetime:
        """Return the time of a second that was counted with its shift."""
        shift = next((added for begin, added in self.shifts if local - added >= begin), self.shifts[-1][1])
        return datetime.fromtimestamp(local - shift, UTC)

    def values(self, found: Mapping[int, float], empty: float | None = None) -> list[float | None]:
        """Return the values in the order of steps.

        ``found``: value by step number; ``empty``: the value of other steps.
        """
        return [found.get(step, empty) for step in self.all]


def activity(session: Session, days: int) -> Activity:
    """Return the trends of the last ``days``, which must be a key of SPANS."""
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
    """Return time steps of ``length`` seconds from ``since`` to ``now``; those of days and weeks follow the
    clock where summer time begins or ends.
    """
    begin, end = int(since.timestamp()), int(now.timestamp())
    shifts = [(begin, _shift(begin))] if length >= _DAY else [(begin, _shift(end))]
    for second in range(begin - begin % _HOUR + _HOUR, end, _HOUR) if length >= _DAY else ():
        if (shift := _shift(second)) != shifts[0][1]:
            shifts.insert(0, (second, shift))
    first, last = (begin + shifts[-1][1]) // length, (end + shifts[0][1]) // length
    return _Steps(since, length, shifts, range(first, last + 1))


def _shift(second: int) -> int:
    """Return by how many seconds this machine's clock is ahead of UTC at a second from 1970, in weeks that
    begin on Monday.
    """
    offset = datetime.fromtimestamp(second, UTC).astimezone().utcoffset()
    return _MONDAY + int(offset.total_seconds() if offset else 0)


def _turnaround(session: Session, steps: _Steps) -> Iterator[Series]:
    """Yield median and 95th percentile, by step, of the seconds from a study's last image to its last
    confirmed delivery.
    """
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
    """Return a quantile (``share``: 0.5 for the median) of durations in seconds.

    ``bins``: how many durations lie in each interval that ends at one of EDGES, by the interval's position;
    inside an interval they are taken as evenly spread.
    """
    wanted, below = share * sum(bins.values()), 0.0
    for place, (low, high) in enumerate(pairwise((0, *EDGES))):
        number = bins.get(place, 0.0)
        if number and below + number >= wanted:
            return low + (high - low) * (wanted - below) / number
        below += number
    return float(EDGES[-1])


def _by_step(rows: Iterable[Any]) -> dict[Any, dict[int, float]]:
    """Return numbers by name and then by step or bin. ``rows``: (name, step or bin, number)."""
    found: defaultdict[Any, dict[int, float]] = defaultdict(dict)
    for name, place, number in rows:
        found[name][place] = float(number)
    return found


def _findings(session: Session, steps: _Steps) -> list[Series]:
    """Return, for each of the most frequent findings, the number of reports that suspect it, by step."""
    step = steps.of(Result.created_at)
    chosen = select(ReportedFinding.finding, step, func.count())
    chosen = chosen.join(Result, Result.id == ReportedFinding.result_id)
    chosen = chosen.where(Result.created_at >= steps.since, ReportedFinding.finding != BURNED_IN.meaning)
    found = _by_step(session.execute(chosen.group_by(ReportedFinding.finding, step)))
    often = sorted(found, key=lambda name: (-sum(found[name].values()), name))[:_MOST_FINDINGS]
    return [Series(name, steps.values(found[name], 0.0)) for name in often]


def _agreement(session: Session, steps: _Steps) -> list[Series]:
    """Return, for each model, the share (0 to 1) of its suspected findings that readers did not reject, by
    step.
    """
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
    """Return for each peer how many deliveries were given up, how many tries failed, and how many
    associations failed.
    """
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


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 400, 170, 50, 22, 10
"""Of a chart, and what stays free for its numbers (pixels)."""
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 480, 140, 40
"""Size of a plot and what stays free around its points (pixels)."""
LABELS_APART = 80
"""Distance of two labels, at least (pixels); the newest point has one."""
_ROUND: Final = (1, 2, 2.5, 5, 10)
Kind = Literal["bars", "lines"]


def chart(
    title: str, unit: str, kind: Kind, times: Sequence[datetime], series: Sequence[Series], top: float = 0.0
) -> View:
    """Return the template values of an SVG chart.

    ``kind``: "bars" or "lines"; ``unit``: "s", "%" (for values from 0 to 1) or ""; ``times``: beginnings of
    the steps; ``top``: the least upper end of the axis, which ends at a round number. Each series has
    ``dots`` (x, y, value, time) and ``runs`` of dots without a gap; ``bar`` is the width of bars. All
    positions are pixels.
    """
    highest = max([top, *(value for one in series for value in one.values if value is not None)], default=0)
    end = _round_up(highest)
    width = (WIDTH - LEFT) / max(len(times), 1)
    step = max(math.ceil(len(times) / 3), 1)
    return {
        "title": title,
        "unit": unit,
        "kind": kind,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "bar": max(width - 1, 1),
        "base": HEIGHT - BOTTOM,
        "lines": [{"y": _y(end * part, end), "value": end * part} for part in (0, 0.5, 1)],
        "marks": [  # three times along the axis at most
            {"x": round(LEFT + (place + 0.5) * width, 1), "at": times[place]}
            for place in range(step // 2, len(times), step)
        ],
        "series": [_shape(one, times, width, end) for one in series],
        "empty": not any(value for one in series for value in one.values),
    }


def _shape(one: Series, times: Sequence[datetime], width: float, end: float) -> View:
    """Return name, dots and runs of one series, in pixels.

    ``width``: of a step in pixels; ``end``: value at the upper end of the axis.
    """
    placed = [
        {"x": round(LEFT + (place + 0.5) * width, 1), "y": _y(value, end), "value": value, "at": times[place]}
        if value is not None
        else None
        for place, value in enumerate(one.values)
    ]
    runs = [list(run) for there, run in groupby(placed, key=bool) if there]
    return {"name": one.name, "dots": [dot for dot in placed if dot], "runs": runs}


def _y(value: float, end: float) -> float:
    """Return the vertical position in pixels of a value. ``end``: value at the upper end of the axis."""
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / end, 1)


def _round_up(value: float) -> float:
    """Return the least number not below ``value`` that is 1, 2, 2.5 or 5 times a power of ten; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class DatedNumber:
    """A measurement in a report. ``study``: number of the study; ``on``: Study Date."""

    study: int
    on: date
    number: StatedNumber


def trends(measured: Sequence[DatedNumber]) -> list[View]:
    """Return the template values of a plot for each quantity that was measured on two days or more.

    A study with several numbers of one quantity is left out, because nobody knows which of them belong
    together.
    """
    ordered = sorted(measured, key=lambda one: (*_quantity(one), one.on))
    return [plot for _, group in groupby(ordered, _quantity) if (plot := _plot(list(group)))]


def _quantity(one: DatedNumber) -> tuple[str, str, str]:
    """Return (quantity, unit, model); two measurements are comparable if these are equal."""
    return one.number.meaning, one.number.unit[0], one.number.model


def _plot(group: Sequence[DatedNumber]) -> View:
    """Return the template values of one quantity's plot; {} without measurements on two days. A study that
    has several numbers of the quantity is left out.
    """
    numbers = Counter(one.study for one in group)
    single = [one for one in group if numbers[one.study] == 1]
    if len({one.on for one in single}) < 2:
        return {}
    name, unit, model = _quantity(single[0])
    return {
        "name": name,
        "unit": "" if unit == "1" or unit.startswith("{") else unit,  # UCUM: no unit, as of a {ratio}
        "model": model,
        "points": _points(single),
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
    }


def _points(single: Sequence[DatedNumber]) -> list[View]:
    """Return the points of a plot in pixels, each with date, value and study.

    ``single``: the measurements in order of time.
    """
    points: list[View] = []
    values = [one.number.value for one in single]
    first, last = single[0].on.toordinal(), single[-1].on.toordinal()
    lowest, span = min(values), max(values) - min(values)
    labelled = PLOT_WIDTH + LABELS_APART
    for one in reversed(single):
        above = (one.number.value - lowest) / span if span else 0.5
        x = round(MARGIN + (PLOT_WIDTH - 2 * MARGIN) * (one.on.toordinal() - first) / (last - first))
        has_label = labelled - x >= LABELS_APART
        labelled = x if has_label else labelled
        points.append(
            {
                "x": x,
                "y": round(PLOT_HEIGHT - MARGIN - (PLOT_HEIGHT - 2 * MARGIN) * above),
                "day": one.on.isoformat(),
                "value": f"{one.number.value:.3g}",
                "study": one.study,
                "label": has_label,
            }
        )
    return points[::-1]
