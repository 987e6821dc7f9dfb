"""``ai-pipeline train detect``, ``train yolo`` and ``ai-pipeline evaluate detect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline.training.console import errors, progress

Data = Annotated[Path, typer.Option(help="The public image sets or the NIH download (docs/training.md).")]
Boxes = Annotated[
    list[Path] | None,
    typer.Option(help="Further lists of boxes: BBox_List_2017.csv, or JSON of ChestX-Det. May be repeated."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Id of the classifier's card, or id@version. Default: what chest_xray runs."),
]
ModelsDir = Annotated[Path | None, typer.Option(help="Folder with other cards and weights.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all that the process may use.")]


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("detect")(train_detect)
    train_app.command("yolo")(train_yolo)
    evaluate_app.command("detect")(evaluate_detect)


def train_detect(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    boxes: Boxes = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    threads: Threads = 0,
) -> None:
    """Fit the box head on the classifier's frozen layers; five folds decide which labels get boxes.

    Example: ai-pipeline train detect --data DIR --boxes ChestX_Det_train.json --out runs/detect
    """
    with errors(), progress() as report:
        import torch

        from ai_pipeline.registry import find
        from ai_pipeline.store.folder import active
        from ai_pipeline.training.detect.ship import train_detector

        if threads:
            torch.set_num_threads(threads)
        card = find(model, models_dir) if model else active("chest_xray", models_dir)
        made = train_detector(data, out, card, tuple(boxes or ()), report)
    typer.echo(str(made))


def train_yolo(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the set, the run and yolo.onnx.")],
    boxes: Boxes = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures with boxes.")] = 40,
    size: Annotated[int, typer.Option(help="Pixels a side, a multiple of 32.")] = 320,
    thaw: Annotated[bool, typer.Option("--thaw", help="Train the trunk too.")] = False,
    in_folds: Annotated[
        bool, typer.Option("--folds", help="Train five, in the folds of `evaluate detect --split cv`.")
    ] = False,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train an ultralytics YOLO on the train boxes and measure it on the val boxes. Needs ultralytics.

    With --folds five are trained and judged as all other boxes are; one that is there is not trained again.

    Example: ai-pipeline train yolo --data DIR --out runs/yolo --folds
    """
    with errors(), progress() as report:
        from ai_pipeline.engine import usable_cores
        from ai_pipeline.registry import find
        from ai_pipeline.store.folder import active
        from ai_pipeline.training.detect.text import as_text, places_as_text
        from ai_pipeline.training.detect.yolo import Recipe
        from ai_pipeline.training.detect.yolojudge import judged_in_folds, trained_and_judged

        card = find(model, models_dir) if model else active("chest_xray", models_dir)
        recipe = Recipe(size=size, epochs=epochs, threads=threads or usable_cores(), frozen=not thaw)
        judged, shown = (judged_in_folds, as_text) if in_folds else (trained_and_judged, places_as_text)
        result = judged(data, out, card, tuple(boxes or ()), recipe, report)
    typer.echo(json.dumps(result) if as_json else shown(result))


def evaluate_detect(
    *,
    data: Data,
    split: Annotated[
        str, typer.Option(help="cv: five folds of the train and val boxes; test: the shipped head.")
    ] = "cv",
    boxes: Boxes = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for pictures of hits, misses and false boxes.")
    ] = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the boxes against each label's constant box and the centre; intervals are 95 %, by patient.

    Example: ai-pipeline evaluate detect --data DIR --split test --report report
    """
    if split not in {"cv", "test"}:
        raise typer.BadParameter("must be cv or test", param_hint="--split")
    with errors(), progress() as report:
        import torch

        from ai_pipeline.registry import find
        from ai_pipeline.store.folder import active
        from ai_pipeline.training.detect.evaluate import evaluate
        from ai_pipeline.training.detect.text import as_text

        if threads:
            torch.set_num_threads(threads)
        card = find(model, models_dir) if model else active("chest_xray", models_dir)
        result = evaluate(data, split, card, tuple(boxes or ()), report_to, report)
    typer.echo(json.dumps(result) if as_json else as_text(result))
