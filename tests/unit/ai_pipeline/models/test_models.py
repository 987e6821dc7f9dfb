"""Models: cards, stores, engines, and files of models that are hostile."""

import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.compose
import onnx.parser
import onnxruntime
import pytest
import tomlkit
from onnx import TensorProto, helper
from pydicom.sr.codedict import codes

from ai_pipeline.chest import card as chest
from ai_pipeline.chest import trial
from ai_pipeline.confinement import landlock, seccomp
from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError, ModelError, NoNumber
from ai_pipeline.models import engine, registry
from ai_pipeline.models.reference import (
    BINS,
    Reference,
    Verdict,
    by_chance,
    reference_of,
    stability_index,
    verdict,
)
from ai_pipeline.models.registry import Chain, Input, network_input
from ai_pipeline.models.store import folder, formats, sandbox
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, add, contents, ended, models, sha256
from tests.unit.ai_pipeline.phantoms import film, silent
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


CARD = registry.find(SHIPPED)


@pytest.mark.parametrize("above", [0.0, 1.0])
def test_what_is_no_number_is_no_output(above: float) -> None:
    """0 / 0 is NaN, 1 / 0 infinite."""
    network, one = engine.OnnxRuntime(small_models.ratio(), threads=1), np.ones(1, np.float32)
    assert network(one, one)["ratio"] == 1.0
    with pytest.raises(NoNumber, match="the model gave no number"):
        network(one * np.float32(above), one * np.float32(0))


TINY = """
import numpy as np
from onnx import TensorProto, helper

from ai_pipeline.models.engine import OnnxRuntime

give, get = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("give", "get"))
graph = helper.make_graph([helper.make_node("Add", ["give", "give"], ["get"])], "twice", [give], [get])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
twice = OnnxRuntime(model.SerializeToString(), threads=1)
print(twice(np.array([1e-40, 1e-30], np.float32))["get"].tolist())
"""


def test_numbers_too_small_to_be_quick_count_as_zero() -> None:
    """A network that meets them takes twice as long. In a process of its own: its first session decides."""
    done = subprocess.run([sys.executable, "-c", TINY], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0.0, pytest.approx(2e-30)]


NETWORKS = [
    (card, weights)
    for card in registry.cards()
    for weights in card.weights
    if weights.path.suffix == engine.ONNX
]


@pytest.mark.parametrize("elsewhere", ["cuda", "openvino"])
@pytest.mark.parametrize(("card", "weights"), NETWORKS, ids=[f"{c.id}/{w.role}" for c, w in NETWORKS])
def test_every_shipped_network_answers_there_as_on_the_cpu(
    elsewhere: str, card: engine.Card, weights: engine.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := engine.lacking(elsewhere):
        pytest.skip(missing)
    ours, random = engine.OnnxRuntime(registry.read(weights), 1), np.random.default_rng(7)
    shapes = [one.shape for one in ours._session.get_inputs()]
    sizes = [[side if isinstance(side, int) else 64 for side in sides] for _, *sides in shapes]
    inputs = [random.random((1, *size), np.float32) for size in sizes]
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    answers, theirs = ours(*inputs), engine.OnnxRuntime(registry.read(weights), 1)(*inputs)
    for name, answer in answers.items():
        scale, furthest = max(np.abs(answer).max(), 1.0), np.abs(theirs[name] - answer).max()
        print(f"{card.id}/{weights.role} {name}: {furthest:.2g} of {scale:.2g}")
        assert furthest <= 1e-3 * scale, name


@pytest.mark.parametrize("where", ["cuda", "openvino"])
def test_a_provider_that_is_not_installed_is_named_with_the_remedy(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setenv(engine.INFERENCE, where)
    with pytest.raises(ModelError, match=f"has no {re.escape(engine.PROVIDERS[where][0])}.*or choose cpu"):
        engine.session(b"", 1)
    assert "choose from cpu, cuda, openvino" in engine.lacking("tpu")


IMAGENET = Input(
    224,
    3,
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
    "MONOCHROME2",
    Chain(),
    preprocess="imagenet",
    crop=0.875,
    interpolation="bicubic",
)


WAYS = {
    "chain": Input(160, 3, (127.0,), (128.0,), "MONOCHROME2", Chain()),
    "imagenet": IMAGENET,
    "squashed": Input(
        224, 3, (0.0,), (255.0,), "MONOCHROME2", Chain(), preprocess="imagenet", crop=1.0, squash=True
    ),
}


def picture(rows: int, columns: int) -> np.ndarray:
    """A bright disc on black, well inside the middle square."""
    image = np.zeros((rows, columns), np.uint8)
    centre = (columns // 2 + columns // 10, rows // 2 - rows // 10)
    return np.asarray(cv2.circle(image, centre, min(rows, columns) // 12, 255, -1), np.uint8)


@pytest.mark.parametrize("shape", [(600, 500), (500, 900), (2500, 2048), (100, 150)])
@pytest.mark.parametrize("wanted", WAYS.values(), ids=WAYS)
def test_the_map_leads_to_where_the_disc_is(wanted: Input, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    values, to_model = network_input(image, wanted)
    assert (values.shape, values.dtype) == ((1, wanted.channels, wanted.size, wanted.size), np.float32)
    at, centre = to_model([_centre(image)]), _centre(image)
    assert _centre(values[0, 0] - values.min()) == pytest.approx(at[0], abs=1.0)
    assert to_model.inverse()(at)[0] == pytest.approx(centre, abs=1e-6)


def test_levels_are_what_imagenet_calls_them() -> None:
    means, spreads = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    white, _ = network_input(np.full((300, 300), 255, np.uint8), IMAGENET)
    np.testing.assert_allclose(white[0, :, 0, 0], (1 - means) / spreads, rtol=1e-5)


def _centre(values: np.ndarray) -> tuple[float, float]:
    weight = values / values.astype(float).sum()
    rows, columns = (np.arange(size) + 0.5 for size in values.shape)
    return float(weight.sum(0) @ columns), float(weight.sum(1) @ rows)


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A folder of one's own with a copy of the chest model."""
    for file in (
        registry.SHIPPED / f"{SHIPPED}.toml",
        *(registry.SHIPPED.parent / "weights").glob(f"{SHIPPED}.*"),
    ):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def test_every_shipped_card_can_be_read_and_its_weights_are_what_it_says() -> None:
    assert SHIPPED in {card.id for card in registry.cards()}
    for card in registry.cards():
        registry.verify(card)
    with pytest.raises(CardError, match="no card, no model"):
        registry.find("someone-elses-model")


def test_a_card_in_ones_own_folder_replaces_the_shipped_one(
    own_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = own_models / f"{SHIPPED}.toml"
    shipped = registry.load(card).version
    card.write_text(card.read_text().replace(f'version = "{shipped}"', 'version = "site-7"', 1))
    found = registry.find(SHIPPED, own_models)
    assert (found.version, found.file("classifier").path.parent) == ("site-7", own_models)
    monkeypatch.setenv(registry.MODELS_DIR, str(own_models))
    assert registry.find(SHIPPED).path.parent == own_models


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "@x", "A\nB", "Nowak^Anna", "A\u0000B", ""])
@pytest.mark.parametrize("key", ["name", "meaning"])
def test_a_label_whose_text_results_may_not_show_is_refused(own_models: Path, key: str, text: str) -> None:
    card = own_models / f"{SHIPPED}.toml"
    values = tomllib.loads(card.read_text())
    label = values["labels"][0]
    (label if key == "name" else label["code"])[key] = text
    card.write_text(tomlkit.dumps(values))
    with pytest.raises(CardError, match=r"labels\[0\]"):
        registry.load(card)


def test_a_card_of_brackets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(CardError, match="is not TOML"):
        registry.load(tmp_path / "card.toml")


def test_codes_that_the_standard_has_are_written_as_the_standard_writes_them() -> None:
    labels = {label.name: label.code for label in CARD.labels}
    standard = {
        "Effusion": codes.SCT.PleuralEffusion,
        "Infiltration": codes.DCM.Infiltrate,
        "Pneumothorax": codes.SCT.Pneumothorax,
        "Edema": codes.SCT.PulmonaryEdema,
    }
    written = {name: (code.value, code.scheme_designator, code.meaning) for name, code in standard.items()}
    assert {n: (labels[n].value, labels[n].scheme, labels[n].meaning) for n in standard} == written
    # pydicom's dictionary calls the enlarged septal foramen by this name
    assert labels["Cardiomegaly"].value == "8186001"


def test_only_labels_with_enough_test_images_and_better_than_chance_are_supported() -> None:
    figures, elsewhere = CARD.details["metrics"]["labels"], CARD.details["external"]["auc"]
    for label in CARD.labels:
        lows = [figures[label.name]["auc"][1], elsewhere.get(label.name, (1, 1, 1))[1]]
        assert label.supported == (figures[label.name]["positives"] >= 15 and min(lows) > 0.5)


@pytest.mark.parametrize("package", ["evilmod.sub", "evilmod", "../evilmod", ""])
def test_the_package_of_a_card_is_not_imported_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    (tmp_path / "evilmod").mkdir()
    for name in ("__init__", "sub"):
        (tmp_path / "evilmod" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    text, card = (registry.SHIPPED / "burnin-text.toml").read_text(encoding="utf-8"), tmp_path / "evil.toml"
    card.write_text(text.replace('package = "rapidocr"', f'package = "{package}"'), encoding="utf-8")
    with contextlib.suppress(CardError):
        registry.verify(registry.load(card))
    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if name.startswith("evilmod")]


TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def a_card(reference: object = None) -> registry.Card:
    labels = tuple(
        registry.Label(n, Code("1", "99TEST", n), "test", None, True, 0.5, 0.5) for n in ("A", "B")
    )
    details = {} if reference is None else {"reference": reference}
    return registry.Card(
        "m", "1", "t", "a", "l", "i", (), Path("m.toml"), "0" * 64, labels=labels, details=details
    )


def a_reference(**changes: object) -> dict[str, object]:
    return {"set": "val", "images": 1000, "refused": 0.05, "deciles": {"A": TENTHS}, **changes}


def test_a_value_on_an_edge_belongs_to_the_upper_bin_and_a_card_without_a_reference_has_none() -> None:
    reference = reference_of(a_card(a_reference()))
    assert reference is not None
    assert reference_of(a_card()) is None
    values = {0.0: 0, 0.0999: 0, 0.1: 1, 0.55: 5, 0.9: 9, 1.0: 9}
    assert {value: reference.bin("A", value) for value in values} == values
    assert reference.bin("B", 0.5) is None


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("val", "deciles is missing"),
        (a_reference(deciles=None), "deciles is missing"),
        (a_reference(images=0), "images must be"),
        (a_reference(refused=2), "share from 0 to 1"),
        (a_reference(deciles={"C": TENTHS}), "no such label"),
        (a_reference(deciles={"A": TENTHS[1:]}), "nine rising"),
        (a_reference(deciles={"A": [*TENTHS[:8], 1.2]}), "nine rising"),
        (a_reference(deciles={"A": [0.1, *TENTHS[:8]]}), "two are the same"),
    ],
)
def test_a_faulty_reference_is_refused_with_its_place(table: object, text: str) -> None:
    with pytest.raises(CardError, match=text) as caught:
        reference_of(a_card(table))
    assert str(caught.value).startswith("m.toml: reference")


def test_the_index_is_that_of_its_definition() -> None:
    assert stability_index([20] * BINS) == pytest.approx(0.0)
    # By hand, with half an image more in each bin: 100 images in two bins of 50, shares 50.5 and .5 of 105.
    full, empty = 50.5 / 105, 0.5 / 105
    by_hand = 2 * (full - 0.1) * np.log(full / 0.1) + 8 * (empty - 0.1) * np.log(empty / 0.1)
    assert stability_index([50, 50, *[0] * 8]) == pytest.approx(by_hand)


def test_few_images_get_no_index() -> None:
    assert verdict([49, *[0] * 9]) is Verdict.TOO_FEW
    assert verdict([50, *[0] * 9]) is Verdict.DRIFTED


@pytest.mark.parametrize("images", [50, 1000])
def test_unchanged_images_are_hardly_ever_called_drifted(images: int) -> None:
    """Of 2,000 samples from the reference itself, with deciles of 1,000 images: under 2 % above chance."""
    random, above = np.random.default_rng(7), 0
    for _ in range(2000):
        edges = np.quantile(random.uniform(size=1000), TENTHS)
        binned = np.bincount(np.searchsorted(edges, random.uniform(size=images), "right"), minlength=BINS)
        above += stability_index(binned.tolist()) > by_chance(images, 1000)
    assert above / 2000 < 0.02


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, Verdict.STABLE), (0.35, Verdict.WATCH), (1.0, Verdict.DRIFTED)]
)
def test_a_shift_of_the_logits_is_called_by_its_size(shift: float, expected: Verdict) -> None:
    random = np.random.default_rng(3)
    reference = Reference("val", 1000, 0.0, {"A": tuple(np.quantile(random.normal(size=1000), TENTHS))})
    binned = [reference.bin("A", value) for value in random.normal(size=1000) + shift]
    assert verdict(np.bincount(binned, minlength=BINS).tolist(), 1000) is expected


# Models of a site: added by hash and licence, looked into, activated and rolled back; detectors too


def test_a_model_is_added_beside_its_card_and_nothing_uses_it_yet(
    store: Path, model: tuple[Path, Path]
) -> None:
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


def test_altered_weights_are_found_and_cannot_be_activated(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    file = store / "small" / "1" / "small.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    not_activated(store, "SHA-256")


def not_activated(store: Path, told: str, *words: str) -> None:
    assert told in ended(65, models("activate", "small", *words))
    assert not (store / "active.json").exists()


def test_a_model_that_cannot_run_is_not_activated(store: Path, model: tuple[Path, Path]) -> None:
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
        trial._try(registry.load(card))


def test_a_model_that_never_ends_is_not_activated(store: Path, tmp_path: Path) -> None:
    add(*endless(tmp_path / "made"))
    not_activated(store, "does not run: it took longer than 2 s", "--seconds", "2")


def test_a_model_with_weights_elsewhere_that_lies_in_the_folder_already_is_not_activated(store: Path) -> None:
    network = small_models.network()
    network.graph.node.insert(0, sparse_constant().graph.node[0])
    small_models.write(store, network)
    not_activated(store, "in other files")


def test_the_same_version_cannot_be_added_twice(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    before = (store / "small" / "1" / "card.toml").read_bytes()
    assert "another version" in ended(65, add(*model))
    assert (store / "small" / "1" / "card.toml").read_bytes() == before


def test_without_a_card_or_agreement_to_the_licence_or_the_file_meant_nothing_is_added(
    store: Path, model: tuple[Path, Path]
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
    store: Path, model: tuple[Path, Path], right: str, wrong: str, told: str
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


# A process that opens foreign files gets at nothing else, whichever walls the machine offers

# What a hostile checkpoint would try once its code runs. Each that succeeds is told in said.json.
ATTEMPTS = """
import ctypes, json, os, socket, subprocess, sys, time
from pathlib import Path

given = json.load(sys.stdin)
outside, parent = Path(given["outside"]), given["parent"]


def forks(count):
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
    return True


def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1)
            for place in (outside / "daemon", Path("daemon")):
                place.write_text("alive")
        os._exit(0)
    return True


def unix():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(given["socket"])
    return True


def tcp():
    with socket.create_connection(("127.0.0.1", given["port"]), timeout=3):
        return True


attempts = {
    "writes outside": lambda: (outside / "written").write_text("x"),
    "writes beside the checkpoint": lambda: Path(given["read"]).write_text("x"),
    "changes the interpreter": lambda: (Path(os.__file__).parent / "evil.py").write_text("x"),
    "writes to /var/tmp": lambda: Path("/var/tmp/ai-pipeline-test").write_text("x"),
    "reads home": lambda: (outside / "secret").read_text(),
    "lists home": lambda: list(outside.iterdir()),
    "reads shadow": lambda: Path("/etc/shadow").read_text(),
    "reads passwd": lambda: Path("/etc/passwd").read_text(),
    "empties a file": lambda: os.truncate(outside / "secret", 0),
    "opens a file to all": lambda: os.chmod(outside / "secret", 0o777),
    "unix socket": unix,
    "tcp": tcp,
    "daemon": daemon,
    "forks": lambda: forks(1000),
    "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "reads the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes().index(b"="),
    "reads any environment": lambda: [Path(f"/proc/{n}/environ").read_bytes() for n in range(1, 40000)
                                      if n != os.getpid() and Path(f"/proc/{n}").exists()][0],
    "signals the parent": lambda: os.kill(parent, 0) or True,
    "its own environment": lambda: os.environ["SECRET_TOKEN"],
    "other namespaces": lambda: ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0 or 1 / 0,
    "traces": lambda: ctypes.CDLL(None).ptrace(16, parent, 0, 0) == 0 or 1 / 0,
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except Exception:
        pass
Path("said.json").write_text(json.dumps({"done": done, "read": Path(given["read"]).read_text(),
                                         "folder": os.listdir(), "HOME": os.environ["HOME"]}))
"""


@pytest.fixture(params=[pytest.param("bubblewrap", marks=pytest.mark.debian("bubblewrap")), "landlock"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bubblewrap, then Landlock as if there were no bubblewrap; skipped where the machine has neither."""
    if request.param == "landlock":
        monkeypatch.setattr(sandbox, "_bubblewrap", lambda: "")
    if sandbox.walls() != request.param:
        pytest.skip(f"this machine cannot confine by {request.param}")
    return str(request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def run(code: str, scratch: Path, *reads: Path, request: str = "", seconds: int = 120) -> sandbox.Ended:
    script = scratch.parent / "script.py"
    script.write_text(code, encoding="utf-8")
    return sandbox.run(str(script), request, scratch, reads=[script, *reads], seconds=seconds, required=True)


def still_written(path: Path) -> bool:
    before = path.read_text()
    time.sleep(0.3)
    return path.read_text() != before


def test_nothing_that_a_hostile_checkpoint_tries_succeeds(
    walls: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "geheim")
    home, checkpoint = tmp_path / "home", tmp_path / "checkpoint.pt"
    home.mkdir()
    (home / "secret").write_text("geheim")
    (home / "secret").chmod(0o600)
    checkpoint.write_text("numbers")
    # The paths of sockets are short: not in pytest's folder.
    place = f"/tmp/ai-pipeline-test-{os.getpid()}.sock"
    given = {"outside": str(home), "parent": os.getpid(), "read": str(checkpoint), "socket": place}
    try:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(place)
            unix.listen()
            given["port"] = tcp.getsockname()[1]
            ended = run(ATTEMPTS, scratch, checkpoint, request=json.dumps(given))
    finally:
        Path(place).unlink(missing_ok=True)
    assert ended == sandbox.Ended(0, "")
    said = json.loads((scratch / "said.json").read_text())
    assert (said["done"], said["HOME"]) == ([], str(scratch))
    assert said["read"] == checkpoint.read_text() == "numbers"
    time.sleep(1.5)
    assert [path.name for path in home.iterdir()] == ["secret"]
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in scratch.iterdir()] == ["said.json"]


@pytest.mark.debian("bubblewrap")
def test_bubblewrap_alone_ends_what_a_process_left_behind(scratch: Path) -> None:
    bubblewrap = sandbox._bubblewrap()
    if not bubblewrap:
        pytest.skip("bubblewrap cannot start here")
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while True:\n"
        "        open('alive', 'w').write(str(time.monotonic()))\n"
        "while not os.path.exists('alive'): pass\n"
    )
    command = sandbox._bubblewrap_command(bubblewrap, sandbox._outermost(sandbox._interpreter()), scratch)
    subprocess.run([*command, sys.executable, "-I", "-c", code], check=True, timeout=60)

    assert not still_written(scratch / "alive")


def test_what_takes_too_long_is_ended_with_all_its_threads(walls: str, scratch: Path) -> None:
    code = (
        "import threading, time\n"
        "def write():\n"
        "    while True:\n"
        "        open('alive', 'w').write(str(time.monotonic()))\n"
        "threading.Thread(target=write).start()\n"
    )

    assert run(code, scratch, seconds=4).status is None
    assert not still_written(scratch / "alive")


def test_it_can_neither_take_all_memory_nor_fill_ours_with_complaints(walls: str, scratch: Path) -> None:
    code = (
        "import resource, sys\n"
        "try:\n"
        "    bytearray(32 << 30)\n"
        "except MemoryError:\n"
        "    print('memory', file=open('said', 'w'))\n"
        "for _ in range(200):\n"
        "    sys.stderr.write('x' * 100_000)\n"
        "print(file=sys.stderr)\n"
        "print('the reason\\x1b[0m', file=sys.stderr)\n"
        "sys.exit(65)\n"
    )

    ended = run(code, scratch)

    assert ended == sandbox.Ended(65, "the reason?[0m")
    assert (scratch / "said").read_text() == "memory\n"


@pytest.mark.parametrize(
    ("user", "version", "told"),
    [
        (0, landlock.LEAST, "root gets out"),
        (1000, landlock.LEAST - 1, "no Landlock"),
        (0, 0, "no Landlock"),
        (1000, landlock.LEAST, ""),  # enough
    ],
)
def test_without_walls_that_hold_nothing_foreign_is_run(
    monkeypatch: pytest.MonkeyPatch, user: int, version: int, told: str
) -> None:
    for module, name, value in (
        (sandbox, "_bubblewrap", ""),
        (os, "geteuid", user),
        (landlock, "version", version),
        (seccomp, "known", True),
    ):
        monkeypatch.setattr(module, name, partial(lambda value: value, value))
    with (
        pytest.raises(CardError, match=f"Debian package bubblewrap.*{told}")
        if told
        else contextlib.nullcontext()
    ):
        sandbox.require()
