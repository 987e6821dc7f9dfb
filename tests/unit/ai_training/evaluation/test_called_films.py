"""A film is called in ``evaluate`` if, and only if, the node calls it: the same files both ways."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ai_pipeline.chest import calls
from ai_pipeline.chest.calls import OperatingPoint
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Decision, Refuse
from ai_pipeline.images.decode import open_image
from ai_pipeline.images.header import StatedAttributes
from ai_pipeline.models.registry import find
from ai_training.evaluation.operating_points import choose_points, images_called, with_kept
from ai_training.evaluation.scores import Outputs, run, scored
from ai_training.sets.chest import chest_set
from tests.unit.ai_pipeline.phantoms import silent
from tests.unit.ai_training import published_lab as lab

FILMS = (  # of validation: far from the thresholds, just below one, just above one, far above
    *("00023168_000", "00015563_011", "00018360_035", "00015895_017"),
    *("00020349_006", "00005140_001", "00022883_002", "00016417_008"),
)
MODEL = "chest-efficientnet-lite0"
VALIDATION = Path(__file__).parents[3] / "data" / "chest" / "validation.npz"


@pytest.mark.data
def test_films_called_in_evaluate_are_those_that_run_calls(data: Path, tmp_path: Path) -> None:
    files = [data / "cxr_nih" / "images" / f"{name}.jpg" for name in FILMS]
    clipped = cv2.imread(str(files[0]), cv2.IMREAD_GRAYSCALE)
    files.append(lab.picture(tmp_path / "clipped.png", np.where(clipped > 110, np.uint8(255), np.uint8(0))))
    listed = [(file, f"p{number}", 50, number % 2) for number, file in enumerate(files)]
    found = chest_set(lab.table(tmp_path / "ours.csv", ("file", "patient", "age", "Effusion"), listed))
    card = find(MODEL)
    outputs = run(Classifier(card, threads=1), found.images, tmp_path / "cache")
    everything = scored(found.images, outputs, card.labels, [label.name for label in card.labels])
    shown = [label.name for label in card.labels if label.supported]
    thresholds = {label.name: label.threshold for label in calls.labels_at(card, OperatingPoint.SPECIFIC)}
    called = calls.called_labels(card, OperatingPoint.SPECIFIC, shown)
    measured = images_called(everything, thresholds, called).tolist()

    pipeline, as_film = ChestXray(card=card), StatedAttributes(view_position="PA", body_part="CHEST")
    ran = []
    for file in files:
        image = open_image(file, "DX", as_film)
        refused = isinstance(pipeline.accepts([image]), Refuse)
        result = () if refused else pipeline.run([image], silent, {}).findings
        ran.append(any(finding.decision is Decision.PRESENT for finding in result))
    assert ran == measured
    assert set(ran) == {True, False}
    assert outputs.analysed.tolist() == [True] * len(FILMS) + [False]


@pytest.mark.data
def test_the_shipped_operating_points_are_those_that_one_command_chooses_on_validation(data: Path) -> None:
    """``evaluate chest --choose-points --keep Atelectasis``, by what the shipped network says of the films of
    the validation split: two minutes of a core to compute, so it is stored.
    """
    card, found = find(MODEL), chest_set(data)
    with np.load(VALIDATION) as stored:
        nowhere = np.full(len(stored["logits"]), np.nan)
        outputs = Outputs(stored["logits"], nowhere, stored["analysed"])
    films = [image for image in found.images if image.is_in("val")]
    everyone = scored(films, outputs, card.labels, found.labels)
    adults = everyone.where(image.adult for image in films)
    shown = [label.name for label in card.labels if label.supported]
    chosen = with_kept(choose_points(adults, shown), card, adults, ["Atelectasis"])
    assert json.loads(json.dumps(chosen)) == card.details["operating_points"]
