"""Adds the commands of this package to ``ai-pipeline`` (entry point ``ai_pipeline.commands``)."""

import typer

from ai_pipeline.cli.models import models_app
from ai_training.cli.console import verb
from ai_training.cli.models import bundle_model, convert_model
from ai_training.cli.verbs import accept_model, evaluate_app, split, train_app


def add_to(app: typer.Typer) -> None:
    """Add the commands that train and measure, ``models accept``, ``convert`` and ``bundle``."""
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    verb(
        app,
        "split",
        epilog="Example:  ai-pipeline split --data DIR --out splits.csv   (--data splits.csv takes it)",
    )(split)
    verb(
        models_app,
        "accept",
        epilog="Example:  ai-pipeline models accept d121@1 --data our-films.csv --models-dir models --out "
        "acceptance",
    )(accept_model)
    models_app.command(
        "convert",
        epilog="Example:  ai-pipeline models convert d121.pth --from timm --architecture densenet121 "
        "--labels A,B --out new",
    )(convert_model)
    models_app.command(
        "bundle", epilog="Example:  ai-pipeline models bundle chest-efficientnet-lite0 --out chest-bundle"
    )(bundle_model)
