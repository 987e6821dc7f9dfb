"""Engines: every network answers as on the CPU, on pictures prepared as it was trained."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import onnxruntime
import pytest

from ai_pipeline.errors import ModelError, NoNumber
from ai_pipeline.models import engine, registry
from ai_pipeline.models.registry import Chain, Input, network_input
from tests.unit.ai_training import small_models


@pytest.mark.parametrize("above", [0.0, 1.0])
def test_what_is_no_number_is_no_output(above: float) -> None:
    """0 / 0 is NaN, 1 / 0 infinite."""
    network, one = engine.OnnxRuntime(small_models.ratio(), threads=1), np.ones(1, np.float32)
    assert network(one, one)["ratio"] == 1.0
    with pytest.raises(NoNumber, match="the model gave no number"):
        network(one * np.float32(above), one * np.float32(0))


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
    assert json.loads(done.stdout) == [0.0, pytest.approx(2e-30)]


NETWORKS = [
    (card, weights)
    for card in registry.cards()
    for weights in card.weights
    if weights.path.suffix == engine.ONNX
]


@pytest.mark.parametrize("elsewhere", ["cuda", "openvino"])
@pytest.mark.parametrize(("card", "weights"), NETWORKS, ids=[f"{c.id}/{w.role}" for c, w in NETWORKS])
def test_every_shipped_network_answers_there_as_on_the_cpu(
    elsewhere: str, card: engine.Card, weights: engine.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := engine.lacking(elsewhere):
        pytest.skip(missing)
    ours, random = engine.OnnxRuntime(registry.read(weights), 1), np.random.default_rng(7)
    shapes = [one.shape for one in ours._session.get_inputs()]
    sizes = [[side if isinstance(side, int) else 64 for side in sides] for _, *sides in shapes]
    inputs = [random.random((1, *size), np.float32) for size in sizes]
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    answers, theirs = ours(*inputs), engine.OnnxRuntime(registry.read(weights), 1)(*inputs)
    for name, answer in answers.items():
        scale, furthest = max(np.abs(answer).max(), 1.0), np.abs(theirs[name] - answer).max()
        print(f"{card.id}/{weights.role} {name}: {furthest:.2g} of {scale:.2g}")
        assert furthest <= 1e-3 * scale, name


@pytest.mark.parametrize("where", ["cuda", "openvino"])
def test_a_provider_that_is_not_installed_is_named_with_the_remedy(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setenv(engine.INFERENCE, where)
    with pytest.raises(ModelError, match=f"has no {re.escape(engine.PROVIDERS[where][0])}.*or choose cpu"):
        engine.session(b"", 1)
    assert "choose from cpu, cuda, openvino" in engine.lacking("tpu")


IMAGENET = Input(
    224,
    3,
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
    "MONOCHROME2",
    Chain(),
    preprocess="imagenet",
    crop=0.875,
    interpolation="bicubic",
)


WAYS = {
    "chain": Input(160, 3, (127.0,), (128.0,), "MONOCHROME2", Chain()),
    "imagenet": IMAGENET,
    "squashed": Input(
        224, 3, (0.0,), (255.0,), "MONOCHROME2", Chain(), preprocess="imagenet", crop=1.0, squash=True
    ),
}


def picture(rows: int, columns: int) -> np.ndarray:
    """A bright disc on black, well inside the middle square."""
    image = np.zeros((rows, columns), np.uint8)
    centre = (columns // 2 + columns // 10, rows // 2 - rows // 10)
    return np.asarray(cv2.circle(image, centre, min(rows, columns) // 12, 255, -1), np.uint8)


@pytest.mark.parametrize("shape", [(600, 500), (500, 900), (2500, 2048), (100, 150)])
@pytest.mark.parametrize("wanted", WAYS.values(), ids=WAYS)
def test_the_map_leads_to_where_the_disc_is(wanted: Input, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    values, to_model = network_input(image, wanted)
    assert (values.shape, values.dtype) == ((1, wanted.channels, wanted.size, wanted.size), np.float32)
    at, centre = to_model([_centre(image)]), _centre(image)
    assert _centre(values[0, 0] - values.min()) == pytest.approx(at[0], abs=1.0)
    assert to_model.inverse()(at)[0] == pytest.approx(centre, abs=1e-6)


def test_levels_are_what_imagenet_calls_them() -> None:
    means, spreads = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    white, _ = network_input(np.full((300, 300), 255, np.uint8), IMAGENET)
    np.testing.assert_allclose(white[0, :, 0, 0], (1 - means) / spreads, rtol=1e-5)


def _centre(values: np.ndarray) -> tuple[float, float]:
    weight = values / values.astype(float).sum()
    rows, columns = (np.arange(size) + 0.5 for size in values.shape)
    return float(weight.sum(0) @ columns), float(weight.sum(1) @ rows)
