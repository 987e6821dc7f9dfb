"""Models that are more than a network, made afresh for each test."""

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.unit.ai_training import small_models


def external_tensor(name: str = "w") -> onnx.TensorProto:
    """One number that lies in ``weights.bin``."""
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def sparse_constant() -> onnx.ModelProto:
    """A Constant whose ``sparse_value`` has its values in another file."""
    return of_nodes([helper.make_node("Constant", [], ["c"], sparse_value=sparse_tensor())])


def sparse_tensor() -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(external_tensor(), indices, [4])


def sparse_list() -> onnx.ModelProto:
    """An attribute that is a list of sparse tensors; no operator takes one."""
    node, kind = helper.make_node("Identity", ["images"], ["c"]), onnx.AttributeProto.SPARSE_TENSORS
    node.attribute.append(onnx.AttributeProto(name="s", type=kind, sparse_tensors=[sparse_tensor()]))
    return of_nodes([node])


def external_without_saying_so() -> onnx.ModelProto:
    """A tensor with the entries of external data whose ``data_location`` still says the opposite."""
    tensor = external_tensor()
    tensor.data_location = TensorProto.DEFAULT
    return of_nodes([helper.make_node("Constant", [], ["c"], value=tensor)])


def deep_in_branches() -> onnx.ModelProto:
    """External data in an If inside an If, in a list of graphs."""
    inner = helper.make_graph([helper.make_node("Constant", [], ["d"], value=external_tensor())], "g", [], [])
    node = helper.make_node("Identity", ["images"], ["c"])
    node.attribute.append(
        onnx.AttributeProto(name="g", type=onnx.AttributeProto.GRAPHS, graphs=[inner, inner])
    )
    outer = helper.make_graph([node], "g", [], [])
    return of_nodes([helper.make_node("If", ["images"], ["c"], then_branch=outer, else_branch=outer)])


def foreign_operator(domain: str) -> onnx.ModelProto:
    model = small_models.network()
    model.graph.node[1].domain = domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def foreign_operator_deep_inside() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Own", [], ["d"], domain="mine")], "g", [], [])
    return of_nodes([helper.make_node("If", ["images"], ["c"], then_branch=inner, else_branch=inner)])


def function_named_like_a_kernel() -> onnx.ModelProto:
    """A local function with the name of one of the run time's own kernels, and a call of it."""
    opsets, body = [helper.make_opsetid("", 17)], [helper.make_node("Identity", ["x"], ["y"])]
    function = helper.make_function("com.microsoft", "FusedMatMul", ["x"], ["y"], body, opsets)
    model = of_nodes([helper.make_node("FusedMatMul", ["images"], ["c"], domain="com.microsoft")])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def function_that_is_not_called() -> onnx.ModelProto:
    model, body = small_models.network(), [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], body, model.opset_import))
    return model


def unknown_field() -> bytes:
    """A field that only another ONNX than the installed one would read."""
    return small_models.network().SerializeToString() + b"\xfa\x3f\x03abc"  # field 1023, three bytes


def opaque_type() -> onnx.ModelProto:
    model = small_models.network()
    model.graph.value_info.add(name="o").type.opaque_type.domain = "mine"
    return model


def of_nodes(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    images, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "c"))
    graph = helper.make_graph(nodes, "hostile", [images], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def endless(folder: Path) -> tuple[Path, Path]:
    """The small network and its card, with a Loop before it that has no end."""
    model, info = small_models.network(), helper.make_tensor_value_info
    true = helper.make_tensor("t", TensorProto.BOOL, [], [True])
    inputs = [("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("m", TensorProto.FLOAT, None)]
    outputs = [("go", TensorProto.BOOL, []), ("n", TensorProto.FLOAT, None)]
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["go"], value=true), helper.make_node("Identity", ["m"], ["n"])],
        "body",
        [info(*one) for one in inputs],
        [info(*one) for one in outputs],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=true),
        helper.make_node("Loop", ["", "yes", "images"], ["looped"], body=body),
        helper.make_node("ReduceMean", ["looped"], ["mean"], keepdims=1),
        helper.make_node("Add", ["images", "mean"], ["added"]),
        *model.graph.node,
    ]
    nodes[4].input[0] = "added"
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return _written(model, folder)


def without_number(folder: Path, low: float, high: float) -> tuple[Path, Path]:
    """The small network and its card, whose scores are NaN of pictures with a standard deviation (0 to 1)
    between ``low`` and ``high``, as of one that divides by something that may be nothing."""
    model, axes = small_models.network(), {"axes": [1, 2, 3], "keepdims": 0}
    model.graph.node[3].output[0] = "sound"
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("ReduceMean", ["images"], "mean", axes),
        ("Mul", ["images", "images"], "squares", {}),
        ("ReduceMean", ["squares"], "mean_square", axes),
        ("Mul", ["mean", "mean"], "square_mean", {}),
        ("Sub", ["mean_square", "square_mean"], "variance_", {}),
        ("Abs", ["variance_"], "variance", {}),
        ("Sub", ["variance", "low"], "above", {}),
        ("Sub", ["variance", "high"], "below", {}),
        ("Mul", ["above", "below"], "outside", {}),
        ("Sqrt", ["outside"], "root", {}),  # NaN of what is negative
        ("Mul", ["root", "nothing"], "none_or_nan", {}),
        ("Unsqueeze", ["none_or_nan", "last"], "column", {}),
        ("Add", ["sound", "column"], "logits", {}),
    ]
    model.graph.node.extend(helper.make_node(kind, given, [made], **how) for kind, given, made, how in steps)
    numbers = {"low": low**2, "high": high**2, "nothing": 0.0}
    floats = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in numbers.items()]
    model.graph.initializer.extend([*floats, helper.make_tensor("last", TensorProto.INT64, [1], [1])])
    return _written(model, folder)


def _written(model: onnx.ModelProto, folder: Path) -> tuple[Path, Path]:
    """The model and the card of the small network, with this model's hash."""
    file, _ = small_models.write(folder)
    file.write_bytes(model.SerializeToString())
    return file, small_models.write_card(file)
