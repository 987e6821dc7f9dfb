#!/usr/bin/env python3
"""How well stamps on chest films are read, and which mirrored films are
noticed.

Each film is tested as published (none is mirrored), with a stamp drawn on, mirrored, turned over and turned
by 180°. The true projection is the view that the set publishes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from ai_pipeline.burnin.find.text import TextReader
from ai_pipeline.chest.anatomy import Anatomy, AnatomyModel, look_at
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.ratio import MODEL
from ai_pipeline.chest.stamps import PORTABLE, PROJECTIONS, SIDES, Marker, Stamps, doubt, stamps_in
from ai_pipeline.contract import ImageHeader
from ai_pipeline.images.coordinates import UPRIGHT, Pose
from ai_pipeline.models.registry import find
from ai_training import commands
from ai_training.base import DataMissing, Report, silent
from ai_training.commands import Figures, verb
from ai_training.metrics import mean_interval, patient_weights
from ai_training.sets.chest import chest_set
from ai_training.sets.files import read_grey
from ai_training.sets.images import SetImage
from ai_training.ultrasound.overlays.hands import HELD_OUT, TRAIN, Face, Hand, stencil

SMALLEST: Final = 448
"""Shorter side of a film, at least: on smaller ones letters are no longer legible (pixels)."""
DRAWN: Final = ("AP", "PA", "PORTABLE", "SUPINE", "ERECT", "SEMI-ERECT", "AP PORTABLE", "L", "R")
HEIGHTS: Final = (0.015, 0.04)
"""Height of drawn letters, from and to (share of the film's height)."""
GREYS: Final = (150, 255)
TURNED: Final = Pose(turned=180)
NO_HEADER: Final = ImageHeader("DX", "", 1, 1, 1, "MONOCHROME2", 8)
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StampModels:
    """The networks to measure."""

    classifier: Classifier
    anatomy: AnatomyModel
    reader: TextReader


@dataclass(frozen=True, slots=True)
class StampCase:
    """One film: the word that was ``drawn`` on a copy, the ``seconds`` for networks and for stamps, and for
    each figure by name whether it is true of the film; figures that do not apply are missing.
    """

    patient: str
    drawn: str
    seconds: tuple[float, float]
    holds: Mapping[str, bool]


def evaluate(
    data: Path, models: StampModels, split: str, films: int = 0, report: Report = silent
) -> dict[str, Any]:
    """All figures of at most ``films`` films (0: all) of ``split``. Intervals are 95 %, by patient.

    Raises DataMissing.
    """
    images = [
        image
        for image in chest_set(data).images
        if image.adult and image.is_in(split) and image.view in {"AP", "PA"}
    ]
    Random(1).shuffle(images)
    family = HELD_OUT if split == "test" else TRAIN
    faces = [face for face in family.latin if not face.is_stroked]
    cases: list[StampCase] = []
    for number, image in enumerate(images):
        picture = read_grey(image.path)
        if min(picture.shape) >= SMALLEST:
            report(number / len(images), "stamps")
            cases.append(measure(image, picture, models, faces))
        if films and len(cases) == films:
            break
    if not cases:
        raise DataMissing(f"{data} has no film of {SMALLEST} pixels and a known view in the split {split}")
    return {"split": split, **figures(cases)}


def measure(image: SetImage, picture: Grey, models: StampModels, faces: Sequence[Face]) -> StampCase:
    """Test whether the stamps of one film are read, and whether its mirror image is noticed."""
    began = time.perf_counter()
    models.classifier.analyse(picture)
    anatomy = models.anatomy.outline(picture)
    outlined = time.perf_counter()
    stamps = stamps_in(picture, anatomy, models.reader)
    seconds = outlined - began, time.perf_counter() - outlined
    projection = stamps.projection or ("AP" if stamps.is_ap else "")
    holds = {f"{image.view} films with a projection read": bool(projection)}
    if projection:
        holds["projection as the label says"] = projection == image.view
    holds["side marker read"] = stamps.marker is not None
    if stamps.marker is not None:
        holds["side marker on its own side"] = _on_own_side(stamps.marker)
    random = Random(image.path.name)
    words = [text for text in DRAWN if not _has_own(stamps, text)]
    text = random.choice(words) if words else ""
    if text:
        copy = stamps_in(draw(picture, text, random, faces), anatomy, models.reader)
        found = [(_value(copy, word), word) for word in text.split()]
        holds["drawn stamp read right"] = all(value == word for value, word in found)
        holds["drawn stamp read wrong"] = any(value not in {"", word} for value, word in found)
    holds |= _sides(picture, stamps, anatomy, models)
    return StampCase(image.patient, text, seconds, holds)


def draw(picture: Grey, text: str, random: Random, faces: Sequence[Face]) -> Grey:
    """A copy of ``picture`` with ``text`` in a corner, in one of ``faces``; L on the right, R on the left."""
    rows, columns = picture.shape
    height = max(6, round(random.uniform(*HEIGHTS) * rows))
    letters, _ = stencil(text, Hand(random.choice(faces), height, (255, 255, 255)))
    down, across = letters.shape
    on_right = text == "L" or (text != "R" and random.random() < 0.5)
    away = round(random.uniform(0.01, 0.06) * columns)
    left = columns - away - across if on_right else away
    top = round(random.uniform(0.02, 0.12) * rows)
    if random.random() < 0.5:
        top = rows - top - down
    part = np.s_[top : top + down, left : left + across]
    share = letters.astype(np.float32) / 255
    copy = picture.copy()
    copy[part] = np.rint(copy[part] * (1 - share) + random.randint(*GREYS) * share).astype(np.uint8)
    return copy


def _sides(picture: Grey, stamps: Stamps, anatomy: Anatomy, models: StampModels) -> dict[str, bool]:
    """What is noticed of the film as it is, mirrored, turned over (upside down), and turned by 180°."""
    mirror_image = np.ascontiguousarray(picture[:, ::-1])
    outlined = models.anatomy.outline(mirror_image)
    read = stamps_in(mirror_image, outlined, models.reader)
    # As the pipeline does: a heart whose border is hidden says nothing of sides.
    sided, mirrored = (
        None if look_at(one, found).hidden else found
        for one, found in ((picture, anatomy), (mirror_image, outlined))
    )
    holds = {
        "mirrored film noticed": bool(doubt(NO_HEADER, read, mirrored, UPRIGHT)),
        "film as it is called mirrored": bool(doubt(NO_HEADER, stamps, sided, UPRIGHT)),
    }
    # Turned back by 180°, a film that was turned over is its mirror image.
    if models.classifier.analyse(np.ascontiguousarray(picture[::-1])).pose == TURNED:
        holds["film turned over noticed"] = bool(doubt(NO_HEADER, read, mirrored, TURNED))
    if models.classifier.analyse(np.ascontiguousarray(picture[::-1, ::-1])).pose == TURNED:
        holds["film turned by 180° called mirrored"] = bool(doubt(NO_HEADER, stamps, sided, TURNED))
    return holds


def figures(cases: Sequence[StampCase]) -> dict[str, Any]:
    """For each figure the share of films of which it is true, with its interval, and the number of films."""
    names = dict.fromkeys(name for case in cases for name in case.holds)
    seconds = np.median([case.seconds for case in cases], axis=0)
    drawn = {
        word: _share([case for case in cases if case.drawn == word], "drawn stamp read right")
        for word in sorted({case.drawn for case in cases} - {""})
    }
    return {
        "films": len(cases),
        "patients": len({case.patient for case in cases}),
        "shares": {name: _share([case for case in cases if name in case.holds], name) for name in names},
        "drawn": drawn,
        "seconds": {"model": round(float(seconds[0]), 3), "stamps": round(float(seconds[1]), 3)},
    }


def _share(cases: Sequence[StampCase], name: str) -> dict[str, Any]:
    values = np.array([case.holds[name] for case in cases], np.float64)
    share = mean_interval(values, patient_weights([case.patient for case in cases]))
    return {"share": share.as_list(), "films": len(cases)}


def _has_own(stamps: Stamps, text: str) -> bool:
    """Whether the film says already what a word of ``text`` says, or something else of the same kind."""
    words = text.split()
    return any(stamps.marker is not None if word in SIDES else _value(stamps, word) for word in words)


def _on_own_side(marker: Marker) -> bool:
    """Whether ``marker`` lies where it lies on a film that is not mirrored."""
    return (marker.letter == "L") == (marker.x > 0.5)


def _value(stamps: Stamps, word: str) -> str:
    """What ``stamps`` say of that of which ``word`` (of :data:`DRAWN`) says something; "" where nothing.

    The other letter on its own side is no answer: it is the film's, which shows better on the copy.
    """
    if word in SIDES:
        marker = stamps.marker
        if marker is None or (marker.letter != word and _on_own_side(marker)):
            return ""
        return marker.letter
    if word in PORTABLE:
        return word if stamps.portable else ""
    return stamps.projection if word in PROJECTIONS else stamps.position.upper()


app = typer.Typer()


@verb(app, "stamps")
def command(
    *,
    report: Report,
    data: commands.SetData,
    split: commands.Split = "test",
    films: Annotated[int, typer.Option(help="Films to measure on; 0: all.")] = 0,
    models_dir: commands.ModelsDir = None,
    threads: commands.Threads = 0,
) -> Figures:
    """Measure how many stamps of chest films are read, and how many mirrored films are noticed.

    Every interval is 95 %, by bootstrap over patients. Example: examples/studies/stamps.py --data DIR
    """

    classifier = Classifier(commands.chest_card(None, models_dir), threads=threads)
    anatomy = AnatomyModel.from_card(find(MODEL, models_dir), threads)
    models = StampModels(classifier, anatomy, TextReader(threads or None))
    return evaluate(data, models, split, films, report)


if __name__ == "__main__":
    app()
