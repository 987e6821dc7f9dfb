"""Do the heat maps show where a finding is, and do they depend on what the network has learned?

A map must pass two checks before a radiologist is shown it:

* **Pointing game** (Zhang et al., ECCV 2016) and energy (share of the map inside the box, Wang et al., CVPRW
  2020) on the radiologists' boxes, against two maps that do not use the image: a fixed Gaussian in the image
  centre, and the density of the label's boxes in the train split. A map that does not beat both says nothing
  about the patient.
* **Randomisation** (:mod:`ai_training.evaluation.saliency.randomised`): a map that stays the same when
  layers are re-initialised does not depend on what was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ai_pipeline.chest.classifier import Analysis, Classifier
from ai_pipeline.chest.explain import Activation, heatmap
from ai_pipeline.errors import NotThisNetwork
from ai_pipeline.models.inputs import network_input
from ai_training.evaluation.saliency.gradcam import last_feature_maps, signed_grad_cam
from ai_training.evaluation.saliency.randomised import Explain, Map, randomisation
from ai_training.metrics import mean_interval, patient_weights
from ai_training.networks.classifier import torch_network
from ai_training.sets.chest import truth_boxes
from ai_training.sets.files import read_grey
from ai_training.sets.images import TruthBox

AT_ONCE = 4  # images whose feature maps are held with their gradients: 50 MB each
CENTRE_SPREAD = 0.25  # standard deviation of the centre prior, as a share of the image's side
IMAGES = 24  # of the randomisation check, each of another patient
PLACE_HEAD = ("", "place")  # of PlacedClassifier: the usual places, and the layer that reads the maps


def saliency_figures(
    data: Path, split: str, classifier: Classifier, *, most: int | None = None
) -> dict[str, Any]:
    """Both checks of the shipped maps on the adults' boxes of ``split``; every interval is 95 %, by patient.

    ``shown``: the map behind the heat map; ``grad_cam``: Grad-CAM of the label's logit (for the shipped model
    equal to its class activation); ``centre`` and ``constant``: the two maps that do not use the image. For a
    network that torch cannot build, only the pointing game of ``shown``. ``most``: number of boxes, for a
    quick look. Empty if ``data`` has no box for a label of the model. Raises DataMissing or CardError.
    """
    boxes = [box for box in truth_boxes(data) if box.adult]
    asked = [box for box in boxes if box.split == split][:most]
    questions = [found for box in asked if (found := _Question.from_box(box, classifier)) is not None]
    if not questions:
        return {}
    try:
        explained = _Explained(torch_network(classifier.card), questions)
    except NotThisNetwork:
        explained = None
    prior = constant_maps([box for box in boxes if box.split == "train"])
    flat = np.ones((2, 2), np.float32)  # of a label that has no train box to learn a place from
    maps = {
        "shown": [question.enlarged(question.shown()) for question in questions],
        **({"grad_cam": explained.enlarged()} if explained else {}),
        "centre": [centre_prior(question.side) for question in questions],
        "constant": [_resized(prior.get(question.box.label, flat), question.side) for question in questions],
    }
    return {
        "boxes": len(questions),
        "patients": len({question.box.patient for question in questions}),
        **pointing_game([question.box for question in questions], maps),
        **({"randomisation": explained.randomised()} if explained else {}),
    }


def pointing_game(boxes: Sequence[TruthBox], maps: Mapping[str, Sequence[Map]]) -> dict[str, Any]:
    """Pointing (is the peak in the box?) and energy (share of the map in the box) of each method.

    ``maps``: for each method one map per box, ``[side, side]``, any scale; values below 0 count as 0 in the
    energy. The first method is compared with each of the others in pairs (``"shown - centre"``).
    """
    weights = patient_weights([box.patient for box in boxes])
    games: dict[str, dict[str, npt.NDArray[np.float64]]] = {
        "pointing": {name: _each(_points_at, boxes, found) for name, found in maps.items()},
        "energy": {name: _each(_energy, boxes, found) for name, found in maps.items()},
    }
    first, *others = maps
    return {
        game: {
            **{name: mean_interval(values, weights).as_list() for name, values in scores.items()},
            **{
                f"{first} - {other}": mean_interval(scores[first] - scores[other], weights).as_list()
                for other in others
            },
        }
        for game, scores in games.items()
    }


def centre_prior(side: int) -> Map:
    """A Gaussian in the centre of an image of ``side`` pixels, peak 1: a baseline that a map must beat."""
    places = (np.arange(side) + 0.5) / side - 0.5
    falls = np.exp(-0.5 * (places / CENTRE_SPREAD) ** 2)
    return np.asarray(np.outer(falls, falls), np.float32)


def constant_maps(boxes: Sequence[TruthBox], side: int = 512) -> dict[str, Map]:
    """For every label of ``boxes`` the share of its boxes that cover each place, ``[side, side]``."""
    found: dict[str, Map] = {}
    for label in {box.label for box in boxes}:
        own = [box for box in boxes if box.label == label]
        total = np.zeros((side, side), np.float32)
        for box in own:
            total[_inside(box, side)] += 1.0 / len(own)
        found[label] = total
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """Where is this label in this image? With what the run-time classifier has found and was given."""

    box: TruthBox
    label: int
    image: Tensor
    analysis: Analysis
    classifier: Classifier

    @staticmethod
    def from_box(box: TruthBox, classifier: Classifier) -> _Question | None:
        """None where the model does not know the label or does not say where."""
        card = classifier.card
        names = [label.name for label in card.labels]
        if box.label not in names or card.input is None:
            return None
        grey = read_grey(box.path)
        image = torch.from_numpy(network_input(grey, card.input)[0])
        found = classifier.analyse(grey)
        label = names.index(box.label)
        known = classifier.activation(found, label) is not None
        return _Question(box, label, image, found, classifier) if known else None

    @property
    def side(self) -> int:
        return self.analysis.rows

    def shown(self, places: Map | None = None) -> Map:
        """The map that the heat map draws; with ``places [labels, h, w]`` in place of the network's own."""
        analysis = self.analysis if places is None else replace(self.analysis, places=places)
        found = self.classifier.activation(analysis, self.label)
        assert found is not None  # as of() has seen
        return found.values

    def enlarged(self, values: Map) -> Map:
        """``values`` in the network's grid at the image's size, stretched: 0 stays 0, the peak is 1."""
        low, high = min(float(values.min()), 0.0), float(values.max())
        span, size = (high - low) or 1.0, int(self.image.shape[-1])
        unit = ((values - low) / span).astype(np.float32)
        found = heatmap(Activation(unit, size, self.analysis.to_model, self.side, self.side))
        return np.asarray(found.values + low / span, np.float32)


class _Explained:
    """The questions put to a torch network, all at once."""

    def __init__(self, network: nn.Module, questions: Sequence[_Question]) -> None:
        self._network = network
        self._questions = questions
        self._layer = last_feature_maps(network, questions[0].image)

    def enlarged(self) -> list[Map]:
        """Grad-CAM of each question at the size of its image."""
        maps = self._grad_cams(self._network, self._questions)
        return [found.enlarged(values) for found, values in zip(self._questions, maps, strict=True)]

    def randomised(self) -> dict[str, Any]:
        """The randomisation check of the shown maps and of Grad-CAM, on one question a patient.

        The place head holds the usual place of each label; with it left as trained, one sees how much of the
        shown map comes from the network below.
        """
        chosen = list({question.box.patient: question for question in self._questions}.values())[:IMAGES]
        images = torch.cat([question.image for question in chosen])
        patients = [question.box.patient for question in chosen]

        def shown(network: nn.Module, images: Tensor) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                places = network(images)[2].numpy()
            return np.stack([question.shown(own) for question, own in zip(chosen, places, strict=True)])

        def grad_cam(network: nn.Module, _images: Tensor) -> npt.NDArray[np.float32]:
            return self._grad_cams(network, chosen)

        checks: list[tuple[str, Explain, Collection[str]]] = [("shown", shown, ())]
        if PLACE_HEAD[-1] in dict(self._network.named_children()):
            checks.append(("shown, place head kept", shown, PLACE_HEAD))
        checks.append(("grad_cam", grad_cam, PLACE_HEAD))
        stages = {
            name: randomisation(self._network, images, patients, explain, spared=spared)
            for name, explain, spared in checks
        }
        return {"images": len(chosen)} | {
            name: [asdict(stage) for stage in found] for name, found in stages.items()
        }

    def _grad_cams(self, network: nn.Module, questions: Sequence[_Question]) -> npt.NDArray[np.float32]:
        """One map a question; those with the same label pass the network a few at a time."""
        found: dict[int, Map] = {}
        for label in {question.label for question in questions}:
            rows = [row for row, question in enumerate(questions) if question.label == label]
            for few in (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)):
                images = torch.cat([questions[row].image for row in few])
                maps = signed_grad_cam(network, images, label, self._layer).numpy()
                found |= dict(zip(few, maps, strict=True))
        return np.stack([found[row] for row in range(len(questions))])


def _each(
    score: Callable[[TruthBox, Map], float], boxes: Sequence[TruthBox], maps: Sequence[Map]
) -> npt.NDArray[np.float64]:
    return np.array([score(box, found) for box, found in zip(boxes, maps, strict=True)])


def _points_at(box: TruthBox, values: Map) -> float:
    # A little blur makes the centre of a plateau its peak.
    row, column = np.unravel_index(int(np.argmax(cv2.blur(values, (9, 9)))), values.shape)
    scale = box.side / values.shape[0]
    x, y = (column + 0.5) * scale, (row + 0.5) * scale
    return float(box.left <= x <= box.right and box.top <= y <= box.bottom)


def _energy(box: TruthBox, values: Map) -> float:
    positive = np.maximum(values, 0.0)
    return float(positive[_inside(box, values.shape[0])].sum() / max(float(positive.sum()), 1e-12))


def _inside(box: TruthBox, side: int) -> tuple[slice, slice]:
    left, top, right, bottom = (edge * side / box.side for edge in box.corners)
    return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def _resized(values: Map, side: int) -> Map:
    return np.asarray(cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
