"""Ways to fill a hole, what they leave alone, and their measures."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import typer
from inpaint import ARCHITECTURES, Filler, OciGan, export_filler, file_id, write_filler_card
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.tools import (
    CORE,
    PLAIN,
    Classical,
    Floats,
    Holes,
    Inpainter,
    NetworkInpainter,
    on_onnx,
    shared_tools,
)
from ai_pipeline.burnin.tools import inpaint as inpaint_stored
from ai_pipeline.models import registry
from ai_training import cli
from ai_training.ultrasound import filling, removal
from tests.unit.ai_training.ultrasound.speckle_lab import speckle

EXIT_DATA, EXIT_CONFIG, EXIT_USAGE = 66, 78, 2


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    app.add_typer(cli.train_app, name="train")
    app.add_typer(cli.evaluate_app, name="evaluate")
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
    research = removal.planned_by(None, "research")
    result = filling.evaluate_inpaint(data, [shared_tools().filler, PLAIN], research, pictures=2)
    assert ({row["mask"] for row in result["rows"]}, result["reference"]) == (
        {"given", "detected"},
        "navier-stokes",
    )
    assert all(low <= value <= high for value, low, high in [row["inside"]["psnr"] for row in result["rows"]])
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
    assert filled.dtype == np.uint8
    assert np.array_equal(picture, before)
    assert np.array_equal(filled[~hole], picture[~hole])
    assert not np.array_equal(filled[hole], picture[hole])
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
    holes = Holes.of(hole)
    assert np.array_equal(inpaint_stored(picture, holes, filler), inpaint_stored(marked, holes, filler))


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
    assert whole[0] == pytest.approx(10 * mask.mean())
    assert inside[3] < whole[3] < 1
    assert filling.figures(truth, truth, mask)[:, 3] == pytest.approx(1)


def test_kid_is_near_nothing_for_one_distribution_and_large_for_two() -> None:
    one, same = np.random.default_rng(0).normal(size=(2, 80, 2, 16)).astype(np.float32)
    near, far = (filling.kernel_distances(other, one) for other in (same, same + 1))
    assert abs(near.mean()) < 0.1
    assert far.mean() > 10 * abs(near.mean())
    assert far.min() > near.max()


@pytest.mark.data
def test_the_table_has_a_row_per_way_and_the_reference_beats_doing_nothing(data: Path) -> None:
    ways = [Classical("telea"), Classical("navier-stokes")]
    result = filling.evaluate_inpaint(data, ways, None, pictures=6, split="val")
    rows = {row["name"]: row for row in result["rows"]}

    assert list(rows) == ["uncleaned", "telea", "navier-stokes"]
    assert rows["navier-stokes"]["mask"] == "given"
    assert rows["navier-stokes"]["inside"]["psnr"][0] > rows["uncleaned"]["inside"]["psnr"][0] + 3
    assert "difference" in rows["telea"]["inside"]
    json.dumps(result)
