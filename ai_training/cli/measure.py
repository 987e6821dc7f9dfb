"""``ai-pipeline evaluate …``, ``calibrate``, ``split`` and ``models accept``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_training.cards import changed_card
from ai_training.cli import options
from ai_training.cli.console import Figures, verb
from ai_training.progress import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_pipeline.burnin.annotation.pixels import Mask, Picture
    from ai_pipeline.burnin.tools import Tools
    from ai_pipeline.models.card import Card

evaluate_app = typer.Typer(help="Measure a model on public data or your own.", no_args_is_help=True)
calibrate_app = typer.Typer(help="Fit a model's probabilities to your own images.", no_args_is_help=True)
FINDER = "ultrasound-marks-unet"
SHOWN = 30
"""Frames that ``evaluate ovarian --pictures`` writes."""
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
    data: options.ChestData,
    split: options.Split = "test",
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for PNG plots and report.md.")
    ] = None,
    cache: options.Cache = None,
    threads: options.Threads = 0,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=SHARE", help="How common a finding is at your site, 0 to 1; repeatable."),
    ] = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Measure a chest X-ray classifier; every interval is 95 %, by bootstrap over patients."""
    from ai_training.evaluation.evaluate import evaluate_chest as evaluate

    model = model or options.chest_card(model, models_dir).name
    result = evaluate(
        data,
        split,
        model=model,
        models_dir=models_dir,
        cache=cache,
        threads=threads,
        prevalence=_shares(prevalence or []),
        report=report,
    )
    if write_card:
        from ai_training.chest.export import write_metrics

        write_metrics(options.own_card(model, models_dir), result)
    if report_to is not None:
        from ai_training.evaluation.plots import write_report

        typer.echo(str(write_report(report_to, result)), err=True)
    # The curves are thousands of points that only plots need.
    return {key: value for key, value in result.items() if key != "curves"}


def _shares(pairs: list[str]) -> dict[str, float]:
    """``LABEL=SHARE`` as shares by label."""
    try:
        return {label: float(share) for label, _, share in (pair.partition("=") for pair in pairs)}
    except ValueError:
        raise typer.BadParameter(
            "not LABEL=SHARE, such as Effusion=0.12", param_hint="--prevalence"
        ) from None


@verb(evaluate_app, "marks")
def evaluate_marks(
    *,
    report: Report,
    data: options.PublicData,
    masks: Annotated[
        Path | None, typer.Option(help="Folder with the hand-drawn test frames (tests/data/marks).")
    ] = None,
    split: options.Split = "test",
    style: Annotated[Literal["held-out", "train"], typer.Option(help="Fonts and layouts.")] = "held-out",
    pictures: Pictures = 200,
    policy: PolicyName = "research",
    threshold: Annotated[
        float | None, typer.Option(help="Another threshold of the detector than the card's.")
    ] = None,
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Measure the mark detector, and all that the node removes, on synthetic overlays and on real frames.

    With --masks on the hand-drawn test frames; with --split val on the coloured marks of validation frames,
    which choices are made by. --report draws every mark that was missed. Intervals are 95 %, over frames.
    """
    if masks is not None and split != "test":
        raise typer.BadParameter("the hand-drawn frames are test frames", param_hint="--split")
    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound.marks.evaluate import evaluate_removal
    from ai_training.ultrasound.marks.maskers import at_threshold

    tools = at_threshold(shared_tools(models_dir), threshold)
    result = evaluate_removal(
        data,
        tools,
        masks=masks,
        split=split,
        style=style,
        pictures=pictures,
        policy=CleaningPolicy(policy),
        report_to=report_to,
        report=report,
    )
    if write_card:
        from ai_training.ultrasound.card_figures import marks_figures

        options.write_figures(FINDER, models_dir, marks_figures(result))
    return result


@verb(evaluate_app, "legible")
def evaluate_legible(
    *,
    report: Report,
    data: options.PublicData,
    pictures: Annotated[int, typer.Option(help="Pictures with a name, date or number burned in.")] = 500,
    first: Annotated[
        int, typer.Option(help="Number of the first: from another one on others are drawn.")
    ] = 0,
    split: options.Split = "test",
    policy: PolicyName = "research",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Burn names, dates and numbers in, clean as the node cleans, and try to read them: two OCR engines.

    Counts with exact upper 95 % bounds. --report draws every picture in which something is left, and every
    one that the node withheld. About 3 s a picture on one core.
    """
    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_training.ultrasound.legible import evaluate as legible
    from ai_training.ultrasound.legible.counts import counted, missed_targets

    job = legible.LegibleTask(data, split, CleaningPolicy(policy), models_dir, report_to)
    result = counted(
        list(legible.outcomes(job, range(first, first + pictures), workers, report)), split, policy
    )
    missed = missed_targets(result)
    if write_card:
        from ai_training.ultrasound.card_figures import legible_figures

        options.write_figures(FINDER, models_dir, legible_figures(result))
    return result | {"not_met": missed}


@verb(evaluate_app, "inpaint")
def evaluate_inpaint(
    *,
    report: Report,
    data: options.PublicData,
    split: options.Split = "test",
    pictures: Pictures = 200,
    threads: options.NetworkThreads = 2,
    policy: PolicyName = "research",
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
    write_card: options.WriteCard = False,
    write_study: Annotated[
        Path | None, typer.Option(help="Page to write (docs/studies/inpainting.md), pictures beside it.")
    ] = None,
) -> Figures:
    """Compare the ways of filling holes, with a given mask and with all that the node's plan removes.

    Networks whose cards are not there are left out; without a mark detector so is the detected mask.
    --report writes grids before | filled | truth and plots. Intervals are 95 %, by bootstrap over frames.
    """
    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_training.ultrasound.inpaint import report as inpaintreport
    from ai_training.ultrasound.inpaint import scores as inpaintscores
    from ai_training.ultrasound.inpaint.compared import cards_with_compared, inpainters

    known = cards_with_compared(models_dir)
    ways, planned = inpainters(known, threads), _planned(known, models_dir, CleaningPolicy(policy))
    result = inpaintscores.evaluate_inpaint(
        data, ways, planned, pictures=pictures, split=split, report=report
    )
    gallery = inpaintreport.Gallery(data, ways, planned, split)
    if report_to is not None:
        inpaintreport.write_report(report_to, result, gallery)
    if write_study is not None:
        inpaintreport.write_study(write_study, result, gallery)
    if write_card:
        from ai_training.ultrasound.card_figures import inpaint_figures

        for card_id, figures in inpaint_figures(result).items():
            if card_id in known:
                options.write_figures(card_id, models_dir, figures)
    return result


@verb(evaluate_app, "reader")
def evaluate_reader(
    *,
    report: Report,
    data: options.PublicData,
    lines: Annotated[Path, typer.Option(help="Folder with real lines that were written down by eye.")] = Path(
        "tests/data/lines"
    ),
    pictures: Pictures = 100,
    models_dir: options.ModelsDir = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Read real lines that no reader has seen, and drawn names, beside rapidocr and Tesseract.

    Character error, share of lines without any, share of harmless lines that are proven harmless (so that
    they stay), and names, dates or numbers that are taken for harmless (so that they would). Run where the
    repository is checked out. Intervals are 95 %, by bootstrap over patients, or over frames.

    Example: ai-pipeline evaluate reader --data ../shared/data
    """
    from ai_pipeline.burnin.tools import LINES, shared_tools
    from ai_training.ultrasound.reader import evaluate

    result = evaluate.evaluate_reader(data, lines, shared_tools(models_dir).reader, pictures, report)
    if write_card:
        options.write_figures(LINES, models_dir, {"test": result})
    return result


@verb(evaluate_app, "cleaning")
def evaluate_cleaning(
    *,
    report: Report,
    data: options.PublicData,
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
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
) -> Figures:
    """Clean real frames; count the removed pixels of waves, flow, bars, rulers, calipers and text.

    The pixels under a real mark are unknown, so the filling is measured on clean frames with drawn marks.

    Run where the repository is checked out: the marks lie among its tests. Intervals are 95 %, by bootstrap
    over patients, or over frames where the patient is not known. --report draws every frame before and after.
    The last lines show how far the annotator agrees with a second one who drew some of the frames again.

    Example: ai-pipeline evaluate cleaning --data ../shared/data --report /tmp/cleaning
    """
    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound.content import agreement, scores

    tools = shared_tools(models_dir)
    result = scores.evaluate_cleaning(
        data, content, masks, tools, CleaningPolicy(policy), report_to=report_to, report=report
    )
    if pictures:
        result["filling"] = _filling(data, tools, pictures, report)
    if (content / agreement.AGAIN).is_file():
        result["agreement"] = agreement.evaluate_agreement(data, content)
    return result


@verb(evaluate_app, "detect")
def evaluate_detect(
    *,
    report: Report,
    data: options.BoxData,
    split: Annotated[
        Literal["cv", "test"],
        typer.Option(help="cv: five folds of the train and val boxes; test: the shipped head."),
    ] = "cv",
    boxes: options.Boxes = None,
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    yolos: Annotated[
        Path | None,
        typer.Option(
            help="With cv: folder of the folds' YOLOs (OUT/yolo of `train detect`); one that is missing is "
            "trained. Without it the folds evaluate the head alone."
        ),
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for pictures of hits, misses and false boxes.")
    ] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="With test: put the pooled figures into the card.")
    ] = False,
    threads: options.Threads = 0,
) -> Figures:
    """Measure the boxes against each label's constant box and the centre; intervals are 95 %, by patient.

    Example: ai-pipeline evaluate detect --data DIR --split cv --yolos runs/detect/yolo --report report
    """
    if write_card and split == "cv":
        raise typer.BadParameter("`train detect` writes the figures of the folds", param_hint="--write-card")
    import torch

    from ai_pipeline.models.engine import usable_cores
    from ai_training.detect.evaluate import evaluate
    from ai_training.detect.locating.yolo import YoloRecipe
    from ai_training.detect.ship import write_test_figures

    if threads:
        torch.set_num_threads(threads)
    card = options.chest_card(model, models_dir)
    trained = (yolos, YoloRecipe(threads=threads or usable_cores())) if yolos else None
    result = evaluate(data, split, card, tuple(boxes or ()), trained, report_to, report)
    if write_card:
        write_test_figures(card, result)
    return result


@verb(evaluate_app, "anatomy")
def evaluate_anatomy(
    *,
    report: Report,
    data: options.SetData,
    split: options.Split = "test",
    models_dir: options.ModelsDir = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder for the Bland-Altman plot.")
    ] = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Measure outlines and cardiothoracic ratio; every interval is 95 %, by bootstrap over images.

    Example: ai-pipeline evaluate anatomy --data DIR --models-dir runs/anatomy --report report
    """
    from ai_pipeline.chest.anatomy import AnatomyModel
    from ai_pipeline.models.registry import find
    from ai_training.anatomy.evaluate import evaluate, missed_targets
    from ai_training.anatomy.export import ID

    result = evaluate(data, AnatomyModel.from_card(find(ID, models_dir)), split, report)
    if report_to is not None:
        from ai_training.anatomy.plots import bland_altman

        typer.echo(str(bland_altman(report_to, result)), err=True)
    pairs = result.pop("pairs")
    if write_card:
        options.write_figures(ID, models_dir, {split: result})
    return result | {"pairs": pairs, "not_met": missed_targets(result)}


@verb(evaluate_app, "completeness")
def evaluate_completeness(
    *,
    report: Report,
    data: options.ChestData,
    split: options.Split = "test",
    films: Annotated[int, typer.Option(help="Films to measure on; 0: as many as the card's figures.")] = 0,
    models_dir: options.ModelsDir = None,
    threads: options.Threads = 0,
    write_card: options.WriteCard = False,
) -> Figures:
    """Cut chest films at each edge and count those recognised; every interval is 95 %, by patient.

    Example: ai-pipeline evaluate completeness --data DIR
    """
    from ai_pipeline.chest.anatomy import AnatomyModel
    from ai_pipeline.chest.completeness import Completeness
    from ai_pipeline.chest.ratio import MODEL
    from ai_pipeline.models.registry import find
    from ai_training.evaluation import completeness

    card = find(MODEL, models_dir)
    judges = Completeness.from_card(card)
    found = completeness.cut_films(data, AnatomyModel.from_card(card, threads), split, films, report)
    result = completeness.measured(found, judges) | {"split": split}
    if write_card:
        options.write_figures(MODEL, models_dir, {"completeness": result})
    called = {"called": completeness.called_whole(found, judges)}
    return result | called


@verb(evaluate_app, "stamps")
def evaluate_stamps(
    *,
    report: Report,
    data: options.ChestData,
    split: options.Split = "test",
    films: Annotated[int, typer.Option(help="Films to measure on; 0: all.")] = 0,
    models_dir: options.ModelsDir = None,
    threads: options.Threads = 0,
) -> Figures:
    """Measure how many stamps of chest films are read, and how many mirrored films are noticed.

    Every interval is 95 %, by bootstrap over patients. Example: ai-pipeline evaluate stamps --data DIR
    """
    from ai_pipeline.burnin.find.text import TextReader
    from ai_pipeline.chest.anatomy import AnatomyModel
    from ai_pipeline.chest.classifier import Classifier
    from ai_pipeline.chest.ratio import MODEL
    from ai_pipeline.models.registry import find
    from ai_training.stamps.evaluate import StampModels, evaluate

    classifier = Classifier(options.chest_card(None, models_dir), threads=threads)
    anatomy = AnatomyModel.from_card(find(MODEL, models_dir), threads)
    models = StampModels(classifier, anatomy, TextReader(threads or None))
    return evaluate(data, models, split, films, report)


@verb(evaluate_app, "tries")
def evaluate_tries(
    *,
    report: Report,
    data: options.ChestData,
    cache: Annotated[Path, typer.Option(help="Folder that keeps what the networks see of each image.")],
    imagenet: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="efficientnet-lite2=ITS.pth, for a head on it; repeatable."),
    ] = None,
    models_dir: options.ModelsDir = None,
) -> str:
    """Try mirror images, larger films, crops of the lungs and new heads on the validation split.

    The test split is not looked at. Example: ai-pipeline evaluate tries --data DIR --cache runs/tries
    """
    from ai_pipeline.chest.ratio import MODEL
    from ai_pipeline.models.registry import find
    from ai_training.chest.tries import as_table, try_all

    pairs = [pair.partition("=") for pair in imagenet or []]
    if not all(name and file for name, _, file in pairs):
        raise typer.BadParameter("not NAME=FILE, such as efficientnet-lite2=x.pth", param_hint="--imagenet")
    card = options.chest_card(None, models_dir)
    checkpoints = {name: Path(file) for name, _, file in pairs}
    return as_table(try_all(data, card, find(MODEL, models_dir), cache, checkpoints, report))


@verb(evaluate_app, "fetal")
def evaluate_fetal(
    *,
    report: Report,
    data: options.SetData,
    split: options.Split = "test",
    models_dir: options.ModelsDir = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Measure outlines, head circumference and gate; every interval is 95 %, by bootstrap over examinations.

    Example: ai-pipeline evaluate fetal --data DIR --models-dir runs/fetal
    """
    from ai_pipeline.fetal_head.outline import HeadModel
    from ai_pipeline.models.registry import find
    from ai_training.fetal.evaluate import evaluate, missed_targets
    from ai_training.fetal.export import ID

    result = evaluate(data, HeadModel.of(find(ID, models_dir)), split, report)
    pairs = result.pop("pairs")
    if write_card:
        options.write_figures(ID, models_dir, {split: result})
    return result | {"pairs": pairs, "not_met": missed_targets(result)}


@verb(evaluate_app, "ovarian")
def evaluate_ovarian(
    *,
    report: Report,
    data: options.SetData,
    models_dir: options.ModelsDir = None,
    write_card: options.WriteCard = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Also write thirty frames with the activation, as they are and cleaned, and a plot of what "
            "cleaning costs."
        ),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="Predict again from the images instead of reading what is committed."
        ),
    ] = False,
    runs: Annotated[
        Path | None,
        typer.Option(
            help="With --recompute: what `train ovarian` left; networks of folds that it lacks are trained."
        ),
    ] = None,
) -> Figures:
    """Print every figure of classifier, gate, outline and study; intervals by bootstrap over groups.

    Examples: ai-pipeline evaluate ovarian --data DIR

    ai-pipeline evaluate ovarian --data DIR --recompute --runs runs/ovarian
    """
    if recompute != (runs is not None):
        raise typer.BadParameter("--recompute and --runs go together", param_hint="--runs")
    from ai_pipeline.models.registry import find
    from ai_training.ovarian.evaluate import evaluate, missed_targets
    from ai_training.ovarian.ship import ID

    result = evaluate(data, find(ID, models_dir), report, runs)
    if pictures:
        from ai_training.evaluation.plots import differences
        from ai_training.ovarian import study, study_figures

        study.pictures(data, find(ID, models_dir), pictures, SHOWN, report)
        differences(pictures / "study.png", study_figures.compared(result), result["study"]["margin"])
    if write_card:
        with changed_card(options.own_card(ID, models_dir)) as card:
            card["metrics"] = result
    return result | {"not_met": missed_targets(result)}


@verb(evaluate_app, "despeckle")
def evaluate_despeckle(
    *,
    report: Report,
    data: options.PublicData,
    split: options.Split = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames that speckle is put on.")] = 8,
    models_dir: options.ModelsDir = None,
    write_card: options.WriteCard = False,
) -> Figures:
    """Compare filters and networks: noise, texture, seconds, and heads outlined on what they leave.

    Example: ai-pipeline evaluate despeckle --data DIR   (with the package bm3d, or without that row)
    """
    from ai_pipeline.despeckle.despeckler import MODEL
    from ai_training.despeckle.evaluate import evaluate

    result = evaluate(data, split, frames, models_dir, report)
    if write_card:
        options.write_figures(MODEL, models_dir, {split: result})
    return result


@verb(
    calibrate_app,
    "chest",
    epilog="Example:  ai-pipeline calibrate chest --data our-films.csv --out our-models   "
    "(then models_dir = our-models)",
)
def calibrate_chest(
    *,
    report: Report,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for the new card and a copy of its weights.")],
    split: Annotated[str, typer.Option(help="Which split to fit to; all images without splits.")] = "val",
    model: options.Model = None,
    models_dir: options.ModelsDir = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    force: options.Force = False,
    threads: options.Threads = 0,
) -> Figures:
    """Fit a card's probabilities and thresholds to your own labelled images; writes a card of its own."""
    from ai_training.evaluation.recalibrate import recalibrate

    card = options.chest_card(model, models_dir)
    path, rows = recalibrate(
        data, out, card, split=split, version=version, force=force, threads=threads, report=report
    )
    fitted = [
        {
            "label": row.name,
            "positives": row.positives,
            "ECE before": row.before,
            "ECE after": "unchanged" if row.after is None else row.after,
            "present from": row.label.threshold,
        }
        for row in rows
    ]
    return {"ECE after": "of patients that the curve was not fitted to", "card": str(path), "labels": fitted}


def split(
    *,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Manifest to write (CSV); --data of the other verbs takes it.")],
    train: Annotated[float, typer.Option(help="Share of the patients.")] = 0.6,
    val: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the patients.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 1,
    force: options.Force = False,
) -> Figures:
    """Deal patients out to train, val and test, each label in equal shares; writes a manifest."""
    from ai_training.sets import splits
    from ai_training.sets.chest import chest_set, label_matrix

    found = chest_set(data)
    patients = [image.patient for image in found.images]
    shares = {"train": train, "val": val, "test": test}
    try:
        dealt = splits.split_by_patient(patients, label_matrix(found.images), shares, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--train, --val, --test") from error
    splits.write_manifest(found, dealt, out, force=force)
    typer.echo(
        "A model that was trained on some of these images must not be measured on them under new splits.",
        err=True,
    )
    return splits.table(found.images, dealt, found.labels)


def accept_model(
    model: Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="See `ai-pipeline models list`.")],
    *,
    report: Report,
    data: options.ChestData,
    out: Annotated[Path, typer.Option(help="Folder for acceptance.html, the page to sign.")] = Path(
        "acceptance"
    ),
    split: Annotated[str, typer.Option(help="Which split to use; all images without splits.")] = "val",
    version: Annotated[
        str | None, typer.Option(help="Version of the new card (default: the old-site).")
    ] = None,
    models_dir: options.ModelsDir = None,
    threads: options.Threads = 0,
) -> str:
    """The site's acceptance test: fit a model to your labelled images, measure it, write a page to sign.

    Half of the patients fit calibration, thresholds and gate, the others measure: AUC with intervals, false
    calls. The new card stands beside the original; nothing uses it until `ai-pipeline models activate`.
    """
    from ai_pipeline.models.registry import MODELS_DIR, find, from_environment
    from ai_training.acceptance.accept import accept

    store = models_dir or from_environment()
    if store is None:
        raise typer.BadParameter(f"say which folder, or set {MODELS_DIR}", param_hint="--models-dir")
    card = find(model, store if store.is_dir() else None)
    named = version or f"{card.version}-site"
    made = accept(card, data, store, out, split=split, version=named, threads=threads, report=report)
    shown = [label.name for label in made.card.labels if label.supported]
    return (
        f"{made.page}: read it, sign it, then: ai-pipeline models activate {made.card.name}\n"
        f"Findings that it will show: {', '.join(shown) or 'none, it tells none better than chance'}"
    )


def _filling(data: Path, tools: Tools, pictures: int, report: Report) -> dict[str, Any]:
    """How near the node's filling and the plain one come to what was there, where every mark is removed."""
    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_pipeline.burnin.fill.inpaint import PLAIN
    from ai_training.ultrasound.inpaint import scores as inpaintscores
    from ai_training.ultrasound.marks.maskers import node_mask

    return inpaintscores.evaluate_inpaint(
        data,
        [tools.filler, PLAIN],
        lambda picture: node_mask(picture, tools, CleaningPolicy.RESEARCH),
        pictures=pictures,
        report=report,
    )


def _planned(
    known: dict[str, Card], models_dir: Path | None, policy: CleaningPolicy
) -> Callable[[Picture], Mask | None] | None:
    """What the node's plan removes from a picture; None without a detector."""
    if FINDER not in known:
        return None
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound.marks.maskers import node_mask

    tools = shared_tools(models_dir)
    return lambda picture: node_mask(picture, tools, policy)
