"""The studies of examples/studies run from file to report, at toy length; despeckling; stamps and films."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import despeckle
import finetune
import numpy as np
import pytest
import saliency
import segmenters
import study
import torch
from arms import (
    Alteration,
    Arm,
    ChestStudy,
    HeldAnswers,
    Split,
    StudyMaterial,
    StudyNetwork,
    Task,
    altered,
    load,
    run_study,
)
from completeness import CutFilm, fit, measured
from despeckle import DespeckleLoss
from figures import compare
from safetensors.torch import save_file
from scipy.linalg import eigvals
from stamps import TURNED, StampCase, StampModels, figures, measure
from synthetic import fid, kid, kid_interval, nearer
from typer.testing import CliRunner

from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.chest.anatomy import Anatomy, Completeness, Edge, Judge
from ai_pipeline.images.coordinates import UPRIGHT, Pose
from ai_pipeline.models import registry
from ai_training.backbones import new_classifier
from ai_training.base import DataMissing, ExperimentError
from ai_training.fetal import HEADS
from ai_training.networks import HeadNetwork, Perception, torchvision_network
from ai_training.sets.chest import label_matrix
from ai_training.sets.images import LABELS, SetImage
from ai_training.ultrasound.overlays.hands import TRAIN
from ai_training.ultrasound.speckle import (
    Despeckler,
    amplitude,
    autoencoders,
    decibels,
    filters,
    rayleigh,
    scattered,
    texture,
)
from tests.unit.ai_pipeline.chest.chest_lab import SAME
from tests.unit.ai_pipeline.models.store_lab import ended
from tests.unit.ai_pipeline.phantoms import noise
from tests.unit.ai_training import published_lab as lab
from tests.unit.chests import drawn_chest
from tests.unit.heads import drawn_head

FOLDER = Path(study.__file__).parent
STUDIES = sorted(FOLDER.glob("*.toml"))
WEIGHTS = "weights/mobilenet_v2_imagenet_fp16.safetensors"
EDEMA = Task(labels=("Edema",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn chests, and the folder that the public sets have their weights in."""
    folder = lab.drawn_chest_set(tmp_path_factory.mktemp("drawn")).parent
    (folder / WEIGHTS).parent.mkdir()
    state = torchvision_network("mobilenet_v2", 1).state_dict()
    save_file({n: v.half() for n, v in state.items() if n.startswith("features")}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_runs_from_its_file_to_its_report(path: Path, data: Path, tmp_path: Path) -> None:
    command = [path.stem, "--data", str(data), "--out", str(tmp_path), "--toy", "--threads", "1"]
    ended(0, CliRunner().invoke(study.app, command))
    arms = [arm.name for arm in load(path).toy().arms]
    found, page = json.loads((tmp_path / "figures.json").read_text()), (tmp_path / "report.md").read_text()
    assert [arm["name"] for arm in found["arms"]] == arms
    assert "Not for diagnostic use" in page
    assert all(f"| {name} |" in page for name in arms)
    assert (tmp_path / "arms.png").stat().st_size > 1000


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_arm_of_a_study_differs_from_its_other_and_is_longer_in_full(path: Path) -> None:
    short, full = load(path).arms, load(path, full=True).arms
    arms = {arm.name: arm.model_copy(update={"name": "", "against": "", "block": ""}) for arm in short}
    assert all(arms[arm.name] != arms[arm.against] for arm in short if arm.against)
    pairs = list(zip(short, full, strict=True))
    assert all(more.lesson.iterations > 10 * less.lesson.iterations for less, more in pairs)
    page = (FOLDER.parents[1] / "docs" / "studies" / "README.md").read_text("utf-8")
    assert f"`examples/studies/study.py {path.stem}`" in page


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[base.lesson]\niteration = 3\n[arms.a]\n", "iteration"),
        ("[arms.a]\nagainst = 'b'\n", "no arm"),
        ("[arms.a]\nnetwork = { initial = 'arm:b' }\n[arms.b]\n", "not before it"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ExperimentError, match=why):
        load(tmp_path / "study.toml")


def test_arms_without_their_weights_are_left_out_with_those_that_need_them(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        "[arms.plain]\n[arms.file]\nnetwork = { initial = 'own.pt' }\n"
        "[arms.after]\nnetwork = { initial = 'arm:file' }\n[arms.beside]\nagainst = 'file'\n"
    )
    left_out = load(tmp_path / "study.toml").without_weights(tmp_path)
    assert set(left_out) == {"file", "after", "beside"}
    assert "own.pt" in left_out["file"]


def test_a_folder_of_another_study_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "study.sha256").write_text("another")
    with pytest.raises(ExperimentError, match="another study"):
        run_study(data, tmp_path, load(STUDIES[0]).toy(), threads=1)


def test_patients_are_shared_by_training_and_test_only_where_an_arm_says_so(data: Path) -> None:
    made = ChestStudy(name="x", arms=(Arm(network=StudyNetwork(size=32)),))
    material = StudyMaterial.gather(data, made, data / "cache")

    def dealt(**how: object) -> tuple[list[int], Counter[str], set[str]]:
        train, test = material.rows(Arm(split=Split.model_validate(how)))
        learned, held = (Counter(material.images[row].patient for row in rows) for rows in (train, test))
        return test.tolist(), learned, learned.keys() & held.keys()

    asked, _, shared = dealt(by="image")
    apart, learned, none = dealt(by="image", shared_patients=False, per_patient=1)
    assert shared
    assert apart == asked
    assert not none
    assert max(learned.values()) == 1
    assert not dealt(by="patient")[2]
    with pytest.raises(DataMissing, match="0 images"):
        dealt(by="patient", train=0.0)


@pytest.mark.parametrize("name", list(Alteration.model_fields))
def test_each_alteration_alters_and_none_does_not(name: str) -> None:
    image = noise((64, 64))
    how = {"rotation": 5.0, "blur": 2.0, "noise": 20.0}.get(name, 0.2 if "flip" not in name else True)
    many = [altered(image, Alteration(**{name: how}), np.random.default_rng(k)) for k in range(8)]
    assert any((one != image).any() for one in many)
    assert (altered(image, Alteration(), np.random.default_rng(0)) == image).all()


def test_a_better_arm_is_called_better_an_equal_one_a_tie_and_seeds_apart_widen_the_interval() -> None:
    marks = [tuple(int(label == "Edema" and n % 3 == 0) for label in LABELS) for n in range(240)]
    images = tuple(
        SetImage(f"{n}", Path(f"{n}"), f"p{n // 2}", "test", source="s", marks=marks[n]) for n in range(240)
    )
    material = StudyMaterial(images, np.zeros((1, 1, 1), np.uint8), label_matrix(images))
    made = (Arm(name="one", task=EDEMA), Arm(name="other", task=EDEMA, against="one"))
    two = ChestStudy(name="drawn", seeds=(1, 2), arms=made)

    def said(*answers: tuple[float, int], rows: int = 240) -> tuple[HeldAnswers, ...]:
        """Of strength and seed."""
        truth = material.labels(EDEMA)[:rows, 0]
        logits = [k * truth + np.random.default_rng(seed).normal(size=rows) for k, seed in answers]
        return tuple(HeldAnswers(np.arange(rows), one[:, None].astype(np.float32), 1.0, 10) for one in logits)

    def found(one: tuple[HeldAnswers, ...], other: tuple[HeldAnswers, ...]) -> Any:
        return compare(two, material, {"one": one, "other": other})

    weak, alike, apart = said((0.5, 1), (0.5, 2)), said((1.0, 1), (1.0, 1)), said((0.0, 1), (2.0, 1))
    assert found(weak, said((2.5, 3), (2.5, 4)))[1].verdict == "better than one"
    assert found(weak, said((0.5, 5), (0.5, 6)))[1].verdict == "tie with one"
    narrow, wide = (found(held, alike)[0].auc for held in (alike, apart))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    with pytest.raises(ExperimentError, match="different images"):
        found(said((1, 1)), said((1, 1), rows=200))


def test_copies_of_training_images_are_found_and_the_distance_tells_sets_apart() -> None:
    random = np.random.default_rng(0)
    one, other, far = (random.normal(mean, 1, (200, 32)) for mean in (0, 0, 1))
    assert kid_interval(one, far).low > 10 * kid_interval(one, other).high
    assert nearer(one + 0.01, one, other).value == 1.0


def test_kid_is_the_unbiased_estimate_computed_by_hand() -> None:
    # (x·y / d + 1)³: 1 and 27 within the sets, (1 + 1 + 8 + 27) / 4 between them
    assert kid(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(1 + 27 - 2 * 9.25)


@pytest.mark.parametrize("images", [6, 60], ids=["fewer images than features", "more"])
def test_fid_is_that_of_the_published_formula(images: int) -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(0, 1, (images, 8)), random.normal(1, 2, (images, 8))
    spreads = [np.cov(part, rowvar=False) for part in (one, other)]
    shift = one.mean(0) - other.mean(0)
    product = np.sqrt(np.maximum(eigvals(spreads[0] @ spreads[1]).real, 0)).sum()
    assert fid(one, other) == pytest.approx(shift @ shift + np.trace(sum(spreads)) - 2 * product, rel=1e-5)


def test_fine_tuning_measures_on_held_out_patients_and_on_another_set(tmp_path: Path) -> None:
    table = lab.drawn_chest_set(tmp_path)
    arguments = ["--labels", table, "--target", "Cardiomegaly", "--out", tmp_path / "out", "--test", table]
    arguments += ["--size", 32, "--iterations", 1, "--threads", 1]
    ended(0, CliRunner().invoke(finetune.app, [str(argument) for argument in arguments]))
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (found["learned"], found["held_out"]["images"], found["external"]["images"]) == (24, 48, 24)
    table.write_text(table.read_text().replace(",p1,", ",p0,"))
    with pytest.raises(DataMissing, match="in more than one split"):
        finetune.read_local(table, "Cardiomegaly", 32)


def test_segmenters_are_taught_and_looked_at_after_every_filter(tmp_path: Path) -> None:
    recipe = segmenters.SegmenterRecipe(iterations=1, batch=1, seeds=(1,))
    result = segmenters.compare(drawn_heads(tmp_path), recipe, {"half": lambda picture: picture / 2})
    after = {"raw", "half", *(f"Gaussian blur of {s} pixels" for s in segmenters.BLURS)}
    for runs in result["segmenters"].values():
        assert {taught: set(seen) for taught, seen in runs.items()} == dict.fromkeys(
            segmenters.TAUGHT_BY, after
        )
        assert runs["raw"]["raw"]["difference"] == [0, 0, 0]


def test_measures_of_a_disc_and_of_one_that_is_larger() -> None:
    distance = np.hypot(*(np.mgrid[:96, :144] - np.array([[[48]], [[72]]])))
    same, wide = (
        dict(
            zip(
                segmenters.MEASURES, segmenters.measures(distance <= radius, distance <= 30, 0.5), strict=True
            )
        )
        for radius in (30, 33)
    )
    assert same == {"dice": 1, "iou": 1, "boundary": 0, "area": 1, "circumference": 0}
    assert wide["boundary"] == pytest.approx(1.5, abs=0.2)
    assert wide["circumference"] == pytest.approx(2 * np.pi * 1.5, rel=0.1)


# Models of speckle, filters, networks and their measures, on a few drawn frames

GREY = np.full((160, 160), 0.6, np.float32)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.mark.parametrize("loss", list(DespeckleLoss))
def test_every_loss_is_least_at_the_truth(loss: DespeckleLoss) -> None:
    truth, perception = torch.rand(1, 1, 192, 192), Perception() if "perceptual" in loss else None
    right, wrong = (despeckle.loss_of(made, truth, loss, perception) for made in (truth, truth.flip(-1)))
    assert right.item() == pytest.approx(0, abs=1e-3)
    assert wrong > right + 0.01


def test_a_blur_raises_the_looks_and_loses_edges() -> None:
    picture, head = drawn_head()
    before = scattered(picture.astype(np.float32) / 255 * 0.7, np.random.default_rng(4))
    same, blur = (texture(before, after, head) for after in (before, cv2.GaussianBlur(before, (0, 0), 4)))
    assert same["edges"] == pytest.approx(1)
    assert blur["edges"] < 0.8
    assert blur["enl"] > 2 * same["enl"]


@pytest.mark.parametrize("loss", [DespeckleLoss.L1_MS_SSIM, DespeckleLoss.TASK])
def test_a_run_trains_and_its_network_runs_in_the_node(
    heads: Path, tmp_path: Path, loss: DespeckleLoss
) -> None:
    torch.save(HeadNetwork().state_dict(), tmp_path / "segmenter.pt")
    whole = despeckle.recipe_of(loss, iterations=1, seed=1, threads=1, workers=0)
    recipe = replace(whole, mix=despeckle.SpeckleMix(1, 192, whole.mix.physical), half=False)

    network, chosen = despeckle.train(heads, tmp_path / "run", recipe, tmp_path / "segmenter.pt")
    card_id = despeckle.name_of(recipe.network, loss)
    despeckle.export_despeckler(network, tmp_path / f"{card_id}.onnx")
    card = registry.load(despeckle.write_card(tmp_path, card_id, 1.0, {"chosen": chosen}))

    picture = drawn_head()[0].astype(np.float32)[:104, :120] / 255
    with torch.inference_mode():
        ours = network(torch.from_numpy(picture)[None, None]).clamp(0, 1)[0, 0].numpy()
    assert np.allclose(Despeckler.from_card(card, 1).picture(picture), ours, atol=1e-4)
    assert set(chosen) >= {"psnr", "sigma 0.1", "sigma 0.75"}


def test_the_task_needs_its_segmenter(heads: Path, tmp_path: Path) -> None:
    recipe = despeckle.recipe_of(DespeckleLoss.TASK, iterations=1, seed=1, threads=1, workers=0)

    with pytest.raises(ExperimentError, match="segmenter"):
        despeckle.train(heads, tmp_path, recipe)


# Studies of films: drawn stamps lie where they should, cut films are recognised, shares are of all films

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


def turned_without_a_bright_corner(picture: np.ndarray) -> SimpleNamespace:
    """Takes a picture whose bright corner is not at the top left for one that was turned by 180°."""
    return SimpleNamespace(pose=UPRIGHT if picture[0, 0] == 255 else TURNED)


def outlined_with_the_heart_on_its_side(picture: np.ndarray, pose: Pose = UPRIGHT) -> Anatomy:
    heart, *lungs = drawn_chest(SIDE)[1]
    as_it_is = picture[0, 0] == 255
    moved = np.roll(heart, SIDE // (8 if as_it_is else -8), axis=1)
    return Anatomy(np.stack([moved, *lungs]), SAME, None, turn=-0.2 if as_it_is else 0.2)


def test_a_film_is_measured_as_it_is_mirrored_turned_over_and_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    # The drawn heart is not where it is outlined: its border counts as seen.
    monkeypatch.setattr("stamps.look_at", lambda *_: SimpleNamespace(hidden=False))
    picture = drawn_chest(SIDE)[0]
    picture[0, 0] = 255
    models = StampModels(
        SimpleNamespace(analyse=turned_without_a_bright_corner),
        SimpleNamespace(outline=outlined_with_the_heart_on_its_side),
        Reads(picture),
    )
    image = SetImage("", Path("film.jpg"), "p1", "val", age=50.0, sex="F", view="AP")
    case = measure(image, picture, models, [face for face in TRAIN.latin if not face.is_stroked])
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
    assert result["films"] == 60
    assert all(share[0] > 0.9 for share in result["recognised"].values())
    assert all(share[0] < 0.2 for share in result["whole_called"].values())


def test_figures_that_say_nothing_recognise_nothing() -> None:
    found = judges(fit(films(60, 1), films(60, 2)))
    same = [CutFilm(one.patient, one.path, one.edge, films(1, 9)[0].figures) for one in films(20, 3)]
    assert all(share[0] < 0.1 for share in measured(same, found)["recognised"].values())


def test_maps_of_random_weights_are_others_and_pictures_show_the_map(tmp_path: Path) -> None:
    pytest.importorskip("captum", reason="the extra captum is not installed")
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), drawn_chest(96, heart=0.3 + 0.1 * number)[0])
    films = sorted(map(str, tmp_path.glob("*.png")))
    words = [*films, "--finding", "Cardiomegaly", "--out", str(tmp_path / "maps"), "--json"]
    done = CliRunner().invoke(saliency.app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])["likeness"]
    assert found["as trained"] == pytest.approx(1.0)
    assert found["head and last 100% of the layers"] < 0.5
    shown = cv2.imread(str(tmp_path / "maps/0-Cardiomegaly.png"))
    assert shown.shape == (224, 448, 3)
    assert np.abs(shown[:, :224].astype(int) - shown[:, 224:]).mean() > 5


def test_a_map_of_another_backbone_wants_the_weights_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "needed", lambda _: None)
    text = (registry.SHIPPED / "chest-efficientnet-lite0.toml").read_text()
    for old, new in (('"chest-efficientnet-lite0"', '"other"'), ('"efficientnet-lite0"', '"densenet121"')):
        text = text.replace(f"= {old}\n", f"= {new}\n")
    (tmp_path / "other.toml").write_text(text)
    words = ["film.png", "--out", str(tmp_path), "--model", "other", "--models-dir", str(tmp_path)]
    done = CliRunner().invoke(saliency.app, words)
    assert done.exit_code == 78
    assert "other@2.6 is a densenet121: name the best.pt of its training (--best)" in done.output


def test_grad_cam_of_a_linear_head_is_its_class_activation() -> None:
    pytest.importorskip("captum", reason="the extra captum is not installed")
    scores = saliency.Scores(new_classifier("test_convnext", 3, 64).eval())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = scores.network.layers(images)[0]
        activation = torch.einsum("nchw,c->nhw", features, scores.network.head.weight[1])
    cells = activation[0].numel()
    np.testing.assert_allclose(saliency.grad_cam(scores, images, 1) * cells, activation, atol=1e-4)
