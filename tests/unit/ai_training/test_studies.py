"""The studies of examples/studies: every one runs from its file to its report, at toy length."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import finetune
import numpy as np
import pytest
import segmenters
import study
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
from figures import compare
from safetensors.torch import save_file
from segmenters import BLURS, MEASURES, TAUGHT_BY, SegmenterRecipe, measures
from synthetic import kid_interval, nearer
from typer.testing import CliRunner

from ai_training.base import DataMissing, ExperimentError
from ai_training.conversion.foreign import torchvision_network
from ai_training.sets.chest import label_matrix
from ai_training.sets.images import LABELS, ChestImage
from tests.unit.ai_training.published_lab import drawn_chest_set
from tests.unit.ai_training.test_example_studies import drawn_heads

FOLDER = Path(study.__file__).parent
STUDIES = sorted(FOLDER.glob("*.toml"))
WEIGHTS = "weights/mobilenet_v2_imagenet_fp16.safetensors"
EDEMA = Task(labels=("Edema",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn chests, and the folder that the public sets have their weights in."""
    folder = drawn_chest_set(tmp_path_factory.mktemp("drawn")).parent
    (folder / WEIGHTS).parent.mkdir()
    state = torchvision_network("mobilenet_v2", 1).state_dict()
    save_file({n: v.half() for n, v in state.items() if n.startswith("features")}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_runs_from_its_file_to_its_report(path: Path, data: Path, tmp_path: Path) -> None:
    command = [path.stem, "--data", str(data), "--out", str(tmp_path), "--toy", "--threads", "1"]
    done = CliRunner().invoke(study.app, command)
    assert done.exit_code == 0, done.output
    arms = [arm.name for arm in load(path).toy().arms]
    found, page = json.loads((tmp_path / "figures.json").read_text()), (tmp_path / "report.md").read_text()
    assert [arm["name"] for arm in found["arms"]] == arms
    assert "Not for diagnostic use" in page and all(f"| {name} |" in page for name in arms)
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
    assert set(left_out) == {"file", "after", "beside"} and "own.pt" in left_out["file"]


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
    assert shared and apart == asked and not none and max(learned.values()) == 1
    assert not dealt(by="patient")[2]
    with pytest.raises(DataMissing, match="0 images"):
        dealt(by="patient", train=0.0)


@pytest.mark.parametrize("name", list(Alteration.model_fields))
def test_each_alteration_alters_and_none_does_not(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    how = {"rotation": 5.0, "blur": 2.0, "noise": 20.0}.get(name, 0.2 if "flip" not in name else True)
    many = [altered(image, Alteration(**{name: how}), np.random.default_rng(k)) for k in range(8)]
    assert any((one != image).any() for one in many)
    assert (altered(image, Alteration(), np.random.default_rng(0)) == image).all()


def test_a_better_arm_is_called_better_an_equal_one_a_tie_and_seeds_apart_widen_the_interval() -> None:
    marks = [tuple(int(label == "Edema" and n % 3 == 0) for label in LABELS) for n in range(240)]
    images = tuple(
        ChestImage(Path(f"{n}"), marks[n], None, f"p{n // 2}", "test", "s", "r", 50.0, "F", "PA")
        for n in range(240)
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


def test_fine_tuning_measures_on_held_out_patients_and_on_another_set(tmp_path: Path) -> None:
    table = drawn_chest_set(tmp_path)
    arguments = ["--labels", table, "--target", "Cardiomegaly", "--out", tmp_path / "out", "--test", table]
    arguments += ["--size", 32, "--iterations", 1, "--threads", 1]
    done = CliRunner().invoke(finetune.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (found["learned"], found["held_out"]["images"], found["external"]["images"]) == (24, 48, 24)
    table.write_text(table.read_text().replace(",p1,", ",p0,"))
    with pytest.raises(DataMissing, match="in more than one split"):
        finetune.read_local(table, "Cardiomegaly", 32)


def test_segmenters_are_taught_and_looked_at_after_every_filter(tmp_path: Path) -> None:
    recipe = SegmenterRecipe(iterations=1, batch=1, seeds=(1,))
    result = segmenters.compare(drawn_heads(tmp_path), recipe, {"half": lambda picture: picture / 2})
    after = {"raw", "half", *(f"Gaussian blur of {s} pixels" for s in BLURS)}
    for runs in result["segmenters"].values():
        assert {taught: set(seen) for taught, seen in runs.items()} == dict.fromkeys(TAUGHT_BY, after)
        assert runs["raw"]["raw"]["difference"] == [0, 0, 0]


def test_measures_of_a_disc_and_of_one_that_is_larger() -> None:
    distance = np.hypot(*(np.mgrid[:96, :144] - np.array([[[48]], [[72]]])))
    same, wide = (
        dict(zip(MEASURES, measures(distance <= radius, distance <= 30, 0.5), strict=True))
        for radius in (30, 33)
    )
    assert same == {"dice": 1, "iou": 1, "boundary": 0, "area": 1, "circumference": 0}
    assert wide["boundary"] == pytest.approx(1.5, abs=0.2)
    assert wide["circumference"] == pytest.approx(2 * np.pi * 1.5, rel=0.1)
