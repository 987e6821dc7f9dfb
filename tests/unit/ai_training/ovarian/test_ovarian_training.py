"""Training of the ovarian model on drawn frames: folds by group, one held-out score each, export, figures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnxruntime
import torch
from torch.export import Dim

from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.models.registry import find
from ai_pipeline.ovarian.classifier import OvarianClassifier
from ai_training.errors import DataMissing, ExperimentError
from ai_training.evaluation.plots import differences
from ai_training.networks.ovarian import CystEnsemble
from ai_training.onnx_file import export, store_in_half
from ai_training.ovarian import (
    calibration,
    figures,
    fit,
    gate,
    outline_fit,
    predictions,
    study,
    study_figures,
    trained_on_cleaned,
)
from ai_training.ovarian.predictions import HeldOut
from ai_training.sets.ovarian import FOLDS, LABELS, folds, ovarian_frames, reduced

SMALL = fit.OvarianRecipe(size=64, epochs=0.01, batch=4, copies=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn frames of every class, two of a group, as the public set is laid out."""
    folder = tmp_path_factory.mktemp("data")
    own = folder / "us_ovarian"
    for name in ("images", "masks"):
        (own / name).mkdir(parents=True)
    rows = ["file,mask,label,group,split,yellow_overlay_px"]
    random = np.random.default_rng(0)
    for number in range(6 * len(LABELS)):
        label = number % len(LABELS)
        picture = random.integers(0, 60, (96, 128, 3), np.uint8)
        mask = np.zeros((96, 128), np.uint8)
        cv2.ellipse(mask, (64, 48), (12 + 4 * label, 10 + 3 * label), 0, 0, 360, 255, -1)
        picture[mask > 0] = 25 * label + 40
        cv2.imwrite(str(own / f"images/{number}.jpg"), picture)
        cv2.imwrite(str(own / f"masks/{number}.png"), mask)
        split = ("train", "train", "val")[number // len(LABELS) // 2]
        group = f"g{label}-{number // len(LABELS) // 2}"
        row = (f"images/{number}.jpg", f"masks/{number}.png", LABELS[label], group, split, "0")
        rows.append(",".join(row))
    (own / "manifest.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_group_lies_in_one_fold(data: Path) -> None:
    frames = ovarian_frames(data)
    by_group: dict[str, set[int]] = {}
    for frame, fold in zip(frames, folds(frames), strict=True):
        by_group.setdefault(frame.group, set()).add(int(fold))
    assert all(len(found) == 1 for found in by_group.values())
    assert set.union(*by_group.values()) == set(range(FOLDS))


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_each_fold_is_scored_by_a_network_that_has_not_seen_it(data: Path, tmp_path: Path) -> None:
    fit.train(data, tmp_path, SMALL, runs=("0",))
    frames = ovarian_frames(data)
    with np.load(tmp_path / "seed-1" / "0" / "validation.npz") as found:
        assert found["rows"].tolist() == np.flatnonzero(folds(frames) == 0).tolist()
        logits = found["logits"]
    network = fit.ensemble(tmp_path, SMALL, [1], "0")
    pixels = reduced([frame.rgb() for frame in frames])[folds(frames) == 0]
    assert np.allclose(fit.outputs_of(network, pixels, SMALL.size)[0], logits, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_networks_that_learn_from_cleaned_frames_are_scored_on_cleaned_frames(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = ovarian_frames(data)
    two = study.CLEANED[:2]  # of the ways to clean, the networks of each learn alike
    fillers = {name: study.ways()[name] for name in two}
    monkeypatch.setattr(trained_on_cleaned, "CLEANED", two)
    monkeypatch.setattr(trained_on_cleaned, "ways", lambda: fillers)
    path = trained_on_cleaned.run(data, tmp_path, SMALL)
    with np.load(path) as found:
        assert tuple(found["names"]) == two
        assert found["files"].tolist() == [frame.name for frame in frames]
        logits = found["logits"]
    assert np.isfinite(logits).all()
    network = fit.ensemble(tmp_path / "cleaned" / "1", SMALL, [1], "0")
    pixels = np.load(tmp_path / "cleaned" / "pixels.npy")[1][folds(frames) == 0]
    seen = fit.outputs_of(network, pixels, SMALL.size)[0]
    assert np.allclose(seen, logits[1][folds(frames) == 0], atol=0.02)

    monkeypatch.setattr(fit, "lower_of", None)  # what is whole is left
    assert np.array_equal(np.load(trained_on_cleaned.run(data, tmp_path, SMALL))["logits"], logits)

    made = HeldOut(frames, folds(frames), logits[:1].astype(np.float64))
    table = study_figures.trained_on_cleaned(made, path.parent)["rows"]
    assert list(table) == [study.ORIGINAL, *two]
    assert table[two[0]]["difference"] == [0, 0, 0]
    assert study_figures.trained_on_cleaned(made, tmp_path) == {}


def test_another_network_is_compared_with_one_seed_of_what_ships(data: Path, tmp_path: Path) -> None:
    frames = ovarian_frames(data)
    fold = np.arange(len(frames)) // len(LABELS) % 2
    truth = np.array([frame.label for frame in frames])
    right = held_out(data, 4.0 * np.eye(len(LABELS))[truth], fold)
    predictions.write(held_out(data, np.zeros((len(frames), len(LABELS))), fold), tmp_path)
    (tmp_path / predictions.TABLE).rename(tmp_path / "convnext_atto.csv")
    rows = study_figures.other_networks(right, tmp_path)["rows"]
    assert list(rows) == [fit.NAME, "convnext_atto"]
    assert rows["convnext_atto"]["difference"][0] == -0.5
    assert study_figures.other_networks(right, data) == {}


def test_a_network_of_timm_learns_from_scratch_by_the_same_recipe() -> None:
    recipe = fit.recipe(architecture="convnext_atto")
    assert (recipe.frozen, recipe.copies) == (0, 0)
    logits, features = fit.cyst_classifier(recipe.architecture, 64, 0, len(LABELS))(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, len(LABELS))
    assert features.shape == (2, 320, 2, 2)
    with pytest.raises(ExperimentError, match="knows no network"):
        fit.cyst_classifier("resnet_of_nobody", 64, 0, len(LABELS))


@pytest.fixture(scope="module")
def pair() -> CystEnsemble:
    """Two networks with heads of their own."""
    return CystEnsemble([fit.cyst_classifier(fit.NAME, 64, 11, len(LABELS)) for _ in range(2)]).eval()


def test_the_exported_graph_says_where_each_logit_comes_from(pair: CystEnsemble) -> None:
    with torch.inference_mode():
        logits, features, places = pair(torch.randn(2, 3, 64, 64))
    bias = torch.stack([network.head.bias for network in pair.networks]).mean(0)
    assert features.shape == (2, 1280, 2, 2)
    assert torch.allclose(places.mean((2, 3)) + bias, logits, atol=1e-4)


def test_what_is_stored_in_half_precision_says_the_same_in_half_the_bytes(
    pair: CystEnsemble, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    images, one_of_them = torch.randn(2, 3, 64, 64), CystEnsemble([pair.networks[0]]).eval()
    with torch.inference_mode():
        expected = [part.numpy() for part in one_of_them(images)]
    export(one_of_them, (images,), {"images": {0: Dim("batch")}}, ("logits", "features", "places"), path)
    single = path.stat().st_size
    store_in_half(path)
    assert path.stat().st_size < 0.55 * single
    found = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    for one, wanted in zip(found, expected, strict=True):
        assert np.abs(one - wanted).max() <= 0.01 * max(1.0, float(np.abs(wanted).max()))


def test_a_mirrored_picture_gets_the_same_answer_with_its_places_mirrored(pair: CystEnsemble) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        logits, _, places = pair(images)
        again, _, turned = pair(images.flip(3))
    assert torch.allclose(logits, again, atol=1e-4)
    assert torch.allclose(places, turned.flip(3), atol=1e-4)


def test_frozen_blocks_keep_their_weights_and_statistics() -> None:
    network = fit.cyst_classifier(fit.NAME, 64, 11, len(LABELS)).train()
    before = {name: value.clone() for name, value in network.trunk.network._blocks[:11].state_dict().items()}
    logits, _ = network(torch.randn(2, 3, 64, 64))
    logits.sum().backward()
    after = network.trunk.network._blocks[:11].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(part.requires_grad for part in network.trunk.network._blocks[:11].parameters())
    assert network.trunk.network._blocks[12]._project_conv.weight.grad is not None


def test_the_outline_network_sees_frame_and_mask_in_the_same_place(data: Path) -> None:
    frames = [frame for frame in ovarian_frames(data) if frame.label == 7]
    pictures, masks = outline_fit.pairs_of(frames)
    batches = outline_fit.OutlineBatches(outline_fit.OutlineRecipe(batch=3), pictures, masks)
    images, wanted = batches[5]
    bright = images[:, 0] > images[:, 0].amax((1, 2), keepdim=True) * 0.6
    assert ((bright == (wanted[:, 0] > 0.5)).float().mean() > 0.93).item()
    assert torch.equal(images, batches[5][0])


def held_out(data: Path, logits: np.ndarray, fold: np.ndarray) -> HeldOut:
    return HeldOut(ovarian_frames(data), fold, logits[None])


def test_predictions_come_back_as_they_were_written(data: Path, tmp_path: Path) -> None:
    frames = ovarian_frames(data)
    logits = np.random.default_rng(1).normal(size=(len(frames), len(LABELS))).round(4)
    made = held_out(data, logits, np.arange(len(frames)) % FOLDS)
    predictions.write(made, tmp_path)
    found = predictions.read(frames[::-1], tmp_path)
    assert np.array_equal(found.logits[0], logits[::-1])
    assert found.folds.tolist() == made.folds[::-1].tolist()
    with pytest.raises(DataMissing, match="no prediction"):
        predictions.read(
            (*frames, ovarian_frames(data)[0].__class__("new", Path(), Path(), 0, "", "", 0)), tmp_path
        )


def test_calibration_undoes_a_wrong_scale_and_shift() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 3, 3000)
    logits = np.eye(3)[truth] * 1.5 + random.gumbel(size=(3000, 3)) * 0.0
    right = logits + random.normal(size=logits.shape)
    wrong = 3.0 * right + np.array([2.0, 0.0, -2.0])
    folds = np.arange(3000) % 5
    found = calibration.cross_fitted(wrong, truth, folds)
    sure, hits = found.max(1), found.argmax(1) == truth
    assert abs(sure.mean() - hits.mean()) < 0.03
    cut = calibration.answer_threshold(found, truth)
    assert hits[sure >= cut].mean() >= calibration.RIGHT
    assert (found[np.arange(3000), truth] < calibration.absence_threshold(found, truth)).mean() <= 0.02


def test_figures_of_perfect_predictions_are_perfect_and_of_none_are_chance(data: Path) -> None:
    truth = np.array([frame.label for frame in ovarian_frames(data)])
    fold = np.arange(len(truth)) // len(LABELS) % 2
    perfect = figures.classification(held_out(data, 6.0 * np.eye(len(LABELS))[truth], fold))
    assert perfect["macro_auc"] == [1.0, 1.0, 1.0]
    assert perfect["accuracy"][0] == 1.0
    assert perfect["binary"]["malignant"]["recall"][0] == 1.0
    assert np.array(perfect["confusion"]).trace() == len(truth)
    nothing = figures.classification(held_out(data, np.zeros((len(truth), len(LABELS))), fold))
    assert nothing["macro_auc"][0] == 0.5


def test_a_gate_parts_what_it_was_shown(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    inside, outside = (random.normal(shift, 1, (440, 64)).astype(np.float32) for shift in (0.0, 3.0))
    made = gate.fit(inside[:400], {"others": outside[:400]})
    assert (made.distance(inside[400:]) <= 1).mean() > 0.8
    assert (made.distance(outside[400:]) <= 1).mean() == 0.0
    rows = [
        (gate.FRAMES, str(row), 0, value) for row, value in enumerate(made.distance(inside[400:]).tolist())
    ]
    gate.write([*rows, ("others", "a", 0, 3.0)], tmp_path / "g.csv")
    assert gate.threshold(tmp_path / "g.csv") <= max(row[3] for row in rows)


def test_the_gate_that_ships_is_judged_on_other_pictures(tmp_path: Path) -> None:
    classifier = OvarianClassifier(find("ovarian-efficientnet-lite0"))
    assert classifier.card.gate is not None
    limit = classifier.card.gate.threshold
    gate.write([(gate.FRAMES, "a", 0, limit - 0.01), (gate.FRAMES, "b", 1, limit + 0.01)], tmp_path / "g.csv")
    folder = tmp_path / "us_breast"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "0.png"), np.full((200, 300, 3), 128, np.uint8))
    (folder / "manifest.csv").write_text("file,split\nimages/0.png,test\n")
    found = gate.figures(tmp_path / "g.csv", classifier, tmp_path)
    assert found[gate.FRAMES]["passed"][0] == 0.5
    assert found["us_breast"]["pictures"] == 1
    assert found["us_breast"]["passed"][0] == 0.0


def test_a_normal_ovary_is_never_called(data: Path) -> None:
    truth = np.array([frame.label for frame in ovarian_frames(data)])
    fold = np.arange(len(truth)) // len(LABELS) % 2
    found = figures.answer_figures(held_out(data, 6.0 * np.eye(len(LABELS))[truth], fold), 0.5, 0.01)
    assert set(found["by_class"]) == set(LABELS) - {"Ovary_Normal", "High-grade_Serous_Cystadenoma"}
    assert all(row["right"][0] == 1.0 for row in found["by_class"].values())
    assert found["would_be_normal"]["frames"] == (truth == LABELS.index("Ovary_Normal")).sum()
    assert found["answered"][0] == 0.75


def test_the_study_compares_the_frames_that_were_scored(data: Path, tmp_path: Path) -> None:
    frames = ovarian_frames(data)
    fold = np.arange(len(frames)) // len(LABELS) % 2
    truth = np.array([frame.label for frame in frames])
    logits = np.full((len(study.VARIANTS), len(frames), len(LABELS)), np.nan)
    scored = np.arange(len(frames)) % 3 != 0  # an interrupted run leaves a part
    logits[:, scored] = 4.0 * np.eye(len(LABELS))[truth[scored]]
    logits[study.VARIANTS.index("marks only"), scored] = 0.0
    names, files = np.array(study.VARIANTS), np.array([frame.name for frame in frames])
    shares = np.full((*logits.shape[:2], 2), 0.25)
    np.savez(tmp_path / predictions.STUDY, names=names, files=files, logits=logits, shares=shares)
    found = study_figures.figures(held_out(data, np.zeros((len(frames), len(LABELS))), fold), tmp_path)
    table = found["all_frames"]
    assert table["frames"] == scored.sum()
    assert table["rows"][study.OURS]["difference"] == [0.0, 0.0, 0.0]
    assert table["rows"]["marks only"]["difference"][0] == -0.5
    assert table["rows"][study.ORIGINAL]["activation_in_lesion"] == 0.25
    assert study_figures.figures(held_out(data, logits[0], fold), data) == {}

    result = {"study": found, "trained_on_cleaned": {}}
    drawn = study_figures.compared(result)
    assert list(drawn["tested on"]) == list(study.CLEANED)
    assert list(drawn["no yellow marks"]) == [study.MARKED, study.MARKED_CLEANED]
    plot = cv2.imread(str(differences(tmp_path / "study.png", drawn, found["margin"])))
    assert (plot == (178, 114, 0)).all(-1).any()  # blue: the first table's intervals


def test_every_variant_of_a_frame_is_shown_with_its_marks(data: Path) -> None:
    tools = shared_tools()
    frame = ovarian_frames(data)[2]
    assert set(study.squares(frame, 2, tools, 64)) == set(study.VARIANTS)
    made = study.variants(frame, tools)
    original, marks = made[study.ORIGINAL]
    lesion = frame.lesion()
    assert (made["lesion blacked out"][0][lesion] == 0).all()
    for name in study.CLEANED:
        assert np.array_equal(made[name][0][~marks], original[~marks])
