"""``ai-pipeline train detect``, ``train yolo`` and ``ai-pipeline evaluate detect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ai_training import options
from ai_training.console import errors, needed, progress

Boxes = Annotated[
    list[Path] | None,
    typer.Option(help="Further lists of boxes: BBox_List_2017.csv, or JSON of ChestX-Det. May be repeated."),
]


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("detect")(train_detect)
    train_app.command("yolo")(train_yolo)
    evaluate_app.command("detect")(evaluate_detect)


def train_detect(
    *,
    data: options.BoxData,
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    boxes: Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    head_alone: Annotated[
        bool, typer.Option("--head-alone", help="Without YOLOs: minutes, and ultralytics is not needed.")
    ] = False,
    threads: options.Threads = 0,
) -> None:
    """Fit head and YOLO on the classifier's frozen layers; five folds decide which labels get boxes.

    Six YOLOs are trained (some 5 minutes each on one core; those in OUT/yolo are not trained again). Needs
    ultralytics.

    Example: ai-pipeline train detect --data DIR --boxes ChestX_Det_train.json --out runs/detect
    """
    with errors(), progress() as report:
        if not head_alone:
            needed("ultralytics")
        import torch

        from ai_pipeline.models.engine import usable_cores
        from ai_training.detect.locating.yolo import YoloRecipe
        from ai_training.detect.ship import train_detector

        if threads:
            torch.set_num_threads(threads)
        card = options.chest_card(model, models_dir)
        yolo = None if head_alone else YoloRecipe(threads=threads or usable_cores())
        made = train_detector(data, out, card, tuple(boxes or ()), yolo, report)
    typer.echo(str(made))


def train_yolo(
    *,
    data: options.BoxData,
    out: Annotated[Path, typer.Option(help="Folder for the set, the run and yolo.onnx.")],
    boxes: Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures with boxes.")] = 20,
    size: Annotated[int, typer.Option(help="Pixels a side, a multiple of 32.")] = 224,
    thaw: Annotated[bool, typer.Option("--thaw", help="Train the trunk too.")] = False,
    threads: options.Threads = 0,
    as_json: options.AsJson = False,
) -> None:
    """Train an ultralytics YOLO alone on the train boxes and measure it on the val boxes. Needs ultralytics.

    Example: ai-pipeline train yolo --data DIR --out runs/yolo --epochs 60 --size 320
    """
    with errors(), progress() as report:
        needed("ultralytics")
        from ai_pipeline.models.engine import usable_cores
        from ai_training.detect.locating.yolo import YoloRecipe
        from ai_training.detect.locating.yolo_locator import trained_and_judged
        from ai_training.detect.text import places_as_text

        card = options.chest_card(model, models_dir)
        recipe = YoloRecipe(size=size, epochs=epochs, threads=threads or usable_cores(), frozen=not thaw)
        result = trained_and_judged(data, out, card, tuple(boxes or ()), recipe, report)
    typer.echo(json.dumps(result) if as_json else places_as_text(result))


def evaluate_detect(
    *,
    data: options.BoxData,
    split: Annotated[
        Literal["cv", "test"],
        typer.Option(help="cv: five folds of the train and val boxes; test: the shipped head."),
    ] = "cv",
    boxes: Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    yolos: Annotated[
        Path | None,
        typer.Option(
            help="With cv: folder of the folds' YOLOs (OUT/yolo of `train detect`); one that is missing is "
            "trained. Without it the folds evaluate the head alone."
        ),
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for pictures of hits, misses and false boxes.")
    ] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="With test: put the pooled figures into the card.")
    ] = False,
    threads: options.Threads = 0,
    as_json: options.AsJson = False,
) -> None:
    """Measure the boxes against each label's constant box and the centre; intervals are 95 %, by patient.

    Example: ai-pipeline evaluate detect --data DIR --split cv --yolos runs/detect/yolo --report report
    """
    if write_card and split == "cv":
        raise typer.BadParameter("`train detect` writes the figures of the folds", param_hint="--write-card")
    with errors(), progress() as report:
        import torch

        from ai_pipeline.models.engine import usable_cores
        from ai_training.detect.evaluate import evaluate
        from ai_training.detect.locating.yolo import YoloRecipe
        from ai_training.detect.ship import write_test_figures
        from ai_training.detect.text import as_text

        if threads:
            torch.set_num_threads(threads)
        card = options.chest_card(model, models_dir)
        trained = (yolos, YoloRecipe(threads=threads or usable_cores())) if yolos else None
        result = evaluate(data, split, card, tuple(boxes or ()), trained, report_to, report)
        if write_card:
            write_test_figures(card, result)
    typer.echo(json.dumps(result) if as_json else as_text(result))
