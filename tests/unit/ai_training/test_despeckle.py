"""Models of speckle, filters, networks and their measures, on a few drawn frames."""

from dataclasses import replace
from pathlib import Path

import cv2
import despeckle as fit
import numpy as np
import pytest
import torch
from despeckle import (
    NETWORKS,
    DespeckleLoss,
    export_despeckler,
    loss_of,
    name_of,
    write_card,
)

from ai_pipeline.burnin.despeckle import Despeckler
from ai_pipeline.models import registry
from ai_training.base import ExperimentError
from ai_training.fetal import HEADS
from ai_training.networks.backbones import Perception
from ai_training.networks.outlines import HeadNetwork
from ai_training.ultrasound.speckle import (
    amplitude,
    autoencoders,
    decibels,
    filters,
    rayleigh,
    scattered,
    spread,
    texture,
)
from tests.unit.ai_training import published_lab as lab
from tests.unit.heads import drawn_head

GREY = np.full((160, 160), 0.6, np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_heads(tmp_path_factory.mktemp("data"))


def drawn_heads(folder: Path) -> Path:
    """A set of one drawn frame in each split."""
    picture, head = drawn_head()
    columns = ("patient_id", "pixel_mm_at_512", "head_circumference_mm", "split")
    rows = [(picture, head.astype(np.uint8) * 255, part, 0.2, 120, part) for part in ("train", "val", "test")]
    return lab.public(folder / HEADS, columns, rows).parent


def test_the_published_speckle_is_a_factor_of_mean_one() -> None:
    noisy = rayleigh(GREY, 0.1, np.random.default_rng(1))

    assert noisy.mean() == pytest.approx(0.6, abs=0.002)
    assert noisy.std() == pytest.approx(0.6 * 0.1 * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_physical_speckle_is_fully_developed_and_keeps_the_power() -> None:
    power = amplitude(scattered(GREY * 0.8, np.random.default_rng(1))).astype(np.float64) ** 2

    assert power.mean() == pytest.approx(float(amplitude(GREY * 0.8)[0, 0]) ** 2, rel=0.1)
    assert power.mean() ** 2 / power.var() == pytest.approx(1, abs=0.15)  # exponential: one look
    assert np.allclose(decibels(amplitude(GREY)), GREY, atol=1e-5)


def test_filters_bring_a_picture_nearer_to_the_one_below_the_noise() -> None:
    below = cv2.GaussianBlur(drawn_head()[0], (0, 0), 2).astype(np.float32)[100:260, 150:310] / 255
    noisy = rayleigh(below, 0.25, np.random.default_rng(2))

    for name, made in {**filters(), **autoencoders()}.items():
        assert np.abs(made(noisy) - below).mean() < np.abs(noisy - below).mean(), name


def test_the_spread_of_white_noise_is_found() -> None:
    noise = np.random.default_rng(3).normal(0.5, 0.08, (200, 200)).astype(np.float32)

    assert spread(noise) == pytest.approx(0.08, rel=0.05)


@pytest.mark.parametrize("loss", list(DespeckleLoss))
def test_every_loss_is_least_at_the_truth(loss: DespeckleLoss) -> None:
    truth, perception = torch.rand(1, 1, 192, 192), Perception() if "perceptual" in loss else None
    right, wrong = (loss_of(made, truth, loss, perception) for made in (truth, truth.flip(-1)))
    assert right.item() == pytest.approx(0, abs=1e-3) and wrong > right + 0.01


def test_a_blur_raises_the_looks_and_loses_edges() -> None:
    picture, head = drawn_head()
    before = scattered(picture.astype(np.float32) / 255 * 0.7, np.random.default_rng(4))
    same, blur = (texture(before, after, head) for after in (before, cv2.GaussianBlur(before, (0, 0), 4)))
    assert same["edges"] == pytest.approx(1) and blur["edges"] < 0.8 and blur["enl"] > 2 * same["enl"]


@pytest.mark.parametrize("loss", [DespeckleLoss.L1_MS_SSIM, DespeckleLoss.TASK])
def test_a_run_trains_and_its_network_runs_in_the_node(
    data: Path, tmp_path: Path, loss: DespeckleLoss
) -> None:
    torch.save(HeadNetwork().state_dict(), tmp_path / "segmenter.pt")
    whole = fit.recipe_of(loss, iterations=1, seed=1, threads=1, workers=0)
    recipe = replace(whole, mix=fit.SpeckleMix(1, 192, whole.mix.physical), half=False)

    network, chosen = fit.train(data, tmp_path / "run", recipe, tmp_path / "segmenter.pt")
    card_id = name_of(recipe.network, loss)
    export_despeckler(network, tmp_path / f"{card_id}.onnx")
    card = registry.load(write_card(tmp_path, card_id, 1.0, {"chosen": chosen}))

    picture = drawn_head()[0].astype(np.float32)[:104, :120] / 255
    with torch.inference_mode():
        ours = network(torch.from_numpy(picture)[None, None]).clamp(0, 1)[0, 0].numpy()
    assert np.allclose(Despeckler.from_card(card, 1).picture(picture), ours, atol=1e-4)
    assert set(chosen) >= {"psnr", "sigma 0.1", "sigma 0.75"}


def test_the_task_needs_its_segmenter(data: Path, tmp_path: Path) -> None:
    recipe = fit.recipe_of(DespeckleLoss.TASK, iterations=1, seed=1, threads=1, workers=0)

    with pytest.raises(ExperimentError, match="segmenter"):
        fit.train(data, tmp_path, recipe)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_keep_the_size(name: str) -> None:
    assert NETWORKS[name]()(torch.rand(1, 1, 40, 56)).shape == (1, 1, 40, 56)
