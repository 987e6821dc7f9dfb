"""Drift: counts of images and scores by model, sender and day (UTC), against the card's reference.

Images are counted in the transaction that ends their job. So a job that is tried again, or taken over from a
dead worker, is counted once, and a job that fails or is cancelled is not counted. An image that several jobs
analyse (two rules, a late object, a corrected name) is counted for the first one: a table says which images
were counted, and no score. Several writers add to the same rows at once: every statement lists its rows in
order, so that no two writers block each other (PostgreSQL).
"""

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelRef, Refusal, Scores
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
from dicom_node.base.lifecycle import Counted
from dicom_node.base.store.database import Database
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import CountedImage, EventRow, Instance, ModelCount
from dicom_node.base.store.transitions import record, utc_now

FEWEST_TO_REPORT = 200
"""Images of one label under which no event is made: of fewer, chance alone comes near the limit."""
OTHER = "other"
"""What stands for all senders that are no configured peers."""
WINDOW_DAYS = 30
"""Days that are judged, unless others are asked for."""
OUTCOME_BIN = -1
"""In the place of a bin: the row counts images with an outcome (``Counted``), not scores of a label."""
_KEEP_DAYS = 400  # a year can be compared with the one before
_WORST = (Verdict.DRIFTED, Verdict.WATCH, Verdict.STABLE, Verdict.TOO_FEW, Verdict.NO_REFERENCE)
_LOGGER = logging.getLogger(__name__)
_Count = tuple[str, int]  # an outcome or a label, and the bin


def drift(session: Session, models_dir: Path | None, since: date) -> list[dict[str, Any]]:
    """Return a row for every model and sender with counts from day ``since`` (UTC) on, comparing scores with
    the model's reference. Raises CardError.

    ``refusal_rate`` in a row: share, low, high (95 % interval) of images refused because their pixels are not
    what the model was trained for, among those whose header was accepted. ``reference``: from the installed
    model card (the file with the model's figures); ``note`` says why there is none.
    """
    installed = {card.sha256: card for card in cards(models_dir)}
    keys = (ModelCount.model, ModelCount.version, ModelCount.card_sha256, ModelCount.calling_ae)
    chosen = select(*keys, ModelCount.what, ModelCount.bin, func.sum(ModelCount.images))
    chosen = chosen.where(ModelCount.day >= since).group_by(*keys, ModelCount.what, ModelCount.bin)
    found = []
    for key, counts in groupby(session.execute(chosen.order_by(*keys)), key=lambda row: row[:4]):
        model, version, card_sha256, calling_ae = key
        images = {(what, number): int(total) for *_, what, number, total in counts}
        outcomes = {outcome.value: images.get((outcome, OUTCOME_BIN), 0) for outcome in Counted}
        refused = outcomes[Counted.REFUSED_PIXELS]
        rate = wilson(refused, refused + outcomes[Counted.ANALYSED])
        reference, note = _reference(installed.get(card_sha256))
        labels = list(reference.deciles) if reference else sorted({what for what, n in images if n >= 0})
        scores = [
            _score(label, [images.get((label, n), 0) for n in range(BINS)], reference) for label in labels
        ]
        verdicts = {score["verdict"] for score in scores} | {Verdict.NO_REFERENCE}
        found.append(
            {
                "model": model,
                "version": version,
                "card_sha256": card_sha256,
                "calling_ae": calling_ae or OTHER,
                "since": since.isoformat(),
                "verdict": next(worst for worst in _WORST if worst in verdicts),
                "note": note,
                **outcomes,
                "refusal_rate": rate and [round(value, 6) for value in rate],
                "reference": reference
                and {"set": reference.set, "images": reference.images, "refused": reference.refused},
                "scores": scores,
            }
        )
    return found


def _reference(card: Card | None) -> tuple[Reference | None, str]:
    """Return the reference distribution of a model card; None and a sentence on why if there is none."""
    if card is None:
        return None, "this card is not installed any more"
    try:
        reference = reference_of(card)
    except CardError as error:
        return None, str(error)
    return reference, "" if reference else "no reference in the card: PSI cannot be given"


def _score(label: str, bins: Sequence[int], reference: Reference | None) -> dict[str, Any]:
    """Return the drift of one label's scores. ``bins``: how many scores fell into each tenth of
    ``reference``.
    """
    images, of_reference = sum(bins), reference.images if reference else None
    enough = images >= FEWEST
    return {
        "label": label,
        "images": images,
        "psi": round(stability_index(bins), 3) if enough else None,
        "by_chance": round(by_chance(images, of_reference), 3) if enough else None,
        "verdict": verdict(bins, of_reference),
        # Of few images they would come near to telling single scores.
        "bins": list(bins) if enough else None,
    }


def report_drift(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Record an event for each model and sender whose scores have drifted, once a day (UTC); return their
    number.

    The last ``WINDOW_DAYS`` are judged, and only if an image came since yesterday: replaced models and unused
    machines are not reported.
    """
    moment, events = now or utc_now(), 0
    with database.read() as session:
        found = drift(session, settings.workers.models_dir, window(moment))
        chosen = select(ModelCount.card_sha256, ModelCount.calling_ae).where(
            ModelCount.day >= moment.date() - timedelta(days=1)  # since yesterday
        )
        fresh = {(card, calling_ae or OTHER) for card, calling_ae in session.execute(chosen.distinct())}
    with database.write() as session:
        midnight = datetime.combine(moment.date(), time(), UTC)
        today = select(EventRow).where(EventRow.number == SCORES_DRIFTED.number, EventRow.at >= midnight)
        reported = {(row.fields.get("card"), row.fields.get("calling")) for row in session.scalars(today)}
        for item in found:
            labels = [
                label
                for label in item["scores"]
                if label["verdict"] == Verdict.DRIFTED and label["images"] >= FEWEST_TO_REPORT
            ]
            if item["reference"] and labels and (item["card_sha256"], item["calling_ae"]) in fresh - reported:
                record(
                    session,
                    SCORES_DRIFTED,
                    model=item["model"],
                    version=item["version"],
                    card=item["card_sha256"],
                    calling=item["calling_ae"],
                    images=max(label["images"] for label in labels),
                    psi=max(label["psi"] for label in labels),
                    labels=" ".join(label["label"] for label in labels),
                )
                events += 1
    return events


def forget_old(database: Database, _settings: Settings, now: datetime | None = None) -> None:
    """Delete counts older than ``_KEEP_DAYS``, and the records of which images were counted."""
    before = (now or utc_now()).date() - timedelta(days=_KEEP_DAYS)
    with database.write() as session:
        for table in (ModelCount, CountedImage):
            session.execute(delete(table).where(table.day < before))


def window(now: datetime) -> date:
    """Return the first day (UTC) of the period that is checked for drift."""
    return now.astimezone(UTC).date() - timedelta(days=WINDOW_DAYS)


def wilson(part: int, whole: int) -> tuple[float, float, float] | None:
    """Return the share ``part / whole`` with the lower and upper end of its 95 % Wilson interval; None if
    ``whole`` is 0.
    """
    if not whole:
        return None
    z, share = 1.959964, part / whole
    middle = share + z * z / (2 * whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    scale = 1 + z * z / whole
    return share, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def count_images(
    session: Session, settings: Settings, scores: Iterable[Scores] = (), refused: Iterable[Refusal] = ()
) -> None:
    """Count the images that a job analysed, by their scores, and those that a model ``refused``, by what
    refused them (header or pixels).

    Each image is counted once for each model. Runs in the transaction that ends the job.
    """
    made: dict[ModelRef, dict[str, list[_Count]]] = {}
    for refusal in refused:
        made.setdefault(refusal.model, {})[refusal.source_uid] = [(f"refused_{refusal.by}", OUTCOME_BIN)]
    for score in scores:
        made.setdefault(score.model, {})[score.source_uid] = _counts_of(score, settings.workers.models_dir)
    titles = {peer.ae_title for peer in settings.peers if "send" in peer.may}
    for model in sorted(made, key=lambda model: model.card_sha256):
        _count_images_of_model(session, model, made[model], titles)


def _counts_of(score: Scores, models_dir: Path | None) -> list[_Count]:
    """Return what an image counts for by its scores: outcomes, and a bin of each label's reference."""
    counts: list[_Count] = [(Counted.ANALYSED, OUTCOME_BIN)]
    if score.reoriented:
        counts.append((Counted.REORIENTED, OUTCOME_BIN))
    if reference := _reference_for_bins(models_dir, score.model.card_sha256):
        bins = ((label, reference.bin(label, value)) for label, value in score.values.items())
        counts += [(label, number) for label, number in bins if number is not None]
    return counts


def _count_images_of_model(
    session: Session, model: ModelRef, of_image: Mapping[str, Sequence[_Count]], titles: Collection[str]
) -> None:
    """Count images (SOP Instance UID -> counts) that this model was not asked about before, by their senders;
    ``titles``: AE titles of the peers that send.
    """
    card = {"card_sha256": model.card_sha256, "day": utc_now().date()}
    chosen = select(Instance.sop_instance_uid, Instance.id, Instance.calling_ae)
    images = session.execute(chosen.where(Instance.sop_instance_uid.in_(of_image))).all()
    marks = [{**card, "instance_id": number} for number in sorted(number for _, number, _ in images)]
    if not marks:
        return
    # Of two transactions with the same image the second waits for the first, and does not count it.
    mark = _insert(session, CountedImage).values(marks).on_conflict_do_nothing()
    new = set(session.scalars(mark.returning(CountedImage.instance_id)))
    added = Counter(
        (calling_ae if calling_ae in titles else "", what, number)
        for uid, row, calling_ae in images
        if row in new
        for what, number in of_image[uid]
    )
    card |= {"model": model.id, "version": model.version}
    rows = [
        {**card, "calling_ae": calling_ae, "what": what, "bin": number, "images": total}
        for (calling_ae, what, number), total in sorted(added.items())
    ]
    if not rows:
        return
    statement = _insert(session, ModelCount).values(rows)
    keys = [column.name for column in ModelCount.__mapper__.primary_key]
    total = ModelCount.images + statement.excluded.images
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_={"images": total}))


@cache
def _reference_for_bins(models_dir: Path | None, card_sha256: str) -> Reference | None:
    """Return the reference distribution of the model card with this hash; None if it has none, or the file
    was replaced.
    """
    try:
        card = next((card for card in cards(models_dir) if card.sha256 == card_sha256), None)
        return reference_of(card) if card else None
    except CardError as error:  # a count is not worth a job
        _LOGGER.warning("scores of card %s are not counted: %s", card_sha256, error)
        return None


def _insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT statement that supports ON CONFLICT, for the session's database."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)
