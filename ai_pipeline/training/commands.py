"""``ai-pipeline train …`` and ``ai-pipeline evaluate …``: typer apps that ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ai_pipeline.registry import CardError

train_app = typer.Typer(help="Train a model; leaves its card and weights in a folder.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a shipped model on public data.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="Folder with the public image sets (docs/training.md).")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps reduced images between runs.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all that the process may use.")]
EXIT_DATA = 66  # EX_NOINPUT of sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG


@train_app.command("chest")
def train_chest(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, card and weights.")],
    epochs: Annotated[float, typer.Option(help="Passes over the training images.")] = 5.0,
    iterations: Annotated[int | None, typer.Option(help="Steps of 32 images; replaces --epochs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train the chest X-ray classifier. Then: ai-pipeline evaluate chest --models-dir OUT --write-card."""
    with _errors(), _progress() as report:
        from ai_pipeline.training import chest

        card = chest.train(
            data,
            out,
            epochs=epochs,
            iterations=iterations,
            seed=seed,
            threads=threads,
            resume=resume,
            report=report,
        )
    typer.echo(str(card))


@evaluate_app.command("chest")
def evaluate_chest(
    *,
    data: Data,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    models_dir: Annotated[Path | None, typer.Option(help="Folder with another card and weights.")] = None,
    cache: Cache = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Write the figures into the card in --models-dir.")
    ] = False,
) -> None:
    """Measure the chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    if split not in {"test", "val"}:
        raise typer.BadParameter("must be test or val", param_hint="--split")
    if write_card and models_dir is None:
        raise typer.BadParameter(
            "needs --models-dir: the shipped card is not written to", param_hint="--write-card"
        )
    with _errors(), _progress() as report:
        from ai_pipeline.training.evaluate import evaluate_chest as evaluate

        result = evaluate(data, split, models_dir=models_dir, cache=cache, threads=threads, report=report)
    if write_card and models_dir is not None:
        from ai_pipeline.training.export import ID, write_metrics

        write_metrics(models_dir / f"{ID}.toml", result)
    typer.echo(json.dumps(result) if as_json else _as_text(result))


@contextmanager
def _errors() -> Iterator[None]:
    """Missing data and unusable cards as one line and an exit code, everything else as it is."""
    try:
        yield
    except ImportError as error:
        typer.echo(f"{error}: training and evaluation need the extra 'torch'", err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except CardError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except OSError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error


@contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal; elsewhere only the lines that are worth keeping."""
    if not sys.stderr.isatty():
        yield _print_milestones
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def report(share: float, what: str) -> None:
            bar.update(task, completed=share, description=what.strip())
            _print_milestones(share, what)

        yield report


def _print_milestones(_share: float, what: str) -> None:
    if what.endswith("\n"):
        typer.echo(what.strip(), err=True)


def _as_text(result: dict[str, Any]) -> str:
    main = result["cxr_nih"]
    lines = [
        f"{result['model']['id']} {result['model']['version']} on cxr_nih {result['split']}: "
        f"{main['images']} images, {main['patients']} patients",
        f"mean AUC of {len(main['labels_counted'])} labels  {_interval(main['mean_auc'])}",
    ]
    for name, title in (("hog", "HOG"), ("age_sex_view", "age, sex, view")):
        auc, difference = _interval(main[f"mean_auc_{name}"]), _interval(main[f"difference_to_{name}"])
        lines.append(f"  {title}: {auc}, difference {difference}")
    lines.append(f"{'label':20}{'n':>4}  {'AUC':24}{'AP':>6}{'sens':>7}{'spec':>7}{'ECE':>7}")
    lines += [
        f"{row['label']:20}{row['positives']:4}  {_interval(row['auc']):24}{row['average_precision']:6.2f}"
        f"{row['sensitivity_present']:7.2f}{row['specificity_present']:7.2f}{row['ece']:7.3f}"
        for row in main["labels"]
    ]
    for name, row in result["boxes"].items():
        if isinstance(row, dict):
            lines.append(
                f"boxes {name}: {_interval(row['model'])}, constant {_interval(row['constant'])}, "
                f"difference {_interval(row['difference'])}"
            )
    lines += [f"gate refuses {name}: {share:.3f}" for name, share in result["gate"]["refused"].items()]
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
