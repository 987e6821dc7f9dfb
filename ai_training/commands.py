"""What the commands share: options, errors as one line with an exit code, progress, figures."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ai_pipeline.errors import CardError
from ai_training.base import ExperimentError
from ai_training.text import figures_text

if TYPE_CHECKING:
    from ai_pipeline.models.registry import Card


def _with_models_dir(context: typer.Context, write_card: bool) -> bool:
    """The value of ``--write-card``; a usage error without a folder, because shipped cards are not written
    to.
    """
    if write_card and context.params["models_dir"] is None:
        raise typer.BadParameter("needs --models-dir: the shipped card is not written to")
    return write_card


SetData = Annotated[
    Path,
    typer.Option(
        help="A set as published, the public sets, or a table of your own (docs/reference/data-sets.md)."
    ),
]
PublicData = Annotated[
    Path, typer.Option(help="Folder with the public image sets (docs/reference/data-sets.md).")
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


def _how(about: str, **limits: Any) -> Any:
    """A command-line option in the help's group "How it runs". ``about``: its help; ``limits``: of its
    values.
    """
    return typer.Option(help=about, rich_help_panel="How it runs", **limits)


Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Backbone = Annotated[str, typer.Option(metavar="NAME", help="efficientnet-lite0, or any network of timm.")]
StartFrom = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="FILE|imagenet|random",
        help="What the backbone starts from: .safetensors, or .pt of numbers only. Default: imagenet for "
        "efficientnet-lite0, whose weights a package has, else random.",
    ),
]
StartLicence = Annotated[
    str, typer.Option("--weights-licence", help="The licence of that file, as the card will say.")
]
Frozen = Annotated[bool, typer.Option("--frozen", help="Train the head alone: the backbone stays as it is.")]
Split = Annotated[Literal["test", "val"], typer.Option(help="Which split to measure on.")]
WriteCard = Annotated[
    bool,
    typer.Option(
        "--write-card", help="Write the figures into the card in --models-dir.", callback=_with_models_dir
    ),
]
Drawn = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Folder for pictures: ROC, precision-recall, calibration, confusion, the worst pictures.",
    ),
]
Boxes = Annotated[
    list[Path] | None,
    typer.Option(help="Further lists of boxes: BBox_List_2017.csv, or JSON of ChestX-Det. May be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def chest_card(model: str | None, models_dir: Path | None) -> Card:
    """The model card that ``--model`` names (``model``), or that of the active classifier of chest_xray.
    Raises CardError.
    """
    from ai_pipeline.chest.card import CLASSIFIER
    from ai_pipeline.models.registry import find
    from ai_pipeline.models.store.folder import active

    return find(model, models_dir) if model else active(CLASSIFIER, models_dir)


def own_card(model: str, models_dir: Path | None) -> Path:
    """The file of the model card ``model``, which ``--write-card`` may change. Raises CardError for a shipped
    card.
    """
    from ai_pipeline.models.registry import SHIPPED, find

    path = find(model, models_dir).path
    if path.parent == SHIPPED:
        raise CardError(f"{path.name} is the shipped card: --models-dir holds none of this id")
    return path


def write_figures(model: str, models_dir: Path | None, figures: Mapping[str, Any]) -> None:
    """Put ``figures`` into the card of ``model`` that :func:`own_card` finds; other figures in it stay."""
    from ai_training.cards import add_figures

    add_figures(own_card(model, models_dir), figures)


Figures = Mapping[str, Any]
Command = TypeVar("Command", bound=Callable[..., Figures | Path | str])
AS_JSON = inspect.Parameter(
    "as_json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print one JSON object.")],
)
EXIT_CONFIG = 78  # EX_CONFIG
EXTRAS = {"ultralytics": "yolo", "tensorboard": "tensorboard", "monai": "monai", "captum": "captum"}
"""Package → the extra of this distribution that brings it."""


RUN = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, (annotation, default) in (
        {
            "device": (
                Annotated[
                    Literal["auto", "cpu", "cuda"],
                    _how("Where it trains; auto: CUDA if there is one."),
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
            "save_minutes": (Annotated[float, _how("Minutes between two checkpoints.", min=0)], 10.0),
            "accumulate": (Annotated[int, _how("Batches whose gradients make one step.", min=1)], 1),
            "patience": (
                Annotated[
                    int,
                    _how("Stop after so many validations without a better one; 0: run to the end.", min=0),
                ],
                0,
            ),
            "log": (
                Annotated[
                    Literal["none", "csv", "tensorboard"],
                    _how("Loss and figures of each step, in OUT/log; tensorboard: its package is needed."),
                ],
                "none",
            ),
        }
    ).items()
}
"""A user's choices for a run of the training engine, with the defaults of ``engine.RunOptions``."""


def verb(app: typer.Typer, name: str, *, trains: bool = False, **how: Any) -> Callable[[Command], Command]:
    """A decorator that adds a function as the verb ``name`` of ``app`` and prints what it returns. The
    function may take a ``report`` of its progress; its other parameters are the verb's options. One that
    returns figures gets the option ``--json``, one that leaves a run in ``--out`` the options of the training
    engine, one that ``trains`` and leaves none two of them. ``how``: options of ``typer``.
    """

    def added(command: Command) -> Command:
        """Register ``command`` as the verb."""
        signature = inspect.signature(command, eval_str=True)
        parameters = dict(signature.parameters)
        reports = parameters.pop("report", None) is not None
        out = parameters.get("out")
        if out is not None and out.annotation is Out:
            parameters.update(RUN)
        elif trains:
            parameters.update((name, RUN[name]) for name in ("device", "precision"))
        if signature.return_annotation == Figures:
            parameters[AS_JSON.name] = AS_JSON

        def run(**given: Any) -> None:
            """Run the command and print its result."""
            as_json = given.pop(AS_JSON.name, False)
            run_as = {name: given.pop(name) for name in RUN if name in given}
            with errors(), _carried_out(run_as), progress() as report:
                found = command(**given, **({"report": report} if reports else {}))
            if isinstance(found, Mapping):
                found = (
                    json.dumps(found)
                    if as_json
                    else figures_text({name: value for name, value in found.items() if name != "pairs"})
                )
            typer.echo(str(found))

        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
        run.__doc__ = command.__doc__
        app.command(name, **how)(run)
        return command

    return added


@contextmanager
def errors() -> Iterator[None]:
    """A context manager that prints missing data, unusable model cards and wrong experiments as one line, and
    exits with a code.
    """
    try:
        yield
    except ImportError as error:
        extra = EXTRAS.get(error.name or "", "torch")
        typer.echo(f"{error}: training and evaluation need the extra '{extra}'", err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except (CardError, ExperimentError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except OSError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(66) from error  # EX_NOINPUT of sysexits.h


@contextmanager
def _carried_out(run_as: Mapping[str, Any]) -> Iterator[None]:
    """A context manager in which runs of the training engine use the options ``run_as``; exits if a device or
    package is missing.
    """
    if not run_as:
        yield
        return
    from ai_training.engine import RunOptions, carried_out

    chosen = RunOptions(**run_as)
    chosen.fabric()
    if chosen.log == "tensorboard":
        needed("tensorboard")
    with carried_out(chosen):
        yield


def needed(package: str) -> None:
    """Raise ModuleNotFoundError at once if ``package`` is not installed, not after minutes of reading."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)


@contextmanager
def progress() -> Iterator[Callable[[float, str], None]]:
    """A context manager that gives a function for reporting progress: as a bar on a terminal, elsewhere as
    one line a minute; milestones are printed on both.
    """
    last = time.monotonic()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        task = bar.add_task("starting", total=1.0)

        def report(share: float, what: str) -> None:
            """Show the share done and the word for it; a text that ends in a line feed is a milestone."""
            nonlocal last
            now = time.monotonic()
            bar.update(task, completed=share, description=what.strip())
            if what.endswith("\n") or (not terminal and now - last >= 60.0):
                last = now
                # Before anything is done "0% images left out" would read as a share of the images.
                words = what.strip() if terminal or not share else f"{share:.0%} {what.strip()}"
                typer.echo(words, err=True)

        yield report
