"""Fit and measure the gate of a chest model: what it reorients, refuses, and accepts wrongly.

The gate is fitted again for every network, in a minute or two, because it reads the network's own features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.domain_gate import ASKEW, CHILD, CLIPPED, CUT_OFF, OTHER, FeatureGate, Head
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.images.orientation import POSES, UPRIGHT, Pose
from ai_training.chest import gate_images as images
from ai_training.chest.gate_images import Change, Grey
from ai_training.errors import DataMissing
from ai_training.progress import Report, silent

Floats = npt.NDArray[np.float32]
See = Callable[[Sequence[Grey]], Floats]
"""Displayed pictures of any size, 0 to 255 → the network's pooled features ``[N, C]``."""
INVERTED = Pose(inverted=True)

TRUE_POSITIVE_RATE = 0.99
"""Share of the validation split's adults that the gate lets through."""
WHOLE, VARIED, TRANSFORMED, OTHERS = 2000, 1500, 600, 900
"""Pictures to fit with: as they are, varied, of each transform, of each foreign set (at most)."""
USUAL, MEASURED = 2000, 250
"""Pictures of adults, and of each other kind, to measure with (at most)."""
DIRECTIONS, COMPONENTS, WEAKNESS = 32, 256, 1.0  # the last: scikit-learn's C
USUAL_SHARE = 0.9  # of validation adults have no larger share unexplained
RESIDUAL_SHARE, HEAD_SHARE = 0.997, 0.993  # of validation adults inside the limit of each part


@dataclass(frozen=True, slots=True, eq=False)
class FittedGate:
    """A gate, and the largest distance at which it accepts an image."""

    gate: FeatureGate
    threshold: float


def fit(data: Path, see: See, seed: int = 1, report: Report = silent) -> FittedGate:
    """Fit the gate on the train split of ``data``; set the limits on the adults of the validation split.

    Sets that ``data`` lacks are left out, and so are the kinds of picture in them. Raises DataMissing if one
    of the two splits has no chest images of adults.
    """
    random = np.random.default_rng(seed)
    report(0.0, "reading the pictures that the gate learns from")
    whole = images.drawn_from(_adults(data, "train"), WHOLE, random)
    shown: dict[str, list[Floats]] = {}
    jobs = _lessons(data, whole, random)
    for number, (kind, files, change) in enumerate(jobs):
        shown.setdefault(kind, []).append(see(images.pictures(files, change, random)))
        report((number + 1) / (len(jobs) + 1), f"reading the gate's pictures: {kind}")
    usual = np.concatenate(shown[UPRIGHT.name])
    plain_directions = directions_of(usual, min(DIRECTIONS, len(usual)))
    kinds, weights, biases = linear_head({kind: np.concatenate(rows) for kind, rows in shown.items()}, seed)
    checked = see(images.pictures(_adults(data, "val"), images.as_it_is, random))
    share = float(np.quantile(plain_directions.unexplained(checked)[1].astype(np.float32), USUAL_SHARE))
    directions = replace(plain_directions, usual=share)
    plain = Head(kinds, weights, biases, (1.0, 1.0))
    limits = (
        float(np.quantile(directions.residual(checked), RESIDUAL_SHARE)),
        float(np.quantile(plain.distance(checked), HEAD_SHARE)),
    )
    gate = replace(directions, head=replace(plain, limits=limits))
    report(1.0, "the gate is fitted")
    return FittedGate(gate, float(np.quantile(gate.distance(checked), TRUE_POSITIVE_RATE)))


def directions_of(features: Floats, count: int) -> FeatureGate:
    """A gate of the ``count`` principal directions of features ``[N, C]`` of images in the domain; without a
    head.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-3
    rows = np.linalg.svd((features - mean) / spread, full_matrices=False)[2][:count]
    return FeatureGate(mean.astype(np.float32), spread.astype(np.float32), rows.astype(np.float32))


def gate_figures(data: Path, classifier: Classifier, split: str, report: Report = silent) -> dict[str, Any]:
    """How the gate of ``classifier`` judges every kind of picture of ``split``.

    ``adults``: share of the split's adults that is refused or reoriented. ``kinds``: for each kind
    ``false_positives_at_95`` (share accepted, as shown, at the limit that 95 % of the split's adults pass;
    with its 95 % Wilson interval), then the result at run time: ``accepted`` as shown, ``mended``
    (reoriented, then accepted), ``refused``. Kinds of sets that are missing are left out. Empty without a
    gate.
    """
    if classifier.card.gate is None:
        return {}
    cv2.setNumThreads(1)
    random = np.random.default_rng(1)
    files = _adults(data, split)
    # The whole NIH download would not fit into memory.
    usual = images.pictures(files[:: max(1, len(files) // USUAL)], images.as_it_is, random)
    report(0.0, "measuring the gate: adults")
    adults = _seen(classifier, usual)
    limit = float(np.quantile(adults.distances, 0.95))
    asked = _exam(data, split, random)
    kinds: dict[str, Any] = {}
    for number, (name, pictures) in enumerate(asked):
        report(number / len(asked), f"measuring the gate: {name}")
        found = _seen(classifier, pictures())
        if len(found.distances):
            kinds[name] = {**_share(found.distances <= limit), **found.outcome()}
    return {
        "threshold": classifier.card.gate.threshold,
        "threshold_at_95": round(limit, 4),
        "adults": {"images": len(usual), **adults.outcome()},
        "kinds": kinds,
    }


def _adults(data: Path, split: str) -> list[Path]:
    files = [image.path for image in images.adults(data, split)]
    if not files:
        raise DataMissing(f"{data} has no adults' chest images of split {split}")
    return files


def _lessons(
    data: Path, whole: Sequence[Path], random: images.Random
) -> list[tuple[str, Sequence[Path], Change]]:
    """(kind, files, what is done to them) of everything that the head is shown."""
    transformed = images.drawn_from(whole, TRANSFORMED, random)
    hannover = images.other_chests(data, "hannover", "train")
    small = images.drawn_from(images.other_chests(data, "pediatric", "train"), OTHERS, random)
    foreign = [images.ultrasound(data, name, "train") for name in images.ULTRASOUND]
    lessons: list[tuple[str, Sequence[Path], Change]] = [
        (UPRIGHT.name, whole, images.as_it_is),
        (UPRIGHT.name, images.drawn_from(whole, VARIED, random), images.varied),
        (UPRIGHT.name, hannover, images.as_it_is),
        *((pose.name, transformed, images.posed(pose, images.framed)) for pose in POSES),
        # The commonest mistake (a MONOCHROME1 image taken for MONOCHROME2) and the hardest to see.
        (INVERTED.name, images.drawn_from(whole, VARIED, random), images.posed(INVERTED, images.varied)),
        (ASKEW, transformed, images.tilted(25, 65)),
        (CUT_OFF, transformed, images.cut_off),
        (CLIPPED, transformed, images.clipped()),
        (CHILD, small, images.as_it_is),
        *((OTHER, images.drawn_from(files, OTHERS // 3, random), images.as_it_is) for files in foreign),
    ]
    return [lesson for lesson in lessons if lesson[1]]


def linear_head(shown: Mapping[str, Floats], seed: int) -> tuple[tuple[str, ...], Floats, Floats]:
    """Multinomial logistic regression on principal components, returned as one linear map of the features."""
    kinds = tuple(shown)
    features = np.concatenate(list(shown.values())).astype(np.float64)
    truth = np.repeat(np.arange(len(kinds)), [len(rows) for rows in shown.values()])
    mean, spread = features.mean(0), features.std(0) + 1e-3
    standard = (features - mean) / spread
    count = min(COMPONENTS, *standard.shape)
    components = PCA(count, svd_solver="randomized", random_state=seed).fit(standard)
    reduced = components.transform(standard)
    unit = reduced[:, 0].std()
    model = LogisticRegression(C=WEAKNESS, max_iter=300).fit(reduced / unit, truth)
    slopes, offsets = model.coef_, model.intercept_
    if len(kinds) == 2:  # scikit-learn gives one row for two classes
        slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
    weights = slopes / unit @ components.components_ / spread
    middle = mean + spread * components.mean_
    biases = offsets - weights @ middle
    return kinds, weights.astype(np.float32), biases.astype(np.float32)


def _exam(data: Path, split: str, random: images.Random) -> list[tuple[str, Callable[[], list[Grey]]]]:
    """Every kind of picture by name; made when asked for, so that not all are in memory at once."""
    adults = images.drawn_from(_adults(data, split), MEASURED, random)

    def changed(files: Sequence[Path], change: Change = images.as_it_is) -> Callable[[], list[Grey]]:
        chosen = images.drawn_from(files, MEASURED, random)
        return lambda: images.pictures(chosen, change, random)

    wrong = [pose for pose in POSES if pose != UPRIGHT]
    young = images.children(data, split)
    return [
        *((pose.name, changed(adults, images.posed(pose))) for pose in wrong),
        ("mirrored", changed(adults, images.posed(Pose(mirrored=True)))),
        *(
            (f"tilted {degrees}", changed(adults, images.tilted(degrees, degrees)))
            for degrees in (15, 30, 45)
        ),
        ("cut off: 50 to 75 % of each side", changed(adults, images.cut_off)),
        *((f"clipped {share:.0%}", changed(adults, images.clipped(share))) for share in (0.2, 0.4, 0.6)),
        ("under 16, same hospital", changed([image.path for image in young])),
        ("under 8, same hospital", changed([image.path for image in young if image.age < 8])),
        ("1 to 5, other hospital", changed(images.other_chests(data, "pediatric", split))),
        ("adults, other hospital", changed(images.other_chests(data, "hannover", split))),
        *((name, changed(images.ultrasound(data, name, split))) for name in images.ULTRASOUND),
        *((f"DICOM {modality}", pictures) for modality, pictures in _dicom(data).items()),
    ]


def _dicom(data: Path) -> dict[str, Callable[[], list[Grey]]]:
    """First frames of the DICOM files by modality: ``CT``, ``MR``, ``US``, and ``other`` but for X-rays."""
    files: dict[str, list[Path]] = {"CT": [], "MR": [], "US": [], "other": [], "CR": [], "DX": []}
    for path in sorted((data / "dicom" / "files").glob("*.dcm")):
        with suppress(PixelError):
            files.get(open_dicom(path).header.modality, files["other"]).append(path)
    return {modality: partial(_first_frames, files[modality]) for modality in ("CT", "MR", "US", "other")}


def _first_frames(files: Sequence[Path]) -> list[Grey]:
    found: list[Grey] = []
    for path in files:
        with suppress(PixelError):
            display = open_dicom(path).display()
            found.append(display if display.ndim == 2 else np.asarray(display.mean(axis=2), np.uint8))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _GateOutcomes:
    """What the gate did with N pictures: ``distances [N]`` as shown; which are refused, which reoriented."""

    distances: Floats
    refused: npt.NDArray[np.bool_]
    reoriented: npt.NDArray[np.bool_]

    def outcome(self) -> dict[str, float]:
        refused, reoriented = float(self.refused.mean()), float(self.reoriented.mean())
        return {
            "accepted": round(1.0 - refused - reoriented, 4),
            "mended": round(reoriented, 4),
            "refused": round(refused, 4),
        }


def _seen(classifier: Classifier, pictures: Sequence[Grey]) -> _GateOutcomes:
    distances, refused, reoriented = [], [], []
    for picture in pictures:
        found = classifier.analyse(picture)
        passes = classifier.in_domain(found) and Exposure.from_image(picture).refusal is None
        distances.append(found.shown_distance)
        refused.append(not passes)
        reoriented.append(passes and found.pose != UPRIGHT)
    return _GateOutcomes(np.array(distances, np.float32), np.array(refused, bool), np.array(reoriented, bool))


def _share(passed: npt.NDArray[np.bool_]) -> dict[str, Any]:
    count, of = int(passed.sum()), len(passed)
    found = binomtest(count, of).proportion_ci(method="wilson")
    return {
        "images": of,
        "false_positives_at_95": [
            round(value, 4) for value in (count / of, float(found.low), float(found.high))
        ],
    }
