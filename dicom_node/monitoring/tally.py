"""Counts outcomes and scores of images when a job ends, in the transaction that ends it.

So a job that is tried again, taken over from a dead worker or analysed ahead is counted once, and a job that
fails or is cancelled is not counted. An image that several jobs analyse (two rules, a late object, a
corrected name) is counted for the first job: a table records which images were counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelRef, Refusal, RefusedBy, Scores
from ai_pipeline.errors import CardError
from ai_pipeline.models.reference import Reference, reference_of
from ai_pipeline.models.registry import cards
from dicom_node.config.settings import Settings
from dicom_node.model.kinds import Counted
from dicom_node.monitoring import counts
from dicom_node.monitoring.counts import CountedModel
from dicom_node.store.transitions import utc_now

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
            rows = counts.senders(session, seen)
            new = counts.mark_counted(
                session, model.card_sha256, {number for number, _ in rows.values()}, day
            )
            images: Counter[tuple[str, Counted]] = Counter()
            scores: Counter[tuple[str, str, int]] = Counter()
            for uid, (number, calling_ae) in rows.items():
                if number not in new:
                    continue
                sender = calling_ae if calling_ae in titles else ""
                images.update((sender, outcome) for outcome in seen[uid].outcomes)
                scores.update((sender, label, bin_) for label, bin_ in seen[uid].bins.items())
            counts.add_images(session, model, day, images)
            counts.add_scores(session, model, day, scores)


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
            seen.setdefault(_model(score.model), {})[score.source_uid] = self._analysed(score)
        return Tally(seen)

    def _analysed(self, score: Scores) -> _ImageOutcome:
        reoriented = (Counted.REORIENTED,) if score.reoriented else ()
        reference = self._reference(score.model)
        if reference is None:
            return _ImageOutcome((Counted.ANALYSED, *reoriented))
        bins = {label: reference.bin(label, value) for label, value in score.values.items()}
        known = {label: number for label, number in bins.items() if number is not None}
        return _ImageOutcome((Counted.ANALYSED, *reoriented), known)

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
