"""Fit the place head: where a finding lies, learned from the radiologists' boxes of the train split.

The classifier is frozen; 515 boxes of 8 labels train one linear layer, with the label's average box map as
prior. A label without boxes keeps a flat map; if the images have no boxes at all, no box is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ai_pipeline.chest.explain import BoxTemplates, share_inside
from ai_pipeline.models.preprocess import normalise, prepare
from ai_pipeline.networks.efficientnet import PlacedNetwork
from ai_training.chest.batches import MEAN, SCALE
from ai_training.chest.experiment import Experiment
from ai_training.sets.chest import truth_boxes
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, TruthBox

DECAY = 0.01  # chosen on the validation boxes; per-label weights are held four times as tight
STEPS = 300
LEAST = 0.01  # of the average map, so that no place is impossible


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """A fitted place head: ``weight [labels, C]`` and ``bias [labels, cells, cells]`` for the network's maps,
    and the boxes from which its maps choose.
    """

    weight: Tensor
    bias: Tensor
    templates: BoxTemplates


def fit_places(
    network: PlacedNetwork, data: Path, experiment: Experiment, known: Sequence[str] = LABELS
) -> BoxTemplates:
    """Set ``network.place`` and ``network.place_bias``; returns the box templates from which the maps choose.

    There are no templates if the train split of ``data`` has no boxes. ``known``: the labels of ``network``.
    """
    boxes = tuple(box for box in truth_boxes(data) if box.split == "train" and box.label in known)
    if not boxes:
        torch.nn.init.zeros_(network.place.weight)
        torch.nn.init.zeros_(network.place_bias)
        return BoxTemplates(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    paths = sorted({box.path for box in boxes})
    maps = _maps(network, paths, experiment)
    learned = learn_places(maps, boxes, [paths.index(box.path) for box in boxes], experiment.seed, known)
    with torch.no_grad():
        network.place.weight[:, :, 0, 0] = learned.weight
        with_boxes = sorted({known.index(box.label) for box in boxes})
        network.place_bias[with_boxes] = learned.bias[with_boxes]
    return learned.templates


def learn_places(
    maps: Tensor,
    boxes: tuple[TruthBox, ...],
    rows: Sequence[int],
    seed: int,
    known: Sequence[str] = LABELS,
) -> Places:
    """Fit a place head to ``boxes``; ``rows``: the index in ``maps [images, C, cells, cells]`` of each box's
    image.
    """
    centre, spread = maps.mean(0), maps.std((0, 2, 3))
    standard = (maps - centre) / spread[:, None, None]
    cells = maps.shape[-1]
    labels = np.array([known.index(box.label) for box in boxes])
    targets = np.stack([_covered(box, cells) for box in boxes])
    usual = {int(label): targets[labels == label].mean(0) for label in np.unique(labels)}
    priors = {label: np.log(_spread_out(boxes, known[label], cells) + LEAST) for label in usual}
    torch.manual_seed(seed)
    weight, trust = _fit(standard[list(rows)], labels, targets, priors, len(known))
    shift = torch.einsum("kc,chw->khw", weight / spread, centre)
    bias = torch.zeros(len(known), cells, cells)
    for label, prior in priors.items():
        bias[label] = trust * torch.from_numpy(prior).float() - shift[label]
    return Places(weight / spread, bias, _templates(boxes, labels, priors))


def _fit(
    standard: Tensor,
    labels: npt.NDArray[np.int64],
    targets: npt.NDArray[np.float32],
    priors: dict[int, npt.NDArray[np.float32]],
    outputs: int,
) -> tuple[Tensor, Tensor]:
    inputs, which = standard.flatten(2), torch.from_numpy(labels)
    wanted = torch.from_numpy(targets).flatten(1)
    prior = torch.from_numpy(np.stack([priors[int(label)] for label in labels])).float().flatten(1)
    shared = torch.zeros(standard.shape[1], requires_grad=True)
    own = torch.zeros(outputs, standard.shape[1], requires_grad=True)
    trust = torch.ones(1, requires_grad=True)
    optimiser = torch.optim.Adam([shared, own, trust], lr=0.01)
    for _ in range(STEPS):
        scores = torch.einsum("nc,ncp->np", shared + own[which], inputs) + trust * prior
        loss = -(wanted * torch.log_softmax(scores, 1)).sum(1).mean()
        loss = loss + DECAY * (shared.square().sum() + 4 * own.square().sum())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    learned = torch.zeros(outputs, 1)
    learned[sorted(priors)] = 1.0
    return (shared + own).detach() * learned, trust.detach()


def _maps(network: PlacedNetwork, paths: list[Path], experiment: Experiment) -> Tensor:
    network.eval()
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(paths), 32):
            greys = [read_grey(path) for path in paths[start : start + 32]]
            images = np.stack([prepare(grey, experiment.chain, experiment.size)[0] for grey in greys])
            parts.append(network.maps(torch.from_numpy(normalise(images, MEAN, SCALE)))[1])
    return torch.cat(parts).clone()


def _covered(box: TruthBox, cells: int) -> npt.NDArray[np.float32]:
    """The box as a distribution over ``cells`` × ``cells``."""
    area = _mask(box, cells)
    return np.asarray(area / area.sum(), np.float32)


def _spread_out(boxes: tuple[TruthBox, ...], label: str, cells: int) -> npt.NDArray[np.float32]:
    """The share of the label's boxes that cover each cell."""
    return np.asarray(np.mean([_mask(box, cells) for box in boxes if box.label == label], axis=0))


def _mask(box: TruthBox, cells: int) -> npt.NDArray[np.float32]:
    fine = 16 * cells
    mask = np.zeros((fine, fine), np.float32)
    left, top, right, bottom = (edge * fine / box.side for edge in box.corners)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1.0
    return np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)


def _templates(
    boxes: tuple[TruthBox, ...], labels: npt.NDArray[np.int64], priors: dict[int, npt.NDArray[np.float32]]
) -> BoxTemplates:
    corners = np.array([np.divide(box.corners, box.side) for box in boxes], np.float32)
    usual = np.empty(len(boxes), np.float32)
    for label, prior in priors.items():
        rows = labels == label
        usual[rows] = share_inside(np.exp(prior).astype(np.float32), corners[rows])
    return BoxTemplates(labels.astype(np.int64), corners, usual)
