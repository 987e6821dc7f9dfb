"""From a set as it is published to a model in the store, by the commands alone, at toy size."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ai_pipeline.chest.classifier import BoxTemplates
from ai_pipeline.cli import app, mount_commands
from ai_training.convert import NO_GATE
from ai_training.networks import timm_network
from ai_training.sets.files import rows
from ai_training.sets.images import LABELS
from tests.unit.ai_pipeline.models.store_lab import ended
from tests.unit.ai_training import published_lab as lab

CHEST = """
name = "small"
[network]
size = 64
initial = "random"
[images.chain]
side = 64
[schedule]
batch = 4
iterations = 2
"""


@pytest.fixture(scope="module", autouse=True)
def _verbs() -> None:
    mount_commands()


def command(*words: object) -> str:
    return ended(0, CliRunner().invoke(app, list(map(str, words))))


def added(card: Path, store: Path) -> dict[str, Any]:
    """The card, whose model ``ai-pipeline models add`` has taken into ``store``."""
    network = card.with_suffix(".onnx")
    command("models", "add", network, "--card", card, "--accept-licence", "--models-dir", store)
    return tomllib.loads(card.read_text())


def weights_of_others(path: Path) -> tuple[object, ...]:
    """Options that start a frozen backbone from the file of a training script, which has another head."""
    state = timm_network("test_convnext", 5, 3).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return ("--weights", path, "--weights-licence", "CC0", "--frozen")


def site_table(folder: Path) -> Path:
    """A table of a site that knows one label; no boxes."""
    columns = ("file", "patient_id", "age", "split", "Cardiomegaly")
    listed = [[row[name] for name in columns] for row in rows(lab.drawn_chest_set(folder))]
    return lab.table(folder / "site.csv", columns, listed)


@pytest.mark.parametrize(
    ("made", "labels", "boxed", "more"),
    [
        (lab.nih_download, LABELS, {"Effusion"}, ()),
        (site_table, ("Cardiomegaly",), set(), ("--no-gate",)),
        (lab.nih_download, LABELS, {"Effusion"}, ("--no-gate", "--backbone", "test_convnext")),
    ],
    ids=["nih", "table", "backbone"],
)
def test_chest_films_become_a_model_of_the_labels_that_they_have(
    made: Any, labels: tuple[str, ...], boxed: set[str], more: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(CHEST)
    how = ("--threads", "1", "--experiment", tmp_path / "small.toml", "--out", tmp_path / "run")
    if "--backbone" in more:
        more = (*more, *weights_of_others(tmp_path / "own.pt"))
    told = command("train", "chest", "--data", made(tmp_path / "set"), *how, *more)
    card_file = Path(told.splitlines()[-1])
    card = added(card_file, tmp_path / "models")
    assert b"site-packages" not in card_file.with_suffix(".onnx").read_bytes(), "names of folders here"
    known = [label["name"] for label in card["labels"]]
    assert known == list(labels)
    assert not any(label["supported"] for label in card["labels"])  # until it is evaluated
    assert card["training"]["images"] > 0
    assert card["limits"][-1].startswith(f"Taught by the set {card['training']['data'][0]}: ")
    told = " ".join(card["limits"])
    assert [words for words in ("CheXNet", "224 pixels", "lateral films of", "boxes") if words in told] == []
    assert not {"external", "usual_chest", "operating_points", "detection"} & card.keys()
    assert ("gate" in card) is (NO_GATE not in card["limits"]) is (not more)
    boxes = BoxTemplates.from_bytes(card_file.with_suffix(".boxes.npz").read_bytes())
    assert {known[label] for label in boxes.labels} == boxed
    if "--backbone" in more:
        about = {"backbone": "test_convnext", "weights": "own.pt", "licence": "CC0"}
        assert about.items() <= card["training"]["start"].items()
        assert (card["id"], card["architecture"]) == ("chest-test_convnext", "test_convnext")
        assert card["licence"] == "Apache-2.0; trunk from own.pt weights (CC0)"
    if made is lab.nih_download:
        store = ("--models-dir", tmp_path / "models")
        command("models", "activate", card["id"], *store)
        film = next((tmp_path / "set").rglob("00000015_000.png"))
        told = command("run", film, "--modality", "DX", "--pipeline", "chest_xray", "--json", *store)
        assert '"pipeline": "chest_xray"' in told


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize(
    ("kind", "made", "how", "card", "taught_by"),
    [
        ("fetal", lab.hc18, "--iterations 2 --workers 0", "fetal-head-unet", "HC18 (T. van den Heuvel"),
        (
            "ovarian",
            lambda folder: lab.otu(folder, of_each=5),
            "--epochs 0.01",
            "ovarian-efficientnet-lite0",
            "MMOTU, OTU_2d",
        ),
        ("anatomy", lab.anatomy, "--iterations 1 --workers 0", "chest-anatomy-unet", "cxr_anatomy (N. Dong"),
    ],
    ids=["HC18", "OTU", "anatomy"],
)
def test_a_published_set_alone_becomes_a_model(
    kind: str, made: Callable[[Path], Path], how: str, card: str, taught_by: str, tmp_path: Path
) -> None:
    words = ("--data", made(tmp_path / "set"), "--out", tmp_path / "run", "--threads", 1, *how.split())
    torch.manual_seed(1)  # after two steps some networks outline no head, and cannot be shipped
    command("train", kind, *words)
    found = added(tmp_path / "run" / f"{card}.toml", tmp_path / "models")
    assert found["training"]["start"]["weights"].startswith("ImageNet, of the package")
    assert found["training"]["data"][0].startswith(taught_by)
    assert kind != "ovarian" or (found["training"]["frames"], found["training"]["groups"]) == (48, 46)
