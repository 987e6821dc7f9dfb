"""The head that says where a finding is: learnt from boxes, on the maps of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ai_pipeline.chest.classifier import BoxTemplates, share_inside
from ai_pipeline.models.registry import Chain, normalise, prepare
from ai_training.base import Report, silent
from ai_training.chest.experiment import Experiment
from ai_training.networks import MEAN, SCALE, PlacedNetwork
from ai_training.sets.chest import chest_set
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, TruthBox

AT_ONCE = 8


def fit_places(
    network: PlacedNetwork, data: Path, experiment: Experiment, known: Sequence[str] = LABELS
) -> BoxTemplates:
    """Fit the layer of ``network`` that says where a finding lies (``place``, ``place_bias``) to the boxes of
    the train split; returns the box templates, none if the train split of ``data`` has no boxes.
    ``experiment``: settings of the fit; ``known``: the labels of ``network``.
    """
    boxes = tuple(box for box in chest_set(data).boxes if box.image.split == "train" and box.label in known)
    if not boxes:
        torch.nn.init.zeros_(network.place.weight)
        torch.nn.init.zeros_(network.place_bias)
        return BoxTemplates(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    paths = sorted({box.image.path for box in boxes})
    maps = torch.from_numpy(middle_maps(network, paths, experiment.images.chain, experiment.network.size))
    centre, spread, cells = maps.mean(0), maps.std((0, 2, 3)), maps.shape[-1]
    standard = ((maps - centre) / spread[:, None, None]).flatten(2).transpose(1, 2)
    labels = np.array([known.index(box.label) for box in boxes])
    covered = np.stack([box_mask(box, cells) for box in boxes])
    # A hundredth of the average map, so that no place is impossible.
    priors = {int(k): np.log(covered[labels == k].mean(0) + 0.01) for k in np.unique(labels)}
    torch.manual_seed(experiment.seed)
    weight, trust = learn_choices(
        standard[[paths.index(box.image.path) for box in boxes]],
        torch.from_numpy(np.stack([priors[k] for k in labels.tolist()])).flatten(1),
        torch.from_numpy(covered / covered.sum((1, 2), keepdims=True)).flatten(1),
        torch.from_numpy(labels),
        # The decay was chosen on the validation boxes.
        {"rate": 0.01, "steps": 300, "decay": 0.01, "own": 4.0, "trust": 1.0},
    )
    corners = np.array([np.divide(box.corners, box.side) for box in boxes], np.float32)
    usual = np.empty(len(boxes), np.float32)
    network.place.weight.data.zero_()
    for label, prior in priors.items():
        learned = weight[label] / spread
        shift = torch.einsum("c,chw->hw", learned, centre)
        network.place.weight.data[label, :, 0, 0] = learned
        network.place_bias.data[label] = trust * torch.from_numpy(prior) - shift
        rows = labels == label
        usual[rows] = share_inside(np.exp(prior), corners[rows])
    return BoxTemplates(labels.astype(np.int64), corners, usual)


def middle_maps(
    network: PlacedNetwork,
    paths: Sequence[Path],
    chain: Chain,
    size: int,
    levels: tuple[float, float] = (MEAN, SCALE),
    report: Report = silent,
) -> npt.NDArray[np.float32]:
    """The middle layers' output ``[N, C, h, w]`` of ``network`` for the images in ``paths``. ``chain``: the
    preprocessing; ``size``: side of the input; ``levels``: mean and scale of the input. Raises DataMissing if
    an image cannot be read.
    """
    network.eval()
    parts: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(paths), AT_ONCE):
        squares = [prepare(read_grey(path), chain, size)[0] for path in paths[start : start + AT_ONCE]]
        with torch.inference_mode():
            parts.append(network.maps(torch.from_numpy(normalise(np.stack(squares), *levels)))[1].numpy())
        report((start + len(squares)) / len(paths), "reading images")
    return np.concatenate(parts)


def learn_choices(
    inputs: Tensor, prior: Tensor, wanted: Tensor, labels: Tensor, how: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Learn weights by which, of M choices, the right ones get the highest scores; returns the weights of the
    features ``[labels, F]``, and the weight of ``prior``. ``inputs [N, M, F]``: features of the choices;
    ``prior`` and ``wanted`` (a distribution): ``[N, M]``; ``labels [N]``. ``how``: settings of the optimiser.
    All labels share one weight vector, and each adds its own, whose decay is ``own`` times as strong.
    """
    shared = torch.zeros(inputs.shape[2], requires_grad=True)
    own = torch.zeros(int(labels.max()) + 1, inputs.shape[2], requires_grad=True)
    trust = torch.full((1,), how["trust"], requires_grad=True)
    optimiser = torch.optim.Adam([shared, own, trust], lr=how["rate"])
    for _ in range(how["steps"]):
        scores = torch.einsum("nmf,nf->nm", inputs, shared + own[labels]) + trust * prior
        loss = -(wanted * torch.log_softmax(scores, 1)).sum(1).mean()
        loss = loss + how["decay"] * (shared.square().sum() + how["own"] * own.square().sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (shared + own).detach(), float(trust.detach())


def box_mask(box: TruthBox, cells: int) -> npt.NDArray[np.float32]:
    """The share of each cell of a grid that lies in the box: ``[cells, cells]``, 0 to 1."""
    fine = 16 * cells
    mask = np.zeros((fine, fine), np.float32)
    left, top, right, bottom = (edge * fine / box.side for edge in box.corners)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1.0
    return np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)
