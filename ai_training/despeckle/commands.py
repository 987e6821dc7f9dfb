"""``ai-pipeline train despeckle`` and ``ai-pipeline evaluate despeckle``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_training.cards import changed_card
from ai_training.console import errors, progress
from ai_training.options import (
    AsJson,
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

if TYPE_CHECKING:
    from ai_training.despeckle.afterwards import Filter


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("despeckle")(train_despeckle)
    train_app.command("label-colours")(train_label_colours)
    train_app.command("segmenters")(train_segmenters)
    train_app.command("plane-segmenters")(train_plane_segmenters)
    evaluate_app.command("despeckle")(evaluate_despeckle)


def train_despeckle(
    *,
    data: PublicData,
    out: Out,
    loss: Annotated[
        Literal["l1-ms-ssim", "l1-perceptual", "l2-perceptual", "task"],
        typer.Option(help="The losses of DiConvAE, or task: our residual network beside a segmenter."),
    ] = "l1-ms-ssim",
    segmenter: Annotated[
        Path | None, typer.Option(help="best.pt of `ai-pipeline train fetal`, for --loss task.")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Steps of the optimiser. Default: the published 50 epochs (6562); of task 7000."),
    ] = None,
    seed: Seed = 1,
    threads: NetworkThreads = 2,
    workers: Workers = 1,
    resume: Resume = False,
) -> None:
    """Train a network that reduces speckle.

    Example: ai-pipeline train despeckle --data DIR --out runs/despeckle --loss l1-perceptual
    """
    with errors(), progress() as report:
        from ai_training.despeckle import fit
        from ai_training.despeckle.ship import train_and_ship

        recipe = fit.recipe_of(loss, iterations=iterations, seed=seed, threads=threads, workers=workers)
        card = train_and_ship(data, out, recipe, segmenter, resume=resume, report=report)
    typer.echo(str(card))


def train_label_colours(*, data: PublicData, as_json: AsJson = False) -> None:
    """Train four small networks that show where colours between the classes come from; two minutes.

    Example: ai-pipeline train label-colours --data DIR
    """
    with errors(), progress() as report:
        from ai_training.despeckle.afterwards.labels import LabelRecipe, as_text, compare

        result = compare(data, LabelRecipe(), report)
    typer.echo(json.dumps(result) if as_json else as_text(result))


def train_segmenters(
    *,
    data: PublicData,
    iterations: Annotated[
        int, typer.Option(min=1, help="Steps of the optimiser of each run. 50 epochs are 3281.")
    ] = 250,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each kind.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train SegNet and a U-Net on raw, smoothed and both frames; outline test heads after each filter.

    Example: ai-pipeline train segmenters --data DIR --iterations 3281 --seeds 3
    """
    with errors(), progress() as report:
        from ai_training.despeckle.afterwards.segmenters import as_text, compare
        from ai_training.despeckle.afterwards.teaching import SegmenterRecipe

        recipe = SegmenterRecipe(iterations=iterations, seeds=tuple(range(1, seeds + 1)))
        result = compare(data, recipe, _filters(), report)
    typer.echo(json.dumps(result) if as_json else as_text(result))


def train_plane_segmenters(
    *,
    data: Annotated[
        Path, typer.Option(help="The unpacked archives of doi 10.5281/zenodo.8265464 (docs/training.md).")
    ],
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Small networks, so many steps. Default: 50 epochs of SegNet's own size."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train SegNet and a U-Net on brain, CSP and ventricles; Dice by plane and class after each filter.

    The published comparison on its own data, for a GPU; with --iterations, small, for two cores.

    Example: ai-pipeline train plane-segmenters --data DIR --iterations 2000
    """
    with errors(), progress() as report:
        from ai_training.despeckle.afterwards.planes import as_text, compare
        from ai_training.despeckle.afterwards.teaching import SegmenterRecipe

        recipe = SegmenterRecipe(iterations=iterations) if iterations else None
        result = compare(data, recipe, _filters(), report)
    typer.echo(json.dumps(result) if as_json else as_text(result))


def evaluate_despeckle(
    *,
    data: PublicData,
    split: Split = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames that speckle is put on.")] = 8,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
    write_card: WriteCard = False,
) -> None:
    """Compare filters and networks: noise, texture, seconds, and heads outlined on what they leave.

    Example: ai-pipeline evaluate despeckle --data DIR   (with the package bm3d, or without that row)
    """
    needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.despeckle.despeckler import MODEL
        from ai_training.despeckle.evaluate import as_text, evaluate

        result = evaluate(data, split, frames, models_dir, report)
        if write_card:
            with changed_card(own_card(MODEL, models_dir)) as card:
                card.setdefault("metrics", {})[split] = result
    typer.echo(json.dumps(result) if as_json else as_text(result))


def _filters() -> dict[str, Filter]:
    """All but BM3D, which takes ten seconds a frame."""
    from ai_pipeline.despeckle.despeckler import Despeckler
    from ai_training.despeckle.classical import filters
    from ai_training.despeckle.compared import autoencoders

    tried = {name: made for name, made in filters().items() if name != "BM3D"}
    return {**tried, **autoencoders(), "ours": Despeckler.active().picture}
