"""Invented texts of lines on an ultrasound screen: settings, results, anatomy, names, dates."""

from __future__ import annotations

import string
from collections.abc import Callable

from ai_pipeline.burnin.decide import vocabulary
from ai_pipeline.burnin.find.symbols import SYMBOLS, UNKNOWN
from ai_training.ultrasound.overlays import words
from ai_training.ultrasound.overlays.styles import TRAIN
from ai_training.ultrasound.overlays.words import Random, one

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


def _letters(random: Random) -> str:
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
    (0.16, lambda random: words.settings(random, 1)[0]),
    (0.05, words.acoustic_output),
    (0.13, words.measurement),
    (0.14, _number),
    (0.12, _anatomy),
    (0.05, lambda random: _cased(one(random, DEVICE), random)),
    (
        0.09,
        lambda random: words.name(random, one(random, [form for form in TRAIN.names if form != "korean"])),
    ),
    (0.06, lambda random: words.date(random, one(random, TRAIN.dates))),
    (0.02, words.time),
    (0.04, words.identifier),
    (0.03, lambda random: words.hospital(random, korean=False)),
    (0.08, _letters),
    (0.03, _other_script),
)


def drawn_text(random: Random) -> str:
    """A random line of text with up to three items."""
    shares = [share for share, _ in _SHARES]
    count = 1 + int(random.random() < 0.25) + int(random.random() < 0.08)
    kinds = random.choice(len(_SHARES), count, p=[share / sum(shares) for share in shares])
    gap = one(random, (" ", " ", "  ", " / ", ", "))
    return " ".join(gap.join(_SHARES[kind][1](random) for kind in kinds).split())[:LONGEST].strip()
