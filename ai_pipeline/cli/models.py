"""``ai-pipeline pipelines``: what is installed and its cards; ``models …``: models of the site."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_pipeline.cli.terminal import EXIT_CONFIG, EXIT_DATA, print_table, print_text
from ai_pipeline.errors import CardError


def pipelines(
    name: Annotated[str, typer.Argument(help="One pipeline, with its options.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed pipelines, or show one with its options."""
    from ai_pipeline.errors import PluginError
    from ai_pipeline.pipelines import PIPELINES, card_of, cards

    if name and name not in PIPELINES:
        raise typer.BadParameter(f"choose from {', '.join(sorted(PIPELINES))}", param_hint="NAME")
    try:
        found = [card_of(name)] if name else list(cards())
    except PluginError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    if as_json:
        print(json.dumps([_card_record(card) for card in found]))
    elif name:
        _print_card(found[0])
    else:
        print_table(
            ("name", "version", "what it does"), ((card.name, card.version, card.about) for card in found)
        )


def _card_record(card: PipelineCard) -> dict[str, Any]:
    """A pipeline's card as a JSON object."""
    return {
        "name": card.name,
        "version": card.version,
        "about": card.about,
        "intended_use": card.intended_use,
        "modalities": sorted(card.modalities),
        "options": [asdict(option) | {"kind": option.kind.__name__} for option in card.options.listed()],
        "measures": [measure.name for measure in card.measures],
        "outlines": [outline.meaning for outline in card.outlines],
        "slots": [slot.name for slot in card.slots],
    }


def _print_card(card: PipelineCard) -> None:
    """Print a pipeline's card: what it is for, its options, and what it measures and outlines."""
    print_text(f"{card.name} {card.version}\n{card.about}\n{card.intended_use}".rstrip())
    rows = [
        (
            option.key,
            "required" if option.required else f"{option.default} {option.unit}".strip(),
            option.label,
            option.help,
        )
        for option in card.options.listed()
    ]
    if rows:
        print_table(("option", "default", "what it is", ""), rows)
    for head, names in (
        ("Measures", [measure.name for measure in card.measures]),
        ("Outlines", [outline.meaning for outline in card.outlines]),
        ("Models that can be exchanged", [slot.name for slot in card.slots]),
    ):
        if names:
            print_text(f"{head}: {', '.join(names)}.")
    print_text("Not for diagnostic use.")


if TYPE_CHECKING:
    from ai_pipeline.contract import ModelSlot, PipelineCard
    from ai_pipeline.models.registry import Card

models_app = typer.Typer(no_args_is_help=True, help="The models: cards, weights, and which is in use.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelsDir = Annotated[
    Path | None, typer.Option(help="Folder of one's own models; else AI_PIPELINE_MODELS_DIR.")
]
Slot = Annotated[
    str,
    typer.Option("--pipeline", help="What is to use it: a pipeline (ai-pipeline pipelines)."),
]


@models_app.command("list", epilog="Example:  ai-pipeline models list --models-dir models")
def list_models(as_json: Json = False, models_dir: ModelsDir = None) -> None:
    """List the models: what each is for, under which licence, and which pipeline uses it."""
    from ai_pipeline.models.registry import cards
    from ai_pipeline.models.store.folder import in_use
    from ai_pipeline.pipelines import slots

    with errors():
        cards_in_use = {name: in_use(slot, models_dir) for name, (_, slot) in slots().items()}
        used = {name: card.path for name, card in cards_in_use.items() if card is not None}
        rows = [
            {
                "id": card.id,
                "version": card.version,
                "task": card.task,
                "architecture": card.architecture,
                "licence": card.licence,
                "calibrated": card.calibrated,
                "active": " ".join(pipeline for pipeline, path in used.items() if path == card.path),
                "weights": [{"file": str(w.path.name), "sha256": w.sha256} for w in card.weights],
            }
            for card in cards(models_dir)
        ]
    _print(rows, ["id", "version", "active", "task", "licence"], as_json=as_json)


@models_app.command(
    "add",
    epilog="Example:  ai-pipeline models add chest.onnx --card chest.toml --models-dir models",
)
def add_model(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", dir_okay=False, exists=True, help="The network in ONNX.")
    ],
    card: Annotated[
        Path, typer.Option(dir_okay=False, exists=True, help="Its card: `models convert` writes a first one.")
    ],
    sha256: Annotated[str, typer.Option(help="SHA-256 that the file must have.")] = "",
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to the card's licence without being asked.")
    ] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Add a model to the folder of models, beside its other versions; no pipeline uses it yet.

    Its licence is shown and must be agreed to. The file is refused when its SHA-256 is not the one given and
    the one in the card, or when it holds anything but a network of standard operators.
    """
    if sha256 and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise typer.BadParameter("must be 64 hexadecimal digits", param_hint="--sha256")
    store = _folder(models_dir)
    with errors():
        _add(source, card, store, sha256.lower(), accept_licence)


def _add(source: Path, card: Path, store: Path, sha256: str, accept_licence: bool) -> None:
    """Add the model file ``source`` with its model card file ``card`` to the folder ``store``. ``sha256``:
    the hash that the file must have, "" for that of the card; ``accept_licence``: do not ask the user.
    """
    from ai_pipeline.models.registry import load, read
    from ai_pipeline.models.store import folder

    described = load(card)
    if not described.weights:
        raise CardError(f"{card} names no weights")
    # Its first ones where no SHA-256 is given.
    weights = next((one for one in described.weights if sha256 in {"", one.sha256}), None)
    if weights is None:
        raise CardError(f"{card} names no weights of SHA-256 {sha256}: card and file do not belong together")
    folder.place_for(described, store)
    _agree(described, accept_licence)
    with folder.incoming(store) as inside:
        added = replace(weights, path=inside / weights.path.name)
        shutil.copyfile(source, added.path)
        read(added)  # and so its hash is checked
        made = folder.add(inside, card, added, store, source.name)
    _print_hashes(made)
    typer.echo(f"{made.name} is in {made.path.parent}. To use it:")
    typer.echo(f"ai-pipeline models activate {made.name} --models-dir {store}")


@models_app.command("activate", epilog="Example:  ai-pipeline models activate d121@1 --models-dir models")
def activate_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    slot: Slot = "chest_xray",
    seconds: Annotated[int, typer.Option(help="How long trying it may take.", min=1)] = 120,
    models_dir: ModelsDir = None,
) -> None:
    """Let a pipeline use a model that runs. A running node does so when its workers start again."""
    from ai_pipeline.models.registry import find
    from ai_pipeline.models.store import folder
    from ai_pipeline.pipelines import try_out

    store = _folder(models_dir)
    pipeline, chosen = _chosen(slot)
    with errors():
        card = find(model, store)
        try_out(pipeline.name, card.path, seconds)
        folder.activate(chosen, card, store)
    _print_hashes(card)
    typer.echo(f"{slot} uses {card.name}; a running node from the next start of its workers on")
    if not any(label.supported for label in card.labels):
        typer.echo("No label of it is supported by figures yet, so results will hold no finding: see")
        typer.echo("`ai-pipeline evaluate chest --write-card`.")


@models_app.command("rollback", epilog="Example:  ai-pipeline models rollback --pipeline chest_xray")
def rollback_model(slot: Slot = "chest_xray", models_dir: ModelsDir = None) -> None:
    """Let a pipeline use its previous model again. A running node does so when its workers start again."""
    from ai_pipeline.models.store import folder

    store = _folder(models_dir)
    _, chosen = _chosen(slot)
    with errors():
        card = folder.rollback(chosen, store)
    used = f"{card.name} again" if card else "no model any more"
    typer.echo(f"{slot} uses {used}; a running node from the next start of its workers on")


def _agree(card: Card, accepted: bool) -> None:
    """Show the licence of the model, and exit unless the user agrees to it or ``accepted`` is set."""
    typer.echo(f"{card.name}: {card.task}\nLicence: {card.licence}\nIntended use: {card.intended_use}")
    if accepted:
        return
    if not sys.stdin.isatty():
        typer.echo("agree to the licence with --accept-licence", err=True)
        raise typer.Exit(2)
    if not typer.confirm("Do you agree to this licence?"):
        raise typer.Exit(1)


def _print_hashes(card: Card) -> None:
    """Print the SHA-256 of each file of weights."""
    for weights in card.weights:
        typer.echo(f"SHA-256 {weights.sha256}  {weights.path.name}")


def _folder(models_dir: Path | None) -> Path:
    """The models folder: ``models_dir``, else the one in the environment. Raises typer.BadParameter if there
    is neither.
    """
    from ai_pipeline.models.registry import MODELS_DIR, from_environment

    folder = models_dir or from_environment()
    if folder is None:
        raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
    return folder


def _chosen(name: str) -> tuple[PipelineCard, ModelSlot]:
    """The pipeline and the slot of this name. Raises typer.BadParameter."""
    from ai_pipeline.pipelines import slots

    known = slots()
    if name not in known:
        raise typer.BadParameter(f"only {' and '.join(known)} take another model", param_hint="--pipeline")
    return known[name]


@contextmanager
def errors() -> Iterator[None]:
    """A context manager that prints a CardError or OSError as one line and exits with the matching code."""

    try:
        yield
    except CardError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    except OSError as error:
        typer.echo(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}", err=True)
        raise typer.Exit(EXIT_DATA) from error


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as JSON or as a table."""
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(columns, ([str(row[column]) for column in columns] for row in rows))
