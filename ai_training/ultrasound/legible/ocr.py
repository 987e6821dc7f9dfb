"""Two independent OCR engines by others: rapidocr and Tesseract.

Both read single lines, cut out and turned horizontal, and whole pictures. The texts read here are invented;
in real pictures they could be names.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.pixels import Box, Picture, brightest, index_of
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import TextBox, model_files, working_scale
from ai_training.ultrasound.legible.tokens import SHORTEST, folded

RAPIDOCR, TESSERACT = "rapidocr", "tesseract"
LEAST_SCORE, LEAST_CONFIDENCE = 0.5, 60.0
"""Confidence from which a string somewhere in a picture counts: rapidocr's (0–1), Tesseract's (0–100)."""
LETTERS = 40
"""Height that lines are brought to before Tesseract reads them (pixels): it was made for 300 dpi."""
TIMEOUT = 120
"""Seconds that Tesseract may take for one picture."""


@dataclass(frozen=True, slots=True)
class OcrLine:
    """One string read somewhere in a picture; ``text``: letters and digits in capitals (``folded``)."""

    text: str
    box: Box


class OcrEngine(Protocol):
    """An OCR engine."""

    name: str

    def lines(self, crops: Sequence[Picture]) -> list[tuple[str, ...]]:
        """The folded text of each horizontal crop: as it is, upside down, and both with more contrast."""
        ...

    def everything(self, picture: Picture) -> list[OcrLine]:
        """All strings of a whole picture with at least :data:`SHORTEST` letters and digits."""
        ...


def engines() -> tuple[OcrEngine, ...]:
    """The OCR engines on this machine; rapidocr is always one of them."""
    return (RapidOcr(), Tesseract()) if tesseract_version() else (RapidOcr(),)


def tesseract_version() -> str | None:
    """The version of the installed Tesseract; None if it is not installed."""
    program = shutil.which("tesseract")
    if program is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    return (done.stdout or done.stderr).split("\n")[0].removeprefix("tesseract ").strip()


class RapidOcr:
    """The engine rapidocr with the networks and settings of its package; its log is silenced."""

    name = RAPIDOCR

    def __init__(self, threads: int = 1) -> None:
        from rapidocr import RapidOCR

        detector, recogniser = model_files()
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "Global.text_score": 0.0,
                "Det.model_path": str(detector),
                "Rec.model_path": str(recogniser),
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def lines(self, crops: Sequence[Picture]) -> list[tuple[str, ...]]:
        return [tuple(self._line(view) for view in views(crop)) for crop in crops]

    def everything(self, picture: Picture) -> list[OcrLine]:
        factor = working_scale(picture)
        large = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        result = self._ocr(np.ascontiguousarray(large), use_det=True, use_rec=True, use_cls=False)
        if result.boxes is None or result.txts is None:
            return []
        return [
            OcrLine(folded(text), _bounds(np.asarray(corners, np.float32) / factor))
            for corners, text, score in zip(result.boxes, result.txts, result.scores, strict=True)
            if score >= LEAST_SCORE and len(folded(text)) >= SHORTEST
        ]

    def _line(self, crop: Picture) -> str:
        result = self._ocr(crop, use_det=False, use_rec=True, use_cls=False)
        return folded(result.txts[0]) if result.txts else ""


class Tesseract:
    """The program ``tesseract`` with its English data; one process per picture."""

    name = TESSERACT

    def lines(self, crops: Sequence[Picture]) -> list[tuple[str, ...]]:
        cuts = [_for_tesseract(view) for crop in crops for view in views(crop)]
        if not cuts:
            return []
        pages = _run(cuts, "7", "txt").split("\f")
        texts = [folded(page) for page in pages[: len(cuts)]]
        ways = len(cuts) // len(crops)
        return [tuple(texts[index * ways : (index + 1) * ways]) for index in range(len(crops))]

    def everything(self, picture: Picture) -> list[OcrLine]:
        factor = working_scale(picture)
        large = cv2.resize(brightest(picture), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        table = csv.DictReader(
            io.StringIO(_run([np.asarray(large, np.uint8)], "11", "tsv")),
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
        )
        return [
            OcrLine(folded(row["text"]), _scaled(row, factor))
            for row in table
            if float(row["conf"]) >= LEAST_CONFIDENCE and len(folded(row["text"] or "")) >= SHORTEST
        ]


def tesseract_line(picture: Picture, box: TextBox) -> Line:
    """A line as Tesseract reads it, with the mean confidence of the words, 0 to 1."""
    crop = _for_tesseract(picture[index_of(box.box)])
    table = csv.DictReader(io.StringIO(_run([crop], "7", "tsv")), delimiter="\t", quoting=csv.QUOTE_NONE)
    words = [(row["text"] or "", float(row["conf"]) / 100) for row in table if float(row["conf"]) >= 0]
    text = " ".join(word for word, _ in words).strip()
    sure = sum(share for _, share in words) / max(1, len(words))
    return Line(text, sure, legible=bool(text))


def views(crop: Picture) -> tuple[Picture, ...]:
    """Copies of a horizontal line: as it is and upside down, and both with more local contrast."""
    clahe = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(2, 2))
    grey = np.asarray(clahe.apply(np.ascontiguousarray(brightest(crop))), np.uint8)
    contrasty = np.repeat(grey[:, :, None], 3, axis=2)
    return tuple(
        np.ascontiguousarray(view) for view in (crop, crop[::-1, ::-1], contrasty, contrasty[::-1, ::-1])
    )


def _for_tesseract(crop: Picture) -> Picture:
    """Dark letters on light ground, large, with a rim, as it was made for. Most lettering here is light."""
    factor = LETTERS / max(1, crop.shape[0])
    grey = cv2.resize(brightest(crop), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    light = np.asarray(255 - grey, np.uint8)
    return np.asarray(cv2.copyMakeBorder(light, 8, 8, 8, 8, cv2.BORDER_REPLICATE), np.uint8)


def _run(pictures: Sequence[Picture], layout: str, output: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, picture in enumerate(pictures):
            path = Path(folder) / f"{number}.png"
            cv2.imwrite(str(path), picture)
            names.append(str(path))
        listing = Path(folder) / "list.txt"
        listing.write_text("\n".join(names))
        command = ["tesseract", str(listing), "stdout", "--psm", layout, "-l", "eng", "--dpi", "150", output]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        )
    return done.stdout


def _bounds(corners: np.typing.NDArray[np.float32]) -> Box:
    (left, top), (right, bottom) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    return int(left), int(top), int(right), int(bottom)


def _scaled(row: dict[str, str], factor: float) -> Box:
    left, top, width, height = (int(row[key]) / factor for key in ("left", "top", "width", "height"))
    return int(left), int(top), int(left + width) + 1, int(top + height) + 1
