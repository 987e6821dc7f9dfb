"""A folder in Hugging Face's layout becomes a model that answers as transformers does, with the site's
labels.

The expected answers are those of transformers 4.57.6 with its own image processors, for the folders that
``huggingface_folders`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomlkit
import torch

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CannotAdapt, CardError, UnreadableCheckpoint
from ai_pipeline.models.registry import find
from ai_pipeline.models.store import label_map
from ai_pipeline.networks import huggingface
from ai_pipeline.networks.adapted import NetworkDescription
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import contents, models, sha256
from tests.unit.ai_pipeline.test_cli import pasted

DINOV2 = 0.29645 + 1.31557  # log odds of the first label
VIT = (4.13851, -1.70189, -1.95903, 2.39544, 0.59395)
DESCRIBED = NetworkDescription("huggingface")
pytestmark = pytest.mark.usefixtures("confinement")


def add(folder: Path, *more: str | Path) -> str:
    done = models("add", folder, "--accept-licence", *more)
    assert done.exit_code == 0, done.output
    return done.output


def refused(folder: Path, *more: str | Path) -> str:
    done = models("add", folder, "--accept-licence", *more)
    assert done.exit_code in {2, 65}, done.output
    return " ".join(done.output.replace("│", " ").split())


def test_a_vit_of_transformers_says_the_same_with_the_site_s_labels(store: Path, tmp_path: Path) -> None:
    folder = folders.vit(tmp_path / "vit")
    (tmp_path / "labels.toml").write_text(folders.MAP)

    digest = sha256(folder / "model.safetensors")

    said = add(
        folder,
        "--label-map",
        tmp_path / "labels.toml",
        "--id",
        "vit-s",
        "--licence",
        "MIT",
        "--sha256",
        digest,
    )

    assert "Licence: MIT" in said
    assert contents(store) == {
        "vit-s",
        "vit-s/1",
        "vit-s/1/card.toml",
        "vit-s/1/vit-s.onnx",
        "vit-s/1/origin.json",
    }
    assert json.loads((store / "vit-s/1/origin.json").read_text())["source"] == "vit"
    card = find("vit-s", store)
    assert [label.name for label in card.labels] == ["Effusion", "Cardiomegaly", "Free air", "Pneumothorax"]
    assert [label.code.value for label in card.labels] == ["60046008", "8186001", "48661000", "36118008"]
    found = Classifier(card, threads=1).analyse(folders.picture())
    np.testing.assert_allclose(found.logits, np.delete(VIT, 2), atol=1e-3)


def test_dinov2_is_used_at_another_size_than_it_was_trained_at(tmp_path: Path) -> None:
    adapted = huggingface.adapt(folders.dinov2(tmp_path / "dinov2"), DESCRIBED)

    assert adapted.kind == "probabilities"  # its labels exclude one another
    values = folders.network_input_of(adapted, folders.picture())
    with torch.inference_mode():
        chances = adapted.network(torch.from_numpy(values))[0][0]
    np.testing.assert_allclose(chances.logit(), (DINOV2, -DINOV2), atol=2e-3)


def test_all_mistakes_of_a_label_map_are_named_at_once(store: Path, tmp_path: Path) -> None:
    folder = folders.vit(tmp_path / "vit", width=12, depth=1)
    (tmp_path / "labels.toml").write_text(
        '"Pleural Effusion" = "Efusion"\n'
        '"Enlarged heart" = "Cardiomegaly"\n'
        'Pneumothorax = "cardiomegaly"\n'
        'Pneumoperitoneum = { name = "Free air", code = { value = "12345678901234567", scheme = "SCT" } }\n'
    )

    said = refused(folder, "--label-map", tmp_path / "labels.toml")

    for mistake in (
        '"Pleural Effusion" = "Efusion" is none of the node\'s labels (Atelectasis, Cardiomegaly',
        'two labels become "Cardiomegaly"',
        '"Pneumoperitoneum" code.value',
        '"Pneumoperitoneum" code.meaning is missing',
    ):
        assert mistake in said
    assert contents(store) == set()


def test_labels_that_map_and_model_do_not_share_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('"Pleural Effusion" = "Effusion"\nTube = "Mass"\n')

    with pytest.raises(CardError) as refusal:
        label_map.check(label_map.read(tmp_path / "labels.toml"), folders.LABELS)

    said = str(refusal.value)
    assert 'names "Tube", the model has no such label: it has Pleural Effusion, Enlarged heart' in said
    for name in ("Enlarged heart", "No Finding", "Pneumoperitoneum", "Pneumothorax"):
        assert f'does not name "{name}"' in said


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("Effusion", "is not TOML"),
        ("", "holds no label"),
        ('"a" = 3', '"a"'),
        ("#" * ((1 << 20) + 1), "larger than 1 MiB"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_what_is_no_label_map_is_refused_with_what_to_do(tmp_path: Path, content: str, remedy: str) -> None:
    (tmp_path / "labels.toml").write_text(content)

    with pytest.raises(CardError, match=remedy):
        label_map.read(tmp_path / "labels.toml")


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "@x", "A\nB", "Nowak^Anna", "A\u0000B", ""])
@pytest.mark.parametrize("key", ["name", "meaning"])
def test_a_label_whose_text_results_may_not_show_is_refused(tmp_path: Path, key: str, text: str) -> None:
    code = {"value": "1", "scheme": "99X", "meaning": "Cyst"}
    label = {"name": "Cyst", "code": code} | ({key: text} if key == "name" else {"code": code | {key: text}})
    (tmp_path / "labels.toml").write_text(tomlkit.dumps({"a": label}))
    with pytest.raises(CardError, match=key):
        label_map.read(tmp_path / "labels.toml")


def test_the_label_map_in_the_documentation_works_as_pasted(tmp_path: Path) -> None:
    text = pasted("docs/models-convert.md", "toml", '"Pleural Effusion" = "Effusion"')
    (tmp_path / "labels.toml").write_text(text)

    found = label_map.read(tmp_path / "labels.toml")

    assert {name: label and label.name for name, label in found.items()} == {
        "Pleural Effusion": "Effusion",
        "Enlarged heart": "Cardiomegaly",
        "No Finding": None,
        "Pneumoperitoneum": "Free air",
    }


def test_names_that_say_nothing_need_a_label_map() -> None:
    with pytest.raises(CardError, match="say what they are with --label-map FILE"):
        label_map.refuse_placeholders(("LABEL_0", "LABEL_1"))


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pytorch_model.bin is a pickle, and a pickle is code: save the model with",
        ),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_bytes(b" " * ((1 << 20) + 1)), "larger than 1 MiB"),
        (lambda f: (f / "model.safetensors.index.json").touch(), "save them again in one"),
    ],
)
def test_a_folder_without_the_files_of_a_model_is_refused(
    store: Path, tmp_path: Path, spoil: Callable[[Path], object], remedy: str
) -> None:
    spoil(folder := folders.vit(tmp_path / "vit", width=12, depth=1))

    assert remedy in refused(folder)
    assert contents(store) == set()


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "holds no table"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), "is not safetensors"),
        (lambda f: folders.change(f, "config.json", model_type="swin"), "taken are vit, dinov2"),
        (lambda f: folders.change(f, "config.json", problem_type=None), '"multi_label_classification" or'),
        (lambda f: folders.change(f, "config.json", id2label=None), "write them in their order as id2label"),
        (lambda f: folders.change(f, "config.json", id2label={"0": "Mass", "1": "Mass"}), "must differ"),
        (lambda f: folders.change(f, "config.json", id2label={"0": "x" * 65}), "64 characters at most"),
        (lambda f: folders.change(f, "config.json", num_hidden_layers=2), "take both from one folder"),
        (lambda f: folders.change(f, "config.json", hidden_size=10**9), "what is not taken here: hidden"),
        (
            lambda f: folders.change(f, "preprocessor_config.json", size={"height": 224, "width": 300}),
            "an image must become a square",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_to_do(
    tmp_path: Path, spoil: Callable[[Path], object], remedy: str
) -> None:
    spoil(folder := folders.vit(tmp_path / "vit", width=12, depth=1))

    with pytest.raises((CannotAdapt, UnreadableCheckpoint), match=remedy):
        huggingface.adapt(folder, DESCRIBED)


def test_weights_of_another_sha_256_or_too_large_are_refused(store: Path, tmp_path: Path) -> None:
    folder = folders.vit(tmp_path / "vit", width=120, depth=1)

    assert "another file, or altered; refused" in refused(folder, "--sha256", "0" * 64)
    assert "larger than 1 MiB" in refused(folder, "--most", "1")
    assert contents(store) == set()


def test_a_card_or_a_label_map_that_would_not_count_is_refused(
    store: Path, tmp_path: Path, model: tuple[Path, Path]
) -> None:
    file, card = model
    (tmp_path / "labels.toml").write_text(folders.MAP)

    assert "gets its card from its config.json" in refused(tmp_path, "--card", card)
    assert "write them there" in refused(file, "--card", card, "--label-map", tmp_path / "labels.toml")
