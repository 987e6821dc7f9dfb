"""The backends say the same, and say it again."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.errors import NoNumber
from ai_pipeline.models import engine
from ai_pipeline.models.registry import find
from tests.unit.ai_training.small_models import ratio

CARD = find("chest-efficientnet-lite0")


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.float32]:
    assert CARD.input is not None
    side = CARD.input.size
    return np.random.default_rng(7).normal(size=(3, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_backends_agree_on_the_shipped_model(
    backend: engine.Backend, images: npt.NDArray[np.float32]
) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    ours = engine.load(CARD, "classifier")(images)
    theirs = engine.load(CARD, "classifier", backend, threads=1)(images)

    assert ours.keys() == theirs.keys() == {"logits", "features", "places"}
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-4, rtol=1e-3)


def test_a_network_is_loaded_once_per_process() -> None:
    assert engine.load(CARD, "classifier") is engine.load(CARD, "classifier")


def test_the_same_image_gives_the_same_bits_alone_and_again(images: npt.NDArray[np.float32]) -> None:
    network = engine.load(CARD, "classifier")

    np.testing.assert_array_equal(network(images[:1])["logits"], network(images[:1])["logits"])


def test_logits_are_the_linear_head_on_the_mean_feature_map(images: npt.NDArray[np.float32]) -> None:
    onnx = pytest.importorskip("onnx")
    outputs = engine.load(CARD, "classifier")(images)
    graph = onnx.load(str(CARD.file("classifier").path)).graph
    head = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.startswith("head.")}

    expected = outputs["features"].mean((2, 3)) @ head["head.weight"].T + head["head.bias"]

    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-3)


@pytest.mark.parametrize("above", [0.0, 1.0])
def test_what_is_no_number_is_no_output(above: float) -> None:
    """0 / 0 is NaN, 1 / 0 infinite."""
    network = engine.OnnxRuntime(ratio(), threads=1)
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)

    assert network(one, one)["ratio"] == 1.0
    with pytest.raises(NoNumber, match="the model gave no number"):
        network(np.full(1, above, np.float32), none)


TINY = """
import numpy as np
from onnx import TensorProto, helper

from ai_pipeline.models.engine import OnnxRuntime

give, get = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("give", "get"))
graph = helper.make_graph([helper.make_node("Add", ["give", "give"], ["get"])], "twice", [give], [get])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
twice = OnnxRuntime(model.SerializeToString(), threads=1)
print(twice(np.array([1e-40, 1e-30], np.float32))["get"].tolist())
"""


def test_numbers_too_small_to_be_quick_count_as_zero() -> None:
    """A network that meets them takes twice as long. In a process of its own: its first session decides."""
    done = subprocess.run([sys.executable, "-c", TINY], capture_output=True, text=True, check=True)
    tiny, small = json.loads(done.stdout)
    assert tiny == 0.0
    assert small == pytest.approx(2e-30)
