"""The verbs ``train …``, ``evaluate …``, ``split`` and ``models accept`` of ``ai-pipeline``."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from ai_training.base import Report
from ai_training.cli import console
from ai_training.cli.console import Figures, needed, verb

if TYPE_CHECKING:
    from typing import Any

    from ai_pipeline.burnin.find.annotation import Mask, Picture
    from ai_pipeline.burnin.tools import Tools


train_app = typer.Typer(help="Train a model; leaves its card and weights in a folder.", no_args_is_help=True)


@verb(train_app, "chest")
def train_chest(
    *,
    report: Report,
    data: console.SetData,
    out: console.Out,
    experiment: Annotated[
        str, typer.Option("--experiment", help="A shipped experiment's name, or a TOML file.")
    ] = "chest",
    iterations: Annotated[
        int | None, typer.Option(help="Steps; replaces the experiment's own length (to try things).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; replaces the experiment's own.")] = None,
    backbone: console.Backbone = "",
    weights: console.StartFrom = "",
    weights_licence: console.StartLicence = "",
    threads: console.Threads = 0,
    cache: console.Cache = None,
    resume: console.Resume = False,
) -> Path:
    """Train the chest X-ray classifier. Uses a GPU when there is one.

    Examples: ai-pipeline train chest --data DIR --out runs/chest

    ai-pipeline train chest --data DIR --out runs/d121 --backbone densenet121 --weights densenet121.pth

    Then: ai-pipeline evaluate chest --data DIR --models-dir runs/chest --write-card
    """
    from ai_training import chest

    named = Path(experiment) if experiment.endswith(".toml") else chest.shipped(experiment)
    made = chest.load(named)
    if seed is not None:
        made = made.changed(made.name, {"seed": seed})
    if iterations is not None:
        made = made.changed(made.name, {"schedule": {"iterations": iterations}})
    if backbone or weights:
        made = made.on_backbone(backbone or made.network.architecture, weights, weights_licence)
    run = chest.fit(data, out, made, resume=resume, threads=threads, cache=cache, report=report)
    return chest.ship(data, out, run, cache or out / "cache", report)


@verb(train_app, "detect")
def train_detect(
    *,
    report: Report,
    data: console.SetData,
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    boxes: console.Boxes = None,
    model: console.Model = None,
    models_dir: console.ModelsDir = None,
    head_alone: Annotated[
        bool, typer.Option("--head-alone", help="Without YOLOs: minutes, and ultralytics is not needed.")
    ] = False,
    threads: console.Threads = 0,
) -> Path:
    """Fit head and YOLO on the classifier's frozen layers; five folds decide which labels get boxes.

    Six YOLOs are trained (some 5 minutes each on one core; those in OUT/yolo are not trained again). Needs
    ultralytics.

    Example: ai-pipeline train detect --data DIR --boxes ChestX_Det_train.json --out runs/detect
    """
    if not head_alone:
        needed("ultralytics")
    import torch

    from ai_pipeline.models.engine import usable_cores
    from ai_training.detect import train_detector
    from ai_training.yolo import YoloRecipe

    if threads:
        torch.set_num_threads(threads)
    card = console.chest_card(model, models_dir)
    yolo = None if head_alone else YoloRecipe(threads=threads or usable_cores())
    return train_detector(data, out, card, tuple(boxes or ()), yolo, report)


@verb(train_app, "ovarian")
def train_ovarian(
    *,
    report: Report,
    data: console.SetData,
    out: console.Out,
    seeds: Annotated[int, typer.Option(help="Runs of every fold, with seeds from 1 on.", min=1)] = 1,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training frames; the outline in proportion. Default: the shipped recipe's."
        ),
    ] = None,
    threads: console.NetworkThreads = 2,
) -> Path:
    """Train the classifier of ovarian frames: 5 folds by group, then on all frames; gate, outline, card.

    Complete parts in --out are not trained again, so an interrupted run can continue.

    Example: ai-pipeline train ovarian --data DIR --out runs/ovarian --seeds 3
    """
    import torch

    from ai_training import ovarian
    from ai_training.engine import CHECKPOINT

    torch.set_num_threads(threads)
    recipe = ovarian.OvarianRecipe(epochs=epochs) if epochs else ovarian.OvarianRecipe()
    numbers = range(1, seeds + 1)
    ovarian.train(data, out, recipe, numbers, report=report)
    outline = ovarian.outline_recipe(epochs=recipe.epochs, threads=threads)
    begun = (out / "outline" / CHECKPOINT).is_file()
    ovarian.train_outline(data, out / "outline", outline, resume=begun, report=report)
    return ovarian.ship(data, out, recipe, outline, numbers, report)


def _train_by_recipe(name: str, steps: int, about: str, recipe: str, trained: str) -> None:
    """Add the verb ``name`` of a network that ``recipe`` shapes; both are named as ``module:name``."""

    def train(
        *,
        report: Report,
        data: console.SetData,
        out: console.Out,
        iterations: console.Iterations = steps,
        seed: console.Seed = 1,
        threads: console.NetworkThreads = 2,
        workers: console.Workers = 1,
        resume: console.Resume = False,
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
ReportTo = Annotated[Path | None, typer.Option("--report", help="Folder for pictures of what failed.")]


@verb(
    evaluate_app,
    "chest",
    epilog="Example:  ai-pipeline evaluate chest --data DIR --report report   (see report/report.md)",
)
def evaluate_chest(
    *,
    report: Report,
    data: console.SetData,
    split: console.Split = "test",
    model: console.Model = None,
    models_dir: console.ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for PNG plots and report.md.")
    ] = None,
    cache: console.Cache = None,
    threads: console.Threads = 0,
    write_card: console.WriteCard = False,
) -> Figures:
    """Measure a chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    from ai_training.evaluation import evaluate_chest as evaluate

    model = model or console.chest_card(model, models_dir).name
    result = evaluate(
        data,
        split,
        model=model,
        models_dir=models_dir,
        cache=cache,
        threads=threads,
        report=report,
    )
    if write_card:
        from ai_training.chest import write_metrics

        write_metrics(console.own_card(model, models_dir), result)
    if report_to is not None:
        from ai_training.evaluation import write_report

        typer.echo(str(write_report(report_to, result)), err=True)
    # The curves are thousands of points that only plots need.
    return {key: value for key, value in result.items() if key != "curves"}


@verb(evaluate_app, "marks")
def evaluate_marks(
    *,
    report: Report,
    data: console.PublicData,
    masks: Annotated[
        Path | None, typer.Option(help="Folder with the hand-drawn test frames (tests/data/marks).")
    ] = None,
    split: console.Split = "test",
    style: Annotated[Literal["held-out", "train"], typer.Option(help="Fonts and layouts.")] = "held-out",
    pictures: Pictures = 200,
    policy: PolicyName = "research",
    models_dir: console.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: console.WriteCard = False,
) -> Figures:
    """Measure the mark detector, and all that the node removes, on synthetic overlays and on real frames.

    With --masks on the hand-drawn test frames; with --split val on the coloured marks of validation frames,
    which choices are made by. --report draws every mark that was missed. Intervals are 95 %, over frames.
    """
    if masks is not None and split != "test":
        raise typer.BadParameter("the hand-drawn frames are test frames", param_hint="--split")
    from ai_pipeline.burnin.find.annotation import CleaningPolicy
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound.cleaning import evaluate_removal

    result = evaluate_removal(
        data,
        shared_tools(models_dir),
        masks=masks,
        split=split,
        style=style,
        pictures=pictures,
        policy=CleaningPolicy(policy),
        report_to=report_to,
        report=report,
    )
    if write_card:
        console.write_figures(FINDER, models_dir, result["figures"])
    return result


@verb(evaluate_app, "legible")
def evaluate_legible(
    *,
    report: Report,
    data: console.PublicData,
    pictures: Annotated[int, typer.Option(help="Pictures with a name, date or number burned in.")] = 500,
    first: Annotated[
        int, typer.Option(help="Number of the first: from another one on others are drawn.")
    ] = 0,
    split: console.Split = "test",
    policy: PolicyName = "research",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    models_dir: console.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: console.WriteCard = False,
) -> Figures:
    """Burn names, dates and numbers in, clean as the node cleans, and try to read them: two OCR engines.

    Counts with exact upper 95 % bounds. --report draws every picture in which something is left, and every
    one that the node withheld. About 3 s a picture on one core.
    """
    from ai_pipeline.burnin.find.annotation import CleaningPolicy
    from ai_training.ultrasound import legible

    test = legible.LegibilityTest(data, split, CleaningPolicy(policy), models_dir, report_to)
    found = list(legible.outcomes(test, range(first, first + pictures), workers, report))
    result = legible.counted(found, split, policy)
    if write_card:
        told = {name: value for name, value in result.items() if name not in ("what", "reasons")}
        console.write_figures(FINDER, models_dir, {f"legible_{policy}": told})
    return result


@verb(evaluate_app, "inpaint")
def evaluate_inpaint(
    *,
    report: Report,
    data: console.PublicData,
    split: console.Split = "test",
    pictures: Pictures = 200,
    threads: console.NetworkThreads = 2,
    policy: PolicyName = "research",
    models_dir: console.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: console.WriteCard = False,
) -> Figures:
    """Compare the ways of filling holes, with a given mask and with all that the node's plan removes.

    Networks whose cards are not there are left out; without a mark detector so is the detected mask.
    --report writes grids before | filled | truth. Intervals are 95 %, by bootstrap over frames.
    """
    from ai_pipeline.burnin.find.annotation import CleaningPolicy
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound import cleaning
    from ai_training.ultrasound.cleaning import node_mask

    known = cleaning.cards_with_compared(models_dir)
    ways = cleaning.inpainters(known, threads)

    def planned(picture: Picture) -> Mask | None:
        return node_mask(picture, shared_tools(models_dir), CleaningPolicy(policy))

    result = cleaning.evaluate_inpaint(
        data,
        ways,
        planned if FINDER in known else None,
        pictures=pictures,
        split=split,
        report_to=report_to,
        report=report,
    )
    if write_card:
        for card_id, figures in cleaning.inpaint_figures(result).items():
            if card_id in known:
                console.write_figures(card_id, models_dir, figures)
    return result


@verb(evaluate_app, "cleaning")
def evaluate_cleaning(
    *,
    report: Report,
    data: console.PublicData,
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
    models_dir: console.ModelsDir = None,
    report_to: ReportTo = None,
) -> Figures:
    """Clean real frames; count the removed pixels of waves, flow, bars, rulers, calipers and text.

    The pixels under a real mark are unknown, so the filling is measured on clean frames with drawn marks.

    Run where the repository is checked out: the marks lie among its tests. Intervals are 95 %, by bootstrap
    over patients, or over frames where the patient is not known. --report draws every frame before and after.

    Example: ai-pipeline evaluate cleaning --data ../shared/data --report /tmp/cleaning
    """
    from ai_pipeline.burnin.find.annotation import CleaningPolicy
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound import cleaning

    tools = shared_tools(models_dir)
    result = cleaning.evaluate_cleaning(
        data, content, masks, tools, CleaningPolicy(policy), report_to=report_to, report=report
    )
    if pictures:
        result["filling"] = _filling(data, tools, pictures, report)
    return result


@verb(evaluate_app, "detect")
def evaluate_detect(
    *,
    report: Report,
    data: console.SetData,
    split: Annotated[
        Literal["cv", "test"],
        typer.Option(help="cv: five folds of the train and val boxes; test: the shipped head."),
    ] = "cv",
    boxes: console.Boxes = None,
    model: console.Model = None,
    models_dir: console.ModelsDir = None,
    yolos: Annotated[
        Path | None,
        typer.Option(
            help="With cv: folder of the folds' YOLOs (OUT/yolo of `train detect`); one that is missing is "
            "trained. Without it the folds evaluate the head alone."
        ),
    ] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="With test: put the pooled figures into the card.")
    ] = False,
    threads: console.Threads = 0,
) -> Figures:
    """Measure the boxes against each label's constant box and the centre; intervals are 95 %, by patient.

    Example: ai-pipeline evaluate detect --data DIR --split cv --yolos runs/detect/yolo
    """
    if write_card and split == "cv":
        raise typer.BadParameter("`train detect` writes the figures of the folds", param_hint="--write-card")
    import torch

    from ai_pipeline.models.engine import usable_cores
    from ai_training.detect import evaluate, write_test_figures
    from ai_training.yolo import YoloRecipe

    if threads:
        torch.set_num_threads(threads)
    card = console.chest_card(model, models_dir)
    trained = (yolos, YoloRecipe(threads=threads or usable_cores())) if yolos else None
    result = evaluate(data, split, card, tuple(boxes or ()), trained, report)
    if write_card:
        write_test_figures(card, result)
    return result


def _evaluate_outlines(name: str, about: str, model: str) -> None:
    """Add the verb ``name`` of outlines, which its module measures with the ``model`` of the card."""

    def evaluate(
        *,
        report: Report,
        data: console.SetData,
        split: console.Split = "test",
        models_dir: console.ModelsDir = None,
        write_card: console.WriteCard = False,
    ) -> Figures:
        from ai_pipeline.models.registry import find

        module = resolve_name(f"ai_training.{name}")
        result = module.evaluate(data, resolve_name(model)(find(module.ID, models_dir)), split, report)
        if write_card:
            figures = {key: value for key, value in result.items() if key != "pairs"}
            console.write_figures(module.ID, models_dir, {split: figures})
        return cast("Figures", result)

    evaluate.__doc__ = f"{about}\n\nExample: ai-pipeline evaluate {name} --data DIR --models-dir runs/{name}"
    verb(evaluate_app, name)(evaluate)


_evaluate_outlines(
    "anatomy",
    "Measure outlines and cardiothoracic ratio; every interval is 95 %, by bootstrap over images.",
    "ai_pipeline.chest.anatomy:AnatomyModel.from_card",
)
_evaluate_outlines(
    "fetal",
    "Measure outlines, head circumference and gate; every interval is 95 %, by bootstrap over examinations.",
    "ai_pipeline.networks.heads:HeadModel.of",
)


@verb(evaluate_app, "ovarian")
def evaluate_ovarian(
    *,
    report: Report,
    data: console.SetData,
    models_dir: console.ModelsDir = None,
    write_card: console.WriteCard = False,
) -> Figures:
    """Print every figure of classifier, gate and outline; intervals by bootstrap over groups.

    Example: ai-pipeline evaluate ovarian --data DIR
    """
    from ai_pipeline.models.registry import find
    from ai_training.cards import changed_card
    from ai_training.ovarian import ID, evaluate

    result = evaluate(data, find(ID, models_dir), report)
    if write_card:
        with changed_card(console.own_card(ID, models_dir)) as card:
            card["metrics"] = result
    return result


@verb(evaluate_app, "despeckle")
def evaluate_despeckle(
    *,
    report: Report,
    data: console.PublicData,
    split: console.Split = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames that speckle is put on.")] = 8,
    models_dir: console.ModelsDir = None,
    write_card: console.WriteCard = False,
) -> Figures:
    """Compare filters and networks: noise, texture, seconds, and heads outlined on what they leave.

    Example: ai-pipeline evaluate despeckle --data DIR   (with the package bm3d, or without that row)
    """
    from ai_training.ultrasound.speckle import MODEL, evaluate

    result = evaluate(data, split, frames, models_dir, report)
    if write_card:
        console.write_figures(MODEL, models_dir, {split: result})
    return result


def split(
    *,
    data: console.SetData,
    out: Annotated[Path, typer.Option(help="Manifest to write (CSV); --data of the other verbs takes it.")],
    train: Annotated[float, typer.Option(help="Share of the patients.")] = 0.6,
    val: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 1,
    force: console.Force = False,
) -> Figures:
    """Deal patients out to train, val and test, each label in equal shares; writes a manifest."""
    from ai_training import sets
    from ai_training.sets import chest_set, label_matrix

    found = chest_set(data)
    patients = [image.patient for image in found.images]
    shares = {"train": train, "val": val, "test": test}
    try:
        dealt = sets.split_by_patient(patients, label_matrix(found.images), shares, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--train, --val, --test") from error
    sets.write_manifest(found, dealt, out, force=force)
    typer.echo(
        "A model that was trained on some of these images must not be measured on them under new splits.",
        err=True,
    )
    return sets.table(found.images, dealt, found.labels)


def accept_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    report: Report,
    data: console.SetData,
    out: Annotated[Path, typer.Option(help="Folder for acceptance.html, the page to sign.")] = Path(
        "acceptance"
    ),
    split: Annotated[str, typer.Option(help="Which split to use; all images without splits.")] = "val",
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    models_dir: console.ModelsDir = None,
    threads: console.Threads = 0,
) -> str:
    """The site's acceptance test: fit a model to your labelled images, measure it, write a page to sign.

    Half of the patients fit calibration, thresholds and gate, the others measure: AUC with intervals, false
    calls. The new card stands beside the original; nothing uses it until `ai-pipeline models activate`.
    """
    from ai_pipeline.models.registry import MODELS_DIR, find, from_environment
    from ai_training.acceptance import accept

    store = models_dir or from_environment()
    if store is None:
        raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
    card = find(model, store if store.is_dir() else None)
    named = version or f"{card.version}-site"
    made, page = accept(card, data, store, out, split=split, version=named, threads=threads, report=report)
    shown = [label.name for label in made.labels if label.supported]
    return (
        f"{page}: read it, sign it, then: ai-pipeline models activate {made.name}\n"
        f"Findings that it will show: {', '.join(shown) or 'none, it tells none better than chance'}"
    )


def _filling(data: Path, tools: Tools, pictures: int, report: Report) -> dict[str, Any]:
    """How near the node's filling and the plain one come to what was there, where every mark is removed."""
    from ai_pipeline.burnin.find.annotation import CleaningPolicy
    from ai_pipeline.burnin.tools import PLAIN
    from ai_training.ultrasound import cleaning
    from ai_training.ultrasound.cleaning import node_mask

    return cleaning.evaluate_inpaint(
        data,
        [tools.filler, PLAIN],
        lambda picture: node_mask(picture, tools, CleaningPolicy.RESEARCH),
        pictures=pictures,
        report=report,
    )
