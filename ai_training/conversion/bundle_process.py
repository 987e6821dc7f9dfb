"""The process that adapts the ONNX network of a foreign MONAI bundle, run by :mod:`.sandbox`.

MONAI reads pictures as columns × rows, a node as rows × columns. The path of the network comes as JSON on
standard input; the copy is left in the working folder. Exit codes: 0 done, 65 with one line on stderr.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ai_pipeline.errors import CardError
from ai_pipeline.models.store.confined import EXIT_DATA
from ai_pipeline.models.store.formats import check

_INNER = "bundle.{}"


def main() -> None:
    """Read the network, and write a copy with other names and with the sides of its input exchanged."""
    import onnx
    from onnx import TensorProto, helper

    path = Path(json.load(sys.stdin))
    try:
        check(path)
    except CardError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)
    model = onnx.load(str(path))
    graph = model.graph
    held = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) != 1:
        print(f"the network takes {len(inputs)} inputs, not one picture", file=sys.stderr)
        sys.exit(EXIT_DATA)
    taken, given = inputs[0], graph.output[0]
    for node in graph.node:  # free the names of the node's own input and output
        for names in (node.input, node.output):
            names[:] = [_INNER.format(n) if n in {taken.name, given.name} else n for n in names]
    turned = helper.make_node("Transpose", ["images"], [_INNER.format(taken.name)], perm=[0, 1, 3, 2])
    graph.node.insert(0, turned)
    graph.node.append(helper.make_node("Identity", [_INNER.format(given.name)], ["logits"]))
    sides = [dim.dim_value or None for dim in taken.type.tensor_type.shape.dim][1:]
    scores = [dim.dim_value or None for dim in given.type.tensor_type.shape.dim][1:]
    pictures = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *sides])
    graph.input.remove(taken)
    graph.input.insert(0, pictures)
    del graph.output[:], graph.value_info[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *scores]))
    onnx.checker.check_model(model)
    Path("model.onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
