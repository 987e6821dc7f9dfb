"""A model goes out as a bundle of MONAI, which MONAI itself runs, and comes in from one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app
from ai_pipeline.models.registry import find, load
from ai_pipeline.models.store.bundle import INFERENCE, METADATA, NETWORK, BundleMetadata
from tests.unit.chests import drawn_chest

MODEL = "chest-efficientnet-lite0"


def command(*words: object, fails: int = 0) -> str:
    done = CliRunner().invoke(app, ["models", *map(str, words)])
    assert done.exit_code == fails, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifier as a bundle."""
    out = tmp_path_factory.mktemp("bundles") / "chest"
    command("bundle", MODEL, "--out", out)
    return out


def test_monai_runs_the_bundle_and_finds_what_the_node_finds(bundle: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, at import
        monai = pytest.importorskip("monai.bundle")
        picture, _ = drawn_chest(260)
        cv2.imwrite(str(tmp_path / "chest.png"), picture)
        parser = monai.ConfigParser()
        parser.read_config(str(bundle / INFERENCE))
        parser.read_meta(str(bundle / METADATA))
        parser["bundle_root"] = str(bundle)
        parser["images"] = [str(tmp_path / "chest.png")]
        parser["output_file"] = str(tmp_path / "predictions.json")
        parser.parse()
        parser.get_parsed_content("run", eval_expr=True)

    [(_, found)] = json.loads((tmp_path / "predictions.json").read_text()).items()
    classifier = Classifier(find(MODEL), threads=1)
    ours = classifier.analyse(picture).logits
    assert list(found) == [label.name for label in classifier.card.labels]
    np.testing.assert_allclose(list(found.values()), ours, atol=1e-4)


def test_the_bundle_has_monai_s_layout_and_metadata(bundle: Path) -> None:
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    layout = {
        "configs/metadata.json",
        "configs/inference.json",
        "models/model.onnx",
        "docs/README.md",
        "LICENSE",
    }
    assert layout < files
    made = BundleMetadata.model_validate_json((bundle / METADATA).read_bytes())
    [picture] = made.network_data_format.inputs.values()
    [scores] = made.network_data_format.outputs.values()
    assert (picture.num_channels, picture.spatial_shape) == (3, (224, 224))
    assert scores.channel_def["1"] == find(MODEL).labels[1].name
    assert "exists" in command("bundle", MODEL, "--out", bundle, fails=65)
    assert "cannot be bundled" in command("bundle", "fetal-head-unet", "--out", bundle / "x", fails=65)


def test_a_bundle_comes_in_with_the_card_and_the_files_that_went_out(bundle: Path, tmp_path: Path) -> None:
    command("add", bundle, "--accept-licence", "--models-dir", tmp_path)

    shipped = find(MODEL)
    card = load(tmp_path / MODEL / shipped.version / "card.toml")
    assert [part.sha256 for part in card.weights] == [part.sha256 for part in shipped.weights]
    assert (card.labels, card.input, card.gate) == (shipped.labels, shipped.input, shipped.gate)


def of_others(folder: Path, **metadata: Any) -> Path:
    """A bundle as MONAI's users make it: means of the picture's left half and of all, as MONAI reads it."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["images", "start", "end", "axes"], ["half"]),
            helper.make_node("ReduceMean", ["half", "axes4"], ["left"], keepdims=0),
            helper.make_node("ReduceMean", ["images", "axes4"], ["all"], keepdims=0),
            helper.make_node("Unsqueeze", ["left", "one"], ["left2"]),
            helper.make_node("Unsqueeze", ["all", "one"], ["all2"]),
            helper.make_node("Concat", ["left2", "all2"], ["out"], axis=1),
        ],
        "halves",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.array(value, np.int64), name)
            for name, value in {
                "start": [0],
                "end": [16],
                "axes": [2],
                "axes4": [1, 2, 3],
                "one": [1],
            }.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    onnx.save(model, str(folder / NETWORK))
    tensor = {"type": "image", "format": "magnitude", "dtype": "float32", "spatial_shape": [32, 32]}
    facts = {
        "schema": "https://example.org/meta_schema.json",
        "version": "0.1.0",
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.26.4",
        "required_packages_version": {},
        "task": "halves",
        "description": "",
        "authors": "",
        "copyright": "CC0",
        "name": "Halves",
        "network_data_format": {
            "inputs": {"image": {**tensor, "num_channels": 1, "value_range": [0, 1]}},
            "outputs": {
                "pred": {
                    **tensor,
                    "num_channels": 2,
                    "value_range": [],
                    "channel_def": {"0": "Effusion", "1": "Mass"},
                }
            },
        },
    }
    (folder / METADATA).write_text(
        json.dumps({k: v for k, v in {**facts, **metadata}.items() if v is not None})
    )
    steps = [{"_target_": "LoadImaged"}, {"_target_": "Resized"}, {"_target_": "ScaleIntensityRanged"}]
    (folder / INFERENCE).write_text(
        json.dumps({"preprocessing": {"_target_": "Compose", "transforms": steps}})
    )
    return folder


def test_a_network_of_others_sees_pictures_as_monai_reads_them(tmp_path: Path) -> None:
    command("add", of_others(tmp_path / "b"), "--accept-licence", "--models-dir", tmp_path / "models")

    card = find("halves", tmp_path / "models")
    assert [label.name for label in card.labels] == ["Effusion", "Mass"]
    assert not any(label.supported for label in card.labels)
    assert card.licence == "CC0"
    picture = np.zeros((64, 64), np.uint8)
    picture[:, :32] = 255  # the left half of the columns is the first of MONAI's dimensions
    np.testing.assert_allclose(Classifier(card, threads=1).analyse(picture).logits, [1.0, 0.5], atol=0.04)
    assert onnxruntime.InferenceSession(card.weights[0].path).get_inputs()[0].shape[1:] == [1, 32, 32]


@pytest.mark.parametrize(
    ("metadata", "step", "why"),
    [
        ({"network_data_format": None}, "Resized", "network_data_format: Field required"),
        ({"version": 3}, "Resized", "version: "),
        ({}, "ScaleIntensityd", "no card can say what ScaleIntensity does"),
    ],
)
def test_a_bundle_that_no_card_can_describe_is_refused(
    tmp_path: Path, metadata: dict[str, Any], step: str, why: str
) -> None:
    folder = of_others(tmp_path / "b", **metadata)
    (folder / INFERENCE).write_text(json.dumps({"preprocessing": {"transforms": [{"_target_": step}]}}))

    assert why in command("add", folder, "--models-dir", tmp_path / "models", fails=65)
    assert not (tmp_path / "models").exists()
