"""``ai-pipeline study``: a study that comes with the package, or one's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_training import options
from ai_training.console import errors, progress


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

    Interrupted, it goes on where it was. Leaves figures.json, report.md and a plot in --out.
    """
    with errors(), progress() as report:
        from ai_training.studies import experiment
        from ai_training.studies.compare import compare
        from ai_training.studies.report import write_report
        from ai_training.studies.run import run_study

        wanted = experiment.load(Path(name) if name.endswith(".toml") else experiment.shipped(name))
        wanted = wanted.toy() if toy else wanted
        material, answers = run_study(data, out, wanted, threads=threads, cache=cache, report=report)
        page = write_report(out, wanted, compare(wanted, material, answers))
    typer.echo(str(page))
