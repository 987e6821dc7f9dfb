"""Study files: every arm differs by what it says; images are dealt out as it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from ai_training.errors import DataMissing, ExperimentError
from ai_training.studies import experiment
from ai_training.studies.alter import altered
from ai_training.studies.experiment import Alteration, Arm, ChestStudy, Split, Task
from ai_training.studies.material import StudyMaterial
from tests.unit.ai_training.drawn_chests import drawn_chest_set

SHIPPED = sorted(experiment.SHIPPED.glob("*.toml"))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> StudyMaterial:
    folder = tmp_path_factory.mktemp("drawn")
    study = ChestStudy(name="x", arms=(Arm(network=experiment.StudyNetwork(size=32)),))
    return StudyMaterial.gather(drawn_chest_set(folder), study, folder / "cache")


def patients(material: StudyMaterial, rows: np.ndarray) -> Counter[str]:
    return Counter(material.images[row].patient for row in rows)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_arm_of_a_shipped_study_differs_from_the_one_it_is_compared_with(path: Path) -> None:
    arms = {arm.name: arm for arm in experiment.load(path).arms}
    for arm in arms.values():
        if arm.against:
            same = {"name": "", "against": "", "block": ""}
            assert arm.model_copy(update=same) != arms[arm.against].model_copy(update=same)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_full_length_of_a_shipped_study_has_the_same_arms_for_longer(path: Path) -> None:
    short, full = experiment.load(path), experiment.load(path, full=True)
    assert [arm.name for arm in full.arms] == [arm.name for arm in short.arms]
    for one, other in zip(short.arms, full.arms, strict=True):
        assert other.lesson.iterations > 10 * one.lesson.iterations
        assert other.network.architecture == one.network.architecture


def test_every_shipped_study_has_a_row_among_the_works_that_are_repeated() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "studies" / "README.md").read_text("utf-8")
    assert [path.stem for path in SHIPPED if f"`ai-pipeline study {path.stem}`" not in page] == []


def test_a_study_of_one_length_has_no_full_one(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[arms.a]\n")
    with pytest.raises(ExperimentError, match="no table \\[full\\]"):
        experiment.load(path, full=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[base.lesson]\niteration = 3\n[arms.a]\n", "iteration"),
        ("[arms.a]\nagainst = 'b'\n", "no arm"),
        ("[basis]\n", "basis"),
        ("[arms.a.split]\ntrain = 1.5\n", "train"),
        ("[", "not TOML"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=why):
        experiment.load(path)


def test_arms_without_their_weights_are_left_out_with_those_that_need_them(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        "[arms.plain]\n[arms.file]\nnetwork = { initial = 'own.pt' }\n"
        "[arms.after]\nnetwork = { initial = 'arm:file' }\n[arms.beside]\nagainst = 'file'\n"
    )
    study = experiment.load(tmp_path / "study.toml")

    left_out = study.without_weights(tmp_path)

    assert set(left_out) == {"file", "after", "beside"}
    assert "own.pt" in left_out["file"]
    assert [arm.name for arm in study.without(left_out).arms] == ["plain"]
    (tmp_path / "own.pt").touch()
    assert study.without_weights(tmp_path) == {}
    with pytest.raises(ExperimentError, match="no arm"):
        study.without([arm.name for arm in study.arms])


def test_given_splits_are_those_of_the_manifest(material: StudyMaterial) -> None:
    train, test = material.rows(Arm())
    assert {material.images[row].split for row in train} == {"train"}
    assert {material.images[row].split for row in test} == {"test"}


def test_no_patient_is_learned_from_and_measured_on_unless_an_arm_says_so(material: StudyMaterial) -> None:
    for split, shared in (
        (Split(by="image", shared_patients=True), True),
        (Split(by="image", shared_patients=False), False),
        (Split(by="patient"), False),
    ):
        train, test = material.rows(Arm(split=split))
        assert not set(train) & set(test)
        assert bool(patients(material, train).keys() & patients(material, test).keys()) is shared


def test_arms_that_share_patients_or_not_are_measured_on_the_same_images(material: StudyMaterial) -> None:
    kinds = (Split(by="image"), Split(by="image", shared_patients=False, per_patient=1))
    (_, one), (train, other) = (material.rows(Arm(split=split)) for split in kinds)
    assert one.tolist() == other.tolist()
    assert max(patients(material, train).values()) == 1


def test_limits_are_kept_and_an_arm_without_images_is_refused(material: StudyMaterial) -> None:
    task = Task(labels=("Cardiomegaly",), against_normal=True, normals=3, positives=2)
    train, _ = material.rows(Arm(task=task))
    assert material.labels(task)[train].sum() == 2
    assert len(train) == 5
    train, _ = material.rows(Arm(split=Split(by="image", most=7)))
    assert len(train) == 7
    with pytest.raises(DataMissing, match="0 images"):
        material.rows(Arm(split=Split(by="patient", train=0.0)))


@pytest.mark.parametrize("name", [name for name in Alteration.model_fields if name != "mixup"])
def test_each_alteration_alters_and_none_does_not(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    how = {"rotation": 5.0, "blur": 2.0, "noise": 20.0}.get(name, 0.2 if "flip" not in name else True)
    many = [altered(image, Alteration(**{name: how}), np.random.default_rng(k)) for k in range(8)]
    assert any((one != image).any() for one in many)
    assert (altered(image, Alteration(), np.random.default_rng(0)) == image).all()
