"""Any backbone, any start: what is read from a file, what is refused and how, what is exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from arms import folded, restore_normalisation
from safetensors.torch import save_file
from torch import Tensor, nn

from ai_training.base import CannotAdapt, DataMissing, ExperimentError, UnreadableCheckpoint
from ai_training.conversion.checkpoints import fill, read_weights
from ai_training.conversion.foreign import timm_network
from ai_training.networks.backbones import StartWeights, classifier, pyramid


class NamedLayer(nn.Module):
    """A network with the names of a DenseNet's layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.denselayer1 = nn.ModuleDict({"conv": nn.ModuleDict()})
        self.denselayer1["conv1"] = nn.Conv2d(3, 2, 1)
        self.classifier = nn.Linear(2, 2)


def state_of(rename: Any) -> dict[str, Tensor]:
    return {rename(name): value for name, value in NamedLayer().state_dict().items()}


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda name: f"module.model.{name}",
        lambda name: name.replace("conv1", "conv.1"),
        lambda name: name.replace("classifier.", "classifier.0."),
    ],
    ids=["plain", "prefixed", "old torchvision", "chexnet"],
)
def test_parameters_are_found_by_the_names_that_files_give_them(rename: Any) -> None:
    state, network = state_of(rename), NamedLayer()
    assert fill(network, state, "it") == ()
    assert all(map(torch.equal, network.state_dict().values(), state.values()))


def test_a_refusal_says_the_file_what_was_expected_and_what_was_found() -> None:
    state = state_of(str) | {"classifier.weight": torch.zeros(7, 2)}
    state["other.bias"] = state.pop("classifier.bias")
    with pytest.raises(CannotAdapt) as refused:
        fill(NamedLayer(), state, "a layer", file="own.pt")
    assert str(refused.value) == (
        "own.pt does not hold the parameters of a layer: 1 of 4 are missing (classifier.bias); 1 are not "
        "known (other.bias); 1 have another shape (classifier.weight: expected 2×2, found 7×2)"
    )
    left = fill(NamedLayer(), state, "a layer", heads=("classifier.", "other."))
    assert left == ("classifier.weight", "classifier.bias")


def test_a_file_of_the_user_is_opened_by_torch_s_reader_of_numbers_alone(tmp_path: Path) -> None:
    torch.save({"net": NamedLayer()}, tmp_path / "whole.pt")
    (tmp_path / "text.pt").write_text("no weights")

    with pytest.raises(UnreadableCheckpoint, match=r"whole\.pt holds more than numbers"):
        read_weights(tmp_path / "whole.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"text\.pt"):
        read_weights(tmp_path / "text.pt")
    with pytest.raises(DataMissing, match=r"gone\.pt is missing"):
        pyramid("timm/test_convnext", StartWeights(str(tmp_path / "gone.pt")), 64, 64)


def test_a_transformer_s_places_are_resized_and_another_network_is_refused(tmp_path: Path) -> None:
    state = timm_network("test_vit", 9, 3).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "vit.safetensors")
    start = StartWeights(str(tmp_path / "vit.safetensors"))

    made: Any = pyramid("timm/test_vit", start, 64, 96)

    assert torch.equal(made.network.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert made.network.pos_embed.shape != state["pos_embed"].shape
    with pytest.raises(ExperimentError, match=r"vit\.safetensors does not hold .*test_convnext: \d+ of"):
        pyramid("timm/test_convnext", start, 64, 64)
    with pytest.raises(ExperimentError, match="no package has ImageNet weights of resnet18"):
        pyramid("resnet18", StartWeights("imagenet"), 64, 64)


def test_norms_that_a_file_has_folded_are_restored_without_another_answer() -> None:
    network, images = (
        classifier("timm/mobilenetv2_050", StartWeights("random"), 2, 32).eval(),
        torch.randn(4, 3, 32, 32),
    )
    with torch.inference_mode():
        before = network(images)[0]
    assert folded(network)
    restore_normalisation(network, images)
    assert not folded(network)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images)[0], before, atol=1e-3, rtol=1e-3)
