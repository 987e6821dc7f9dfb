"""Models of a site: added, activated, rolled back, refused."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.parser
import pytest

from ai_pipeline.chest import card as chest
from ai_pipeline.chest.trial import loaded
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry, trial
from ai_pipeline.models.store import folder, formats, sandbox
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.models.hostile_models import (
    constant,
    deep_in_branches,
    endless,
    external_without_saying_so,
    foreign_operator,
    foreign_operator_deep_inside,
    function_named_like_a_kernel,
    function_that_is_not_called,
    opaque_type,
    sparse_constant,
    sparse_list,
    unknown_field,
    without_number,
)
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, Model, add, contents, ended, models, sha256
from tests.unit.ai_pipeline.phantoms import film, silent
from tests.unit.ai_training import small_models


def test_a_model_is_added_beside_its_card_and_nothing_uses_it_yet(store: Path, model: Model) -> None:
    assert "Licence: Apache-2.0" in ended(0, add(*model))
    files = {f"small/1/{name}" for name in ("card.toml", "small.onnx", "origin.json")}
    assert contents(store) == {"small", "small/1", *files}
    assert folder.active(chest.CLASSIFIER).id == SHIPPED


def test_versions_stand_side_by_side_one_is_active_and_rollback_goes_back_to_the_shipped_model(
    store: Path, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        assert add(*small_models.write(tmp_path / version, version=version)).exit_code == 0
        assert models("activate", f"small@{version}").exit_code == 0
    rows = {(row["id"], row["version"]): row["active"] for row in json.loads(models("list", "--json").output)}
    assert (rows["small", "1"], rows["small", "2"]) == ("", "chest_xray")
    for before in ("small@1", registry.find(SHIPPED).name):
        assert models("rollback").exit_code == 0
        assert folder.active(chest.CLASSIFIER).name == before
    assert "nothing to roll back" in ended(65, models("rollback"))
    steps = [event.by for event in folder.uses(store)["chest_xray"].history]
    assert steps == ["activate", "activate", "rollback", "rollback"]


@pytest.mark.usefixtures("active")
def test_the_pipeline_runs_the_active_model_and_says_that_it_has_no_gate() -> None:
    picture = film(np.full((512, 640), 200, np.uint8))
    result = create("chest_xray").run([picture], silent, {"all_labels": True})
    found = {one.label: one.probability for one in result.findings}
    expected = {"Effusion": 200 / 255, "Lung Lesion": -200 / 255}
    assert found == pytest.approx(
        {name: 1 / (1 + np.exp(-logit)) for name, logit in expected.items()}, abs=1e-5
    )
    assert {(one.model, one.regions) for one in result.findings} == {(registry.find("small").ref, ())}
    assert "no_gate" in {note.name for note in result.quality}


@pytest.mark.usefixtures("active")
def test_a_heat_map_lies_where_the_network_saw_it_in_a_picture_that_was_cropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ai_pipeline.chest.calls.figures", lambda *_: {"sensitivity": [1.0, 1.0, 1.0]})
    pixels = np.zeros((512, 1024), np.uint8)
    pixels[320:384, 640:704] = 255  # one cell of the map: 64 × 64 pixels of the middle square
    result = create("chest_xray").run([film(pixels)], silent, {"all_labels": True, "heatmaps": True})
    (heat,) = [one.evidence for one in result.findings if one.label == "Effusion"]
    assert heat is not None
    assert heat.method == "class activation"
    row, column = np.unravel_index(int(heat.values.argmax()), pixels.shape)
    assert abs(row - 352) < 40
    assert abs(column - 672) < 40


def test_a_model_that_is_set_but_gone_is_an_error_and_never_another_model(active: Path) -> None:
    shutil.rmtree(active / "small")
    with pytest.raises(CardError, match="models rollback"):
        create("chest_xray").warm_up()


def test_altered_weights_are_found_and_cannot_be_activated(store: Path, model: Model) -> None:
    add(*model)
    file = store / "small" / "1" / "small.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    not_activated(store, "SHA-256")


def not_activated(store: Path, told: str, *words: str) -> None:
    assert told in ended(65, models("activate", "small", *words))
    assert not (store / "active.json").exists()


def test_a_model_that_cannot_run_is_not_activated(store: Path, model: Model) -> None:
    file, card = model
    card.write_text(card.read_text().replace("size = 64", "size = 32"))
    add(file, card)
    not_activated(store, "does not run")


def test_a_model_that_gives_no_number_for_a_picture_is_not_activated_and_the_picture_is_named(
    store: Path, tmp_path: Path
) -> None:
    add(*without_number(tmp_path / "made", 0.01, 0.10))
    not_activated(store, "small@1 gives no number for noise of 1024 × 768 pixels")
    _, card = without_number(tmp_path / "small", 0.15, 0.20)
    with pytest.raises(CardError, match="noise of 48 × 64 pixels"):
        trial.check(registry.load(card), loaded)


def test_a_model_that_never_ends_is_not_activated(store: Path, tmp_path: Path) -> None:
    add(*endless(tmp_path / "made"))
    not_activated(store, "does not run: it took longer than 2 s", "--seconds", "2")


def test_a_model_with_weights_elsewhere_that_lies_in_the_folder_already_is_not_activated(store: Path) -> None:
    network = small_models.network()
    network.graph.node.insert(0, sparse_constant().graph.node[0])
    small_models.write(store, network)
    not_activated(store, "in other files")


def test_the_same_version_cannot_be_added_twice(store: Path, model: Model) -> None:
    add(*model)
    before = (store / "small" / "1" / "card.toml").read_bytes()
    assert "another version" in ended(65, add(*model))
    assert (store / "small" / "1" / "card.toml").read_bytes() == before


def test_without_a_card_or_agreement_to_the_licence_or_the_file_meant_nothing_is_added(
    store: Path, model: Model
) -> None:
    file, card = model
    for status, done, told in (
        (2, models("add", file, "--accept-licence"), "--card"),
        (2, models("add", file, "--sha256", sha256(file), "--card", card), "--accept-licence"),
        (65, add(file, card, "--sha256", "0" * 64), "do not belong together"),
        (65, add(card, card), "refused"),
        (2, add(file.with_name("none.onnx"), card), "does not exist"),
    ):
        assert told in ended(status, done)
    assert contents(store) == set()


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        *(('id = "small"', f'id = "{name}"', "") for name in ("../escaped", "a/b", ".hidden", "")),
        ('file = "small.onnx"', 'file = "../small.onnx"', "beside the card"),
    ],
)
def test_no_id_and_no_name_of_a_file_leaves_the_folder(
    store: Path, model: Model, right: str, wrong: str, told: str
) -> None:
    file, card = model
    card.write_text(card.read_text().replace(right, wrong))
    assert told in ended(65, add(file, card))
    assert contents(store) == set()
    assert not (store.parent / "escaped").exists()


def test_weights_in_another_file_are_refused_because_no_hash_covers_them(tmp_path: Path) -> None:
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    network = onnx.load(constant(tmp_path, np.ones((1, 7, 3), np.float32)))
    onnx.save(network, str(tmp_path / "model.onnx"), **outside)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(CardError, match="in other files"):
        formats.check(tmp_path / "model.onnx")


NO_MODEL, PICKLE = b"\x80\x04this is something else" * 10, pickle.dumps({"weights": [1.0]})


@pytest.mark.parametrize(
    ("make", "suffix", "told"),
    [
        (sparse_constant, ".onnx", "in other files"),
        (sparse_list, ".onnx", "in other files"),
        (external_without_saying_so, ".onnx", "in other files"),
        (deep_in_branches, ".onnx", "in other files"),
        (partial(foreign_operator, "com.microsoft"), ".onnx", "the operator com.microsoft"),
        (partial(foreign_operator, "mine"), ".onnx", "the operator mine"),
        (foreign_operator_deep_inside, ".onnx", "the operator mine.Own"),
        (
            function_named_like_a_kernel,
            ".onnx",
            "functions of its own|the operator com.microsoft",
        ),
        (function_that_is_not_called, ".onnx", "functions of its own"),
        (unknown_field, ".onnx", "does not know"),
        (opaque_type, ".onnx", "does not know"),
        *((lambda: NO_MODEL, suffix, "model") for suffix in (".onnx", ".safetensors", ".npz")),
        *((lambda: PICKLE, suffix, "models convert") for suffix in (".pt", ".pth", ".pkl", ".keras")),
    ],
)
def test_a_file_that_is_more_or_else_than_a_network_is_refused(
    tmp_path: Path, make: Callable[[], onnx.ModelProto | bytes], suffix: str, told: str
) -> None:
    made, path = make(), tmp_path / f"model{suffix}"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with pytest.raises(CardError, match=told):
        formats.check(path)


@pytest.mark.parametrize(
    "path", sorted((registry.SHIPPED.parent / "weights").iterdir()), ids=lambda path: path.name
)
def test_every_shipped_model_could_be_added(path: Path) -> None:
    formats.check(path)


def test_an_archive_that_grows_a_thousandfold_is_refused_before_it_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gate.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2 << 20))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(formats, "LARGEST_ARRAYS", 1 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was inflated"))
    with pytest.raises(CardError, match="would grow beyond 1 MiB"):
        formats.check(path)


def test_a_file_is_looked_into_apart_and_its_fault_comes_back_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(sparse_constant().SerializeToString())
    good, _ = small_models.write(tmp_path / "good")

    sandbox.inspect([good])
    with pytest.raises(CardError, match=r"^model\.onnx keeps its weights in other files"):
        sandbox.inspect([good, path])
