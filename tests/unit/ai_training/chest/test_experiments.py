"""Training runs: typed, seeded, resumable, and each setting changes what it says and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ai_pipeline.models.registry import Chain
from ai_training.base import ExperimentError
from ai_training.chest import experiment, training
from ai_training.networks import PlacedClassifier
from ai_training.sets.images import LABELS, SetImage
from tests.unit.ai_pipeline.phantoms import noise

SMALL = experiment.Experiment.model_validate(
    {
        "network": {"size": 64},
        "images": {"chain": Chain(side=64)},
        "schedule": {"batch": 4, "iterations": 4},
    }
)


def test_all_wrong_keys_of_an_experiment_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("sead = 1\n[network]\nsize = 100\n[schedule]\nepochs = -1\n")
    with pytest.raises(ExperimentError, match=r"wrong\.toml") as refused:
        experiment.load(file)
    assert all(key in str(refused.value) for key in ("sead", "network.size", "schedule.epochs"))


def test_a_variant_changes_only_what_it_names() -> None:
    changed, plain = (
        experiment.Experiment().changed("other", {"loss": {"soft": 0.0}}),
        experiment.Experiment(),
    )
    loss = plain.loss.model_copy(update={"soft": 0.0})
    assert changed == plain.model_copy(update={"name": "other", "loss": loss}) != plain


def test_augmentation_repeats_with_its_seed_and_never_mirrors() -> None:
    image = np.zeros((128, 128), np.uint8)
    image[30:50, 10:30] = 200  # something on the left

    def copy(seed: int) -> np.ndarray:
        return training.augment(image, 160, experiment.Augmentation(), np.random.default_rng(seed))

    np.testing.assert_array_equal(copy(5), copy(5))
    for seed in range(30):
        picture = copy(seed).astype(float)
        assert picture[:, :80].sum() > picture[:, 80:].sum()


def test_the_batches_are_the_same_whoever_prepares_them(tmp_path: Path) -> None:
    films = tuple(
        SetImage(
            *("", Path(f"{number}.png"), str(number), "val" if number % 3 == 2 else "train"),
            marks=tuple((number >> k) % 2 for k in range(len(LABELS))),
            age=40.0,
        )
        for number in range(12)
    )
    pixels = noise((12, 64, 64))
    run, prepared = training.ClassifierRun(SMALL, training.Material(films, pixels), tmp_path), []
    for run.workers in (0, 1):
        prepared.append(list(run.batches(range(1, 4))))
    for one, other in zip(*prepared, strict=True):
        torch.testing.assert_close((one[0], one[1].soft), (other[0], other[1].soft))


def test_the_merged_head_says_what_both_heads_say_in_units_of_their_spread() -> None:
    tasks = training.Tasks(PlacedClassifier(len(LABELS), 64)).eval()
    pooled = np.random.default_rng(0).normal(size=(50, tasks.network.head.in_features)).astype(np.float32)
    merged, features = tasks.merged(pooled, share=2.0).head, torch.from_numpy(pooled)
    with torch.no_grad():
        own, taught = tasks.network.head(features), tasks.teacher(features)
        torch.testing.assert_close(merged(features), own / own.std(0) + 2 * taught / taught.std(0))
