"""What simple features, age and sex, or the source alone would reach."""

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

from ai_training.metrics import Floats
from ai_training.sets.chest import label_matrix, soft_matrix
from ai_training.sets.images import LABELS, SetImage

SOFT_WEIGHT = 0.7  # as the network's
ALPHA, WIDTH = 3.0, 1.5  # ridge, kernel width over dimension: the best of 4 × 3 on validation (.658)


def hog_scores(
    train: Sequence[SetImage],
    train_pixels: npt.NDArray[np.uint8],
    pixels: npt.NDArray[np.uint8],
    cache: Path,
) -> Floats:
    """Scores ``[N, labels]`` of a baseline for images reduced by ``CHAIN``: kernel ridge regression on HOG
    features. It is trained on ``train`` only, with hard and soft labels like the network; stored in ``cache``
    under a hash of the images.
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


def demographic_scores(train: Sequence[SetImage], images: Sequence[SetImage]) -> Floats:
    """Scores ``[N, labels]`` of a baseline for ``images``: logistic regression on age, sex and view, without
    the image.
    """
    known, asked = (
        np.array([(one.age, one.age**2, one.sex == "F", one.view == "AP") for one in part], np.float64)
        for part in (train, images)
    )
    truth = label_matrix(train)
    scores = np.zeros((len(images), len(LABELS)))
    for label in np.flatnonzero(truth.min(0) < truth.max(0)):  # where there is something to learn from
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores[:, label] = model.fit(known, truth[:, label]).decision_function(asked)
    return scores


def source_scores(train: Sequence[SetImage], images: Sequence[SetImage]) -> Floats:
    """Scores ``[N, labels]`` of a baseline for ``images`` that knows only an image's folder and repository:
    the rate of each label in the train images of the same origin; if there are none, in all of them.
    """
    truth = label_matrix(train)
    usual = truth.mean(0)
    rows: dict[tuple[str, str], list[int]] = {}
    for row, image in enumerate(train):
        rows.setdefault((image.source, image.repository), []).append(row)
    # One image of the usual rates more: an origin with two images is no proof.
    rates = {origin: (truth[found].sum(0) + usual) / (len(found) + 1) for origin, found in rows.items()}
    return np.array([rates.get((image.source, image.repository), usual) for image in images])
