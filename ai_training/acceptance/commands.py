"""``ai-pipeline models accept``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_training import options
from ai_training.console import errors, progress


def add_to(models_app: typer.Typer) -> None:
    """Add ``accept`` to the verbs of ``ai-pipeline models``."""
    models_app.command(
        "accept",
        epilog="Example:  ai-pipeline models accept eva-x-small@1 --data our-films.csv --models-dir models "
        "--out acceptance",
    )(accept_model)


def accept_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for acceptance.html, the page to sign.")] = Path(
        "acceptance"
    ),
    split: Annotated[str, typer.Option(help="Which split to use; all images without splits.")] = "val",
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    models_dir: options.ModelsDir = None,
    threads: options.Threads = 0,
) -> None:
    """The site's acceptance test: fit a model to your labelled images, measure it, write a page to sign.

    Half of the patients fit calibration, thresholds and gate, the others measure: AUC with intervals, false
    calls. The new card stands beside the original; nothing uses it until `ai-pipeline models activate`.
    """
    with errors(), progress() as report:
        from ai_pipeline.models.registry import MODELS_DIR, find, from_environment
        from ai_training.acceptance.accept import accept

        store = models_dir or from_environment()
        if store is None:
            raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
        card = find(model, store if store.is_dir() else None)
        named = version or f"{card.version}-site"
        made = accept(card, data, store, out, split=split, version=named, threads=threads, report=report)
    typer.echo(f"{made.page}: read it, sign it, then: ai-pipeline models activate {made.card.name}")
    shown = [label.name for label in made.card.labels if label.supported]
    typer.echo(f"Findings that it will show: {', '.join(shown) or 'none, it tells none better than chance'}")
