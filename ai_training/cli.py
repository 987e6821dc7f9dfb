"""The commands ``ai-pipeline train``, ``evaluate``, ``split``, ``models accept`` and ``models convert``.

What they share is in ``ai_training/commands.py``. :func:`add_to` adds them to ``ai-pipeline`` (entry point
``ai_pipeline.commands``).
"""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal, cast

import typer

from ai_pipeline.cli.models import errors as store_errors
from ai_pipeline.cli.models import models_app
from ai_training.base import Report
from ai_training.commands import (
    Backbone,
    Boxes,
    Cache,
    Drawn,
    Figures,
    Force,
    Frozen,
    Iterations,
    Model,
    ModelsDir,
    NetworkThreads,
    Out,
    PublicData,
    Resume,
    Seed,
    SetData,
    Split,
    StartFrom,
    StartLicence,
    Threads,
    Workers,
    WriteCard,
    chest_card,
    needed,
    own_card,
    verb,
    write_figures,
)

train_app = typer.Typer(help="Train a model; leaves its card and weights in a folder.", no_args_is_help=True)


@verb(train_app, "chest")
def train_chest(
    *,
    report: Report,
    data: SetData,
    out: Out,
    experiment: Annotated[
        str, typer.Option("--experiment", help="A shipped experiment's name, or a TOML file.")
    ] = "chest",
    iterations: Annotated[
        int | None, typer.Option(help="Steps; replaces the experiment's own length (to try things).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; replaces the experiment's own.")] = None,
    backbone: Backbone = "",
    weights: StartFrom = "",
    weights_licence: StartLicence = "",
    frozen: Frozen = False,
    threads: Threads = 0,
    cache: Cache = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Fit no gate: to try things; the card says so.")
    ] = False,
    resume: Resume = False,
) -> Path:
    """Train the chest X-ray classifier. Uses a GPU when there is one.

    Examples: ai-pipeline train chest --data DIR --out runs/chest

    ai-pipeline train chest --data DIR --out runs/d121 --backbone densenet121 --weights densenet121.pth

    Then: ai-pipeline evaluate chest --data DIR --models-dir runs/chest --write-card
    """
    from ai_training.chest.card import ship
    from ai_training.chest.experiment import load, shipped
    from ai_training.chest.training import fit

    made = load(Path(experiment) if experiment.endswith(".toml") else shipped(experiment))
    if seed is not None:
        made = made.changed(made.name, {"seed": seed})
    if iterations is not None:
        made = made.changed(made.name, {"schedule": {"iterations": iterations}})
    if backbone or weights or frozen:
        made = made.on_backbone(backbone, weights, weights_licence, frozen=frozen)
    run = fit(data, out, made, resume=resume, threads=threads, cache=cache, report=report)
    return ship(data, out, run, cache or out / "cache", report, gated=not no_gate)


@verb(train_app, "detect")
def train_detect(
    *,
    report: Report,
    data: SetData,
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    boxes: Boxes = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    yolo: Annotated[
        bool,
        typer.Option(
            "--yolo",
            help="Train a YOLO in place of the head, by ultralytics: six, some 10 minutes each on one core; "
            "those in OUT/yolo are not trained again.",
        ),
    ] = False,
    threads: Threads = 0,
) -> Path:
    """Fit a box head on the classifier's frozen layers; five folds decide which labels get boxes.

    Example: ai-pipeline train detect --data DIR --boxes ChestX_Det_train.json --out runs/detect
    """
    if yolo:
        needed("ultralytics")
    from ai_training.detect import recipe, train_detector

    card = chest_card(model, models_dir)
    return train_detector(data, out, card, boxes or (), recipe(threads, yolo=yolo), report)


@verb(train_app, "ovarian")
def train_ovarian(
    *,
    report: Report,
    data: SetData,
    out: Out,
    seeds: Annotated[int, typer.Option(help="Runs of every fold, with seeds from 1 on.", min=1)] = 1,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training frames; the outline in proportion. Default: the shipped recipe's."
        ),
    ] = None,
    backbone: Backbone = "",
    weights: StartFrom = "",
    weights_licence: StartLicence = "",
    frozen: Frozen = False,
    threads: NetworkThreads = 2,
) -> Path:
    """Train the classifier of ovarian frames: 5 folds by group, then on all frames; gate, outline, card.

    Complete parts in --out are not trained again, so an interrupted run can continue.

    Example: ai-pipeline train ovarian --data DIR --out runs/ovarian --seeds 3
    """
    from ai_training.ovarian.card import train_and_ship
    from ai_training.ovarian.training import OvarianRecipe

    recipe = OvarianRecipe().on_backbone(backbone, weights, weights_licence, frozen=frozen)
    return train_and_ship(data, out, recipe, epochs, range(1, seeds + 1), threads, report)


def _train_by_recipe(name: str, steps: int, about: str, recipe: str, trained: str) -> None:
    """Add the verb ``name`` that trains a network. ``steps``: default of ``--iterations``; ``about``: its
    help; ``recipe``, ``trained``: the class of its settings and the function that trains, as
    ``module:name``.
    """

    def train(
        *,
        report: Report,
        data: SetData,
        out: Out,
        iterations: Iterations = steps,
        seed: Seed = 1,
        threads: NetworkThreads = 2,
        workers: Workers = 1,
        resume: Resume = False,
    ) -> Path:
        how = resolve_name(recipe)(iterations=iterations, seed=seed, threads=threads, workers=workers)
        return cast("Path", resolve_name(trained)(data, out, how, resume=resume, report=report))

    train.__doc__ = f"{about}\n\nExample: ai-pipeline train {name} --data DIR --out runs/{name}"
    verb(train_app, name)(train)


_train_by_recipe(
    "marks",
    6000,
    "Train the detector of burned-in annotation in ultrasound pictures.",
    "ai_training.ultrasound.marks:MarkRecipe",
    "ai_training.ultrasound.marks:train",
)
_train_by_recipe(
    "anatomy",
    2000,
    "Train the network that outlines heart and lungs.",
    "ai_training.anatomy:AnatomyRecipe",
    "ai_training.anatomy:train",
)
_train_by_recipe(
    "fetal",
    2000,
    "Train the network that outlines fetal heads, and fit its gate.",
    "ai_training.fetal:HeadRecipe",
    "ai_training.fetal:train_and_ship",
)


evaluate_app = typer.Typer(help="Measure a model on public data or your own.", no_args_is_help=True)
FINDER = "ultrasound-marks-unet"
Pictures = Annotated[int, typer.Option(help="Synthetic pictures to measure on; 0 for `marks`: none.")]
PolicyName = Annotated[
    Literal["research", "clinical"], typer.Option(help="What has to go: all, or what names the patient.")
]


@verb(
    evaluate_app,
    "chest",
    epilog="Example:  ai-pipeline evaluate chest --data DIR",
)
def evaluate_chest(
    *,
    report: Report,
    data: SetData,
    split: Split = "test",
    model: Model = None,
    models_dir: ModelsDir = None,
    cache: Cache = None,
    threads: Threads = 0,
    drawn: Drawn = None,
    choose_points: Annotated[
        bool,
        typer.Option(
            "--choose-points",
            help="Choose the thresholds of the operating points anew, on the split val. Without it those of "
            "the card are measured, if it has any.",
        ),
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="With --choose-points: a label that keeps the card's threshold at `specific`. Repeatable.",
        ),
    ] = None,
    write_card: WriteCard = False,
) -> Figures:
    """Measure a chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    if keep and not choose_points:
        raise typer.BadParameter("nothing is chosen without --choose-points", param_hint="--keep")
    from ai_training.chest.card import write_metrics
    from ai_training.evaluation.classifier import evaluate_chest as evaluate

    model = model or chest_card(model, models_dir).name
    result = evaluate(
        data,
        split,
        model=model,
        models_dir=models_dir,
        cache=cache,
        threads=threads,
        drawn=drawn,
        anew=choose_points,
        kept=keep or (),
        report=report,
    )
    if write_card:
        write_metrics(own_card(model, models_dir), result)
    return result


@verb(evaluate_app, "marks")
def evaluate_marks(
    *,
    report: Report,
    data: PublicData,
    masks: Annotated[
        Path | None, typer.Option(help="Folder with the hand-drawn test frames (tests/data/marks).")
    ] = None,
    split: Split = "test",
    style: Annotated[Literal["held-out", "train"], typer.Option(help="Fonts and layouts.")] = "held-out",
    pictures: Pictures = 200,
    policy: PolicyName = "research",
    models_dir: ModelsDir = None,
    write_card: WriteCard = False,
) -> Figures:
    """Measure the mark detector, and all that the node removes, on synthetic overlays and on real frames.

    With --masks on the hand-drawn test frames; with --split val on the coloured marks of validation frames,
    which choices are made by. Intervals are 95 %, over frames.
    """
    if masks is not None and split != "test":
        raise typer.BadParameter("the hand-drawn frames are test frames", param_hint="--split")
    from ai_training.ultrasound.removal import evaluate_removal

    result = evaluate_removal(
        data,
        models_dir,
        masks=masks,
        split=split,
        style=style,
        pictures=pictures,
        policy=policy,
        report=report,
    )
    if write_card:
        write_figures(FINDER, models_dir, result["figures"])
    return result


@verb(evaluate_app, "legible")
def evaluate_legible(
    *,
    report: Report,
    data: PublicData,
    pictures: Annotated[int, typer.Option(help="Pictures with a name, date or number burned in.")] = 500,
    first: Annotated[
        int, typer.Option(help="Number of the first: from another one on others are drawn.")
    ] = 0,
    split: Split = "test",
    policy: PolicyName = "research",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    models_dir: ModelsDir = None,
    write_card: WriteCard = False,
) -> Figures:
    """Burn names, dates and numbers in, clean as the node cleans, and try to read them: two OCR engines.

    Counts with exact upper 95 % bounds. About 3 s a picture on one core.
    """
    from ai_training.ultrasound.legible import evaluate

    result = evaluate(data, split, policy, models_dir, range(first, first + pictures), workers, report)
    if write_card:
        told = {name: value for name, value in result.items() if name not in ("what", "reasons")}
        write_figures(FINDER, models_dir, {f"legible_{policy}": told})
    return result


@verb(evaluate_app, "inpaint")
def evaluate_inpaint(
    *,
    report: Report,
    data: PublicData,
    split: Split = "test",
    pictures: Pictures = 200,
    threads: NetworkThreads = 2,
    policy: PolicyName = "research",
    models_dir: ModelsDir = None,
    write_card: WriteCard = False,
) -> Figures:
    """Compare the ways of filling holes, with a given mask and with all that the node's plan removes.

    Networks whose cards are not there are left out; without a mark detector so is the detected mask.
    Intervals are 95 %, by bootstrap over frames.
    """
    from ai_training.ultrasound import filling, removal

    known = filling.cards_with_compared(models_dir)
    result = filling.evaluate_inpaint(
        data,
        filling.inpainters(known, threads),
        removal.planned_by(models_dir, policy) if FINDER in known else None,
        pictures=pictures,
        split=split,
        report=report,
    )
    if write_card:
        for card_id, figures in filling.inpaint_figures(result).items():
            if card_id in known:
                write_figures(card_id, models_dir, figures)
    return result


@verb(evaluate_app, "cleaning")
def evaluate_cleaning(
    *,
    report: Report,
    data: PublicData,
    content: Annotated[Path, typer.Option(help="Folder with what was marked by hand on real frames.")] = Path(
        "tests/data/content"
    ),
    masks: Annotated[Path, typer.Option(help="Folder with the hand-drawn test frames.")] = Path(
        "tests/data/marks"
    ),
    policy: PolicyName = "clinical",
    pictures: Annotated[
        int,
        typer.Option(min=0, help="Pictures with drawn marks, on which filling is measured in dB; 0: none."),
    ] = 100,
    models_dir: ModelsDir = None,
) -> Figures:
    """Clean real frames; count the removed pixels of waves, flow, bars, rulers, calipers and text.

    The pixels under a real mark are unknown, so the filling is measured on clean frames with drawn marks.

    Run where the repository is checked out: the marks lie among its tests. Intervals are 95 %, by bootstrap
    over patients, or over frames where the patient is not known.

    Example: ai-pipeline evaluate cleaning --data ../shared/data
    """
    from ai_training.ultrasound.cleaning import evaluate_cleaning as evaluate

    return evaluate(data, content, masks, models_dir, policy, pictures=pictures, report=report)


@verb(evaluate_app, "detect")
def evaluate_detect(
    *,
    report: Report,
    data: SetData,
    split: Annotated[
        Literal["cv", "test"],
        typer.Option(help="cv: five folds of the train and val boxes; test: the shipped network."),
    ] = "cv",
    boxes: Boxes = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    yolos: Annotated[
        Path | None,
        typer.Option(
            help="With cv: folder of the folds' YOLOs (OUT/yolo of `train detect --yolo`); one that is "
            "missing is trained. Without it the folds evaluate the head."
        ),
    ] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="With test: put the pooled figures into the card.")
    ] = False,
    threads: Threads = 0,
) -> Figures:
    """Measure the boxes against each label's constant box and the centre; intervals are 95 %, by patient.

    Example: ai-pipeline evaluate detect --data DIR --split cv --yolos runs/detect/yolo
    """
    if write_card and split == "cv":
        raise typer.BadParameter("`train detect` writes the figures of the folds", param_hint="--write-card")
    from ai_training.detect import FOLDS, evaluate, recipe, write_test_figures

    if split == "cv" and yolos is not None and len(list(yolos.glob("fold-*/yolo.onnx"))) < FOLDS:
        needed("ultralytics")
    card, how = chest_card(model, models_dir), recipe(threads, yolo=yolos is not None)
    trained = (yolos, how) if yolos and how else None
    result = evaluate(data, split, card, boxes or (), trained, report)
    if write_card:
        write_test_figures(card, result)
    return result


def _evaluate_outlines(name: str, about: str) -> None:
    """Add the verb ``name`` that measures a network for outlines by the module ``ai_training.name``;
    ``about``: its help.
    """

    def evaluate(
        *,
        report: Report,
        data: SetData,
        split: Split = "test",
        models_dir: ModelsDir = None,
        write_card: WriteCard = False,
    ) -> Figures:
        module = resolve_name(f"ai_training.{name}")
        result = module.evaluate(data, models_dir, split, report)
        if write_card:
            figures = {key: value for key, value in result.items() if key != "pairs"}
            write_figures(module.ID, models_dir, {split: figures})
        return cast("Figures", result)

    evaluate.__doc__ = f"{about}\n\nExample: ai-pipeline evaluate {name} --data DIR --models-dir runs/{name}"
    verb(evaluate_app, name)(evaluate)


_evaluate_outlines(
    "anatomy",
    "Measure outlines and cardiothoracic ratio; every interval is 95 %, by bootstrap over images.",
)
_evaluate_outlines(
    "fetal",
    "Measure outlines, head circumference and gate; every interval is 95 %, by bootstrap over examinations.",
)


OvarianModel = Annotated[
    str | None, typer.Option(help="Id of the card, or id@version. Default: ovarian-efficientnet-lite0.")
]


@verb(evaluate_app, "ovarian")
def evaluate_ovarian(
    *,
    report: Report,
    data: SetData,
    model: OvarianModel = None,
    models_dir: ModelsDir = None,
    drawn: Drawn = None,
    write_card: WriteCard = False,
) -> Figures:
    """Print every figure of classifier, gate and outline; intervals by bootstrap over groups.

    Example: ai-pipeline evaluate ovarian --data DIR
    """
    from ai_training.ovarian.card import ID
    from ai_training.ovarian.evaluation import evaluate

    result = evaluate(data, model or ID, models_dir, drawn, report)
    if write_card:
        write_figures(model or ID, models_dir, result)
    return result


@verb(evaluate_app, "despeckle")
def evaluate_despeckle(
    *,
    report: Report,
    data: PublicData,
    split: Split = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames that speckle is put on.")] = 8,
    models_dir: ModelsDir = None,
    write_card: WriteCard = False,
) -> Figures:
    """Compare filters and networks: noise, texture, seconds, and heads outlined on what they leave.

    Example: ai-pipeline evaluate despeckle --data DIR   (with the package bm3d, or without that row)
    """
    from ai_training.ultrasound.speckle import MODEL, evaluate

    result = evaluate(data, split, frames, models_dir, report)
    if write_card:
        write_figures(MODEL, models_dir, {split: result})
    return result


def split(
    *,
    data: SetData,
    out: Annotated[Path, typer.Option(help="Manifest to write (CSV); --data of the other verbs takes it.")],
    train: Annotated[float, typer.Option(help="Share of the patients.")] = 0.6,
    val: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 1,
    force: Force = False,
) -> Figures:
    """Deal patients out to train, val and test, each label in equal shares; writes a manifest."""
    from ai_training.sets import chest, splits

    found = chest.chest_set(data)
    patients = [image.patient for image in found.images]
    shares = {"train": train, "val": val, "test": test}
    try:
        dealt = splits.split_by_patient(patients, chest.label_matrix(found.images), shares, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--train, --val, --test") from error
    splits.write_manifest(found, dealt, out, force=force)
    typer.echo(
        "A model that was trained on some of these images must not be measured on them under new splits.",
        err=True,
    )
    counts = splits.table(found.images, dealt, found.labels)
    return {**counts, "notes": list(found.notes)} if found.notes else counts


def accept_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    report: Report,
    data: SetData,
    out: Annotated[Path, typer.Option(help="Folder for acceptance.html, the page to sign.")] = Path(
        "acceptance"
    ),
    split: Annotated[str, typer.Option(help="Which split to use; all images without splits.")] = "val",
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    models_dir: ModelsDir = None,
    threads: Threads = 0,
) -> str:
    """The site's acceptance test: fit a model to your labelled images, measure it, write a page to sign.

    Half of the patients fit calibration, thresholds and gate, the others measure: AUC with intervals, false
    calls. The new card stands beside the original; nothing uses it until `ai-pipeline models activate`.
    """
    from ai_pipeline.models.registry import find
    from ai_training.acceptance import accept

    store = _store(models_dir)
    card = find(model, store if store.is_dir() else None)
    named = version or f"{card.version}-site"
    made, page = accept(card, data, store, out, split=split, version=named, threads=threads, report=report)
    shown = [label.name for label in made.labels if label.supported]
    none = "none: each has fewer than 15 images in a half, or is found no better than by chance in one"
    return "\n".join(
        [
            f"{page}: read it, sign it, then: ai-pipeline models activate {made.name}",
            f"Findings that it will show: {', '.join(shown) or none}",
            *made.details["metrics"]["acceptance"]["notes"],
        ]
    )


def calibrate_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    report: Report,
    data: SetData,
    split: Annotated[str, typer.Option(help="Which split to use; all images without splits.")] = "val",
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-calibrated).")
    ] = None,
    models_dir: ModelsDir = None,
    threads: Threads = 0,
) -> Figures:
    """Fit a chest model's probabilities to your labelled images: the network and its calls stay as they are.

    Prints each label's calibration error before, and after on patients that the curve was not fitted to. The
    new card stands beside the original; nothing uses it until `ai-pipeline models activate`.
    """
    from ai_pipeline.models.registry import find
    from ai_training.recalibration import recalibrate

    store = _store(models_dir)
    card = find(model, store if store.is_dir() else None)
    named = version or f"{card.version}-calibrated"
    return recalibrate(card, data, store, split=split, version=named, threads=threads, report=report)


def _store(models_dir: Path | None) -> Path:
    """The models folder: ``models_dir``, else the one in the environment. Raises typer.BadParameter."""
    from ai_pipeline.models.registry import MODELS_DIR, from_environment

    store = models_dir or from_environment()
    if store is None:
        raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
    return store


def add_to(app: typer.Typer) -> None:
    """Add the verbs that train and measure, and of ``models`` ``accept``, ``calibrate``, ``convert`` and
    ``bundle`` to the command line ``app``.
    """
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
    verb(
        models_app,
        "calibrate",
        epilog="Example:  ai-pipeline models calibrate d121@1 --data our-films.csv --models-dir models",
    )(calibrate_model)
    models_app.command(
        "convert",
        epilog="Example:  ai-pipeline models convert d121.pth --architecture densenet121 "
        "--labels A,B --out new",
    )(convert_model)
    models_app.command(
        "bundle", epilog="Example:  ai-pipeline models bundle d121@1 --models-dir models --out d121-bundle"
    )(bundle_model)


def bundle_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    out: Annotated[Path, typer.Option(help="The new folder.")],
    models_dir: ModelsDir = None,
) -> None:
    """Write a classifier as a bundle of MONAI: the network, its card, and a configuration that MONAI runs."""
    from ai_pipeline.models.registry import find
    from ai_training.bundle import write

    with store_errors():
        typer.echo(write(find(model, models_dir), out))


def convert_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help=".pt, .pth or .safetensors; a folder of timm for Hugging Face; a bundle of MONAI",
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
    """Make an ONNX model with a first card from a checkpoint of a network of timm, or a bundle of MONAI.

    Only numbers are read, in a process that reaches no other file, process or network: by bubblewrap (Debian
    package bubblewrap), else by Landlock and seccomp, and not at all where there is neither.
    """
    from ai_training.convert import Request, convert

    with store_errors():
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
