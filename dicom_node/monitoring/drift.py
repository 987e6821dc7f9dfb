"""Drift: whether a model's scores still resemble its card's reference, from the counts of each sender."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from statistics import NormalDist

from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.errors import CardError
from ai_pipeline.models.reference import (
    BINS,
    FEWEST,
    Reference,
    Verdict,
    by_chance,
    reference_of,
    stability_index,
    verdict,
)
from ai_pipeline.models.registry import Card, cards
from dicom_node.config.settings import Settings
from dicom_node.events import SCORES_DRIFTED
from dicom_node.model.kinds import Counted
from dicom_node.monitoring import counts
from dicom_node.monitoring.counts import CountedModel
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow
from dicom_node.store.transitions import record, utc_now

FEWEST_TO_REPORT = 200
"""Images of one label under which no event is made: of fewer, chance alone comes near the limit."""

_WORST = (Verdict.DRIFTED, Verdict.WATCH, Verdict.STABLE, Verdict.TOO_FEW, Verdict.NO_REFERENCE)


@dataclass(frozen=True, slots=True)
class LabelDrift:
    """The drift of one label. ``counts``: in the ten bins of the reference; ``index``: None if they are
    too few.
    """

    label: str
    images: int
    counts: tuple[int, ...]
    index: float | None
    by_chance: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift of one model for one sender (``calling_ae`` "": no configured peer), from one day on.

    ``refusal_rate``: value, low, high of the share of images that the pixel gate refused, among the images
    that passed the header gate. ``reference`` is from the installed card; ``note`` says why there is none.
    """

    model: CountedModel
    calling_ae: str
    images: Mapping[Counted, int]
    refusal_rate: tuple[float, float, float] | None
    reference: Reference | None
    note: str
    labels: tuple[LabelDrift, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict among the labels; ``NO_REFERENCE`` if no label has a verdict."""
        found = {label.verdict for label in self.labels}
        return next((verdict for verdict in _WORST if verdict in found), Verdict.NO_REFERENCE)


def drift(session: Session, models_dir: Path | None, since: date) -> list[Drift]:
    """The drift for every model and sender with counts from day ``since`` (UTC) on. Raises CardError."""
    installed = {card.sha256: card for card in cards(models_dir)}
    scores = counts.scores_since(session, since)
    return [
        _drift(model, calling_ae, images, scores.get((model.card_sha256, calling_ae), {}), installed)
        for (model, calling_ae), images in counts.images_since(session, since).items()
    ]


def report_drift(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Record an event for each model and sender whose scores have drifted, once a day (UTC); returns how
    many.

    The last ``drift.window_days`` are judged, and only if an image came since yesterday: replaced cards and
    unused machines are not reported.
    """
    moment = now or utc_now()
    with database.read() as session:
        found = drift(session, settings.workers.models_dir, window(settings, moment))
        fresh = counts.images_since(session, moment.date() - timedelta(days=1))
    with database.write() as session:
        reported = _reported(session, datetime.combine(moment.date(), time(), UTC))
        news = [
            item
            for item in found
            if (item.model, item.calling_ae) in fresh
            and _drifted(item)
            and (item.model.card_sha256, item.calling_ae) not in reported
        ]
        for item in news:
            _record(session, item)
    return len(news)


def forget_old(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Delete counts older than ``drift.keep_days``."""
    before = (now or utc_now()).date() - timedelta(days=settings.drift.keep_days)
    with database.write() as session:
        counts.forget(session, before)


def window(settings: Settings, now: datetime) -> date:
    """The first day (UTC) of the period that is checked for drift."""
    return now.astimezone(UTC).date() - timedelta(days=settings.drift.window_days)


def wilson(part: int, whole: int, confidence: float = 0.95) -> tuple[float, float, float] | None:
    """A share with its Wilson interval; None if ``whole`` is 0."""
    if not whole:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = part / whole
    middle = share + z * z / (2 * whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    scale = 1 + z * z / whole
    return share, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _drift(
    model: CountedModel,
    calling_ae: str,
    images: Mapping[Counted, int],
    scores: Mapping[str, Mapping[int, int]],
    installed: Mapping[str, Card],
) -> Drift:
    reference, note = _reference(installed.get(model.card_sha256))
    refused = images.get(Counted.REFUSED_PIXELS, 0)
    return Drift(
        model=model,
        calling_ae=calling_ae,
        images=images,
        refusal_rate=wilson(refused, refused + images.get(Counted.ANALYSED, 0)),
        reference=reference,
        note=note,
        labels=tuple(_labels(scores, reference)),
    )


def _reference(card: Card | None) -> tuple[Reference | None, str]:
    if card is None:
        return None, "this card is not installed any more"
    try:
        reference = reference_of(card)
    except CardError as error:
        return None, str(error)
    return reference, "" if reference else "no reference in the card: PSI cannot be given"


def _labels(scores: Mapping[str, Mapping[int, int]], reference: Reference | None) -> Iterator[LabelDrift]:
    """In the card's order while it is installed. Scores were binned by the reference of their own card."""
    in_order: Sequence[str] = list(reference.deciles) if reference else sorted(scores)
    of_reference = reference.images if reference else None
    for label in in_order:
        binned = tuple(scores.get(label, {}).get(number, 0) for number in range(BINS))
        images = sum(binned)
        enough = images >= FEWEST
        yield LabelDrift(
            label=label,
            images=images,
            counts=binned,
            index=stability_index(binned) if enough else None,
            by_chance=by_chance(images, of_reference) if enough else None,
            verdict=verdict(binned, of_reference),
        )


def _drifted(item: Drift) -> list[LabelDrift]:
    if item.reference is None:
        return []
    return [
        label
        for label in item.labels
        if label.verdict is Verdict.DRIFTED and label.images >= FEWEST_TO_REPORT
    ]


def _reported(session: Session, midnight: datetime) -> set[tuple[object, object]]:
    """Card and sender of the events of today."""
    rows = session.scalars(
        select(EventRow).where(EventRow.number == SCORES_DRIFTED.number, EventRow.at >= midnight)
    )
    return {(row.fields.get("card"), row.fields.get("calling")) for row in rows}


def _record(session: Session, item: Drift) -> None:
    labels = _drifted(item)
    record(
        session,
        SCORES_DRIFTED,
        model=item.model.id,
        version=item.model.version,
        card=item.model.card_sha256,
        calling=item.calling_ae,
        images=max(label.images for label in labels),
        psi=round(max(label.index or 0.0 for label in labels), 2),
        labels=" ".join(label.label for label in labels),
    )
