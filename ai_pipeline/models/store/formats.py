"""What may be run: ONNX of standard operators in one piece, safetensors, and plain arrays beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import ONNX, SAFETENSORS

ARRAYS = ".npz"  # gates and boxes
STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
LARGEST = 2 << 30  # bytes: what one ONNX file without external data can hold


def check(path: Path) -> None:
    """Look into the file at ``path``. Raises CardError when it is not what may be run; runs none of it."""
    checks = {ONNX: _onnx, SAFETENSORS: _safetensors, ARRAYS: _arrays}
    if path.suffix not in checks:
        raise CardError(
            f"{path.name} is not taken: only ONNX and safetensors are run (a pickle is code); make one with "
            "`ai-pipeline models convert`"
        )
    if path.stat().st_size > LARGEST:
        raise CardError(f"{path.name} is larger than {LARGEST >> 30} GiB")
    checks[path.suffix](path)


def _onnx(path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
        outside = [tensor.name for tensor in _tensors(model) if tensor.data_location == tensor.EXTERNAL]
        if outside:
            raise CardError(
                f"{path.name} keeps its weights in other files, which no hash covers: save it in one piece"
            )
        own = {(function.domain, function.name) for function in model.functions}
        for node in _nodes(model):
            if node.domain not in STANDARD and (node.domain, node.op_type) not in own:
                raise CardError(
                    f"{path.name} needs the operator {node.domain}.{node.op_type}, which is not ONNX's own: "
                    "export it with standard operators"
                )
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise CardError(f"{path.name} is no valid ONNX file: {str(error).splitlines()[0]}") from error


def _safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if not list(file.keys()):
                raise CardError(f"{path.name} holds no parameters")
    except SafetensorError as error:
        raise CardError(f"{path.name} is no valid safetensors file: {error}") from error


def _arrays(path: Path) -> None:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                arrays[name]  # reading one that is a pickle fails
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise CardError(f"{path.name} holds something else than plain arrays") from error


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, those inside its nodes, and the bodies of functions: whatever has nodes."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
