"""The checks of the heat maps can fail: they tell a map that looks at the image from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.registry import find
from ai_training.evaluation.saliency.gradcam import signed_grad_cam
from ai_training.evaluation.saliency.heatmaps import (
    PLACE_HEAD,
    centre_prior,
    constant_maps,
    pointing_game,
    saliency_figures,
    torch_network,
)
from ai_training.evaluation.saliency.randomised import STAGES, cascade, randomisation
from ai_training.sets.images import TruthBox

Maps = npt.NDArray[np.float32]


def box(left: float, top: float, right: float, bottom: float, patient: str = "a") -> TruthBox:
    return TruthBox("x.png", "Mass", left, top, right, bottom, "val", side=512.0, patient=patient)


def spot(x: int, y: int) -> Maps:
    found = np.zeros((128, 128), np.float32)
    found[y // 4 - 3 : y // 4 + 3, x // 4 - 3 : x // 4 + 3] = 1.0
    return found


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    ).eval()


def some_images() -> Tensor:
    return torch.randn(6, 1, 24, 24, generator=torch.Generator().manual_seed(7))


def explained_by_grad_cam(network: nn.Module, images: Tensor) -> Maps:
    return np.asarray(signed_grad_cam(network, images, 1).numpy())


def explained_by_edges(network: nn.Module, images: Tensor) -> Maps:
    """Looks like an explanation and asks no network (Adebayo et al., figure 1)."""
    return np.asarray(images[:, 0].diff(dim=1).abs().numpy())


def test_a_map_that_points_into_the_boxes_wins_and_one_that_points_elsewhere_loses() -> None:
    boxes = [box(0, 0, 100, 100, "a"), box(300, 300, 450, 450, "b"), box(400, 40, 500, 140, "c")]
    right = [spot(50, 50), spot(380, 380), spot(450, 90)]
    centre = [centre_prior(128)] * 3

    found = pointing_game(boxes, {"shown": right, "centre": centre})

    assert found["pointing"]["shown"] == [1.0, 1.0, 1.0]
    assert found["energy"]["shown"] == pytest.approx([1.0, 1.0, 1.0])
    assert found["pointing"]["centre"] == [0.0, 0.0, 0.0]
    assert found["pointing"]["shown - centre"] == [1.0, 1.0, 1.0]


def test_the_centre_prior_points_at_a_box_in_the_centre_only() -> None:
    found = pointing_game(
        [box(200, 200, 312, 312, "a"), box(0, 0, 112, 112, "b")], {"centre": [centre_prior(128)] * 2}
    )

    value, low, high = found["pointing"]["centre"]
    assert (value, low, high) == (0.5, 0.0, 1.0)  # two patients: the interval says how little that is


def test_the_energy_of_a_flat_map_is_the_area_of_the_box_and_negative_values_have_none() -> None:
    flat = np.ones((128, 128), np.float32)
    against = np.where(np.arange(128) < 64, -5.0, 1.0).astype(np.float32) * flat

    found = pointing_game([box(0, 0, 256, 512)], {"flat": [flat], "against": [against]})

    assert found["energy"]["flat"][0] == pytest.approx(0.5)
    assert found["energy"]["against"][0] == 0.0


def test_the_constant_map_is_the_share_of_boxes_that_cover_a_place() -> None:
    (found,) = constant_maps([box(0, 0, 256, 256), box(0, 0, 512, 128)], side=64).values()

    assert found[:16, :32] == pytest.approx(1.0)
    assert found[:16, 32:] == pytest.approx(0.5)
    assert found[16:32, :32] == pytest.approx(0.5)
    assert not found[32:].any()


def test_grad_cam_changes_when_layers_are_randomised() -> None:
    stages = randomisation(network(), some_images(), list("abcdef"), explained_by_grad_cam)

    assert [stage.layer for stage in stages] == ["6", "2", "0"]
    assert stages[-1].spearman[0] < 0.5
    assert stages[-1].ssim[0] < 0.5


def test_an_edge_detector_is_found_out_by_randomisation() -> None:
    stages = randomisation(network(), some_images(), list("abcdef"), explained_by_edges)

    assert {tuple(stage.spearman) for stage in stages} == {(1.0, 1.0, 1.0)}
    assert {tuple(stage.ssim) for stage in stages} == {(1.0, 1.0, 1.0)}


@pytest.mark.parametrize("explain", [explained_by_grad_cam, explained_by_edges])
def test_a_vanished_map_has_nothing_in_common(explain: Callable[[nn.Module, Tensor], Maps]) -> None:
    images, calls = some_images(), []

    def vanishing(network: nn.Module, images: Tensor) -> Maps:
        calls.append(network)
        return explain(network, images) if len(calls) == 1 else np.zeros((6, 4, 4), np.float32)[:, :1, :1]

    assert randomisation(network(), images, list("abcdef"), vanishing)[0].spearman[0] == 0.0


def test_layers_are_lost_from_the_top_in_a_copy_and_the_same_way_each_time() -> None:
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    changed: list[set[str]] = []
    for _, lost in cascade(given, some_images()[:1], spared=("2",)):
        changed.append(
            {name for name, value in lost.state_dict().items() if not torch.equal(value, before[name])}
        )
    (*_, (_, first)), (*_, (_, again)) = (cascade(given, some_images()[:1]) for _ in range(2))

    assert changed == [{"6.weight", "6.bias"}, {"6.weight", "6.bias", "0.weight", "0.bias"}]
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_many_layers_are_lost_in_few_stages_the_topmost_alone() -> None:
    shipped = torch_network(find("chest-efficientnet-lite0"))
    size = int(shipped.place_bias.shape[-1]) * 16  # type: ignore[union-attr, index]

    order = [name for name, _ in cascade(shipped, torch.zeros(1, 3, size, size), spared=PLACE_HEAD)]

    assert order[0] == "head"
    assert order[-1] == "backbone._conv_stem"
    assert len(order) == STAGES


@pytest.mark.data
def test_the_shown_heat_map_knows_more_than_the_centre_and_depends_on_the_network(data: Path) -> None:
    figures = saliency_figures(data, "val", Classifier(find("chest-efficientnet-lite0")), most=6)

    assert figures["pointing"]["shown"][0] > figures["pointing"]["centre"][0]
    assert figures["energy"]["shown - centre"][1] > 0.0
    for name in ("shown", "shown, place head kept", "grad_cam"):
        last = figures["randomisation"][name][-1]
        assert last["spearman"][0] < 0.8
        assert last["ssim"][0] < 0.8


@pytest.mark.data
def test_without_boxes_there_is_nothing_to_report(data: Path) -> None:
    assert saliency_figures(data, "no such split", Classifier(find("chest-efficientnet-lite0"))) == {}
