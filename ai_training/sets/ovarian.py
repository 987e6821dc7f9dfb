"""Frames of ovaries with class and lesion mask (MMOTU, Q. Zhao et al., arXiv 2207.06799), and their folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from ai_pipeline.models.card import Chain
from ai_pipeline.models.preprocess import reduce
from ai_training.sets.files import read_grey, read_rgb, rows

SET = "us_ovarian"
LABELS = (
    "Chocolate_Cyst",
    "Serous_Cystadenoma",
    "Teratoma",
    "Theca_Cell_Tumor",
    "Simple_Cyst",
    "Ovary_Normal",
    "Mucinous_Cystadenoma",
    "High-grade_Serous_Cystadenoma",
)
"""The classes of the manifest, in the order of the networks' outputs."""
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
MEAN, SCALE = 127.0, 128.0  # EfficientNet-Lite's own normalisation of 0..255
FEW_MARKS = 30
"""Yellow pixels up to which a frame counts as one without yellow marks (the set's own limit)."""
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OvarianFrame:
    """A frame of :data:`SET`. ``name``: its file in the manifest; ``label``: index into :data:`LABELS`.

    ``group``: near-duplicates share it; ``split``: train, val or test by group; ``yellow``: how many pixels
    of the published frame are yellow.
    """

    name: str
    picture: Path
    mask: Path
    label: int
    group: str
    split: str
    yellow: int

    def rgb(self) -> Grey:
        """``[rows, columns, 3]``. Raises DataMissing."""
        return read_rgb(self.picture)

    def lesion(self) -> npt.NDArray[np.bool_]:
        """The mask of the lesion, of the ovary in normal frames: ``[rows, columns]``. Raises DataMissing."""
        return np.asarray(read_grey(self.mask) > 0)


def ovarian_frames(data: Path) -> tuple[OvarianFrame, ...]:
    """All frames of the manifest, in its order. Raises DataMissing."""
    folder = data / SET
    return tuple(
        OvarianFrame(
            row["file"],
            folder / row["file"],
            folder / row["mask"],
            LABELS.index(row["label"]),
            row["group"],
            row["split"],
            int(row["yellow_overlay_px"]),
        )
        for row in rows(folder / "manifest.csv")
    )


def folds(frames: Sequence[OvarianFrame]) -> npt.NDArray[np.intp]:
    """The fold of each frame, 0 to :data:`FOLDS` - 1: by group, with every class in its share."""
    found = np.zeros(len(frames), np.intp)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    labels = [frame.label for frame in frames]
    groups = [frame.group for frame in frames]
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        found[held_out] = fold
    return found


def grey(picture: Grey) -> Grey:
    """A displayed picture, RGB or grey already, as grey levels ``[rows, columns]``."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def reduced(pictures: Sequence[Grey]) -> Grey:
    """Displayed pictures through :data:`CHAIN`: ``[N, side, side]``."""
    return np.stack([reduce(grey(picture), CHAIN)[0] for picture in pictures])
