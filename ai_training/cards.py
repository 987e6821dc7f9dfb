"""Write what a run leaves for the node: ONNX files without names of this machine, and model cards."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tomlkit
import torch
from onnx import TensorProto, helper, numpy_helper
from tomlkit import TOMLDocument
from torch import Tensor, nn


def export(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    shapes: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    path: Path,
    name: str = "",
) -> None:
    """Write ``network`` as an ONNX file to ``path``. ``examples``: an input tensor for each of ``shapes``,
    which names the inputs and their dimensions of free size; ``outputs``: the names of the outputs; ``name``
    of the graph, by default the file's name without its ending.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        torch.onnx.export(
            network,
            examples,
            str(path),
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_shapes=dict(shapes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    strip(path, name or path.stem)


def export_traced(network: nn.Module, images: Tensor, outputs: Sequence[str], path: Path) -> None:
    """Write ``network`` as an ONNX file to ``path``, by running it on ``images [2, C, h, w]``: input
    ``images``, whose number is free, and these ``outputs``. For networks of others, of which the exporter of
    :func:`export` takes 25 s where this one takes 1 (DenseNet-121), with the same result.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        torch.onnx.export(
            network,
            (images,),
            str(path),
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in ("images", *outputs)},
            opset_version=17,
            dynamo=False,
        )
    strip(path, path.stem)


def strip(path: Path, name: str) -> None:
    """Remove the exporter's notes from the ONNX file ``path`` and name its graph ``name``: the notes contain
    folders of this machine and make equal networks differ in bytes.
    """
    model = onnx.load(str(path))
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name = name
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def store_in_half(path: Path) -> None:
    """Store the large tensors of the ONNX file ``path`` in half precision, which halves the file. The network
    still computes in single precision: the runtime converts the tensors once, when it loads the file.
    """
    model = onnx.load(str(path))
    graph = model.graph
    large = [
        one
        for one in graph.initializer
        if one.data_type == TensorProto.FLOAT and np.prod(one.dims, dtype=np.int64) >= 1024
    ]
    for number, one in enumerate(large):
        half = f"{one.name}.half"
        graph.node.insert(number, helper.make_node("Cast", [half], [one.name], to=TensorProto.FLOAT))
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), half))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


LIMIT = 25_000_000
"""Largest file of weights, in bytes, that this project ships."""


def fit_limit(path: Path) -> str:
    """Store the ONNX file ``path`` in half precision if it is larger than :data:`LIMIT`; returns a sentence
    if it is still larger, else "".
    """
    if path.stat().st_size > LIMIT:
        store_in_half(path)
    size = path.stat().st_size
    if size <= LIMIT:
        return ""
    return (
        f"{path.name} has {size / 1e6:.0f} MB: it runs, but this project ships none above {LIMIT / 1e6:.0f}"
    )


@contextmanager
def changed_card(path: Path, to: Path | None = None) -> Iterator[TOMLDocument]:
    """A context manager that opens the model card at ``path`` for changes (TOML). Without an error it is then
    written to ``to``, by default to ``path``.
    """
    card = tomlkit.parse(path.read_text(encoding="utf-8"))
    yield card
    (to or path).write_text(tomlkit.dumps(card), encoding="utf-8")


def add_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Put ``figures`` into the table ``[metrics]`` of the model card at ``path``; other figures in it are not
    changed.
    """
    with changed_card(path) as card:
        card.setdefault("metrics", {}).update(figures)


def new_card(
    folder: Path,
    card_id: str,
    made_by: str,
    role: str,
    about: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
    version: str = "1",
) -> Path:
    """Write the model card ``card_id.toml`` beside the weights ``card_id.onnx`` of the role ``role``; returns
    its path. ``made_by``: the comment on top. ``about``: keys before the weights; ``tables``: tables after
    them.
    """
    card = tomlkit.document()
    card.add(tomlkit.comment(made_by))
    weights = tomlkit.aot()
    weights.append(weights_row(role, folder / f"{card_id}.onnx"))
    for key, value in {"id": card_id, "version": version, **about, "weights": weights, **tables}.items():
        card[key] = value
    path = folder / f"{card_id}.toml"
    path.write_text(tomlkit.dumps(card), encoding="utf-8")
    return path


def weights_row(role: str, file: Path) -> Any:
    """A row of ``[[weights]]`` for a file beside the model card, with the file's SHA-256."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return tomlkit.item({"role": role, "file": file.name, "sha256": digest})
