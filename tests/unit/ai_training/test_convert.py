"""Networks of others become files of ours; hostile checkpoints stay closed."""

import io
import json
import os
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find, load
from ai_pipeline.models.store import sandbox
from ai_training.base import UnreadableCheckpoint
from ai_training.conversion import convert as conversion
from ai_training.conversion import first_card, foreign
from ai_training.conversion.bundle import CARD, INFERENCE, METADATA, NETWORK
from ai_training.conversion.checkpoints import read_weights
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import add, contents, models
from tests.unit.ai_pipeline.test_cli import ROOT, pasted
from tests.unit.chests import drawn_chest


def convert(checkpoint: Path, family: str, *more: str) -> Result:
    words = ["models", "convert", str(checkpoint), "--from", family, "--out", str(checkpoint.parent), *more]
    return CliRunner().invoke(app, words)


NAMED = ("--architecture", "resnet18", "--labels", "Mass,Nodule,Other")


@pytest.mark.smoke
def test_where_no_walls_hold_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "walls", lambda: "none")
    done = convert(_bomb(tmp_path), "timm", *NAMED)
    assert done.exit_code != 0 and "Debian package bubblewrap" in " ".join(done.output.split())


@pytest.mark.smoke
@pytest.mark.usefixtures("confinement")
def test_what_a_pickle_wants_to_run_is_not_run(tmp_path: Path) -> None:
    done = convert(_bomb(tmp_path), "timm", *NAMED)
    assert done.exit_code == 65 and "holds more than numbers" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists() and not list(tmp_path.glob("*.onnx"))


def test_an_answer_that_is_a_link_or_no_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("secret", "link", "pipe", "missing"):
        with pytest.raises(CardError, match="not one"):
            conversion._answer(tmp_path / name)


def _bomb(folder: Path) -> Path:
    """A pickle that would leave a file behind if what it says were run."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {folder}/ran",)

    path = folder / "checkpoint.pt"
    torch.save({"state_dict": Bomb(), "more": Bomb()}, path, pickle_module=pickle)
    return path


def torchscript(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, its files are not gone
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def legacy_tar(path: Path) -> None:
    """The format of torch before 0.1.10, which is unpacked into a folder before any of it is read."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps({"little_endian": True} if name == "sys_info" else 0)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
@pytest.mark.parametrize("make", [torchscript, legacy_tar])
def test_a_checkpoint_that_torch_would_run_or_unpack_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "checkpoint.pt")
    for opened in ((torch.jit, "load"), (tarfile.TarFile, "extract"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(*opened, lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UnreadableCheckpoint, match=r"no checkpoint of numbers.*\(RuntimeError\)"):
        read_weights(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("new", [True, False])
def test_numbers_in_either_format_are_read(tmp_path: Path, new: bool) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "c.pt", _use_new_zipfile_serialization=new)
    assert read_weights(tmp_path / "c.pt")["weight"].tolist() == [1.0, 1.0]


@pytest.mark.smoke
def test_no_pickle_is_opened_but_by_the_reader_of_numbers() -> None:
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in ("ai_pipeline", "ai_training", "dicom_node")
        for path in (ROOT / package).rglob("*.py")
    }
    checkpoints = "ai_training/conversion/checkpoints.py"
    assert [name for name, text in texts.items() if "weights_only=False" in text or "jit.load" in text] == []
    assert checkpoints in [name for name, text in texts.items() if "read_weights(" in text]


pytestmark = pytest.mark.usefixtures("confinement")


def refused(folder: Path, *more: str | Path) -> str:
    done = convert(folder, "huggingface", *map(str, more))
    assert done.exit_code in {2, 65}, done.output
    return " ".join(done.output.replace("│", " ").split())


def test_a_converted_network_has_the_site_s_labels_and_codes(tmp_path: Path) -> None:
    folder, labels = folders.vit(tmp_path / "vit", width=12, depth=1), tmp_path / "labels.toml"
    labels.write_text(folders.MAP)
    done = convert(folder, "huggingface", "--label-map", str(labels), "--id", "vit-s", "--licence", "MIT")
    assert done.exit_code == 0, done.output
    store = tmp_path / "models"
    done = add(tmp_path / "vit-s.onnx", tmp_path / "vit-s.toml", "--models-dir", str(store))
    assert done.exit_code == 0 and "Licence: MIT" in done.output
    files = {"vit-s/1/card.toml", "vit-s/1/vit-s.onnx", "vit-s/1/origin.json"}
    assert contents(store) == {"vit-s", "vit-s/1", *files}
    card = find("vit-s", store)
    assert [label.name for label in card.labels] == ["Effusion", "Cardiomegaly", "Free air", "Pneumothorax"]
    assert [label.code.value for label in card.labels] == ["60046008", "8186001", "48661000", "36118008"]
    assert Classifier(card, threads=1).analyse(folders.picture()).logits.shape == (4,)


def test_all_mistakes_of_a_label_map_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text(
        '"Pleural Effusion" = "Efusion"\n'
        '"Enlarged heart" = "Cardiomegaly"\n'
        'Pneumothorax = "cardiomegaly"\n'
        'Pneumoperitoneum = { name = "Free air", code = { value = "12345678901234567", scheme = "SCT" } }\n'
    )
    said = refused(folders.vit(tmp_path / "vit", width=12, depth=1), "--label-map", tmp_path / "labels.toml")
    mistakes = (
        '"Pleural Effusion" = "Efusion" is none of the node\'s labels (Atelectasis, Cardiomegaly',
        'two labels become "Cardiomegaly"',
        '"Pneumoperitoneum" code.value',
        '"Pneumoperitoneum" code.meaning is missing',
    )
    assert [mistake for mistake in mistakes if mistake not in said] == [] and not list(
        tmp_path.glob("*.onnx")
    )


def test_the_label_map_in_the_documentation_works_as_pasted(tmp_path: Path) -> None:
    text = pasted("docs/models-convert.md", "toml", '"Pleural Effusion" = "Effusion"')
    (tmp_path / "labels.toml").write_text(text)
    found = first_card.read(tmp_path / "labels.toml")
    assert {name: label and label.name for name, label in found.items()} == {
        "Pleural Effusion": "Effusion",
        "Enlarged heart": "Cardiomegaly",
        "No Finding": None,
        "Pneumoperitoneum": "Free air",
    }


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    mount_commands()
    foreign.offer_torchvision_operators()


MODEL = "chest-efficientnet-lite0"


def command(*words: str | Path, fails: int = 0) -> str:
    done = models(*words)
    assert done.exit_code == fails, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifier as a bundle."""
    out = tmp_path_factory.mktemp("bundles") / "chest"
    command("bundle", MODEL, "--out", out)
    return out


def test_monai_runs_the_bundle_and_finds_what_the_node_finds(bundle: Path, tmp_path: Path) -> None:
    picture, _ = drawn_chest(260)
    cv2.imwrite(str(tmp_path / "chest.png"), picture)
    places = {"images": [str(tmp_path / "chest.png")], "output_file": str(tmp_path / "predictions.json")}
    with warnings.catch_warnings(action="ignore"):  # MONAI's, at import
        parser = pytest.importorskip("monai.bundle").ConfigParser()
        parser.read_config(str(bundle / INFERENCE))
        parser.read_meta(str(bundle / METADATA))
        parser.update({"bundle_root": str(bundle), **places})
        parser.parse()
        parser.get_parsed_content("run", eval_expr=True)
    [(_, found)] = json.loads((tmp_path / "predictions.json").read_text()).items()
    classifier = Classifier(find(MODEL), threads=1)
    assert list(found) == [label.name for label in classifier.card.labels]
    np.testing.assert_allclose(list(found.values()), classifier.analyse(picture).logits, atol=1e-4)


def test_a_bundle_comes_in_with_the_card_and_the_files_that_went_out(bundle: Path, tmp_path: Path) -> None:
    words = (bundle / NETWORK, "--card", bundle / CARD, "--accept-licence", "--models-dir", tmp_path)
    command("add", *words)
    shipped = find(MODEL)
    card = load(tmp_path / MODEL / shipped.version / "card.toml")
    ours, theirs = (
        ([part.sha256 for part in one.weights], one.labels, one.input, one.gate) for one in (card, shipped)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("metadata", "step", "why"),
    [
        ({"network_data_format": None}, "Resized", "network_data_format: Field required"),
        ({"copyright": None}, "Resized", "copyright: Field required"),
        ({}, "ScaleIntensityd", "no card can say what ScaleIntensity does"),
    ],
)
def test_a_bundle_that_no_card_can_describe_is_refused(
    bundle: Path, tmp_path: Path, metadata: dict[str, Any], step: str, why: str
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "b")
    (folder / CARD).unlink()
    facts = json.loads((folder / METADATA).read_text()) | metadata
    (folder / METADATA).write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    (folder / INFERENCE).write_text(json.dumps({"preprocessing": {"transforms": [{"_target_": step}]}}))
    assert why in command("convert", folder, "--from", "monai", "--out", tmp_path / "new", fails=65)
    assert not (tmp_path / "new").exists()


def test_a_bundle_of_others_becomes_a_model_that_reads_pictures_as_monai_does(
    bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "b")
    (folder / CARD).unlink()
    steps = [{"_target_": "monai.transforms.LoadImaged"}, {"_target_": "ScaleIntensityRanged"}]
    (folder / INFERENCE).write_text(json.dumps({"preprocessing": {"transforms": steps}}))
    words = ("--from", "monai", "--id", "theirs", "--out", tmp_path / "new")
    assert "It answers as the network before it does" in command("convert", folder, *words)
    card, shipped = load(tmp_path / "new/theirs.toml"), find(MODEL)
    assert [label.name for label in card.labels] == [label.name for label in shipped.labels]
    assert card.input is not None and shipped.input is not None and card.input.size == shipped.input.size
    pictures = np.random.default_rng(1).normal(size=(1, 3, card.input.size, card.input.size))
    turned = np.ascontiguousarray(pictures.transpose(0, 1, 3, 2)).astype(np.float32)
    ours = OnnxRuntime(card.file("classifier").path.read_bytes(), 1)(pictures.astype(np.float32))["logits"]
    theirs = OnnxRuntime((folder / NETWORK).read_bytes(), 1)(turned)["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    again = command("convert", folder, *words, "--label-map", tmp_path / "none.toml", fails=65)
    assert "cannot be read" in again
