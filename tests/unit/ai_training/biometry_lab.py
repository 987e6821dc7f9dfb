"""A small set in the layout of the fetal head biometry archives (doi 10.5281/zenodo.8265464)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

LABELS = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nBrain:255,0,0::\nLV:0,0,255::\nCSP:{csp}::\n"
FOLDERS = {
    "Trans-thalamic": ("Trans-thalamic", "Trans-thalamic-Segmentation", (0, 255, 0)),
    "Trans-ventricular": ("Trans-ventricular", "Trans-ventricular-Segmentation", (0, 255, 0)),
    "Trans-cerebellum": ("Trans-cerebellum", "Trans-cerebellum-Segmentation", (0, 255, 0)),
    "Diverse Fetal Head Images": (
        "Orginal_train_images_to_959_661",
        "Test-Dataset-Segmentation",
        (255, 255, 0),
    ),
}
"""Group → folder of the frames, folder of the masks, colour of the cavum septi pellucidi."""


def biometry_set(folder: Path, patients: int = 10) -> Path:
    """Two frames of each patient in each group, 66 × 96 pixels, with all three classes."""
    random = np.random.default_rng(1)
    for number, (group, (frames, masks, csp)) in enumerate(FOLDERS.items()):
        there = folder / group / masks
        (folder / group / frames).mkdir(parents=True)
        (there / "SegmentationClass").mkdir(parents=True)
        (there / "SegmentationObject").mkdir()
        (there / "labelmap.txt").write_text(LABELS.format(csp=",".join(map(str, csp))))
        for patient in range(patients):
            for frame in (1, 2):
                name = f"Patient{patient:05d}_Plane{number}_{frame}_of_2.png"
                if group.startswith("Diverse"):
                    name = f"{patient:03d}_HC.png" if frame == 1 else f"{patient:03d}_2HC.png"
                picture = random.integers(0, 60, (66, 96)).astype(np.uint8)
                picture[10:50, 20:80] += 100
                cv2.imwrite(str(folder / group / frames / name), picture)
                mask = classes_drawn(csp)[..., ::-1]
                cv2.imwrite(str(there / "SegmentationClass" / name), mask)
                cv2.imwrite(str(there / "SegmentationObject" / name), mask)
    return folder


def classes_drawn(csp: tuple[int, int, int]) -> np.ndarray:
    """Red, green, blue: a brain with ventricles and a cavum in it."""
    mask = np.zeros((66, 96, 3), np.uint8)
    mask[10:50, 20:80] = (255, 0, 0)
    mask[20:26, 30:50] = (0, 0, 255)
    mask[35:40, 55:65] = csp
    return mask
