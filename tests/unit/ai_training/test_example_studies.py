"""Two studies of examples/studies on drawn pictures: despeckling, and stamps with cut films."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import despeckle
import numpy as np
import pytest
import torch
from completeness import CutFilm, fit, measured
from despeckle import (
    NETWORKS,
    DespeckleLoss,
    export_despeckler,
    loss_of,
    name_of,
    write_card,
)
from stamps import TURNED, StampCase, StampModels, figures, measure

from ai_pipeline.burnin.despeckle import Despeckler
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.completeness import Completeness, Edge, Judge
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose
from ai_pipeline.models import registry
from ai_training.base import ExperimentError
from ai_training.fetal import HEADS
from ai_training.networks.backbones import Perception
from ai_training.networks.outlines import HeadNetwork
from ai_training.sets.images import ChestImage
from ai_training.ultrasound.overlays.writing import TRAIN
from ai_training.ultrasound.speckle import (
    amplitude,
    autoencoders,
    decibels,
    filters,
    rayleigh,
    scattered,
    spread,
    texture,
)
from tests.unit.ai_training import published_lab as lab
from tests.unit.chests import drawn_chest
from tests.unit.heads import drawn_head

GREY = np.full((160, 160), 0.6, np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_heads(tmp_path_factory.mktemp("data"))


def drawn_heads(folder: Path) -> Path:
    """A set of one drawn frame in each split."""
    picture, head = drawn_head()
    columns = ("patient_id", "pixel_mm_at_512", "head_circumference_mm", "split")
    rows = [(picture, head.astype(np.uint8) * 255, part, 0.2, 120, part) for part in ("train", "val", "test")]
    return lab.public(folder / HEADS, columns, rows).parent


def test_the_published_speckle_is_a_factor_of_mean_one() -> None:
    noisy = rayleigh(GREY, 0.1, np.random.default_rng(1))

    assert noisy.mean() == pytest.approx(0.6, abs=0.002)
    assert noisy.std() == pytest.approx(0.6 * 0.1 * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_physical_speckle_is_fully_developed_and_keeps_the_power() -> None:
    power = amplitude(scattered(GREY * 0.8, np.random.default_rng(1))).astype(np.float64) ** 2

    assert power.mean() == pytest.approx(float(amplitude(GREY * 0.8)[0, 0]) ** 2, rel=0.1)
    assert power.mean() ** 2 / power.var() == pytest.approx(1, abs=0.15)  # exponential: one look
    assert np.allclose(decibels(amplitude(GREY)), GREY, atol=1e-5)


def test_filters_bring_a_picture_nearer_to_the_one_below_the_noise() -> None:
    below = cv2.GaussianBlur(drawn_head()[0], (0, 0), 2).astype(np.float32)[100:260, 150:310] / 255
    noisy = rayleigh(below, 0.25, np.random.default_rng(2))

    for name, made in {**filters(), **autoencoders()}.items():
        assert np.abs(made(noisy) - below).mean() < np.abs(noisy - below).mean(), name


def test_the_spread_of_white_noise_is_found() -> None:
    noise = np.random.default_rng(3).normal(0.5, 0.08, (200, 200)).astype(np.float32)

    assert spread(noise) == pytest.approx(0.08, rel=0.05)


@pytest.mark.parametrize("loss", list(DespeckleLoss))
def test_every_loss_is_least_at_the_truth(loss: DespeckleLoss) -> None:
    truth, perception = torch.rand(1, 1, 192, 192), Perception() if "perceptual" in loss else None
    right, wrong = (loss_of(made, truth, loss, perception) for made in (truth, truth.flip(-1)))
    assert right.item() == pytest.approx(0, abs=1e-3) and wrong > right + 0.01


def test_a_blur_raises_the_looks_and_loses_edges() -> None:
    picture, head = drawn_head()
    before = scattered(picture.astype(np.float32) / 255 * 0.7, np.random.default_rng(4))
    same, blur = (texture(before, after, head) for after in (before, cv2.GaussianBlur(before, (0, 0), 4)))
    assert same["edges"] == pytest.approx(1) and blur["edges"] < 0.8 and blur["enl"] > 2 * same["enl"]


@pytest.mark.parametrize("loss", [DespeckleLoss.L1_MS_SSIM, DespeckleLoss.TASK])
def test_a_run_trains_and_its_network_runs_in_the_node(
    data: Path, tmp_path: Path, loss: DespeckleLoss
) -> None:
    torch.save(HeadNetwork().state_dict(), tmp_path / "segmenter.pt")
    whole = despeckle.recipe_of(loss, iterations=1, seed=1, threads=1, workers=0)
    recipe = replace(whole, mix=despeckle.SpeckleMix(1, 192, whole.mix.physical), half=False)

    network, chosen = despeckle.train(data, tmp_path / "run", recipe, tmp_path / "segmenter.pt")
    card_id = name_of(recipe.network, loss)
    export_despeckler(network, tmp_path / f"{card_id}.onnx")
    card = registry.load(write_card(tmp_path, card_id, 1.0, {"chosen": chosen}))

    picture = drawn_head()[0].astype(np.float32)[:104, :120] / 255
    with torch.inference_mode():
        ours = network(torch.from_numpy(picture)[None, None]).clamp(0, 1)[0, 0].numpy()
    assert np.allclose(Despeckler.from_card(card, 1).picture(picture), ours, atol=1e-4)
    assert set(chosen) >= {"psnr", "sigma 0.1", "sigma 0.75"}


def test_the_task_needs_its_segmenter(data: Path, tmp_path: Path) -> None:
    recipe = despeckle.recipe_of(DespeckleLoss.TASK, iterations=1, seed=1, threads=1, workers=0)

    with pytest.raises(ExperimentError, match="segmenter"):
        despeckle.train(data, tmp_path, recipe)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_keep_the_size(name: str) -> None:
    assert NETWORKS[name]()(torch.rand(1, 1, 40, 56)).shape == (1, 1, 40, 56)


# Studies of films: drawn stamps lie where they should, cut films are recognised, shares are of all films

FACES = [face for face in TRAIN.latin if not face.is_stroked]
SIDE = 512


@dataclass
class Reads:
    """Reads "AP" in the top left corner and, of all other pictures than its own film, nothing."""

    film: np.ndarray

    def find(self, picture: np.ndarray, scale: float = 1.0) -> list[TextBox]:
        corners = np.array([[8, 8], [40, 8], [40, 24], [8, 24]], np.float32)
        return [TextBox(corners, 0.9)] if np.array_equal(picture, self.film) else []

    def read(self, picture: np.ndarray, box: TextBox) -> Line:
        return Line("AP", 0.99, legible=True)


@dataclass
class Classifies:
    """Takes a picture whose bright corner is not at the top left for one that was turned by 180°."""

    def analyse(self, picture: np.ndarray) -> Any:
        return SimpleNamespace(pose=UPRIGHT if picture[0, 0] == 255 else TURNED)


@dataclass
class Outlines:
    def outline(self, picture: np.ndarray, pose: Pose = UPRIGHT) -> Anatomy:
        heart, *lungs = drawn_chest(SIDE)[1]
        moved = np.roll(heart, SIDE // (8 if picture[0, 0] == 255 else -8), axis=1)
        return Anatomy(np.stack([moved, *lungs]), Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def test_a_film_is_measured_as_it_is_mirrored_turned_over_and_turned() -> None:
    picture = drawn_chest(SIDE)[0]
    picture[0, 0] = 255
    models = StampModels(cast(Any, Classifies()), cast(Any, Outlines()), Reads(picture))
    image = ChestImage(Path("film.jpg"), (), None, "p1", "val", "", "", 50.0, "F", "AP")
    case = measure(image, picture, models, FACES)
    assert {what for what, holds in case.holds.items() if holds} >= {
        *("AP films with a projection read", "projection as the label says"),
        *("mirrored film noticed", "film turned over noticed"),
    }
    assert {what for what, holds in case.holds.items() if not holds} >= {
        *("film as it is called mirrored", "film turned by 180° called mirrored"),
        *("drawn stamp read right", "drawn stamp read wrong"),
    }
    assert case.drawn not in {"AP", "PA", "AP PORTABLE"}, "the film has a projection of its own"


def test_a_share_counts_the_films_that_were_asked() -> None:
    cases = [
        StampCase("a", "AP", (0.2, 0.4), {"read": True, "drawn stamp read right": True}),
        StampCase("b", "AP", (0.4, 0.6), {"drawn stamp read right": False}),
        StampCase("b", "", (0.3, 0.5), {"read": False}),
    ]
    found = figures(cases)
    assert (found["films"], found["patients"], found["drawn"]["AP"]["films"]) == (3, 2, 2)
    assert found["shares"]["read"] == {"share": [0.5, 0.0, 1.0], "films": 2}
    assert found["seconds"] == {"model": 0.3, "stamps": 0.5}


WHOLE, CUT = (0.05, 0.1, 0.0, 0.2, 0.1, 0.95), (0.0, 0.0, 0.6, 0.7, 0.5, 0.8)


def films(number: int, seed: int) -> list[CutFilm]:
    """So many films, each whole and cut at every edge, with figures that differ a little."""
    random = np.random.default_rng(seed)

    def film(name: str, edge: Edge | None) -> CutFilm:
        def figures(cut: bool) -> tuple[float, ...]:
            return tuple(np.clip(np.array(CUT if cut else WHOLE) + random.normal(0, 0.03, 6), 0, 1).tolist())

        rows = {one: [figures(one is edge)] for one in (Edge.TOP, Edge.BOTTOM)}
        sides = [figures(edge is Edge.SIDE), figures(False)]
        return CutFilm(name, Path(f"{name}.png"), edge, {**rows, Edge.SIDE: sides})

    return [film(str(one), edge) for one in range(number) for edge in (None, *Edge)]


def judges(table: dict[str, dict[str, list[float]]]) -> Completeness:
    rows = {edge: table[edge.value] for edge in Edge}
    return Completeness(
        {edge: Judge(tuple(row["weights"]), row["offset"], row["limit"]) for edge, row in rows.items()}
    )


def test_a_fit_recognises_cuts_of_films_that_it_has_not_seen() -> None:
    result = measured(films(60, 3), judges(fit(films(60, 1), films(60, 2))))
    assert result["films"] == 60 and all(share[0] > 0.9 for share in result["recognised"].values())
    assert all(share[0] < 0.2 for share in result["whole_called"].values())


def test_figures_that_say_nothing_recognise_nothing() -> None:
    found = judges(fit(films(60, 1), films(60, 2)))
    same = [CutFilm(one.patient, one.path, one.edge, films(1, 9)[0].figures) for one in films(20, 3)]
    assert all(share[0] < 0.1 for share in measured(same, found)["recognised"].values())
