"""``ai-pipeline train ovarian`` and ``evaluate ovarian``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ai_training.cards import changed_card
from ai_training.console import errors, progress
from ai_training.options import (
    AsJson,
    ModelsDir,
    NetworkThreads,
    Out,
    PublicData,
    WriteCard,
    needs_models_dir,
    own_card,
)

SHOWN = 30
"""Frames that ``evaluate ovarian --pictures`` writes."""


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("ovarian")(train_ovarian)
    evaluate_app.command("ovarian")(evaluate_ovarian)


def train_ovarian(
    *,
    data: PublicData,
    out: Out,
    seeds: Annotated[int, typer.Option(help="Runs of every fold, with seeds from 1 on.", min=1)] = 1,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training frames. Default: the shipped recipe's.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help="efficientnet-lite0 (default), or a network of timm, trained from scratch."),
    ] = None,
    frozen: Annotated[
        int | None, typer.Option(help="First blocks of EfficientNet-Lite0 that do not learn; 0: none.")
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Also run the networks of the folds on cleaned frames.")
    ] = False,
    cleaned: Annotated[
        bool, typer.Option("--cleaned", help="Also train networks of the folds on cleaned frames.")
    ] = False,
    study_frames: Annotated[
        int | None, typer.Option(help="Of --study: so many random frames, and all without yellow marks.")
    ] = None,
    threads: NetworkThreads = 2,
) -> None:
    """Train the classifier of ovarian frames: 5 folds by group, then on all frames; gate, outline, card.

    What is whole in --out is left, so an interrupted run goes on.

    Example: ai-pipeline train ovarian --data DIR --out runs/ovarian --seeds 3
    """
    with errors(), progress() as report:
        import torch

        from ai_training.ovarian import fit, outline_fit, ship, trained_on_cleaned
        from ai_training.ovarian import study as cleaning
        from ai_training.runs import CHECKPOINT

        torch.set_num_threads(threads)
        recipe = fit.recipe(epochs=epochs, architecture=architecture, frozen=frozen)
        numbers = range(1, seeds + 1)
        fit.train(data, out, recipe, numbers, report=report)
        outline = outline_fit.OutlineRecipe()
        begun = (out / "outline" / CHECKPOINT).is_file()
        outline_fit.train(data, out / "outline", outline, resume=begun, report=report)
        card = ship.ship(data, out, recipe, outline, numbers, report)
        if study:
            cleaning.run(data, out, recipe, report, most=study_frames)
        if cleaned:
            trained_on_cleaned.run(data, out, recipe, report)
    typer.echo(str(card))


def evaluate_ovarian(
    *,
    data: PublicData,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
    write_card: WriteCard = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Also write thirty frames with the activation, as they are and cleaned, and a plot of what "
            "cleaning costs."
        ),
    ] = None,
) -> None:
    """Print every figure of classifier, gate, outline and study; intervals by bootstrap over groups.

    Example: ai-pipeline evaluate ovarian --data DIR
    """
    needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.models.registry import find
        from ai_training.ovarian.evaluate import evaluate
        from ai_training.ovarian.ship import ID
        from ai_training.ovarian.text import as_text

        result = evaluate(data, find(ID, models_dir), report)
        if pictures:
            from ai_training.evaluation.plots import differences
            from ai_training.ovarian import study, study_figures

            study.pictures(data, find(ID, models_dir), pictures, SHOWN, report)
            differences(pictures / "study.png", study_figures.compared(result), result["study"]["margin"])
        if write_card:
            with changed_card(own_card(ID, models_dir)) as card:
                card["metrics"] = result
    typer.echo(json.dumps(result) if as_json else as_text(result))
