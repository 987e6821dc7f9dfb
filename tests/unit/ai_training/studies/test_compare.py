"""The figures of a study: paired on the same images, with seeds and patients in the interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from ai_training.errors import ExperimentError
from ai_training.networks.studies import restore_normalisation
from ai_training.sets.chest import label_matrix
from ai_training.sets.images import LABELS, ChestImage
from ai_training.studies.compare import compare
from ai_training.studies.experiment import Arm, ChestStudy, Task
from ai_training.studies.fit import HeldAnswers
from ai_training.studies.material import StudyMaterial

EDEMA = Task(labels=("Edema",))
STUDY = ChestStudy(
    name="drawn",
    seeds=(1, 2),
    arms=(Arm(name="one", task=EDEMA), Arm(name="other", task=EDEMA, against="one")),
)


def image(number: int) -> ChestImage:
    marks = tuple(int(label == "Edema" and number % 3 == 0) for label in LABELS)
    return ChestImage(Path(f"{number}"), marks, None, f"p{number // 2}", "test", "s", "r", 50.0, "F", "PA")


IMAGES = tuple(image(number) for number in range(240))
MATERIAL = StudyMaterial(IMAGES, np.zeros((1, 1, 1), np.uint8), label_matrix(IMAGES))
TRUTH = MATERIAL.labels(EDEMA)[:, 0]


def said(strength: float, seed: int, rows: int = 240) -> HeldAnswers:
    """Logits that know the truth by so many standard deviations of their noise."""
    noise = np.random.default_rng(seed).normal(size=rows)
    logits = (strength * TRUTH[:rows] + noise)[:, None].astype(np.float32)
    return HeldAnswers(np.arange(rows), logits, 1.0, 10)


def test_a_better_arm_is_called_better_and_an_equal_one_a_tie() -> None:
    weak = (said(0.5, 1), said(0.5, 2))
    strong = (said(2.5, 3), said(2.5, 4))
    _, row = compare(STUDY, MATERIAL, {"one": weak, "other": strong})
    assert row.verdict == "better than one"
    assert row.auc.low < row.auc.value < row.auc.high
    assert row.labels[0].positives == 80
    _, row = compare(STUDY, MATERIAL, {"one": weak, "other": (said(0.5, 5), said(0.5, 6))})
    assert row.verdict == "tie with one"


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = (said(1.0, 1), said(1.0, 1))
    apart = (said(0.0, 1), said(2.0, 1))
    rows = [compare(STUDY, MATERIAL, {"one": held, "other": alike})[0] for held in (alike, apart)]
    assert rows[1].auc.high - rows[1].auc.low > 2 * (rows[0].auc.high - rows[0].auc.low)


def test_arms_that_were_asked_other_images_are_not_compared() -> None:
    with pytest.raises(ExperimentError, match="different images"):
        compare(STUDY, MATERIAL, {"one": (said(1, 1),), "other": (said(1, 1, rows=200),)})


def test_a_label_that_is_no_result_in_a_source_is_left_out() -> None:
    left_out = frozenset({("s", LABELS.index("Edema"))})
    material = StudyMaterial(IMAGES, MATERIAL.pixels, MATERIAL.truth, left_out)
    row, _ = compare(STUDY, material, {"one": (said(1, 1),), "other": (said(1, 1),)})
    assert np.isnan(row.auc.value)


def test_restored_normalisation_computes_the_same_and_has_the_statistics_of_the_images() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    images = torch.randn(16, 3, 8, 8) * 3 + 1
    network.eval()
    before = network(images)
    inner = network[0](images)
    restore_normalisation(network, images)
    assert torch.allclose(network.eval()(images), before, atol=1e-4)
    assert torch.allclose(network[1].running_mean, inner.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(network.train()(images), before, atol=0.05)
