"""From images as somebody has them to a finding: train, export, add, activate, run, each by its command."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from ai_pipeline.chest.explain import BoxTemplates
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.networks.efficientnet import PlacedClassifier
from ai_training.chest.experiment import Experiment
from ai_training.chest.export import ID
from ai_training.chest.places import fit_places
from ai_training.sets.chest import chest_images, truth_boxes
from ai_training.sets.images import LABELS
from tests.unit.ai_training.nih_lab import nih_download

SMALL = """
name = "small"
[network]
size = 64
initial = "random"
[images.chain]
side = 64
[schedule]
batch = 4
iterations = 3
"""


@pytest.fixture(scope="module", autouse=True)
def _verbs() -> None:
    mount_commands()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The NIH download in a few films, with a box on each film of training."""
    download = nih_download(tmp_path / "nih", patients=16)
    films = (download / "train_val_list.txt").read_text().split()
    with (download / "BBox_List_2017.csv").open("a") as file:
        file.writelines(f"{film},Effusion,102.4,512.0,204.8,256.0,,,\n" for film in films)
    return download


def own_manifest(download: Path) -> Path:
    """The same films as a site may list them: a CSV file elsewhere, without boxes."""
    with (download / "Data_Entry_2017.csv").open() as file:
        listed = list(csv.DictReader(file))
    manifest = download.parent / "ours.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_id", "age", "labels", "split"])
        for number, row in enumerate(listed):
            patient = int(row["Patient ID"])
            name = f"{download.name}/images_{1 + patient % 2:03d}/images/{row['Image Index']}"
            split = ("train", "train", "val", "test")[patient % 4]
            writer.writerow([name, patient, 30 + number % 50, row["Finding Labels"], split])
    return manifest


def command(*words: str | Path) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def trained(data: Path, folder: Path) -> Path:
    """What ``ai-pipeline train chest`` leaves."""
    folder.mkdir()
    (folder / "small.toml").write_text(SMALL)
    experiment, out = folder / "small.toml", folder / "run"
    told = command(
        "train", "chest", "--data", data, "--threads", "1", "--experiment", experiment, "--out", out
    )
    assert str(out / f"{ID}.toml") in told
    return out


def made(folder: Path) -> dict[str, object]:
    """The card in ``folder``, whose weights are all there."""
    card = tomllib.loads((folder / f"{ID}.toml").read_text())
    assert [label["name"] for label in card["labels"]] == list(LABELS)
    assert all((folder / weights["file"]).is_file() for weights in card["weights"])
    return card


def test_the_download_as_it_is_published_becomes_a_model_that_runs(published: Path, tmp_path: Path) -> None:
    run, exported, models_dir = trained(published, tmp_path / "new"), tmp_path / "out", tmp_path / "models"
    assert made(run)["training"]["images"] > 0  # type: ignore[index]
    learned = BoxTemplates.from_bytes((run / f"{ID}.boxes.npz").read_bytes())
    np.testing.assert_allclose(learned.boxes[-1], [0.1, 0.5, 0.3, 0.75], atol=1e-3)  # of 1,024 pixels

    command("export", "--data", published, "--run", run, "--out", exported, "--threads", "1")
    made(exported)
    store = ("--models-dir", models_dir)
    network, card = exported / f"{ID}.onnx", exported / f"{ID}.toml"
    command("models", "add", network, "--card", card, "--accept-licence", *store)
    command("models", "activate", ID, *store)
    film = next(published.rglob("00000015_000.png"))
    told = command("run", film, "--modality", "DX", "--pipeline", "chest_xray", "--json", *store)
    [answer] = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert answer["pipeline"] == "chest_xray"


def test_a_manifest_of_ones_own_becomes_a_model_without_boxes(published: Path, tmp_path: Path) -> None:
    run = trained(own_manifest(published), tmp_path / "new")
    made(run)
    assert len(BoxTemplates.from_bytes((run / f"{ID}.boxes.npz").read_bytes()).boxes) == 0


def test_a_download_in_one_folder_without_boxes_leaves_every_place_flat(tmp_path: Path) -> None:
    download = nih_download(tmp_path / "nih", patients=8, archives=False)
    (download / "Data_Entry_2017.csv").rename(download / "Data_Entry_2017_v2020.csv")
    (download / "BBox_List_2017.csv").unlink()
    assert (len(chest_images(download)), truth_boxes(download)) == (16, ())
    network = PlacedClassifier(len(LABELS), 64, 0.0)
    assert len(fit_places(network, download, Experiment()).boxes) == 0
    assert not network.place.weight.any()
    assert not network.place_bias.any()
