"""The verbs ``models convert`` and ``models bundle`` of ``ai-pipeline``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_pipeline.cli.models import ModelsDir, errors

if TYPE_CHECKING:
    from ai_training.conversion.label_map import LabelMap

FAMILIES = ("torchvision", "timm", "huggingface", "monai")


def convert_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help=".pt, .pth or .safetensors; a folder for huggingface and monai"
        ),
    ],
    *,
    family: Annotated[str, typer.Option("--from", help=f"{', '.join(FAMILIES)}.")],
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
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels, if not the usual.")] = None,
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
    from pydantic import ValidationError

    from ai_training.conversion import bundle
    from ai_training.conversion import label_map as label_maps
    from ai_training.conversion.convert import convert
    from ai_training.conversion.messages import Request

    with errors():
        named: LabelMap | None = label_maps.read(label_map) if label_map else None
        if family == "monai":
            card = bundle.read(
                checkpoint, out, label_map=named, licence=licence, model_id=model_id, version=version
            )
            typer.echo(f"{card}: the network beside it is the bundle's")
            return
        try:
            request = Request.model_validate(
                {
                    "checkpoint": str(checkpoint),
                    "family": family,
                    "architecture": architecture,
                    "labels": _names(labels),
                    "size": size,
                    "softmax": softmax,
                    "seconds": seconds,
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            hint = "--from" if name == "family" else f"--{name}"
            raise typer.BadParameter(first["msg"], param_hint=hint) from error
        made = convert(request, out, model_id=model_id, version=version, licence=licence, label_map=named)
    answer = made.answer
    outputs = ", ".join(answer.outputs)
    typer.echo(f"{made.card}: {len(answer.labels)} labels, {answer.size} pixels, outputs {outputs}")
    typer.echo(f"It answers as the network in torch does, but for {answer.difference:.1g} of the scores.")


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


def _names(labels: str) -> tuple[str, ...]:
    text = Path(labels).read_text(encoding="utf-8") if labels and Path(labels).is_file() else labels
    return tuple(name.strip() for name in text.replace("\n", ",").split(",") if name.strip())
