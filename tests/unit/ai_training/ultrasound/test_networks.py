"""Mark detector and inpainters: what is trained is what is exported; outside a hole nothing changes."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import typer
from inpaint import ARCHITECTURES, Filler, OciGan, export_filler, file_id, write_filler_card
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.fill import CORE, Classical, Floats, Inpainter, NetworkInpainter, on_onnx
from ai_pipeline.burnin.fill import inpaint as inpaint_stored
from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.find.networks import MarkFinder, MarkMaps
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training.base import silent
from ai_training.cli import verbs
from ai_training.cli.verbs import evaluate_app, train_app
from ai_training.ultrasound import filling, marks
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


@pytest.mark.parametrize("known", [True, False])
def test_ignored_pixels_teach_nothing_and_any_mark_teaches_the_rest(known: bool) -> None:
    targets = torch.full((1, 16, 16), IGNORED)
    if known:
        targets[0, 0, 0], targets[0, 5, 5] = 0, ANY_MARK
    logits = torch.zeros(1, len(CLASSES), 16, 16, requires_grad=True)
    marks.loss_of(logits, targets, SMALL).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert not logits.grad[0, :, 9, 9].any() and (logits.grad[0, 0, 5, 5] > 0) == known  # less background ...
    assert len(set(logits.grad[0, 1:, 5, 5].tolist())) == 1  # ... and no kind preferred


def test_scores_tell_a_perfect_mask_from_an_empty_one() -> None:
    pictures = [burn_in(speckle(index), TRAIN, (9, index)) for index in range(4)]
    drawn = {one.image.tobytes(): (one.owners > 0) * 1.0 for one in pictures if one.owners.any()}
    finders = [
        Mock(find=lambda image, m=m: _maps(drawn.get(image.tobytes(), image[..., 0] * 0.0) * m))
        for m in (1, 0)
    ]
    best, worst = (marks.score(finder, pictures, 0.5) for finder in finders)
    assert [best[name] for name in ("object_recall", "pixel_recall", "precision", "dice")] == [1, 1, 1, 1]
    assert [worst[name] for name in ("object_recall", "pixel_recall", "clean_area")] == [0, 0, 0]
    assert best["choice"] > worst["choice"]


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
    assert done.exit_code == status and (status != EXIT_DATA or len(done.stderr.strip().splitlines()) == 1)


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


def a_hole() -> tuple[Picture, Mask]:
    picture, hole = speckle(rows=130, columns=171), np.zeros((130, 171), np.bool_)
    hole[20:32, 30:140] = hole[100:128, 0:9] = hole[60:61, 60:61] = True
    return picture, hole


def inpainter_of(name: str, network: Filler) -> NetworkInpainter:
    """``network`` as an inpainter, on torch."""
    network.eval()

    def run(start: Floats, hole: Floats) -> Floats:
        with torch.inference_mode():
            filled = network(torch.from_numpy(start), torch.from_numpy(hole))
        return np.asarray(filled.numpy(), np.float32)

    return NetworkInpainter(name, run)


def inpainters() -> list[Inpainter]:
    torch.manual_seed(1)
    return [
        Classical("telea"),
        Classical("navier-stokes"),
        *(inpainter_of(name, kind()) for name, kind in ARCHITECTURES.items()),
    ]


@pytest.mark.parametrize("way", inpainters(), ids=lambda way: way.name)
def test_only_the_hole_is_filled_and_without_one_nothing_happens(way: Inpainter) -> None:
    picture, hole = a_hole()
    before, filled = picture.copy(), way.fill(picture, hole)
    assert filled.dtype == np.uint8 and np.array_equal(picture, before)
    assert np.array_equal(filled[~hole], picture[~hole]) and not np.array_equal(filled[hole], picture[hole])
    assert np.array_equal(way.fill(picture, np.zeros_like(hole)), picture)


def test_what_a_mark_said_does_not_reach_a_network() -> None:
    picture, hole = a_hole()
    marked = np.where(hole[..., None], np.uint8(255), picture)
    assert all(np.array_equal(way.fill(picture, hole), way.fill(marked, hole)) for way in inpainters())


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_stood_in_a_corner_does_not_shine_through_its_removal(kind: type[np.generic]) -> None:
    picture = speckle(rows=130, columns=171)[..., 0].astype(kind)
    hole, filler = np.zeros(picture.shape, np.bool_), Classical("navier-stokes")
    hole[:9, :9] = hole[100:, 160:] = hole[60:70, :9] = True
    marked = np.where(hole, picture[~hole].max(), picture)
    marked[1:4, 1:6] = picture.min()
    assert np.array_equal(inpaint_stored(picture, hole, filler), inpaint_stored(marked, hole, filler))


def test_a_tile_sees_beyond_its_edge() -> None:
    picture, hole = np.zeros((CORE, 2 * CORE, 3), np.uint8), np.zeros((CORE, 2 * CORE), np.bool_)
    hole[10:20, CORE : CORE + 3] = True
    run = Mock(side_effect=lambda start, _hole: start)
    NetworkInpainter("seeing", run).fill(picture, hole)
    assert [call.args[0].shape[-1] for call in run.mock_calls] == [CORE + 64]  # the tile that holds the hole


def test_an_exported_filler_fills_as_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = OciGan(width=16, blocks=2).eval()
    export_filler(network, tmp_path / f"{file_id('oci-gan')}.onnx")
    write_filler_card(tmp_path, "oci-gan", {"psnr": 25.0}, {})
    file = registry.find(file_id("oci-gan"), tmp_path).file("inpainter")
    exported = NetworkInpainter("oci-gan", on_onnx(registry.read(file), 1))
    ours, theirs = (way.fill(*a_hole()) for way in (inpainter_of("oci-gan", network), exported))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounding at half a level


def test_figures_of_a_known_difference() -> None:
    truth = speckle()
    mask = np.zeros(truth.shape[:2], np.bool_)
    mask[50:60, 50:60] = True
    filled = np.where(mask[..., None], np.where(truth > 127, truth - 10, truth + 10), truth).astype(np.uint8)
    inside, whole = filling.figures(filled, truth, mask)
    assert inside[:3] == pytest.approx([10, (10 / 255) ** 2, 20 * np.log10(25.5)])
    assert whole[0] == pytest.approx(10 * mask.mean()) and inside[3] < whole[3] < 1
    assert filling.figures(truth, truth, mask)[:, 3] == pytest.approx(1)


def test_kid_is_near_nothing_for_one_distribution_and_large_for_two() -> None:
    one, same = np.random.default_rng(0).normal(size=(2, 80, 2, 16)).astype(np.float32)
    near, far = (filling.kernel_distances(other, one) for other in (same, same + 1))
    assert abs(near.mean()) < 0.1 and far.mean() > 10 * abs(near.mean()) and far.min() > near.max()


@pytest.mark.data
def test_the_table_has_a_row_per_way_and_the_reference_beats_doing_nothing(data: Path) -> None:
    ways = [Classical("telea"), Classical("navier-stokes")]
    result = filling.evaluate_inpaint(data, ways, None, pictures=6, split="val")
    rows = {row["name"]: row for row in result["rows"]}

    assert list(rows) == ["uncleaned", "telea", "navier-stokes"] and rows["navier-stokes"]["mask"] == "given"
    assert rows["navier-stokes"]["inside"]["psnr"][0] > rows["uncleaned"]["inside"]["psnr"][0] + 3
    assert "difference" in rows["telea"]["inside"]
    json.dumps(result)
