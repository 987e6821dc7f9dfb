"""Networks of others say the same through their converted files.

Full-size networks of five projects: beside them `make test` converts one small one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.detector import SiteDetector
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find, load
from ai_pipeline.networks import nih
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import let_make, models
from tests.unit.ai_pipeline.models.test_convert import XRV, convert
from tests.unit.ai_pipeline.models.test_modelstore import write_card

pytestmark = pytest.mark.usefixtures("confinement")
TIMM = ("--architecture", "resnet18")
VIT = (4.13851, -1.70189, -1.95903, 2.39544, 0.59395)


@pytest.mark.parametrize(
    ("library", "words", "name", "labels", "of_input", "of_scores"),
    [
        # tolerances: of -1024..1024; of levels of which a grey one is .017 and .014
        ("torchxrayvision", ("xrv", *XRV), "xrv-densenet121-res224-all", ["Fracture", "Lung Opacity",
         "Enlarged Cardiomediastinum"], 1e-2, 1e-4),
        ("timm", ("timm", *TIMM, "--labels", "Mass,Nodule,Other"), "timm-resnet18",
         ["Mass", "Nodule", "Other"],
         0.02, 2e-3),
        ("ultralytics", ("ultralytics",), "ultralytics-checkpoint", ["dark", "light"], 0.02, 5e-3),
        ("eva_x", ("eva-x",), "eva-x-tiny", list(nih.LABELS), 0.02, 5e-3),
    ],
)  # fmt: skip
def test_a_network_of_others_says_the_same_through_its_converted_file(
    tmp_path: Path, library: str, words: tuple[str, ...], name: str, labels: list[str], of_input: float,
    of_scores: float,
) -> None:  # fmt: skip
    let_make(library, tmp_path)
    with np.load(tmp_path / "expected.npz") as arrays:
        shown, wanted, [outputs] = (arrays[name] for name in ("image", "input", "scores"))
    done = convert(next(tmp_path.glob("checkpoint.*")), *words, "--trust")
    assert done.exit_code == 0, done.output
    card = find(name, tmp_path)
    assert [label.name for label in card.labels][-len(labels) :] == labels
    assert not card.calibrated and not any(label.supported for label in card.labels)
    assert ("AGPL-3.0" in card.licence) is (library == "ultralytics") and card.input is not None
    np.testing.assert_allclose(network_input(shown, card.input)[0], wanted, atol=of_input)
    classifier = Classifier(card, threads=1)
    found = classifier.analyse(shown)
    probabilities = [classifier.probability(found, index) for index in range(len(card.labels))]
    ours = probabilities if library in {"torchxrayvision", "ultralytics"} else found.logits
    np.testing.assert_allclose(ours, outputs, atol=of_scores)
    assert np.ptp(outputs) > 0.1  # else the comparison says nothing


def test_a_vit_of_transformers_says_the_same_with_the_site_s_labels(tmp_path: Path) -> None:
    folder, labels, store = folders.vit(tmp_path / "vit"), tmp_path / "labels.toml", tmp_path / "models"
    labels.write_text(folders.MAP)
    words = ("--accept-licence", "--label-map", labels, "--id", "vit-s", "--licence", "MIT")
    done = models("add", folder, *words, "--models-dir", store)
    assert done.exit_code == 0, done.output
    found = Classifier(find("vit-s", store), threads=1).analyse(folders.picture())
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
