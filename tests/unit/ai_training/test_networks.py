"""Networks: those that outline, trained and measured on a few drawn frames; any backbone and any start."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from arms import folded, restore_normalisation
from safetensors.torch import save_file

from ai_pipeline.chest.anatomy import AnatomyModel
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime, load
from ai_pipeline.networks.heads import COLUMNS, ROWS, HeadModel
from ai_training import anatomy, fetal
from ai_training.base import CannotAdapt, DataMissing, ExperimentError, UnreadableCheckpoint
from ai_training.networks import (
    HEADS,
    ORGANS,
    ORGANS_SIDE,
    OUTPUTS,
    HeadNetwork,
    OutlineNetwork,
    classifier,
    fill,
    fill_from,
    read_weights,
    timm_network,
    torch_network,
)
from tests.unit.ai_pipeline.fetal_head.heads_lab import LIMITS, REF, by_brightness
from tests.unit.ai_training import published_lab as lab
from tests.unit.chests import drawn_chest
from tests.unit.heads import HEAD, drawn_head

SHORT = {"iterations": 2, "validate_every": 1, "threads": 1, "workers": 0}
RECIPE = fetal.HeadRecipe(mix=fetal.HeadMix(1, 1, 1), half=False, **SHORT)
MM = 0.2


@pytest.mark.smoke
def test_torch_computes_the_shipped_model_as_onnx_runtime_does() -> None:
    card = registry.find("chest-efficientnet-lite0")
    side = card.input.size
    images = np.random.default_rng(7).normal(size=(2, 3, side, side)).astype(np.float32)
    ours = load(card, "classifier")(images)
    with torch.inference_mode():
        theirs = dict(zip(OUTPUTS, torch_network(card)(torch.from_numpy(images)), strict=True))
    assert ours.keys() == theirs.keys() == {"logits", "features", "places"}
    for name in ours:
        np.testing.assert_allclose(theirs[name].numpy(), ours[name], atol=2e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few frames in each split of each set, laid out as the public sets are."""
    folder = lab.anatomy(tmp_path_factory.mktemp("data"))
    picture, head = drawn_head()
    size = (HEAD.circumference - 2 * np.pi) * MM  # the reference runs one pixel inside the mask
    columns = ("patient_id", "pixel_mm_at_512", "head_circumference_mm", "split")
    for name in (fetal.HEADS, fetal.PLANES, *fetal.OTHERS):
        shown = picture if name in {fetal.HEADS, fetal.PLANES} else np.where(head, np.uint8(60), picture)
        mask, splits = head.astype(np.uint8) * 255, enumerate(("train", "val", "test") * 2)
        lab.public(folder / name, columns, [(shown, mask, f"p{n}", MM, size, split) for n, split in splits])
    return folder


@pytest.mark.parametrize(
    ("kind", "images", "card", "network", "names", "shape"),
    [
        (
            anatomy,
            anatomy.anatomy_images,
            lambda data, out: anatomy.train(data, out, anatomy.AnatomyRecipe(batch=2, **SHORT)),
            lambda: OutlineNetwork(len(ORGANS)),
            ("organs",),
            (len(ORGANS), ORGANS_SIDE, ORGANS_SIDE),
        ),
        (
            fetal,
            fetal.head_images,
            lambda data, out: fetal.train_and_ship(data, out, RECIPE),
            HeadNetwork,
            ("head", "present"),
            (ROWS, COLUMNS),
        ),
    ],
    ids=["anatomy", "head"],
)
def test_the_exported_network_says_what_the_trained_one_says(
    kind: Any,
    images: Any,
    card: Any,
    network: Any,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    data: Path,
    tmp_path: Path,
) -> None:
    folder, made = card(data, tmp_path).parent, network().eval()
    made.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    values, _ = kind.plain(images(data, "val")[0])
    with torch.inference_mode():
        ours = made(torch.from_numpy(values[None]))
    theirs = OnnxRuntime((folder / f"{kind.ID}.onnx").read_bytes(), 1)(np.stack([values] * 3))
    assert theirs[names[0]].shape == (3, *shape)
    for name, wanted in zip(names, (ours,) if kind is anatomy else ours, strict=True):
        np.testing.assert_allclose(theirs[name][0], torch.sigmoid(wanted)[0].numpy(), atol=1e-4)


def test_the_loss_of_organs_falls_towards_the_truth(data: Path) -> None:
    images, organs = anatomy.AnatomyBatches(anatomy.anatomy_images(data, "train"), anatomy.Augment(), 2, 1)[0]
    right, wrong = (anatomy.loss_of(sign * (20 * organs - 10), organs, 1.0) for sign in (1, -1))
    assert images.shape == (2, 3, ORGANS_SIDE, ORGANS_SIDE)
    assert right < 0.1 < wrong


def test_organs_stay_on_the_picture_whatever_is_done_to_it() -> None:
    picture, organs = drawn_chest(300)
    unchanging = anatomy.Augment(
        inverted=0, framed=0, shaded=0, blurred=0, noise=0, gamma=0.01, contrast=0.01
    )

    for seed in range(20):
        copy, moved = anatomy.augment(picture, organs, unchanging, np.random.default_rng(seed))
        lungs, heart = (moved[1] > 0.9) | (moved[2] > 0.9), moved[0] > 0.9
        if lungs.any() and heart.any():
            assert copy[heart].mean() > copy[lungs].mean() + 50


def test_a_mask_with_exchanged_bits_is_read_in_the_right_order(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = anatomy.anatomy_images(data, "train")[0]
    _, organs = image.read()
    monkeypatch.setitem(anatomy.EXCHANGED, image.name, (2, 1, 0))
    assert (anatomy.anatomy_images(data, "train")[0].read()[1] == organs[[2, 1, 0]]).all()


def test_the_figures_are_those_of_a_perfect_reader(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = registry.find(anatomy.ID)
    truths = (anatomy.plain(image)[1] for image in anatomy.anatomy_images(data, "test"))
    shown: list[np.ndarray] = []  # the truth of the picture that is outlined

    def answer(inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Of a picture, perhaps of its mirror image, then of two variants."""
        if len(inputs) == 2:
            return {"organs": np.stack([shown.pop()] * 2)}
        if shown:
            return {"organs": 0 * shown[0][None]}
        shown.append(next(truths))
        return {"organs": shown[0][None]}

    perfect = AnatomyModel(card.input, answer, 1.0, card.ref)
    monkeypatch.setattr(AnatomyModel, "from_card", lambda _: perfect)
    result = anatomy.evaluate(data, None, "test")
    assert result["images"] == 2
    assert all(value[0] > 0.97 for value in result["dice"].values())


def test_a_batch_has_heads_with_outline_heads_without_and_none(data: Path) -> None:
    inputs, heads, present, known = fetal.HeadBatches(data, fetal.HeadMix(2, 1, 1), fetal.HeadAugment(), 1)[0]
    assert inputs.shape == (4, 3, ROWS, COLUMNS)
    assert (present.tolist(), known.tolist()) == ([1, 1, 1, 0], [1, 1, 0, 1])
    assert (heads.flatten(1).sum(1) > 0).tolist() == [True, True, False, False]


def test_the_loss_falls_towards_the_truth_and_asks_nothing_where_none_is_known(data: Path) -> None:
    _, heads, present, _ = batch = fetal.HeadBatches(data, fetal.HeadMix(2, 1, 1), fetal.HeadAugment(), 1)[0]
    right, there = 20 * heads - 10, 20 * present - 10
    otherwise = torch.cat([right[:2], -right[2:3], right[3:]])  # the plane without outline
    assert fetal.loss_of((right, there), batch, RECIPE) < 0.1 < fetal.loss_of((-right, -there), batch, RECIPE)
    assert fetal.loss_of((otherwise, there), batch, RECIPE) == fetal.loss_of((right, there), batch, RECIPE)


def test_the_head_stays_on_the_picture_whatever_is_done_to_it() -> None:
    picture, head = drawn_head()
    unchanging = fetal.HeadAugment(blurred=0, noise=0, gamma=0.01, contrast=0.01, written=0)

    for seed in range(20):
        copy, moved = fetal.augment(picture, head, unchanging, np.random.default_rng(seed))
        inner = cv2.erode((moved > 0.9).astype(np.uint8), np.ones((9, 9))) > 0
        outer = (cv2.dilate((moved > 0.1).astype(np.uint8), np.ones((9, 9))) == 0) & (copy > 0)
        assert copy[outer].mean() > copy[inner].mean() + 20


def test_a_part_without_head_has_none() -> None:
    picture, head = drawn_head()
    marked = np.where(head, np.uint8(255), picture // 2 + 10)
    parts = (fetal.without_head(marked, head, np.random.default_rng(seed)) for seed in range(20))
    assert max((part == 255).mean() for part in parts) <= 0.021


def test_the_limits_hold_by_how_much_the_reference_runs_inside_its_mask(data: Path) -> None:
    limits = fetal.fit_limits(data, HeadModel(by_brightness, fetal.OPEN, REF))

    assert limits.inset == pytest.approx(0.5, abs=0.1)  # one pixel of 512, of 256 a half
    assert limits.roundness[0] < HEAD.short / HEAD.long < limits.roundness[1]
    assert 0.5 <= limits.present <= 1


def test_the_figures_are_those_of_a_good_reader_and_the_gate_counts_each_set(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeadModel, "of", lambda _: HeadModel(by_brightness, LIMITS, REF))
    result = fetal.evaluate(data, None, "test")
    assert (result["images"], result["measured"]) == (2, 2)
    assert result["dice"][0] > 0.97
    assert result["error"][0] < 4
    passed = {name: row["passed"][0] for name, row in result["gate"].items()}
    assert {fetal.HEADS: 1, fetal.PLANES: 1, **dict.fromkeys(fetal.OTHERS, 0)}.items() <= passed.items()


# Any backbone, any start: what is read from a file, and what is refused and how


class NamedLayer(torch.nn.Module):
    """A network with the names of a DenseNet's layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.denselayer1 = torch.nn.ModuleDict({"conv": torch.nn.ModuleDict()})
        self.denselayer1["conv1"] = torch.nn.Conv2d(3, 2, 1)
        self.classifier = torch.nn.Linear(2, 2)


def state_of(rename: Any) -> dict[str, torch.Tensor]:
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
        classifier(str(tmp_path / "gone.pt"), 2, 64)


def test_a_transformer_s_places_are_resized_and_another_network_is_refused(tmp_path: Path) -> None:
    state = timm_network("test_vit", 9, 3).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "vit.safetensors")
    made = timm_network("test_vit", 2, 3, img_size=64)
    fill_from(made, tmp_path / "vit.safetensors", "timm/test_vit", HEADS)

    assert torch.equal(made.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert made.pos_embed.shape != state["pos_embed"].shape
    with pytest.raises(ExperimentError, match=r"vit\.safetensors does not hold .*test_convnext: \d+ of"):
        fill_from(timm_network("test_convnext", 2, 3), tmp_path / "vit.safetensors", "test_convnext", HEADS)


def test_norms_that_a_file_has_folded_are_restored_without_another_answer() -> None:
    network, images = (
        timm_network("mobilenetv2_050", 2, 3).eval(),
        torch.randn(4, 3, 32, 32),
    )
    with torch.inference_mode():
        before = network(images)
    assert folded(network)
    restore_normalisation(network, images)
    assert not folded(network)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images), before, atol=1e-3, rtol=1e-3)
