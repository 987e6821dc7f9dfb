"""Grad-CAM finds its layer by itself; with a linear head over pooled maps it is the class activation map."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from ai_pipeline.models import engine
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find
from ai_training.evaluation.saliency.gradcam import last_feature_maps, signed_grad_cam
from ai_training.networks.classifier import torch_network

CARD = find("chest-efficientnet-lite0")


class DenseLayer(nn.Module):
    """Appends 4 maps to those that come in, as a DenseNet's layers do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, self.conv(relu(self.norm(maps)))], 1)


class DenseNet(nn.Module):
    """torchvision's layout: ``features`` end in a normalisation, ReLU in place and pooling are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), DenseLayer(8), DenseLayer(12), nn.BatchNorm2d(16)
        )
        self.classifier = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = relu(self.features(images), inplace=True)
        return self.classifier(torch.flatten(adaptive_avg_pool2d(maps, (1, 1)), 1))


class Block(nn.Module):
    """A ResNet's basic block; its ReLU works in place and runs twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(maps))) + maps)


class ResNet(nn.Module):
    """torchvision's layout: layers, pooling and linear head are modules; another head hangs at the side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 3)
        self.aside = nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layer1(self.relu(self.conv1(images)))
        return self.fc(torch.flatten(self.avgpool(maps), 1)), self.aside(maps)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def some_images() -> Tensor:
    return torch.randn(2, 3, 20, 24)


def chest_like() -> npt.NDArray[np.float32]:
    """Two dark lungs with a bright heart on a grey body, as the shipped network takes it."""
    assert CARD.input is not None
    body = np.full((512, 512), 150, np.uint8)
    for centre in ((160, 250), (352, 250)):
        cv2.ellipse(body, centre, (85, 150), 0, 0, 360, 50, -1)
    cv2.ellipse(body, (290, 340), (95, 75), 20, 0, 360, 190, -1)
    return network_input(np.asarray(cv2.GaussianBlur(body, (0, 0), 6), np.uint8), CARD.input)[0]


def test_on_the_shipped_model_grad_cam_is_the_class_activation_of_the_exported_maps() -> None:
    head = engine.parameters(CARD.file("classifier"))["head.weight"]
    images = chest_like()
    features = engine.load(CARD, "classifier")(images)["features"]
    class_activation = np.einsum("lc,nchw->lnhw", head, features)

    network = torch_network(CARD)
    found = [signed_grad_cam(network, torch.from_numpy(images), label).numpy() for label in range(len(head))]

    # The gradient of a mean over h × w cells is 1 / (h · w).
    expected = class_activation / features[0, 0].size
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.01


def test_the_layer_of_the_shipped_network_is_its_last_and_not_the_place_head() -> None:
    assert last_feature_maps(torch_network(CARD), torch.from_numpy(chest_like())) == "backbone._swish"


@pytest.mark.parametrize(
    ("network", "layer", "head"), [(DenseNet, "features", "classifier"), (ResNet, "layer1", "fc")]
)
def test_in_usual_networks_the_maps_before_pooling_are_found(
    network: type[nn.Module], layer: str, head: str
) -> None:
    made = network().eval()
    images = some_images()
    with torch.no_grad():
        maps = relu(made.get_submodule(layer)(*_before(made, layer, images)))
        weights = made.get_submodule(head).weight[1]

    assert last_feature_maps(made, images) == layer
    expected = torch.einsum("c,nchw->nhw", weights, maps) / maps[0, 0].numel()
    torch.testing.assert_close(signed_grad_cam(made, images, 1), expected)


def test_an_earlier_layer_may_be_asked_for_by_name() -> None:
    assert signed_grad_cam(ResNet(), some_images(), 0, "conv1").shape == (2, 10, 12)


def test_the_network_is_left_as_it_was() -> None:
    network = ResNet().train()
    network.layer1.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    found = signed_grad_cam(network, some_images(), 2)

    assert not found.requires_grad
    assert network.training and network.fc.training and not network.layer1.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("layer", "label", "reason"),
    [
        ("layer9", 0, "no module 'layer9'"),
        ("avgpool", 0, "gives no feature maps"),
        ("aside", 0, "does not depend on 'aside'"),
        (None, 3, "no class 3 among 3"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_reason(
    layer: str | None, label: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        signed_grad_cam(ResNet(), some_images(), label, layer)


def test_a_network_without_feature_maps_is_told_to_name_a_layer() -> None:
    with pytest.raises(ValueError, match="name a layer"):
        signed_grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 2)), some_images(), 0)


def _before(network: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, ...]:
    given: list[tuple[Tensor, ...]] = []
    hook = network.get_submodule(layer).register_forward_pre_hook(
        lambda _module, inputs: given.append(tuple(value.clone() for value in inputs))
    )
    network(images)
    hook.remove()
    return given[0]
