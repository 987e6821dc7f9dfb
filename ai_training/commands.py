"""Adds the commands of this package to ``ai-pipeline`` (entry point ``ai_pipeline.commands``)."""

from __future__ import annotations

import typer

from ai_pipeline.cli.models import models_app
from ai_training.cli.console import verb
from ai_training.cli.measure import accept_model, calibrate_app, evaluate_app, split
from ai_training.cli.study import finetune, study, tune
from ai_training.cli.train import export, train_app

SPLIT = "Example:  ai-pipeline split --data DIR --out splits.csv   (--data splits.csv takes it)"
EXPORT = "Example:  ai-pipeline export --data DIR --run runs/levers/longer --out models"
STUDY = "Example:  ai-pipeline study backbones --data DIR --out runs/backbones"
FINETUNE = "Example:  ai-pipeline finetune --labels local.csv --target Cardiomegaly --out new"
TUNE = "Example:  ai-pipeline tune search.toml --data DIR --out runs/tune --trials 20   (docs/training.md)"
ACCEPT = (
    "Example:  ai-pipeline models accept eva-x-small@1 --data our-films.csv --models-dir models "
    "--out acceptance"
)


def add_to(app: typer.Typer) -> None:
    """Add the commands that train and measure, and ``models accept``."""
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    app.add_typer(calibrate_app, name="calibrate")
    verb(app, "split", epilog=SPLIT)(split)
    verb(app, "export", epilog=EXPORT)(export)
    verb(app, "study", epilog=STUDY)(study)
    verb(app, "tune", epilog=TUNE)(tune)
    verb(app, "finetune", epilog=FINETUNE)(finetune)
    verb(models_app, "accept", epilog=ACCEPT)(accept_model)
