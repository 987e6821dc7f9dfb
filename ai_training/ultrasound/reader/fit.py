"""``ai-pipeline train reader``: teach a small network to read lines of ultrasound screens.

Runs are seeded and limited by iterations; the checkpoint is chosen on lines in fonts of no training picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from ai_pipeline.burnin.annotation.pixels import brightest
from ai_pipeline.burnin.find.line_network import decoded, prepared
from ai_pipeline.burnin.find.symbols import SYMBOLS, known
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.networks.reader import ReaderGraph, ReaderNetwork
from ai_training.progress import Report, silent
from ai_training.ultrasound.legible.evaluate import SEED
from ai_training.ultrasound.marks.data import burned_frames
from ai_training.ultrasound.overlays import HELD_OUT, MarkClass, clean_frames
from ai_training.ultrasound.reader.export import ID, export_reader, write_reader_card
from ai_training.ultrasound.reader.lines import LineBatches, WrittenLine

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
