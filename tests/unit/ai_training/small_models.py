"""Small real models for the store: an ONNX network that a person can compute by hand, and its card."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ai_training.conversion.first_card import written
from ai_training.conversion.messages import ConvertedNetwork

LABELS = ("Effusion", "Lung Lesion")
SIDE = 64  # pixels; the maps have a cell for each 8


def network(slope: float = 1.0) -> onnx.ModelProto:
    """Two labels: how bright the picture is, and how dark, ``slope`` times; with features and places."""
    weights = np.array([[slope], [-slope]], np.float32)
    constants = {"head": weights, "kernel": weights[:, :, None, None]}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["features"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1),
        helper.make_node("Conv", ["features", "kernel"], ["places"]),
    ]
    outputs = {"logits": ["n", 2], "features": ["n", 1, 8, 8], "places": ["n", 2, 8, 8]}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def ratio() -> bytes:
    """A network that divides one number by another."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("one", "other")]
    result = helper.make_tensor_value_info("ratio", TensorProto.FLOAT, [1])
    node = helper.make_node("Div", ["one", "other"], ["ratio"])
    graph, opsets = helper.make_graph([node], "ratio", given, [result]), [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


ANSWER = ConvertedNetwork(
    outputs=("logits", "features", "places"),
    id="small",
    architecture="small",
    labels=LABELS,
    channels=1,
    size=SIDE,
    mean=(0.0,),
    scale=(255.0,),
    licence="Apache-2.0",
    difference=0.0,
)


def write(
    folder: Path, *, model_id: str = "small", version: str = "1", slope: float = 1.0
) -> tuple[Path, Path]:
    """``ID.onnx`` and ``ID.toml`` in ``folder``."""
    card = written(folder, network(slope).SerializeToString(), ANSWER, model_id=model_id, version=version)
    return card.with_suffix(".onnx"), card


def write_card(file: Path, *, model_id: str = "small", version: str = "1") -> Path:
    """A card for ``file``, beside it."""
    return written(file.parent, file.read_bytes(), ANSWER, model_id=model_id, version=version)
