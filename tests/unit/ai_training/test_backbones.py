"""Any network of timm as backbone: built, filled, frozen, exported; names and files that do not fit."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from ai_training.backbones import fill_start, new_classifier
from ai_training.base import ExperimentError
from ai_training.cards import LIMIT, export_traced, fit_limit
from ai_training.chest.card import export_onnx
from ai_training.chest.experiment import Experiment
from ai_training.networks import OUTPUTS, timm_network
from ai_training.ovarian.card import export_classifier
from ai_training.ovarian.network import CystEnsemble
from ai_training.ovarian.training import OvarianRecipe
from ai_training.ovarian.training import new_classifier as new_ovarian

SMALL = "test_convnext"


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("densenet121", 1024),
        ("densenet169", 1664),
        ("resnet50", 2048),
        ("vgg16", 512),
        ("inception_v3", 2048),
        ("mobilenetv2_100", 1280),
        ("efficientnet_b0", 1280),
        ("convnext_large", 1536),
        ("test_vit", 64),
        ("swin_tiny_patch4_window7_224", 768),
    ],
)
def test_a_network_of_timm_is_a_backbone_with_its_own_features(name: str, channels: int) -> None:
    network, images = new_classifier(name, 3, 96).eval(), torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        logits, features, places = network(images)
        pooled = network.head(features.mean((2, 3)))
    assert features.shape[:2] == (1, channels)
    assert places.shape == (1, 3, 6, 6)
    assert torch.equal(logits, pooled)
    assert sum(part.numel() for part in network.backbone.parameters()) < 200e6, "its own head is there too"


def test_a_backbone_sees_what_timm_would_show_it() -> None:
    network = new_classifier("test_efficientnet", 2, 64).eval().backbone
    grey = torch.randint(0, 256, (1, 3, 64, 64)).float()
    mean, spread = (
        torch.tensor(network.network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std")
    )
    with torch.inference_mode():
        theirs = network.network.forward_features((grey / 255 - mean) / spread)
        torch.testing.assert_close(network((grey - 127) / 128)[-1], theirs, atol=1e-4, rtol=1e-4)


def test_a_frozen_backbone_keeps_weights_and_statistics_and_the_head_learns() -> None:
    network = new_classifier("mobilenetv2_050", 2, 64)
    network.freeze()
    before = {name: value.clone() for name, value in network.train().backbone.state_dict().items()}
    network(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    assert [name for name, part in network.named_parameters() if part.grad is not None] == [
        "head.weight",
        "head.bias",
    ]


@pytest.mark.parametrize("file", ["own.pt", "own.safetensors"])
def test_a_backbone_starts_from_a_file_with_another_head(tmp_path: Path, file: str) -> None:
    state = {name: value.clone() for name, value in timm_network(SMALL, 5, 3).state_dict().items()}
    (torch.save if file.endswith(".pt") else save_file)(state, tmp_path / file)
    network = new_classifier(SMALL, 2, 64)
    fill_start(network.backbone, SMALL, str(tmp_path / file))
    assert torch.equal(network.backbone.network.stem[0].weight, state["stem.0.weight"])


@pytest.mark.parametrize(
    ("name", "initial", "why"),
    [
        ("densnet121", "random", r"knows no network 'densnet121': did you mean densenet121"),
        ("no such thing", "random", r"knows no network 'no such thing'$"),
        (SMALL, "imagenet", "no package has ImageNet weights of test_convnext"),
        (SMALL, "random", "--frozen: random weights of test_convnext see nothing"),
        (
            SMALL,
            "other.pt",
            r"other\.pt does not hold the parameters of timm's test_convnext: \d+ of \d+ are m",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, initial: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm_network("test_vit", 2, 3).state_dict(), "other.pt")
    with pytest.raises(ExperimentError, match=why):
        fill_start(new_classifier(name, 2, 64).backbone, name, initial, frozen=True)


def test_the_default_stays_and_another_backbone_starts_from_random_weights() -> None:
    plain = Experiment()
    assert plain.on_backbone("", "", "", frozen=False) == plain
    made = plain.on_backbone("densenet121", "", "", frozen=False).network
    assert (made.architecture, made.initial) == ("densenet121", "random")
    own = plain.on_backbone("", "own.pt", "CC0", frozen=True).network
    assert (own.architecture, own.initial, own.licence, own.frozen) == (
        "efficientnet-lite0",
        "own.pt",
        "CC0",
        True,
    )


def test_the_exported_backbone_says_what_the_trained_one_says(tmp_path: Path) -> None:
    network, images = new_classifier("test_vit", 4, 64).eval(), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected = [part.numpy() for part in network(images)]
    export_onnx(network, 64, tmp_path / "n.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "n.onnx").run(OUTPUTS, {"images": images.numpy()})
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-4, rtol=1e-3)


def test_a_network_above_the_limit_is_halved_and_one_still_above_it_is_named(tmp_path: Path) -> None:
    for labels, halved in ((4_000, True), (9_000, False)):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2_048, labels))
        export_traced(network, torch.zeros(2, 2_048), ["scores"], tmp_path / "n.onnx")
        assert (tmp_path / "n.onnx").stat().st_size > LIMIT
        said = fit_limit(tmp_path / "n.onnx")
        assert ((tmp_path / "n.onnx").stat().st_size < LIMIT) is halved
        assert said == ("" if halved else "n.onnx has 37 MB: it runs, but this project ships none above 25")


@pytest.mark.parametrize("frozen", [True, False])
def test_an_ovarian_network_on_a_backbone_learns_above_its_frozen_part(tmp_path: Path, frozen: bool) -> None:
    torch.save(timm_network(SMALL, 5, 3).state_dict(), tmp_path / "own.pt")
    recipe = OvarianRecipe(size=64).on_backbone(SMALL, str(tmp_path / "own.pt"), "CC0", frozen=frozen)
    network = new_ovarian(recipe)
    grey = torch.randn(2, 1, 64, 64)
    images = grey.expand(-1, 3, -1, -1)
    kept = network.trunk.frozen_layers(images).half().float()
    network.eval()
    torch.testing.assert_close(network.trained_layers(kept)[0], network(images)[0], atol=0.02, rtol=0.02)
    network.train().trained_layers(kept)[0].sum().backward()
    learned = {name.split(".")[0] for name, part in network.named_parameters() if part.grad is not None}
    assert learned == ({"head"} if frozen else {"head", "trunk"})
    both = CystEnsemble([network, new_ovarian(recipe)]).eval()
    with torch.inference_mode():
        expected = both(images)[0].numpy()
    export_classifier(both, recipe, tmp_path / "n.onnx")
    [found] = onnxruntime.InferenceSession(tmp_path / "n.onnx").run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert recipe.described()["initial"] == "own.pt"
