"""``ai-pipeline evaluate``, ``calibrate`` and ``split``: what ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ai_training import options
from ai_training.console import errors, progress
from ai_training.evaluation.text import as_text

evaluate_app = typer.Typer(help="Measure a model on public data or your own.", no_args_is_help=True)
calibrate_app = typer.Typer(help="Fit a model's probabilities to your own images.", no_args_is_help=True)


@evaluate_app.command(
    "chest", epilog="Example:  ai-pipeline evaluate chest --data DIR --report report   (see report/report.md)"
)
def evaluate_chest(
    *,
    data: options.ChestData,
    split: options.Split = "test",
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for PNG plots and report.md.")
    ] = None,
    cache: options.Cache = None,
    threads: options.Threads = 0,
    as_json: options.AsJson = False,
    write_card: options.WriteCard = False,
) -> None:
    """Measure a chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    options.needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_training.evaluation.evaluate import evaluate_chest as evaluate

        model = model or options.chest_card(model, models_dir).name
        result = evaluate(
            data, split, model=model, models_dir=models_dir, cache=cache, threads=threads, report=report
        )
        if write_card:
            from ai_training.chest.export import write_metrics

            write_metrics(options.own_card(model, models_dir), result)
        if report_to is not None:
            from ai_training.evaluation.plots import write_report

            typer.echo(str(write_report(report_to, result)), err=True)
    # The curves are thousands of points that only plots need.
    figures = {key: value for key, value in result.items() if key != "curves"}
    typer.echo(json.dumps(figures) if as_json else as_text(figures))


@calibrate_app.command(
    "chest",
    epilog="Example:  ai-pipeline calibrate chest --data our-films.csv --out our-models   "
    "(then models_dir = our-models)",
)
def calibrate_chest(
    *,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for the new card and a copy of its weights.")],
    split: Annotated[str, typer.Option(help="Which split to fit to; all images without splits.")] = "val",
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    force: options.Force = False,
    threads: options.Threads = 0,
) -> None:
    """Fit a card's probabilities and thresholds to your own labelled images; writes a card of its own."""
    with errors(), progress() as report:
        from ai_training.evaluation.recalibrate import recalibrate

        card = options.chest_card(model, models_dir)
        path, rows = recalibrate(
            data, out, card, split=split, version=version, force=force, threads=threads, report=report
        )
    typer.echo(f"{'label':20}{'positives':>10}{'ECE before':>12}{'ECE after':>11}{'present from':>14}")
    for row in rows:
        after = "unchanged" if row.after is None else f"{row.after:.3f}"
        typer.echo(f"{row.name:20}{row.positives:10}{row.before:12.3f}{after:>11}{row.label.threshold:14.3f}")
    typer.echo(f"ECE after: of patients that the curve was not fitted to. {path}")


def split(
    *,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Manifest to write (CSV); --data of the other verbs takes it.")],
    train: Annotated[float, typer.Option(help="Share of the patients.")] = 0.6,
    val: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 1,
    force: options.Force = False,
) -> None:
    """Deal patients out to train, val and test, each label in equal shares; writes a manifest."""
    with errors():
        from ai_training.sets import splits
        from ai_training.sets.chest import chest_set, label_matrix

        found = chest_set(data)
        patients = [image.patient for image in found.images]
        shares = {"train": train, "val": val, "test": test}
        try:
            dealt = splits.split_by_patient(patients, label_matrix(found.images), shares, seed)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--train, --val, --test") from error
        splits.write_manifest(found, dealt, out, force=force)
    rows = splits.table(found.images, dealt, found.labels)
    typer.echo(f"{'':20}" + "".join(f"{row.name:>9}" for row in rows))
    for name, values in (("patients", [r.patients for r in rows]), ("images", [r.images for r in rows])):
        typer.echo(f"{name:20}" + "".join(f"{value:9}" for value in values))
    for label in found.labels:
        typer.echo(f"{label:20}" + "".join(f"{row.positives[label]:9}" for row in rows))
    typer.echo(
        "A model that was trained on some of these images must not be measured on them under new splits.",
        err=True,
    )
