"""The gate learns from any network's features what to let through, what to turn back and what to refuse.

The features here are small copies of drawn chests, so that this is about the gate and needs no network.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.chest.domain_gate import KINDS, FeatureGate
from ai_pipeline.images.orientation import POSES, UPRIGHT, shown
from ai_training.chest import gates
from ai_training.errors import DataMissing
from tests.unit.ai_pipeline.phantoms import echo

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def thumbnails(pictures: Sequence[Grey]) -> Floats:
    """10 × 10 pixels of each picture: a network's features for these tests."""
    small = [cv2.resize(picture, (10, 10), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.stack(small).reshape(len(pictures), -1).astype(np.float32) / 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn chests of adults in two splits, and ultrasound."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = [(f"{split}{seed}.png", split, seed) for split in ("train", "val") for seed in range(60)]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", "patient_id", "age", "sex", "view", "Effusion"])
        for name, split, seed in rows:
            cv2.imwrite(str(folder / name), chest(seed + 1000 * (split == "val")))
            writer.writerow([name, split, name, 50, "F", "PA", seed % 2])
    (folder / "us_breast").mkdir()
    with (folder / "us_breast" / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split"])
        for seed in range(30):
            cv2.imwrite(str(folder / "us_breast" / f"{seed}.png"), echo(seed, (96, 128)))
            writer.writerow([f"{seed}.png", "train"])
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> gates.FittedGate:
    return gates.fit(folder, thumbnails)


def chest(seed: int) -> Grey:
    """Two dark lungs, a bright spine, a heart on the picture's right; each seed another chest."""
    random = np.random.default_rng(seed)
    picture = np.full((128, 128), 150.0, np.float32)
    picture[:, :8] = picture[:, -8:] = picture[:6] = 15
    wide, high = random.uniform(17, 23), random.uniform(34, 42)
    for x in (42, 86):
        centre = (int(x + random.integers(-3, 4)), int(56 + random.integers(-4, 5)))
        cv2.ellipse(picture, centre, (int(wide), int(high)), 0, 0, 360, random.uniform(40, 70), -1)
    cv2.ellipse(picture, (76, 84), (18, 15), 20, 0, 360, 190, -1)
    cv2.rectangle(picture, (60, 0), (68, 128), 205, -1)
    return np.asarray(np.clip(picture + random.normal(0, 6, picture.shape), 0, 255), np.uint8)


def test_new_chests_pass(fitted: gates.FittedGate) -> None:
    new = thumbnails([chest(seed) for seed in range(5000, 5100)])

    assert np.mean(fitted.gate.distance(new) <= fitted.threshold) >= 0.95


@pytest.mark.parametrize("pose", POSES[1:], ids=[pose.name for pose in POSES[1:]])
def test_every_pose_is_named_and_refused_as_shown(fitted: gates.FittedGate, pose: object) -> None:
    pictures = [shown(chest(seed), pose) for seed in range(5000, 5050)]  # type: ignore[arg-type]
    features = thumbnails(pictures)

    assert np.mean(fitted.gate.distance(features) > fitted.threshold) >= 0.95
    assert np.mean([fitted.gate.kind(row[None]).pose == pose for row in features]) >= 0.95


def test_what_the_head_was_shown_and_what_it_was_not_are_refused(fitted: gates.FittedGate) -> None:
    random = np.random.default_rng(1)
    foreign = [
        *(echo(seed, (96, 128)) for seed in range(900, 920)),
        *(random.integers(0, 256, (128, 128)).astype(np.uint8) for _ in range(5)),
        np.zeros((128, 128), np.uint8),
        np.asarray((np.indices((128, 128)).sum(0) // 32 % 2) * 255, np.uint8),
    ]

    assert np.all(fitted.gate.distance(thumbnails(foreign)) > fitted.threshold)


def test_kinds_that_nobody_could_show_are_left_out(fitted: gates.FittedGate) -> None:
    assert fitted.gate.head is not None
    assert fitted.gate.head.kinds[0] == UPRIGHT.name
    assert set(KINDS) - set(fitted.gate.head.kinds) == {"child"}


def test_a_gate_survives_its_file_and_the_same_gate_is_the_same_file(fitted: gates.FittedGate) -> None:
    features = thumbnails([chest(7), shown(chest(8), POSES[3])])
    again = FeatureGate.from_bytes(fitted.gate.to_bytes())

    assert again.to_bytes() == fitted.gate.to_bytes()
    np.testing.assert_allclose(again.distance(features), fitted.gate.distance(features), rtol=1e-5)
    assert again.kind(features[1:]) == fitted.gate.kind(features[1:])


def test_a_gate_without_head_still_measures_the_residual(fitted: gates.FittedGate) -> None:
    old = gates.directions_of(thumbnails([chest(seed) for seed in range(50)]), 8)
    again = FeatureGate.from_bytes(old.to_bytes())

    assert again.head is None
    assert again.kind(thumbnails([chest(1)])).pose == UPRIGHT
    assert again.distance(thumbnails([echo(1)]))[0] > again.distance(thumbnails([chest(99)]))[0] * 2


def test_no_gate_without_chests_of_adults(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), chest(1))
    (tmp_path / "manifest.csv").write_text(
        "file,split,patient_id,age,sex,view,Effusion\na.png,train,1,9,F,PA,1\n"
    )

    with pytest.raises(DataMissing, match="no adults' chest images of split train"):
        gates.fit(tmp_path, thumbnails)
