"""Models of a site: added by hash and licence, looked into, activated and rolled back; detectors too."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import ssl
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ai_pipeline.chest import card as chest
from ai_pipeline.chest import trial
from ai_pipeline.chest.card import BOXES, CLASSIFIER
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Origin
from ai_pipeline.errors import CardError
from ai_pipeline.models.detections import MOST_ROWS, detections
from ai_pipeline.models.registry import SHIPPED as SHIPPED_CARDS
from ai_pipeline.models.registry import find, load
from ai_pipeline.models.store import folder, formats
from ai_pipeline.models.store.sandbox import inspect
from ai_pipeline.pipelines import create
from tests.certificates_lab import self_signed
from tests.unit.ai_pipeline.chest.test_chest import Shown
from tests.unit.ai_pipeline.models import hostile_models
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, add, contents, models, sha256
from tests.unit.ai_pipeline.phantoms import silent
from tests.unit.ai_pipeline.test_cli import pasted
from tests.unit.ai_training import small_models


def test_a_model_is_added_beside_its_card_and_nothing_uses_it_yet(
    store: Path, model: tuple[Path, Path]
) -> None:
    done = add(*model)
    assert done.exit_code == 0 and "Licence: Apache-2.0" in done.output
    files = {f"small/1/{name}" for name in ("card.toml", "small.onnx", "origin.json")}
    assert contents(store) == {"small", "small/1", *files} and folder.active(CLASSIFIER).id == SHIPPED


def test_versions_stand_side_by_side_one_is_active_and_rollback_goes_back_to_the_shipped_model(
    store: Path, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        assert add(*small_models.write(tmp_path / version, version=version)).exit_code == 0
        assert models("activate", f"small@{version}").exit_code == 0
    rows = {(row["id"], row["version"]): row["active"] for row in json.loads(models("list", "--json").output)}
    assert (rows[("small", "1")], rows[("small", "2")]) == ("", "chest_xray")
    for before in ("small@1", find(SHIPPED).name):
        assert models("rollback").exit_code == 0 and folder.active(CLASSIFIER).name == before
    last, steps = models("rollback"), [event.by for event in folder.uses(store)["chest_xray"].history]
    assert last.exit_code == 65 and "nothing to roll back" in last.output
    assert steps == ["activate", "activate", "rollback", "rollback"]


@pytest.mark.usefixtures("active")
def test_the_pipeline_runs_the_active_model_and_says_that_it_has_no_gate() -> None:
    picture = Shown(np.full((512, 640), 200, np.uint8))
    result = create("chest_xray").run([picture], silent, {"all_labels": True})
    found = {one.label: one.probability for one in result.findings}
    expected = {"Effusion": 200 / 255, "Lung Lesion": -200 / 255}
    assert found == pytest.approx(
        {name: 1 / (1 + np.exp(-logit)) for name, logit in expected.items()}, abs=1e-5
    )
    assert {(one.model, one.regions) for one in result.findings} == {(find("small").ref, ())}
    assert "no_gate" in {note.name for note in result.quality}


@pytest.mark.usefixtures("active")
def test_a_heat_map_lies_where_the_network_saw_it_in_a_picture_that_was_cropped() -> None:
    pixels = np.zeros((512, 1024), np.uint8)
    pixels[320:384, 640:704] = 255  # one cell of the map: 64 × 64 pixels of the middle square
    result = create("chest_xray").run([Shown(pixels)], silent, {"all_labels": True, "heatmaps": True})
    (heat,) = [one.evidence for one in result.findings if one.label == "Effusion"]
    assert heat is not None and heat.method == "class activation"
    row, column = np.unravel_index(int(heat.values.argmax()), pixels.shape)
    assert abs(row - 352) < 40 and abs(column - 672) < 40


def test_a_model_that_is_set_but_gone_is_an_error_and_never_another_model(active: Path) -> None:
    shutil.rmtree(active / "small")
    with pytest.raises(CardError, match="models rollback"):
        create("chest_xray").warm_up()


def test_altered_weights_are_found_and_cannot_be_activated(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    file = store / "small" / "1" / "small.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    verified = models("verify", "--json")
    rows = {row["id"]: row["ok"] for row in json.loads(verified.output)}
    assert (verified.exit_code, rows["small"]) == (65, False)
    not_activated(store, "SHA-256")


def not_activated(store: Path, told: str, *words: str) -> None:
    done = models("activate", "small", *words)
    assert done.exit_code == 65 and told in done.output and not (store / "active.json").exists()


def test_a_model_that_cannot_run_is_not_activated(store: Path, model: tuple[Path, Path]) -> None:
    file, card = model
    card.write_text(card.read_text().replace("size = 64", "size = 32"))
    add(file, card)
    not_activated(store, "does not run")


def test_a_model_that_gives_no_number_for_a_picture_is_not_activated_and_the_picture_is_named(
    store: Path, tmp_path: Path
) -> None:
    add(*hostile_models.without_number(tmp_path / "made", 0.01, 0.10))
    not_activated(store, "small@1 gives no number for noise of 1024 × 768 pixels")
    for low, high, named in (
        (0.15, 0.22, "a drawn chest of 512 × 512 pixels"),
        (0.22, 0.40, "noise of 48 × 64 pixels"),
    ):
        _, card = hostile_models.without_number(tmp_path / named, low, high)
        with pytest.raises(CardError, match=named):
            trial._try(load(card))


def test_a_model_that_never_ends_is_not_activated(store: Path, tmp_path: Path) -> None:
    add(*hostile_models.endless(tmp_path / "made"))
    not_activated(store, "does not run: it took longer than 2 s", "--seconds", "2")


def test_a_model_with_weights_elsewhere_that_lies_in_the_folder_already_is_not_activated(store: Path) -> None:
    file, network = store / "small.onnx", small_models.network()
    network.graph.node.insert(0, hostile_models.sparse_constant().graph.node[0])
    file.write_bytes(network.SerializeToString())
    small_models.write_card(file)
    not_activated(store, "in other files")


def test_the_same_version_cannot_be_added_twice(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    before, again = (store / "small" / "1" / "card.toml").read_bytes(), add(*model)
    assert again.exit_code == 65 and "another version" in again.output
    assert (store / "small" / "1" / "card.toml").read_bytes() == before


def test_without_a_card_or_agreement_to_the_licence_or_a_hash_nothing_is_added(
    store: Path, model: tuple[Path, Path], server: Served
) -> None:
    file, card = model
    address = f"{server.url}/model.onnx"
    for done, told in (
        (models("add", file, "--accept-licence"), "no card, no model"),
        (models("add", address, "--sha256", sha256(file), "--card", card), "--accept-licence"),
        (add(address, card), "--sha256"),
    ):
        assert done.exit_code == 2 and told in done.output
    assert server.asked == 0 and contents(store) == set()


@pytest.mark.parametrize("name", ["../escaped", "a/b", ".hidden", ""])
def test_an_id_cannot_leave_the_folder(store: Path, model: tuple[Path, Path], name: str) -> None:
    file, card = model
    card.write_text(card.read_text().replace('id = "small"', f'id = "{name}"'))
    assert add(file, card).exit_code == 65
    assert contents(store) == set() and not (store.parent / "escaped").exists()


def test_a_card_cannot_name_a_file_elsewhere(store: Path, model: tuple[Path, Path]) -> None:
    file, card = model
    card.write_text(card.read_text().replace('file = "small.onnx"', 'file = "../small.onnx"'))
    done = add(file, card)
    assert done.exit_code == 65 and "beside the card" in done.output


class Served(ThreadingHTTPServer):
    """A web server on this machine that hands out one file, and counts who asks."""

    body: bytes = b""
    asked: int = 0
    url: str = ""


class Answers(BaseHTTPRequestHandler):
    """``/another.onnx`` is the file turned round, ``/broken`` half of it, ``/moved`` leads to plain http,
    ``/gone`` is not there; the file everywhere else.
    """

    server: Served

    def do_GET(self) -> None:
        self.server.asked += 1
        place, body = self.path.partition("?")[0], self.server.body
        sent = {"/broken": body[: len(body) // 2], "/another.onnx": body[::-1]}.get(place, body)
        self.send_response({"/moved": 302, "/gone": 404}.get(place, 200))
        self.send_header("Location", "http://example.org/model.onnx")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(model: tuple[Path, Path]) -> Iterator[Served]:
    with served(model[0]) as one:
        yield one


@contextmanager
def served(file: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Served]:
    """Serve a file while the block runs; over TLS with ``certificate``."""
    with Served(("127.0.0.1", 0), Answers) as server, ThreadPoolExecutor(1) as thread:
        server.body, server.url = file.read_bytes(), f"http://127.0.0.1:{server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.url = server.url.replace("http", "https")
        thread.submit(server.serve_forever, 0.02)
        try:
            yield server
        finally:
            server.shutdown()


def test_a_file_from_the_web_is_taken_over_https_of_a_known_host_and_its_address_kept_without_secrets(
    store: Path, model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path, "model host")
    with served(model[0], certificate) as host:
        given = f"{host.url}/model.onnx?token=geheim", model[1], "--sha256", sha256(model[0])
        unknown = add(*given)
        assert unknown.exit_code == 65 and "certificate" in unknown.output and contents(store) == set()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        done = add(*given)
    assert done.exit_code == 0, done.output
    origin = json.loads((store / "small" / "1" / "origin.json").read_text())
    assert (origin["source"], origin["licence"]) == (f"{host.url}/model.onnx", "Apache-2.0")
    assert sha256(store / "small" / "1" / "small.onnx") == sha256(model[0])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("{}/moved", "is not https"),
        ("{}/gone", "answered 404"),
        ("{}/broken", "broke off"),
        ("{}/another.onnx", "refused"),
        ("http://example.org/model.onnx", "is not https"),
    ],
)
def test_a_download_that_fails_or_is_another_file_leaves_nothing_and_says_why(
    store: Path, model: tuple[Path, Path], server: Served, address: str, told: str
) -> None:
    done = add(address.format(server.url), model[1], "--sha256", sha256(model[0]))
    assert done.exit_code == 65 and told in done.output and contents(store) == set()


def test_weights_in_another_file_are_refused_because_no_hash_covers_them(tmp_path: Path) -> None:
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(small_models.network(), str(tmp_path / "model.onnx"), **outside)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(CardError, match="in other files"):
        formats.check(tmp_path / "model.onnx")


NO_MODEL, PICKLE = b"\x80\x04this is something else" * 10, pickle.dumps({"weights": [1.0]})


@pytest.mark.parametrize(
    ("make", "suffix", "told"),
    [
        (hostile_models.sparse_constant, ".onnx", "in other files"),
        (hostile_models.sparse_list, ".onnx", "in other files"),
        (hostile_models.external_without_saying_so, ".onnx", "in other files"),
        (hostile_models.deep_in_branches, ".onnx", "in other files"),
        (partial(hostile_models.foreign_operator, "com.microsoft"), ".onnx", "the operator com.microsoft"),
        (partial(hostile_models.foreign_operator, "mine"), ".onnx", "the operator mine"),
        (hostile_models.foreign_operator_deep_inside, ".onnx", "the operator mine.Own"),
        (
            hostile_models.function_named_like_a_kernel,
            ".onnx",
            "functions of its own|the operator com.microsoft",
        ),
        (hostile_models.function_that_is_not_called, ".onnx", "functions of its own"),
        (hostile_models.unknown_field, ".onnx", "does not know"),
        (hostile_models.opaque_type, ".onnx", "does not know"),
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
    "path", sorted((SHIPPED_CARDS.parent / "weights").iterdir()), ids=lambda path: path.name
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
    path.write_bytes(hostile_models.sparse_constant().SerializeToString())
    good, _ = small_models.write(tmp_path / "good")

    inspect([good])
    with pytest.raises(CardError, match=r"^model\.onnx keeps its weights in other files"):
        inspect([good, path])


CARD = """\
id = "site-yolo"
version = "1"
task = "boxes of findings on frontal chest X-rays"
architecture = "YOLO11n"
licence = "AGPL-3.0"
intended_use = "To be evaluated on this site's images. Not for diagnostic use."
limits = ["Nobody has evaluated it."]

[[weights]]
role = "detector"
file = "site-yolo.onnx"
sha256 = "{sha256}"

[input]
size = 320
channels = 3
mean = 0.0
scale = 255.0
photometric = "MONOCHROME2"
preprocess = "letterbox"

[box_output]
layout = "{layout}"
score = 0.25
overlap = 0.45
most = 20
"""


LABEL = """
[[labels]]
name = "{name}"
code = {{ value = "60046008", scheme = "SCT", meaning = "{name}", source = "SNOMED CT" }}
supported = false
threshold = 0.5
absent_below = 0.5
detector = true
"""


NAMES = ("Effusion", "Cardiomegaly", "Pneumothorax")


def write_card(where: Path, network: Path, layout: str = "yolo") -> Path:
    path, text = where / "site-yolo.toml", CARD.format(sha256=sha256(network), layout=layout)
    path.write_text(text + "".join(LABEL.format(name=name) for name in NAMES))
    return path


def constant(where: Path, output: np.ndarray, side: int = 320) -> Path:
    """A network that says ``output`` of every picture."""
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["said", "nothing"], ["output0"]),
    ]
    known = {"said": output, "zero": np.zeros((), np.float32)}
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(output.shape))],
        [numpy_helper.from_array(value, name) for name, value in known.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = where / "site-yolo.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_the_card_in_the_documentation_works_as_pasted(store: Path, tmp_path: Path) -> None:
    network = constant(tmp_path, np.zeros((1, 5, 3), np.float32), side=640)
    text = pasted("docs/models-detector.md", "toml", 'id = "site-yolo"')
    (tmp_path / "site-yolo.toml").write_text(text.replace("0" * 64, sha256(network)))
    assert add(network, tmp_path / "site-yolo.toml").exit_code == 0
    assert models("activate", "site-yolo@1", "--pipeline", BOXES.name).exit_code == 0


@pytest.mark.data
def test_the_chest_pipeline_draws_the_boxes_of_the_site_s_detector(
    store: Path, tmp_path: Path, data: Path
) -> None:
    boxes = np.zeros((1, 7, 3), np.float32)
    boxes[0, :, 0] = (100, 200, 60, 80, 0.9, 0, 0)  # an effusion
    boxes[0, :, 1] = (102, 201, 60, 80, 0.8, 0, 0)  # the same once more
    boxes[0, :, 2] = (180, 190, 90, 90, 0, 0.7, 0)  # the heart
    network = constant(tmp_path, boxes)
    assert add(network, write_card(tmp_path, network)).exit_code == 0
    picture = Shown(cv2.imread(str(data / "cxr_nih" / "images" / "00002763_031.jpg"), cv2.IMREAD_GRAYSCALE))
    before, factor = _drawn(picture), 512 / 320
    done = models("activate", "site-yolo@1", "--pipeline", BOXES.name)
    assert done.exit_code == 0, done.output
    assert _drawn(picture) == {
        *("site-yolo", "chest-anatomy-unet", "chest-efficientnet-lite0", "burnin-text"),
        ("Effusion", *(factor * edge for edge in (70, 160, 130, 240))),
        ("Cardiomegaly", *(factor * edge for edge in (135, 145, 225, 235))),
    }
    assert models("rollback", "--pipeline", BOXES.name).exit_code == 0 and _drawn(picture) == before


def test_an_output_of_another_layout_is_refused_before_it_is_used(store: Path, tmp_path: Path) -> None:
    network, said = constant(tmp_path, np.zeros((1, 8, 5), np.float32)), "name another layout in [box_output]"
    assert add(network, write_card(tmp_path, network)).exit_code == 0
    done = models("activate", "site-yolo@1", "--pipeline", BOXES.name)
    assert done.exit_code == 65 and f"{said}, or list its labels" in " ".join(done.output.split())
    for shape, layout in (
        ((1, 7, MOST_ROWS + 1), "yolo"),
        ((7, 5), "yolo"),
        ((2, 7, 5), "yolo"),
        ((1, 5, 7), "yolo-rows"),
    ):
        with pytest.raises(CardError, match=re.escape(said)):
            detections(load(write_card(tmp_path, network, layout)), np.zeros(shape, np.float32))


def test_a_detector_and_a_classifier_are_not_taken_for_one_another(
    store: Path, tmp_path: Path, model: tuple[Path, Path]
) -> None:
    network = constant(tmp_path, np.zeros((1, 7, 3), np.float32))
    card = write_card(tmp_path, network)
    assert add(*model).exit_code == add(network, card).exit_code == 0
    as_classifier = models("activate", "site-yolo@1")
    as_detector = models("activate", "small@1", "--pipeline", BOXES.name)
    assert "it draws boxes, with --pipeline chest_xray_boxes" in as_classifier.output
    assert "has no table [box_output]" in as_detector.output
    labels = load(card).labels
    for wrong, told in (
        ([replace(label, detector=False) for label in labels], "write detector = true at those"),
        ([replace(labels[0], name="Tube")], "finds no Tube: call the labels of site-yolo@1 as it does"),
    ):
        with pytest.raises(CardError, match=told):
            folder.activate(chest.CARD, BOXES, replace(load(card), labels=tuple(wrong)), store)


def test_rows_that_are_no_boxes_are_left_out(tmp_path: Path) -> None:
    nan = np.nan
    rows = [
        *([10, 10, 20, 20, 0.9, 1], [nan, 1, 2, 3, 0.9, 1], [1, 1, 2, 2, nan, 0]),
        *([1, 1, 2, 2, 0.9, 7], [1, 1, 2, 2, 0.9, -1], [1, 1, 2, 2, 0.1, 0]),
    ]
    card = load(write_card(tmp_path, constant(tmp_path, np.zeros((1, 7, 3), np.float32)), "yolo-rows"))
    [found] = detections(card, np.array([rows], np.float32))
    assert (found.corners, found.label) == ((10, 10, 20, 20), 1)


def _drawn(picture: Shown) -> set[Any]:
    """The names of the models, and each box with its label."""
    result = ChestXray().run([picture], silent, {"all_labels": True, "operating_point": "sensitive"})
    boxes = [(finding.label, region) for finding in result.findings for region in finding.regions]
    assert all(region.origin is Origin.DETECTOR for _, region in boxes)
    rounded = {(label, *(round(edge, 3) for edge in region.bounds)) for label, region in boxes}
    return rounded | {model.id for model in result.models}
