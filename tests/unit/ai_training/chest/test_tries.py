"""Tries at a better chest classifier: views of a film, heads on frozen features, the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find
from ai_training.chest.batches import Targets
from ai_training.chest.tries import (
    WHOLE,
    RidgeHead,
    as_table,
    chosen_strength,
    folds_of,
    judge,
    mean_of,
    ridge_head,
)
from ai_training.chest.views import LungBoxes, View, pooled, shipped_head, shipped_trunk, square_around
from ai_training.sets.images import LABELS, ChestImage
from tests.unit.chests import drawn_chest

SHIPPED = "chest-efficientnet-lite0"


def _image(number: int, positive: bool, path: Path = Path()) -> ChestImage:
    labels = tuple(int(positive and name == "Effusion") for name in LABELS)
    return ChestImage(path, labels, None, f"p{number // 2}", "train", "one", "one", 50.0, "F", "PA")


def test_what_the_trunk_and_the_head_say_is_what_the_shipped_network_says(tmp_path: Path) -> None:
    card = find(SHIPPED)
    film, _ = drawn_chest(256)
    path = tmp_path / "film.png"
    import cv2

    cv2.imwrite(str(path), film)
    assert card.input is not None
    engine = OnnxRuntime(shipped_trunk(card), 1)
    seen = pooled([_image(0, False, path)], [(0, 0, 1, 1)], ("x", engine), WHOLE, card.input.chain, tmp_path)
    weights, bias = shipped_head(card)
    expected = Classifier(card, threads=1).analyse_as_shown(film).logits
    np.testing.assert_allclose((seen @ weights.T + bias)[0], expected, atol=1e-3)


def test_the_trunk_takes_larger_films() -> None:
    engine = OnnxRuntime(shipped_trunk(find(SHIPPED)), 1)
    assert engine(np.zeros((1, 3, 288, 288), np.float32))["features"].shape[2:] == (9, 9)


def test_the_box_of_the_lungs_is_inside_a_film_and_smaller() -> None:
    film, _ = drawn_chest(512)
    left, top, right, bottom = LungBoxes(find("chest-anatomy-unet"), 1).box(film)
    assert 0 <= left < right <= 512
    assert 0 <= top < bottom <= 512
    assert right - left == bottom - top


def test_a_square_stays_in_the_picture_and_lungs_that_are_too_small_were_not_found() -> None:
    assert square_around((0, 50), (90, 100), 200, 200) == (0, 24, 101, 125)
    assert square_around((90, 90), (100, 100), 200, 300) == (0, 0, 300, 200)


def test_a_mirrored_view_is_the_view_mirrored() -> None:
    card = find(SHIPPED)
    assert card.input is not None
    film, _ = drawn_chest(256)
    plain, turned = (View(224, mirrored=m).of(film, (0, 0, 1, 1), card.input.chain) for m in (False, True))
    np.testing.assert_array_equal(turned, plain[:, ::-1])


def test_a_ridge_head_learns_what_can_be_told_and_folds_keep_patients_together() -> None:
    random = np.random.default_rng(1)
    images = [_image(n, n % 4 < 2) for n in range(200)]
    targets = Targets.from_images(images, [()] * len(images))
    features = random.normal(size=(200, 8)).astype(np.float32)
    effusion = LABELS.index("Effusion")
    features[:, 3] += 2 * targets.hard[:, effusion]
    strength = chosen_strength(features, targets, images, ridge_head, (0.1, 1.0))
    head = ridge_head(features, targets, strength)
    assert isinstance(head, RidgeHead)
    rows = judge(
        images,
        targets.hard,
        {"chance": random.normal(size=targets.hard.shape), "head": head(features)},
        {"chance": 1.0, "head": 2.0},
    )
    assert rows[1].auc.value > 0.85
    assert rows[1].difference is not None
    assert rows[1].difference.low > 0
    assert "| head | .9" in as_table(rows) or "| head | .8" in as_table(rows)
    folds = folds_of([image.patient for image in images])
    assert all(folds[n] == folds[n + 1] for n in range(0, 200, 2))


def test_in_a_mean_every_score_counts_alike() -> None:
    one = np.array([[0.0], [1.0]])
    np.testing.assert_allclose(mean_of(one, 100 * one), [[0.0], [2.0]])
