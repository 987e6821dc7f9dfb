"""Invented texts as scanners write them: names, dates, settings, measurements."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

Random = np.random.Generator

VOCABULARY: dict[str, list[str]] = tomllib.loads(
    (Path(__file__).parents[1] / "words.toml").read_text("utf-8")
)
T = TypeVar("T")


def one(random: Random, choices: Sequence[T]) -> T:
    """Choose one of ``choices`` at random, all equally likely."""
    return choices[int(random.integers(len(choices)))]


def person_name(random: Random, form: str) -> str:
    """Make an invented person's name in the form ``form``, one that a style family names."""
    if form == "korean":
        return one(random, VOCABULARY["korean_surnames"]) + one(random, VOCABULARY["korean_given"])
    last, first = one(random, VOCABULARY["surnames"]), one(random, VOCABULARY["given_names"])
    initial = chr(ord("A") + int(random.integers(26)))
    return {
        "last, first": f"{last}, {first}",
        "LAST FIRST": f"{last} {first}".upper(),
        "LAST^FIRST": f"{last}^{first}".upper(),
        "first last": f"{first} {last}",
        "F. Last": f"{initial}. {last}",
        "Last, First I.": f"{last}, {first} {initial}.",
        "MRS LAST": f"{one(random, ('MRS', 'MS', 'Frau', 'Mme'))} {last.upper()}",
    }[form]


def date_text(random: Random, form: str, first_year: int = 1940, last_year: int = 2025) -> str:
    """Make a random date in the form ``form``, one that a style family names."""
    year = int(random.integers(first_year, last_year + 1))
    month, day = int(random.integers(1, 13)), int(random.integers(1, 29))
    month_name = VOCABULARY["months"][month - 1]
    return {
        "d.m.y": f"{day:02}.{month:02}.{year}",
        "m/d/y": f"{month:02}/{day:02}/{year}",
        "y-m-d": f"{year}-{month:02}-{day:02}",
        "ymd": f"{year}{month:02}{day:02}",
        "d Mon y": f"{day} {month_name} {year}",
        "d-MON-yy": f"{day:02}-{month_name.upper()}-{year % 100:02}",
        "y/m/d": f"{year}/{month:02}/{day:02}",
        "d/m/yy": f"{day}/{month}/{year % 100:02}",
    }[form]


def time_text(random: Random) -> str:
    """A time of day in a random form."""
    hour, minute, second = (int(random.integers(top)) for top in (24, 60, 60))
    forms = (
        f"{hour:02}:{minute:02}:{second:02}",
        f"{hour:02}:{minute:02}",
        f"{(hour - 1) % 12 + 1}:{minute:02}:{second:02} {'AM' if hour < 12 else 'PM'}",
    )
    return one(random, forms)


def identifier(random: Random) -> str:
    """Make a random number of a patient or of an examination."""
    number = int(random.integers(10_000, 10**8))
    letter = chr(ord("A") + int(random.integers(26)))
    forms = (
        f"{number:08}",
        f"{letter}{number:07}",
        f"{number % 10**6:06}-{number % 97:02}",
        f"ID {number:07}",
        f"MRN{number:08}",
        f"ID: {letter}{number % 10**5:05}",
        f"{number % 10**6:06}-{1 + number % 4}{number % 10**6:06}",
        f"Acc# {number % 10**7}",
    )
    return one(random, forms)


def settings(random: Random, lines: int) -> list[str]:
    """Make random lines about a machine's settings, as scanners show them beside a picture."""
    ten, hundred = (int(random.integers(1, top)) for top in (10, 100))
    forms = [
        f"FR {hundred} Hz",
        f"{hundred}Hz",
        f"Gn {hundred}",
        f"G {hundred}%",
        f"C{ten} / M{ten}",
        f"P{ten} / E{ten}",
        f"FF{ten} / E{ten}",
        "SRI II 4 / CRI 3",
        f"2D {hundred}%",
        f"DR {hundred}",
        f"PRF {ten}.2 kHz",
        "WMF Low",
        f"{ten + 2}.{ten}cm",
        f"D {ten + 4} cm",
        f"Har-mid {ten}.0",
        f"Pwr {hundred} %",
        "Frq mid",
        f"Persist {ten}",
        f"{ten}.{hundred // 10}MHz",
        "THI",
        "Zoom",
        f"Z {1 + ten / 10:.1f}",
        "AO 100%",
        f"Map {chr(64 + ten)}",
        "CF",
        "Gen",
        f"L{ten + 4}-{ten}",
        f"RAB{ten}-6-D",
        f"C{ten}-1",
        f"Qual norm B{hundred}°",
        "SA / RA",
        "P Low",
        "Res",
    ]
    return [str(form) for form in random.permutation(forms)[:lines]]


def acoustic_output(random: Random) -> str:
    """Make a random text about acoustic output, such as "MI 1.2"."""
    first, second = random.integers(0, 20, 2) / 10
    forms = (f"MI {first:.1f}", f"TIs {first:.1f}", f"TIb {second:.1f}", f"MI:{first:.1f} TIs:{second:.1f}")
    return one(random, forms)


def measurement(random: Random) -> str:
    """Make a random measured value with its label and unit."""
    value, index = float(random.uniform(0.1, 30)), int(random.integers(1, 5))
    unit = one(random, ("cm", "mm", " cm", " mm", "cm", "ml", "cm²", " cm/s"))
    quantity = one(random, VOCABULARY["quantities"])
    weeks = f"{int(random.integers(5, 41))}w{int(random.integers(7))}d"
    forms = (
        f"{index} {quantity} {value:.2f}{unit}",
        f"{quantity} {value:.2f}{unit}",
        f"{quantity}: {value:.1f}{unit}",
        f"+ {quantity} {value:.2f}{unit}",
        f"{index}: {value:.2f}{unit}",
        f"{value:.1f} mm",
        f"{quantity} {value:.2f}cm {weeks}",
        f"GA {weeks}",
        f"EFW {int(value * 100)}g",
        f"RI 0.{index}{index}",
    )
    return one(random, forms)


def hospital(random: Random, korean: bool) -> str:
    """Choose an invented name of a hospital; ``korean``: in Korean."""
    return one(random, VOCABULARY["korean_hospitals"] if korean else VOCABULARY["hospitals"])
