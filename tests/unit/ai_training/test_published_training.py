"""From a set as it is published to a model in the store, by the commands alone, at toy size."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("sklearn")

import torch

from ai_pipeline.chest.explain import BoxTemplates
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.networks.foreign import timm_network
from ai_training.cli.console import EXIT_DATA
from ai_training.sets.images import LABELS
from tests.unit.ai_training import published_lab as lab
from tests.unit.ai_training.nih_lab import nih_download

BACKBONE = "timm/test_convnext"
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


def command(*words: object, fails: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == fails, done.output
    return done.output


def added(card: Path, store: Path) -> dict[str, Any]:
    """The card, whose model ``ai-pipeline models add`` has taken into ``store``."""
    network = card.with_suffix(".onnx")
    command("models", "add", network, "--card", card, "--accept-licence", "--models-dir", store)
    assert "True" in command("models", "verify", "--models-dir", store)
    return tomllib.loads(card.read_text())


def on_backbone(folder: Path) -> tuple[object, ...]:
    """Options that start a training from a file with another head, as a training script leaves it."""
    torch.manual_seed(1)  # after two steps some networks outline no head, and cannot be shipped
    network = timm_network("test_convnext", 5, 3)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "own.pt")
    return ("--backbone", BACKBONE, "--weights", folder / "own.pt", "--weights-licence", "CC0")


def starts_from_the_file(card: dict[str, Any]) -> bool:
    """Whether the card says backbone, file and licence, and no folder of this machine."""
    start = card["training"]["start"]
    named = (start["backbone"], start["weights"], start["licence"]) == (BACKBONE, "own.pt", "CC0")
    return (
        named
        and BACKBONE in card["architecture"]
        and "own.pt: CC0" in card["licence"]
        and ("/own.pt" not in str(card))
    )


def trained_chest(data: Path, folder: Path, *more: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(CHEST)
    how = ("--threads", "1", "--experiment", folder / "small.toml", "--out", folder / "run")
    return Path(command("train", "chest", "--data", data, *how, *more).splitlines()[-1])


@pytest.mark.parametrize(
    ("made", "labels"),
    [
        (nih_download, LABELS),
        (lab.vindr, ("Effusion", "Pneumonia")),
        (lab.rsna, ("Pneumonia",)),
        (lab.chexpert, None),
    ],
    ids=["nih", "vindr", "rsna", "chexpert"],
)
def test_chest_films_become_a_model_of_the_labels_that_they_have(
    made: Any, labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    other = on_backbone(tmp_path) if made is lab.rsna else ()
    card_file = trained_chest(made(tmp_path / "set"), tmp_path / "new", *other)

    card = added(card_file, tmp_path / "models")
    if other:
        assert card["id"] == card_file.stem == "chest-timm-test_convnext"
        assert starts_from_the_file(card)

    known = [label["name"] for label in card["labels"]]
    assert known == list(labels or (n for n in LABELS if n in known))
    assert "Hernia" in known or made is not nih_download
    assert card["training"]["images"] > 0
    assert card["limits"][-1].startswith(f"Taught by {card['training']['data'][0]}: ")
    assert not any("CheXNet" in limit for limit in card["limits"])
    boxes = BoxTemplates.from_bytes(card_file.with_suffix(".boxes.npz").read_bytes())
    learned = {known[label] for label in boxes.labels}
    assert learned == {"nih_download": {"Effusion"}, "vindr": {"Effusion"}, "rsna": {"Pneumonia"}}.get(
        made.__name__, set()
    )
    if made is nih_download:
        store = ("--models-dir", tmp_path / "models")
        command("models", "activate", card["id"], *store)
        film = next((tmp_path / "set").rglob("00000015_000.png"))
        told = command("run", film, "--modality", "DX", "--pipeline", "chest_xray", "--json", *store)
        assert '"pipeline": "chest_xray"' in told


def test_folders_of_films_need_their_layout_named(tmp_path: Path) -> None:
    data = lab.own_folder(tmp_path / "films")

    told = command("train", "chest", "--data", data, "--out", tmp_path / "no", fails=EXIT_DATA)
    path = trained_chest(data, tmp_path / "new", "--layout", "folder")
    card = tomllib.loads(path.read_text())

    assert "Looked for public: cxr_nih/manifest.csv" in told.replace("\n", "")
    assert [label["name"] for label in card["labels"]] == ["Cardiomegaly"]
    assert len(BoxTemplates.from_bytes(path.with_suffix(".boxes.npz").read_bytes()).boxes) == 0


def test_hc18_alone_becomes_a_model_of_fetal_heads(tmp_path: Path) -> None:
    data, out = lab.hc18(tmp_path / "set"), tmp_path / "run"
    small = ("--iterations", "2", "--workers", "0", "--threads", "1")

    command("train", "fetal", "--data", data, "--out", out, *small, *on_backbone(tmp_path))

    card = added(out / "fetal-head-unet.toml", tmp_path / "models")
    assert starts_from_the_file(card)
    [heads] = card["training"]["data"]
    assert heads.startswith("HC18 (T. van den Heuvel")


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_otu_alone_becomes_a_model_of_ovaries(tmp_path: Path) -> None:
    data, out = lab.otu(tmp_path / "set", of_each=5), tmp_path / "run"

    small = ("--epochs", "0.01", "--threads", "1")
    command("train", "ovarian", "--data", data, "--out", out, *small, *on_backbone(tmp_path))

    card = added(out / "ovarian-efficientnet-lite0.toml", tmp_path / "models")
    assert starts_from_the_file(card)
    assert card["training"]["data"][0].startswith("MMOTU, OTU_2d")
    assert card["training"]["frames"] == 48
    assert card["training"]["groups"] == 46


def test_jsrt_becomes_a_model_of_heart_and_lungs(tmp_path: Path) -> None:
    data, out = lab.jsrt(tmp_path / "set", films=6), tmp_path / "run"
    small = ("--iterations", "1", "--workers", "0", "--threads", "1")

    command("train", "anatomy", "--data", data, "--out", out, *small, *on_backbone(tmp_path))

    card = added(out / "chest-anatomy-unet.toml", tmp_path / "models")
    assert starts_from_the_file(card)
    assert card["training"]["data"][0].startswith("JSRT with the masks of SCR")
