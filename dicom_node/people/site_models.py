"""The models of a site: their cards, which of them a pipeline uses, and the drift of their scores."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

from ai_pipeline.contract import ModelSlot, PipelineCard
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.store import folder
from ai_pipeline.pipelines import slots, try_out
from dicom_node.base.actions.action import Action, allowed_to
from dicom_node.base.actions.columns import fields
from dicom_node.base.actions.inputs import Since
from dicom_node.base.actions.nouns import MODELS
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotFound
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store import transitions
from dicom_node.base.store.views import View, columns
from dicom_node.jobs import drift
from dicom_node.people import audit, reading, writing
from dicom_node.people.audit import Person

TRIAL_SECONDS = 120
"""How long a model may take on the pictures that it is tried on before it is used."""


@Action(
    MODELS,
    "list",
    "List the model cards: shipped, and those of workers.models_dir.",
    columns=fields("model: id", "version", "task", "architecture", "licence"),
    none="No model cards.",
)
def list_models(settings: Settings) -> list[View]:
    """The models' cards (files about a model) as rows. Raises FaultyInput if a card cannot be read."""
    return [
        {
            **columns(card, "id", "version", "task", "architecture", "licence", "intended_use"),
            "limits": list(card.limits),
            "calibrated": card.calibrated,
            "labels": [label.name for label in card.labels if label.supported],
            "weights": [{"role": w.role, "file": w.path.name, "sha256": w.sha256} for w in card.weights],
            "card_sha256": card.sha256,
        }
        for card in model_cards(settings)
    ]


@Action(
    MODELS,
    "drift",
    "Compare each model's scores and refusals with its card's reference, sender by sender.\n\n"
    "Counts of whole days (UTC); the last 30 where --since is not given. --json has "
    "the scores of each label.",
    "--since 30d",
    columns=(
        *fields("model", "version", "peer: calling_ae", "since", "analysed", "reoriented"),
        *fields("refused by pixels: refused_pixels", "by header: refused_header"),
        *fields("scores: verdict", "note"),
    ),
    none="No images were counted.",
)
def model_drift(settings: Settings, since: Since = None) -> list[View]:
    """Rows that compare the scores and refusals of each model with its card's reference, for each sending
    peer.

    The sender "other" stands for all that are not configured. ``since``: only from this day (UTC) on; None:
    the last ``drift.WINDOW_DAYS``. Raises FaultyInput.
    """
    day = drift.window(transitions.utc_now()) if since is None else since.astimezone(UTC).date()
    with reading(settings) as session, _refusing_faulty_cards():
        return drift.drift(session, settings.workers.models_dir, day)


def models_in_use(settings: Settings) -> dict[str, str]:
    """The model ("id@version", "" for none) in each slot; a slot is a place in a pipeline for a model of the
    site's choice.

    Raises FaultyInput.
    """
    found = {}
    for name, (_, slot) in slots().items():
        with _refusing_faulty_cards():
            card = folder.in_use(slot, settings.workers.models_dir)
        found[name] = card.name if card else ""
    return found


@allowed_to(UserRole.ADMIN)
def activate_model(settings: Settings, slot: str, name: str, by: Person) -> None:
    """Use a model of ``workers.models_dir`` in a pipeline's slot, after a trial. Raises FaultyInput,
    NotFound.
    """
    pipeline, chosen, models_dir = _slot(settings, slot)
    with _refusing_faulty_cards():
        card = registry.find(name, models_dir)
        try_out(pipeline.name, card.path, TRIAL_SECONDS)
        with writing(settings) as session:
            audit.note(session, by, AuditAction.MODEL_ACTIVATED, pipeline=slot, model=card.name)
            session.flush()  # no change that cannot be noted
            folder.activate(chosen, card, models_dir)


@allowed_to(UserRole.ADMIN)
def roll_back_model(settings: Settings, slot: str, by: Person) -> None:
    """Use the previous model in a pipeline's slot again. Raises FaultyInput, NotFound."""
    _, chosen, models_dir = _slot(settings, slot)
    with _refusing_faulty_cards(), writing(settings) as session:
        card = folder.previous_model(chosen, models_dir)
        audit.note(session, by, AuditAction.MODEL_ROLLBACK, pipeline=slot, model=card.name if card else "")
        session.flush()  # no change that cannot be noted
        folder.rollback(chosen, models_dir)


def _slot(settings: Settings, name: str) -> tuple[PipelineCard, ModelSlot, Path]:
    """(pipeline of the slot with this name, the slot, the folder of the site's models). Raises NotFound,
    FaultyInput.
    """
    known = slots()
    if name not in known:
        raise NotFound("the model of this pipeline cannot be exchanged")
    if settings.workers.models_dir is None:
        raise FaultyInput(
            "there is no folder for models of your own: set workers.models_dir, then `ai-pipeline models add`"
        )
    return *known[name], settings.workers.models_dir


def model_cards(settings: Settings) -> Sequence[registry.Card]:
    """The cards (files about a model) of shipped models and of the site's own. Raises FaultyInput."""
    with _refusing_faulty_cards():
        return registry.cards(settings.workers.models_dir)


@contextmanager
def _refusing_faulty_cards() -> Iterator[None]:
    """Context manager: a model card that cannot be used raises FaultyInput."""
    try:
        yield
    except CardError as error:
        raise FaultyInput(str(error)) from None
