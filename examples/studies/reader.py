#!/usr/bin/env python3
"""A small network that reads lines of letters: trained on drawn ones, measured on real ones."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from drawn_lines import PACKAGES, LineBatches, WrittenLine
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import ctc_loss

from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.texts import text_meaning
from ai_pipeline.burnin.find.annotation import Box, Picture, brightest
from ai_pipeline.burnin.find.networks import (
    HEIGHT,
    STEP,
    SYMBOLS,
    WIDEST,
    Line,
    decoded,
    known,
    prepared,
)
from ai_pipeline.burnin.find.text import TextBox, TextReader
from ai_pipeline.burnin.tools import LINES, shared_tools
from ai_pipeline.contract import Meaning
from ai_training import commands
from ai_training.base import Report, silent
from ai_training.cards import export, new_card
from ai_training.commands import Figures, verb
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.metrics import patient_weights, ratio
from ai_training.sets.files import rows
from ai_training.ultrasound.cleaning import patient_of, shown_frame
from ai_training.ultrasound.legible import SEED, tesseract_line, tesseract_version
from ai_training.ultrasound.marks import burned_frames
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.hands import HELD_OUT
from ai_training.ultrasound.overlays.scenes import clean_frames

WIDTHS = (32, 48, 96, 128)
LINE = 192
"""Channels of the part that knows columns only."""


class ReaderNetwork(nn.Module):
    """The text reader. ``forward``: float32 ``[N, 1, 32, columns]`` of -1..1 to logits ``[N, columns / 4,
    symbols]``.

    ``symbols``: their number with the blank, which is symbol 0.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS
        self.picture = nn.Sequential(
            _block(1, first, (2, 2)),
            _block(first, second),
            _block(second, second, (2, 2)),
            _block(second, third),
            _block(third, third, (2, 1)),
            _block(third, fourth),
            _block(fourth, fourth, (2, 1)),
        )
        rows = HEIGHT // 16
        self.narrow = nn.Conv1d(rows * fourth, LINE, 1)
        self.line = nn.ModuleList(_Neighbours(dilation) for dilation in (1, 2, 4))
        self.head = nn.Conv1d(LINE, symbols, 1)

    def forward(self, lines: Tensor) -> Tensor:
        x = self.picture(lines)
        x = self.narrow(x.flatten(1, 2))
        for block in self.line:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits.transpose(1, 2)


class ReaderGraph(nn.Module):
    """The exported graph: probabilities ``[N, columns / 4, symbols]`` 0..1."""

    def __init__(self, network: ReaderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, lines: Tensor) -> Tensor:
        return torch.softmax(self.network(lines), dim=2)


class _Neighbours(nn.Module):
    """Letters beside a letter say what it is: ``x`` plus what its neighbours add."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.depth = nn.Conv1d(
            LINE, LINE, 5, padding=2 * dilation, dilation=dilation, groups=LINE, bias=False
        )
        self.norm = nn.BatchNorm1d(LINE)
        self.mix = nn.Conv1d(LINE, LINE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.mix(torch.relu(self.norm(self.depth(x)))))


def _block(before: int, after: int, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


ID = "ultrasound-line-reader"


def export_reader(network: ReaderNetwork, path: Path) -> None:
    """Write the reader: input ``lines`` ``[1, 1, 32, columns]`` with free columns, multiples of 4."""
    columns = Dim("columns4", min=8, max=WIDEST // STEP)
    example = (torch.zeros(1, 1, HEIGHT, 128),)
    export(ReaderGraph(network).eval(), example, {"lines": {3: STEP * columns}}, ("symbols",), path)


def write_reader_card(folder: Path, scores: Mapping[str, float], training: Mapping[str, Any]) -> Path:
    """Write the reader's card beside its weights; ``reader.py evaluate`` adds the test figures."""
    about = {
        "task": "reading of single lines of text on ultrasound pictures",
        "architecture": "line-reader: convolutions and CTC",
        "licence": "Apache-2.0; trained from scratch",
        "intended_use": (
            "To read small letters of settings, results and places, so that these stay when names go. What "
            "it does not prove harmless, a second reader reads too. It is no proof that nothing is left."
        ),
        "limits": [
            "Trained on drawn lines; letters of other scripts than Latin are seen as letters and not read.",
            "Lines that slope or stand upside down are read by the second reader only.",
        ],
    }
    tables: dict[str, dict[str, Any]] = {
        "symbols": {"read": SYMBOLS},
        "calibration": {"calibrated": False, "method": "mean probability of the symbols"},
        "training": {
            "data": [
                "invented texts in the fonts of Debian's packages",
                "us_fetal_head, us_breast, us_ovarian (train): grounds",
            ],
            **training,
            "fonts": PACKAGES.split(),
        },
        "metrics": {"validation": {name: round(value, 5) for name, value in scores.items()}},
    }
    made_by = "Model card of the reader of small letters: `examples/studies/reader.py train`."
    return new_card(folder, ID, made_by, "line-reader", about, tables)


Batch = tuple[Tensor, Tensor, Tensor]
VALIDATED = 60
"""Pictures with synthetic overlays whose lines are read in validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRecipe(Recipe):
    """How the text reader is trained. ``lines``: number of text lines in a batch."""

    iterations: int = 14_000
    lines: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.998
    validate_every: int = 1000
    half: bool = True
    workers: int = 0


def train(
    data: Path, out: Path, recipe: ReaderRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, choose, export; returns the card. ``out`` receives checkpoints, history, weights and card.

    Raises DataMissing if image sets or fonts are missing, ExperimentError if ``resume`` finds another recipe.
    """
    run = _ReaderRun(data, out, recipe)
    network = cast(ReaderNetwork, run.trained(report, resume=resume))
    export_reader(network, out / f"{ID}.onnx")
    scores = {name: run.best[name] for name in ("right", "character_error")}
    described = {
        "recipe": recipe.described(),
        "validation": f"lines of {VALIDATED} synthetic pictures, validation frames, fonts of {HELD_OUT.name}",
        "chosen_iteration": run.best["iteration"],
    }
    return write_reader_card(out, scores, described)


class _ReaderRun(RecipeRun[ReaderRecipe]):
    CHOSEN_BY = "right"

    def __init__(self, data: Path, out: Path, recipe: ReaderRecipe) -> None:
        super().__init__(out, recipe)
        self.data, self.validation = data, list(validation_lines(data))

    def new_network(self) -> ReaderNetwork:
        return ReaderNetwork(len(SYMBOLS) + 1)

    def examples(self) -> LineBatches:
        return LineBatches(self.data, self.recipe.lines, self.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        lines, symbols, lengths = batch
        with self.autocast():
            logits = self.network(lines.contiguous(memory_format=torch.channels_last))
        shares = logits.float().log_softmax(2).transpose(0, 1)
        columns = torch.full((shares.shape[1],), shares.shape[0])
        return ctc_loss(shares, symbols, columns, lengths, zero_infinity=True)

    def validate(self) -> Validation:
        wrong, right = scores(cast(ReaderNetwork, self.average).eval(), self.validation)
        figures = {"right": right, "character_error": wrong}
        text = f"{right:.1%} of the lines right, {wrong:.1%} of the characters wrong"
        return Validation(figures, text, self.average.state_dict())


def validation_lines(data: Path) -> Iterator[WrittenLine]:
    """The lines of synthetic overlays on validation frames, in fonts and layouts of no training picture."""
    for _, burned in burned_frames(data, clean_frames("val"), VALIDATED, SEED, HELD_OUT):
        for thing in burned.objects:
            left, top, right, bottom = thing.box
            if thing.kind is MarkClass.TEXT and 4 < bottom - top < right - left:
                yield WrittenLine(brightest(burned.image[top:bottom, left:right]), known(thing.text))


def scores(network: ReaderNetwork, lines: Sequence[WrittenLine]) -> tuple[float, float]:
    """The character error, and the share of lines without a wrong character; blanks do not count."""
    graph = ReaderGraph(network).eval()
    changes = letters = right = 0
    for line in lines:
        with torch.inference_mode():
            shares = graph(input_of(network, prepared(line.picture)[None, None]))[0].cpu().numpy()
        read, truth = (text.replace(" ", "") for text in (decoded(shares)[0], line.text))
        changes, letters, right = (
            changes + distance(read, truth),
            letters + len(truth),
            right + (read == truth),
        )
    return changes / max(1, letters), right / max(1, len(lines))


def distance(one: str, other: str) -> int:
    """The number of letters to insert, delete or replace to turn one text into the other (V. Levenshtein,
    1966).
    """
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, start=1):
        before, row[0] = row[0], index
        for place, other_letter in enumerate(other, start=1):
            cost = min(row[place] + 1, row[place - 1] + 1, before + (letter != other_letter))
            before, row[place] = row[place], cost
    return row[-1]


MARGIN = 0.15
"""What is read around a line's letters (share of their height), as detectors leave it."""

Read = Callable[[Picture, TextBox], Line]


@dataclass(frozen=True, slots=True)
class _LineAsRead:
    group: str
    frame: str
    letters: int
    wrong: int
    harmless: bool
    proven: bool


def evaluate_reader(
    data: Path, lines: Path, reader: TextReader, pictures: int, report: Report = silent
) -> dict[str, Any]:
    """Compare our reader, rapidocr and, if installed, Tesseract; 95 % intervals by bootstrap over frames.

    ``lines``: folder of the real lines; ``pictures``: how many synthetic pictures to draw for names, dates
    and numbers. Raises DataMissing.
    """
    readers: dict[str, Read] = {"ours": reader.read_small, "rapidocr": reader.read}
    if tesseract_version():
        readers["tesseract"] = tesseract_line
    real, names = list(_real(data, lines)), list(_names(data, pictures))
    result: dict[str, Any] = {"lines": len(real), "names_dates_numbers": len(names), "readers": {}}
    for number, (name, read) in enumerate(readers.items()):
        report(number / len(readers), name)
        began = time.perf_counter()
        found = [
            _judged(group, frame, read(picture, box), box, text) for group, frame, picture, box, text in real
        ]
        seconds = time.perf_counter() - began
        leaked = sum(
            text_meaning(box, read(picture, box)) is not Meaning.IDENTITY for _, _, picture, box, _ in names
        )
        result["readers"][name] = {
            **_figures(found),
            "taken_for_harmless": leaked,
            "milliseconds_a_line": 1000 * seconds / max(1, len(real)),
        }
        for group in sorted({line.group for line in found}):
            own = [one for one in found if one.group == group]
            result.setdefault(group, {})[name] = {"lines": len(own), **_figures(own)}
    return result


def _real(data: Path, folder: Path) -> Iterator[tuple[str, str, Picture, TextBox, str]]:
    """Set, patient or file, picture, place and text of each real line."""
    shown: dict[tuple[str, str, str], Picture] = {}
    for row in rows(folder / "lines.csv"):
        key = row["set"], row["file"], row["frame"]
        if key not in shown:
            shown[key] = shown_frame(data, row)[1]
        place = int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
        yield row["set"], patient_of(row["file"]), shown[key], _with_margin(place, shown[key]), row["text"]


def _names(data: Path, count: int) -> Iterator[tuple[str, str, Picture, TextBox, str]]:
    """The same of level names, dates and numbers that are drawn onto test frames."""
    for frame, burned in burned_frames(data, clean_frames("test"), count, SEED, HELD_OUT):
        for thing in burned.objects:
            left, top, right, bottom = thing.box
            identity = thing.kind is MarkClass.TEXT and thing.meaning is Meaning.IDENTITY
            if identity and 4 < bottom - top < right - left:
                yield "drawn", frame.file, burned.image, _with_margin(thing.box, burned.image), thing.text


def _with_margin(box: Box, picture: Picture) -> TextBox:
    left, top, right, bottom = box
    margin = max(1, round(MARGIN * (bottom - top)))
    rows_, columns = picture.shape[:2]
    wider = (
        max(0, left - margin),
        max(0, top - margin),
        min(columns, right + margin),
        min(rows_, bottom + margin),
    )
    return level_box(wider, 1.0)


def _judged(group: str, frame: str, line: Line, box: TextBox, text: str) -> _LineAsRead:
    read, truth = ("".join(one.split()) for one in (line.text, text))
    harmless = meaning_of(text, 1.0) is not Meaning.IDENTITY
    proven = text_meaning(box, line) is not Meaning.IDENTITY
    return _LineAsRead(group, frame, len(truth), distance(read, truth), harmless, proven)


def _figures(found: Sequence[_LineAsRead]) -> dict[str, Any]:
    weights = patient_weights([one.frame for one in found])

    def share(above: Sequence[float], below: Sequence[float]) -> list[float]:
        return ratio(np.array(above, np.float64), np.array(below, np.float64), weights).as_list()

    return {
        "character_error": share([one.wrong for one in found], [one.letters for one in found]),
        "right": share([one.wrong == 0 for one in found], [1] * len(found)),
        "harmless_proven": share(
            [one.harmless and one.proven for one in found], [one.harmless for one in found]
        ),
    }


app = typer.Typer()
Pictures = Annotated[int, typer.Option(help="Pictures with drawn names.")]


@verb(app, "train")
def command_train(
    *,
    report: Report,
    data: commands.PublicData,
    out: commands.Out,
    iterations: commands.Iterations = 9000,
    seed: commands.Seed = 1,
    threads: commands.NetworkThreads = 2,
    workers: commands.Workers = 1,
    resume: commands.Resume = False,
) -> Path:
    """Train the reader of small letters on ultrasound pictures.

    Example: examples/studies/reader.py train --data DIR --out runs/reader
    """
    recipe = ReaderRecipe(iterations=iterations, seed=seed, threads=threads, workers=workers)
    return train(data, out, recipe, resume=resume, report=report)


@verb(app, "evaluate")
def command_evaluate(
    *,
    report: Report,
    data: commands.PublicData,
    lines: Annotated[Path, typer.Option(help="Folder with real lines that were written down by eye.")] = Path(
        "tests/data/lines"
    ),
    pictures: Pictures = 100,
    models_dir: commands.ModelsDir = None,
    write_card: commands.WriteCard = False,
) -> Figures:
    """Read real lines that no reader has seen, and drawn names, beside rapidocr and Tesseract.

    Character error, share of lines without any, share of harmless lines that are proven harmless (so that
    they stay), and names, dates or numbers that are taken for harmless (so that they would). Run where the
    repository is checked out. Intervals are 95 %, by bootstrap over patients, or over frames.

    Example: examples/studies/reader.py evaluate --data ../shared/data
    """

    result = evaluate_reader(data, lines, shared_tools(models_dir).reader, pictures, report)
    if write_card:
        commands.write_figures(LINES, models_dir, {"test": result})
    return result


if __name__ == "__main__":
    app()
