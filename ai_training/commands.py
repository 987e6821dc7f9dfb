"""Adds the commands of this package to ``ai-pipeline`` (entry point ``ai_pipeline.commands``)."""

from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline.cli.models import errors, models_app
from ai_training.cli.console import verb
from ai_training.cli.verbs import accept_model, evaluate_app, split, train_app


def add_to(app: typer.Typer) -> None:
    """Add the commands that train and measure, ``models accept`` and ``models convert``."""
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
        epilog="Example:  ai-pipeline models convert d121.pth --architecture densenet121 "
        "--labels A,B --out new",
    )(convert_model)


def convert_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help=".pt, .pth or .safetensors; a folder of timm for Hugging Face"
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    architecture: Annotated[str, typer.Option(help="Its name in timm.")] = "",
    labels: Annotated[
        str, typer.Option(help="Names of the outputs in order, A,B,C or a file of lines.")
    ] = "",
    size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels, if not the usual.", min=16, max=4096)
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="The outputs exclude one another; else each is a sigmoid.")
    ] = False,
    model_id: Annotated[str, typer.Option("--id", help="The model's id, if not timm-architecture.")] = "",
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    licence: Annotated[str, typer.Option(help="The licence of the weights, as the card will say.")] = "",
    seconds: Annotated[int, typer.Option(help="How long it may take.", min=1)] = 600,
) -> None:
    """Make an ONNX model with a first card from a checkpoint of a network of timm.

    Only numbers are read, in a process that reaches no other file, process or network: by bubblewrap (Debian
    package bubblewrap), else by Landlock and seccomp, and not at all where there is neither.
    """
    from ai_training.convert import Request, convert

    with errors():
        text = Path(labels).read_text(encoding="utf-8") if labels and Path(labels).is_file() else labels
        request = Request(
            checkpoint=checkpoint,
            architecture=architecture,
            labels=tuple(name.strip() for name in text.replace("\n", ",").split(",") if name.strip()),
            size=size,
            softmax=softmax,
            seconds=seconds,
        )
        card, answer = convert(request, out, model_id=model_id, version=version, licence=licence)
    outputs = ", ".join(answer.outputs)
    typer.echo(f"{card}: {len(answer.labels)} labels, {answer.size} pixels, outputs {outputs}")
    typer.echo(f"It answers as the network before it does, but for {answer.difference:.1g} of the scores.")
