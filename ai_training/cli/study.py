"""``ai-pipeline study`` and ``ai-pipeline finetune``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ai_training.cli import options
from ai_training.cli.console import Figures, needed
from ai_training.progress import Report


def study(
    *,
    report: Report,
    name: Annotated[str, typer.Argument(help="backbones, leak, augmentation, …, or a TOML file.")],
    data: options.ChestData,
    out: options.Out,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the first weights of arms. Default: the folder of --data.")
    ] = None,
    threads: options.Threads = 0,
    cache: options.Cache = None,
    toy: Annotated[
        bool, typer.Option("--toy", help="One step on a few small images: whether it runs.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The full length, [full] of the file: for whole sets and a GPU.")
    ] = False,
) -> Path:
    """Train the arms of a study alike with every seed, and compare them image by image.

    An interrupted run continues where it stopped. Leaves figures.json, report.md and plots in --out. Arms
    whose weights are not there are left out, and the report says so.
    """
    from ai_training.studies import experiment
    from ai_training.studies.compare import compare
    from ai_training.studies.pictures import write_pictures
    from ai_training.studies.report import write_report
    from ai_training.studies.run import run_study

    file = Path(name) if name.endswith(".toml") else experiment.shipped(name)
    wanted = experiment.load(file, full=full)
    wanted = wanted.toy() if toy else wanted
    weights = weights or (data if data.is_dir() else data.parent)
    left_out = wanted.without_weights(weights)
    material, answers = run_study(
        data,
        out,
        wanted,
        weights=weights,
        left_out=left_out,
        threads=threads,
        cache=cache,
        report=report,
    )
    wanted = wanted.without(left_out)
    rows = compare(wanted, material, answers)
    page = write_report(out, wanted, rows, left_out)
    write_pictures(out, wanted, material, answers, rows)
    return page


def tune(
    *,
    report: Report,
    experiment: Annotated[Path, typer.Argument(help="TOML file of an experiment, with a table [search].")],
    data: options.ChestData,
    out: options.Out,
    trials: Annotated[int, typer.Option(help="Trials in all, finished ones in --out included.", min=1)] = 20,
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> Figures:
    """Search settings of the chest classifier for the best validation AUC, with Optuna.

    [search] names keys of the experiment with a range or a list of values. An interrupted search continues.
    The test split is not looked at. Leaves trials.csv, trials.png and each trial's run in --out.
    """
    needed("optuna")
    from ai_training.chest import tune as tuning

    best = tuning.tune(
        data, out, tuning.load(experiment), trials, threads=threads, cache=cache, report=report
    )
    return {"validation AUC": best.value, **best.params, "run": str(out / f"trial-{best.number}")}


def finetune(
    *,
    report: Report,
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
    resume: options.Resume = False,
) -> Figures:
    """Fine-tune a chest network on images of one's own: one finding against the rest.

    Measures on patients that were held out, and on another hospital's images. Not for diagnostic use.
    """
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
        resume=resume,
        report=report,
    )
    measured = {"held out": found.held_out, "other hospital": found.external}
    return {
        "weights": str(found.weights),
        "images": found.learned,
        target: found.positives,
        "measured": {
            name: {**asdict(one), "auc": one.auc.as_list()}
            for name, one in measured.items()
            if one is not None
        },
    }
