"""The gate of the ovarian classifier: fitted on its features, measured by pictures of others."""

import csv
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ai_pipeline.errors import PixelError
from ai_pipeline.images.coordinates import UPRIGHT
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.networks.gate import FeatureGate
from ai_pipeline.ovarian.pipeline import OvarianClassifier, PixelGate
from ai_training.base import Report, followed, silent
from ai_training.chest.gate import directions_of, linear_head
from ai_training.chest.transforms import drawn_from, files_of_split
from ai_training.metrics import Interval
from ai_training.ovarian.frames import grey
from ai_training.ovarian.predictions import write_table
from ai_training.sets.files import Grey, Singles, read_rgb

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


def other_pictures(data: Path, split: str, seed: int = 1) -> dict[str, list[Grey]]:
    """At most :data:`MOST` pictures of each set in :data:`OTHERS`, and for the split ``test`` also of
    :data:`DICOM`.

    Raises DataMissing if a picture cannot be read.
    """
    random = np.random.default_rng(seed)
    found = {
        name: [grey(read_rgb(path)) for path in drawn_from(files_of_split(data / name, split), MOST, random)]
        for name in OTHERS
    }
    for path in sorted((data / DICOM / "files").glob("*.dcm")) if split == "test" else ():
        with suppress(PixelError):
            if (image := open_dicom(path)).header.modality == "US":
                found.setdefault(DICOM, []).append(grey(image.display()))
    return {name: pictures for name, pictures in found.items() if pictures}


def fit_gate(frames: Singles, others: Mapping[str, Singles], seed: int = 1) -> FeatureGate:
    """Fit the domain gate to mean features ``[N, C]`` of training frames and of other pictures; its limit is
    1. Without other pictures the gate has only the directions, and a limit in their units.
    """
    plain = directions_of(frames, min(DIRECTIONS, len(frames)))
    if not others:
        return plain
    head = linear_head({UPRIGHT.name: frames, **others}, seed)
    limits = (
        # Frames that a network was not trained on lie farther from its training frames than these do.
        float(np.quantile(plain.residual(frames), INSIDE)) * 1.5,
        # -log of the probability of a frame, at least: .5, where any classifier would say yes.
        max(float(np.quantile(head.distance(frames), INSIDE)), 0.7),
    )
    return replace(plain, head=replace(head, limits=limits))


def write_gate(rows: Iterable[tuple[str, str, int, float]], path: Path) -> None:
    """Write a table of how the domain gates of the folds judge frames: rows with set, file, fold and distance
    (accepted up to 1).
    """
    lines = ((name, picture, fold, f"{distance:.4f}") for name, picture, fold, distance in rows)
    write_table(path, [("set", "file", "fold", "distance"), *lines])


def gate_limit(path: Path) -> float:
    """The distance within which a share :data:`TRUE_POSITIVE_RATE` of the held-out frames lies, from the
    table ``path`` of :func:`write_gate`.
    """
    return float(np.quantile(_distances(path), TRUE_POSITIVE_RATE))


def gate_figures(
    path: Path, classifier: OvarianClassifier, data: Path, report: Report = silent
) -> dict[str, Any]:
    """The share of the pictures of each set that the domain gate accepts, with its exact interval over
    pictures. Frames are judged by the gates of folds that have not seen them (table ``path``), other pictures
    of the test splits by the gate of ``classifier``. Raises DataMissing.
    """
    limit = classifier.card.gate.threshold if classifier.card.gate else 1.0
    others, gate = other_pictures(data, "test"), PixelGate(classifier)
    passed = {FRAMES: _distances(path) <= limit}
    for name in followed(tuple(others), report, "the gate on other pictures"):
        passed[name] = np.array([gate.refused(one, classifier.analyse(one)) is None for one in others[name]])
    result = {}
    for name, found in passed.items():
        sure = binomtest(int(found.sum()), len(found)).proportion_ci()
        shares = Interval(float(found.mean()), float(sure.low), float(sure.high)).as_list()
        result[name] = {"pictures": len(found), "passed": shares}
    return result


def _distances(path: Path) -> npt.NDArray[np.float64]:
    """The distance of each held-out frame from the training frames, from the table of :func:`write_gate`."""
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row["distance"]) for row in csv.DictReader(file) if row["set"] == FRAMES])
