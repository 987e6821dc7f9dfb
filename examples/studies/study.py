#!/usr/bin/env python3
"""A study of chest X-rays: python examples/studies/study.py NAME --data DIR --out DIR."""

from pathlib import Path
from typing import Annotated

import typer
from arms import load, run_study, shipped
from figures import compare, write_pictures, write_report

from ai_training import commands
from ai_training.base import Report
from ai_training.commands import verb

app = typer.Typer()


@verb(app, "study")
def study(
    *,
    report: Report,
    name: Annotated[str, typer.Argument(help="backbones, leak, augmentation, …, or a TOML file.")],
    data: commands.SetData,
    out: commands.Out,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the first weights of arms. Default: the folder of --data.")
    ] = None,
    threads: commands.Threads = 0,
    cache: commands.Cache = None,
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
    file = Path(name) if name.endswith(".toml") else shipped(name)
    wanted = load(file, full=full)
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


if __name__ == "__main__":
    app()
