"""A set: its images with labels, masks, boxes and splits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.base import DataMissing
from ai_training.sets.files import read_grey

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
SYNONYMS = {
    "pleural effusion": "Effusion",
    "pleural fluid": "Effusion",
    "cardiac enlargement": "Cardiomegaly",
    "enlarged heart": "Cardiomegaly",
    "infiltrate": "Infiltration",
    "infiltrates": "Infiltration",
    "lung nodule": "Nodule",
    "pulmonary nodule": "Nodule",
    "lung mass": "Mass",
    "pulmonary mass": "Mass",
    "lung consolidation": "Consolidation",
    "oedema": "Edema",
    "pulmonary edema": "Edema",
    "pulmonary oedema": "Edema",
    "lung oedema": "Edema",
    "pulmonary emphysema": "Emphysema",
    "pulmonary fibrosis": "Fibrosis",
    "lung fibrosis": "Fibrosis",
}
"""Words of CheXpert, PadChest, VinDr-CXR and reports that mean what a label means. What is wider or narrower
is not here: a Lung Lesion is a nodule or a mass, an Enlarged Cardiomediastinum need be no heart, laminar
atelectasis is one kind.
"""
_NOTHING = frozenset({"no finding", "no findings", "normal", "none"})
"""What sets write where there is no finding."""


def _plain(word: str) -> str:
    """Reduce a word to a form without differences of case, spaces, underscores and hyphens."""
    return " ".join(word.casefold().replace("_", " ").replace("-", " ").split())


_KNOWN = {_plain(label): label for label in LABELS} | SYNONYMS


def known_label(word: str) -> str | None:
    """The label of :data:`LABELS` that ``word`` names in any spelling, or by a synonym; None without one."""
    return _KNOWN.get(_plain(word))


def says_nothing(word: str) -> bool:
    """Whether ``word`` says that an image has no finding."""
    return _plain(word) in _NOTHING


YOUNGEST = 16  # years; the model is for adults


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in a file. ``bits``: the bits of a pixel that count; ``outlined``: only the line of an ellipse
    is drawn, and its inside belongs to the mask, also where the picture cuts the ellipse.
    """

    path: Path
    bits: int = 255
    outlined: bool = False

    def read(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]``, at the file's size or resized to ``shape``. Raises
        DataMissing.
        """
        drawn = read_grey(self.path) & self.bits
        rows, columns = shape or drawn.shape
        if abs(drawn.shape[0] / drawn.shape[1] - rows / columns) > 0.01:
            raise DataMissing(f"{self.path} is no mask of its picture: it has another format")
        found = cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_NEAREST)
        if self.outlined:
            points = cv2.findNonZero(found)
            if points is None or len(points) < 5:
                raise DataMissing(f"{self.path} draws no ellipse")
            cv2.ellipse(found, cv2.fitEllipse(points), 255, -1)
        return np.asarray(found > 0)


@dataclass(frozen=True, slots=True)
class SetBox:
    """A box around a finding in a picture of a set. ``corners``: left, top, right, bottom, in pixels of a
    square of ``side`` with the picture in its middle.
    """

    label: str
    corners: tuple[float, float, float, float]
    side: float


@dataclass(frozen=True, slots=True)
class SetImage:
    """One picture of a set, in the form that every reader returns. ``name``: its name in the set.
    ``patient``: the patient's id (no patient is in two splits). ``split``: train, val, test, or "" if the set
    has none. ``labels``: findings that are present; ``unsure``: findings that are neither present nor absent.
    ``masks`` by the outlined structure. ``age`` in years, NaN if unknown. ``source``: the part of the set,
    ``repository``: where that part came from. ``soft``: a teacher model's probabilities of :data:`LABELS`.
    ``measures``: further numbers by name. ``marks``: the labels as numbers in the order of :data:`LABELS`, 0
    or 1, NaN if not known (:func:`chest_set`).
    """

    name: str
    path: Path
    patient: str
    split: str = ""
    labels: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    boxes: tuple[SetBox, ...] = ()
    masks: Mapping[str, MaskFile] = field(default_factory=dict)
    age: float = math.nan
    sex: str = ""
    view: str = ""
    source: str = ""
    repository: str = ""
    soft: tuple[float, ...] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[float, ...] = ()

    @property
    def adult(self) -> bool:
        """Whether the patient is known to be old enough for the intended use."""
        return self.age >= YOUNGEST

    def is_in(self, split: str) -> bool:
        """Whether the image belongs to ``split``; True for every split if the set has none."""
        return self.split in {split, ""}


@dataclass(frozen=True, slots=True)
class TruthBox(SetBox):
    """A box that a radiologist drew, with its image."""

    image: SetImage


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set of images as a reader finds it in a folder, with the facts that a fair measurement needs.
    ``title``: name and source, for model cards. ``labels``: the labels that the set covers. ``notes`` are
    printed with the figures. ``main``: the source whose figures come first. ``natural``: the sources whose
    images were not chosen by disease. ``left_out``: why a label of a source is not measured, by source and
    label.
    """

    title: str
    images: tuple[SetImage, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    main: str = ""
    natural: tuple[str, ...] = ()
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title without its source."""
        return self.title.partition(" (")[0]

    @property
    def boxes(self) -> tuple[TruthBox, ...]:
        """The boxes of all images and of the set's labels."""
        drawn = ((box, image) for image in self.images for box in image.boxes)
        return tuple(
            TruthBox(b.label, b.corners, b.side, image) for b, image in drawn if b.label in self.labels
        )


def corners(box: TruthBox) -> tuple[float, float, float, float]:
    """The corners of a box, ``(left, top, right, bottom)``, as shares of the image's side, cut at the image's
    edges.
    """
    left, top, right, bottom = (min(max(edge / box.side, 0.0), 1.0) for edge in box.corners)
    return left, top, right, bottom


CHEST, FETAL, OVARY = "chest X-rays", "fetal heads", "ovaries"
