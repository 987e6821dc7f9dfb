"""Fit the box head on frozen layers of the classifier: it scores candidate boxes by the maps in and around
them.

For every label the candidates are the boxes that radiologists drew for it in training images, each also moved
and stretched a little. A linear model reads the mean of the trunk's middle layers (their principal
components) inside a candidate and beside it on four sides, adds how usual the candidate is for its label
(kernel density of place and size), and learns to give a high probability to candidates that overlap the
truth. All labels share one weight vector, and each adds a small correction: 40 boxes cannot teach 160
weights.

As the model is linear, it becomes five maps a label (:mod:`ai_pipeline.chest.boxes`), one convolution of the
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ai_pipeline.chest.boxes import PARTS, BoxHead, Candidates, mean_over, part_rectangles, softmax
from ai_training.detect.locating.locators import Floats
from ai_training.detect.locating.scores import Place
from ai_training.detect.locating.truth import corners
from ai_training.sets.images import TruthBox

LEAST_DENSITY = 1e-4  # so that no candidate is impossible
PLACE_WIDTH, SIZE_WIDTH = 0.08, 0.3  # of the kernels: shares of the side, and of the logarithm of a size


@dataclass(frozen=True, slots=True)
class BoxHeadRecipe:
    """How the head is fitted; chosen by cross-validation on the train and val boxes (docs/studies)."""

    components: int = 32
    moved: int = 4  # copies of each box
    shown: int = 60  # candidates of a training box
    steps: int = 100
    rate: float = 0.02
    decay: float = 0.05  # L2 of the shared weights …
    own: float = 4.0  # … and so many times more of each label's own
    sharpness: float = 3.0  # the target is the overlap with the truth to this power
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """A projection of the trunk's maps to the head's input: ``(x - centre) @ weights``, less the mean map
    ``usual``.
    """

    centre: Floats  # [C]
    weights: Floats  # [C, components]
    usual: Floats  # [components, h, w]

    @staticmethod
    def from_maps(maps: Floats, components: int) -> Basis:
        """The principal components of ``maps [N, C, h, w]``, with weak components amplified a little."""
        count, channels, height, width = maps.shape
        rows = maps.transpose(0, 2, 3, 1).reshape(-1, channels)
        centre, spread = rows.mean(0), rows.std(0)
        standard = (rows - centre) / spread
        variance, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        first = np.argsort(-variance)[:components]
        weights = (vectors[:, first] / variance[first] ** 0.25) / spread[:, None]
        usual = ((rows - centre) @ weights).reshape(count, height, width, -1).mean(0).transpose(2, 0, 1)
        return Basis(_single(centre), _single(weights), _single(usual))

    def __call__(self, maps: Floats) -> Floats:
        """``maps [N, C, h, w]`` as ``[N, components, h, w]``."""
        moved = (maps.transpose(0, 2, 3, 1) - self.centre) @ self.weights
        return np.asarray(moved.transpose(0, 3, 1, 2) - self.usual, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """A locator that scores the candidate boxes of a label and places the best one.

    ``weights [labels, parts, components]``: on the components of ``basis``. ``head``: the candidate boxes.
    """

    basis: Basis
    weights: Floats
    head: BoxHead
    maps: Floats  # [images, C, h, w]: what ``place`` looks up

    def place(self, image: int, label: str) -> Place | None:
        return self.chosen(label, self.scores(image, label)) if label in self.head.candidates else None

    def scores(self, image: int, label: str) -> Floats:
        """The score of each candidate box of ``label`` in an image: ``[candidates]``."""
        number = self.head.labels.index(label)
        spoken = np.einsum("kc,chw->khw", self.weights[number], self.basis(self.maps[image][None])[0])
        own = self.head.candidates[label]
        sums = sum(
            mean_over(spoken[k][None], rectangles)[:, 0]
            for k, rectangles in enumerate(part_rectangles(own.boxes))
        )
        return np.asarray(own.prior + sums, np.float32)

    def chosen(self, label: str, scores: Floats) -> Place:
        """The best box of ``label`` if its candidates have these scores."""
        found = self.head.choose(label, softmax(scores))
        return Place(found.corners, found.point, found.score)

    def layer(self) -> tuple[Floats, Floats]:
        """The head as one convolution: ``weights [labels·parts, C]`` and ``bias [labels·parts, h, w]``."""
        flat = self.weights.reshape(-1, self.weights.shape[2])
        weights = flat @ self.basis.weights.T
        bias = (
            -np.einsum("kc,chw->khw", flat, self.basis.usual) - (weights @ self.basis.centre)[:, None, None]
        )
        return _single(weights), _single(bias)


def fit(boxes: Sequence[TruthBox], rows: Sequence[int], maps: Floats, recipe: BoxHeadRecipe) -> FittedHead:
    """Fit a head to ``boxes``; ``rows``: the index in ``maps [images, C, h, w]`` of each box's image."""
    random = np.random.default_rng(recipe.seed)
    basis = Basis.from_maps(maps[sorted(set(rows))], recipe.components)
    labels = sorted({box.label for box in boxes})
    numbers = np.array([labels.index(box.label) for box in boxes])
    truth = np.array([corners(box) for box in boxes], np.float32)
    candidates = {label: _candidates(truth[numbers == k], recipe, random) for k, label in enumerate(labels)}
    read = {row: basis(maps[row][None])[0] for row in set(rows)}
    inputs, priors, targets = [], [], []
    for box, number, row in zip(truth, numbers, rows, strict=True):
        own = candidates[labels[number]]
        chosen, wanted = _shown(box, own.boxes, recipe, random)
        inputs.append(_read(read[row], own.boxes[chosen]))
        priors.append(own.prior[chosen])
        targets.append(wanted)
    weights, trust = _learn(np.stack(inputs), np.stack(priors), np.stack(targets), numbers, recipe)
    trusted = {name: Candidates(one.boxes, _single(trust * one.prior)) for name, one in candidates.items()}
    shape = (len(labels), len(PARTS), recipe.components)
    return FittedHead(basis, weights.reshape(shape), BoxHead(trusted), maps)


def _candidates(boxes: Floats, recipe: BoxHeadRecipe, random: np.random.Generator) -> Candidates:
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    made = [boxes]
    for _ in range(recipe.moved):
        middle = centres + random.normal(0, 0.15, centres.shape) * sizes
        half = sizes * np.exp(random.normal(0, 0.2, sizes.shape)) / 2
        made.append(np.clip(np.concatenate([middle - half, middle + half], 1), 0, 1))
    every = np.concatenate(made).astype(np.float32)
    every = every[((every[:, 2:] - every[:, :2]) > 0.015).all(1)]
    return Candidates(every, _single(_log_density(every, boxes)))


def _log_density(boxes: Floats, known: Floats) -> npt.NDArray[np.float64]:
    def described(some: Floats) -> Floats:
        sizes = some[:, 2:] - some[:, :2]
        return np.concatenate(
            [(some[:, :2] + some[:, 2:]) / 2 / PLACE_WIDTH, np.log(np.maximum(sizes, 1e-3)) / SIZE_WIDTH], 1
        )

    distance = ((described(boxes)[:, None] - described(known)[None]) ** 2).sum(2)
    density: npt.NDArray[np.float64] = np.exp(-distance / 2).mean(1)
    return np.log(density + LEAST_DENSITY)


def _shown(
    truth: Floats, boxes: Floats, recipe: BoxHeadRecipe, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Which candidates a training box is shown, a quarter of them its nearest, and what it wants of them."""
    low, high = np.maximum(truth[:2], boxes[:, :2]), np.minimum(truth[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    overlap = common / (areas + np.prod(truth[2:] - truth[:2]) - common)
    nearest = np.argsort(-overlap)[: recipe.shown // 4]
    chosen = np.concatenate([nearest, random.choice(len(boxes), recipe.shown - len(nearest))])
    wanted = overlap[chosen] ** recipe.sharpness + 1e-6
    return chosen, _single(wanted / wanted.sum())


def _read(maps: Floats, boxes: Floats) -> Floats:
    """What the head reads of candidates: ``[M, parts · components]``."""
    return np.concatenate([mean_over(maps, part) for part in part_rectangles(boxes)], 1)


def _learn(
    inputs: Floats, priors: Floats, targets: Floats, labels: npt.NDArray[np.int64], recipe: BoxHeadRecipe
) -> tuple[Floats, float]:
    spread = inputs.std((0, 1))
    x = torch.from_numpy(inputs / spread)
    prior, wanted, which = torch.from_numpy(priors), torch.from_numpy(targets), torch.from_numpy(labels)
    shared = torch.zeros(x.shape[2], requires_grad=True)
    own = torch.zeros(int(labels.max()) + 1, x.shape[2], requires_grad=True)
    trust = torch.full((1,), 0.7, requires_grad=True)
    optimiser = torch.optim.Adam([shared, own, trust], lr=recipe.rate)
    for _ in range(recipe.steps):
        scores = torch.einsum("nmf,nf->nm", x, shared + own[which]) + trust * prior
        loss = -(wanted * torch.log_softmax(scores, 1)).sum(1).mean()
        loss = loss + recipe.decay * (shared.square().sum() + recipe.own * own.square().sum())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return ((shared + own).detach().numpy() / spread), float(trust.detach())


def _single(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float32)
