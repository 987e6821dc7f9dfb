"""``ai-pipeline study`` and ``ai-pipeline finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_training.cli import options
from ai_training.cli.console import errors, progress


def study(
    *,
    name: Annotated[str, typer.Argument(help="backbones, leak, augmentation, …, or a TOML file.")],
    data: options.ChestData,
    out: options.Out,
    threads: options.Threads = 0,
    cache: options.Cache = None,
    toy: Annotated[
        bool, typer.Option("--toy", help="One step on a few small images: whether it runs.")
    ] = False,
) -> None:
    """Train the arms of a study alike with every seed, and compare them image by image.

    An interrupted run continues where it stopped. Leaves figures.json, report.md and plots in --out.
    """
    with errors(), progress() as report:
        from ai_training.studies import experiment
        from ai_training.studies.compare import compare
        from ai_training.studies.pictures import write_pictures
        from ai_training.studies.report import write_report
        from ai_training.studies.run import run_study

        wanted = experiment.load(Path(name) if name.endswith(".toml") else experiment.shipped(name))
        wanted = wanted.toy() if toy else wanted
        material, answers = run_study(data, out, wanted, threads=threads, cache=cache, report=report)
        rows = compare(wanted, material, answers)
        page = write_report(out, wanted, rows)
        write_pictures(out, wanted, material, answers, rows)
    typer.echo(str(page))


def finetune(
    *,
    labels: Annotated[Path, typer.Option(help="CSV file: file, patient_id, the target (0, 1) or labels.")],
    target: Annotated[str, typer.Option(help="The finding, against the rest: Cardiomegaly.")],
    out: options.Out,
    weights: Annotated[
        str, typer.Option(help="random, imagenet, or the best.pt or .safetensors of an earlier training.")
    ] = "imagenet",
    architecture: Annotated[
        str, typer.Option(help="efficientnet-lite0, a network of torchvision, or timm/NAME.")
    ] = "efficientnet-lite0",
    size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=32, max=1024)] = 128,
    iterations: options.Iterations = 400,
    seed: options.Seed = 1,
    external: Annotated[
        Path | None, typer.Option("--test", help="CSV file of another hospital, to measure on.")
    ] = None,
    threads: options.Threads = 0,
) -> None:
    """Fine-tune a chest network on images of one's own: one finding against the rest.

    Measures on patients that were held out, and on another hospital's images. Not for diagnostic use.
    """
    with errors(), progress() as report:
        from ai_training.studies import finetune as training

        found = training.finetune(
            labels,
            target,
            out,
            weights=weights,
            architecture=architecture,
            size=size,
            iterations=iterations,
            seed=seed,
            external=external,
            threads=threads,
            report=report,
        )
    typer.echo(f"learned from {found.learned} images, {found.positives} with {target}: {found.weights}")
    for name, one in (("held out", found.held_out), ("other hospital", found.external)):
        if one is not None:
            value = f"{one.auc.value:.3f} [{one.auc.low:.3f}, {one.auc.high:.3f}]"
            among = f"{one.images} images of {one.patients} patients, {one.positives} positive"
            typer.echo(f"{name:15}AUC {value}, {among}")
