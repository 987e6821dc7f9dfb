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
from torch.export import Dim
from typer.testing import CliRunner, Result

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, mount_commands
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find, load
from ai_pipeline.models.store import sandbox
from ai_training.base import UnreadableCheckpoint
from ai_training.cards import export
from ai_training.chest.ship import export_onnx
from ai_training.conversion import convert as conversion
from ai_training.conversion import first_card, foreign
from ai_training.conversion.bundle import CARD, INFERENCE, METADATA, NETWORK
from ai_training.conversion.checkpoints import read_weights
from ai_training.evaluation import evaluate
from ai_training.networks.backbones import StartWeights, classifier
from ai_training.networks.outlines import HeadNetwork, Probabilities, outline_network
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, add, contents, ended, models, run_quietly
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


def test_all_mistakes_of_a_label_map_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text(
        '"Pleural Effusion" = "Efusion"\n'
        '"Enlarged heart" = "Cardiomegaly"\n'
        'Pneumothorax = "cardiomegaly"\n'
        'Pneumoperitoneum = { name = "Free air", code = { value = "12345678901234567", scheme = "SCT" } }\n'
    )
    folder = folders.vit(tmp_path / "vit", width=12, depth=1)
    done = convert(folder, "huggingface", "--label-map", str(tmp_path / "labels.toml"))
    assert done.exit_code in {2, 65}, done.output
    said = " ".join(done.output.replace("│", " ").split())
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


def command(*words: str | Path, fails: int = 0) -> str:
    return " ".join(ended(fails, models(*words)).split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifier as a bundle."""
    out = tmp_path_factory.mktemp("bundles") / "chest"
    command("bundle", SHIPPED, "--out", out)
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
    classifier = Classifier(find(SHIPPED), threads=1)
    assert list(found) == [label.name for label in classifier.card.labels]
    np.testing.assert_allclose(list(found.values()), classifier.analyse(picture).logits, atol=1e-4)


def test_a_bundle_comes_in_with_the_card_and_the_files_that_went_out(bundle: Path, tmp_path: Path) -> None:
    words = (bundle / NETWORK, "--card", bundle / CARD, "--accept-licence", "--models-dir", tmp_path)
    command("add", *words)
    shipped = find(SHIPPED)
    card = load(tmp_path / SHIPPED / shipped.version / "card.toml")
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
    card, shipped = load(tmp_path / "new/theirs.toml"), find(SHIPPED)
    assert [label.name for label in card.labels] == [label.name for label in shipped.labels]
    assert card.input is not None and shipped.input is not None and card.input.size == shipped.input.size
    pictures = np.random.default_rng(1).normal(size=(1, 3, card.input.size, card.input.size))
    turned = np.ascontiguousarray(pictures.transpose(0, 1, 3, 2)).astype(np.float32)
    ours = OnnxRuntime(card.file("classifier").path.read_bytes(), 1)(pictures.astype(np.float32))["logits"]
    theirs = OnnxRuntime((folder / NETWORK).read_bytes(), 1)(turned)["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    again = command("convert", folder, *words, "--label-map", tmp_path / "none.toml", fails=65)
    assert "cannot be read" in again


# Whole networks say the same through their files, and the shipped classifier has the figures of its card.
# Full-size networks of other projects: of them `make test` converts a small one.

RANDOM = StartWeights("random")
VIT = (4.13851, -1.70189, -1.95903, 2.39544, 0.59395)


def test_a_network_of_timm_says_the_same_through_its_converted_file(tmp_path: Path) -> None:
    run_quietly("-m", "tests.unit.ai_training.foreign_checkpoints", "timm", tmp_path)
    with np.load(tmp_path / "expected.npz") as arrays:
        shown, wanted, [outputs] = (arrays[name] for name in ("image", "input", "scores"))
    ended(0, convert(tmp_path / "checkpoint.pth", "timm", *NAMED))
    card = find("timm-resnet18", tmp_path)
    assert [label.name for label in card.labels] == ["Mass", "Nodule", "Other"]
    assert not card.calibrated and not any(label.supported for label in card.labels)
    assert card.input is not None
    # Of levels, of which a grey one is .017.
    np.testing.assert_allclose(network_input(shown, card.input)[0], wanted, atol=0.02)
    np.testing.assert_allclose(Classifier(card, threads=1).analyse(shown).logits, outputs, atol=2e-3)
    assert np.ptp(outputs) > 0.1  # else the comparison says nothing


def test_a_vit_of_transformers_says_the_same_with_the_site_s_labels_and_codes(tmp_path: Path) -> None:
    folder, labels, store = folders.vit(tmp_path / "vit"), tmp_path / "labels.toml", tmp_path / "models"
    labels.write_text(folders.MAP)
    how = ("--label-map", str(labels), "--id", "vit-s", "--licence", "MIT")
    ended(0, convert(folder, "huggingface", *how))
    added = add(tmp_path / "vit-s.onnx", tmp_path / "vit-s.toml", "--models-dir", str(store))
    assert "Licence: MIT" in ended(0, added)
    files = {"vit-s/1/card.toml", "vit-s/1/vit-s.onnx", "vit-s/1/origin.json"}
    assert contents(store) == {"vit-s", "vit-s/1", *files}
    card = find("vit-s", store)
    assert [label.name for label in card.labels] == ["Effusion", "Cardiomegaly", "Free air", "Pneumothorax"]
    assert [label.code.value for label in card.labels] == ["60046008", "8186001", "48661000", "36118008"]
    found = Classifier(card, threads=1).analyse(folders.picture())
    np.testing.assert_allclose(found.logits, np.delete(VIT, 2), atol=1e-3)


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/test_vit"])
def test_a_classifier_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    network = classifier(name, RANDOM, 4, 64).eval()
    narrow, images = network.narrowed([2, 0]), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, every = [part.numpy() for part in narrow(images)], network(images)[0].numpy()
    export_onnx(narrow, 64, tmp_path / "network.onnx")
    found = OnnxRuntime((tmp_path / "network.onnx").read_bytes(), 1)(images.numpy())
    for output, wanted in zip(("logits", "features", "places"), expected, strict=True):
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)
    np.testing.assert_allclose(expected[0], every[:, [2, 0]], atol=1e-5)
    assert expected[2].shape == (3, 2, 4, 4) and np.ptp(expected[0]) > 0


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_vit"])
def test_an_outline_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    graph = Probabilities(HeadNetwork(outline_network(name, RANDOM, 1, 64, 96))).eval()
    images, shapes = torch.randn(2, 3, 64, 96), {"images": {0: Dim("pictures", max=16)}}
    with torch.inference_mode():
        expected = dict(zip(("head", "present"), (part.numpy() for part in graph(images)), strict=True))
    export(graph, (images,), shapes, ("head", "present"), tmp_path / "head.onnx")
    found = OnnxRuntime((tmp_path / "head.onnx").read_bytes(), 1)(images.numpy())
    assert expected["head"].shape == (2, 64, 96)
    for output, wanted in expected.items():
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "gate_figures", lambda *_, **__: {})  # is not compared
    monkeypatch.setattr(evaluate.calibration, "calibration", lambda *_, **__: {})
    result = evaluate.evaluate_chest(data, "test", cache=tmp_path)
    main, card = result["main"], find(SHIPPED).details["metrics"]
    assert main["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    for label, auc in {row["label"]: row["auc"] for row in main["labels"] if row["positives"] >= 15}.items():
        assert auc == pytest.approx(card["labels"][label]["auc"], abs=0.01)
    assert (main["images"], result["with_children"]["images"]) == (151, 160)
    assert main["difference_to_hog"][1] > 0 and result["boxes"]["pointing"]["difference"][0] > 0
    assert result["permuted_labels"][0] == pytest.approx(0.5, abs=0.01)
    assert result["probes"]["source"]["pooled_auc"]["Pneumonia"] > 0.9
    more = next(row for row in result["sources"] if row["source"] == "cxr_nih_more/images")
    assert "Pneumonia" in more["left_out"] and "Pneumonia" not in more["labels"]
    assert result["teacher"]["sources"]["cxr_nih/images"]["images"] == 85  # of the 91, six are children
