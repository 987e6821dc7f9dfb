"""Models: their cards, the drift of their scores, the model that a pipeline uses, and a change of the
model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ai_pipeline.contract import ModelSlot, PipelineCard
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.reference import reference_of
from ai_pipeline.models.store import folder
from ai_pipeline.pipelines import slots, try_out
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotFound
from dicom_node.base.kinds import AuditAction, Counted
from dicom_node.base.store.transitions import utc_now
from dicom_node.jobs import drift as scores
from dicom_node.people import audit, reading, writing

OTHER = "other"
"""What stands for all senders that are no configured peers."""
TRIAL_SECONDS = 120
"""How long a model may take on the pictures that it is tried on before it is used."""


def listed(settings: Settings) -> list[dict[str, Any]]:
    """The model cards. Raises FaultyInput if a card cannot be read."""
    return [
        {
            "id": card.id,
            "version": card.version,
            "task": card.task,
            "architecture": card.architecture,
            "licence": card.licence,
            "intended_use": card.intended_use,
            "limits": list(card.limits),
            "calibrated": card.calibrated,
            "labels": [label.name for label in card.labels if label.supported],
            "weights": [{"role": w.role, "file": w.path.name, "sha256": w.sha256} for w in card.weights],
            "card_sha256": card.sha256,
        }
        for card in cards(settings)
    ]


def verified(settings: Settings) -> list[dict[str, Any]]:
    """Whether the weights of each model have the SHA-256 in the model's card. Raises FaultyInput."""
    rows = []
    for card in cards(settings):
        try:
            registry.verify(card)
            reference_of(card)
            text, ok = "weights are those of the card", True
        except CardError as error:
            text, ok = str(error), False
        rows.append({"id": card.id, "version": card.version, "ok": ok, "text": text})
    return rows


def drift(settings: Settings, since: datetime | None = None, peer: str = "") -> list[dict[str, Any]]:
    """How each model's scores and refusals for each sender compare with its card's reference.

    From the day (UTC) of ``since`` on, by default the last ``drift.WINDOW_DAYS``. ``peer``: a name or an AE
    title, or "other" for all senders that are no configured peers. Raises UnknownPeer, FaultyInput.
    """
    day = scores.window(utc_now()) if since is None else since.astimezone(UTC).date()
    with reading(settings) as session, _refused():
        found = scores.drift(session, settings.workers.models_dir, day)
    rows = [_drift_row(item, day) for item in found]
    if not peer:
        return rows
    title = next((known.ae_title for known in settings.peers if known.name == peer), peer)
    chosen = [row for row in rows if row["calling_ae"] == title]
    if not chosen and title not in {OTHER, *(known.ae_title for known in settings.peers)}:
        settings.peer(peer)
    return chosen


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """The model ("id@version", "" for none) in a ``slot`` of a ``pipeline`` for which a site chooses the
    model.
    """

    slot: str
    pipeline: str
    role: str
    model: str


def in_use(settings: Settings) -> list[ModelInUse]:
    """The model in each slot of each pipeline. Raises FaultyInput."""
    found = []
    for name, (pipeline, slot) in slots().items():
        with _refused():
            card = folder.in_use(slot, settings.workers.models_dir)
        found.append(ModelInUse(name, pipeline.name, slot.role, card.name if card else ""))
    return found


def activate(settings: Settings, slot: str, name: str, by: audit.Person) -> None:
    """Use a model of ``workers.models_dir`` in a slot of a pipeline. Raises FaultyInput, NotFound."""
    pipeline, chosen, models_dir = _slot(settings, slot)
    with _refused():
        card = registry.find(name, models_dir)
        try_out(pipeline.name, card.path, TRIAL_SECONDS)
        with writing(settings) as session:
            audit.note(session, by, AuditAction.MODEL_ACTIVATED, pipeline=slot, model=card.name)
            session.flush()  # no change that cannot be noted
            folder.activate(chosen, card, models_dir)


def roll_back(settings: Settings, slot: str, by: audit.Person) -> None:
    """Use the previous model in a slot of a pipeline again. Raises FaultyInput, NotFound."""
    _, chosen, models_dir = _slot(settings, slot)
    with _refused(), writing(settings) as session:
        card = folder.before(chosen, models_dir)
        audit.note(session, by, AuditAction.MODEL_ROLLBACK, pipeline=slot, model=card.name if card else "")
        session.flush()  # no change that cannot be noted
        folder.rollback(chosen, models_dir)


def _slot(settings: Settings, name: str) -> tuple[PipelineCard, ModelSlot, Path]:
    known = slots()
    if name not in known:
        raise NotFound("the model of this pipeline cannot be exchanged")
    if settings.workers.models_dir is None:
        raise FaultyInput(
            "there is no folder for models of your own: set workers.models_dir, then `ai-pipeline models add`"
        )
    return *known[name], settings.workers.models_dir


def cards(settings: Settings) -> Sequence[registry.Card]:
    """The cards of shipped models and of the site's own. Raises FaultyInput."""
    with _refused():
        return registry.cards(settings.workers.models_dir)


@contextmanager
def _refused() -> Iterator[None]:
    """Raises FaultyInput for a card that cannot be used."""
    try:
        yield
    except CardError as error:
        raise FaultyInput(str(error)) from None


def _drift_row(item: scores.Drift, since: date) -> dict[str, Any]:
    reference = item.reference
    return {
        "model": item.model.id,
        "version": item.model.version,
        "card_sha256": item.model.card_sha256,
        "calling_ae": item.calling_ae or OTHER,
        "since": since.isoformat(),
        "verdict": item.verdict.value,
        "note": item.note,
        **{outcome.value: item.images.get(outcome, 0) for outcome in Counted},
        "refusal_rate": item.refusal_rate and [round(value, 6) for value in item.refusal_rate],
        "reference": reference
        and {"set": reference.set, "images": reference.images, "refused": reference.refused},
        "scores": [
            {
                "label": label.label,
                "images": label.images,
                "psi": None if label.index is None else round(label.index, 3),
                "by_chance": None if label.by_chance is None else round(label.by_chance, 3),
                "verdict": label.verdict.value,
                # Of few images they would come near to telling single scores.
                "bins": None if label.index is None else list(label.counts),
            }
            for label in item.labels
        ],
    }
