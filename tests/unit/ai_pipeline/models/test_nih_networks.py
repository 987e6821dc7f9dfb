"""EVA-X, the DenseNet-121 of Medical MAE and timm's networks answer in the node as in their authors' code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CannotAdapt
from ai_pipeline.models.card import Chain, Input
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find
from ai_pipeline.networks import foreign, huggingface, nih
from ai_pipeline.networks.adapted import Adapted, NetworkDescription
from tests.unit.ai_pipeline import foreign_checkpoints
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import models


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    foreign.offer_torchvision_operators()


@pytest.mark.usefixtures("confinement")
def test_eva_x_says_the_same_as_in_its_authors_code(tmp_path: Path) -> None:
    foreign_checkpoints.eva_x(tmp_path)
    expected = np.load(tmp_path / "expected.npz")

    done = models("convert", tmp_path / "checkpoint.pth", "--from", "eva-x", "--trust", "--out", tmp_path)

    assert done.exit_code == 0, done.output
    card = find("eva-x-tiny", tmp_path)
    assert [label.name for label in card.labels] == list(nih.LABELS)
    assert card.labels[2].code.value == "60046008"  # the node's own code of effusion
    assert card.input is not None
    values, _ = network_input(expected["image"], card.input)
    np.testing.assert_allclose(values, expected["input"], atol=0.02)  # one grey level is .014
    found = Classifier(card, threads=1).analyse(expected["image"])
    np.testing.assert_allclose(found.logits, expected["scores"][0], atol=5e-3)
    assert np.ptp(expected["scores"]) > 1  # else the comparison says nothing


@pytest.mark.parametrize(
    ("make", "adapt"),
    [(foreign_checkpoints.eva_x_base, nih.eva_x), (foreign_checkpoints.medical_mae, nih.medical_mae)],
)
def test_larger_networks_say_the_same_as_in_their_authors_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    adapt: Callable[..., Adapted],
) -> None:
    monkeypatch.setattr(nih, "DEPTH", foreign_checkpoints.LAYERS_OF_BASE)
    make(tmp_path)
    expected = np.load(tmp_path / "expected.npz")

    adapted = adapt(tmp_path / "checkpoint.pth", NetworkDescription("eva-x"))

    with torch.inference_mode():
        logits = adapted.network.eval()(torch.from_numpy(expected["input"]))[0]
    np.testing.assert_allclose(logits, expected["scores"], atol=1e-4)
    taken = Input(
        adapted.size,
        adapted.channels,
        adapted.mean,
        adapted.scale,
        "MONOCHROME2",
        Chain(),
        "imagenet",
        adapted.crop,
        adapted.squash,
        adapted.interpolation,
    )
    values, _ = network_input(expected["image"], taken)
    np.testing.assert_allclose(values, expected["input"], atol=0.02)


def test_a_folder_of_timm_in_hugging_face_s_layout_is_taken_too(tmp_path: Path) -> None:
    folder = folders.timm(tmp_path / "timm")
    torch.manual_seed(4)
    reference = foreign.timm_network("resnet18", 3, 3).eval()

    adapted = huggingface.adapt(folder, NetworkDescription("huggingface"))

    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        np.testing.assert_allclose(adapted.network(images)[0], reference(images), atol=1e-5)
    assert (adapted.size, adapted.crop, adapted.interpolation) == (224, 0.95, "bicubic")
    assert adapted.labels == ("Mass", "Nodule", "Hernia")


def eva_state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    state = {
        "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16),
        "pos_embed": torch.zeros(1, 197, 384),
        "head.weight": torch.zeros(14, 384),
    }
    return state | changes


@pytest.mark.parametrize(
    ("adapt", "state", "remedy"),
    [
        (nih.eva_x, {"classifier.weight": torch.zeros(14, 8)}, "holds no EVA-X"),
        (nih.eva_x, {k: v for k, v in eva_state().items() if k != "head.weight"}, "take a file fine-tuned"),
        (nih.eva_x, eva_state(**{"patch_embed.proj.weight": torch.zeros(100, 3, 16, 16)}), "of 100 numbers"),
        (nih.eva_x, eva_state(**{"head.weight": torch.zeros(5, 384)}), "name each of them, in order, with"),
        (nih.eva_x, eva_state(**{"rope.freqs_cos": torch.zeros(196, 64)}), "are not those of EVA-X"),
        (nih.eva_x, eva_state(), "does not hold the parameters of eva-x-small"),
        (nih.medical_mae, eva_state(), "take a file fine-tuned for findings, of densenet121"),
        (nih.medical_mae, {"classifier.weight": torch.zeros(14, 1024)}, "does not hold the parameters"),
    ],
)
def test_files_of_other_networks_are_refused_with_what_to_do(
    tmp_path: Path, adapt: Callable[..., Any], state: dict[str, torch.Tensor], remedy: str
) -> None:
    torch.save({"model": state}, tmp_path / "checkpoint.pth")

    with pytest.raises(CannotAdapt, match=remedy):
        adapt(tmp_path / "checkpoint.pth", NetworkDescription("eva-x"))
