"""Cards, the reference of a model's scores, and how networks run on what the preprocessing makes."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import tomlkit
from pydicom.sr.codedict import codes

from ai_pipeline.burnin.find.text import TextReader
from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError, NoNumber, NoProvider
from ai_pipeline.models import engine, registry
from ai_pipeline.models.card import Chain, Input
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.reference import (
    BINS,
    Reference,
    Verdict,
    by_chance,
    reference_of,
    stability_index,
    verdict,
)
from ai_pipeline.models.registry import Card, Label, cards, find, read
from tests.unit.ai_training.small_models import ratio

CARD = find("chest-efficientnet-lite0")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    side = CARD.input.size
    return np.random.default_rng(7).normal(size=(2, 3, side, side)).astype(np.float32)


@pytest.mark.smoke
def test_torch_computes_the_shipped_model_as_onnx_runtime_does(images: np.ndarray) -> None:
    ours = engine.load(CARD, "classifier")(images)
    arrays, side = engine.parameters(CARD.file("classifier")), CARD.input.size
    theirs = engine.Torch(arrays, CARD.architecture, len(CARD.labels), 3, side, threads=1)(images)

    assert ours.keys() == theirs.keys() == {"logits", "features", "places"}
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-4, rtol=1e-3)


def test_logits_are_the_linear_head_on_the_mean_feature_map(images: np.ndarray) -> None:
    outputs = engine.load(CARD, "classifier")(images)
    graph = onnx.load(str(CARD.file("classifier").path)).graph
    head = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.startswith("head.")}
    expected = outputs["features"].mean((2, 3)) @ head["head.weight"].T + head["head.bias"]
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-3)


@pytest.mark.parametrize("above", [0.0, 1.0])
def test_what_is_no_number_is_no_output(above: float) -> None:
    """0 / 0 is NaN, 1 / 0 infinite."""
    network, one = engine.OnnxRuntime(ratio(), threads=1), np.ones(1, np.float32)
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
    (card, weights) for card in cards() for weights in card.weights if weights.path.suffix == engine.ONNX
]


@pytest.fixture(params=["cuda", "openvino"])
def elsewhere(request: pytest.FixtureRequest) -> str:
    if missing := engine.lacking(request.param):
        pytest.skip(missing)
    return str(request.param)


@pytest.mark.parametrize(("card", "weights"), NETWORKS, ids=[f"{c.id}/{w.role}" for c, w in NETWORKS])
def test_every_shipped_network_answers_there_as_on_the_cpu(
    elsewhere: str, card: engine.Card, weights: engine.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, random = engine.OnnxRuntime(read(weights), 1), np.random.default_rng(7)
    shapes = [one.shape for one in ours._session.get_inputs()]
    sizes = [[side if isinstance(side, int) else 64 for side in sides] for _, *sides in shapes]
    inputs = [random.random((1, *size), np.float32) for size in sizes]
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    answers, theirs = ours(*inputs), engine.OnnxRuntime(read(weights), 1)(*inputs)
    for name, answer in answers.items():
        scale, furthest = max(np.abs(answer).max(), 1.0), np.abs(theirs[name] - answer).max()
        print(f"{card.id}/{weights.role} {name}: {furthest:.2g} of {scale:.2g}")
        assert furthest <= 1e-3 * scale, name


def test_text_is_read_there_as_on_the_cpu(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((200, 600), np.uint8)
    cv2.putText(picture, "DOE JANE 1970", (40, 110), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 220, 2)
    on_cpu = TextReader()
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    ours, theirs = (
        [(reader.read(picture, box).text, box.box) for box in reader.find(picture)]
        for reader in (on_cpu, TextReader())
    )
    assert ours and theirs == ours


@pytest.mark.parametrize("where", ["cuda", "openvino"])
def test_a_provider_that_is_not_installed_is_named_with_the_remedy(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setenv(engine.INFERENCE, where)
    with pytest.raises(NoProvider, match=f"has no {re.escape(engine.PROVIDERS[where][0])}.*or choose cpu"):
        engine.session(b"", 1)
    assert "choose from cpu, cuda, openvino" in engine.lacking("tpu")


CHAIN = Input(160, 3, (127.0,), (128.0,), "MONOCHROME2", Chain())


XRV = Input(224, 1, (127.5,), (127.5 / 1024,), "MONOCHROME2", Chain(), preprocess="xrv")


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


SQUASHED = Input(
    224, 3, (0.0,), (255.0,), "MONOCHROME2", Chain(), preprocess="imagenet", crop=1.0, squash=True
)


WAYS = {"chain": CHAIN, "xrv": XRV, "imagenet": IMAGENET, "squashed": SQUASHED}


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


def test_levels_are_what_torchxrayvision_and_imagenet_call_them() -> None:
    values, _ = network_input(np.repeat(np.array([[0, 255]], np.uint8), 150, axis=1).repeat(300, axis=0), XRV)
    assert (values.min(), values.max()) == pytest.approx((-1024.0, 1024.0))
    means, spreads = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    white, _ = network_input(np.full((300, 300), 255, np.uint8), IMAGENET)
    np.testing.assert_allclose(white[0, :, 0, 0], (1 - means) / spreads, rtol=1e-5)


def _centre(values: np.ndarray) -> tuple[float, float]:
    weight = values / values.astype(float).sum()
    rows, columns = (np.arange(size) + 0.5 for size in values.shape)
    return float(weight.sum(0) @ columns), float(weight.sum(1) @ rows)


CHEST = "chest-efficientnet-lite0"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of one's own with a copy of the chest model."""
    weights = (registry.SHIPPED.parent / "weights").glob(f"{CHEST}.*")
    for file in (registry.SHIPPED / f"{CHEST}.toml", *weights):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def test_every_shipped_card_can_be_read_and_the_chest_weights_are_what_it_says() -> None:
    assert CHEST in {card.id for card in registry.cards()}
    registry.verify(registry.find(CHEST))
    with pytest.raises(CardError, match="no card, no model"):
        registry.find("someone-elses-model")


def test_a_card_in_ones_own_folder_replaces_the_shipped_one(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = models / f"{CHEST}.toml"
    shipped = registry.load(card).version
    card.write_text(card.read_text().replace(f'version = "{shipped}"', 'version = "site-7"', 1))
    found = registry.find(CHEST, models)
    assert (found.version, found.file("classifier").path.parent) == ("site-7", models)
    monkeypatch.setenv(registry.MODELS_DIR, str(models))
    assert registry.find(CHEST).path.parent == models


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "@x", "A\nB", "Nowak^Anna", "A\u0000B", ""])
@pytest.mark.parametrize("key", ["name", "meaning"])
def test_a_label_whose_text_results_may_not_show_is_refused(models: Path, key: str, text: str) -> None:
    card = models / f"{CHEST}.toml"
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
    labels = {label.name: label.code for label in registry.find(CHEST).labels}
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
    card = registry.find(CHEST)
    figures, elsewhere = card.details["metrics"]["labels"], card.details["external"]["auc"]
    for label in card.labels:
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


def a_card(reference: object = None) -> Card:
    labels = tuple(Label(n, Code("1", "99TEST", n), "test", None, True, 0.5, 0.5) for n in ("A", "B"))
    details = {} if reference is None else {"reference": reference}
    return Card("m", "1", "t", "a", "l", "i", (), Path("m.toml"), "0" * 64, labels=labels, details=details)


def a_reference(**changes: object) -> dict[str, object]:
    return {"set": "val", "images": 1000, "refused": 0.05, "deciles": {"A": TENTHS}, **changes}


def test_a_value_on_an_edge_belongs_to_the_upper_bin_and_a_card_without_a_reference_has_none() -> None:
    reference = reference_of(a_card(a_reference()))
    assert reference is not None and reference_of(a_card()) is None
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
    assert verdict([49, *[0] * 9]) is Verdict.TOO_FEW and verdict([50, *[0] * 9]) is Verdict.DRIFTED


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
