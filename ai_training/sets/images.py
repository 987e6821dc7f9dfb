"""A picture of an image set as a record, whatever files it was read from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.errors import DataMissing
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
YOUNGEST = 16  # years; the model is for adults
ELLIPSE = 5  # points that an ellipse needs


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """A mask from one file, or the union of several. ``bits``: the bits of a pixel that count; ``outlined``:
    only the line of an ellipse is drawn, and its inside belongs to the mask, also where the picture cuts the
    ellipse.
    """

    paths: tuple[Path, ...]
    bits: int = 255
    outlined: bool = False

    def read(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]``, at the file's size or resized to ``shape``. Raises
        DataMissing.
        """
        parts = [read_grey(path) & self.bits for path in self.paths]
        rows, columns = shape or parts[0].shape
        for path, part in zip(self.paths, parts, strict=True):
            if abs(part.shape[0] / part.shape[1] - rows / columns) > 0.01:
                raise DataMissing(f"{path} is no mask of its picture: it has another format")
        found = np.zeros((rows, columns), np.uint8)
        for part in parts:
            found |= cv2.resize(part, (columns, rows), interpolation=cv2.INTER_NEAREST)
        if self.outlined:
            points = cv2.findNonZero(found)
            if points is None or len(points) < ELLIPSE:
                raise DataMissing(f"{self.paths[0]} draws no ellipse")
            cv2.ellipse(found, cv2.fitEllipse(points), 255, -1)
        return np.asarray(found > 0)


@dataclass(frozen=True, slots=True)
class SetBox:
    """The corners (left, top, right, bottom) of a finding, in pixels of a square of ``side`` with the picture
    in its middle.
    """

    label: str
    corners: tuple[float, float, float, float]
    side: float

    @staticmethod
    def in_picture(label: str, corners: tuple[float, ...], rows: int, columns: int) -> SetBox:
        """A box from corners in pixels of a picture of any format."""
        side = max(rows, columns)
        across, down = (side - columns) / 2, (side - rows) / 2
        left, top, right, bottom = corners
        return SetBox(label, (left + across, top + down, right + across, bottom + down), float(side))


@dataclass(frozen=True, slots=True)
class SetImage:
    """One picture of a set, in the form that every reader returns.

    ``name``: its name in the set. ``patient``: no patient is in two splits. ``split``: train, val, test, or
    empty if the set has none. ``labels``: findings that are present; ``unsure``: findings that are neither
    present nor absent. ``masks`` by the outlined structure. ``age`` in years, NaN if unknown. ``source``: the
    part of the set, ``repository``: where that part came from. ``soft``: a teacher's probabilities of
    :data:`LABELS`. ``measures``: further numbers by name.
    """

    name: str
    path: Path
    patient: str
    split: str = ""
    labels: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    boxes: tuple[SetBox, ...] = ()
    masks: Mapping[str, MaskFiles] = field(default_factory=dict)
    age: float = math.nan
    sex: str = ""
    view: str = ""
    source: str = ""
    repository: str = ""
    soft: tuple[float, ...] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The set that a reader finds in a folder. ``title``: name and source, for cards. ``labels``: the labels
    that the set covers. ``adults``: whether a patient of unknown age is an adult. The rest as in
    :class:`ChestSet`.
    """

    title: str
    images: tuple[SetImage, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adults: bool = False
    main: str = ""
    natural: tuple[str, ...] = ()
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChestImage:
    """One image: its file and the facts known about it.

    ``labels`` as :data:`LABELS`, 0 or 1, NaN if not known. ``soft``: a teacher's probabilities of them.
    ``split`` is train, val, test, or empty if the manifest has none. ``source`` is the part of its set,
    ``repository`` where that part came from. ``age`` in years, NaN if unknown; ``grown``: whether the patient
    is an adult in that case.
    """

    path: Path
    labels: tuple[float, ...]
    soft: tuple[float, ...] | None
    patient: str
    split: str
    source: str
    repository: str
    age: float
    sex: str
    view: str
    grown: bool = False

    @property
    def adult(self) -> bool:
        """Whether the patient is old enough for the intended use; for an unknown age, only in a set of
        adults.
        """
        return self.age >= YOUNGEST or (self.grown and math.isnan(self.age))

    def is_in(self, split: str) -> bool:
        """True when the image belongs to ``split``, or when its manifest has no splits."""
        return self.split in {split, ""}


@dataclass(frozen=True, slots=True)
class TruthBox:
    """A radiologist's box in corner coordinates of an image of ``side`` × ``side`` pixels.

    ``file``: the image's name in the list of boxes, ``path``: where the image is.
    """

    file: str
    label: str
    left: float
    top: float
    right: float
    bottom: float
    split: str
    path: Path = Path()
    side: float = 512.0
    patient: str = ""
    adult: bool = True

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """``(left, top, right, bottom)`` in pixels."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True, slots=True)
class ChestSet:
    """Images with the facts that a fair measurement needs.

    ``main``: the source whose figures come first. ``natural``: the sources whose images were not chosen by
    disease. ``labels``: the set's labels. ``left_out``: why a label of a source is not measured. ``notes``
    are printed with the figures. ``title``: name and source, for cards.
    """

    name: str
    images: tuple[ChestImage, ...]
    boxes: tuple[TruthBox, ...]
    main: str
    natural: tuple[str, ...] = ()
    labels: tuple[str, ...] = LABELS
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    title: str = ""
