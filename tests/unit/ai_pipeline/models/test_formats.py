"""What is taken into the store can only compute: standard operators in one file, or plain numbers."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import SHIPPED
from ai_pipeline.models.store import formats
from ai_pipeline.models.store.inspection import inspect
from tests.unit.ai_pipeline.models import hostile_models
from tests.unit.ai_training import small_models


def test_a_network_of_standard_operators_is_taken(tmp_path: Path) -> None:
    file, _ = small_models.write(tmp_path)

    formats.check(file)


def test_weights_in_another_file_are_refused_because_no_hash_covers_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(small_models.network(), str(path), **outside)
    assert (tmp_path / "weights.bin").exists()

    with pytest.raises(CardError, match="in other files"):
        formats.check(path)


def test_weights_in_another_file_are_found_inside_a_branch_too(tmp_path: Path) -> None:
    outside = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    outside.ClearField("float_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["c"], value=outside)], "branch", [], [_float("c")]
    )
    choose = onnx.helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch)
    yes = onnx.helper.make_tensor_value_info("yes", onnx.TensorProto.BOOL, [])
    model = onnx.helper.make_model(onnx.helper.make_graph([choose], "g", [yes], [_float("out")]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(CardError, match="in other files"):
        formats.check(path)


@pytest.mark.parametrize("domain", ["com.microsoft", "mine"])
def test_operators_that_are_not_onnx_s_own_are_refused(tmp_path: Path, domain: str) -> None:
    model = small_models.network()
    model.graph.node[1].domain = domain
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(CardError, match=f"the operator {domain}"):
        formats.check(path)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".npz"])
def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04this is something else" * 10)

    with pytest.raises(CardError, match="model"):
        formats.check(path)


def test_half_a_network_is_refused(tmp_path: Path) -> None:
    file, _ = small_models.write(tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with pytest.raises(CardError, match="no valid ONNX"):
        formats.check(file)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".keras"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps({"weights": [1.0]}))

    with pytest.raises(CardError, match="models convert"):
        formats.check(path)


def test_parameters_and_plain_arrays_are_taken_and_pickled_arrays_are_not(tmp_path: Path) -> None:
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    np.savez(tmp_path / "gate.npz", mean=np.ones(3))
    np.savez(tmp_path / "bad.npz", mean=np.array([object()], dtype=object))

    formats.check(tmp_path / "model.safetensors")
    formats.check(tmp_path / "gate.npz")
    with pytest.raises(CardError, match="something else than plain arrays"):
        formats.check(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (hostile_models.sparse_constant, "in other files"),
        (hostile_models.sparse_list, "in other files"),
        (hostile_models.external_without_saying_so, "in other files"),
        (hostile_models.deep_in_branches, "in other files"),
        (hostile_models.foreign_operator_deep_inside, "the operator mine.Own"),
        (hostile_models.function_named_like_a_kernel, "functions of its own|the operator com.microsoft"),
        (hostile_models.function_that_is_not_called, "functions of its own"),
        (hostile_models.unknown_field, "does not know"),
        (hostile_models.opaque_type, "does not know"),
    ],
)
def test_a_model_that_is_more_than_a_network_is_refused(
    tmp_path: Path, make: Callable[[], onnx.ModelProto | bytes], told: str
) -> None:
    made = make()
    path = tmp_path / "model.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())

    with pytest.raises(CardError, match=told):
        formats.check(path)


@pytest.mark.parametrize("path", sorted((SHIPPED.parent / "weights").iterdir()), ids=lambda path: path.name)
def test_every_shipped_model_could_be_added(path: Path) -> None:
    formats.check(path)


def test_an_archive_that_grows_a_thousandfold_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "gate.npz"
    hostile_models.archive_bomb(path)
    assert path.stat().st_size < 600_000

    tracemalloc.start()
    try:
        with pytest.raises(CardError, match="would grow beyond 256 MiB"):
            formats.check(path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_array_that_says_another_size_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.npz"
    hostile_models.archive_that_lies(path)

    with pytest.raises(CardError, match="something else than plain arrays"):
        inspect([path])


def test_a_file_is_looked_into_apart_and_its_fault_comes_back_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile_models.sparse_constant().SerializeToString())
    good, _ = small_models.write(tmp_path / "good")

    inspect([good])
    with pytest.raises(CardError, match=r"^model\.onnx keeps its weights in other files"):
        inspect([good, path])


def _float(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
