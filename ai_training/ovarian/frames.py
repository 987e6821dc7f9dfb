"""Ovarian frames with class and lesion mask, and their five folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from ai_pipeline.models.registry import Chain, reduce
from ai_training.base import DataMissing
from ai_training.sets.files import Grey, read_rgb
from ai_training.sets.images import OVARY, ImageSet, MaskFile, SetImage
from ai_training.sets.layouts import OVARIAN, named_set

SET = "us_ovarian"
LABELS = OVARIAN
"""In the order of the networks' outputs."""
MALIGNANT = ("High-grade_Serous_Cystadenoma",)
NEOPLASMS = (
    "Serous_Cystadenoma",
    "Teratoma",
    "Theca_Cell_Tumor",
    "Mucinous_Cystadenoma",
    *MALIGNANT,
)
"""Tumours, in contrast to endometriotic and simple cysts and to normal ovaries."""
NORMAL = "Ovary_Normal"
FOLDS, FOLD_SEED = 5, 0
CHAIN = Chain(side=208, blur=0.0, jpeg_quality=95, low=0.0, high=99.5)
FEW_MARKS = 30
"""Yellow pixels up to which a frame counts as one without yellow marks (the set's own limit)."""


@dataclass(frozen=True, slots=True)
class OvarianFrame:
    """A frame of :data:`SET`. ``name``: its file in the set; ``label``: index into :data:`LABELS`.

    ``group``: near-duplicates share it; ``split``: train, val or test by group; ``yellow``: number of yellow
    pixels in the published frame, above :data:`FEW_MARKS` if they were not counted.
    """

    name: str
    picture: Path
    mask: MaskFile
    label: int
    group: str
    split: str
    yellow: int

    def rgb(self) -> Grey:
        """Read the frame as RGB ``[rows, columns, 3]``. Raises DataMissing."""
        return read_rgb(self.picture)

    def lesion(self) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]`` of the lesion, or of the ovary in a normal frame. Raises
        DataMissing.
        """
        return self.mask.read()


def ovarian_set(data: Path) -> ImageSet:
    """The set of ovaries that ``data`` names. Raises DataMissing."""
    return named_set(data, SET, OVARY)


def ovarian_frames(data: Path) -> tuple[OvarianFrame, ...]:
    """All frames of the set, in its order. Raises DataMissing, also if a frame has no class or mask."""
    return tuple(map(_frame, ovarian_set(data).images))


def _frame(image: SetImage) -> OvarianFrame:
    """Convert an image of a set to a frame. Raises DataMissing."""
    known = [label for label in LABELS if label in image.labels]
    if len(known) != 1 or len(image.masks) != 1:
        raise DataMissing(f"{image.path}: a mask and one of {', '.join(LABELS)} were expected")
    [mask] = image.masks.values()
    yellow = int(image.measures.get("yellow_overlay_px", FEW_MARKS + 1))
    return OvarianFrame(
        image.name, image.path, mask, LABELS.index(known[0]), image.patient, image.split, yellow
    )


def folds(frames: Sequence[OvarianFrame]) -> npt.NDArray[np.intp]:
    """The cross-validation fold of each frame, 0 to :data:`FOLDS` - 1: groups stay together, every class is
    spread evenly.
    """
    found = np.zeros(len(frames), np.intp)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    labels = [frame.label for frame in frames]
    groups = [frame.group for frame in frames]
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        found[held_out] = fold
    return found


def grey(picture: Grey) -> Grey:
    """Convert a displayed picture, RGB or grey, to grey levels ``[rows, columns]``."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def reduced(pictures: Sequence[Grey]) -> Grey:
    """Reduce displayed pictures by the preprocessing :data:`CHAIN` to ``[N, side, side]``."""
    return np.stack([reduce(grey(picture), CHAIN)[0] for picture in pictures])
