"""Bundles of MONAI: ours run in MONAI, theirs become models; what is to be run in one of theirs is not."""

import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find, load
from ai_training import bundle
from ai_training.base import CannotAdapt
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, ended, models
from tests.unit.chests import drawn_chest

pytest.importorskip("monai", reason="the extra monai is not installed")
pytestmark = pytest.mark.usefixtures("confinement")
SIDE, LABELS = 64, ("Effusion", "Something else")
STEPS = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "ScaleIntensityRanged", "keys": "image"}]


@pytest.fixture(autouse=True, scope="module")
def verbs() -> None:
    mount_commands()


def test_monai_runs_our_bundle_and_finds_what_the_node_finds(tmp_path: Path) -> None:
    made = tmp_path / "chest"
    assert str(made) in ended(0, models("bundle", SHIPPED, "--out", made))
    picture, _ = drawn_chest(260)
    cv2.imwrite(str(tmp_path / "chest.png"), picture)
    places = {"images": [str(tmp_path / "chest.png")], "output_file": str(tmp_path / "predictions.json")}
    with warnings.catch_warnings(action="ignore"):  # MONAI's, at import
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(made / bundle.INFERENCE))
        parser.read_meta(str(made / bundle.METADATA))
        parser.update({"bundle_root": str(made), **places})
        parser.parse()
        parser.get_parsed_content("run", eval_expr=True)
    [(_, found)] = json.loads((tmp_path / "predictions.json").read_text()).items()
    classifier = Classifier(find(SHIPPED), threads=1)
    assert list(found) == [label.name for label in classifier.card.labels]
    np.testing.assert_allclose(list(found.values()), classifier.analyse(picture).logits, atol=1e-4)
    words = ["models", "convert", str(made), "--out", str(tmp_path / "new")]
    assert "add its models/model.onnx" in " ".join(ended(65, CliRunner().invoke(app, words)).split())
    store = ("--models-dir", tmp_path / "models", "--accept-licence")
    ended(0, models("add", made / bundle.NETWORK, "--card", made / bundle.CARD, *store))
    back = load(made / bundle.CARD)
    assert [weights.sha256 for weights in back.weights] == [
        weights.sha256 for weights in classifier.card.weights
    ]


def theirs(folder: Path, **changes: Any) -> Path:
    """A bundle as others write them: a DenseNet of MONAI with two labels, for grey pictures of 0 to 1."""
    with warnings.catch_warnings(action="ignore"):
        from monai.networks.nets import DenseNet

    small = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "init_features": 8, "growth_rate": 4}
    small |= {"block_config": [1, 1]}
    torch.manual_seed(1)
    network = DenseNet(**small)
    definition = {"_target_": "monai.networks.nets.DenseNet", **small} | changes.pop("network", {})
    image = {"type": "image", "num_channels": 1, "spatial_shape": [SIDE, SIDE], "value_range": [0, 1]}
    scores = {"type": "logits", "num_channels": 2, "spatial_shape": []}
    scores["channel_def"] = dict(zip("01", LABELS, strict=True))
    shapes = {"inputs": {"image": image | changes.pop("image", {})}, "outputs": {"pred": scores}}
    config = {"network_def": definition, "preprocessing": {"transforms": changes.pop("steps", STEPS)}}
    for name, content in (
        (bundle.METADATA, {"name": "their net", "network_data_format": shapes}),
        (bundle.INFERENCE, config),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / bundle.PARAMETERS)
    return folder


def test_a_bundle_of_others_becomes_a_model_that_reads_pictures_as_monai_does(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "b")
    words = ["models", "convert", str(folder), "--out", str(tmp_path / "new"), "--licence", "Apache-2.0"]
    assert "It answers as the network before it does" in ended(0, CliRunner().invoke(app, words))
    card = load(tmp_path / "new/their-net.toml")
    assert [label.name for label in card.labels] == list(LABELS)
    assert (card.licence, card.input.size, card.input.mean, card.input.scale) == (
        "Apache-2.0",
        SIDE,
        (0.0,),
        (255.0,),
    )
    network, _ = bundle.read(folder)
    pictures = torch.rand(2, 1, SIDE, SIDE)
    with torch.inference_mode():
        wanted = network.network(pictures.transpose(2, 3)).numpy()  # MONAI reads columns × rows
    found = OnnxRuntime(card.file("classifier").path.read_bytes(), 1)(pictures.numpy())["logits"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.ptp(wanted) > 1e-3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": {"_target_": "os.system", "command": "touch ran"}}, r"only networks of monai\.networks"),
        ({"network": {"in_channels": "$open('ran', 'w')"}}, "which is to be run: write its value there"),
        ({"network": {"out_channels": 3}}, r"model\.pt does not hold the parameters of DenseNet"),
        ({"network": {"_target_": "UNet"}}, "network_def cannot be built"),
        ({"image": {"spatial_shape": [64, 64, 64]}}, "one square picture of a size"),
        ({"image": {"value_range": []}}, "value_range of the input must be"),
        ({"image": {"num_channels": 0}}, "is not as MONAI's schema says: .*greater than or equal to 1"),
        ({"steps": [{"_target_": "ScaleIntensityd"}]}, "no card can say what ScaleIntensity does"),
    ],
    ids=["program", "expression", "parameters", "arguments", "volume", "range", "channels", "transform"],
)
def test_a_bundle_that_no_card_can_describe_is_refused_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotAdapt, match=why):
        bundle.read(theirs(tmp_path / "b", **changes))
    assert not (tmp_path / "ran").exists()


def test_a_segmenter_is_refused_in_words(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "b")
    with warnings.catch_warnings(action="ignore"):
        from monai.networks.nets import UNet

    shape: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    shape |= {"channels": [4, 8], "strides": [2]}
    torch.save(UNet(**shape).state_dict(), folder / bundle.PARAMETERS)
    config = {"network_def": {"_target_": "UNet", **shape}, "preprocessing": {"transforms": STEPS}}
    (folder / bundle.INFERENCE).write_text(json.dumps(config))
    with pytest.raises(CannotAdapt, match="a segmenter has no place"):
        bundle.read(folder)
