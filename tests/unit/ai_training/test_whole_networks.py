"""Whole networks say the same through their files, and the shipped classifier has the figures of its card.

Full-size networks of other projects: of them `make test` converts a small one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import Dim

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.detector import SiteDetector
from ai_pipeline.cli import mount_commands
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find, load
from ai_training.cards import export
from ai_training.chest.ship import export_onnx
from ai_training.evaluation import evaluate
from ai_training.networks.backbones import StartWeights, classifier
from ai_training.networks.outlines import HeadNetwork, Probabilities, outline_network
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, let_make
from tests.unit.ai_pipeline.models.test_models import write_card
from tests.unit.ai_training.test_convert import convert

pytestmark = pytest.mark.usefixtures("confinement")
TIMM, RANDOM = ("--architecture", "resnet18"), StartWeights("random")
VIT = (4.13851, -1.70189, -1.95903, 2.39544, 0.59395)


@pytest.fixture(autouse=True, scope="module")
def _commands() -> None:
    mount_commands()


@pytest.mark.parametrize(
    ("library", "words", "name", "labels", "of_input", "of_scores"),
    [
        ("timm", ("timm", *TIMM, "--labels", "Mass,Nodule,Other"), "timm-resnet18",
         ["Mass", "Nodule", "Other"], 0.02, 2e-3),  # of levels, of which a grey one is .017
    ],
)  # fmt: skip
def test_a_network_of_others_says_the_same_through_its_converted_file(
    tmp_path: Path, library: str, words: tuple[str, ...], name: str, labels: list[str], of_input: float,
    of_scores: float,
) -> None:  # fmt: skip
    let_make(library, tmp_path)
    with np.load(tmp_path / "expected.npz") as arrays:
        shown, wanted, [outputs] = (arrays[name] for name in ("image", "input", "scores"))
    done = convert(next(tmp_path.glob("checkpoint.*")), *words)
    assert done.exit_code == 0, done.output
    card = find(name, tmp_path)
    assert [label.name for label in card.labels][-len(labels) :] == labels
    assert not card.calibrated and not any(label.supported for label in card.labels)
    assert card.input is not None
    np.testing.assert_allclose(network_input(shown, card.input)[0], wanted, atol=of_input)
    np.testing.assert_allclose(Classifier(card, threads=1).analyse(shown).logits, outputs, atol=of_scores)
    assert np.ptp(outputs) > 0.1  # else the comparison says nothing


def test_a_vit_of_transformers_says_the_same_with_the_site_s_labels(tmp_path: Path) -> None:
    folder, labels = folders.vit(tmp_path / "vit"), tmp_path / "vit" / "labels.toml"
    labels.write_text(folders.MAP)
    done = convert(folder, "huggingface", "--label-map", str(labels), "--id", "vit-s", "--licence", "MIT")
    assert done.exit_code == 0, done.output
    found = Classifier(find("vit-s", tmp_path), threads=1).analyse(folders.picture())
    np.testing.assert_allclose(found.logits, np.delete(VIT, 2), atol=1e-3)


def test_yolo_11_draws_what_ultralytics_draws(tmp_path: Path) -> None:
    let_make("yolo11", tmp_path)
    with np.load(tmp_path / "expected.npz") as arrays:
        shown, wanted, theirs = (arrays[name] for name in ("image", "input", "boxes"))
    card = load(write_card(tmp_path, (tmp_path / "yolo.onnx").rename(tmp_path / "site-yolo.onnx")))
    assert card.input is not None and len(theirs) == 20  # as many as may be: more were found
    values, to_model = network_input(shown, card.input)
    np.testing.assert_allclose(values, wanted, atol=1e-6)
    found = SiteDetector(card, threads=1).detections(values)
    corners = [to_model.inverse()([one.corners[:2], one.corners[2:]]) for one in found]
    within = np.reshape(corners, (20, 4)).clip(0, (840, 700, 840, 700))  # as Ultralytics does
    np.testing.assert_allclose(within, theirs[:, :4], atol=0.05)
    np.testing.assert_allclose([(one.score, one.label) for one in found], theirs[:, 4:], atol=1e-4)


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/test_vit"])
def test_a_classifier_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    network = classifier(name, RANDOM, 4, 64).eval()
    narrow, images = network.narrowed([2, 0]), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, every = [part.numpy() for part in narrow(images)], network(images)[0].numpy()
    export_onnx(narrow, 64, tmp_path / "network.onnx")
    found = OnnxRuntime((tmp_path / "network.onnx").read_bytes(), 1)(images.numpy())
    for output, wanted in zip(("logits", "features", "places"), expected, strict=True):
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)
    np.testing.assert_allclose(expected[0], every[:, [2, 0]], atol=1e-5)
    assert expected[2].shape == (3, 2, 4, 4) and np.ptp(expected[0]) > 0


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_vit"])
def test_an_outline_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    graph = Probabilities(HeadNetwork(outline_network(name, RANDOM, 1, 64, 96))).eval()
    images, shapes = torch.randn(2, 3, 64, 96), {"images": {0: Dim("pictures", max=16)}}
    with torch.inference_mode():
        expected = dict(zip(("head", "present"), (part.numpy() for part in graph(images)), strict=True))
    export(graph, (images,), shapes, ("head", "present"), tmp_path / "head.onnx")
    found = OnnxRuntime((tmp_path / "head.onnx").read_bytes(), 1)(images.numpy())
    assert expected["head"].shape == (2, 64, 96)
    for output, wanted in expected.items():
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "gate_figures", lambda *_, **__: {})  # is not compared
    monkeypatch.setattr(evaluate.calibration, "calibration", lambda *_, **__: {})
    result = evaluate.evaluate_chest(data, "test", cache=tmp_path)
    main, card = result["main"], find(SHIPPED).details["metrics"]
    assert main["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    for label, auc in {row["label"]: row["auc"] for row in main["labels"] if row["positives"] >= 15}.items():
        assert auc == pytest.approx(card["labels"][label]["auc"], abs=0.01)
    assert (main["images"], result["with_children"]["images"]) == (151, 160)
    assert main["difference_to_hog"][1] > 0 and result["boxes"]["pointing"]["difference"][0] > 0
    assert result["permuted_labels"][0] == pytest.approx(0.5, abs=0.01)
    assert result["probes"]["source"]["pooled_auc"]["Pneumonia"] > 0.9
    more = next(row for row in result["sources"] if row["source"] == "cxr_nih_more/images")
    assert "Pneumonia" in more["left_out"] and "Pneumonia" not in more["labels"]
    assert result["teacher"]["sources"]["cxr_nih/images"]["images"] == 85  # of the 91, six are children
