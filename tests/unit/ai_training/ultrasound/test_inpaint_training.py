"""Inpainters: outside the hole nothing changes, and what is exported fills as what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("HersheyFonts")

import torch

from ai_pipeline.burnin.annotation.pixels import Mask, Picture
from ai_pipeline.burnin.fill.inpaint import inpaint as inpaint_stored
from ai_pipeline.burnin.fill.inpainters import (
    CORE,
    Classical,
    Floats,
    Inpainter,
    NetworkInpainter,
    on_onnx,
)
from ai_pipeline.models import registry
from ai_training.networks.inpaint import ARCHITECTURES, Filler, OciGan, PatchDiscriminator, Vae
from ai_training.networks.perception import BLOCKS, Perception
from ai_training.ultrasound.inpaint import fit as inpaint
from ai_training.ultrasound.inpaint import scores as inpaintscores
from ai_training.ultrasound.inpaint.data import FULL, Hole, HoleMix, as_tensors, cut_holes
from ai_training.ultrasound.inpaint.export import export_filler, file_id, write_filler_card
from ai_training.ultrasound.inpaint.loss import (
    LossWeights,
    discriminator_loss,
    divergence,
    generator_loss,
    reconstruction,
)
from ai_training.ultrasound.overlays import TRAIN, burn_in
from tests.unit.ai_training.ultrasound.test_overlays import speckle

SMALL = inpaint.InpaintRecipe(
    iterations=4,
    mix=HoleMix(pictures=1, crops=2, side=64),
    validate_every=2,
    validation_pictures=3,
    threads=1,
    workers=0,
)


@pytest.fixture(scope="module")
def holes() -> list[Hole]:
    random = np.random.default_rng(2)
    burned = [burn_in(speckle(index), TRAIN, (5, index)) for index in range(8)]
    return [hole for picture in burned for hole in cut_holes(picture, 2, 64, random)][:6]


@pytest.fixture(scope="module")
def eye() -> Perception:
    torch.set_num_threads(1)
    return Perception()


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
def test_only_the_hole_is_filled(way: Inpainter) -> None:
    picture, hole = a_hole()
    before = picture.copy()

    filled = way.fill(picture, hole)

    assert filled.dtype == np.uint8
    assert np.array_equal(filled[~hole], picture[~hole])
    assert not np.array_equal(filled[hole], picture[hole])
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("way", inpainters(), ids=lambda way: way.name)
def test_without_a_hole_nothing_happens(way: Inpainter) -> None:
    picture, hole = a_hole()

    assert np.array_equal(way.fill(picture, np.zeros_like(hole)), picture)


def test_what_a_mark_said_does_not_reach_a_network() -> None:
    picture, hole = a_hole()
    marked = picture.copy()
    marked[hole] = 255
    for way in inpainters():
        assert np.array_equal(way.fill(picture, hole), way.fill(marked, hole)), way.name


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_stood_in_a_corner_does_not_shine_through_its_removal(kind: type[np.generic]) -> None:
    picture = speckle(rows=130, columns=171)[..., 0].astype(kind)
    hole = np.zeros(picture.shape, np.bool_)
    hole[:9, :9] = hole[100:, 160:] = hole[60:70, :9] = True
    marked = picture.copy()
    marked[hole] = marked[~hole].max()
    marked[1:4, 1:6] = picture.min()

    filler = Classical("navier-stokes")
    assert np.array_equal(inpaint_stored(picture, hole, filler), inpaint_stored(marked, hole, filler))


def test_the_gan_starts_at_the_classical_fill() -> None:
    network = OciGan()
    for parameter in network.leave[-1].parameters():
        torch.nn.init.zeros_(parameter)
    picture, hole = a_hole()

    filled = inpainter_of("none", network).fill(picture, hole)

    assert np.array_equal(filled, Classical("navier-stokes").fill(picture, hole))


def test_a_tile_sees_beyond_its_edge() -> None:
    seen: list[float] = []

    def run(start: np.ndarray, hole: np.ndarray) -> np.ndarray:
        seen.append(float(start.shape[-1]))
        return np.where(hole > 0, np.roll(start, 1, axis=3), start).astype(np.float32)

    picture, hole = np.zeros((CORE, 2 * CORE, 3), np.uint8), np.zeros((CORE, 2 * CORE), np.bool_)
    picture[:, : CORE // 2] = 200
    hole[10:20, CORE : CORE + 3] = True
    NetworkInpainter("shift", run).fill(picture, hole)

    assert seen == [CORE + 64]  # the one tile that holds the hole


def test_an_exported_filler_fills_as_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = OciGan(width=16, blocks=2).eval()
    export_filler(network, tmp_path / f"{file_id('oci-gan')}.onnx")
    write_filler_card(tmp_path, "oci-gan", {"psnr": 25.0}, {})
    card = registry.find(file_id("oci-gan"), tmp_path)
    picture, hole = a_hole()

    ours = inpainter_of("oci-gan", network).fill(picture, hole)
    theirs = NetworkInpainter("oci-gan", on_onnx(registry.read(card.file("inpainter")), 1)).fill(
        picture, hole
    )

    assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounding at half a level


def test_holes_are_cut_around_marks_and_start_without_them(holes: list[Hole]) -> None:
    assert len(holes) == 6
    for hole in holes:
        assert 0 < hole.mask.mean() <= FULL
        assert not np.array_equal(hole.start[hole.mask], hole.truth[hole.mask])


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_few_steps_lower_the_loss(name: str, holes: list[Hole], eye: Perception) -> None:
    torch.manual_seed(0)
    start, hole, truth = as_tensors(holes)
    network: Filler = ARCHITECTURES[name]()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        made = truth + hole * (network(start, hole) - truth)
        loss = reconstruction(made, truth, hole, LossWeights(), eye)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))

    assert min(losses[-3:]) < 0.97 * losses[0]


def test_the_loss_of_the_truth_is_nothing(holes: list[Hole], eye: Perception) -> None:
    start, hole, truth = as_tensors(holes)

    assert float(reconstruction(truth, truth, hole, LossWeights(), eye)) == 0
    assert float(reconstruction(start, truth, hole, LossWeights(), eye)) > 0


def test_the_adversary_is_asked_about_patches_with_a_hole_only(holes: list[Hole]) -> None:
    start, hole, truth = as_tensors(holes)
    adversary = PatchDiscriminator()
    said = adversary(start, hole)

    nothing = torch.zeros_like(hole)
    assert float(generator_loss(said, nothing).detach()) == 0
    assert float(discriminator_loss(adversary(truth, hole), said, nothing).detach()) == 0
    assert float(discriminator_loss(adversary(truth, hole), said, hole).detach()) > 0


def test_the_divergence_of_a_standard_normal_is_nothing() -> None:
    zeros = torch.zeros(2, 4, 3, 3)

    assert float(divergence((zeros, zeros))) == 0
    assert float(divergence((zeros + 1, zeros))) == pytest.approx(0.5)


def test_a_vae_is_random_in_training_only() -> None:
    torch.manual_seed(0)
    network, start, hole = Vae(), torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)

    assert not torch.equal(network.train()(start, hole), network(start, hole))
    assert torch.equal(network.eval()(start, hole), network(start, hole))


def test_the_eye_stays_as_it_was_trained(eye: Perception) -> None:
    eye.train()
    pictures = torch.rand(1, 3, 64, 64) * 2 - 1

    assert not eye.training
    assert [layer.shape[1] for layer in eye.layers(pictures)] == [16, 24, 40]
    assert len(BLOCKS) == 3
    assert eye.pooled(pictures).shape == (1, 1280)
    assert not any(parameter.requires_grad for parameter in eye.parameters())


def test_figures_of_a_known_difference() -> None:
    truth = speckle()
    filled, mask = truth.copy(), np.zeros(truth.shape[:2], np.bool_)
    mask[50:60, 50:60] = True
    filled[mask] = np.where(truth[mask] > 127, truth[mask] - 10, truth[mask] + 10)

    inside, whole = inpaintscores.figures(filled, truth, mask)

    assert inside[:3] == pytest.approx([10, (10 / 255) ** 2, 20 * np.log10(25.5)])
    assert whole[0] == pytest.approx(10 * mask.mean())
    assert inside[3] < whole[3] < 1
    assert inpaintscores.figures(truth, truth, mask)[:, 3] == pytest.approx(1)


def test_kid_is_near_nothing_for_one_distribution_and_large_for_two() -> None:
    random = np.random.default_rng(0)
    one, same = (random.normal(size=(80, 2, 16)).astype(np.float32) for _ in range(2))

    near = inpaintscores.kernel_distances(same, one)
    far = inpaintscores.kernel_distances(same + 1, one)

    assert abs(near.mean()) < 0.1
    assert far.mean() > 10 * abs(near.mean())
    assert far.min() > near.max()


@pytest.mark.data
def test_the_table_has_a_row_per_way_and_the_reference_beats_doing_nothing(data: Path) -> None:
    ways = [Classical("telea"), Classical("navier-stokes")]
    result = inpaintscores.evaluate_inpaint(data, ways, None, pictures=6, split="val")
    rows = {row["name"]: row for row in result["rows"]}

    assert list(rows) == ["uncleaned", "telea", "navier-stokes"]
    assert rows["navier-stokes"]["mask"] == "given"
    assert rows["navier-stokes"]["inside"]["psnr"][0] > rows["uncleaned"]["inside"]["psnr"][0] + 3
    assert "difference" in rows["telea"]["inside"]
    json.dumps(result)


@pytest.mark.data
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inpaint, "export_filler", lambda _network, path: path.write_bytes(b""))
    recipe = replace(SMALL, adversary_from=0.4)
    inpaint.train(data, tmp_path / "one", recipe)

    class Stop(Exception):
        pass

    def stop(share: float, _what: str) -> None:
        if share > 0.7:
            raise Stop

    with pytest.raises(Stop):
        inpaint.train(data, tmp_path / "two", recipe, report=stop)
    inpaint.train(data, tmp_path / "two", recipe, resume=True)

    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two")]
    assert [entry["psnr"] for entry in histories[0]] == [entry["psnr"] for entry in histories[1]]
