"""``ai-pipeline models …``: a typer app that ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_pipeline.cli.terminal import EXIT_DATA, print_table, progress_bar
from ai_pipeline.errors import CardError, NotTrusted

if TYPE_CHECKING:
    from ai_pipeline.contract import ModelSlot, PipelineCard
    from ai_pipeline.models.card import Card, Weights

FAMILIES = ("xrv", "eva-x", "medical-mae", "torchvision", "timm", "ultralytics", "huggingface")
SHA256 = 64  # hexadecimal digits
PICKLE = (
    "A PyTorch checkpoint is a pickle, and a pickle is code: opening one from a stranger is running a "
    "stranger's program. It is opened only with --trust, in a process that reaches no other file, process "
    "or network: by bubblewrap (Debian package bubblewrap), else by Landlock and seccomp, and not at all "
    "where there is neither. Of xrv, torchvision and timm files only numbers are read; an Ultralytics file "
    "runs the code that it names."
)

models_app = typer.Typer(no_args_is_help=True, help="The models: cards, weights, and which is in use.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelsDir = Annotated[
    Path | None, typer.Option(help="Folder of one's own models; else AI_PIPELINE_MODELS_DIR.")
]
LabelMapFile = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        help="TOML that says which of the node's labels each label of the model is: docs/models-convert.md.",
    ),
]
Slot = Annotated[
    str,
    typer.Option("--pipeline", help="What is to use it: a pipeline, or its _boxes (ai-pipeline pipelines)."),
]


@models_app.command("list", epilog="Example:  ai-pipeline models list --models-dir models")
def list_models(as_json: Json = False, models_dir: ModelsDir = None) -> None:
    """List the models: what each is for, under which licence, and which pipeline uses it."""
    from ai_pipeline.models.registry import cards
    from ai_pipeline.models.store.folder import in_use
    from ai_pipeline.pipelines import slots

    with _errors():
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


@models_app.command("verify", epilog="Example:  ai-pipeline models verify --models-dir models")
def verify_models(as_json: Json = False, models_dir: ModelsDir = None) -> None:
    """Check every file of weights against the SHA-256 of its card. Exit code 65 if one is wrong."""
    from ai_pipeline.models.registry import cards, verify

    rows: list[dict[str, Any]] = []
    with _errors():
        for card in cards(models_dir):
            rows.append({"id": card.id, "version": card.version, "ok": True, "problem": ""})
            try:
                verify(card)
            except CardError as error:
                rows[-1] |= {"ok": False, "problem": str(error)}
    _print(rows, ["id", "version", "ok", "problem"], as_json=as_json)
    raise typer.Exit(0 if all(row["ok"] for row in rows) else EXIT_DATA)


@models_app.command(
    "add",
    epilog="Examples:  ai-pipeline models add https://host/chest.onnx --sha256 2a5c… --card chest.toml;"
    "  ai-pipeline models add vit-chest/ --label-map labels.toml --id vit-chest",
)
def add_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|URL",
            help="ONNX or safetensors; a folder in Hugging Face's layout or MONAI's; a URL is https.",
        ),
    ],
    card: Annotated[
        Path | None, typer.Option(help="The model's card. No card, no model: convert writes a first one.")
    ] = None,
    label_map: LabelMapFile = None,
    model_id: Annotated[str, typer.Option("--id", help="Of a folder: the model's id.")] = "",
    version: Annotated[str, typer.Option(help="Of a folder: the model's version.")] = "1",
    licence: Annotated[str, typer.Option(help="Of a folder: the licence of the weights.")] = "",
    sha256: Annotated[str, typer.Option(help="SHA-256 that the file must have; a URL needs it.")] = "",
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to the card's licence without being asked.")
    ] = False,
    most: Annotated[int, typer.Option(help="The largest file to take, in MiB.", min=1)] = 1024,
    models_dir: ModelsDir = None,
) -> None:
    """Take a model into the folder of models, beside its other versions; nothing uses it yet.

    Its licence is shown and must be agreed to. The file is refused when its SHA-256 is not the one given and
    the one in the card, or when it holds anything but a network of standard operators. A folder in Hugging
    Face's layout (config.json, model.safetensors, preprocessor_config.json) becomes ONNX with a first card.
    Of a bundle of MONAI models/model.onnx is taken, with the card in it or a first one from its metadata.
    """
    from ai_pipeline.models.store import label_map as label_maps
    from ai_pipeline.models.store.fetch import is_url

    if sha256 and (len(sha256) != SHA256 or set(sha256.lower()) - set("0123456789abcdef")):
        raise typer.BadParameter("must be 64 hexadecimal digits", param_hint="--sha256")
    store = _folder(models_dir)
    if not is_url(source) and Path(source).is_dir():
        if card is not None:
            raise typer.BadParameter("a folder gets its card from its config.json", param_hint="--card")
        with _errors(), TemporaryDirectory(prefix="ai-pipeline-") as scratch:
            from ai_pipeline.models.store import bundle

            if bundle.is_bundle(Path(source)):
                taken = bundle.read(
                    Path(source),
                    Path(scratch),
                    most=most << 20,
                    label_map=label_maps.read(label_map) if label_map else None,
                    licence=licence,
                    model_id=model_id,
                    version=version,
                )
                name = Path(source).name
                _add(str(taken.network), taken.card, store, sha256.lower(), most << 20, name, accept_licence)
                return
            made = _from_folder(
                Path(source),
                Path(scratch),
                label_map,
                sha256.lower(),
                most << 20,
                model_id=model_id,
                version=version,
                licence=licence,
            )
            _add(
                str(made.with_suffix(".onnx")), made, store, "", most << 20, Path(source).name, accept_licence
            )
        return
    if card is None:
        raise typer.BadParameter(
            "no card, no model: `ai-pipeline models convert` writes one; see docs/reference/cards.md",
            param_hint="--card",
        )
    if label_map is not None or model_id or licence:
        raise typer.BadParameter(
            "a card says label names, id and licence itself: write them there", param_hint="--card"
        )
    if is_url(source) and not sha256:
        raise typer.BadParameter("a URL needs the SHA-256 of the file behind it", param_hint="--sha256")
    with _errors():
        _add(source, card, store, sha256.lower(), most << 20, source, accept_licence)


def _from_folder(
    folder: Path, scratch: Path, label_map: Path | None, sha256: str, most: int, **named: str
) -> Path:
    """The card of the ONNX file that becomes of a folder in Hugging Face's layout, both in ``scratch``."""
    from ai_pipeline.models.store import label_map as label_maps
    from ai_pipeline.models.store.convert import HUGGINGFACE, convert, copied
    from ai_pipeline.networks.conversion import Request

    labels = label_maps.read(label_map) if label_map else None
    copy = copied(folder, scratch, most=most, sha256=sha256)
    request = Request(checkpoint=str(copy), family=HUGGINGFACE)
    return convert(request, scratch / "made", trust=False, label_map=labels, **named).card


def _add(
    source: str, card: Path, store: Path, sha256: str, most: int, origin: str, accept_licence: bool
) -> None:
    """Add the file ``source`` with its ``card``; ``origin``: where the model came from, as it was given."""
    from ai_pipeline.models.registry import load
    from ai_pipeline.models.store import folder
    from ai_pipeline.models.store.fetch import fetch, shown

    if not card.is_file():
        raise CardError(f"{card} is not a file")
    described = load(card)
    weights = _weights_of_file(described, sha256)
    folder.place_for(described, store)
    _agree(described, accept_licence)
    with folder.incoming(store) as inside, progress_bar() as update:
        added = replace(weights, path=inside / weights.path.name)
        fetch(
            source,
            added.path,
            sha256=weights.sha256,
            most=most,
            report=lambda done, total: update(completed=done, total=total, description=shown(source)),
        )
        made = folder.add(inside, card, added, store, shown(origin))
    _print_hashes(made)
    typer.echo(f"{made.name} is in {made.path.parent}. To use it: ai-pipeline models activate {made.name}")


@models_app.command("bundle", epilog="Example:  ai-pipeline models bundle xrv-all@1 --out xrv-all")
def bundle_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    models_dir: ModelsDir = None,
) -> None:
    """Write a classifier as a bundle of MONAI, which its `monai.bundle run` runs and `models add` takes."""
    from ai_pipeline.models.registry import find, verify
    from ai_pipeline.models.store.bundle import write

    with _errors():
        card = find(model, models_dir)
        verify(card)
        made = write(card, out)
    typer.echo(f"{made} holds {card.name}: configs, models, docs, LICENSE")


@models_app.command("activate", epilog="Example:  ai-pipeline models activate xrv-densenet121-res224-all@1")
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
    with _errors():
        card = find(model, store)
        try_out(pipeline.name, card.path, seconds)
        folder.activate(pipeline, chosen, card, store)
    _print_hashes(card)
    typer.echo(f"{slot} uses {card.name}; a running node from the next start of its workers on")
    if not any(label.supported for label in card.labels):
        typer.echo("No label of it is supported by figures yet, so results will hold no finding: see")
        typer.echo("`ai-pipeline evaluate chest --write-card`, or the pipeline's option all_labels.")


@models_app.command("rollback", epilog="Example:  ai-pipeline models rollback --pipeline chest_xray")
def rollback_model(slot: Slot = "chest_xray", models_dir: ModelsDir = None) -> None:
    """Let a pipeline use its previous model again. A running node does so when its workers start again."""
    from ai_pipeline.models.store import folder

    store = _folder(models_dir)
    _, chosen = _chosen(slot)
    with _errors():
        card = folder.rollback(chosen, store)
    used = f"{card.name} again" if card else "no model any more"
    typer.echo(f"{slot} uses {used}; a running node from the next start of its workers on")


@models_app.command(
    "convert",
    help=f"Make an ONNX or safetensors model with a first card from a checkpoint.\n\n{PICKLE}",
    epilog="Example:  ai-pipeline models convert d121.pt --from xrv --architecture densenet121-res224-all "
    "--trust --out new",
)
def convert_model(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help=".pt, .pth or .safetensors; a folder for huggingface")
    ],
    *,
    family: Annotated[str, typer.Option("--from", help=f"{', '.join(FAMILIES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    architecture: Annotated[
        str, typer.Option(help="xrv: the name of the weights; timm, torchvision: of the network.")
    ] = "",
    labels: Annotated[
        str, typer.Option(help="timm, torchvision: names of the outputs in order, A,B,C or a file of lines.")
    ] = "",
    label_map: LabelMapFile = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels, if not the usual.")] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="The outputs exclude one another; else each is a sigmoid.")
    ] = False,
    form: Annotated[str, typer.Option("--to", help="onnx or safetensors (DenseNet only).")] = "onnx",
    model_id: Annotated[str, typer.Option("--id", help="The model's id, if not family-architecture.")] = "",
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    licence: Annotated[str, typer.Option(help="The licence of the weights, as the card will say.")] = "",
    seconds: Annotated[int, typer.Option(help="How long it may take.", min=1)] = 600,
    trust: Annotated[bool, typer.Option("--trust", help="I trust where this file comes from.")] = False,
) -> None:
    from pydantic import ValidationError

    from ai_pipeline.models.store import label_map as label_maps
    from ai_pipeline.models.store.convert import convert
    from ai_pipeline.networks.conversion import Request

    try:
        request = Request.model_validate(
            {
                "checkpoint": str(checkpoint),
                "family": family,
                "architecture": architecture,
                "labels": _names(labels),
                "size": size,
                "softmax": softmax,
                "form": form,
                "seconds": seconds,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        options = {"family": "--from", "form": "--to"}
        name = str(first["loc"][0])
        raise typer.BadParameter(first["msg"], param_hint=options.get(name, f"--{name}")) from error
    with _errors():
        try:
            made = convert(
                request,
                out,
                trust=trust,
                model_id=model_id,
                version=version,
                licence=licence,
                label_map=label_maps.read(label_map) if label_map else None,
            )
        except NotTrusted as error:
            raise typer.BadParameter(str(error), param_hint="--trust") from error
    answer = made.answer
    outputs = ", ".join(answer.outputs)
    typer.echo(f"{made.card}: {len(answer.labels)} labels, {answer.size} pixels, outputs {outputs}")
    typer.echo(f"It answers as the network in torch does, but for {answer.difference:.1g} of the scores.")


def _weights_of_file(card: Card, sha256: str) -> Weights:
    """The card's weights with this SHA-256; its first ones where none is given."""

    if not card.weights:
        raise CardError(f"{card.path} names no weights")
    for weights in card.weights:
        if sha256 in {"", weights.sha256}:
            return weights
    raise CardError(f"{card.path} names no weights of SHA-256 {sha256}: card and file do not belong together")


def _agree(card: Card, accepted: bool) -> None:
    """Show the licence; go on only when it is agreed to."""
    typer.echo(f"{card.name}: {card.task}\nLicence: {card.licence}\nIntended use: {card.intended_use}")
    if accepted:
        return
    if not sys.stdin.isatty():
        typer.echo("agree to the licence with --accept-licence", err=True)
        raise typer.Exit(2)
    if not typer.confirm("Do you agree to this licence?"):
        raise typer.Exit(1)


def _print_hashes(card: Card) -> None:
    for weights in card.weights:
        typer.echo(f"SHA-256 {weights.sha256}  {weights.path.name}")


def _folder(models_dir: Path | None) -> Path:
    from ai_pipeline.models.registry import MODELS_DIR, from_environment

    folder = models_dir or from_environment()
    if folder is None:
        raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
    return folder


def _chosen(name: str) -> tuple[PipelineCard, ModelSlot]:
    from ai_pipeline.pipelines import slots

    known = slots()
    if name not in known:
        raise typer.BadParameter(f"only {', '.join(known)} takes another model", param_hint="--pipeline")
    return known[name]


def _names(labels: str) -> tuple[str, ...]:
    text = Path(labels).read_text(encoding="utf-8") if labels and Path(labels).is_file() else labels
    return tuple(name.strip() for name in text.replace("\n", ",").split(",") if name.strip())


@contextmanager
def _errors() -> Iterator[None]:
    """What is wrong with a card or a file, as one line and an exit code."""

    try:
        yield
    except CardError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    except OSError as error:
        typer.echo(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}", err=True)
        raise typer.Exit(EXIT_DATA) from error


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(columns, ([str(row[column]) for column in columns] for row in rows))
