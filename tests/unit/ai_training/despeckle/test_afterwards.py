"""Segmenters after filters: networks, measures, and a toy run of both studies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ai_training.despeckle.afterwards import labels, planes, segmenters
from ai_training.despeckle.afterwards.segmenters import MEASURES, measures
from ai_training.despeckle.afterwards.teaching import BLURS, TAUGHT_BY, SegmenterRecipe
from ai_training.fetal.data import HEADS
from ai_training.networks.segmenters import PUBLISHED_WIDTHS, SEGMENTERS
from tests.unit.ai_training.biometry_lab import biometry_set
from tests.unit.heads import drawn_head


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawn frame in each split."""
    folder = tmp_path_factory.mktemp("data")
    picture, head = drawn_head()
    (folder / HEADS).mkdir()
    rows = ["file,mask,patient_id,pixel_mm_at_512,head_circumference_mm,split"]
    for split in ("train", "test"):
        cv2.imwrite(str(folder / HEADS / f"{split}.png"), picture)
        cv2.imwrite(str(folder / HEADS / f"{split}-mask.png"), head.astype(np.uint8) * 255)
        rows.append(f"{split}.png,{split}-mask.png,{split},0.2,120,{split}")
    (folder / HEADS / "manifest.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_a_segmenter_gives_a_value_for_each_pixel_and_class(name: str) -> None:
    assert SEGMENTERS[name](2)(torch.rand(2, 1, 48, 64)).shape == (2, 2, 48, 64)
    published = SEGMENTERS[name](4, PUBLISHED_WIDTHS).eval()
    assert published(torch.rand(1, 1, 32, 64)).shape == (1, 4, 32, 64)


def test_measures_of_a_disc_and_of_one_that_is_larger() -> None:
    rows, columns = np.mgrid[:96, :144]
    distance = np.hypot(rows - 48, columns - 72)
    truth, larger = distance <= 30, distance <= 33

    same = dict(zip(MEASURES, measures(truth, truth, 0.5), strict=True))
    wide = dict(zip(MEASURES, measures(larger, truth, 0.5), strict=True))
    none = dict(zip(MEASURES, measures(np.zeros_like(truth), truth, 0.5), strict=True))

    assert same == {"dice": 1, "iou": 1, "boundary": 0, "area": 1, "circumference": 0}
    assert wide["boundary"] == pytest.approx(1.5, abs=0.2)
    assert wide["area"] == pytest.approx(1.21, abs=0.02)
    assert wide["circumference"] == pytest.approx(2 * np.pi * 1.5, rel=0.1)
    assert (none["dice"], none["area"]) == (0, 0)
    assert none["circumference"] == pytest.approx(2 * np.pi * 15, rel=0.05)


def test_every_segmenter_is_taught_and_looked_at_after_every_filter(data: Path) -> None:
    recipe = SegmenterRecipe(iterations=1, batch=1, seeds=(1,))

    result = segmenters.compare(data, recipe, {"half": lambda picture: picture / 2})

    for runs in result["segmenters"].values():
        assert set(runs) == set(TAUGHT_BY)
        for seen in runs.values():
            assert set(seen) == {"raw", "half", *(f"Gaussian blur of {s} pixels" for s in BLURS)}
        assert runs["raw"]["raw"]["difference"] == [0, 0, 0]
    assert "SegNet" in segmenters.as_text(result)


def test_only_networks_that_regress_give_values_between_the_classes(data: Path) -> None:
    result = labels.compare(data, labels.LabelRecipe(iterations=1, batch=1))

    shares = {name: run["raw"]["between"][0] for name, run in result["runs"].items()}
    assert set(shares) == {
        f"{resized} labels, {output}" for resized in labels.RESIZED for output in labels.OUTPUTS
    }
    assert shares["nearest labels, regression"] > 0
    assert "pixels between" in labels.as_text(result)


def test_the_published_comparison_says_dice_of_every_plane_and_class(tmp_path: Path) -> None:
    recipe = SegmenterRecipe(iterations=1, batch=1)

    result = planes.compare(biometry_set(tmp_path), recipe, {})

    for runs in result["segmenters"].values():
        assert set(runs) == set(TAUGHT_BY)
        for seen_as in runs.values():
            assert {"raw", *(f"Gaussian blur of {s} pixels" for s in BLURS)} == set(seen_as)
            assert set(seen_as["raw"]["all"]) == {"brain", "CSP", "LV"}
    text = planes.as_text(result)
    assert "Trans-thalamic" in text and "diverse" in text and "nan" not in text


def test_dice_of_a_class_that_neither_has_is_not_counted() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[0, :2], truth[1, :, :2] = 1, 3
    found = truth.copy()
    found[1, :, 2:] = 3

    values = planes.dices(found, truth)

    assert values[0, 0] == 1 and np.isnan(values[0, 2])
    assert values[1, 2] == pytest.approx(2 * 8 / (8 + 16)) and np.isnan(values[1, :2]).all()


def test_the_published_recipe_is_fifty_epochs() -> None:
    assert SegmenterRecipe.published(2_682).iterations == 50 * 336
