"""Baselines that the network has to beat: histograms of oriented gradients, the header alone, the source
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.feature import hog as describe
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ai_pipeline.models.registry import Chain
from ai_training.sets.chest import label_matrix, soft_matrix
from ai_training.sets.images import LABELS, ChestImage

Floats = npt.NDArray[np.floating]
SOFT_WEIGHT = 0.7  # as the network's
CHAIN = Chain()  # 128 pixels a side, whatever the network sees: one baseline for all models
MOST = 6000  # images that kernel ridge learns from; its time grows with the cube
SEED = 1
ALPHA, WIDTH = 3.0, 1.5  # ridge, kernel width over dimension: the best of 4 × 3 on validation (.658)


def hog_scores(
    train: Sequence[ChestImage],
    train_pixels: npt.NDArray[np.uint8],
    pixels: npt.NDArray[np.uint8],
    cache: Path,
) -> Floats:
    """Scores ``[N, labels]`` of images reduced by ``CHAIN``: kernel ridge regression on HOG.

    Trained on ``train`` only, with hard and soft labels like the network; stored in ``cache`` under a hash of
    the images.
    """
    digest = hashlib.sha256(train_pixels.tobytes() + pixels.tobytes() + f"{ALPHA} {WIDTH}".encode())
    stored = cache / f"hog-{digest.hexdigest()[:16]}.npy"
    if stored.exists():
        return np.asarray(np.load(stored))
    scaler = StandardScaler()
    known = scaler.fit_transform(hog(train_pixels))
    model = KernelRidge(alpha=ALPHA, kernel="rbf", gamma=WIDTH / known.shape[1])
    hard, soft = label_matrix(train), soft_matrix(train)
    target = np.where(np.isnan(soft), hard, (hard + SOFT_WEIGHT * soft) / (1 + SOFT_WEIGHT))
    model.fit(known, target - target.mean(0))
    scores = np.asarray(model.predict(scaler.transform(hog(pixels))))
    cache.mkdir(parents=True, exist_ok=True)
    np.save(stored, scores)
    return scores


def hog(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The histograms of oriented gradients of pictures ``[N, side, side]``: cells of 16 pixels, blocks of 2 ×
    2 cells, 9 directions.
    """
    return np.stack([describe(image, pixels_per_cell=(16, 16), cells_per_block=(2, 2)) for image in pixels])


def demographic_scores(train: Sequence[ChestImage], images: Sequence[ChestImage]) -> Floats:
    """Scores ``[N, labels]`` of a logistic regression on age, sex and view, without the image."""
    known, asked, truth = _header(train), _header(images), label_matrix(train)
    scores = np.zeros((len(images), len(LABELS)))
    for label in np.flatnonzero(truth.min(0) < truth.max(0)):  # where there is something to learn from
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores[:, label] = model.fit(known, truth[:, label]).decision_function(asked)
    return scores


def source_scores(train: Sequence[ChestImage], images: Sequence[ChestImage]) -> Floats:
    """Scores ``[N, labels]`` of a classifier that knows only the folder and repository of an image.

    The score is the rate of each label in the train images of the same origin; if there are none, in all of
    them.
    """
    truth = label_matrix(train)
    usual = truth.mean(0)
    rows: dict[tuple[str, str], list[int]] = {}
    for row, image in enumerate(train):
        rows.setdefault((image.source, image.repository), []).append(row)
    # One image of the usual rates more: an origin with two images is no proof.
    rates = {origin: (truth[found].sum(0) + usual) / (len(found) + 1) for origin, found in rows.items()}
    return np.array([rates.get((image.source, image.repository), usual) for image in images])


def sampled(train: Sequence[ChestImage]) -> tuple[ChestImage, ...]:
    """At most ``MOST`` of the train images; always the same ones."""
    if len(train) <= MOST:
        return tuple(train)
    chosen = np.random.default_rng(SEED).choice(len(train), MOST, replace=False)
    return tuple(train[row] for row in np.sort(chosen))


def _header(images: Sequence[ChestImage]) -> Floats:
    return np.array(
        [(image.age, image.age**2, image.sex == "F", image.view == "AP") for image in images], np.float64
    )
