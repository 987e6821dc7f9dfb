"""Drift: counts of images and scores by model, sender and day (UTC), against the card's reference.

Counts of images and scores by model, sender and day (UTC). ``tally`` decides what is counted.
Several writers add to the same rows at once: every statement lists its rows in order, so that no two writers
block each other (PostgreSQL).

Counts outcomes and scores of images when a job ends, in the transaction that ends it.
So a job that is tried again, taken over from a dead worker or analysed ahead is counted once, and a job that
fails or is cancelled is not counted. An image that several jobs analyse (two rules, a late object, a
corrected name) is counted for the first job: a table records which images were counted.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelRef, Refusal, RefusedBy, Scores
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
from dicom_node.base.config.settings import Settings
from dicom_node.base.events import SCORES_DRIFTED
from dicom_node.base.kinds import Counted
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Base, CountedImage, EventRow, ImageCount, Instance, ScoreCount
from dicom_node.base.store.transitions import record, utc_now

FEWEST_TO_REPORT = 200
"""Images of one label under which no event is made: of fewer, chance alone comes near the limit."""

WINDOW_DAYS = 30
"""Days that are judged, unless others are asked for."""
_KEEP_DAYS = 400  # a year can be compared with the one before
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
    scores = scores_since(session, since)
    return [
        _drift(model, calling_ae, images, scores.get((model.card_sha256, calling_ae), {}), installed)
        for (model, calling_ae), images in images_since(session, since).items()
    ]


def report_drift(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Record an event for each model and sender whose scores have drifted, once a day (UTC); returns how
    many.

    The last ``WINDOW_DAYS`` are judged, and only if an image came since yesterday: replaced cards and
    unused machines are not reported.
    """
    moment = now or utc_now()
    with database.read() as session:
        found = drift(session, settings.workers.models_dir, window(moment))
        fresh = images_since(session, moment.date() - timedelta(days=1))
    with database.write() as session:
        midnight = datetime.combine(moment.date(), time(), UTC)
        today = select(EventRow).where(EventRow.number == SCORES_DRIFTED.number, EventRow.at >= midnight)
        reported = {(row.fields.get("card"), row.fields.get("calling")) for row in session.scalars(today)}
        news = [
            item
            for item in found
            if (item.model, item.calling_ae) in fresh
            and _drifted(item)
            and (item.model.card_sha256, item.calling_ae) not in reported
        ]
        for item in news:
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
    return len(news)


def forget_old(database: Database, _settings: Settings, now: datetime | None = None) -> None:
    """Delete counts older than ``_KEEP_DAYS``, and the lists of their images."""
    before = (now or utc_now()).date() - timedelta(days=_KEEP_DAYS)
    with database.write() as session:
        for table in (ScoreCount, ImageCount, CountedImage):
            session.execute(delete(table).where(table.day < before))


def window(now: datetime) -> date:
    """The first day (UTC) of the period that is checked for drift."""
    return now.astimezone(UTC).date() - timedelta(days=WINDOW_DAYS)


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


@dataclass(frozen=True, slots=True)
class CountedModel:
    """The model of a count; the same model with another card counts as another model."""

    id: str
    version: str
    card_sha256: str


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


def _add(session: Session, table: type[ImageCount | ScoreCount], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = _insert(session, table).values(rows)
    keys = [column.name for column in table.__mapper__.primary_key]
    added = {"images": table.images + statement.excluded.images}
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=added))


def _insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """INSERT … ON CONFLICT, which both databases have under the same words."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)


_LOGGER = logging.getLogger(__name__)
_REFUSED: Mapping[RefusedBy, Counted] = {
    RefusedBy.HEADER: Counted.REFUSED_HEADER,
    RefusedBy.PIXELS: Counted.REFUSED_PIXELS,
}


@dataclass(frozen=True, slots=True)
class _ImageOutcome:
    """What one model made of one image; ``bins`` by label."""

    outcomes: tuple[Counted, ...]
    bins: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts that a job adds at its end: by model, the outcome of each image (SOP Instance UID)."""

    seen: Mapping[CountedModel, Mapping[str, _ImageOutcome]] = field(default_factory=dict)

    def count(self, session: Session, settings: Settings) -> None:
        """Add the images that were not counted before, in the caller's transaction."""
        day = utc_now().date()
        titles = {peer.ae_title for peer in settings.peers if "send" in peer.may}
        for model in sorted(self.seen, key=lambda model: model.card_sha256):
            seen = self.seen[model]
            # Row number and calling AE title of these images, by SOP Instance UID.
            chosen = select(Instance.sop_instance_uid, Instance.id, Instance.calling_ae)
            found = session.execute(chosen.where(Instance.sop_instance_uid.in_(seen)))
            rows = {uid: (number, calling_ae) for uid, number, calling_ae in found}
            new = mark_counted(session, model.card_sha256, {number for number, _ in rows.values()}, day)
            images: Counter[tuple[str, Counted]] = Counter()
            scores: Counter[tuple[str, str, int]] = Counter()
            for uid, (number, calling_ae) in rows.items():
                if number not in new:
                    continue
                sender = calling_ae if calling_ae in titles else ""
                images.update((sender, outcome) for outcome in seen[uid].outcomes)
                scores.update((sender, label, bin_) for label, bin_ in seen[uid].bins.items())
            add_images(session, model, day, images)
            add_scores(session, model, day, scores)


class Tallies:
    """Counts the outcomes of a job's images; caches the cards' references. Opens no transaction."""

    def __init__(self, models_dir: Path | None) -> None:
        self._models_dir = models_dir
        self._references: dict[str, Reference | None] = {}

    def count(self, scores: Sequence[Scores], refused: Sequence[Refusal]) -> Tally:
        """Count the analysed images by their scores, and the refused images by the gate that refused them."""
        seen: dict[CountedModel, dict[str, _ImageOutcome]] = {}
        for refusal in refused:
            found = _ImageOutcome((_REFUSED[refusal.by],))
            seen.setdefault(_model(refusal.model), {})[refusal.source_uid] = found
        for score in scores:
            reference = self._reference(score.model)
            bins = (
                {label: reference.bin(label, value) for label, value in score.values.items()}
                if reference
                else {}
            )
            known = {label: number for label, number in bins.items() if number is not None}
            reoriented = (Counted.REORIENTED,) if score.reoriented else ()
            found = _ImageOutcome((Counted.ANALYSED, *reoriented), known)
            seen.setdefault(_model(score.model), {})[score.source_uid] = found
        return Tally(seen)

    def _reference(self, model: ModelRef) -> Reference | None:
        """The reference of that very card; None when it has none or was replaced on disk by now."""
        if model.card_sha256 not in self._references:
            try:
                known = {card.sha256: card for card in cards(self._models_dir)}
                card = known.get(model.card_sha256)
                self._references[model.card_sha256] = None if card is None else reference_of(card)
            except CardError as error:  # a count is not worth a job
                _LOGGER.warning("scores of %s are not counted: %s", model.id, error)
                self._references[model.card_sha256] = None
        return self._references[model.card_sha256]


def _model(model: ModelRef) -> CountedModel:
    return CountedModel(model.id, model.version, model.card_sha256)
