"""The active model compared with its shadow model, label by label: how often both call the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy import ColumnElement, Integer, and_, cast, func, select
from sqlalchemy.orm import Session

from dicom_node.monitoring.drift import wilson
from dicom_node.store.tables import Job, ShadowScore

MOST_STUDIES = 20
"""Studies that are listed for a label: the newest on which the models differ."""


@dataclass(frozen=True, slots=True)
class LabelComparison:
    """The comparison for one label on ``images``: called by both models, by one alone, or by neither.

    ``agreement``: share of the images in which both or neither call the label, with its 95 % interval.
    ``difference``: mean of the shadow model's probability less the active model's. ``differ``: the newest
    studies on which the models differ.
    """

    active_model: str
    model: str
    card_sha256: str
    label: str
    images: int
    both: int
    active_alone: int
    shadow_alone: int
    agreement: tuple[float, float, float]
    difference: float
    differ: tuple[int, ...]


def compared(session: Session, since: date) -> list[LabelComparison]:
    """The comparison for every pair of models and label with scores from day ``since`` (UTC) on."""
    row = ShadowScore
    keys = (row.active_model, row.model, row.card_sha256, row.label)

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(cast(condition, Integer)), 0)

    chosen = select(
        *keys,
        func.count(),
        count(and_(row.called, row.active_called)),
        count(and_(~row.called, row.active_called)),
        count(and_(row.called, ~row.active_called)),
        func.avg(row.probability - row.active_probability),
    )
    found = []
    for active, model, card, label, images, both, ours, theirs, difference in session.execute(
        chosen.where(row.day >= since).group_by(*keys).order_by(*keys)
    ):
        agreement = wilson(images - ours - theirs, images) or (0.0, 0.0, 0.0)
        differ = _differ(session, since, active, card, label)
        found.append(
            LabelComparison(
                active, model, card, label, images, both, ours, theirs, agreement, float(difference), differ
            )
        )
    return found


def _differ(session: Session, since: date, active: str, card: str, label: str) -> tuple[int, ...]:
    row = ShadowScore
    chosen = (
        select(Job.study_id)
        .join(row, row.job_id == Job.id)
        .where(row.day >= since, row.active_model == active, row.card_sha256 == card, row.label == label)
        .where(row.called != row.active_called)
        .group_by(Job.study_id)
        .order_by(Job.study_id.desc())
        .limit(MOST_STUDIES)
    )
    return tuple(session.scalars(chosen))
