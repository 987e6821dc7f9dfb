"""Models as the console shows them, and which one a pipeline uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Card
from ai_pipeline.models.store import folder
from dicom_node import services
from dicom_node.config.settings import Settings
from dicom_node.errors import ModelRefused, NotFound
from dicom_node.model.kinds import AuditAction
from dicom_node.services import audit, writing
from dicom_node.services.audit import Person
from dicom_node.services.console.studies.contents import Node
from dicom_node.store.views import View

TRIAL_SECONDS = 120
"""How long a model may take on an empty picture before it is used."""


def models(settings: Settings) -> list[View]:
    """The cards, whether their files are there, and which pipeline uses them. Raises ModelRefused."""
    used = active(settings) | {folder.SHADOW: shadow(settings)}
    return [
        {
            **row,
            "pipelines": [pipeline for pipeline, name in used.items() if name == row["name"]],
            "ready": all(part["there"] for part in row["weights"]),
        }
        for row in map(_row, _cards(settings))
    ]


def model(settings: Settings, identifier: str, version: str) -> View:
    """One of them, with all that its card says. Raises NotFound, ModelRefused."""
    card = next((one for one in _cards(settings) if (one.id, one.version) == (identifier, version)), None)
    if card is None:
        raise NotFound("there is no such model")
    metrics = dict(card.details.get("metrics", {}))
    by_label: Mapping[str, Any] = metrics.pop("labels", {}) if isinstance(metrics.get("labels"), dict) else {}
    used = active(settings) | {folder.SHADOW: shadow(settings)}
    return {
        **_row(card),
        "intended_use": card.intended_use,
        "limits": list(card.limits),
        "calibrated": card.calibrated,
        "card_sha256": card.sha256,
        "pipelines": [pipeline for pipeline, name in used.items() if name == card.name],
        "may_serve": ["chest_xray", folder.SHADOW] if card.labels and card.box_output is None else [],
        "labels": [
            {
                "name": label.name,
                "supported": label.supported,
                "present_from": label.threshold,
                "absent_below": label.absent_below,
                "positives": by_label.get(label.name, {}).get("positives"),
                "auc": _figure(by_label.get(label.name, {}).get("auc")),
            }
            for label in card.labels
        ],
        "metrics": [_node(key, value) for key, value in metrics.items()],
    }


def findings(settings: Settings) -> list[str]:
    """What the models here look for, by the meanings of its codes; none where a card cannot be read."""
    try:
        cards = registry.cards(settings.workers.models_dir)
    except CardError:
        return []  # the list of studies is shown all the same
    return sorted({label.code.meaning for card in cards for label in card.labels})


def active(settings: Settings) -> dict[str, str]:
    """The model ("id@version") of each pipeline whose model can be exchanged. Raises ModelRefused."""
    found = {}
    for pipeline in folder.SHIPPED_MODELS:
        try:
            found[pipeline] = folder.active(pipeline, settings.workers.models_dir).name
        except CardError as error:
            raise ModelRefused(str(error)) from None
    return found


def shadow(settings: Settings) -> str:
    """The model ("id@version") in the shadow of chest_xray, "" where there is none. Raises ModelRefused."""
    try:
        card = folder.in_shadow(settings.workers.models_dir)
    except CardError as error:
        raise ModelRefused(str(error)) from None
    return card.name if card else ""


def history(settings: Settings) -> list[View]:
    """Which model was put into use when, the last first."""
    models_dir = settings.workers.models_dir
    if models_dir is None:
        return []
    rows = [
        {"at": event.at.isoformat(), "pipeline": pipeline, "model": event.model, "by": event.by}
        for pipeline, use in folder.uses(models_dir).items()
        for event in use.history
    ]
    return sorted(rows, key=lambda row: row["at"], reverse=True)[:50]


def activate(settings: Settings, pipeline: str, name: str, by: Person) -> None:
    """Let a pipeline use a model of ``workers.models_dir`` that runs. Raises ModelRefused."""
    from ai_pipeline.chest.trial import try_out

    models_dir = _models_dir(settings, pipeline)
    try:
        card = registry.find(name, models_dir)
        try_out(card, TRIAL_SECONDS)
        with writing(settings) as session:
            audit.note(session, by, AuditAction.MODEL_ACTIVATED, pipeline=pipeline, model=card.name)
            session.flush()  # no change that cannot be noted
            folder.activate(pipeline, card, models_dir)
    except CardError as error:
        raise ModelRefused(str(error)) from None


def roll_back(settings: Settings, pipeline: str, by: Person) -> None:
    """Let a pipeline use what it used before. Raises ModelRefused."""
    models_dir = _models_dir(settings, pipeline)
    try:
        with writing(settings) as session:
            card = folder.before(pipeline, models_dir)
            name = card.name if card else ""
            audit.note(session, by, AuditAction.MODEL_ROLLBACK, pipeline=pipeline, model=name)
            session.flush()  # no change that cannot be noted
            folder.rollback(pipeline, models_dir)
    except CardError as error:
        raise ModelRefused(str(error)) from None


def drift(settings: Settings, identifier: str, version: str) -> list[View]:
    """What ``models drift`` says of this model, sender by sender."""
    rows = services.model_drift(settings)
    return [row for row in rows if (row["model"], row["version"]) == (identifier, version)]


def _models_dir(settings: Settings, pipeline: str) -> Path:
    if pipeline not in (*folder.SHIPPED_MODELS, folder.SHADOW):
        raise NotFound("the model of this pipeline cannot be exchanged")
    if settings.workers.models_dir is None:
        raise ModelRefused(
            "there is no folder for models of your own: set workers.models_dir, then `ai-pipeline models add`"
        )
    return settings.workers.models_dir


def _cards(settings: Settings) -> Sequence[Card]:
    try:
        return registry.cards(settings.workers.models_dir)
    except CardError as error:
        raise ModelRefused(str(error)) from None


def _row(card: Card) -> View:
    return {
        "name": card.name,
        "id": card.id,
        "version": card.version,
        "task": card.task,
        "architecture": card.architecture,
        "licence": card.licence,
        "own": registry.SHIPPED not in card.path.parents,
        "weights": [
            {"role": part.role, "file": part.path.name, "sha256": part.sha256, "there": part.path.is_file()}
            for part in card.weights
        ],
    }


def _node(key: str, value: Any) -> Node:
    """A table of the card as a tree; three numbers are a figure with its interval."""
    name = key.replace("_", " ")
    if figure := _figure(value):
        return Node(name, figure)
    if isinstance(value, Mapping):
        return Node(name, children=[_node(str(inner), item) for inner, item in value.items()])
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return Node(name, children=[_node(str(place), item) for place, item in enumerate(value, start=1)])
    if isinstance(value, list):
        return Node(name, ", ".join(str(item) for item in value))
    return Node(name, str(value))


def _figure(value: Any) -> str:
    """ "0.77 [0.70, 0.82]" of three numbers, "" of anything else."""
    if isinstance(value, list) and len(value) == 3 and all(isinstance(one, float | int) for one in value):
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
    return ""
