"""The mark detector: what is trained is what is exported, training learns, commands say what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.find.mark_network import MarkFinder, MarkMaps
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training.base import silent
from ai_training.cli import verbs
from ai_training.cli.verbs import evaluate_app, train_app
from ai_training.ultrasound import marks
from ai_training.ultrasound.marks import (
    ANY_MARK,
    CLASSES,
    ID,
    IGNORED,
    MarkBatches,
    MarkNetwork,
    Mix,
    crop,
    export_finder,
    targets_of,
    write_finder_card,
)
from ai_training.ultrasound.overlays import TRAIN, burn_in
from tests.unit.ai_training.ultrasound.test_overlays import speckle

SMALL = marks.MarkRecipe(
    iterations=6,
    widths=(8, 12, 16, 16),
    mix=Mix(pictures=2, crops=2, side=64),
    validate_every=3,
    validation_pictures=2,
    threads=1,
    workers=0,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[MarkNetwork, Path]:
    torch.manual_seed(5)
    network, folder = MarkNetwork(SMALL.widths).eval(), tmp_path_factory.mktemp("marks")
    export_finder(network, folder / f"{ID}.onnx")
    write_finder_card(folder, 0.4, {"dice": 0.5}, {})
    return network, folder


@pytest.mark.parametrize("shape", [(96, 128), (50, 333)])
def test_the_exported_detector_says_what_the_trained_one_says(
    exported: tuple[MarkNetwork, Path], shape: tuple[int, int]
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    ours = marks.torch_finder(exported[0]).find(picture)
    theirs = MarkFinder(OnnxRuntime((exported[1] / f"{ID}.onnx").read_bytes(), 1)).find(picture)
    assert theirs.marked.shape == theirs.classes.shape == shape and theirs.classes.min() >= 1
    assert np.abs(ours.marked - theirs.marked).max() < 1e-4
    assert (ours.classes == theirs.classes).mean() > 0.999


def test_the_card_is_one_that_the_registry_reads(exported: tuple[MarkNetwork, Path]) -> None:
    registry.verify(card := registry.find(ID, exported[1]))
    assert card.details["detector"]["threshold"] == 0.4 and card.details["training"]["fonts"]["held-out"]


def test_grey_pictures_are_found_in_as_well(exported: tuple[MarkNetwork, Path]) -> None:
    grey, finder = speckle()[..., 0], marks.torch_finder(exported[0])

    assert np.array_equal(finder.find(grey).marked, finder.find(np.repeat(grey[..., None], 3, 2)).marked)


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    burned = [burn_in(speckle(index), TRAIN, (1, index)) for index in range(6)]
    frames, targets = zip(*(crop(one.image, targets_of(one), 96, random) for one in burned), strict=True)
    images = torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2)).float()
    network, losses = MarkNetwork(SMALL.widths), []
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(25):
        loss = marks.loss_of(network(images), torch.from_numpy(np.stack(targets).astype(np.int64)), SMALL)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]


def test_ignored_pixels_teach_nothing_and_any_mark_teaches_the_rest() -> None:
    targets = torch.full((2, 16, 16), IGNORED)
    targets[0, 0, 0], targets[0, 5, 5] = 0, ANY_MARK  # of the second nothing is known
    logits = torch.zeros(2, len(CLASSES), 16, 16, requires_grad=True)
    marks.loss_of(logits, targets, SMALL).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert not logits.grad[1].any() and not logits.grad[0, :, 9, 9].any()
    assert logits.grad[0, 0, 5, 5] > 0  # less background ...
    assert len(set(logits.grad[0, 1:, 5, 5].tolist())) == 1  # ... and no kind preferred


def test_scores_tell_a_perfect_mask_from_an_empty_one() -> None:
    pictures = [burn_in(speckle(index), TRAIN, (9, index)) for index in range(4)]
    nothing, perfect = ([_maps((one.owners > 0) * share) for one in pictures] for share in (0, 1))
    best, worst = (marks.score(pictures, maps, nothing, 0.5) for maps in (perfect, nothing))
    assert (best.object_recall, best.pixel_recall, best.precision, best.dice) == (1, 1, 1, 1)
    assert (worst.object_recall, worst.pixel_recall, worst.clean_area) == (0, 0, 0)
    assert best.choice > worst.choice


@pytest.mark.data
def test_batches_depend_on_seed_and_iteration_alone(data: Path) -> None:
    whole, resumed = (MarkBatches(data, Mix(pictures=2, crops=1, side=64), 4) for _ in range(2))
    assert all(map(torch.equal, whole[2], resumed[2])) and not torch.equal(whole[0][0], whole[2][0])


@pytest.mark.data
def test_real_frames_teach_coloured_marks_and_nothing_unknown(data: Path) -> None:
    frames = marks.real_frames(data)
    picture, targets = frames[0].sample()

    assert len(frames) > 150 and picture.shape[:2] == targets.shape
    assert set(np.unique(targets)) <= {0, IGNORED, ANY_MARK}
    assert 10 < (targets == ANY_MARK).sum() < 0.1 * targets.size


def _maps(marked: np.ndarray) -> MarkMaps:
    return MarkMaps(marked.astype(np.float32), np.ones(marked.shape, np.uint8))


EXIT_DATA, EXIT_CONFIG, EXIT_USAGE = 66, 78, 2


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("train", "marks", "--out", "out", "--workers", "0", "--threads", "1"), EXIT_DATA),
        (("evaluate", "marks", "--models-dir", "none"), EXIT_CONFIG),
        (("evaluate", "marks", "--split", "train"), EXIT_USAGE),
        (("evaluate", "marks", "--style", "gothic"), EXIT_USAGE),
    ],
    ids=["no images", "no detector", "no such split", "no such style"],
)
def test_what_is_missing_or_wrong_is_told_by_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--data", tmp_path)
    assert done.exit_code == status
    assert status != EXIT_DATA or len(done.stderr.strip().splitlines()) == 1


@pytest.mark.data
def test_the_filling_of_the_node_is_measured_beside_the_plain_one(data: Path) -> None:
    result = verbs._filling(data, shared_tools(), 2, silent)
    assert ({row["mask"] for row in result["rows"]}, result["reference"]) == (
        {"given", "detected"},
        "navier-stokes",
    )
    intervals = [row["inside"]["psnr"] for row in result["rows"]]
    assert all(low <= value <= high for value, low, high in intervals)
    assert any("difference" in row["inside"] for row in result["rows"])
