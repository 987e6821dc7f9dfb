"""Fine-tuning on a site's table: what it takes, what it refuses, what it starts from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from ai_training.cli.console import verb
from ai_training.cli.study import finetune as command
from ai_training.errors import DataMissing, ExperimentError
from ai_training.networks.studies import fill, study_network
from ai_training.studies.finetune import dealt_out, finetune, read_local
from tests.unit.ai_training.drawn_chests import drawn_chest_set


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_chest_set(tmp_path_factory.mktemp("local"))


def changed(table: Path, name: str, change: dict[str, str | None]) -> Path:
    """The table with columns replaced (None: taken out), beside it."""
    with table.open(newline="") as file:
        merged = [row | change for row in csv.DictReader(file)]
    found = [{key: value for key, value in row.items() if value is not None} for row in merged]
    path = table.with_name(name)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        writer.writerows(found)
    return path


def test_the_verb_measures_on_held_out_patients_and_on_another_set(table: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    verb(app, "finetune")(command)
    arguments = ["--labels", table, "--target", "Cardiomegaly", "--out", tmp_path, "--test", table]
    arguments += ["--size", 32, "--iterations", 1, "--threads", 1]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["learned"], found["held_out"]["images"], found["external"]["images"]) == (24, 48, 24)
    assert found["held_out"]["auc"]["low"] <= found["held_out"]["auc"]["value"]

    start = str(tmp_path / "best.pt")
    whole = changed(table, "whole.csv", {"split": None})
    again = finetune(
        table,
        "Cardiomegaly",
        tmp_path / "again",
        weights=start,
        size=32,
        iterations=1,
        threads=1,
        external=whole,
    )
    assert again.external is not None and again.external.images == 72


def test_a_patient_in_two_splits_is_refused(table: Path) -> None:
    torn = changed(table, "torn.csv", {"patient_id": "P0"})
    with pytest.raises(DataMissing, match="1 patients are in more than one split"):
        read_local(torn, "Cardiomegaly", 32)


def test_labels_may_be_words_and_patients_are_dealt_out_where_there_are_no_splits(table: Path) -> None:
    words = changed(table, "words.csv", {"Edema": None, "split": None, "labels": "Edema, mild|Mass"})
    material = dealt_out(read_local(words, "Edema", 32))
    assert material.truth.all()
    patients: dict[str, set[str]] = {}
    for image in material.images:
        patients.setdefault(image.patient, set()).add(image.split)
    assert all(len(splits) == 1 for splits in patients.values())
    assert set.union(*patients.values()) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"Edema": "2"}, "0 and 1"),
        ({"Edema": None}, "no column Edema"),
        ({"patient_id": None}, "no column patient_id"),
        ({"Edema": "0"}, "too few"),
        ({"file": "missing.png"}, "not an image"),
    ],
)
def test_a_table_that_cannot_be_learned_from_is_refused(
    table: Path, tmp_path: Path, change: dict[str, str | None], why: str
) -> None:
    with pytest.raises(DataMissing, match=why):
        finetune(changed(table, "bad.csv", change), "Edema", tmp_path, size=32, iterations=1)


def test_weights_are_taken_over_but_for_another_head_and_refused_of_another_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    many = study_network("resnet18", "random", 14, 32)
    torch.save(many.state_dict(), tmp_path / "many.pt")
    one = study_network("resnet18", "random", 1, 32)
    head = one.state_dict()["fc.weight"].clone()
    fill(one, "resnet18", tmp_path / "many.pt")
    assert torch.equal(one.state_dict()["conv1.weight"], many.state_dict()["conv1.weight"])
    assert torch.equal(one.state_dict()["fc.weight"], head)

    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ExperimentError,
        match=r"other\.safetensors does not hold .*: 100 of .*1 are not known",
    ):
        fill(one, "resnet18", tmp_path / "other.safetensors")
    with pytest.raises(DataMissing, match="missing"):
        fill(one, "resnet18", tmp_path / "nothing.pt")
    with pytest.raises(ExperimentError, match="no classifier"):
        study_network("no_such_network", "random", 1, 32)
