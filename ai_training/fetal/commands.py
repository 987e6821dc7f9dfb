"""``ai-pipeline train fetal`` and ``ai-pipeline evaluate fetal``."""

from __future__ import annotations

import json

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
    train_app.command("fetal")(train_fetal)
    evaluate_app.command("fetal")(evaluate_fetal)


def train_fetal(
    *,
    data: PublicData,
    out: Out,
    iterations: Iterations = 2000,
    seed: Seed = 1,
    threads: NetworkThreads = 2,
    workers: Workers = 1,
    resume: Resume = False,
) -> None:
    """Train the network that outlines fetal heads, and fit its gate.

    Example: ai-pipeline train fetal --data DIR --out runs/fetal
    """
    with errors(), progress() as report:
        from ai_training.fetal import fit
        from ai_training.fetal.ship import train_and_ship

        recipe = fit.HeadRecipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
        card = train_and_ship(data, out, recipe, resume=resume, report=report)
    typer.echo(str(card))


def evaluate_fetal(
    *,
    data: PublicData,
    split: Split = "test",
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
    write_card: WriteCard = False,
) -> None:
    """Measure outlines, head circumference and gate; every interval is 95 %, by bootstrap over examinations.

    Example: ai-pipeline evaluate fetal --data DIR --models-dir runs/fetal
    """
    needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.fetal_head.outline import HeadModel
        from ai_pipeline.models.registry import find
        from ai_training.fetal.evaluate import as_text, evaluate
        from ai_training.fetal.export import ID

        result = evaluate(data, HeadModel.of(find(ID, models_dir)), split, report)
        pairs = result.pop("pairs")
        if write_card:
            with changed_card(own_card(ID, models_dir)) as card:
                card.setdefault("metrics", {})[split] = result
    typer.echo(json.dumps(result | {"pairs": pairs}) if as_json else as_text(result))
