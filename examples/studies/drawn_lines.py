"""Lines of letters, drawn as scanners write them: texts, fonts, how pictures spoil them, batches."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.burnin.decide import vocabulary
from ai_pipeline.burnin.find.annotation import Picture, brightest
from ai_pipeline.burnin.find.networks import (
    HEIGHT,
    STEP,
    SYMBOLS,
    UNKNOWN,
    known,
    prepared,
)
from ai_training.base import DataMissing
from ai_training.ultrasound.overlays import texts
from ai_training.ultrasound.overlays.hands import TRAIN
from ai_training.ultrasound.overlays.scenes import clean_frames
from ai_training.ultrasound.overlays.texts import Random, one

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
    (0.16, lambda random: texts.settings(random, 1)[0]),
    (0.05, texts.acoustic_output),
    (0.13, texts.measurement),
    (0.14, _number),
    (0.12, _anatomy),
    (0.05, lambda random: _cased(one(random, DEVICE), random)),
    (
        0.09,
        lambda random: texts.person_name(
            random, one(random, [form for form in TRAIN.names if form != "korean"])
        ),
    ),
    (0.06, lambda random: texts.date_text(random, one(random, TRAIN.dates))),
    (0.02, texts.time_text),
    (0.04, texts.identifier),
    (0.03, lambda random: texts.hospital(random, korean=False)),
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
