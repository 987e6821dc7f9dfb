"""``ai-pipeline train …`` and ``ai-pipeline export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_training.cli import options
from ai_training.cli.console import Figures, needed, verb
from ai_training.progress import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ai_training.despeckle.afterwards import Filter

train_app = typer.Typer(help="Train a model; leaves its card and weights in a folder.", no_args_is_help=True)
Named = Annotated[str, typer.Option("--experiment", help="A shipped experiment's name, or a TOML file.")]


@verb(train_app, "chest")
def train_chest(
    *,
    report: Report,
    data: options.ChestData,
    out: options.Out,
    experiment: Named = "chest",
    iterations: Annotated[
        int | None, typer.Option(help="Steps; replaces the experiment's own length (to try things).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; replaces the experiment's own.")] = None,
    backbone: options.Backbone = "",
    weights: options.StartFrom = "",
    weights_licence: options.StartLicence = "",
    threads: options.Threads = 0,
    cache: options.Cache = None,
    resume: options.Resume = False,
) -> Path:
    """Train the chest X-ray classifier. Uses a GPU when there is one.

    Examples: ai-pipeline train chest --data DIR --out runs/chest

    ai-pipeline train chest --data DIR --out runs/d121 --backbone densenet121 --weights densenet121.pth

    Then: ai-pipeline evaluate chest --data DIR --models-dir runs/chest --write-card
    """
    from ai_training.chest import experiment as experiments
    from ai_training.chest.fit import fit
    from ai_training.chest.ship import ship

    made = experiments.load(_file(experiment))
    if seed is not None:
        made = made.changed(made.name, {"seed": seed})
    if iterations is not None:
        made = made.changed(made.name, {"schedule": {"iterations": iterations}})
    if backbone or weights:
        made = made.on_backbone(backbone or made.network.architecture, weights, weights_licence)
    run = fit(data, out, made, resume=resume, threads=threads, cache=cache, report=report)
    return ship(data, out, run, cache or out / "cache", report)


@verb(train_app, "completeness")
def train_completeness(
    *,
    report: Report,
    data: options.ChestData,
    models_dir: options.ModelsDir = None,
    threads: options.Threads = 0,
) -> str:
    """Fit the recognition of cut-off films, on films that the program cuts itself; some minutes.

    Prints the table for the card of the network that outlines heart and lungs.
    Example: ai-pipeline train completeness --data DIR
    """
    import tomlkit

    from ai_pipeline.chest.anatomy import AnatomyModel
    from ai_pipeline.chest.ratio import MODEL
    from ai_pipeline.models.registry import find
    from ai_training.evaluation.completeness import cut_films, fit

    model = AnatomyModel.from_card(find(MODEL, models_dir), threads)
    train, validation = (cut_films(data, model, split, report=report) for split in ("train", "val"))
    table = fit(train, validation)
    return tomlkit.dumps({"completeness": table})


@verb(train_app, "levers")
def train_levers(
    *,
    report: Report,
    data: options.ChestData,
    out: options.Out,
    experiment: Named = "chest-levers",
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> Figures:
    """Train an experiment with and without each lever; compare them on validation, image by image.

    An interrupted run continues where it stopped. Example: ai-pipeline train levers --data DIR --out
    runs/levers
    """
    from ai_training.chest import experiment as experiments
    from ai_training.chest.levers import pull

    study = experiments.load_levers(_file(experiment))
    rows = pull(data, out, study, threads=threads, cache=cache, report=report)
    return {
        "levers": [
            {
                "lever": row.name,
                "validation_auc": row.validation_auc,
                "difference": row.difference.as_list() if row.difference else None,
                "against": row.against,
            }
            for row in rows
        ]
    }


@verb(train_app, "pretrain")
def train_pretrain(
    *,
    report: Report,
    data: options.ChestData,
    out: options.Out,
    epochs: Annotated[float, typer.Option(help="Passes over all training images.")] = 5.0,
    seed: options.Seed = 7,
    threads: options.Threads = 0,
    cache: options.Cache = None,
    resume: options.Resume = False,
) -> Path:
    """Pre-train the backbone on chest X-rays without labels (momentum contrast).

    Example: ai-pipeline train pretrain --data DIR --out runs/pre; then name runs/pre/pretrained.pt as
    `initial` in an experiment's [network].
    """
    from ai_training.chest.pretrain import Contrast, pretrain

    how = Contrast(epochs=epochs, seed=seed)
    return pretrain(data, out, how, threads=threads, cache=cache, resume=resume, report=report)


@verb(
    train_app,
    "head",
    epilog="Example:  ai-pipeline train head --encoder rad-dino/ --data splits.csv --out new --id rad-dino",
)
def train_head(
    *,
    report: Report,
    encoder: Annotated[Path, typer.Option(help="Folder in Hugging Face's layout: DINOv2 or ViT.")],
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    model_id: Annotated[str, typer.Option("--id", help="The model's id.")] = "",
    licence: Annotated[str, typer.Option(help="The licence of the encoder's weights.")] = "",
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the input in pixels, whole patches of 14: smaller is faster.", min=28, max=1022
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Images to learn from, at most.", min=100)] = 2000,
    threads: options.Threads = 0,
) -> Figures:
    """Train a head on a frozen encoder (RAD-DINO, DINOv2) with 200 to 2,000 of your labelled images.

    It learns from the split train. Then: ai-pipeline models add, and ai-pipeline models accept on other
    patients.
    """
    from ai_training.chest import head

    made = head.train_head(
        encoder,
        data,
        out,
        model_id=model_id,
        licence=licence,
        size=size,
        most=most,
        threads=threads,
        report=report,
    )
    network = made.card.with_suffix(".onnx")
    return {
        "card": str(made.card),
        "too few images, left out": list(made.left_out),
        "next": f"ai-pipeline models add {network} --card {made.card}",
        "AUC on patients of other folds": {name: found.as_list() for name, found in made.auc.items()},
    }


@verb(train_app, "inpaint")
def train_inpaint(
    *,
    report: Report,
    data: options.PublicData,
    out: options.Out,
    arch: Annotated[Literal["oci-gan", "unet", "vae"], typer.Option(help="Which network.")] = "oci-gan",
    iterations: options.Iterations = 6000,
    seed: options.Seed = 1,
    threads: options.NetworkThreads = 2,
    workers: options.Workers = 1,
    resume: options.Resume = False,
) -> Path:
    """Train a network that fills the pixels of removed annotation."""
    from ai_training.ultrasound.inpaint import fit as inpaint

    recipe = inpaint.InpaintRecipe(
        architecture=arch,
        iterations=iterations,
        seed=seed,
        threads=threads,
        workers=workers,
    )
    return inpaint.train(data, out, recipe, resume=resume, report=report)


@verb(train_app, "clean-frames")
def list_clean_frames(
    *,
    report: Report,
    data: options.PublicData,
    out: Annotated[Path, typer.Option(help="CSV file to write (the shipped list is not touched).")],
) -> str:
    """Search the public frames for parts without annotation; takes about 0.6 s a frame."""
    from ai_pipeline.burnin.find.text import shared_reader
    from ai_training.ultrasound.overlays.frame_list import find_clean_frames, write_list

    count = write_list(find_clean_frames(data, shared_reader(), report), out)
    return f"{count} parts"


@verb(train_app, "detect")
def train_detect(
    *,
    report: Report,
    data: options.BoxData,
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    boxes: options.Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    head_alone: Annotated[
        bool, typer.Option("--head-alone", help="Without YOLOs: minutes, and ultralytics is not needed.")
    ] = False,
    threads: options.Threads = 0,
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
    from ai_training.detect.locating.yolo import YoloRecipe
    from ai_training.detect.ship import train_detector

    if threads:
        torch.set_num_threads(threads)
    card = options.chest_card(model, models_dir)
    yolo = None if head_alone else YoloRecipe(threads=threads or usable_cores())
    return train_detector(data, out, card, tuple(boxes or ()), yolo, report)


@verb(train_app, "yolo")
def train_yolo(
    *,
    report: Report,
    data: options.BoxData,
    out: Annotated[Path, typer.Option(help="Folder for the set, the run and yolo.onnx.")],
    boxes: options.Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures with boxes.")] = 20,
    size: Annotated[int, typer.Option(help="Pixels a side, a multiple of 32.")] = 224,
    threads: options.Threads = 0,
) -> Figures:
    """Train an ultralytics YOLO alone on the train boxes and measure it on the val boxes. Needs ultralytics.

    Example: ai-pipeline train yolo --data DIR --out runs/yolo --epochs 60 --size 320
    """
    needed("ultralytics")
    from ai_pipeline.models.engine import usable_cores
    from ai_training.detect.locating.yolo import YoloRecipe
    from ai_training.detect.locating.yolo_locator import trained_and_judged

    card = options.chest_card(model, models_dir)
    recipe = YoloRecipe(size=size, epochs=epochs, threads=threads or usable_cores())
    return trained_and_judged(data, out, card, tuple(boxes or ()), recipe, report)


@verb(train_app, "ovarian")
def train_ovarian(
    *,
    report: Report,
    data: options.SetData,
    out: options.Out,
    seeds: Annotated[int, typer.Option(help="Runs of every fold, with seeds from 1 on.", min=1)] = 1,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training frames; the outline in proportion. Default: the shipped recipe's."
        ),
    ] = None,
    backbone: options.Backbone = "efficientnet-lite0",
    weights: options.StartFrom = "",
    weights_licence: options.StartLicence = "",
    frozen: Annotated[
        int | None, typer.Option(help="First blocks of EfficientNet-Lite0 that do not learn; 0: none.")
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Also run the networks of the folds on cleaned frames.")
    ] = False,
    cleaned: Annotated[
        bool, typer.Option("--cleaned", help="Also train networks of the folds on cleaned frames.")
    ] = False,
    threads: options.NetworkThreads = 2,
) -> Path:
    """Train the classifier of ovarian frames: 5 folds by group, then on all frames; gate, outline, card.

    Complete parts in --out are not trained again, so an interrupted run can continue.

    Example: ai-pipeline train ovarian --data DIR --out runs/ovarian --seeds 3
    """
    import torch

    from ai_training.engine.run import CHECKPOINT
    from ai_training.networks.start import StartWeights
    from ai_training.ovarian import fit, outline_fit, ship, trained_on_cleaned
    from ai_training.ovarian import study as cleaning

    torch.set_num_threads(threads)
    start = StartWeights(weights, weights_licence)
    recipe = fit.recipe(epochs=epochs, architecture=backbone, frozen=frozen, start=start)
    numbers = range(1, seeds + 1)
    fit.train(data, out, recipe, numbers, report=report)
    outline = outline_fit.recipe(epochs=recipe.epochs, threads=threads)
    begun = (out / "outline" / CHECKPOINT).is_file()
    outline_fit.train(data, out / "outline", outline, resume=begun, report=report)
    card = ship.ship(data, out, recipe, outline, numbers, report)
    if study:
        cleaning.run(data, out, recipe, report)
    if cleaned:
        trained_on_cleaned.run(data, out, recipe, report)
    return card


@verb(train_app, "despeckle")
def train_despeckle(
    *,
    report: Report,
    data: options.PublicData,
    out: options.Out,
    loss: Annotated[
        Literal["l1-ms-ssim", "l1-perceptual", "l2-perceptual", "task"],
        typer.Option(help="The losses of DiConvAE, or task: our residual network beside a segmenter."),
    ] = "l1-ms-ssim",
    segmenter: Annotated[
        Path | None, typer.Option(help="best.pt of `ai-pipeline train fetal`, for --loss task.")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Steps of the optimiser. Default: the published 50 epochs (6562); of task 7000."),
    ] = None,
    seed: options.Seed = 1,
    threads: options.NetworkThreads = 2,
    workers: options.Workers = 1,
    resume: options.Resume = False,
) -> Path:
    """Train a network that reduces speckle.

    Example: ai-pipeline train despeckle --data DIR --out runs/despeckle --loss l1-perceptual
    """
    from ai_training.despeckle import fit
    from ai_training.despeckle.ship import train_and_ship

    recipe = fit.recipe_of(loss, iterations=iterations, seed=seed, threads=threads, workers=workers)
    return train_and_ship(data, out, recipe, segmenter, resume=resume, report=report)


@verb(train_app, "label-colours", trains=True)
def train_label_colours(*, report: Report, data: options.PublicData) -> Figures:
    """Train four small networks that show where colours between the classes come from; two minutes.

    Example: ai-pipeline train label-colours --data DIR
    """
    from ai_training.despeckle.afterwards.labels import LabelRecipe, compare

    return compare(data, LabelRecipe(), report)


@verb(train_app, "segmenters", trains=True)
def train_segmenters(
    *,
    report: Report,
    data: options.PublicData,
    iterations: Annotated[
        int, typer.Option(min=1, help="Steps of the optimiser of each run. 50 epochs are 3281.")
    ] = 250,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each kind.")] = 1,
) -> Figures:
    """Train SegNet and a U-Net on raw, smoothed and both frames; outline test heads after each filter.

    Example: ai-pipeline train segmenters --data DIR --iterations 3281 --seeds 3
    """
    from ai_training.despeckle.afterwards.segmenters import compare
    from ai_training.despeckle.afterwards.teaching import SegmenterRecipe

    recipe = SegmenterRecipe(iterations=iterations, seeds=tuple(range(1, seeds + 1)))
    return compare(data, recipe, _filters(), report)


@verb(train_app, "plane-segmenters", trains=True)
def train_plane_segmenters(
    *,
    report: Report,
    data: Annotated[
        Path,
        typer.Option(
            help="The unpacked archives of doi 10.5281/zenodo.8265464 (docs/reference/data-sets.md)."
        ),
    ],
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Small networks, so many steps. Default: 50 epochs of SegNet's own size."),
    ] = None,
) -> Figures:
    """Train SegNet and a U-Net on brain, CSP and ventricles; Dice by plane and class after each filter.

    The published comparison on its own data, for a GPU; with --iterations, small, for two cores.

    Example: ai-pipeline train plane-segmenters --data DIR --iterations 2000
    """
    from ai_training.despeckle.afterwards.planes import compare
    from ai_training.despeckle.afterwards.teaching import SegmenterRecipe

    recipe = SegmenterRecipe(iterations=iterations) if iterations else None
    return compare(data, recipe, _filters(), report)


def export(
    *,
    report: Report,
    data: options.ChestData,
    run: Annotated[Path, typer.Option(help="Folder that a training run left (or a lever of a study).")],
    out: Annotated[Path, typer.Option(help="Folder for card and weights.")],
    levers: Annotated[Path | None, typer.Option(help="levers.json of a study, for the card.")] = None,
    threads: options.Threads = 0,
    cache: options.Cache = None,
) -> Path:
    """Make card and weights of a finished run: ONNX, calibration, thresholds, gate, reference for drift."""
    import torch

    from ai_training.chest.fit import trained_in
    from ai_training.chest.ship import ship

    if threads:
        torch.set_num_threads(threads)
    return ship(data, out, trained_in(run), cache or out / "cache", report, levers)


def _file(named: str) -> Path:
    """The file of an experiment that is named by path or by the name of a shipped one."""
    from ai_training.chest import experiment as experiments

    return Path(named) if named.endswith(".toml") else experiments.shipped(named)


def _filters() -> dict[str, Filter]:
    """All but BM3D, which takes ten seconds a frame."""
    from ai_pipeline.despeckle.despeckler import Despeckler
    from ai_training.despeckle.classical import filters
    from ai_training.despeckle.compared import autoencoders

    tried = {name: made for name, made in filters().items() if name != "BM3D"}
    return {**tried, **autoencoders(), "ours": Despeckler.active().picture}


def _train_by_recipe(name: str, steps: int, about: str, load: Callable[[], tuple[Any, Any]]) -> None:
    """Add the verb ``name`` of a network that a recipe shapes; ``load`` gives the recipe and what trains."""

    def train(
        *,
        report: Report,
        data: options.PublicData,
        out: options.Out,
        iterations: options.Iterations = steps,
        seed: options.Seed = 1,
        threads: options.NetworkThreads = 2,
        workers: options.Workers = 1,
        resume: options.Resume = False,
    ) -> Path:
        recipe, trained = load()
        how = recipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
        card: Path = trained(data, out, how, resume=resume, report=report)
        return card

    train.__doc__ = f"{about}\n\nExample: ai-pipeline train {name} --data DIR --out runs/{name}"
    verb(train_app, name)(train)


def _train_on_backbone(name: str, steps: int, about: str, load: Callable[[], tuple[Any, Any]]) -> None:
    """:func:`_train_by_recipe` of a network that may be on any backbone."""

    def train(
        *,
        report: Report,
        data: options.SetData,
        out: options.Out,
        backbone: options.Backbone = "efficientnet-lite0",
        weights: options.StartFrom = "",
        weights_licence: options.StartLicence = "",
        iterations: options.Iterations = steps,
        seed: options.Seed = 1,
        threads: options.NetworkThreads = 2,
        workers: options.Workers = 1,
        resume: options.Resume = False,
    ) -> Path:
        from ai_training.networks.start import StartWeights

        recipe, trained = load()
        start = StartWeights(weights, weights_licence)
        how = recipe(
            iterations=iterations, seed=seed, threads=threads, workers=workers, backbone=backbone, start=start
        )
        card: Path = trained(data, out, how, resume=resume, report=report)
        return card

    train.__doc__ = f"{about}\n\nExample: ai-pipeline train {name} --data DIR --out runs/{name}"
    verb(train_app, name)(train)


def _marks() -> tuple[Any, Any]:
    from ai_training.ultrasound.marks import fit

    return fit.MarkRecipe, fit.train


def _reader() -> tuple[Any, Any]:
    from ai_training.ultrasound.reader import fit

    return fit.ReaderRecipe, fit.train


def _anatomy() -> tuple[Any, Any]:
    from ai_training.anatomy import fit

    return fit.AnatomyRecipe, fit.train


def _fetal() -> tuple[Any, Any]:
    from ai_training.fetal import fit, ship

    return fit.HeadRecipe, ship.train_and_ship


_train_by_recipe("marks", 6000, "Train the detector of burned-in annotation in ultrasound pictures.", _marks)
_train_by_recipe("reader", 9000, "Train the reader of small letters on ultrasound pictures.", _reader)
_train_on_backbone("anatomy", 2000, "Train the network that outlines heart and lungs.", _anatomy)
_train_on_backbone("fetal", 2000, "Train the network that outlines fetal heads, and fit its gate.", _fetal)
