"""The anatomy network: what is trained is what is exported, and training learns something."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ai_pipeline.chest.anatomy import AnatomyModel
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training import anatomy
from ai_training.anatomy import (
    EXCHANGED,
    ID,
    AnatomyBatches,
    Augment,
    anatomy_images,
    augment,
    evaluate,
    plain,
)
from ai_training.base import DataMissing
from ai_training.networks.outlines import ORGANS, SIDE, OutlineNetwork
from tests.unit.ai_training import published_lab as lab
from tests.unit.chests import drawn_chest

SMALL = anatomy.AnatomyRecipe(iterations=2, batch=2, validate_every=1, threads=1, workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.anatomy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anatomy.train(data, tmp_path_factory.mktemp("run"), SMALL)


def test_the_exported_network_says_what_the_trained_one_says(data: Path, trained: Path) -> None:
    network = OutlineNetwork(len(ORGANS))
    network.load_state_dict(torch.load(trained.parent / "best.pt", weights_only=True))
    values, _ = plain(anatomy_images(data, "val")[0])

    with torch.inference_mode():
        ours = torch.sigmoid(network.eval()(torch.from_numpy(values[None])))[0].numpy()
    theirs = OnnxRuntime((trained.parent / f"{ID}.onnx").read_bytes(), 1)(np.stack([values] * 3))["organs"]

    assert theirs.shape == (3, 3, SIDE, SIDE) and np.abs(theirs[0] - ours).max() < 1e-4


def test_the_loss_falls_towards_the_truth(data: Path) -> None:
    images, organs = AnatomyBatches(anatomy_images(data, "train"), Augment(), 2, 1)[0]
    right, wrong = (anatomy.loss_of(sign * (20 * organs - 10), organs, 1.0) for sign in (1, -1))
    assert images.shape == (2, 3, SIDE, SIDE) and right < 0.1 < wrong


def test_organs_stay_on_the_picture_whatever_is_done_to_it() -> None:
    picture, organs = drawn_chest(300)
    unchanging = Augment(inverted=0, framed=0, shaded=0, blurred=0, noise=0, gamma=0.01, contrast=0.01)

    for seed in range(20):
        copy, moved = augment(picture, organs, unchanging, np.random.default_rng(seed))
        lungs, heart = (moved[1] > 0.9) | (moved[2] > 0.9), moved[0] > 0.9
        if lungs.any() and heart.any():
            assert copy[heart].mean() > copy[lungs].mean() + 50


def test_a_mask_with_exchanged_bits_is_read_in_the_right_order(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = anatomy_images(data, "train")[0]
    _, organs = image.read()
    monkeypatch.setitem(EXCHANGED, image.name, (2, 1, 0))
    assert (anatomy_images(data, "train")[0].read()[1] == organs[[2, 1, 0]]).all()


def test_the_figures_are_those_of_a_perfect_reader(data: Path, trained: Path) -> None:
    card = registry.find(ID, trained.parent)
    truths = iter([np.stack([plain(image)[1]] * 3) for image in anatomy_images(data, "test")])
    perfect = AnatomyModel(card.input, lambda _: {"organs": next(truths)}, 1.0, card.ref)
    result = evaluate(data, perfect, "test")
    assert result["images"] == 2 and all(value[0] > 0.97 for value in result["dice"].values())


def test_without_the_set_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="data-sets"):
        anatomy_images(tmp_path, "train")
