"""What is taken into the store can only compute: standard operators in one file, or plain numbers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from ai_pipeline.errors import CardError
from ai_pipeline.models.store import formats
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


def _float(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
