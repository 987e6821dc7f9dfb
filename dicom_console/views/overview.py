"""The present state of the node in numbers that are quick to get however many studies it has seen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_console.views import listing, problems
from dicom_node import events
from dicom_node.config.holds import undercuts
from dicom_node.config.settings import Settings
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState, JobState, StudyState
from dicom_node.monitoring.processes import processes
from dicom_node.outbox import held
from dicom_node.outbox.outages import outages
from dicom_node.services import cleaning_reviews
from dicom_node.store.tables import Association, Delivery, EventRow, Job, Result, Study
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, as_json

_MINUTES = 5  # that the rate of objects is taken from


def overview(session: Session, settings: Settings) -> View:
    """Receiving, queue, deliveries, tasks for a person, models, disk and the latest problems.

    ``named``: the studies of these problems, by UID.
    """
    studies = _by_state(
        session, Study.state, (StudyState.RECEIVING, StudyState.QUARANTINED, StudyState.FAILED)
    )
    deliveries = _by_state(session, Delivery.state, (*OPEN_DELIVERIES, DeliveryState.DEAD))
    space = disk(settings)
    wrong = problems.problems(session, settings, disk_is_low=space["low"])
    concerned = [{"study_instance_uid": row["fields"].get("study")} for row in wrong]
    return {
        "receiving": {
            "associations": _count(session, Association.closed_at.is_(None)),
            "studies": studies[StudyState.RECEIVING],
            "objects_per_minute": _arrived(session) / _MINUTES,
        },
        "jobs": _by_state(session, Job.state, (JobState.RUNNING, JobState.QUEUED, JobState.HELD))
        | {"oldest": _oldest(session, Job.created_at, Job.state == JobState.QUEUED)},
        "deliveries": {
            "open": sum(deliveries[state] for state in OPEN_DELIVERIES),
            "dead": deliveries[DeliveryState.DEAD],
            "oldest": _oldest_delivery(session),
        },
        "outages": [asdict(one) | {"since": as_json(one.since)} for one in outages(session)],
        "studies": studies,
        "unassessed": _unassessed(session, settings),
        "cleaning": cleaning_reviews.numbers(session),
        "models": _models(settings.workers.models_dir),
        "disk": space,
        "processes": processes(session),
        "problems": wrong,
        "undercut": [f"rule {one.rule}: {one}" for one in undercuts(settings)],
        "named": listing.named(session, concerned),
    }


def disk(settings: Settings) -> View:
    """Free and total bytes of the data folder's disk, and the watermark below which no object is accepted."""
    usage = shutil.disk_usage(settings.node.data_dir)
    minimum = settings.spool.minimum_free_mib * 2**20
    return {"free": usage.free, "total": usage.total, "minimum": minimum, "low": usage.free < minimum}


def _unassessed(session: Session, settings: Settings) -> View:
    """Studies whose results wait for a person; ``late``: one for longer than it may."""
    found, hours = held.numbers(session), settings.outbox.assess_hours
    late = hours and found["oldest"] and found["oldest"] < as_json(utc_now() - timedelta(hours=hours))
    return {**found, "late": bool(late)}


def _by_state(
    session: Session, column: InstrumentedAttribute[Any], states: Sequence[StrEnum]
) -> dict[str, int]:
    """How many rows stand in each of these states: one question for all."""
    chosen = select(column, func.count()).where(column.in_(states)).group_by(column)
    return {state.value: 0 for state in states} | {str(state): n for state, n in session.execute(chosen)}


def _count(session: Session, which: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).where(which)) or 0


def _arrived(session: Session) -> int:
    since = utc_now() - timedelta(minutes=_MINUTES)
    return _count(session, (EventRow.at >= since) & EventRow.number.in_(events.INDEXED))


def _oldest(session: Session, column: Any, which: ColumnElement[bool]) -> str | None:
    found: str | None = as_json(session.scalar(select(func.min(column)).where(which)))
    return found


def _oldest_delivery(session: Session) -> str | None:
    chosen = select(func.min(Result.created_at)).join(Delivery, Delivery.result_id == Result.id)
    found: str | None = as_json(session.scalar(chosen.where(Delivery.state.in_(OPEN_DELIVERIES))))
    return found


@lru_cache(maxsize=1)
def _models(folder: Path | None) -> list[View]:
    """Each model card, and whether its weights are there; their hashes are compared when they are loaded."""
    from ai_pipeline.errors import CardError
    from ai_pipeline.models import registry

    try:
        cards = registry.cards(folder)
    except CardError:
        return [{"name": "model cards", "version": "", "ready": False}]
    return [
        {
            "name": card.id,
            "version": card.version,
            "ready": all(part.path.is_file() for part in card.weights),
        }
        for card in cards
    ]
