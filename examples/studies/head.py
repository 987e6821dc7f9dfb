#!/usr/bin/env python3
"""A linear head on a frozen encoder, such as RAD-DINO, from a few hundred images.

The encoder runs once on every image. Each label is a logistic regression on the encoder's class token and the
mean of its patches; the mean gives the map of each label: what every patch adds to the logit. Encoder and
head are written as one ONNX file with a first card, whose labels stay hidden until ``ai-pipeline models
accept``.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from ai_pipeline.models.engine import OnnxRuntime, usable_cores
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import Chain, Input
from ai_training import metrics
from ai_training.base import DataMissing, Report, silent
from ai_training.cards import changed_card
from ai_training.cli import console
from ai_training.cli.console import Figures, verb
from ai_training.conversion.convert import made_apart
from ai_training.conversion.first_card import written
from ai_training.conversion.messages import ConvertedNetwork, Request
from ai_training.metrics import Floats, Interval
from ai_training.sets.chest import chest_set, label_matrix
from ai_training.sets.images import LABELS, ChestImage, read_grey

FEWEST, ENOUGH = 100, 15
"""Images, and positives and negatives of a label, that a head needs."""
FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""scikit-learn's C, of which the one with the best mean AUC in the folds is taken."""
OUTPUTS = ("logits", "features", "places")


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """The written card; the AUC of each label on patients of other folds; labels with too few images."""

    card: Path
    auc: dict[str, Interval]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _LinearHead:
    """``weights [labels, C]`` and ``biases [labels]`` on embeddings as the encoder gives them."""

    weights: Floats
    biases: Floats


def train_head(
    encoder: Path,
    data: Path,
    out: Path,
    *,
    model_id: str = "",
    licence: str = "",
    size: int | None = None,
    most: int = 2000,
    threads: int = 0,
    report: Report = silent,
) -> TrainedHead:
    """Fit a head to at most ``most`` adults of the train split of ``data``; writes ``ID.onnx`` and
    ``ID.toml`` into ``out``.

    Raises DataMissing, or CardError if the folder ``encoder`` holds no encoder.
    """
    images, known = _images(data, most)
    truth = label_matrix(images)
    patients = [image.patient for image in images]
    counted = [LABELS.index(name) for name in known if _enough(truth[:, LABELS.index(name)], patients)]
    names = tuple(LABELS[k] for k in counted)
    if not names:
        raise DataMissing(
            f"{data}: no label has {ENOUGH} images with it and {ENOUGH} without, of enough patients"
        )
    with tempfile.TemporaryDirectory() as scratch:
        report(0.0, "converting the encoder")
        request = Request(checkpoint=str(encoder), family="huggingface", size=size, encoder=True)
        network, answer = made_apart(request, Path(scratch))
        data_of_network = network.read_bytes()
    run = OnnxRuntime(data_of_network, threads or usable_cores())
    embeddings = _embeddings(run, answer, images, report)
    found = truth[:, counted]
    strength, chances = _best(embeddings, found, patients)
    weights = metrics.patient_weights(patients)
    auc = {name: metrics.auc_interval(found[:, k], chances[:, k], weights) for k, name in enumerate(names)}
    head = _fitted(embeddings, found, strength)
    answer = answer.model_copy(
        update={"labels": names, "outputs": OUTPUTS, "id": model_id or f"{answer.id}-head"}
    )
    card = written(out, with_head(data_of_network, head), answer, licence=licence)
    _note(card, images, auc, strength)
    return TrainedHead(card, auc, tuple(name for name in known if name not in names))


def with_head(encoder: bytes, head: _LinearHead) -> bytes:
    """An encoder's ONNX file with the head's operators added: it returns logits, features and a map for each
    label.
    """
    model = onnx.load_model_from_string(encoder)
    graph, half = model.graph, head.weights.shape[1] // 2
    constants = {
        "head-weights": head.weights.astype(np.float32),
        "head-biases": head.biases.astype(np.float32),
        "head-kernels": head.weights[:, half:, None, None].astype(np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("GlobalAveragePool", ["features"], ["head-pooled"]),
            helper.make_node("Flatten", ["head-pooled"], ["head-mean"]),
            helper.make_node("Concat", ["embedding", "head-mean"], ["head-both"], axis=1),
            helper.make_node("Gemm", ["head-both", "head-weights", "head-biases"], ["logits"], transB=1),
            helper.make_node("Conv", ["features", "head-kernels"], ["places"]),
        ]
    )
    features = next(output for output in graph.output if output.name == "features")
    side = [dimension.dim_value for dimension in features.type.tensor_type.shape.dim[2:]]
    labels = len(head.biases)
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels]),
        features,
        helper.make_tensor_value_info("places", TensorProto.FLOAT, ["batch", labels, *side]),
    ]
    del graph.output[:]
    graph.output.extend(outputs)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _images(data: Path, most: int) -> tuple[list[ChestImage], tuple[str, ...]]:
    """Adults of the train split, at most so many, always the same; and the labels that the set knows."""
    found = chest_set(data)
    if not any(image.split for image in found.images):
        raise DataMissing(
            f"{data} has no splits: `ai-pipeline split` makes them, so that `ai-pipeline models accept` "
            "measures on "
            "patients that the head has not seen"
        )
    images = [image for image in found.images if image.split == "train" and image.adult]
    if len(images) < FEWEST:
        raise DataMissing(f"{data}: {len(images)} images of adults in split train; a head needs {FEWEST}")
    images.sort(key=lambda image: hashlib.sha256(f"{image.patient} {image.path.name}".encode()).digest())
    return images[:most], found.labels


def _enough(truth: Floats, patients: Sequence[str]) -> bool:
    """Whether a label can be learned, and held back in every fold."""
    with_it = {patient for patient, there in zip(patients, truth, strict=True) if there}
    positives = int(truth.sum())
    return min(positives, len(truth) - positives) >= ENOUGH and len(with_it) >= 2 * FOLDS


def _embeddings(
    run: OnnxRuntime, answer: ConvertedNetwork, images: Sequence[ChestImage], report: Report
) -> Floats:
    """Class token and mean of the patches of each image: ``[N, 2 × width]``."""
    wanted = Input(
        answer.size,
        answer.channels,
        answer.mean,
        answer.scale,
        "MONOCHROME2",
        Chain(),
        "imagenet",
        answer.crop,
        answer.squash,
        answer.interpolation,
    )
    rows = []
    for number, image in enumerate(images):
        outputs = run(network_input(read_grey(image.path), wanted)[0])
        rows.append(np.concatenate([outputs["embedding"][0], outputs["features"][0].mean((1, 2))]))
        report((number + 1) / len(images), "running the encoder")
    return np.array(rows, np.float64)


def _best(embeddings: Floats, truth: Floats, patients: Sequence[str]) -> tuple[float, Floats]:
    """The strength with the best mean AUC in folds by patient, and its scores of the patients held back."""
    found: list[tuple[float, float, Floats]] = []
    for strength in STRENGTHS:
        scores: Floats = np.zeros(truth.shape)
        for known, held in GroupKFold(FOLDS).split(embeddings, groups=patients):
            head = _fitted(embeddings[known], truth[known], strength)
            scores[held] = embeddings[held] @ head.weights.T + head.biases
        mean = float(np.mean([metrics.auc(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]))
        found.append((mean, strength, scores))
    _, strength, scores = max(found, key=lambda one: one[0])
    return strength, scores


def _fitted(embeddings: Floats, truth: Floats, strength: float) -> _LinearHead:
    mean, spread = embeddings.mean(0), embeddings.std(0) + 1e-6
    standard = (embeddings - mean) / spread
    weights = np.zeros((truth.shape[1], embeddings.shape[1]))
    biases = np.zeros(truth.shape[1])
    for k, column in enumerate(truth.T):
        if column.min() == column.max():  # in a fold: such a label is scored alike for all
            continue
        model = LogisticRegression(C=strength, max_iter=2000).fit(standard, column)
        weights[k] = model.coef_[0] / spread
        biases[k] = model.intercept_[0] - weights[k] @ mean
    return _LinearHead(weights, biases)


def _note(card: Path, images: Sequence[ChestImage], auc: dict[str, Interval], strength: float) -> None:
    about: dict[str, Any] = {
        "data": ["the encoder's: see its authors", "the head's: images of this site"],
        "images": len(images),
        "patients": len({image.patient for image in images}),
        "method": f"logistic regression of each label on the frozen embedding, C = {strength:g}",
        "folds": FOLDS,
        "auc_in_folds": {name: found.as_list() for name, found in auc.items()},
    }
    with changed_card(card) as text:
        text["training"] = about


app = typer.Typer()


@verb(app, "head")
def command(
    *,
    report: Report,
    encoder: Annotated[Path, typer.Option(help="Folder in Hugging Face's layout: DINOv2 or ViT.")],
    data: console.SetData,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")],
    model_id: Annotated[str, typer.Option("--id", help="The model's id.")] = "",
    licence: Annotated[str, typer.Option(help="The licence of the encoder's weights.")] = "",
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the input in pixels, whole patches of 14: smaller is faster.", min=28, max=1022
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Images to learn from, at most.", min=100)] = 2000,
    threads: console.Threads = 0,
) -> Figures:
    """Train a head on a frozen encoder (RAD-DINO, DINOv2) with 200 to 2,000 of your labelled images.

    It learns from the split train. Then: ai-pipeline models add, and ai-pipeline models accept on other
    patients.
    """
    made = train_head(
        encoder,
        data,
        out,
        model_id=model_id,
        licence=licence,
        size=size,
        most=most,
        threads=threads,
        report=report,
    )
    network = made.card.with_suffix(".onnx")
    return {
        "card": str(made.card),
        "too few images, left out": list(made.left_out),
        "next": f"ai-pipeline models add {network} --card {made.card}",
        "AUC on patients of other folds": {name: found.as_list() for name, found in made.auc.items()},
    }


if __name__ == "__main__":
    app()
