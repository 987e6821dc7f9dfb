"""Randomisation check of heat maps (Adebayo et al., NeurIPS 2018): do they depend on what was learned?

The layers of a network are re-initialised one after the other from the top. A map that stays the same does
not depend on them: without this check, an edge detector can pass for an explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Generator, Tensor, nn

from ai_training.metrics import mean_interval, patient_weights

Map = npt.NDArray[np.float32]
Explain = Callable[[nn.Module, Tensor], npt.NDArray[np.float32]]
"""A network and its input ``[N, …]`` to one map each, ``[N, h, w]``."""

COMPARED = 64  # side at which structural similarity is taken: its window is larger than five cells
STAGES = 8
SEED = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Similarity of the maps to the trained network's, after re-initialising all layers from the top to
    ``layer``.

    ``spearman`` (-1 to 1, over the map's own cells) and ``ssim`` (-1 to 1, maps stretched to 0..1 and
    enlarged): mean over the images with its 95 % interval by patient.
    """

    layer: str
    spearman: list[float]
    ssim: list[float]


def randomisation(
    network: nn.Module,
    images: Tensor,
    patients: Sequence[str],
    explain: Explain,
    *,
    spared: Collection[str] = (),
    seed: int = SEED,
) -> list[Stage]:
    """How saliency maps change while layers are re-initialised one after the other from the top
    (:func:`cascade`).
    """
    trained = explain(network, images)
    weights = patient_weights(patients)
    stages: list[Stage] = []
    for layer, changed in cascade(network, images[:1], spared=spared, seed=seed):
        maps = explain(changed, images)
        pairs = list(zip(trained, maps, strict=True))
        ranks = np.array([_rank_correlation(before, after) for before, after in pairs])
        structure = np.array([_similarity(before, after) for before, after in pairs])
        found = [mean_interval(values, weights).as_list() for values in (ranks, structure)]
        stages.append(Stage(layer, *found))
    return stages


def cascade(
    network: nn.Module, example: Tensor, *, spared: Collection[str] = (), seed: int = SEED
) -> Iterator[tuple[str, nn.Module]]:
    """Yield a copy of ``network`` whose layers are re-initialised from the top, with the last layer's name.

    The order is that in which the modules finish when ``example`` passes; the first is re-initialised alone,
    the others in at most ``STAGES - 1`` groups. Each parameter is drawn from a normal distribution with its
    own mean and spread, so that a network without batch normalisation still passes a signal on. The modules
    named ``spared`` (``""`` for the network itself) stay as they are. The same copy is yielded each time,
    changed further.
    """
    changed = deepcopy(network).eval()
    random = torch.Generator().manual_seed(seed)
    first, *others = [
        (name, module) for name, module in reversed(_in_order(changed, example)) if name not in spared
    ]
    shares = np.array_split(np.arange(len(others)), min(STAGES - 1, len(others)))
    for group in [[first], *([others[at] for at in share] for share in shares)]:
        for _, module in group:
            _reinitialise(module, random)
        yield group[-1][0] or "network", changed


def _rank_correlation(before: Map, after: Map) -> float:
    """Spearman's rank correlation over cells; 0 where a map is the same everywhere and has no order."""
    if np.ptp(before) == 0.0 or np.ptp(after) == 0.0:
        return 0.0
    return float(spearmanr(before.ravel(), after.ravel()).statistic)


def _similarity(before: Map, after: Map) -> float:
    pair = [cv2.resize(_stretched(values), (COMPARED, COMPARED)) for values in (before, after)]
    return float(structural_similarity(pair[0], pair[1], data_range=1.0))  # type: ignore[no-untyped-call]


def _stretched(values: Map) -> Map:
    return np.asarray((values - values.min()) / max(float(np.ptp(values)), 1e-12), np.float32)


def _in_order(network: nn.Module, example: Tensor) -> list[tuple[str, nn.Module]]:
    """The modules that have parameters of their own, in the order in which they finish."""
    finished: dict[str, nn.Module] = {}

    def note(name: str, module: nn.Module) -> None:
        if module._parameters:
            finished.setdefault(name, module)

    hooks = [
        module.register_forward_hook(lambda module, _inputs, _output, name=name: note(name, module))
        for name, module in network.named_modules()
    ]
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    return list(finished.items())


def _reinitialise(module: nn.Module, random: Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            drawn = torch.randn(parameter.shape, generator=random)
            parameter.copy_(float(parameter.mean()) + spread * drawn)
