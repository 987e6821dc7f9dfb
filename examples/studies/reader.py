#!/usr/bin/env python3
"""A small network that reads lines of letters: trained on drawn ones, measured on real ones."""

import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import ctc_loss
from torch.utils.data import Dataset

from ai_pipeline.burnin.decide import vocabulary
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.texts import text_meaning
from ai_pipeline.burnin.find.annotation import Box, Picture, brightest
from ai_pipeline.burnin.find.networks import (
    HEIGHT,
    STEP,
    SYMBOLS,
    UNKNOWN,
    WIDEST,
    Line,
    decoded,
    known,
    prepared,
)
from ai_pipeline.burnin.find.text import TextBox, TextReader
from ai_pipeline.burnin.tools import LINES, shared_tools
from ai_pipeline.contract import Meaning
from ai_training import cli
from ai_training.base import DataMissing, Report, silent
from ai_training.cards import export, new_card
from ai_training.cli import Figures, verb
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.metrics import patient_weights, ratio
from ai_training.sets import rows
from ai_training.ultrasound import overlays
from ai_training.ultrasound.cleaning import patient_of, shown_frame
from ai_training.ultrasound.legible import SEED, tesseract_line, tesseract_version
from ai_training.ultrasound.marks import burned_frames
from ai_training.ultrasound.overlays import HELD_OUT, TRAIN, MarkClass, Random, clean_frames, one

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


ANATOMY = sorted(
    word
    for word in vocabulary.NOUNS
    | vocabulary.VIEWS
    | vocabulary.SIDES
    | vocabulary.ALSO_NAMES
    | vocabulary.CODES
    if all(letter in SYMBOLS for letter in word)
)
DEVICE = sorted(vocabulary.PRESETS | vocabulary.MAKERS | vocabulary.PROBES)
SCRIPTS = (
    (0x0391, 0x03C9),
    (0x0410, 0x044F),
    (0x05D0, 0x05EA),
    (0x0621, 0x064A),
    (0x0905, 0x0939),
    (0x4E00, 0x9FA5),
)
"""First and last letters of Greek, Cyrillic, Hebrew, Arabic, Devanagari, Han."""
LONGEST = 40
"""Characters of a line, at most."""
UNITS = (
    "cm",
    "mm",
    "Hz",
    "kHz",
    "MHz",
    "dB",
    "%",
    "cm/s",
    "m/s",
    "fps",
    "ml",
    "°",
    "bpm",
    "ms",
    "g",
    "cc",
    "mmHg",
)
LABELS = (
    "MI",
    "TIs",
    "TIb",
    "TIc",
    "TIS",
    "TIB",
    "Gn",
    "DR",
    "FR",
    "PRF",
    "WF",
    "AO",
    "Frq",
    "SV",
    "Angle",
    "D",
)


def _number(random: Random) -> str:
    value = random.random() * 10 ** int(random.integers(0, 4))
    text = f"{value:.{int(random.integers(0, 3))}f}".replace(".", "," if random.random() < 0.1 else ".")
    sign = one(random, ("", "", "", "-", "+"))
    unit = one(random, ("", " ")) + one(random, UNITS) if random.random() < 0.6 else ""
    label = one(random, LABELS) + one(random, ("", " ", ": ")) if random.random() < 0.4 else ""
    return f"{label}{sign}{text}{unit}"


def _anatomy(random: Random) -> str:
    chosen = [one(random, ANATOMY) for _ in range(int(random.integers(1, 4)))]
    return _cased(" ".join(chosen), random)


def _cased(text: str, random: Random) -> str:
    return one(random, (text.upper(), text.upper(), text.lower(), text.title(), text))


def _some_letters(random: Random) -> str:
    """Letters without a sense, so that the network reads and does not guess."""
    pools = (string.ascii_uppercase, string.ascii_lowercase, string.digits, SYMBOLS.replace(UNKNOWN, ""))
    return " ".join(
        "".join(one(random, one(random, pools)) for _ in range(int(random.integers(1, 8))))
        for _ in range(int(random.integers(1, 4)))
    )


def _other_script(random: Random) -> str:
    first, last = one(random, SCRIPTS)
    return " ".join(
        "".join(chr(int(random.integers(first, last + 1))) for _ in range(int(random.integers(2, 7))))
        for _ in range(int(random.integers(1, 3)))
    )


_SHARES: tuple[tuple[float, Callable[[Random], str]], ...] = (
    (0.16, lambda random: overlays.settings(random, 1)[0]),
    (0.05, overlays.acoustic_output),
    (0.13, overlays.measurement),
    (0.14, _number),
    (0.12, _anatomy),
    (0.05, lambda random: _cased(one(random, DEVICE), random)),
    (
        0.09,
        lambda random: overlays.person_name(
            random, one(random, [form for form in TRAIN.names if form != "korean"])
        ),
    ),
    (0.06, lambda random: overlays.date_text(random, one(random, TRAIN.dates))),
    (0.02, overlays.time_text),
    (0.04, overlays.identifier),
    (0.03, lambda random: overlays.hospital(random, korean=False)),
    (0.08, _some_letters),
    (0.03, _other_script),
)


def drawn_text(random: Random) -> str:
    """A random line of text with up to three items."""
    shares = [share for share, _ in _SHARES]
    count = 1 + int(random.random() < 0.25) + int(random.random() < 0.08)
    kinds = random.choice(len(_SHARES), count, p=[share / sum(shares) for share in shares])
    gap = one(random, (" ", " ", "  ", " / ", ", "))
    return " ".join(gap.join(_SHARES[kind][1](random) for kind in kinds).split())[:LONGEST].strip()


FONTS = Path("/usr/share/fonts")
PACKAGES = (
    "fonts-liberation fonts-freefont-ttf fonts-noto-core xfonts-base fonts-roboto-unhinted fonts-inconsolata "
    "fonts-open-sans fonts-lato fonts-hack fonts-firacode fonts-cantarell fonts-urw-base35 fonts-play "
    "fonts-wqy-microhei fonts-croscore"
)
BITMAPS = (
    "5x7",
    "5x8",
    "6x9",
    "6x10",
    "6x12",
    "6x13",
    "6x13B",
    "7x13",
    "7x13B",
    "7x14",
    "7x14B",
    "8x13",
    "8x13B",
    "9x15",
)
"""Bitmap fonts of ``xfonts-base``, in the encoding ISO 8859-1."""
FAMILIES = (
    "liberation*/*Sans*",
    "liberation*/*Mono*",
    "freefont/FreeSans*",
    "freefont/FreeMono*",
    "roboto/unhinted/RobotoTTF/Roboto-[RMBL]*",
    "inconsolata/*",
    "open-sans/*",
    "lato/Lato-[RMB]*",
    "hack/Hack-[RB]*",
    "firacode/FiraCode-[RMB]*",
    "croscore/[AC]*",
    "play/*",
    "cantarell/*",
    "urw-base35/NimbusSans*",
    "urw-base35/NimbusMono*",
    "urw-base35/URWGothic*",
    "noto/NotoSans-[RMBC]*",
    "roboto/unhinted/RobotoTTF/Roboto-Light*",
    "noto/NotoSansDisplay-[RMBC]*",
)
OTHERS = {
    0x0391: "noto/NotoSans-Regular*",
    0x0410: "noto/NotoSans-Bold.*",
    0x05D0: "noto/NotoSansHebrew-[RB]*",
    0x0621: "noto/NotoSansArabic-[RB]*",
    0x0905: "noto/NotoSansDevanagari-[RB]*",
    0x4E00: "wqy/*",
}
"""The fonts of other scripts, by their first letters."""
WIDTH = 64
"""Columns of a batch are multiples of this: torch prepares itself for each width anew."""
POOL = 16
"""Batches that are drawn together."""
NOTHING = 0.08
"""Share of pictures without letters: tissue, walls of vessels, lines and ticks of drawings."""
SMALLEST, LARGEST = 6, 30
"""Height of a capital (pixels)."""
CELLS = (0.0, 0.35)
"""Margins of a line beyond its letters, above and below (heights of it)."""


@dataclass(frozen=True, slots=True)
class WrittenLine:
    """A picture of a line and its text."""

    picture: Picture
    text: str


class LineBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch i of a run: lines ``[N, 1, 32, columns]``, the symbols of all texts joined, the lengths of the
    texts.

    Batches of lines of similar length are cut from a pool, which is drawn from (seed, the pool's number)
    alone.
    """

    def __init__(self, data: Path, size: int, seed: int) -> None:
        self._grounds = _grounds(data)
        self._size, self._seed = size, seed
        self._pool: tuple[int, list[tuple[Picture, str]]] = (-1, [])

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        cv2.setNumThreads(1)
        number, place = divmod(iteration, POOL)
        if self._pool[0] != number:
            self._pool = number, self._drawn(number)
        return batch_of(self._pool[1][place * self._size : (place + 1) * self._size])

    def _drawn(self, number: int) -> list[tuple[Picture, str]]:
        """The lines of a pool, those of about one length side by side; batches in a random order."""
        random = np.random.default_rng((self._seed, number))
        lines = [synthetic_line(random, self._grounds) for _ in range(POOL * self._size)]
        lines.sort(key=lambda line: line[0].shape[1] / line[0].shape[0])
        batches = [lines[start : start + self._size] for start in range(0, len(lines), self._size)]
        return [line for index in random.permutation(POOL) for line in batches[index]]


def batch_of(drawn: Sequence[tuple[Picture, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures and texts as training tensors; pictures too narrow for their text are stretched."""
    inputs = [_stretched(prepared(picture), len(text)) for picture, text in drawn]
    columns = WIDTH * ceil(max(one.shape[1] for one in inputs) / WIDTH)
    lines = np.zeros((len(inputs), 1, HEIGHT, columns), np.float32)
    for index, one_line in enumerate(inputs):
        lines[index, 0, :, : one_line.shape[1]] = one_line
    symbols = [SYMBOLS.index(letter) + 1 for _, text in drawn for letter in text]
    lengths = torch.tensor([len(text) for _, text in drawn])
    return torch.from_numpy(lines), torch.tensor(symbols), lengths


def synthetic_line(random: Random, grounds: Sequence[Picture]) -> tuple[Picture, str]:
    """A line in a random font on a random background, and its text in the reader's symbols; at
    times no text.
    """
    if random.random() < NOTHING:
        return _nothing(random, grounds), ""
    while True:
        text = drawn_text(random)
        letters = _letters(text, random) if text else None
        if letters is not None and letters.shape[1] < 900:
            return _spoilt(letters, random, grounds), known(text)


def _letters(text: str, random: Random) -> npt.NDArray[np.float32] | None:
    """The letters as opacity 0..1; None where the font has no letter for one of them."""
    foreign = next((letter for letter in text if known(letter) == UNKNOWN), None)
    size = float(np.exp(random.uniform(np.log(SMALLEST), np.log(LARGEST))))
    bitmap = foreign is None and random.random() < 0.25
    reduced = 1.0 if bitmap and random.random() < 0.6 else random.choice([1.0, 1.0, 1.4, 2.0, 2.5])
    if bitmap:
        font, grow = _bitmap(one(random, BITMAPS)), int(random.choice([1, 1, 1, 2]))
        if any(ord(letter) > 255 for letter in text):
            return None
    else:
        start = max((first for first in OTHERS if foreign and ord(foreign) >= first), default=0)
        faces = _faces(OTHERS[start]) if foreign else _faces(one(random, FAMILIES))
        font, grow = _font(str(one(random, faces)), max(5, round(size * reduced * 1.38))), 1
    spacing = int(random.integers(1, 3)) if random.random() < 0.12 else 0
    smooth = not bitmap and random.random() < 0.8
    image = _written(text, font, spacing, smooth)
    if image is None:
        return None
    if grow > 1:
        image = np.kron(image, np.ones((grow, grow), np.uint8))
    if reduced > 1:
        rows, columns = (max(5, round(side / reduced)) for side in image.shape)
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    if random.random() < 0.15:
        width = 1 + 0.35 * (random.random() - 0.3)
        image = cv2.resize(image, (max(4, round(image.shape[1] * width)), image.shape[0]))
    return np.asarray(image.astype(np.float32) / 255, np.float32)


def _nothing(random: Random, grounds: Sequence[Picture]) -> Picture:
    """A part of a picture without letters, perhaps with a line or a row of ticks in it."""
    rows = int(random.integers(8, 48))
    letters = np.zeros((rows, int(rows * random.uniform(0.8, 8))), np.uint8)
    kind = random.random()
    if kind < 0.2:
        ends = [(int(random.integers(letters.shape[1])), int(random.integers(rows))) for _ in range(2)]
        cv2.line(letters, ends[0], ends[1], 255, int(random.integers(1, 3)), cv2.LINE_AA)
    elif kind < 0.35:
        letters[rows // 3 : rows // 3 + int(random.integers(2, 9)), :: int(random.integers(5, 40))] = 255
    elif kind < 0.45:
        middle, reach = (letters.shape[1] // 2, rows // 2), int(random.integers(3, 9))
        cv2.drawMarker(letters, middle, 255, int(random.choice([0, 1, 3, 5])), 2 * reach)
    return _spoilt(np.asarray(letters / 255, np.float32), random, grounds)


def _written(text: str, font: ImageFont.FreeTypeFont, spacing: int, smooth: bool) -> Picture | None:
    left, top, right, bottom = font.getbbox(text)
    width = int(right - left) + 2 + spacing * len(text)
    if width < 3 or bottom - top < 3 or width > 2500:
        return None
    image = Image.new("L", (width, int(bottom - top) + 2), 0)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L" if smooth else "1"
    place = 1.0 - left
    for letter in text if spacing else [text]:
        draw.text((place, 1 - top), letter, fill=255, font=font)
        place += font.getlength(letter) + spacing
    return np.array(image, np.uint8)


def _spoilt(letters: npt.NDArray[np.float32], random: Random, grounds: Sequence[Picture]) -> Picture:
    """The letters on a ground, with a margin as detectors leave it, blurred and compressed."""
    high = letters.shape[0]
    above, below = (round(random.uniform(*CELLS) * high) for _ in range(2))
    before, after = (round(random.uniform(0.0, 0.5) * high) for _ in range(2))
    alpha = np.pad(letters, ((above + 2, below + 2), (before + 2, after + 2)))
    if random.random() < 0.15:
        alpha = np.pad(letters, ((above, below), (before, after)))
    ground = _ground(alpha.shape, random, grounds)
    ink = float(random.uniform(110, 255))
    if random.random() < 0.08:
        ground, ink = 255 - ground * 0.4, float(random.uniform(0, 90))
    elif ground.mean() > 90:
        ink = max(ink, min(255.0, float(ground.mean()) + 70))
    if random.random() < 0.15:  # a dark rim or shadow
        rim = cv2.dilate(alpha, np.ones((3, 3), np.uint8))
        ground = ground * (1 - rim)
    opacity = float(random.choice([1.0, 1.0, 0.85, 0.65]))
    made = ground * (1 - alpha * opacity) + ink * alpha * opacity
    if random.random() < 0.35:
        made = cv2.GaussianBlur(made, (0, 0), float(random.uniform(0.3, 0.9)))
    if random.random() < 0.3:
        made = made + random.normal(0, random.uniform(1, 10), made.shape)
    made = _shifted(made, random)
    return _compressed(np.clip(made, 0, 255).astype(np.uint8), random)


def _ground(shape: tuple[int, int], random: Random, grounds: Sequence[Picture]) -> npt.NDArray[np.float32]:
    kind = random.random()
    if kind < 0.45:
        return np.full(shape, random.choice([0, 0, 0, random.uniform(0, 60)]), np.float32)
    ground = grounds[int(random.integers(len(grounds)))]
    if kind > 0.9:
        ground = cv2.resize(ground, None, fx=2, fy=2)
    rows, columns = (max(0, want - have) for want, have in zip(shape, ground.shape, strict=True))
    if rows or columns:
        ground = np.pad(
            ground,
            ((0, rows), (0, columns)),
            mode="reflect" if max(rows, columns) < min(ground.shape) else "wrap",
        )
    top, left = (
        int(random.integers(0, have - want + 1)) for want, have in zip(shape, ground.shape, strict=True)
    )
    return ground[top : top + shape[0], left : left + shape[1]].astype(np.float32) * float(
        random.uniform(0.4, 1.1)
    )


def _shifted(made: npt.NDArray[np.float32], random: Random) -> npt.NDArray[np.float32]:
    """Turned and cut a little, as a detector's box is."""
    rows, columns = made.shape
    slope = random.normal(0, 0.008) if random.random() < 0.5 else 0.0
    part = random.uniform(-0.5, 0.5, 2) if random.random() < 0.5 else (0.0, 0.0)
    if slope == 0.0 and part[0] == 0.0:
        return made
    turn = np.array([[1, 0, part[0]], [slope, 1, part[1] - slope * columns / 2]], np.float32)
    return np.asarray(
        cv2.warpAffine(made, turn, (columns, rows), borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _compressed(picture: Picture, random: Random) -> Picture:
    if random.random() > 0.6:
        return picture
    quality = [int(cv2.IMWRITE_JPEG_QUALITY), int(random.integers(45, 96))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_GRAYSCALE), np.uint8)


def _stretched(line: npt.NDArray[np.float32], letters: int) -> npt.NDArray[np.float32]:
    """CTC needs an output for each letter and for the blanks between equal ones."""
    least = STEP * (2 * letters + 1)
    if line.shape[1] >= least:
        return line
    return np.asarray(cv2.resize(line, (least, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)


def _grounds(data: Path) -> list[Picture]:
    """Clean parts of every third training frame, grey."""
    return [np.ascontiguousarray(brightest(frame.read(data))) for frame in clean_frames("train")[::3]]


@cache
def _faces(pattern: str) -> list[Path]:
    found = sorted(path for folder in ("truetype", "opentype") for path in (FONTS / folder).glob(pattern))
    found = [path for path in found if path.suffix in {".ttf", ".otf", ".ttc"} and "Italic" not in path.name]
    if not found:
        raise DataMissing(f"no font {pattern} in {FONTS}: install the packages {PACKAGES}")
    return found


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _bitmap(name: str) -> ImageFont.FreeTypeFont:
    path = FONTS / "X11" / "misc" / f"{name}-ISO8859-1.pcf.gz"
    if not path.is_file():
        raise DataMissing(f"no font {path.name}: install the packages {PACKAGES}")
    return ImageFont.truetype(str(path), int(name.rstrip("B").partition("x")[2]))  # the only size it has


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
        "licence": "AGPL-3.0-or-later; trained from scratch",
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
    data: cli.PublicData,
    out: cli.Out,
    iterations: cli.Iterations = 9000,
    seed: cli.Seed = 1,
    threads: cli.NetworkThreads = 2,
    workers: cli.Workers = 1,
    resume: cli.Resume = False,
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
    data: cli.PublicData,
    lines: Annotated[Path, typer.Option(help="Folder with real lines that were written down by eye.")] = Path(
        "tests/data/lines"
    ),
    pictures: Pictures = 100,
    models_dir: cli.ModelsDir = None,
    write_card: cli.WriteCard = False,
) -> Figures:
    """Read real lines that no reader has seen, and drawn names, beside rapidocr and Tesseract.

    Character error, share of lines without any, share of harmless lines that are proven harmless (so that
    they stay), and names, dates or numbers that are taken for harmless (so that they would). Run where the
    repository is checked out. Intervals are 95 %, by bootstrap over patients, or over frames.

    Example: examples/studies/reader.py evaluate --data ../shared/data
    """

    result = evaluate_reader(data, lines, shared_tools(models_dir).reader, pictures, report)
    if write_card:
        cli.write_figures(LINES, models_dir, {"test": result})
    return result


if __name__ == "__main__":
    app()
