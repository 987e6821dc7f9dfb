"""``ai-pipeline train …``: the typer app that ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_training import options
from ai_training.console import errors, progress

train_app = typer.Typer(help="Train a model; leaves its card and weights in a folder.", no_args_is_help=True)

Named = Annotated[str, typer.Option("--experiment", help="A shipped experiment's name, or a TOML file.")]


@train_app.command("chest")
def train_chest(
    *,
    data: options.ChestData,
    out: options.Out,
    experiment: Named = "chest",
    iterations: Annotated[
        int | None, typer.Option(help="Steps; replaces the experiment's own length (to try things).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; replaces the experiment's own.")] = None,
    threads: options.Threads = 0,
    cache: options.Cache = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train the chest X-ray classifier. Uses a GPU when there is one.

    Example: ai-pipeline train chest --data DIR --out runs/chest

    Then: ai-pipeline evaluate chest --data DIR --models-dir runs/chest --write-card
    """
    with errors(), progress() as report:
        from ai_training.chest import experiment as experiments
        from ai_training.chest.fit import fit
        from ai_training.chest.ship import ship

        made = experiments.load(_file(experiment))
        if seed is not None:
            made = made.changed(made.name, {"seed": seed})
        if iterations is not None:
            made = made.changed(made.name, {"schedule": {"iterations": iterations}})
        run = fit(data, out, made, resume=resume, threads=threads, cache=cache, report=report)
        card = ship(data, out, run, cache or out / "cache", report)
    typer.echo(str(card))


@train_app.command("levers")
def train_levers(
    *,
    data: options.ChestData,
    out: options.Out,
    experiment: Named = "chest-levers",
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> None:
    """Train an experiment with and without each lever; compare them on validation, image by image.

    Interrupted, it goes on where it was. Example: ai-pipeline train levers --data DIR --out runs/levers
    """
    with errors(), progress() as report:
        from ai_training.chest import experiment as experiments
        from ai_training.chest.levers import pull

        study = experiments.load_levers(_file(experiment))
        rows = pull(data, out, study, threads=threads, cache=cache, report=report)
    typer.echo(f"{'lever':24}{'AUC':>7}  difference [95 %]")
    for row in rows:
        found = row.difference
        against = (
            f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] to {row.against}" if found else ""
        )
        typer.echo(f"{row.name:24}{row.validation_auc:7.4f}  {against}")


@train_app.command("pretrain")
def train_pretrain(
    *,
    data: options.ChestData,
    out: options.Out,
    epochs: Annotated[float, typer.Option(help="Passes over all training images.")] = 5.0,
    seed: options.Seed = 7,
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> None:
    """Pre-train the backbone on chest X-rays without labels (momentum contrast).

    Example: ai-pipeline train pretrain --data DIR --out runs/pre; then name runs/pre/pretrained.pt as
    `initial` in an experiment's [network].
    """
    with errors(), progress() as report:
        from ai_training.chest.pretrain import Contrast, pretrain

        how = Contrast(epochs=epochs, seed=seed)
        left = pretrain(data, out, how, threads=threads, cache=cache, report=report)
    typer.echo(str(left))


@train_app.command(
    "head",
    epilog="Example:  ai-pipeline train head --encoder rad-dino/ --data splits.csv --out new --id rad-dino",
)
def train_head(
    *,
    encoder: Annotated[Path, typer.Option(help="Folder in Hugging Face's layout: DINOv2 or ViT.")],
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    model_id: Annotated[str, typer.Option("--id", help="The model's id.")] = "",
    licence: Annotated[str, typer.Option(help="The licence of the encoder's weights.")] = "",
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the input in pixels, whole patches of 14: smaller is faster.", min=28, max=1022
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Images to learn from, at most.", min=100)] = 2000,
    threads: options.Threads = 0,
) -> None:
    """Train a head on a frozen encoder (RAD-DINO, DINOv2) with 200 to 2,000 of your labelled images.

    It learns from the split train. Then: ai-pipeline models add, and ai-pipeline models accept on other
    patients.
    """
    with errors(), progress() as report:
        from ai_training.chest import head

        made = head.train_head(
            encoder, data, out, model_id=model_id, licence=licence, size=size, most=most, threads=threads,
            report=report,
        )  # fmt: skip
    for name, found in made.auc.items():
        typer.echo(
            f"{name:20}AUC {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] on patients of other folds"
        )
    if made.left_out:
        typer.echo(f"Too few images, left out: {', '.join(made.left_out)}")
    network = made.card.with_suffix(".onnx")
    typer.echo(f"{made.card}: next, ai-pipeline models add {network} --card {made.card}")


def export(
    *,
    data: options.ChestData,
    run: Annotated[Path, typer.Option(help="Folder that a training run left (or a lever of a study).")],
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    levers: Annotated[Path | None, typer.Option(help="levers.json of a study, for the card.")] = None,
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> None:
    """Make card and weights of a finished run: ONNX, calibration, thresholds, gate, reference for drift."""
    with errors(), progress() as report:
        import torch

        from ai_training.chest.fit import trained_in
        from ai_training.chest.ship import ship

        if threads:
            torch.set_num_threads(threads)
        card = ship(data, out, trained_in(run), cache or out / "cache", report, levers)
    typer.echo(str(card))


def _file(named: str) -> Path:
    """The file of an experiment that is named by path or by the name of a shipped one."""
    from ai_training.chest import experiment as experiments

    return Path(named) if named.endswith(".toml") else experiments.shipped(named)
