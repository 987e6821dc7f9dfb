"""``ai-pipeline split``: no patient twice, sizes as asked, every label in its share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer

pytest.importorskip("iterstrat")

from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ai_training.cli.console import verb
from ai_training.cli.measure import split
from ai_training.sets.chest import chest_set, label_matrix
from ai_training.sets.images import LABELS
from ai_training.sets.splits import SHARES, split_by_patient, table
from tests.unit.ai_training.nih_lab import nih_download

seeds = st.integers(0, 2**31 - 1)


def _clinic(seed: int, patients: int = 250) -> tuple[list[str], np.ndarray]:
    """Images of patients, a few of whom have dozens, with labels from frequent to rare."""
    random = np.random.default_rng(seed)
    films = np.minimum(random.geometric(0.4, patients), 30)
    owners = np.repeat(np.arange(patients), films)
    rates = np.array([0.5, 0.2, 0.1, 0.05])
    return [f"p{owner}" for owner in owners], (random.random((len(owners), 4)) < rates).astype(float)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_no_patient_is_in_two_splits_and_no_image_is_lost(seed: int) -> None:
    patients, truth = _clinic(seed)

    found = split_by_patient(patients, truth, SHARES, seed)

    assert len(found) == len(patients)
    assert len({(patient, name) for patient, name in zip(patients, found, strict=True)}) == len(set(patients))


@settings(max_examples=10, deadline=None)
@given(seed=seeds, val=st.sampled_from([0.1, 0.2, 0.3]))
def test_the_sizes_are_those_asked_for(seed: int, val: float) -> None:
    patients, truth = _clinic(seed)
    shares = {"train": 0.8 - val, "val": val, "test": 0.2}

    found = dict(zip(patients, split_by_patient(patients, truth, shares, seed), strict=True))

    for name, share in shares.items():
        assert sum(dealt == name for dealt in found.values()) / len(found) == pytest.approx(share, abs=0.02)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_every_label_is_close_to_its_share_in_every_split(seed: int) -> None:
    patients, truth = _clinic(seed)
    found = split_by_patient(patients, truth, SHARES, seed)

    for label in range(truth.shape[1]):
        ill = {p for p, row in zip(patients, truth, strict=True) if row[label]}
        for name, share in SHARES.items():
            here = {p for p, dealt in zip(patients, found, strict=True) if dealt == name}
            assert abs(len(ill & here) - share * len(ill)) <= max(2.0, 0.1 * len(ill)), (label, name)


def test_the_same_seed_deals_the_same_and_another_otherwise() -> None:
    patients, truth = _clinic(1)

    first = split_by_patient(patients, truth, SHARES, seed=3)

    assert split_by_patient(patients, truth, SHARES, seed=3) == first
    assert split_by_patient(patients, truth, SHARES, seed=4) != first


def test_a_share_of_nothing_stays_empty() -> None:
    patients, truth = _clinic(2)

    assert "test" not in split_by_patient(patients, truth, {"train": 0.7, "val": 0.3, "test": 0.0}, 1)


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_patient(["a", "b"], np.ones((2, 1)), {"train": 0.7, "val": 0.2}, 1)


def test_the_verb_writes_a_manifest_that_is_read_again(tmp_path: Path) -> None:
    download, out = nih_download(tmp_path / "nih"), tmp_path / "lists" / "splits.csv"

    done = _run("--data", download, "--out", out)
    again = chest_set(out)

    assert done.exit_code == 0, done.output
    assert [i.path.resolve() for i in again.images] == [i.path.resolve() for i in chest_set(download).images]
    assert {image.split for image in again.images} == {"train", "val", "test"}
    assert np.array_equal(label_matrix(again.images), label_matrix(chest_set(download).images))
    assert sum(not image.adult for image in again.images) == 6  # 414 years are still unknown
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    counted = table(again.images, [image.split for image in again.images], LABELS)
    assert rows["Effusion"] == [str(number) for number in counted["Effusion"].values()]
    assert rows["patients"] == [str(number) for number in counted["patients"].values()]


def test_the_verb_does_not_replace_a_manifest_unless_told_to(tmp_path: Path) -> None:
    download, out = nih_download(tmp_path / "nih", patients=8), tmp_path / "splits.csv"
    out.write_text("precious")

    refused = _run("--data", download, "--out", out)
    assert (refused.exit_code, out.read_text()) == (66, "precious")
    assert "--force" in refused.output

    assert _run("--data", download, "--out", out, "--force").exit_code == 0
    assert out.read_text() != "precious"


def test_the_verb_refuses_shares_that_are_none(tmp_path: Path) -> None:
    download = nih_download(tmp_path / "nih", patients=8)

    refused = _run("--data", download, "--out", tmp_path / "s.csv", "--train", "0.9")

    assert refused.exit_code == 2
    assert not (tmp_path / "s.csv").exists()


def _run(*arguments: object) -> Result:
    app = typer.Typer()
    verb(app, "split")(split)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
