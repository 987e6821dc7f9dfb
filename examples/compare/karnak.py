"""Karnak's mask service by its rule: ``karnak.py GIVEN MADE`` in a Python with rapidfuzz and rapidocr.

Not its code, which no package brings, but what its reference server does with what it reads
(image-ocr-identifier, commit ec000741): a line of text is filled if it resembles a value of the header by
more than 85 of 100, or one of its words one by more than 90. Values are also taken apart into their words.
This asks for less than the reference, which compares lengths too, so more is filled here; lines that it
would put together from several boxes are not looked for. Like it, it reads by the networks of PaddleOCR
(here of rapidocr). Of a cine Karnak would send one frame.
"""

import calendar
import json
import re
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw
from rapidfuzz import fuzz
from rapidocr import RapidOCR

SHORTEST = 3
SENT = (
    "AccessionNumber", "InstitutionName", "OperatorsName", "PatientAge", "PatientBirthDate", "PatientID",
    "PatientName", "PatientSex", "PerformingPhysicianName", "PerformedProcedureStepID",
    "ReferringPhysicianName", "StudyDate", "OtherPatientNames",
)  # fmt: skip
"""What Karnak sends, and further names, where compare.py writes the other drawn texts."""


def plain(text: str) -> str:
    """Small letters and digits without accents, words apart by one space."""
    letters = unicodedata.normalize("NFKD", text.lower())
    return " ".join(re.sub(r"[^\w\s]|_", "", letters.encode("ascii", "ignore").decode()).split())


def values_of(dataset: pydicom.Dataset) -> set[str]:
    """The values of the header that are looked for, and their words."""
    texts = [str(dataset.get(keyword, "")) for keyword in SENT if keyword != "OtherPatientNames"]
    texts += [str(name) for name in dataset.get("OtherPatientNames") or []]
    whole = {plain(form) for text in texts for form in (text.replace("^", " "), *dates_of(text))}
    return {value for text in whole for value in (text, *text.split()) if len(value) >= SHORTEST}


def dates_of(text: str) -> tuple[str, ...]:
    """How a date of the header (VR DA) may be written in a picture; nothing for other values."""
    if not re.fullmatch(r"\d{8}", text):
        return ()
    year, number, day = text[:4], text[4:6], text[6:]
    month = calendar.month_abbr[int(number)] if 1 <= int(number) <= 12 else number
    parts = ((day, number, year), (number, day, year), (day, month, year), (month, day, year))
    return tuple(join.join(part) for part in parts for join in ("", " "))


def is_sensitive(text: str, values: set[str]) -> bool:
    """Whether a line that was read resembles a value, or one of its words does."""
    line = plain(text)
    return len(line) >= SHORTEST and any(
        fuzz.partial_ratio(line, value) > 85 or any(fuzz.ratio(word, value) > 90 for word in line.split())
        for value in values
    )


given, made = map(Path, sys.argv[1:])
engine = RapidOCR(params={"Global.log_level": "critical"})
for path in sorted(given.glob("*.dcm")):
    began = time.perf_counter()
    dataset = pydicom.dcmread(path)
    image = Image.fromarray(dataset.pixel_array)
    values, found = values_of(dataset), engine(np.asarray(image)[..., ::-1])
    for corners, text in zip(found.boxes if found.boxes is not None else (), found.txts or (), strict=True):
        if is_sensitive(text, values):
            low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
            ImageDraw.Draw(image).rectangle([*map(int, low), *map(int, high)], fill=(20, 24, 26))
    seconds = time.perf_counter() - began
    image.save(made / f"{path.stem}.png")
    print(json.dumps({"file": path.name, "seconds": seconds, "withheld": False}), flush=True)
