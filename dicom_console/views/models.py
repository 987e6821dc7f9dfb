"""Models for the console: their cards, use, history and drift."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Card
from ai_pipeline.models.store import folder
from ai_pipeline.pipelines import slots
from ai_pipeline.summary import UNSURE
from dicom_console.views.contents import Node
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.store.tables import Job
from dicom_node.base.store.views import View
from dicom_node.people.site_models import model_cards, models_in_use
from dicom_node.results.concepts import OURS

CUT_OFF: Final = OURS["CUTOFF"].meaning
"""What reports call the score from which a finding is called."""
HIGHEST: Final = 3
"""Scores that are shown of a picture that a person tried."""


def models(settings: Settings) -> list[View]:
    """Return a row for each installed model: whether its files exist, and which pipelines use it.

    Raises FaultyInput.
    """
    used, found = models_in_use(settings), model_cards(settings)
    return [
        row | {"ready": all(part["there"] for part in row["weights"])}
        for row in (_row(card, used) for card in found)
    ]


def model(settings: Settings, identifier: str, version: str) -> View:
    """Return one ``version`` of a model with the content of its model card, the file that describes it.

    Raises NotFound, FaultyInput.
    """
    card = next(
        (one for one in model_cards(settings) if (one.id, one.version) == (identifier, version)), None
    )
    if card is None:
        raise NotFound("there is no such model")
    metrics = dict(card.details.get("metrics", {}))
    by_label: Mapping[str, Any] = metrics.pop("labels", {}) if isinstance(metrics.get("labels"), dict) else {}
    return {
        **_row(card, models_in_use(settings)),
        "intended_use": card.intended_use,
        "limits": list(card.limits),
        "calibrated": card.calibrated,
        "card_sha256": card.sha256,
        "may_serve": list(slots()) if card.labels else [],
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
    """Return the names of the findings that the installed models can report, sorted; [] if a model card
    cannot be read.
    """
    try:
        cards = registry.cards(settings.workers.models_dir)
    except CardError:
        return []  # the list of studies is shown all the same
    return sorted({label.code.meaning for card in cards for label in card.labels})


def trial_scores(
    session: Session, settings: Settings, study: int, reported: Sequence[Mapping[str, Any]]
) -> list[View]:
    """Return the three highest scores of each model in the picture of a study that a person tried, of all its
    labels; [] for other studies. ``reported``: the findings of its report, as ``stated_report.findings``.

    Each row has the ``model`` (id and version), its ``findings`` (``finding``, ``score`` such as "34.1 %",
    ``decision`` and ``cut_off`` of the report; "" for a label that no report states), and in what share of
    the test images with a finding one of the three was ``right``, with the 95 % interval; "" if the card does
    not say, or the model was ``unsure`` of the picture.
    """
    try:
        cards = {f"{card.id}@{card.version}": card for card in registry.cards(settings.workers.models_dir)}
    except CardError:
        return []
    said = {row["finding"]: row for row in reported}
    jobs = select(Job.scores).where(Job.study_id == study).order_by(Job.id)
    return [
        _highest(cards[name], of_labels, said, unsure=UNSURE in scores)
        for scores in session.scalars(jobs)
        for name, of_labels in (scores or {}).items()
        if name in cards
    ]


def _highest(
    card: Card, scores: Mapping[str, float], said: Mapping[str, Mapping[str, Any]], *, unsure: bool
) -> View:
    """Return the row of a model in ``trial_scores``. ``scores``: 0 to 1, by the name of a label; ``said``:
    the findings of the report, by name.
    """
    right = None if unsure else card.details.get("metrics", {}).get("top3", {}).get("all_labels")
    names = {label.name: label.code.meaning for label in card.labels}
    highest = sorted(scores.items(), key=itemgetter(1), reverse=True)[:HIGHEST]
    return {
        "model": f"{card.id} {card.version}",
        "unsure": unsure,
        "right": _share(right),
        "findings": [
            {
                "finding": (finding := names.get(label, label)),
                "score": f"{100 * score:.1f} %",
                "decision": said[finding]["decision"] if finding in said else "",
                "cut_off": said[finding]["numbers"].get(CUT_OFF, "") if finding in said else "",
            }
            for label, score in highest
        ],
    }


def _share(figures: Sequence[float] | None) -> str:
    """Return a share with its interval as text, such as "75 % (67 % to 82 %)"; "" for None."""
    return "{:.0%} ({:.0%} to {:.0%})".format(*figures).replace("%", " %") if figures else ""


def history(settings: Settings) -> list[View]:
    """Return when which model was put into use for which pipeline, the latest first."""
    models_dir = settings.workers.models_dir
    if models_dir is None:
        return []
    rows = [
        {"at": event.at.isoformat(), "pipeline": pipeline, "model": event.model, "by": event.by}
        for pipeline, use in folder.uses(models_dir).items()
        for event in use.history
    ]
    return sorted(rows, key=lambda row: row["at"], reverse=True)[:50]


def _row(card: Card, used: Mapping[str, str]) -> View:
    """Return a model as lists show it. ``card``: its model card; ``used``: the model in use by pipeline."""
    return {
        "name": card.name,
        "id": card.id,
        "version": card.version,
        "task": card.task,
        "architecture": card.architecture,
        "licence": card.licence,
        "own": registry.SHIPPED not in card.path.parents,
        "pipelines": [slot for slot, model in used.items() if model == card.name],
        "weights": [
            {"role": part.role, "file": part.path.name, "sha256": part.sha256, "there": part.path.is_file()}
            for part in card.weights
        ],
    }


def _node(key: str, value: Any) -> Node:
    """Return a value of a model card's metrics as a tree entry; three numbers are shown as value and
    interval.
    """
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
    """Return a list of three numbers (value, lower, upper end) as "0.77 [0.70, 0.82]"; "" for any other
    value.
    """
    if isinstance(value, list) and len(value) == 3 and all(isinstance(one, float | int) for one in value):
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
    return ""
