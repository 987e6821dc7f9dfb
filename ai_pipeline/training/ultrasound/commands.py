"""``ai-pipeline train marks|inpaint|clean-frames`` and ``ai-pipeline evaluate marks|inpaint``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_pipeline import registry
from ai_pipeline.training.console import errors, progress

if TYPE_CHECKING:
    from ai_pipeline.burnin.fillers import Inpainter
    from ai_pipeline.burnin.markfinder import MarkFinder

FINDER = "ultrasound-marks-unet"

Data = Annotated[Path, typer.Option(help="Folder with the public image sets (docs/training.md).")]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints, card and weights.")]
Iterations = Annotated[int, typer.Option(help="Steps of the optimiser.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Threads = Annotated[int, typer.Option(help="CPU threads of the network.")]
Workers = Annotated[int, typer.Option(help="Processes that draw pictures; 0: in this one.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Models = Annotated[Path | None, typer.Option(help="Folder with another card and weights.")]
Pictures = Annotated[int, typer.Option(help="Synthetic pictures to measure on.")]
Split = Annotated[str, typer.Option(help="test or val.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Architecture(StrEnum):
    """The inpainting networks."""

    OCI_GAN = "oci-gan"
    UNET = "unet"
    VAE = "vae"


def add_to(train_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Mount the commands."""
    train_app.command("marks")(train_marks)
    train_app.command("inpaint")(train_inpaint)
    train_app.command("clean-frames")(list_clean_frames)
    evaluate_app.command("marks")(evaluate_marks)
    evaluate_app.command("inpaint")(evaluate_inpaint)


def train_marks(
    *,
    data: Data,
    out: Out,
    iterations: Iterations = 6000,
    seed: Seed = 1,
    threads: Threads = 2,
    workers: Workers = 1,
    resume: Resume = False,
) -> None:
    """Train the detector of burned-in annotation in ultrasound pictures."""
    with errors(), progress() as report:
        from ai_pipeline.training.ultrasound import marks

        recipe = marks.Recipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
        card = marks.train(data, out, recipe, resume=resume, report=report)
    typer.echo(str(card))


def train_inpaint(
    *,
    data: Data,
    out: Out,
    arch: Annotated[Architecture, typer.Option(help="Which network.")] = Architecture.OCI_GAN,
    iterations: Iterations = 6000,
    seed: Seed = 1,
    threads: Threads = 2,
    workers: Workers = 1,
    adversarial: Annotated[float, typer.Option(help="Weight of the adversary (oci-gan).")] = 0.01,
    resume: Resume = False,
) -> None:
    """Train a network that fills the pixels of removed annotation."""
    with errors(), progress() as report:
        from ai_pipeline.training.ultrasound import inpaint
        from ai_pipeline.training.ultrasound.inpaintloss import LossWeights

        recipe = inpaint.Recipe(
            architecture=arch.value,
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
    data: Data,
    out: Annotated[Path, typer.Option(help="CSV file to write (the shipped list is not touched).")],
) -> None:
    """Search the public frames for parts without annotation; takes about 0.6 s a frame."""
    with errors(), progress() as report:
        from ai_pipeline.burnin.text import shared_reader
        from ai_pipeline.training.ultrasound.overlays.cleanframes import find_clean_frames, write_list

        count = write_list(find_clean_frames(data, shared_reader(), report), out)
    typer.echo(f"{count} parts")


def evaluate_marks(
    *,
    data: Data,
    split: Split = "test",
    style: Annotated[str, typer.Option(help="held-out or train.")] = "held-out",
    pictures: Pictures = 200,
    threads: Threads = 2,
    models_dir: Models = None,
    as_json: AsJson = False,
) -> None:
    """Measure the mark detector on synthetic overlays; every interval is 95 %, by bootstrap over frames."""
    _check("--split", split, ("test", "val"))
    _check("--style", style, ("held-out", "train"))
    with errors(), progress() as report:
        from ai_pipeline.training.ultrasound import markscores

        finder, threshold = _finder(registry.find(FINDER, models_dir), threads)
        result = markscores.evaluate_marks(
            data, finder, threshold, pictures=pictures, split=split, style=style, report=report
        )
    typer.echo(json.dumps(result) if as_json else _marks_text(result))


def evaluate_inpaint(
    *,
    data: Data,
    split: Split = "test",
    pictures: Pictures = 200,
    threads: Threads = 2,
    models_dir: Models = None,
    as_json: AsJson = False,
) -> None:
    """Compare the ways of filling holes, with a given and with a detected mask.

    Networks whose cards are not there are left out. Intervals are 95 %, by bootstrap over frames.
    """
    _check("--split", split, ("test", "val"))
    with errors(), progress() as report:
        from ai_pipeline.training.ultrasound import inpaintscores

        known = {card.id: card for card in registry.cards(models_dir)}
        finder = _finder(known[FINDER], threads) if FINDER in known else None
        ways = _inpainters(known, threads)
        result = inpaintscores.evaluate_inpaint(
            data, ways, finder, pictures=pictures, split=split, report=report
        )
    typer.echo(json.dumps(result) if as_json else _inpaint_text(result))


def _check(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise typer.BadParameter(f"must be {' or '.join(choices)}", param_hint=option)


def _finder(card: registry.Card, threads: int) -> tuple[MarkFinder, float]:
    from ai_pipeline.burnin.markfinder import MarkFinder
    from ai_pipeline.engine import OnnxRuntime

    engine = OnnxRuntime(registry.read(card.file("mark-finder")), threads)
    return MarkFinder(engine), float(card.details["detector"]["threshold"])


def _inpainters(known: dict[str, registry.Card], threads: int) -> list[Inpainter]:
    from ai_pipeline.burnin.fillers import Classical, Learned, on_onnx
    from ai_pipeline.training.ultrasound.inpaintexport import file_id

    ways: list[Inpainter] = []
    for name in ("unet", "vae", "oci-gan"):
        card = known.get(file_id(name))
        if card is not None:
            ways.append(Learned(name, on_onnx(registry.read(card.file("inpainter")), threads)))
    return [*ways, Classical("telea"), Classical("navier-stokes")]


def _marks_text(result: dict[str, Any]) -> str:
    lines = [f"{result['set']}, threshold {result['threshold']}"]
    lines += [
        f"{title:22}{_interval(result[key])}"
        for key, title in (
            ("object_recall", "object recall"),
            ("pixel_recall", "pixel recall"),
            ("precision", "precision"),
            ("dice", "Dice"),
            ("clean_area", "area marked on clean"),
        )
    ]
    lines += [
        f"  {kind:20}{_interval(row['recall'])}  of {row['objects']}"
        for kind, row in result["by_kind"].items()
    ]
    return "\n".join(lines)


def _inpaint_text(result: dict[str, Any]) -> str:
    """One table per kind of mask and place; under each the differences to the reference."""
    lines = [result["set"]]
    for mask in ("given", "detected"):
        rows = [row for row in result["rows"] if row["mask"] == mask]
        for where, title in (("inside", "in the mask"), ("whole", "whole picture")):
            if not rows:
                continue
            lines.append(f"\n{mask} mask, {title}")
            lines.append(f"{'':16}{'MAE 0–255':26}{'MSE 0–1':28}{'PSNR dB':26}{'SSIM':26}KID")
            lines += [_inpaint_row(row, where) for row in rows]
            lines += [
                f"  {row['name']} − {result['reference']}: "
                f"PSNR {_interval(row[where]['difference']['psnr'])}, "
                f"SSIM {_interval(row[where]['difference']['ssim'])}"
                for row in rows
                if "difference" in row[where]
            ]
    return "\n".join(lines)


def _inpaint_row(row: dict[str, Any], where: str) -> str:
    cells = row[where]
    return (
        f"{row['name']:16}{_interval(cells['mae'], 2):26}{_interval(cells['mse'], 5):28}"
        f"{_interval(cells['psnr'], 2):26}{_interval(cells['ssim']):26}{_interval(row['kid'], 4)}"
    )


def _interval(values: list[float], digits: int = 3) -> str:
    value, low, high = values
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
