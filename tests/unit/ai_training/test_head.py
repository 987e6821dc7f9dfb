"""`examples/studies/head.py`: a frozen DINOv2 with a head of the site's own images becomes one model with a
card.
"""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from head import app
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find
from ai_pipeline.networks import huggingface
from ai_pipeline.networks.adapted import NetworkDescription
from ai_training import metrics
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import models

TRAINED, HELD = 105, 24
EMBEDDING = (0.94076, -2.24834, 0.941, -0.51007, 0.02118, 0.49013, -0.65937, -0.41193)
"""Its first numbers as transformers 4.57.6 gives them with its own image processor; the length is
19.568565.
"""
SIDE = 84  # of the input: 36 patches instead of 1369


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a site: with an effusion they have a bright disc, always at another place; a mass is
    rare.
    """
    where = tmp_path_factory.mktemp("site")
    random = np.random.default_rng(4)
    with (where / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "patient_id", "age", "split", "Effusion", "Mass"))
        for number in range(TRAINED + HELD):
            sick = number % 3 == 0
            pixels = np.clip(random.normal(90, 25, (140, 140)), 0, 255).astype(np.uint8)
            if sick:
                cv2.circle(pixels, tuple(int(at) for at in random.integers(40, 100, 2)), 26, 230, -1)
            cv2.imwrite(str(where / f"{number}.png"), pixels)
            split = "train" if number < TRAINED else "val"
            rows.writerow((f"{number}.png", f"patient {number}", 50, split, int(sick), int(number == 7)))
    return where


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.dinov2(tmp_path_factory.mktemp("encoder") / "dino", labels=0)


def train(encoder: Path, data: Path, out: Path, *more: str) -> Result:
    words = ["--encoder", str(encoder), "--data", str(data), "--out", str(out), *more]
    return CliRunner().invoke(app, words)


def test_the_frozen_encoder_gives_the_embedding_that_transformers_gives(encoder: Path) -> None:
    described = NetworkDescription("huggingface", encoder=True)
    adapted = huggingface.adapt(encoder, described)
    folder_input = folders.network_input_of(adapted, folders.picture())

    with torch.inference_mode():
        embedding, features = adapted.network(torch.from_numpy(folder_input))

    np.testing.assert_allclose(embedding[0, :8], EMBEDDING, atol=1e-3)
    assert float(embedding.norm()) == pytest.approx(19.568565, abs=1e-3)
    assert features.shape == (1, folders.WIDTH, 16, 16)


@pytest.mark.usefixtures("confinement")
def test_a_head_learns_from_the_site_s_images_and_leaves_with_its_encoder(
    encoder: Path, films: Path, tmp_path: Path
) -> None:
    done = train(
        encoder, films, tmp_path / "new", "--id", "dino-site", "--licence", "MIT", "--size", str(SIDE)
    )

    assert done.exit_code == 0, done.output
    assert "Effusion" in done.output and "left out: Mass" in done.output
    network = tmp_path / "new" / "dino-site.onnx"
    where = ("--models-dir", tmp_path / "models")
    added = models("add", network, "--card", network.with_suffix(".toml"), "--accept-licence", *where)
    assert added.exit_code == 0, added.output
    card = find("dino-site", tmp_path / "models")
    assert [(label.name, label.supported) for label in card.labels] == [("Effusion", False)]
    assert card.details["training"]["images"] == TRAINED
    classifier = Classifier(card, threads=1)
    held = range(TRAINED, TRAINED + HELD)
    found = [classifier.analyse(cv2.imread(str(films / f"{number}.png"), 0)) for number in held]
    truth = np.array([number % 3 == 0 for number in held], float)
    assert metrics.auc(truth, np.array([one.logits[0] for one in found])) > 0.8

    # The file says what encoder and head say apart: embedding and mean of the patches, times its weights.
    described = NetworkDescription("huggingface", encoder=True, size=SIDE)
    reference = huggingface.adapt(encoder, described).network
    given = {part.name: numpy_helper.to_array(part) for part in onnx.load(str(network)).graph.initializer}
    assert card.input is not None
    values, _ = network_input(cv2.imread(str(films / "0.png"), 0), card.input)
    with torch.inference_mode():
        embedding, features = reference(torch.from_numpy(values))
    both = torch.cat([embedding, features.mean((2, 3))], 1).numpy()
    expected = both @ given["head-weights"].T + given["head-biases"]
    said = classifier.analyse(cv2.imread(str(films / "0.png"), 0))
    np.testing.assert_allclose(said.logits, expected[0], rtol=1e-3, atol=2e-3)
    # And its map adds up to what the patches add to the logit.
    assert said.places is not None
    patches = features.mean((2, 3)).numpy() @ given["head-weights"][:, folders.WIDTH :].T
    np.testing.assert_allclose(said.places.mean((1, 2)), patches[0], rtol=1e-3, atol=2e-3)


def listed(films: Path, name: str, change: dict[str, str], rows: int = TRAINED) -> Path:
    with (films / "manifest.csv").open(newline="") as file:
        chosen = [row | change for row in list(csv.DictReader(file))[:rows]]
    with (films / name).open("w", newline="") as file:
        table = csv.DictWriter(file, chosen[0])
        table.writeheader()
        table.writerows(chosen)
    return films / name


def test_data_that_teach_no_head_are_refused_with_what_to_do(
    encoder: Path, films: Path, tmp_path: Path
) -> None:
    for data, remedy in (
        (listed(films, "apart.csv", {"split": ""}), "`ai-pipeline split` makes them"),
        (listed(films, "few.csv", {}, 99), "99 images of adults in split train; a head needs 100"),
        (listed(films, "healthy.csv", {"Effusion": "0"}), "no label has 15 images with it"),
    ):
        done = train(encoder, data, tmp_path / "new")

        assert done.exit_code == 66
        assert remedy in done.output
        assert not (tmp_path / "new").exists()
