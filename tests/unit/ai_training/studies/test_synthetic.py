"""Generators and what judges them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from pydantic import ValidationError

from ai_training.networks.gan import (
    Equalised,
    GrowingCritic,
    GrowingGenerator,
    dcgan_critic,
    dcgan_generator,
    pixel_norm,
    with_deviation,
)
from ai_training.studies.synthetic.fit import DcganMaker, GrowingMaker, make_images, stage_at
from ai_training.studies.synthetic.judge import kid, kid_interval, nearer
from ai_training.studies.synthetic.recipe import Synthesis

SMALL = Synthesis(
    label="Edema", side=16, latent=8, width=4, widest=8, batch=8, iterations=4, rare_iterations=2, images=5
)
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [8, 64, 256])
def test_dcgan_makes_and_judges_images_of_each_side(side: int) -> None:
    made = dcgan_generator(8, 2, side)(torch.randn(2, 8, 1, 1))
    assert made.shape == (2, 1, side, side)
    assert made.abs().max() <= 1
    assert dcgan_critic(2, side)(made).shape == (2, 1, 1, 1)


def test_a_growing_generator_makes_every_stage_and_fades_the_newest_in() -> None:
    torch.manual_seed(0)
    generator, critic = GrowingGenerator(8, (8, 8, 4)), GrowingCritic((8, 8, 4))
    latent = torch.randn(3, 8)
    for stage, side in enumerate((4, 8, 16)):
        made = generator(latent, stage)
        assert made.shape == (3, 1, side, side)
        assert critic(made, stage).shape == (3,)
    below = torch.nn.functional.interpolate(generator(latent, 1), scale_factor=2.0)
    assert torch.allclose(generator(latent, 2, 0.0), below)
    half = (generator(latent, 2, 0.0) + generator(latent, 2, 1.0)) / 2
    assert torch.allclose(generator(latent, 2, 0.5), half, atol=1e-6)


def test_equalised_weights_keep_the_spread_of_what_passes() -> None:
    torch.manual_seed(0)
    layer = Equalised(64, 64, 3, gain=1.0)
    passed = layer(torch.randn(4, 64, 16, 16)).detach()[..., 1:-1, 1:-1]
    assert passed.std() == pytest.approx(1.0, abs=0.1)
    assert layer.convolution.weight.detach().std() == pytest.approx(1.0, abs=0.05)
    assert pixel_norm(torch.randn(2, 16, 4, 4)).square().mean(1).allclose(torch.ones(2, 4, 4), atol=1e-4)


def test_the_minibatch_deviation_tells_copies_from_different_images() -> None:
    one = torch.randn(1, 2, 4, 4)
    assert with_deviation(one.repeat(4, 1, 1, 1))[:, 2].max() < 1e-3
    assert with_deviation(torch.randn(4, 2, 4, 4))[:, 2].min() > 0.3


def test_stages_follow_each_other_and_the_last_one_is_whole_at_the_end() -> None:
    assert stage_at(0.0, 4) == (0, 1.0)
    assert stage_at(0.2, 4) == (1, 0.0)
    assert stage_at(1.0, 4) == (4, 1.0)


@pytest.mark.parametrize("kind", ["dcgan", "pggan"])
def test_a_maker_draws_the_same_images_for_the_same_seed(kind: str) -> None:
    pixels = RANDOM.integers(0, 256, (20, 16, 16), np.uint8)
    one, other = (make_images(SMALL, kind, pixels, pixels[:6]) for _ in range(2))
    assert one.of_label.shape == (5, 16, 16)
    assert (one.of_all == other.of_all).all()
    assert (one.of_label == other.of_label).all()


@pytest.mark.parametrize("maker", [DcganMaker, GrowingMaker])
def test_a_critic_learns_to_tell_real_images_from_noise(maker: type[DcganMaker | GrowingMaker]) -> None:
    torch.manual_seed(0)
    pixels = np.zeros((8, 16, 16), np.uint8)
    made = maker(SMALL, pixels, pixels)
    real = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16)
    losses = [made.learn(real, 1.0) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_distance_is_near_0_for_like_sets_and_large_for_others() -> None:
    one, other, far = (RANDOM.normal(mean, 1, (200, 32)) for mean in (0, 0, 1))
    alike, apart = kid_interval(one, other), kid_interval(one, far)
    assert alike.low < 0 < alike.high
    assert apart.low > 10 * alike.high
    assert kid(one, far) == apart.value


def test_copies_of_training_images_are_found() -> None:
    training, held_out = RANDOM.normal(size=(2, 100, 16))
    assert nearer(training + 0.01, training, held_out).value == 1.0
    fair = nearer(RANDOM.normal(size=(400, 16)), training, held_out)
    assert fair.low < 0.5 < fair.high


@pytest.mark.parametrize("side", [4, 48, 2048])
def test_a_side_that_is_no_power_of_two_is_refused(side: int) -> None:
    with pytest.raises(ValidationError, match="power of two"):
        Synthesis(label="Edema", side=side)
