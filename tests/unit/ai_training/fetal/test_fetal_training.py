"""Training and measuring the network for fetal heads, on a few drawn frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ai_pipeline.fetal_head.outline import COLUMNS, ROWS, HeadModel
from ai_pipeline.models.engine import OnnxRuntime
from ai_training import fetal
from ai_training.fetal import (
    HEADS,
    ID,
    OPEN,
    OTHERS,
    PLANES,
    HeadAugment,
    HeadBatches,
    HeadMix,
    augment,
    evaluate,
    fit_limits,
    head_images,
    plain,
    train_and_ship,
    without_head,
)
from ai_training.networks.outlines import HeadNetwork
from tests.unit.ai_pipeline.fetal_head.test_fetal_head import LIMITS, REF, by_brightness
from tests.unit.ai_training import published_lab as lab
from tests.unit.heads import HEAD, drawn_head

SMALL = fetal.HeadRecipe(
    iterations=2, mix=HeadMix(1, 1, 1), validate_every=1, half=False, threads=1, workers=0
)
MM = 0.2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few frames in each split of each set, laid out as the public sets are."""
    folder = tmp_path_factory.mktemp("data")
    picture, head = drawn_head()
    size = (HEAD.circumference - 2 * np.pi) * MM  # the reference runs one pixel inside the mask
    columns = ("patient_id", "pixel_mm_at_512", "head_circumference_mm", "split")
    for name in (HEADS, PLANES, *OTHERS):
        shown = picture if name in {HEADS, PLANES} else np.where(head, np.uint8(60), picture)
        mask, splits = head.astype(np.uint8) * 255, enumerate(("train", "val", "test") * 2)
        lab.public(folder / name, columns, [(shown, mask, f"p{n}", MM, size, split) for n, split in splits])
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_ship(data, tmp_path_factory.mktemp("run"), SMALL)


def test_the_exported_network_says_what_the_trained_one_says(data: Path, trained: Path) -> None:
    network = HeadNetwork()
    network.load_state_dict(torch.load(trained.parent / "best.pt", weights_only=True))
    values, _ = plain(head_images(data, "val")[0])
    with torch.inference_mode():
        ours = [torch.sigmoid(part)[0].numpy() for part in network.eval()(torch.from_numpy(values[None]))]
    theirs = OnnxRuntime((trained.parent / f"{ID}.onnx").read_bytes(), 1)(np.stack([values] * 3))
    assert theirs["head"].shape == (3, ROWS, COLUMNS)
    for name, wanted in zip(("head", "present"), ours, strict=True):
        np.testing.assert_allclose(theirs[name][0], wanted, atol=1e-4)


def test_a_batch_has_heads_with_outline_heads_without_and_none(data: Path) -> None:
    inputs, heads, present, known = HeadBatches(data, HeadMix(2, 1, 1), HeadAugment(), 1)[0]
    assert inputs.shape == (4, 3, ROWS, COLUMNS)
    assert (present.tolist(), known.tolist()) == ([1, 1, 1, 0], [1, 1, 0, 1])
    assert (heads.flatten(1).sum(1) > 0).tolist() == [True, True, False, False]


def test_the_loss_falls_towards_the_truth_and_asks_nothing_where_none_is_known(data: Path) -> None:
    _, heads, present, _ = batch = HeadBatches(data, HeadMix(2, 1, 1), HeadAugment(), 1)[0]
    right, there = 20 * heads - 10, 20 * present - 10
    otherwise = torch.cat([right[:2], -right[2:3], right[3:]])  # the plane without outline
    assert fetal.loss_of((right, there), batch, SMALL) < 0.1 < fetal.loss_of((-right, -there), batch, SMALL)
    assert fetal.loss_of((otherwise, there), batch, SMALL) == fetal.loss_of((right, there), batch, SMALL)


def test_the_head_stays_on_the_picture_whatever_is_done_to_it() -> None:
    picture, head = drawn_head()
    unchanging = HeadAugment(blurred=0, noise=0, gamma=0.01, contrast=0.01, written=0)

    for seed in range(20):
        copy, moved = augment(picture, head, unchanging, np.random.default_rng(seed))
        inner = cv2.erode((moved > 0.9).astype(np.uint8), np.ones((9, 9))) > 0
        outer = (cv2.dilate((moved > 0.1).astype(np.uint8), np.ones((9, 9))) == 0) & (copy > 0)
        assert copy[outer].mean() > copy[inner].mean() + 20


def test_a_part_without_head_has_none() -> None:
    picture, head = drawn_head()
    marked = np.where(head, np.uint8(255), picture // 2 + 10)
    parts = (without_head(marked, head, np.random.default_rng(seed)) for seed in range(20))
    assert max((part == 255).mean() for part in parts) <= 0.021


def test_the_limits_hold_by_how_much_the_reference_runs_inside_its_mask(data: Path) -> None:
    limits = fit_limits(data, HeadModel(by_brightness, OPEN, REF))

    assert limits.inset == pytest.approx(0.5, abs=0.1)  # one pixel of 512, of 256 a half
    assert limits.roundness[0] < HEAD.short / HEAD.long < limits.roundness[1] and 0.5 <= limits.present <= 1


def test_the_figures_are_those_of_a_good_reader_and_the_gate_counts_each_set(data: Path) -> None:
    result = evaluate(data, HeadModel(by_brightness, LIMITS, REF), "test")
    assert (result["images"], result["measured"]) == (2, 2)
    assert result["dice"][0] > 0.97 and result["error"][0] < 4
    passed = {name: row["passed"][0] for name, row in result["gate"].items()}
    assert {HEADS: 1, PLANES: 1, **dict.fromkeys(OTHERS, 0)}.items() <= passed.items()
