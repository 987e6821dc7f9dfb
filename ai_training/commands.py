"""Adds the commands of this package to ``ai-pipeline`` (entry point ``ai_pipeline.commands``)."""

from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline.cli.models import ModelsDir, errors, models_app
from ai_training.cli.console import verb
from ai_training.cli.verbs import accept_model, evaluate_app, split, train_app
from ai_training.conversion.messages import Family


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


def convert_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help=".pt, .pth or .safetensors; a folder for huggingface and monai"
        ),
    ],
    *,
    family: Annotated[Family, typer.Option("--from", help="Whose it is.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    architecture: Annotated[str, typer.Option(help="timm, torchvision: the name of the network.")] = "",
    labels: Annotated[
        str, typer.Option(help="timm, torchvision: names of the outputs in order, A,B,C or a file of lines.")
    ] = "",
    label_map: Annotated[
        Path | None,
        typer.Option(
            help="TOML that says which of the node's labels each label of the model is: "
            "docs/models-convert.md."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels, if not the usual.", min=16, max=4096)
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="The outputs exclude one another; else each is a sigmoid.")
    ] = False,
    model_id: Annotated[str, typer.Option("--id", help="The model's id, if not family-architecture.")] = "",
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    licence: Annotated[str, typer.Option(help="The licence of the weights, as the card will say.")] = "",
    seconds: Annotated[int, typer.Option(help="How long it may take.", min=1)] = 600,
) -> None:
    """Make an ONNX model with a first card from a checkpoint, a folder or a bundle of others.

    Only numbers are read, in a process that reaches no other file, process or network: by bubblewrap (Debian
    package bubblewrap), else by Landlock and seccomp, and not at all where there is neither.
    """
    from ai_training.conversion import first_card
    from ai_training.conversion.convert import convert
    from ai_training.conversion.messages import Request

    with errors():
        text = Path(labels).read_text(encoding="utf-8") if labels and Path(labels).is_file() else labels
        request = Request(
            checkpoint=str(checkpoint),
            family=family,
            architecture=architecture,
            labels=tuple(name.strip() for name in text.replace("\n", ",").split(",") if name.strip()),
            size=size,
            softmax=softmax,
            seconds=seconds,
        )
        named = first_card.read(label_map) if label_map else None
        card, answer = convert(
            request, out, model_id=model_id, version=version, licence=licence, label_map=named
        )
    outputs = ", ".join(answer.outputs)
    typer.echo(f"{card}: {len(answer.labels)} labels, {answer.size} pixels, outputs {outputs}")
    typer.echo(f"It answers as the network before it does, but for {answer.difference:.1g} of the scores.")


def bundle_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    models_dir: ModelsDir = None,
) -> None:
    """Write a classifier as a bundle of MONAI, which its `monai.bundle run` runs."""
    from ai_pipeline.models.registry import find, verify
    from ai_training.conversion.bundle import write

    with errors():
        card = find(model, models_dir)
        verify(card)
        made = write(card, out)
    typer.echo(f"{made} holds {card.name}: configs, models, docs, LICENSE")
