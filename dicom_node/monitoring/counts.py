"""Counts of images and scores by model, sender and day (UTC). ``tally`` decides what is counted.

Several writers add to the same rows at once: every statement lists its rows in order, so that no two writers
block each other (PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_node.model.kinds import Counted
from dicom_node.store.tables import Base, CountedImage, ImageCount, Instance, ScoreCount


@dataclass(frozen=True, slots=True)
class CountedModel:
    """The model of a count; the same model with another card counts as another model."""

    id: str
    version: str
    card_sha256: str


def senders(session: Session, uids: Collection[str]) -> dict[str, tuple[int, str]]:
    """Row number and calling AE title of these images, by SOP Instance UID."""
    chosen = select(Instance.sop_instance_uid, Instance.id, Instance.calling_ae)
    rows = session.execute(chosen.where(Instance.sop_instance_uid.in_(uids)))
    return {uid: (number, calling_ae) for uid, number, calling_ae in rows}


def mark_counted(session: Session, card_sha256: str, instances: Collection[int], day: date) -> set[int]:
    """Record that these images are counted for a card; returns the images that were not counted before.

    Of two transactions with the same image the second waits for the first, and does not get the image
    returned.
    """
    if not instances:
        return set()
    rows = [{"card_sha256": card_sha256, "instance_id": row, "day": day} for row in sorted(instances)]
    statement = _insert(session, CountedImage).values(rows).on_conflict_do_nothing()
    return set(session.scalars(statement.returning(CountedImage.instance_id)))


def add_images(
    session: Session, model: CountedModel, day: date, counts: Mapping[tuple[str, Counted], int]
) -> None:
    """Add to the counts of images of a day, by calling AE title and outcome."""
    card = {"model": model.id, "version": model.version, "card_sha256": model.card_sha256}
    rows = [
        {"day": day, **card, "calling_ae": calling_ae, "outcome": outcome, "images": images}
        for (calling_ae, outcome), images in sorted(counts.items())
    ]
    _add(session, ImageCount, rows)


def add_scores(
    session: Session, model: CountedModel, day: date, counts: Mapping[tuple[str, str, int], int]
) -> None:
    """Add to the counts of scores of a day, by calling AE title, label and bin."""
    rows = [
        {
            "day": day,
            "card_sha256": model.card_sha256,
            "calling_ae": calling_ae,
            "label": label,
            "bin": number,
            "images": images,
        }
        for (calling_ae, label, number), images in sorted(counts.items())
    ]
    _add(session, ScoreCount, rows)


def images_since(session: Session, day: date) -> dict[tuple[CountedModel, str], dict[Counted, int]]:
    """The numbers of images by outcome, for each model and calling AE title, from day ``day`` on."""
    keys = (ImageCount.model, ImageCount.version, ImageCount.card_sha256, ImageCount.calling_ae)
    chosen = select(*keys, ImageCount.outcome, func.sum(ImageCount.images)).where(ImageCount.day >= day)
    found: dict[tuple[CountedModel, str], dict[Counted, int]] = {}
    for model, version, card, calling_ae, outcome, images in session.execute(
        chosen.group_by(*keys, ImageCount.outcome).order_by(*keys)
    ):
        found.setdefault((CountedModel(model, version, card), calling_ae), {})[outcome] = int(images)
    return found


def scores_since(session: Session, day: date) -> dict[tuple[str, str], dict[str, dict[int, int]]]:
    """The numbers of images by label and bin, for each card's SHA-256 and calling AE title, from ``day``
    on.
    """
    keys = (ScoreCount.card_sha256, ScoreCount.calling_ae, ScoreCount.label, ScoreCount.bin)
    chosen = select(*keys, func.sum(ScoreCount.images)).where(ScoreCount.day >= day)
    found: dict[tuple[str, str], dict[str, dict[int, int]]] = {}
    for card, calling_ae, label, number, images in session.execute(chosen.group_by(*keys).order_by(*keys)):
        found.setdefault((card, calling_ae), {}).setdefault(label, {})[number] = int(images)
    return found


def forget(session: Session, before: date) -> None:
    """Delete the counts of earlier days and their lists of images."""
    for table in (ScoreCount, ImageCount, CountedImage):
        session.execute(delete(table).where(table.day < before))


def _add(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = _insert(session, table).values(rows)
    keys = [column.name for column in _table(table).primary_key]
    added = {"images": _table(table).c.images + statement.excluded.images}
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=added))


def _insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """INSERT … ON CONFLICT, which both databases have under the same words."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(_table(table))
    return postgresql.insert(_table(table))


def _table(table: type[Base]) -> Table:
    found = table.__table__
    assert isinstance(found, Table)
    return found
