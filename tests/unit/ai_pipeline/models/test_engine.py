"""The backends say the same, and say it again."""

from __future__ import annotations

import importlib.util

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
