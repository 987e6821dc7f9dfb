"""Metrics of the node for monitoring programs. No metric contains patient data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_console.views.overview import disk
from dicom_node.config.settings import Settings
from dicom_node.inbox.spool import Spool
from dicom_node.model.lifecycle import (
    OPEN_DELIVERIES,
    OPEN_FETCHES,
    OPEN_JOBS,
    OPEN_WORKITEMS,
    DeliveryState,
    FetchState,
    JobState,
    RequestedState,
    StudyState,
    WorkitemState,
)
from dicom_node.model.roles import Role
from dicom_node.monitoring.disk import forecast
from dicom_node.monitoring.processes import machine_name, processes
from dicom_node.object_store.rows import oldest_waiting
from dicom_node.outbox import held
from dicom_node.processes import running
from dicom_node.store.tables import (
    Association,
    ClaimedWorkitem,
    Delivery,
    Fetch,
    Job,
    ReceivedObject,
    RequestedCommitment,
    Result,
    SiteProcess,
    Study,
    StudyTrace,
)
from dicom_node.store.transitions import utc_now

_OPEN_STUDIES = (
    StudyState.RECEIVING,
    StudyState.COMPLETE,
    StudyState.QUEUED,
    StudyState.RUNNING,
    StudyState.UNASSESSED,
    StudyState.DELIVERING,
    StudyState.QUARANTINED,
    StudyState.FAILED,
)
_OPEN_REQUESTS = (RequestedState.WAITING, RequestedState.DECIDED)


@dataclass(frozen=True, slots=True)
class Gauge:
    """The present value of one metric. ``labels``: states, machines, places and processes of the site."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """All metrics; the time to read them does not grow with the number of studies."""
    now = utc_now()
    space = disk(settings)
    yield Gauge("disk_free_bytes", "Free space on the data folder's disk.", space["free"])
    yield Gauge("disk_minimum_bytes", "Under this much free nothing is taken.", space["minimum"])
    future = forecast(session, settings)
    if future is not None and future.days is not None:
        yield Gauge("disk_days_left", "Until nothing is taken, as the last week went.", future.days)
    here = Association.closed_at.is_(None)
    open_ones = session.scalar(select(func.count()).where(here)) or 0
    yield Gauge("associations_open", "Associations that are open.", open_ones)
    received = session.scalar(select(func.max(ReceivedObject.id))) or 0
    yield Gauge("objects_received", "Objects received since the database was made.", received)
    last = session.scalar(select(ReceivedObject.received_at).order_by(ReceivedObject.id.desc()).limit(1))
    if last is not None:
        yield Gauge("received_last_seconds", "Since an object was received.", (now - last).total_seconds())
    yield from _handed_over(settings)
    yield from _on_the_way(session, now)
    yield from _processes(session)
    dropped = session.scalar(select(func.sum(StudyTrace.dropped)).where(StudyTrace.dropped > 0)) or 0
    yield Gauge("traces_dropped", "Traces of studies that no collector took.", dropped)
    built = session.scalar(select(func.max(Result.id))) or 0
    yield Gauge("results_built", "Result objects built since the database was made.", built)
    waiting = (*OPEN_JOBS, JobState.HELD)
    waits = (DeliveryState.UNASSESSED, *OPEN_DELIVERIES, DeliveryState.DEAD)
    studies = _by_state(session, Study.state, _OPEN_STUDIES)
    yield from _states("studies", "Studies in states that are no good end.", studies)
    yield from _states("jobs", "Jobs that are not done.", _by_state(session, Job.state, waiting))
    yield from _states("deliveries", "Deliveries not confirmed.", _by_state(session, Delivery.state, waits))
    fetches = _by_state(session, Fetch.state, [*OPEN_FETCHES, FetchState.FAILED])
    yield from _states("fetches", "Studies to be fetched from peers, or given up.", fetches)
    items = _by_state(session, ClaimedWorkitem.state, [*OPEN_WORKITEMS, WorkitemState.GIVEN_UP])
    yield from _states("workitems", "Work items of worklist managers, claimed or given up.", items)
    if any(peer.commit_after for peer in settings.peers):
        about = "Requests of peers for storage commitment without a report."
        asked = _by_state(session, RequestedCommitment.state, _OPEN_REQUESTS)
        yield from _states("commitment_requests", about, asked)
    queued = session.scalar(select(func.min(Job.created_at)).where(Job.state == JobState.QUEUED))
    age = (now - queued).total_seconds() if queued else 0.0
    yield Gauge("jobs_oldest_seconds", "Age of the oldest job that waits.", age)
    chosen = select(func.min(Result.created_at)).join(Result.deliveries)
    sending = session.scalar(chosen.where(Delivery.state.in_(OPEN_DELIVERIES)))
    age = (now - sending).total_seconds() if sending else 0.0
    yield Gauge("deliveries_oldest_seconds", "Age of the oldest result that is on its way.", age)
    unassessed = held.oldest(session)
    age = (now - unassessed).total_seconds() if unassessed else 0.0
    yield Gauge("unassessed_oldest_seconds", "How long results have waited for a person, at most.", age)


def _handed_over(settings: Settings) -> Iterator[Gauge]:
    """Objects that listeners acknowledged and that are not indexed: on the disk, not yet in the database."""
    waiting = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20).pending()
    yield Gauge("objects_waiting", "Acknowledged objects that are not indexed.", len(waiting))
    age = 0.0
    with suppress(FileNotFoundError):  # indexed at this moment
        age = max(time.time() - waiting[0].stat().st_mtime, 0.0) if waiting else 0.0
    yield Gauge("objects_waiting_oldest_seconds", "Age of the oldest of them.", age)


def _on_the_way(session: Session, now: datetime) -> Iterator[Gauge]:
    """Indexed objects of the site that are on the disk of one machine only; none without an object store."""
    count, since = oldest_waiting(session)
    yield Gauge("objects_to_hand_over", "Received objects that are not in the object store.", count)
    age = (now - since).total_seconds() if since else 0.0
    yield Gauge("objects_to_hand_over_oldest_seconds", "Since the oldest of them was received.", age)


def _processes(session: Session) -> Iterator[Gauge]:
    """Silence of the processes on all machines of the site; one that stopped as planned does not count."""
    found = processes(session)
    for row in found:
        labels = tuple((key, str(row[key])) for key in ("machine", "place", "process"))
        seconds = row["silent_seconds"]
        yield Gauge("process_silent_seconds", "Since a process of the site showed life.", seconds, labels)
    lost = sum(row["state"] == "lost" for row in found)
    yield Gauge("processes_lost", "Processes of the site that show no life.", lost)


def not_ready(session: Session, settings: Settings) -> str:
    """Why the node accepts no objects now, "" if it accepts them. Raises SQLAlchemyError.

    A console on a separate machine accepts uploads; use C-ECHO to check listeners on other machines.
    """
    session.scalar(select(func.count()).where(Study.id == 0))
    if disk(settings)["low"]:
        return "free disk space is under spool.minimum_free_mib"
    runs = {Role.at(place) for place in running(settings.node.data_dir)}
    places = session.scalars(select(SiteProcess.place).where(SiteProcess.machine == machine_name()))
    is_lost = any(Role.at(place).receives for place in places)  # where it runs no more
    if not any(role.receives for role in runs) and (is_lost or Role.CONSOLE not in runs):
        return "no node that receives runs on this machine"
    return ""


def _by_state(session: Session, column: Any, states: Iterable[StrEnum]) -> dict[str, int]:
    rows = session.execute(select(column, func.count()).where(column.in_([*states])).group_by(column))
    found = {str(state): number for state, number in rows}
    return {str(state): found.get(str(state), 0) for state in states}


def _states(name: str, about: str, counted: dict[str, int]) -> Iterator[Gauge]:
    for state, number in counted.items():
        yield Gauge(name, about, number, (("state", state),))
