"""Training of the ovarian model on drawn frames: folds by group, one held-out score each, export, figures."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch.export import Dim

from ai_pipeline.models.registry import find
from ai_pipeline.ovarian.pipeline import OvarianClassifier
from ai_training.base import DataMissing, ExperimentError
from ai_training.cards import export, store_in_half
from ai_training.engine import RunOptions, carried_out
from ai_training.ovarian import calibration, evaluation, gate, network, outline, predictions, training
from ai_training.ovarian.card import train_and_ship
from ai_training.ovarian.frames import FOLDS, LABELS, folds, ovarian_frames, reduced
from ai_training.sets.files import rows
from tests.unit.ai_training import published_lab as lab

SMALL = training.OvarianRecipe(size=64, epochs=0.01, batch=4, copies=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn frames of every class, two of a group, as the public set is laid out."""
    random, rows = np.random.default_rng(0), []
    for number, label in ((number, number % len(LABELS)) for number in range(6 * len(LABELS))):
        picture, mask = random.integers(0, 60, (96, 128, 3), np.uint8), np.zeros((96, 128), np.uint8)
        cv2.ellipse(mask, (64, 48), (12 + 4 * label, 10 + 3 * label), 0, 0, 360, 255, -1)
        picture[mask > 0] = 25 * label + 40
        group = number // len(LABELS) // 2
        rows.append((picture, mask, LABELS[label], f"g{label}-{group}", ("train", "train", "val")[group], 0))
    columns = ("label", "group", "split", "yellow_overlay_px")
    return lab.public(tmp_path_factory.mktemp("data") / "us_ovarian", columns, rows).parent


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_group_lies_in_one_fold(data: Path) -> None:
    frames = ovarian_frames(data)
    homes = {(frame.group, int(fold)) for frame, fold in zip(frames, folds(frames), strict=True)}
    assert len(homes) == len({group for group, _ in homes})
    assert {fold for _, fold in homes} == set(range(FOLDS))


def test_a_run_that_would_stop_by_the_frames_that_it_is_scored_on_is_refused(tmp_path: Path) -> None:
    with carried_out(RunOptions(patience=3)), pytest.raises(ExperimentError, match="cannot stop early"):
        train_and_ship(tmp_path, tmp_path / "out", SMALL, None, [1], 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_each_fold_is_scored_by_a_network_that_has_not_seen_it(data: Path, tmp_path: Path) -> None:
    training.train(data, tmp_path, SMALL, runs=("0",))
    frames = ovarian_frames(data)
    with np.load(tmp_path / "seed-1" / "0" / "validation.npz") as found:
        assert found["rows"].tolist() == np.flatnonzero(folds(frames) == 0).tolist()
        logits = found["logits"]
    network = training.ensemble(tmp_path, SMALL, [1], "0")
    pixels = reduced([frame.rgb() for frame in frames])[folds(frames) == 0]
    assert np.allclose(training.outputs_of(network, pixels, SMALL.size)[0], logits, atol=1e-4)


@pytest.fixture(scope="module")
def pair() -> network.CystEnsemble:
    """Two networks with heads of their own."""
    return network.CystEnsemble([training.new_classifier(SMALL) for _ in range(2)]).eval()


def test_the_exported_graph_says_where_each_logit_comes_from_and_a_mirrored_picture_the_same_mirrored(
    pair: network.CystEnsemble,
) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        (logits, features, places), (again, _, turned) = pair(images), pair(images.flip(3))
    bias = torch.stack([network.head.bias for network in pair.networks]).mean(0)
    assert features.shape == (2, 1280, 2, 2)
    assert torch.allclose(places.mean((2, 3)) + bias, logits, atol=1e-4)
    assert torch.allclose(logits, again, atol=1e-4)
    assert torch.allclose(places, turned.flip(3), atol=1e-4)


def test_what_is_stored_in_half_precision_says_the_same_in_half_the_bytes(
    pair: network.CystEnsemble, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    images, one_of_them = torch.randn(2, 3, 64, 64), network.CystEnsemble([pair.networks[0]]).eval()
    with torch.inference_mode():
        expected = [part.numpy() for part in one_of_them(images)]
    export(one_of_them, (images,), {"images": {0: Dim("batch")}}, ("logits", "features", "places"), path)
    single = path.stat().st_size
    store_in_half(path)
    assert path.stat().st_size < 0.55 * single
    for one, wanted in zip(
        onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()}), expected, strict=True
    ):
        assert np.abs(one - wanted).max() <= 0.01 * max(1.0, float(np.abs(wanted).max()))


def test_frozen_blocks_keep_their_weights_and_statistics() -> None:
    network = training.new_classifier(SMALL).train()
    frozen, learning = network.trunk.network._blocks[:11], network.trunk.network._blocks[12]
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    network(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in before.items())
    assert not any(part.requires_grad for part in frozen.parameters())
    assert learning._project_conv.weight.grad is not None


def test_the_outline_network_sees_frame_and_mask_in_the_same_place(data: Path) -> None:
    pairs = outline.pairs_of([frame for frame in ovarian_frames(data) if frame.label == 7])
    batches = outline.OutlineBatches(outline.OutlineRecipe(batch=3), *pairs)
    (images, wanted), (again, _) = batches[5], batches[5]
    bright = images[:, 0] > images[:, 0].amax((1, 2), keepdim=True) * 0.6
    assert ((bright == (wanted[:, 0] > 0.5)).float().mean() > 0.93).item()
    assert torch.equal(images, again)


def held_out(data: Path, logits: np.ndarray, fold: np.ndarray) -> predictions.HeldOut:
    return predictions.HeldOut(ovarian_frames(data), fold, logits[None])


def test_predictions_come_back_as_they_were_written(data: Path, tmp_path: Path) -> None:
    frames = ovarian_frames(data)
    logits = np.random.default_rng(1).normal(size=(len(frames), len(LABELS))).round(4)
    made = held_out(data, logits, np.arange(len(frames)) % FOLDS)
    predictions.write_predictions(made, tmp_path)
    found = predictions.read_predictions(frames[::-1], tmp_path)
    assert np.array_equal(found.logits[0], logits[::-1])
    assert found.folds.tolist() == made.folds[::-1].tolist()
    with pytest.raises(DataMissing, match="no prediction"):
        predictions.read_predictions(
            (*frames, type(frames[0])("new", Path(), Path(), 0, "", "", 0)), tmp_path
        )


def test_calibration_undoes_a_wrong_scale_and_shift() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 3, 3000)
    right = np.eye(3)[truth] * 1.5 + random.normal(size=(3000, 3))
    found = calibration.cross_fitted(3.0 * right + np.array([2.0, 0.0, -2.0]), truth, np.arange(3000) % 5)
    sure, hits = found.max(1), found.argmax(1) == truth
    assert abs(sure.mean() - hits.mean()) < 0.03
    assert hits[sure >= calibration.answer_threshold(found, truth)].mean() >= calibration.RIGHT
    assert (found[np.arange(3000), truth] < calibration.absence_threshold(found, truth)).mean() <= 0.02


@pytest.fixture(scope="module")
def perfect(data: Path) -> predictions.HeldOut:
    truth = np.array([frame.label for frame in ovarian_frames(data)])
    return held_out(data, 6.0 * np.eye(len(LABELS))[truth], np.arange(len(truth)) // len(LABELS) % 2)


def test_figures_of_perfect_predictions_are_perfect_and_of_none_are_chance(
    data: Path, perfect: predictions.HeldOut
) -> None:
    best = evaluation.classification(perfect)
    assert (best["macro_auc"], best["accuracy"][0]) == ([1.0, 1.0, 1.0], 1.0)
    assert best["binary"]["malignant"]["recall"][0] == 1.0
    assert np.array(best["confusion"]).trace() == len(perfect.frames)
    nothing = held_out(data, np.zeros_like(perfect.logits[0]), perfect.folds)
    assert evaluation.classification(nothing)["macro_auc"][0] == 0.5


def test_the_report_of_perfect_predictions_has_no_frame_off_the_diagonal(
    data: Path, perfect: predictions.HeldOut, tmp_path: Path
) -> None:
    figures = {"cross_validation": evaluation.classification(perfect)}
    evaluation.report_frames(tmp_path, figures, perfect, find("ovarian-efficientnet-lite0"))
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "confusion.png", "worst.png"}
    listed = rows(tmp_path / "worst.csv")
    assert [row["said"].split()[0] for row in listed] == [row["truth"] for row in listed]


def test_figures_of_another_model_are_of_its_own_folds(data: Path, tmp_path: Path) -> None:
    card = find("ovarian-efficientnet-lite0")
    text = card.path.read_text().replace(card.id, "ovarian-own", 1)
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(DataMissing, match=r"held_out/out_of_fold\.csv is missing: evaluate in the folder of"):
        evaluation.evaluate(data, "ovarian-own", tmp_path)


def test_a_normal_ovary_is_never_called(perfect: predictions.HeldOut) -> None:
    found = evaluation.answer_figures(perfect, 0.5, 0.01)
    assert set(found["by_class"]) == set(LABELS) - {"Ovary_Normal", "High-grade_Serous_Cystadenoma"}
    assert all(row["right"][0] == 1.0 for row in found["by_class"].values())
    assert (found["would_be_normal"]["frames"], found["answered"][0]) == (6, 0.75)


def test_a_gate_parts_what_it_was_shown(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    inside, outside = (random.normal(shift, 1, (440, 64)).astype(np.float32) for shift in (0.0, 3.0))
    made = gate.fit_gate(inside[:400], {"others": outside[:400]})
    own, others = made.distance(inside[400:]), made.distance(outside[400:])
    assert (own <= 1).mean() > 0.8
    assert (others <= 1).mean() == 0.0
    rows = [(gate.FRAMES, str(row), 0, value) for row, value in enumerate(own.tolist())]
    gate.write_gate([*rows, ("others", "a", 0, 3.0)], tmp_path / "g.csv")
    assert gate.gate_limit(tmp_path / "g.csv") <= own.max()


def test_the_gate_that_ships_is_judged_on_other_pictures(tmp_path: Path) -> None:
    classifier = OvarianClassifier(find("ovarian-efficientnet-lite0"))
    limit = classifier.card.gate.threshold
    rows = [(gate.FRAMES, "a", 0, limit - 0.01), (gate.FRAMES, "b", 1, limit + 0.01)]
    gate.write_gate(rows, tmp_path / "g.csv")
    grey = np.full((200, 300, 3), 128, np.uint8)
    lab.public(tmp_path / "us_breast", ("split",), [(grey, grey, "test")])
    found = gate.gate_figures(tmp_path / "g.csv", classifier, tmp_path)
    assert found[gate.FRAMES]["passed"][0] == 0.5
    assert (found["us_breast"]["pictures"], found["us_breast"]["passed"][0]) == (1, 0.0)
