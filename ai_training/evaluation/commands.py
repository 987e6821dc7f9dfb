"""``ai-pipeline evaluate``, ``calibrate`` and ``split``: what ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ai_pipeline.errors import CardError
from ai_training.console import errors, progress
from ai_training.evaluation.text import as_text

evaluate_app = typer.Typer(help="Measure a model on public data or your own.", no_args_is_help=True)
calibrate_app = typer.Typer(help="Fit a model's probabilities to your own images.", no_args_is_help=True)

Data = Annotated[
    Path,
    typer.Option(
        help="The public image sets, the NIH download, or a manifest of your own (docs/training.md)."
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Id of the card, or id@version. Default: the one that chest_xray runs.")
]
ModelsDir = Annotated[Path | None, typer.Option(help="Folder with other cards and weights.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps reduced images between runs.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all that the process may use.")]


@evaluate_app.command(
    "chest",
    epilog="Example:  ai-pipeline evaluate chest --data DIR --report report   (see report/report.md)",
)
def evaluate_chest(
    *,
    data: Data,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    model: Model = None,
    models_dir: ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for PNG plots and report.md.")
    ] = None,
    cache: Cache = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Write the figures into the card in --models-dir.")
    ] = False,
) -> None:
    """Measure a chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    if split not in {"test", "val"}:
        raise typer.BadParameter("must be test or val", param_hint="--split")
    if write_card and models_dir is None:
        raise typer.BadParameter(
            "needs --models-dir: the shipped card is not written to", param_hint="--write-card"
        )
    with errors(), progress() as report:
        from ai_pipeline.models.store.folder import active
        from ai_training.evaluation.evaluate import evaluate_chest as evaluate

        model = model or active("chest_xray", models_dir).name
        result = evaluate(
            data, split, model=model, models_dir=models_dir, cache=cache, threads=threads, report=report
        )
        if write_card:
            _write_card(model, models_dir, result)
        if report_to is not None:
            from ai_training.evaluation.plots import write_report

            typer.echo(str(write_report(report_to, result)), err=True)
    # The curves are thousands of points that only plots need.
    told = {key: value for key, value in result.items() if key != "curves"}
    typer.echo(json.dumps(told) if as_json else as_text(told))


@calibrate_app.command(
    "chest",
    epilog="Example:  ai-pipeline calibrate chest --data our-films.csv --out our-models   "
    "(then models_dir = our-models)",
)
def calibrate_chest(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the new card and a copy of its weights.")],
    split: Annotated[str, typer.Option(help="Which split to fit to; all images without splits.")] = "val",
    model: Model = None,
    models_dir: ModelsDir = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the card that is in --out.")] = False,
    threads: Threads = 0,
) -> None:
    """Fit a card's probabilities and thresholds to your own labelled images; writes a card of its own."""
    with errors(), progress() as report:
        from ai_pipeline.models.store.folder import active
        from ai_training.evaluation.recalibrate import recalibrate

        model = model or active("chest_xray", models_dir).name
        path, rows = recalibrate(
            data, out, model=model, models_dir=models_dir, split=split, version=version, force=force,
            threads=threads, report=report,
        )  # fmt: skip
    typer.echo(f"{'label':20}{'positives':>10}{'ECE before':>12}{'ECE after':>11}{'present from':>14}")
    for row in rows:
        after = "kept" if row.after is None else f"{row.after:.3f}"
        typer.echo(f"{row.name:20}{row.positives:10}{row.before:12.3f}{after:>11}{row.label.threshold:14.3f}")
    typer.echo(f"ECE after: of patients that the curve was not fitted to. {path}")


def split(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Manifest to write (CSV); --data of the other verbs takes it.")],
    train: Annotated[float, typer.Option(help="Share of the patients.")] = 0.6,
    val: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace the manifest that is there.")] = False,
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


def _write_card(model: str, models_dir: Path | None, result: dict[str, Any]) -> None:
    from ai_pipeline.models.registry import SHIPPED, find
    from ai_training.chest.export import write_metrics

    path = find(model, models_dir).path
    if path.parent == SHIPPED:
        raise CardError(f"{path.name} is the shipped card: --models-dir holds none of this id")
    write_metrics(path, result)
