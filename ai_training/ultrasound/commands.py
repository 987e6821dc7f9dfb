"""``ai-pipeline train marks|inpaint|clean-frames``, ``evaluate marks|legible|inpaint|cleaning``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_pipeline.models import registry
from ai_training import options
from ai_training.console import errors, progress
from ai_training.ultrasound.tables import cleaning_text, inpaint_text, legible_text, marks_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
    from ai_pipeline.burnin.annotation.pixels import Mask, Picture
    from ai_pipeline.burnin.tools import Tools
    from ai_training.progress import Report

FINDER = "ultrasound-marks-unet"

Pictures = Annotated[int, typer.Option(help="Synthetic pictures to measure on; 0 for `marks`: none.")]
PolicyName = Annotated[
    Literal["research", "clinical"], typer.Option(help="What has to go: all, or what names the patient.")
]
ReportTo = Annotated[Path | None, typer.Option("--report", help="Folder for pictures of what failed.")]


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("marks")(train_marks)
    train_app.command("inpaint")(train_inpaint)
    train_app.command("clean-frames")(list_clean_frames)
    evaluate_app.command("marks")(evaluate_marks)
    evaluate_app.command("legible")(evaluate_legible)
    evaluate_app.command("inpaint")(evaluate_inpaint)
    evaluate_app.command("cleaning")(evaluate_cleaning)


def train_marks(
    *,
    data: options.PublicData,
    out: options.Out,
    iterations: options.Iterations = 6000,
    seed: options.Seed = 1,
    threads: options.NetworkThreads = 2,
    workers: options.Workers = 1,
    resume: options.Resume = False,
) -> None:
    """Train the detector of burned-in annotation in ultrasound pictures."""
    with errors(), progress() as report:
        from ai_training.ultrasound.marks import fit as marks

        recipe = marks.MarkRecipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
        card = marks.train(data, out, recipe, resume=resume, report=report)
    typer.echo(str(card))


def train_inpaint(
    *,
    data: options.PublicData,
    out: options.Out,
    arch: Annotated[Literal["oci-gan", "unet", "vae"], typer.Option(help="Which network.")] = "oci-gan",
    iterations: options.Iterations = 6000,
    seed: options.Seed = 1,
    threads: options.NetworkThreads = 2,
    workers: options.Workers = 1,
    adversarial: Annotated[float, typer.Option(help="Weight of the adversary (oci-gan).")] = 0.01,
    resume: options.Resume = False,
) -> None:
    """Train a network that fills the pixels of removed annotation."""
    with errors(), progress() as report:
        from ai_training.ultrasound.inpaint import fit as inpaint
        from ai_training.ultrasound.inpaint.loss import LossWeights

        recipe = inpaint.InpaintRecipe(
            architecture=arch,
            iterations=iterations,
            seed=seed,
            threads=threads,
            workers=workers,
            weights=LossWeights(adversarial=adversarial),
        )
        card = inpaint.train(data, out, recipe, resume=resume, report=report)
    typer.echo(str(card))


def list_clean_frames(
    *,
    data: options.PublicData,
    out: Annotated[Path, typer.Option(help="CSV file to write (the shipped list is not touched).")],
) -> None:
    """Search the public frames for parts without annotation; takes about 0.6 s a frame."""
    with errors(), progress() as report:
        from ai_pipeline.burnin.find.text import shared_reader
        from ai_training.ultrasound.overlays.frame_list import find_clean_frames, write_list

        count = write_list(find_clean_frames(data, shared_reader(), report), out)
    typer.echo(f"{count} parts")


def evaluate_marks(
    *,
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
    as_json: options.AsJson = False,
    write_card: options.WriteCard = False,
) -> None:
    """Measure the mark detector, and all that the node removes, on synthetic overlays and on real frames.

    With --masks on the hand-drawn test frames; with --split val on the coloured marks of validation frames,
    which choices are made by. --report draws every mark that was missed. Intervals are 95 %, over frames.
    """
    if masks is not None and split != "test":
        raise typer.BadParameter("the hand-drawn frames are test frames", param_hint="--split")
    options.needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
        from ai_pipeline.burnin.tools import shared_tools
        from ai_training.ultrasound.marks.evaluate import evaluate_removal
        from ai_training.ultrasound.marks.maskers import at_threshold

        tools = at_threshold(shared_tools(models_dir), threshold)
        result = evaluate_removal(
            data, tools, masks=masks, split=split, style=style, pictures=pictures,
            policy=CleaningPolicy(policy), report_to=report_to, report=report,
        )  # fmt: skip
        if write_card:
            from ai_training.ultrasound.card_figures import add_figures, marks_figures

            add_figures(options.own_card(FINDER, models_dir), marks_figures(result))
    typer.echo(json.dumps(result) if as_json else marks_text(result))


def evaluate_legible(
    *,
    data: options.PublicData,
    pictures: Annotated[int, typer.Option(help="Pictures with a name, date or number burned in.")] = 500,
    split: options.Split = "test",
    policy: PolicyName = "research",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
    as_json: options.AsJson = False,
    write_card: options.WriteCard = False,
) -> None:
    """Burn names, dates and numbers in, clean as the node cleans, and try to read them: two OCR engines.

    Counts with exact upper 95 % bounds. --report draws every picture in which something is left, and every
    one that the node withheld. About 3 s a picture on one core.
    """
    options.needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
        from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
        from ai_training.ultrasound.legible import evaluate as legible
        from ai_training.ultrasound.legible.counts import counted, missed_targets

        job = legible.LegibleTask(data, split, CleaningPolicy(policy), models_dir, report_to)
        result = counted(list(legible.outcomes(job, pictures, workers, report)), split, policy)
        missed = missed_targets(result)
        if write_card:
            from ai_training.ultrasound.card_figures import add_figures, legible_figures

            add_figures(options.own_card(FINDER, models_dir), legible_figures(result))
    typer.echo(json.dumps(result | {"not_met": missed}) if as_json else legible_text(result, missed))


def evaluate_inpaint(
    *,
    data: options.PublicData,
    split: options.Split = "test",
    pictures: Pictures = 200,
    threads: options.NetworkThreads = 2,
    policy: PolicyName = "research",
    models_dir: options.ModelsDir = None,
    report_to: ReportTo = None,
    as_json: options.AsJson = False,
    write_card: options.WriteCard = False,
    write_study: Annotated[
        Path | None, typer.Option(help="Page to write (docs/studies/inpainting.md), pictures beside it.")
    ] = None,
) -> None:
    """Compare the ways of filling holes, with a given mask and with all that the node's plan removes.

    Networks whose cards are not there are left out; without a mark detector so is the detected mask.
    --report writes grids before | filled | truth and plots. Intervals are 95 %, by bootstrap over frames.
    """
    options.needs_models_dir(write_card, models_dir)
    with errors(), progress() as report:
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
            from ai_training.ultrasound.card_figures import add_figures, inpaint_figures

            for card_id, figures in inpaint_figures(result).items():
                if card_id in known:
                    add_figures(options.own_card(card_id, models_dir), figures)
    typer.echo(json.dumps(result) if as_json else inpaint_text(result))


def evaluate_cleaning(
    *,
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
    as_json: options.AsJson = False,
) -> None:
    """Clean real frames; tell what was taken of waves, flow, bars, rulers, calipers and text.

    What was under a real mark nobody knows: how near the filling comes to it is measured on clean frames on
    which marks were drawn.

    Run where the repository is checked out: the marks lie among its tests. Intervals are 95 %, by bootstrap
    over patients, or over frames where the patient is not known. --report draws every frame before and after.
    Below stands how far the annotator agrees with a second one who drew some of the frames again.

    Example: ai-pipeline evaluate cleaning --data ../shared/data --report /tmp/cleaning
    """
    with errors(), progress() as report:
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
    typer.echo(json.dumps(result) if as_json else cleaning_text(result))


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
    known: dict[str, registry.Card], models_dir: Path | None, policy: CleaningPolicy
) -> Callable[[Picture], Mask | None] | None:
    """What the node's plan removes from a picture; None without a detector."""
    if FINDER not in known:
        return None
    from ai_pipeline.burnin.tools import shared_tools
    from ai_training.ultrasound.marks.maskers import node_mask

    tools = shared_tools(models_dir)
    return lambda picture: node_mask(picture, tools, policy)
