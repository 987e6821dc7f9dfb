"""``ai-pipeline train anatomy`` and ``ai-pipeline evaluate anatomy``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ai_training.cards import changed_card
from ai_training.console import errors, progress
from ai_training.options import (
    AsJson,
    Iterations,
    ModelsDir,
    NetworkThreads,
    Out,
    PublicData,
    Resume,
    Seed,
    Split,
    Workers,
    WriteCard,
    needs_models_dir,
    own_card,
)


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("anatomy")(train_anatomy)
    evaluate_app.command("anatomy")(evaluate_anatomy)


def train_anatomy(
    *,
    data: PublicData,
    out: Out,
    iterations: Iterations = 2000,
    seed: Seed = 1,
    threads: NetworkThreads = 2,
    workers: Workers = 1,
    resume: Resume = False,
) -> None:
    """Train the network that outlines heart and lungs.

    Example: ai-pipeline train anatomy --data DIR --out runs/anatomy
    """
    with errors(), progress() as report:
        from ai_training.anatomy import fit

        recipe = fit.AnatomyRecipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
        card = fit.train(data, out, recipe, resume=resume, report=report)
    typer.echo(str(card))


def evaluate_anatomy(
    *,
    data: PublicData,
    split: Split = "test",
    models_dir: ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for the Bland-Altman plot.")
    ] = None,
    as_json: AsJson = False,
    write_card: WriteCard = False,
) -> None:
    """Measure outlines and cardiothoracic ratio; every interval is 95 %, by bootstrap over images.

    Example: ai-pipeline evaluate anatomy --data DIR --models-dir runs/anatomy --report report
    """
    needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.chest.anatomy import AnatomyModel
        from ai_pipeline.models.registry import find
        from ai_training.anatomy.evaluate import as_text, evaluate
        from ai_training.anatomy.export import ID

        result = evaluate(data, AnatomyModel.of(find(ID, models_dir)), split, report)
        if report_to is not None:
            from ai_training.anatomy.plots import bland_altman

            typer.echo(str(bland_altman(report_to, result)), err=True)
        pairs = result.pop("pairs")
        if write_card:
            with changed_card(own_card(ID, models_dir)) as card:
                card.setdefault("metrics", {})[split] = result
    typer.echo(json.dumps(result | {"pairs": pairs}) if as_json else as_text(result))
