"""Files of models that are hostile, or of no use."""

from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.parser
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
    inner = "inner () => () { d = mine.Own () }"
    branches = f"<then_branch = {inner}, else_branch = {inner}>"
    return small_models.parsed(f"deep (float[1] images) => (float[1] c) {{ c = If (images) {branches} }}")


def function_named_like_a_kernel() -> onnx.ModelProto:
    """A local function with the name of one of the run time's own kernels, and a call of it."""
    return onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
        hostile (float[1] images) => (float[1] c) { c = com.microsoft.FusedMatMul (images) }
        <domain: "com.microsoft", opset_import: ["": 17]>
        FusedMatMul (x) => (y) { y = Identity (x) }
    """)


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
    return _behind(
        """
        yes = Constant <value = bool {1}> ()
        looped = Loop (, yes, images) <
            body = again (int64 i, bool c, float m) => (bool go, float n) {
                go = Constant <value = bool {1}> ()
                n = Identity (m)
            }
        >
        mean = ReduceMean <keepdims = 1> (looped)
        given = Add (images, mean)
        """,
        folder,
    )


def without_number(folder: Path, low: float, high: float) -> tuple[Path, Path]:
    """The small network and its card, whose answers are NaN of pictures with a standard deviation (0 to 1)
    between ``low`` and ``high``, as of one that divides by something that may be nothing: the square root of
    what is negative.
    """
    return _behind(
        f"""
        low = Constant <value_float = {low**2}> ()
        high = Constant <value_float = {high**2}> ()
        nothing = Constant <value_float = 0.0> ()
        mean = ReduceMean <axes = [1, 2, 3]> (images)
        squares = Mul (images, images)
        mean_square = ReduceMean <axes = [1, 2, 3]> (squares)
        square_mean = Mul (mean, mean)
        difference = Sub (mean_square, square_mean)
        variance = Abs (difference)
        above = Sub (variance, low)
        below = Sub (variance, high)
        outside = Mul (above, below)
        root = Sqrt (outside)
        none_or_nan = Mul (root, nothing)
        given = Add (images, none_or_nan)
        """,
        folder,
    )


def _behind(steps: str, folder: Path) -> tuple[Path, Path]:
    """The small network behind these steps from ``images`` to ``given``, and its card."""
    shape = f"float[n, 1, {small_models.SIDE}, {small_models.SIDE}]"
    first = small_models.parsed(f"steps ({shape} images) => ({shape} given) {{ {steps} }}")
    model = onnx.compose.merge_models(first, small_models.network(), [("given", "images")])
    return small_models.write(folder, model)


def constant(where: Path, output: np.ndarray, side: int = 320) -> Path:
    """A network that says ``output`` of every picture."""
    shape = ", ".join(map(str, output.shape))
    model = small_models.parsed(f"""
        constant (float[1, 3, {side}, {side}] images) => (float[{shape}] output0) <float zero = {{0}}> {{
            most = ReduceMax <keepdims = 0> (images)
            nothing = Mul (most, zero)
            output0 = Add (said, nothing)
        }}
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(output, "said"))
    path = where / "site-yolo.onnx"
    path.write_bytes(model.SerializeToString())
    return path
