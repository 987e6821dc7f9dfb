"""The domain gate: fitted on the network's own features; what it reorients, refuses and accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import PixelError
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Pose
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.networks.gate import ASKEW, CHILD, CLIPPED, CUT_OFF, OTHER, FeatureGate, Head
from ai_training.base import DataMissing, Report, silent
from ai_training.chest.transforms import (
    ULTRASOUND,
    Change,
    Random,
    as_it_is,
    clipped,
    cut_off,
    drawn_from,
    files_of_split,
    framed,
    other_chests,
    pictures,
    posed,
    tilted,
    varied,
)
from ai_training.metrics import Interval
from ai_training.sets.chest import chest_set
from ai_training.sets.files import Grey, Singles
from ai_training.sets.images import SetImage

See = Callable[[Sequence[Grey]], Singles]
"""Displayed pictures of any size, 0 to 255 → the network's pooled features ``[N, C]``."""
INVERTED = Pose(inverted=True)

TRUE_POSITIVE_RATE = 0.99
"""Share of the validation split's adults that the gate lets through."""
WHOLE, VARIED, TRANSFORMED, OTHERS = 2000, 1500, 600, 900
"""Pictures to fit with: as they are, varied, of each transform, of each foreign set (at most)."""
USUAL, MEASURED = 2000, 250
"""Pictures of adults, and of each other kind, to measure with (at most)."""
DIRECTIONS, COMPONENTS, WEAKNESS = 32, 256, 1.0  # the last: scikit-learn's C
RESIDUAL_SHARE, HEAD_SHARE = 0.997, 0.993  # of validation adults inside the limit of each part


def fit_gate(data: Path, see: See, seed: int = 1, report: Report = silent) -> tuple[FeatureGate, float]:
    """Fit the domain gate on the train split of ``data``, and its limits on the adults of the validation
    split. Returns the gate, and the largest distance at which it accepts an image. ``see``: returns the
    features of pictures; ``seed``: of the random changes. Sets that ``data`` lacks are left out, and so are
    the kinds of picture in them. Raises DataMissing if one of the two splits has no chest images of adults.
    """
    random = np.random.default_rng(seed)
    report(0.0, "reading the pictures that the gate learns from")
    whole = drawn_from(_adults(data, "train"), WHOLE, random)
    shown: dict[str, list[Singles]] = {}
    jobs = _training_pictures(data, whole, random)
    for number, (kind, files, change) in enumerate(jobs):
        shown.setdefault(kind, []).append(see(pictures(files, change, random)))
        report((number + 1) / (len(jobs) + 1), f"reading the gate's pictures: {kind}")
    usual = np.concatenate(shown[UPRIGHT.name])
    plain_directions = directions_of(usual, min(DIRECTIONS, len(usual)))
    plain = linear_head({kind: np.concatenate(rows) for kind, rows in shown.items()}, seed)
    checked = see(pictures(_adults(data, "val"), as_it_is, random))
    share = float(np.quantile(plain_directions.unexplained(checked)[1].astype(np.float32), 0.9))
    directions = replace(plain_directions, usual=share)
    limits = (
        float(np.quantile(directions.residual(checked), RESIDUAL_SHARE)),
        float(np.quantile(plain.distance(checked), HEAD_SHARE)),
    )
    gate = replace(directions, head=replace(plain, limits=limits))
    report(1.0, "the gate is fitted")
    return gate, float(np.quantile(gate.distance(checked), TRUE_POSITIVE_RATE))


def directions_of(features: Singles, count: int) -> FeatureGate:
    """Make a domain gate of the ``count`` principal directions of features ``[N, C]`` of proper images;
    without a classifier of kinds.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-3
    rows = np.linalg.svd((features - mean) / spread, full_matrices=False)[2][:count]
    return FeatureGate(mean.astype(np.float32), spread.astype(np.float32), rows.astype(np.float32))


def gate_figures(data: Path, classifier: Classifier, split: str, report: Report = silent) -> dict[str, Any]:
    """How often the domain gate of ``classifier`` accepts every kind of picture of ``split``. ``adults``:
    share of the split's adults that is refused or reoriented. ``kinds``: for each kind
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
    usual = pictures(files[:: max(1, len(files) // USUAL)], as_it_is, random)
    report(0.0, "measuring the gate: adults")
    distances, adults = _seen(classifier, usual)
    limit = float(np.quantile(distances, 0.95))
    asked = _test_pictures(data, split, random)
    kinds: dict[str, Any] = {}
    for number, (name, made) in enumerate(asked):
        report(number / len(asked), f"measuring the gate: {name}")
        if there := made():
            distances, outcome = _seen(classifier, there)
            passed = int((distances <= limit).sum())
            sure = binomtest(passed, len(there)).proportion_ci(method="wilson")
            shares = Interval(passed / len(there), float(sure.low), float(sure.high)).as_list()
            kinds[name] = {"images": len(there), "false_positives_at_95": shares, **outcome}
    return {
        "threshold": classifier.card.gate.threshold,
        "threshold_at_95": round(limit, 4),
        "adults": {"images": len(usual), **adults},
        "kinds": kinds,
    }


def _adults(data: Path, split: str) -> list[Path]:
    """The files of the adults of ``split``. Raises DataMissing."""
    files = [image.path for image in chest_set(data).images if image.is_in(split) and image.adult]
    if not files:
        raise DataMissing(f"{data} has no adults' chest images of split {split}")
    return files


def _training_pictures(
    data: Path, whole: Sequence[Path], random: Random
) -> list[tuple[str, Sequence[Path], Change]]:
    """The pictures from which the domain gate's classifier learns: for each kind its name, files, and the
    change made to them. ``whole``: the adults' files.
    """
    transformed = drawn_from(whole, TRANSFORMED, random)
    hannover = other_chests(data, "hannover", "train")
    small = drawn_from(other_chests(data, "pediatric", "train"), OTHERS, random)
    foreign = [files_of_split(data / name, "train") for name in ULTRASOUND]
    lessons: list[tuple[str, Sequence[Path], Change]] = [
        (UPRIGHT.name, whole, as_it_is),
        (UPRIGHT.name, drawn_from(whole, VARIED, random), varied),
        (UPRIGHT.name, hannover, as_it_is),
        *((pose.name, transformed, posed(pose, framed)) for pose in POSES),
        # The commonest mistake (a MONOCHROME1 image taken for MONOCHROME2) and the hardest to see.
        (INVERTED.name, drawn_from(whole, VARIED, random), posed(INVERTED, varied)),
        (ASKEW, transformed, partial(tilted, least=25, most=65)),
        (CUT_OFF, transformed, cut_off),
        (CLIPPED, transformed, clipped),
        (CHILD, small, as_it_is),
        *((OTHER, drawn_from(files, OTHERS // 3, random), as_it_is) for files in foreign),
    ]
    return [lesson for lesson in lessons if lesson[1]]


def linear_head(shown: Mapping[str, Singles], seed: int) -> Head:
    """Fit the domain gate's classifier of kinds: multinomial logistic regression on principal components, as
    one linear map of the features; its limits are 1. ``shown``: features ``[N, C]`` by kind.
    """
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
    return Head(kinds, weights.astype(np.float32), biases.astype(np.float32), (1.0, 1.0))


def _test_pictures(data: Path, split: str, random: Random) -> list[tuple[str, Callable[[], list[Grey]]]]:
    """Functions that make the test pictures, by kind; they are called one by one, so that not all pictures
    are in memory.
    """
    adults = drawn_from(_adults(data, split), MEASURED, random)

    def changed(files: Sequence[Path], change: Change = as_it_is) -> Callable[[], list[Grey]]:
        """A function that reads some of ``files`` and applies ``change``."""
        chosen = drawn_from(files, MEASURED, random)
        return lambda: pictures(chosen, change, random)

    young = _children(data, split)
    return [
        *((name, changed(adults, change)) for name, change in _test_changes().items()),
        ("under 16, same hospital", changed([image.path for image in young])),
        ("under 8, same hospital", changed([image.path for image in young if image.age < 8])),
        ("1 to 5, other hospital", changed(other_chests(data, "pediatric", split))),
        ("adults, other hospital", changed(other_chests(data, "hannover", split))),
        *((name, changed(files_of_split(data / name, split))) for name in ULTRASOUND),
        *((f"DICOM {modality}", made) for modality, made in _dicom(data).items()),
    ]


def _test_changes() -> dict[str, Change]:
    """What is done to pictures of adults that the gate has to notice, by the name of its row."""
    changes: dict[str, Change] = {pose.name: posed(pose) for pose in POSES if pose != UPRIGHT}
    changes["mirrored"] = posed(Pose(mirrored=True))
    changes |= {f"tilted {turn}": partial(tilted, least=turn, most=turn) for turn in (15, 30, 45)}
    changes["cut off: 50 to 75 % of each side"] = cut_off
    return changes | {f"clipped {share:.0%}": partial(clipped, share=share) for share in (0.2, 0.4, 0.6)}


def _children(data: Path, split: str) -> list[SetImage]:
    """The images of ``split`` whose patients are known to be no adults."""
    return [
        image
        for image in chest_set(data).images
        if image.is_in(split) and not np.isnan(image.age) and not image.adult
    ]


def _dicom(data: Path) -> dict[str, Callable[[], list[Grey]]]:
    """Functions that decode the first frames of the DICOM files in ``data``, by modality: ``CT``, ``MR``,
    ``US``, and ``other`` (no X-rays).
    """
    files: dict[str, list[Path]] = {"CT": [], "MR": [], "US": [], "other": [], "CR": [], "DX": []}
    for path in sorted((data / "dicom" / "files").glob("*.dcm")):
        with suppress(PixelError):
            files.get(open_dicom(path).header.modality, files["other"]).append(path)
    return {modality: partial(_first_frames, files[modality]) for modality in ("CT", "MR", "US", "other")}


def _first_frames(files: Sequence[Path]) -> list[Grey]:
    """The first frame of each file that can be decoded."""
    found: list[Grey] = []
    for path in files:
        with suppress(PixelError):
            display = open_dicom(path).display()
            found.append(display if display.ndim == 2 else np.asarray(display.mean(axis=2), np.uint8))
    return found


def _seen(classifier: Classifier, pictures: Sequence[Grey]) -> tuple[Singles, dict[str, float]]:
    """The distance of each picture as shown, and the shares of pictures that the domain gate accepts,
    reorients and refuses.
    """
    rows = []
    for picture in pictures:
        found = classifier.analyse(picture)
        passes = classifier.in_domain(found) and Exposure.from_image(picture).refusal is None
        rows.append((found.shown_distance, passes and found.pose != UPRIGHT, not passes))
    distances, *judged = np.array(rows, np.float32).T
    mended, refused = (float(part.mean(dtype=np.float64)) for part in judged)
    shares = {"accepted": 1.0 - refused - mended, "mended": mended, "refused": refused}
    return distances, {name: round(share, 4) for name, share in shares.items()}
