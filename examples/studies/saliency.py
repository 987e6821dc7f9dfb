#!/usr/bin/env python3
"""Where a chest network looks, by Grad-CAM, and whether that depends on what it has learned.

Grad-CAM (R. Selvaraju et al., ICCV 2017) is captum's. The sanity check (J. Adebayo et al., NeurIPS 2018)
draws the weights anew, layer by layer from the output down, and compares the map with the first one: a map
that stays the same shows edges of the picture, not what the network has learned. Needs the extra ``captum``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from scipy.stats import spearmanr
from torch import Tensor, nn

from ai_pipeline.errors import ModelError
from ai_pipeline.models.registry import Card, Chain, enlarge, find, normalise, reduce
from ai_training.backbones import new_classifier
from ai_training.base import ExperimentError
from ai_training.commands import Figures, ModelsDir, needed, verb
from ai_training.engine import seed_all
from ai_training.networks import MEAN, NAME, SCALE, PlacedNetwork, read_weights, torch_network
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS

STAGES = 5  # in which the layers of the backbone are drawn anew, after the head
Map = npt.NDArray[np.float32]
app = typer.Typer()


class Scores(nn.Module):
    """The logits of a chest network; its last feature maps pass through ``seen``, where captum listens."""

    def __init__(self, network: PlacedNetwork) -> None:
        super().__init__()
        self.network, self.seen = network, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """The logits of ``images``."""
        features = self.seen(self.network.layers(images)[0])
        scores: Tensor = self.network.head(features.mean((2, 3)))
        return scores


def grad_cam(scores: Scores, images: Tensor, label: int) -> Map:
    """The Grad-CAM of the output ``label`` for ``images [N, 3, size, size]``: ``[N, h, w]``, signed."""
    from captum.attr import LayerGradCam

    found = LayerGradCam(scores, scores.seen).attribute(images, target=label)
    return np.asarray(found[:, 0].detach().numpy(), np.float32)


def randomised(scores: Scores) -> Iterator[str]:
    """Draw the weights of ``scores`` anew, the head first, then the backbone from its last layers to its
    first; yields after each stage what is random by now.
    """
    layers = [part for part in scores.network.backbone.modules() if hasattr(part, "reset_parameters")]
    scores.network.head.reset_parameters()
    yield "head"
    for number, part in enumerate(np.array_split(np.arange(len(layers))[::-1], STAGES), start=1):
        for layer in part:
            layers[layer].reset_parameters()
        yield f"head and last {number / STAGES:.0%} of the layers"


def likeness(one: Map, other: Map) -> float:
    """Spearman's rank correlation of two maps ``[N, h, w]``, the mean over N; 0 for a map of one value."""
    pairs = zip(one.reshape(len(one), -1), other.reshape(len(other), -1), strict=True)
    return float(np.mean([np.nan_to_num(spearmanr(a, b).statistic) if np.ptp(b) else 0.0 for a, b in pairs]))


def sanity(scores: Scores, images: Tensor, label: int) -> dict[str, float]:
    """How alike the maps stay (:func:`likeness`) while the weights of ``scores`` become random."""
    trained = grad_cam(scores, images, label)
    found = {"as trained": likeness(trained, grad_cam(scores, images, label))}
    return found | {stage: likeness(trained, grad_cam(scores, images, label)) for stage in randomised(scores)}


def drawn(film: npt.NDArray[np.uint8], found: Map) -> npt.NDArray[np.uint8]:
    """The reduced ``film [size, size]`` beside itself with the positive part of the map over it, BGR."""
    heat = np.clip(cv2.resize(found, film.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, None)
    grey = cv2.cvtColor(film, cv2.COLOR_GRAY2BGR)
    levels = (255 * heat / max(float(heat.max()), 1e-9)).astype(np.uint8)
    over = cv2.addWeighted(grey, 0.6, cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), 0.4, 0)
    return np.asarray(np.hstack([grey, over]), np.uint8)


def from_run(best: Path, backbone: str, size: int) -> PlacedNetwork:
    """The network of a chest training's ``best.pt``, with all its labels. Raises ExperimentError."""
    network = new_classifier(backbone, len(LABELS), size)
    try:
        network.load_state_dict(read_weights(best))
    except (ModelError, RuntimeError) as error:
        raise ExperimentError(f"{best} holds no {backbone} for {size} pixels a side") from error
    return network.eval()


@verb(app, "saliency")
def command(
    films: Annotated[list[Path], typer.Argument(help="Pictures of chest X-rays: PNG, JPEG.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for a picture of each film.")],
    finding: Annotated[str, typer.Option(help="A label of the card.")] = "Effusion",
    model: Annotated[str, typer.Option(help="Id of the card.")] = "chest-efficientnet-lite0",
    models_dir: ModelsDir = None,
    best: Annotated[
        Path | None, typer.Option(help="best.pt of the card's training: for another backbone.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 1,
) -> Figures:
    """Draw where the network looks for a finding, and print how alike the maps stay with random weights.

    Example: examples/studies/saliency.py film.png --finding Effusion --out maps
    """
    needed("captum")
    card = find(model, models_dir)
    names = [label.name for label in card.labels]
    if finding not in names:
        raise ExperimentError(f"{card.name} has no label {finding!r}: {', '.join(names)}")
    if card.input is None or card.input.chain is None:
        raise ExperimentError(f"{card.name} was not trained here: its films are prepared in another way")
    if best is None and card.architecture != NAME:
        raise ExperimentError(
            f"{card.name} is a {card.architecture}: name the best.pt of its training (--best)"
        )
    (films_read, images), size = _input(card, films), card.input.size
    scores = Scores(from_run(best, card.architecture, size) if best else torch_network(card))
    label = LABELS.index(finding) if best else names.index(finding)
    maps = grad_cam(scores, images, label)
    out.mkdir(parents=True, exist_ok=True)
    for path, film, found in zip(films, films_read, maps, strict=True):
        cv2.imwrite(str(out / f"{path.stem}-{finding}.png"), drawn(film, found))
    seed_all(seed)
    return {
        "model": card.name,
        "finding": finding,
        "films": len(films),
        "likeness": sanity(scores, images, label),
        "note": "1: the same map whatever was learned; near 0: the map depends on the weights",
    }


def _input(card: Card, films: Sequence[Path]) -> tuple[list[npt.NDArray[np.uint8]], Tensor]:
    """The films at the size of the network's input, and that input."""
    chain: Chain = card.input.chain
    squares: list[Any] = [enlarge(reduce(read_grey(path), chain)[0], card.input.size) for path in films]
    return squares, torch.from_numpy(normalise(np.stack(squares), MEAN, SCALE))


if __name__ == "__main__":
    app()
