#!/usr/bin/env python3
"""Which words can still be read after four programs have cleaned the same pictures?

    examples/compare/compare.py --data DIR [--pictures N] [--first N] [--work DIR] [--rsna PYTHON]
                                [--presidio PYTHON] [--karnak PYTHON]

    example: examples/compare/compare.py --data ../shared/data --karnak .venv-karnak/bin/python

Two kinds of pictures: names, dates and numbers drawn on public test frames (as `ai-pipeline evaluate
legible` draws them), and frames of public DICOM files whose names, dates and numbers were marked by eye
(tests/data/content). Each program runs in the Python that is named for it, where it was installed
(README.md beside this file); one without is named in the table and not guessed. The drawn pictures are
cleaned with a header that holds every drawn text, and with one that holds none. Two engines read each
place before and after.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.contract import Meaning
from ai_pipeline.images.decode import open_dicom
from ai_training.sets.files import rows
from ai_training.ultrasound.legible import (
    SAME,
    SHORTEST,
    OcrEngine,
    Token,
    burned_picture,
    engines,
    folded,
    leaks,
    level_crop,
    similarity,
    words_of,
    writing_corners,
)
from ai_training.ultrasound.overlays.burning import BurnIn
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.scenes import clean_frames

HERE = Path(__file__).resolve().parent
MARKED = HERE.parents[1] / "tests" / "data" / "content" / "objects.csv"
SENT = (
    *("AccessionNumber", "InstitutionName", "OperatorsName", "PatientBirthDate", "PatientID", "PatientName"),
    *("PerformingPhysicianName", "ReferringPhysicianName", "StudyDate"),
)
"""What Karnak sends of a header, without age, sex and the step's number."""
PROGRAMS = {
    "this node": "ours.py",
    "RSNA Anonymizer": "rsna.py",
    "Karnak's rule": "karnak.py",
    "Presidio": "presidio.py",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and its texts; ``others``: texts that identify nobody. ``header``: values of names."""

    name: str
    picture: Picture
    tokens: tuple[Token, ...]
    others: tuple[Token, ...] = ()
    header: tuple[str, ...] = ()


@dataclass(slots=True)
class Count:
    """What one program left in one set of pictures; ``legible`` and ``left`` by engine."""

    legible: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    other_legible: dict[str, int] = field(default_factory=dict)
    other_left: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    withheld: int = 0
    changed: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def drawn(data: Path, numbers: range) -> Iterator[Sample]:
    """Test pictures with invented names, dates and numbers, the same in every run."""
    for number in numbers:
        _, burned, tokens = burned_picture(data, clean_frames("test"), number)
        header = tuple(dict.fromkeys(thing.text for thing in _texts(burned, identity=True)))
        yield Sample(f"{number:05}", burned.image, tokens, _other_tokens(burned), header)


def _texts(burned: BurnIn, *, identity: bool) -> Iterator[object]:
    for thing in burned.objects:
        if thing.kind is MarkClass.TEXT and thing.text and (thing.meaning is Meaning.IDENTITY) is identity:
            yield thing


def _other_tokens(burned: BurnIn) -> tuple[Token, ...]:
    """Whole texts of three letters or digits and more that are results, sides or settings."""
    found = []
    for number, thing in enumerate(burned.objects, start=1):
        own = burned.owners == number
        kept = thing.kind is MarkClass.TEXT and thing.meaning is not Meaning.IDENTITY
        if kept and own.any() and len(folded(thing.text)) >= SHORTEST:
            found.append(Token(folded(thing.text), (), writing_corners(own), number))
    return tuple(found)


def public(data: Path) -> Iterator[Sample]:
    """Frames of public DICOM files; a token's text is what the engines read there before."""
    boxes: dict[tuple[str, int], list[Sequence[float]]] = {}
    for row in rows(MARKED):
        if row["set"] == "dicom" and row["class"] == "identity":
            place = [float(row[side]) for side in ("left", "top", "right", "bottom")]
            boxes.setdefault((row["file"], int(row["frame"])), []).append(place)
    for (file, frame), places in sorted(boxes.items()):
        path = data / "dicom" / file
        if path.is_file():
            image = open_dicom(path)
            shown = np.asarray(image.display(frame - 1), np.uint8)
            picture = shown if shown.ndim == 3 else np.stack([shown] * 3, axis=-1)
            header = tuple(str(image.dataset.get(keyword) or "") for keyword in SENT)
            tokens = tuple(_token(place) for place in places)
            yield Sample(path.stem, picture, tokens, header=tuple(filter(None, header)))


def _token(place: Sequence[float]) -> Token:
    left, top, right, bottom = place
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    return Token("", (), corners, 0)


def write(sample: Sample, folder: Path, header: Sequence[str]) -> None:
    """Write the picture as an ultrasound image whose names in the header are ``header``."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Modality = UltrasoundImageStorage, "US"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(dataset, keyword, generate_uid())
    names = [text.replace("\\", " ").replace("=", " ")[:60] for text in header]
    dataset.PatientName, dataset.PatientID = (names or ["Nobody"])[0], "0"
    dataset.OtherPatientNames = names[1:]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *sample.picture.shape[:2], 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.SpecificCharacterSet = "ISO_IR 192"
    data = sample.picture.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / f"{sample.name}.dcm", enforce_file_format=True)


def cleaned_by(script: str, python: str, given: Path, made: Path) -> dict[str, dict[str, object]]:
    """Run a program on every file of the folder ``given``: it writes a PNG per file to ``made`` and prints a
    line of JSON for each, with ``file``, ``seconds`` and ``withheld``. Returns these by file. Raises
    CalledProcessError.
    """
    made.mkdir(parents=True, exist_ok=True)
    command = [python, str(HERE / script), str(given), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["file"]: row for row in found}


def legible(engine: OcrEngine, picture: Picture, tokens: Sequence[Token]) -> list[Token]:
    """The tokens that the engine can read in a picture that nobody has cleaned; one without a text gets what
    is read there.
    """
    found = []
    for token, texts in zip(tokens, _read(engine, picture, tokens), strict=True):
        text = token.text or max(texts, key=len)
        if len(text) >= SHORTEST and any(similarity(text, read) >= SAME for read in texts):
            found.append(Token(text, token.words or words_of(text), token.corners, token.owner))
    return found


def _read(engine: OcrEngine, picture: Picture, tokens: Sequence[Token]) -> list[tuple[str, ...]]:
    return engine.lines([level_crop(picture, token.corners) for token in tokens])


def judged(samples: Sequence[Sample], rows_of: dict[str, dict[str, object]], made: Path) -> Count:
    """Read every cleaned picture again."""
    count = Count(pictures=len(samples))
    for sample in samples:
        row = rows_of[f"{sample.name}.dcm"]
        count.seconds.append(float(str(row["seconds"])))
        if row["withheld"]:
            count.withheld += 1
            continue
        shown = np.asarray(Image.open(made / f"{sample.name}.png").convert("RGB"), np.uint8)
        count.changed.append(float((shown != sample.picture).any(axis=2).mean()))
        for engine in engines():
            before = legible(engine, sample.picture, sample.tokens)
            left = [token for token, texts in zip(before, _read(engine, shown, before), strict=True)
                    if leaks(token, texts)]  # fmt: skip
            others = legible(engine, sample.picture, sample.others)
            kept = [token for token, texts in zip(others, _read(engine, shown, others), strict=True)
                    if any(similarity(token.text, text) >= SAME for text in texts)]  # fmt: skip
            for table, number in (
                (count.legible, len(before)),
                (count.left, len(left)),
                (count.other_legible, len(others)),
                (count.other_left, len(kept)),
            ):
                table[engine.name] = table.get(engine.name, 0) + number
    return count


def row_of(name: str, what: str, count: Count) -> str:
    """A row of the table."""
    left = "; ".join(f"{count.left[engine]} of {count.legible[engine]}" for engine in count.legible) or "–"
    kept = "; ".join(
        f"{count.other_left[engine]} of {number}" for engine, number in count.other_legible.items() if number
    )
    changed = f"{100 * np.mean(count.changed):.1f} %" if count.changed else "–"
    cells = (name, what, left, kept or "–", changed, f"{count.withheld} of {count.pictures}",
             f"{np.median(count.seconds):.1f}")  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Draw, clean by each program, read again, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--pictures", type=int, default=30, help="drawn pictures")
    parser.add_argument("--first", type=int, default=3000, help="number of the first of them")
    parser.add_argument("--work", type=Path, default=Path("compare-output"), help="folder of all pictures")
    for name in ("rsna", "presidio", "karnak"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"the Python in which {name}.py runs")
    given = parser.parse_args()
    pythons = {
        "ours.py": sys.executable,
        **{f"{one}.py": vars(given)[one] for one in ("rsna", "presidio", "karnak")},
    }
    of_numbers = list(drawn(given.data, range(given.first, given.first + given.pictures)))
    of_files = list(public(given.data))
    sets = {
        "drawn, header with every text": ([*of_numbers], True),
        "drawn, header with none": ([*of_numbers], False),
        "public files, their header": ([*of_files], True),
    }
    print("| program | pictures | words that can still be read (rapidocr; tesseract) | "
          "results and settings still read | pixels changed | withheld | seconds a picture |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for what, (samples, with_header) in sets.items():
        folder = given.work / what.replace(", ", "-").replace(" ", "-")
        for sample in samples:
            write(sample, folder / "given", sample.header if with_header else ())
        for name, script in PROGRAMS.items():
            python = pythons[script]
            if not python:
                print(f"| {name} | {what} | not run: no --{script.removesuffix('.py')} | | | | |", flush=True)
                continue
            made = folder / script.removesuffix(".py")
            print(
                row_of(name, what, judged(samples, cleaned_by(script, python, folder / "given", made), made)),
                flush=True,
            )


if __name__ == "__main__":
    main()
