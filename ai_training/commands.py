"""Adds the commands of this package to ``ai-pipeline`` (entry point ``ai_pipeline.commands``)."""

import typer

from ai_pipeline.cli.models import models_app
from ai_training.cli.console import verb
from ai_training.cli.models import bundle_model, convert_model
from ai_training.cli.verbs import accept_model, evaluate_app, split, train_app

SPLIT = "Example:  ai-pipeline split --data DIR --out splits.csv   (--data splits.csv takes it)"
ACCEPT = (
    "Example:  ai-pipeline models accept d121@1 --data our-films.csv --models-dir models --out acceptance"
)

CONVERT = (
    "Example:  ai-pipeline models convert d121.pth --from timm --architecture densenet121 --labels A,B "
    "--out new"
)
BUNDLE = "Example:  ai-pipeline models bundle chest-efficientnet-lite0 --out chest-bundle"


def add_to(app: typer.Typer) -> None:
    """Add the commands that train and measure, ``models accept``, ``convert`` and ``bundle``."""
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    verb(app, "split", epilog=SPLIT)(split)
    verb(models_app, "accept", epilog=ACCEPT)(accept_model)
    models_app.command("convert", epilog=CONVERT)(convert_model)
    models_app.command("bundle", epilog=BUNDLE)(bundle_model)
