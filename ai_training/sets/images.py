"""What a set of chest X-ray images is, whatever files it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class ChestImage:
    """One image: where the file is and what is known about it.

    ``labels`` as :data:`LABELS`, 0 or 1. ``soft`` is a teacher's probabilities of them. ``split`` is train,
    val, test, or empty where a manifest says nothing. ``source`` is the folder of its set, ``repository``
    where that came from. ``age`` in years, NaN when unknown.
    """

    path: Path
    labels: tuple[int, ...]
    soft: tuple[float, ...] | None
    patient: str
    split: str
    source: str
    repository: str
    age: float
    sex: str
    view: str

    @property
    def adult(self) -> bool:
        """Whether the patient is old enough for the intended use; False for an unknown age."""
        return self.age >= YOUNGEST

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
    ``notes`` are printed with the figures.
    """

    name: str
    images: tuple[ChestImage, ...]
    boxes: tuple[TruthBox, ...]
    main: str
    natural: tuple[str, ...] = ()
    labels: tuple[str, ...] = LABELS
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
