"""The gate: what is a chest, and in which pose."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest

from ai_pipeline.images.coordinates import POSES, Pose, shown
from tests.unit.ai_pipeline.phantoms import echo
from tests.unit.chests import drawn_chest


def thumbnails(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """10 × 10 pixels of each picture: a network's features for these tests."""
    small = [cv2.resize(picture, (10, 10), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.stack(small).reshape(len(pictures), -1).astype(np.float32) / 128


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The gate, on drawn chests of adults in two splits and ultrasound, and the distance that it accepts."""
    folder, lines = tmp_path_factory.mktemp("drawn"), ["file,split,patient_id,age,sex,view,Effusion"]
    (folder / "us_breast").mkdir()
    for split, seed in product(("train", "val"), range(60)):
        cv2.imwrite(str(folder / f"{split}{seed}.png"), chest_of(seed + 1000 * (split == "val")))
        lines.append(f"{split}{seed}.png,{split},{split}{seed},50,F,PA,{seed % 2}")
    for seed in range(30):
        cv2.imwrite(str(folder / "us_breast" / f"{seed}.png"), echo(seed, (96, 128)))
    others = ["file,split", *(f"{seed}.png,train" for seed in range(30))]
    for place, rows in ((folder, lines), (folder / "us_breast", others)):
        (place / "manifest.csv").write_text("\n".join(rows))
    from ai_training.chest.gate import fit_gate  # scikit-learn takes a second to load

    return fit_gate(folder, thumbnails)


def chest_of(seed: int) -> np.ndarray:
    """A drawn chest, a little moved; each seed another one."""
    random = np.random.default_rng(seed)
    picture, _ = drawn_chest(128, heart=random.uniform(0.3, 0.5))
    moved = np.roll(picture, random.integers(-4, 5, 2), (0, 1))
    return np.asarray(np.clip(moved + random.normal(0, 6, moved.shape), 0, 255), np.uint8)


def test_new_chests_pass_and_what_the_head_was_shown_or_not_is_refused(fitted: Any) -> None:
    random = np.random.default_rng(1)
    foreign = [
        *(echo(seed, (96, 128)) for seed in range(900, 920)),
        *(random.integers(0, 256, (128, 128)).astype(np.uint8) for _ in range(5)),
        np.zeros((128, 128), np.uint8),
        np.asarray((np.indices((128, 128)).sum(0) // 32 % 2) * 255, np.uint8),
    ]
    new = thumbnails([chest_of(seed) for seed in range(5000, 5100)])
    assert np.mean(fitted[0].distance(new) <= fitted[1]) >= 0.95
    assert np.all(fitted[0].distance(thumbnails(foreign)) > fitted[1])


@pytest.mark.parametrize("pose", POSES[1:], ids=[pose.name for pose in POSES[1:]])
def test_every_pose_is_named_and_refused_as_shown(fitted: Any, pose: Pose) -> None:
    features = thumbnails([shown(chest_of(seed), pose) for seed in range(5000, 5050)])
    assert np.mean(fitted[0].distance(features) > fitted[1]) >= 0.95
    assert np.mean([fitted[0].kind(row[None]).pose == pose for row in features]) >= 0.95
