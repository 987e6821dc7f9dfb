"""``ai-pipeline evaluate reader``: unseen lines, read by our reader, by rapidocr and by Tesseract.

Real lines of test frames, written down by eye (``tests/data/lines``): character error, and how many harmless
lines are proven harmless, so that they stay. Drawn names, dates and numbers on test frames, in fonts of no
training picture: how many of these are taken for harmless, which would be a leak. Blanks do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.burnin.annotation.pixels import Box, Picture
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.writing import level_box, text_meaning
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader
from ai_pipeline.contract import Meaning
from ai_training.metrics import patient_weights, ratio
from ai_training.progress import Report, silent
from ai_training.sets.files import rows
from ai_training.ultrasound.content.marked import patient_of, shown_frame
from ai_training.ultrasound.legible.evaluate import SEED
from ai_training.ultrasound.legible.ocr import tesseract_line, tesseract_version
from ai_training.ultrasound.marks.data import burned_frames
from ai_training.ultrasound.overlays import HELD_OUT, MarkClass, clean_frames
from ai_training.ultrasound.reader.fit import distance

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
        for group in sorted({one.group for one in found}):
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
