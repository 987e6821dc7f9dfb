"""`examples/studies/head.py`: a frozen DINOv2 with a head of the site's own images becomes one model with a
card.
"""

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
from ai_training import metrics
from ai_training.conversion import adapters
from ai_training.conversion.messages import Request
from tests.unit.ai_pipeline.models import huggingface_folders as folders
from tests.unit.ai_pipeline.models.store_lab import models
from tests.unit.ai_training import published_lab as lab

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
    where, random, rows = tmp_path_factory.mktemp("site"), np.random.default_rng(4), []
    for number in range(TRAINED + HELD):
        pixels = np.clip(random.normal(90, 25, (140, 140)), 0, 255).astype(np.uint8)
        if sick := number % 3 == 0:
            cv2.circle(pixels, tuple(int(at) for at in random.integers(40, 100, 2)), 26, 230, -1)
        cv2.imwrite(str(where / f"{number}.png"), pixels)
        split = "train" if number < TRAINED else "val"
        rows.append((f"{number}.png", f"patient {number}", 50, split, int(sick), int(number == 7)))
    lab.table(where / "manifest.csv", ("file", "patient_id", "age", "split", "Effusion", "Mass"), rows)
    return where


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.dinov2(tmp_path_factory.mktemp("encoder") / "dino")


def train(encoder: Path, data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["--encoder", str(encoder), "--data", str(data), "--out", str(out), *more])


def test_the_frozen_encoder_gives_the_embedding_that_transformers_gives(encoder: Path) -> None:
    adapted = adapters.adapt(encoder, Request(checkpoint="", family="huggingface", encoder=True))
    picture = folders.network_input_of(adapted, folders.picture())
    with torch.inference_mode():
        embedding, features = adapted.network(torch.from_numpy(picture))
    np.testing.assert_allclose(embedding[0, :8], EMBEDDING, atol=1e-3)
    assert float(embedding.norm()) == pytest.approx(19.568565, abs=1e-3)
    assert features.shape == (1, folders.WIDTH, 16, 16)


@pytest.mark.usefixtures("confinement")
def test_a_head_learns_from_the_site_s_images_and_leaves_with_its_encoder(
    encoder: Path, films: Path, tmp_path: Path
) -> None:
    words = ("--id", "dino-site", "--licence", "MIT", "--size", str(SIDE))
    done = train(encoder, films, tmp_path / "new", *words)
    assert done.exit_code == 0 and "Effusion" in done.output and "left out: Mass" in done.output
    network = tmp_path / "new" / "dino-site.onnx"
    where = ("--models-dir", tmp_path / "models")
    added = models("add", network, "--card", network.with_suffix(".toml"), "--accept-licence", *where)
    assert added.exit_code == 0, added.output
    card = find("dino-site", tmp_path / "models")
    assert [(label.name, label.supported) for label in card.labels] == [("Effusion", False)]
    assert card.details["training"]["images"] == TRAINED and card.input is not None
    classifier, held = Classifier(card, threads=1), range(TRAINED, TRAINED + HELD)
    found = [classifier.analyse(cv2.imread(str(films / f"{number}.png"), 0)) for number in held]
    truth = np.array([number % 3 == 0 for number in held], float)
    assert metrics.auc(truth, np.array([one.logits[0] for one in found])) > 0.8

    # The file says what encoder and head say apart: embedding and mean of the patches, times its weights.
    first = cv2.imread(str(films / f"{TRAINED}.png"), 0)
    reference = adapters.adapt(
        encoder, Request(checkpoint="", family="huggingface", encoder=True, size=SIDE)
    ).network
    given = {part.name: numpy_helper.to_array(part) for part in onnx.load(str(network)).graph.initializer}
    with torch.inference_mode():
        embedding, features = reference(torch.from_numpy(network_input(first, card.input)[0]))
    both = torch.cat([embedding, features.mean((2, 3))], 1).numpy()
    expected = both @ given["head-weights"].T + given["head-biases"]
    np.testing.assert_allclose(found[0].logits, expected[0], rtol=1e-3, atol=2e-3)
    # And its map adds up to what the patches add to the logit.
    patches = features.mean((2, 3)).numpy() @ given["head-weights"][:, folders.WIDTH :].T
    assert found[0].places is not None
    np.testing.assert_allclose(found[0].places.mean((1, 2)), patches[0], rtol=1e-3, atol=2e-3)


def listed(films: Path, name: str, change: dict[str, str], count: int = TRAINED) -> Path:
    with (films / "manifest.csv").open(newline="") as file:
        chosen = [row | change for row in list(csv.DictReader(file))[:count]]
    return lab.table(films / name, list(chosen[0]), [list(row.values()) for row in chosen])


@pytest.mark.parametrize(
    ("change", "count", "remedy"),
    [
        ({"split": ""}, TRAINED, "`ai-pipeline split` makes them"),
        ({}, 99, "99 images of adults in split train; a head needs 100"),
        ({"Effusion": "0"}, TRAINED, "no label has 15 images with it"),
    ],
)
def test_data_that_teach_no_head_are_refused_with_what_to_do(
    encoder: Path, films: Path, tmp_path: Path, change: dict[str, str], count: int, remedy: str
) -> None:
    done = train(encoder, listed(films, "changed.csv", change, count), tmp_path / "new")
    assert done.exit_code == 66 and remedy in done.output and not (tmp_path / "new").exists()
