"""What a picture of an image set is, whatever files it was read from."""

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
    """A mask, in one file or united from several. ``bits``: those of a pixel that count; ``outlined``: only
    the line of an ellipse is drawn, and what is inside belongs to the mask, also where the picture cuts it.
    """

    paths: tuple[Path, ...]
    bits: int = 255
    outlined: bool = False

    def read(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
        """``[rows, columns]``, as large as the file or brought to ``shape``. Raises DataMissing."""
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
    """Corners (left, top, right, bottom) of a finding, in pixels of a square of ``side`` in whose middle the
    picture lies.
    """

    label: str
    corners: tuple[float, float, float, float]
    side: float

    @staticmethod
    def in_picture(label: str, corners: tuple[float, ...], rows: int, columns: int) -> SetBox:
        """From corners in pixels of a picture of any format."""
        side = max(rows, columns)
        across, down = (side - columns) / 2, (side - rows) / 2
        left, top, right, bottom = corners
        return SetBox(label, (left + across, top + down, right + across, bottom + down), float(side))


@dataclass(frozen=True, slots=True)
class SetImage:
    """One picture of a set, as every reader gives it.

    ``name``: as its set names it. ``patient``: who is never in two splits. ``split``: train, val, test, or
    empty where the set says nothing. ``labels``: what is there; ``unsure``: what is neither there nor absent.
    ``masks`` by what they outline. ``age`` in years, NaN when unknown. ``source``: the part of the set,
    ``repository``: where it came from. ``soft``: a teacher's probabilities of :data:`LABELS`. ``measures``:
    further numbers by name.
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
    """What a reader makes of a folder. ``title``: name and source, for cards. ``labels``: what the set says
    something of. ``adults``: that whoever has no age is one. The rest as in :class:`ChestSet`.
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
    """One image: where the file is and what is known about it.

    ``labels`` as :data:`LABELS`, 0 or 1, NaN where it is not known. ``soft`` is a teacher's probabilities of
    them. ``split`` is train, val, test, or empty where a manifest says nothing. ``source`` is the part of its
    set, ``repository`` where that came from. ``age`` in years, NaN when unknown; ``grown``: then an adult.
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
        """Whether the patient is old enough for the intended use; False for an unknown age, but in a set of
        adults.
        """
        return self.age >= YOUNGEST or (self.grown and math.isnan(self.age))

    def is_in(self, split: str) -> bool:
        """True when the image belongs to ``split``, or when its manifest has no splits."""
        return self.split in {split, ""}


@dataclass(frozen=True, slots=True)
class TruthBox:
    """A radiologist's box in corner coordinates of an image of ``side`` × ``side`` pixels.

    ``file`` is the image as its list of boxes names it, ``path`` where it is.
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

    ``main`` is the source whose figures come first. ``natural`` are the sources whose images were not chosen
    by disease. ``labels``: the set's labels. ``left_out`` says why a label of a source is not measured.
    ``notes`` are printed with the figures. ``title``: name and source, for cards.
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
