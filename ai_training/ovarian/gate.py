"""The gate of the ovarian model: fitted to its trunk's features of training frames and of other pictures.

For each fold a gate is fitted with the fold's network and measured on frames that neither has seen. The
shipped gate is fitted in the same way with the network that saw all frames, and measured on other pictures.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.domain_gate import FeatureGate, Head
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.orientation import UPRIGHT
from ai_pipeline.ovarian.classifier import OvarianClassifier
from ai_pipeline.ovarian.pixel_gate import PixelGate
from ai_training.chest.gate_images import drawn_from, files_of_split
from ai_training.chest.gates import directions_of, linear_head
from ai_training.metrics import Interval, exact_at_the_ends
from ai_training.progress import Report, silent
from ai_training.sets.files import read_rgb
from ai_training.sets.ovarian import grey

OTHERS = ("us_fetal_head", "us_fetal_planes", "us_breast", "cxr_nih")
"""Sets of pictures that are no ovaries; each with splits of its own."""
DICOM = "dicom"
"""Ultrasound files of all kinds (echocardiograms, spectra, fetuses): judged, never learned from."""
MOST, DIRECTIONS = 150, 48
INSIDE = 0.995
"""Share of the training frames that lies inside the limits of either part."""
TRUE_POSITIVE_RATE = 0.975
"""Share of the frames that were held out that the gate lets through."""
FRAMES = "us_ovarian"
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]


def other_pictures(data: Path, split: str, seed: int = 1) -> dict[str, list[tuple[str, Grey]]]:
    """At most :data:`MOST` named pictures of each set in :data:`OTHERS`, and for the split ``test`` also of
    :data:`DICOM`.

    Raises DataMissing if a picture cannot be read.
    """
    random = np.random.default_rng(seed)
    found = {
        name: [
            (path.name, grey(read_rgb(path)))
            for path in drawn_from(files_of_split(data / name, split), MOST, random)
        ]
        for name in OTHERS
    }
    if split == "test":
        found[DICOM] = list(_ultrasound_files(data))
    return {name: pictures for name, pictures in found.items() if pictures}


def fit(frames: Floats, others: Mapping[str, Floats], seed: int = 1) -> FeatureGate:
    """Fit the gate to pooled features ``[N, C]`` of training frames and of other pictures; its limit is 1.

    Without other pictures the gate has only the directions, and a limit in their units.
    """
    plain = directions_of(frames, min(DIRECTIONS, len(frames)))
    if not others:
        return plain
    kinds, weights, biases = linear_head({UPRIGHT.name: frames, **others}, seed)
    head = Head(kinds, weights, biases, (1.0, 1.0))
    limits = (
        float(np.quantile(plain.residual(frames), INSIDE)) * SLACK,
        max(float(np.quantile(head.distance(frames), INSIDE)), LEAST),
    )
    return replace(plain, head=replace(head, limits=limits))


SLACK = 1.5
"""Frames that a network was not trained on lie farther from its training frames than these do."""
LEAST = 0.7
"""-log of the probability of a frame, at least: .5, where any classifier would say yes."""


def write(rows: Iterable[tuple[str, str, int, float]], path: Path) -> None:
    """Write a table of the folds' gates: a row with set, file, fold and distance (accepted up to 1) for each
    frame.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("set", "file", "fold", "distance"))
        writer.writerows((name, picture, fold, f"{distance:.4f}") for name, picture, fold, distance in rows)


def threshold(path: Path) -> float:
    """The distance below which a share :data:`TRUE_POSITIVE_RATE` of the held-out frames lies."""
    return float(np.quantile(_distances(path), TRUE_POSITIVE_RATE))


def figures(path: Path, classifier: OvarianClassifier, data: Path, report: Report = silent) -> dict[str, Any]:
    """The accepted share of the pictures of each set, with its exact interval over pictures. Frames are
    judged by the gates of folds that have not seen them, other pictures of the test splits by the shipped
    gate. Raises DataMissing.
    """
    limit = classifier.card.gate.threshold if classifier.card.gate else 1.0
    others, gate = other_pictures(data, "test"), PixelGate(classifier)
    passed = {FRAMES: _distances(path) <= limit}
    for number, (name, pictures) in enumerate(others.items()):
        report(number / len(others), f"the gate on {name}")
        passed[name] = np.array([gate.refused(one, classifier.analyse(one)) is None for _, one in pictures])
    return {
        name: {"pictures": len(found), "passed": _share(found).as_list()} for name, found in passed.items()
    }


def _distances(path: Path) -> npt.NDArray[np.float64]:
    """The distance of each held-out frame from the domain, as the gate measured it."""
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row["distance"]) for row in csv.DictReader(file) if row["set"] == FRAMES])


def _share(passed: npt.NDArray[np.bool_]) -> Interval:
    from scipy.stats import binomtest

    count, of = int(passed.sum()), len(passed)
    if count in {0, of}:
        return exact_at_the_ends(count / of, of)
    found = binomtest(count, of).proportion_ci()
    return Interval(count / of, float(found.low), float(found.high))


def _ultrasound_files(data: Path) -> Iterable[tuple[str, Grey]]:
    for path in sorted((data / DICOM / "files").glob("*.dcm")):
        try:
            image = open_dicom(path)
            if image.header.modality == "US":
                yield path.name, grey(image.display())
        except PixelError:
            continue
