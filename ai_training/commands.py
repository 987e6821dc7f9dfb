"""The verbs of ``ai-pipeline`` that this package adds (entry point ``ai_pipeline.commands``)."""

from __future__ import annotations

import typer

from ai_pipeline.cli.models import models_app
from ai_training.acceptance import commands as acceptance
from ai_training.anatomy import commands as anatomy
from ai_training.chest.commands import export, train_app
from ai_training.despeckle import commands as despeckle
from ai_training.detect import commands as detect
from ai_training.evaluation.commands import calibrate_app, evaluate_app, split
from ai_training.fetal import commands as fetal
from ai_training.ovarian import commands as ovarian
from ai_training.studies.commands import finetune, study
from ai_training.ultrasound import commands as ultrasound


def add_to(app: typer.Typer) -> None:
    """Add ``train``, ``evaluate``, ``calibrate``, ``split``, ``export``, ``study``, ``finetune`` and the verb
    ``models accept``.
    """
    ultrasound.add_to(train_app, evaluate_app)
    detect.add_to(train_app, evaluate_app)
    anatomy.add_to(train_app, evaluate_app)
    fetal.add_to(train_app, evaluate_app)
    ovarian.add_to(train_app, evaluate_app)
    despeckle.add_to(train_app, evaluate_app)
    acceptance.add_to(models_app)
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    app.add_typer(calibrate_app, name="calibrate")
    app.command(
        "split",
        epilog="Example:  ai-pipeline split --data DIR --out splits.csv   (--data splits.csv takes it)",
    )(split)
    app.command(
        "export", epilog="Example:  ai-pipeline export --data DIR --run runs/levers/longer --out models"
    )(export)
    app.command("study", epilog="Example:  ai-pipeline study backbones --data DIR --out runs/backbones")(
        study
    )
    app.command(
        "finetune", epilog="Example:  ai-pipeline finetune --labels local.csv --target Cardiomegaly --out new"
    )(finetune)
