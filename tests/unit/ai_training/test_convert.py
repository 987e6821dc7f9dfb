"""Networks of others become files of ours; hostile checkpoints stay closed."""

import io
import json
import os
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find, network_input
from ai_pipeline.models.store import sandbox
from ai_training import convert as conversion
from ai_training.base import UnreadableCheckpoint
from ai_training.chest.card import export_onnx
from ai_training.evaluation import classifier
from ai_training.networks import PlacedClassifier, offer_torchvision_operators, read_weights, timm_network
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, ended, run_quietly
from tests.unit.ai_pipeline.pasted import ROOT


def convert(checkpoint: Path, *more: str) -> Result:
    words = ["models", "convert", str(checkpoint), "--out", str(checkpoint.parent), *more]
    return CliRunner().invoke(app, words)


NAMED = ("--architecture", "resnet18", "--labels", "Mass,Nodule,Other")


@pytest.mark.smoke
def test_where_no_walls_hold_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "walls", lambda: "none")
    done = convert(_bomb(tmp_path), *NAMED)
    assert done.exit_code != 0
    assert "Debian package bubblewrap" in " ".join(done.output.split())


@pytest.mark.smoke
def test_what_a_pickle_wants_to_run_is_not_run(tmp_path: Path) -> None:
    done = convert(_bomb(tmp_path), *NAMED)
    assert done.exit_code == 65
    assert "holds more than numbers" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("*.onnx"))


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
    checkpoints = "ai_training/networks.py"
    assert [name for name, text in texts.items() if "weights_only=False" in text or "jit.load" in text] == []
    assert checkpoints in [name for name, text in texts.items() if "read_weights(" in text]


pytestmark = pytest.mark.usefixtures("confinement")


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    mount_commands()
    offer_torchvision_operators()


# Whole networks say the same through their files, and the shipped classifier has the figures of its card.
# Full-size networks of other projects: of them `make test` converts a small one.


def test_a_network_of_timm_says_the_same_through_its_converted_file(tmp_path: Path) -> None:
    run_quietly("-m", "tests.unit.ai_training.foreign_checkpoints", "timm", tmp_path)
    with np.load(tmp_path / "expected.npz") as arrays:
        shown, wanted, [outputs] = (arrays[name] for name in ("image", "input", "scores"))
    ended(0, convert(tmp_path / "checkpoint.pth", *NAMED))
    card = find("timm-resnet18", tmp_path)
    assert [label.name for label in card.labels] == ["Mass", "Nodule", "Other"]
    assert not card.calibrated
    assert not any(label.supported for label in card.labels)
    assert card.input is not None
    # Of levels, of which a grey one is .017.
    np.testing.assert_allclose(network_input(shown, card.input)[0], wanted, atol=0.02)
    np.testing.assert_allclose(Classifier(card, threads=1).analyse(shown).logits, outputs, atol=2e-3)
    assert np.ptp(outputs) > 0.1  # else the comparison says nothing


def test_a_folder_that_timm_wrote_is_converted_as_it_says(tmp_path: Path) -> None:
    network, folder = timm_network("test_vit", 2, 1), tmp_path / "vit"
    folder.mkdir()
    about = {"input_size": (1, 160, 160), "mean": (0.5,), "std": (0.25,), "crop_pct": 0.9}
    config = {"architecture": "test_vit", "pretrained_cfg": about, "label_names": ["Effusion", "Other one"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert "model.safetensors is missing" in ended(65, convert(folder))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    ended(0, convert(folder, "--softmax", "--id", "vit", "--licence", "MIT"))
    card = find("vit", tmp_path)
    assert [label.code.value for label in card.labels] == ["60046008", "OTHER_ONE"]
    assert (card.outputs.kind, card.licence) == ("probabilities", "MIT")
    assert (card.input.mean, card.input.scale, card.input.crop) == ((127.5,), (63.75,), 0.9)
    (folder / "config.json").write_text("{}")
    assert "architecture and pretrained_cfg" in ended(65, convert(folder))


def test_a_classifier_with_fewer_labels_is_exported_as_it_is(tmp_path: Path) -> None:
    network = PlacedClassifier(4, 64).eval()
    narrow, images = network.narrowed([2, 0]), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, every = [part.numpy() for part in narrow(images)], network(images)[0].numpy()
    export_onnx(narrow, 64, tmp_path / "network.onnx")
    found = OnnxRuntime((tmp_path / "network.onnx").read_bytes(), 1)(images.numpy())
    for output, wanted in zip(("logits", "features", "places"), expected, strict=True):
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)
    np.testing.assert_allclose(expected[0], every[:, [2, 0]], atol=1e-5)
    assert expected[2].shape == (3, 2, 4, 4)
    assert np.ptp(expected[0]) > 0


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "gate_figures", lambda *_, **__: {})  # is not compared
    monkeypatch.setattr(classifier.metrics, "calibration", lambda *_, **__: {})
    result = classifier.evaluate_chest(data, "test", cache=tmp_path)
    main, card = result["main"], find(SHIPPED).details["metrics"]
    assert main["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    for label, auc in {row["label"]: row["auc"] for row in main["labels"] if row["positives"] >= 15}.items():
        assert auc == pytest.approx(card["labels"][label]["auc"], abs=0.01)
    assert (main["images"], result["with_children"]["images"]) == (151, 160)
    assert main["difference_to_hog"][1] > 0
    assert result["boxes"]["pointing"]["difference"][0] > 0
    assert result["permuted_labels"][0] == pytest.approx(0.5, abs=0.01)
    assert result["probes"]["source"]["pooled_auc"]["Pneumonia"] > 0.9
    more = next(row for row in result["sources"] if row["source"] == "cxr_nih_more/images")
    assert "Pneumonia" in more["left_out"]
    assert "Pneumonia" not in more["labels"]
    assert result["teacher"]["sources"]["cxr_nih/images"]["images"] == 85  # of the 91, six are children
