"""The network of marks: what its training takes, and its export."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from ai_pipeline.burnin.find.networks import MarkFinder, MarkMaps
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training.ultrasound import marks
from ai_training.ultrasound.overlays.burning import burn_in
from ai_training.ultrasound.overlays.hands import TRAIN
from tests.unit.ai_pipeline.phantoms import noise
from tests.unit.ai_training.ultrasound.speckle_lab import speckle

# Mark detector and inpainters: what is trained is what is exported; outside a hole nothing changes

SMALL = marks.MarkRecipe(
    iterations=6,
    widths=(8, 12, 16, 16),
    mix=marks.Mix(pictures=2, crops=2, side=64),
    validate_every=3,
    validation_pictures=2,
    threads=1,
    workers=0,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[marks.MarkNetwork, Path]:
    torch.manual_seed(5)
    network, folder = marks.MarkNetwork(SMALL.widths).eval(), tmp_path_factory.mktemp("marks")
    marks.export_finder(network, folder / f"{marks.ID}.onnx")
    marks.write_finder_card(folder, 0.4, {"dice": 0.5}, {})
    return network, folder


@pytest.mark.parametrize("shape", [(96, 128), (50, 333)])
def test_the_exported_detector_says_what_the_trained_one_says(
    exported: tuple[marks.MarkNetwork, Path], shape: tuple[int, int]
) -> None:
    picture = noise((*shape, 3))
    ours = marks.torch_finder(exported[0]).find(picture)
    theirs = MarkFinder(OnnxRuntime((exported[1] / f"{marks.ID}.onnx").read_bytes(), 1)).find(picture)
    assert theirs.marked.shape == theirs.classes.shape == shape
    assert theirs.classes.min() >= 1
    assert np.abs(ours.marked - theirs.marked).max() < 1e-4
    assert (ours.classes == theirs.classes).mean() > 0.999


def test_the_card_is_one_that_the_registry_reads(exported: tuple[marks.MarkNetwork, Path]) -> None:
    registry.verify(card := registry.find(marks.ID, exported[1]))
    assert card.details["detector"]["threshold"] == 0.4
    assert card.details["training"]["fonts"]["held-out"]


def test_grey_pictures_are_found_in_as_well(exported: tuple[marks.MarkNetwork, Path]) -> None:
    grey, finder = speckle()[..., 0], marks.torch_finder(exported[0])

    assert np.array_equal(finder.find(grey).marked, finder.find(np.repeat(grey[..., None], 3, 2)).marked)


def test_the_loss_is_least_at_the_truth() -> None:
    truth = torch.from_numpy(marks.targets_of(burn_in(speckle(), TRAIN, (1, 0))).astype(np.int64))[None]
    right = (
        20 * torch.nn.functional.one_hot(truth.clamp(max=5), len(marks.CLASSES)).permute(0, 3, 1, 2).float()
    )
    assert marks.loss_of(right, truth, SMALL) < 0.1 < marks.loss_of(-right, truth, SMALL)


@pytest.mark.parametrize("known", [True, False])
def test_ignored_pixels_teach_nothing_and_any_mark_teaches_the_rest(known: bool) -> None:
    targets = torch.full((1, 16, 16), marks.IGNORED)
    if known:
        targets[0, 0, 0], targets[0, 5, 5] = 0, marks.ANY_MARK
    logits = torch.zeros(1, len(marks.CLASSES), 16, 16, requires_grad=True)
    marks.loss_of(logits, targets, SMALL).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert not logits.grad[0, :, 9, 9].any()
    assert (logits.grad[0, 0, 5, 5] > 0) == known  # less background ...
    assert len(set(logits.grad[0, 1:, 5, 5].tolist())) == 1  # ... and no kind preferred


def test_scores_tell_a_perfect_mask_from_an_empty_one() -> None:
    pictures = [burn_in(speckle(index), TRAIN, (9, index)) for index in range(4)]
    drawn = {one.image.tobytes(): (one.owners > 0) * 1.0 for one in pictures if one.owners.any()}
    finders = [
        Mock(
            find=lambda image, m=m: MarkMaps(
                np.float32(m) * drawn.get(image.tobytes(), image[..., 0] * 0.0).astype(np.float32),
                np.ones(image.shape[:2], np.uint8),
            )
        )
        for m in (1, 0)
    ]
    best, worst = (marks.score(finder, pictures, 0.5) for finder in finders)
    assert [best[name] for name in ("object_recall", "pixel_recall", "precision", "dice")] == [1, 1, 1, 1]
    assert [worst[name] for name in ("object_recall", "pixel_recall", "clean_area")] == [0, 0, 0]
    assert best["choice"] > worst["choice"]


@pytest.mark.data
def test_batches_depend_on_seed_and_iteration_alone(data: Path) -> None:
    whole, resumed = (marks.MarkBatches(data, marks.Mix(pictures=2, crops=1, side=64), 4) for _ in range(2))
    assert all(map(torch.equal, whole[2], resumed[2]))
    assert not torch.equal(whole[0][0], whole[2][0])


@pytest.mark.data
def test_real_frames_teach_coloured_marks_and_nothing_unknown(data: Path) -> None:
    frames = marks.real_frames(data)
    picture, targets = frames[0].sample()

    assert len(frames) > 150
    assert picture.shape[:2] == targets.shape
    assert set(np.unique(targets)) <= {0, marks.IGNORED, marks.ANY_MARK}
    assert 10 < (targets == marks.ANY_MARK).sum() < 0.1 * targets.size
