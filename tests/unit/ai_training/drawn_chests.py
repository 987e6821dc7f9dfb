"""A manifest of drawn chests: every split, patients with several images."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

from ai_training.sets.images import LABELS
from tests.unit.chests import drawn_chest


def drawn_chest_set(folder: Path, patients: int = 36, side: int = 64) -> Path:
    """Two images of each of so many patients, in the three splits in turn; returns ``manifest.csv``.

    Every third patient has Cardiomegaly and a wide heart, every sixth Edema too; the others have no finding.
    """
    random = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in range(patients):
        sick = patient // 3 % 2 == 0
        found = {"Cardiomegaly": sick, "Edema": patient // 3 % 4 == 0}
        for number in range(2):
            grey, _ = drawn_chest(side, heart=0.55 if sick else 0.35)
            noisy = np.clip(grey + random.normal(0, 12, grey.shape), 0, 255).astype(np.uint8)
            name = f"images/{patient}-{number}.png"
            cv2.imwrite(str(folder / name), noisy)
            split = ("train", "val", "test")[patient % 3]
            marks = [int(found.get(label, False)) for label in LABELS]
            rows.append((name, f"p{patient}", 50, split, *marks))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "patient_id", "age", "split", *LABELS), *rows])
    return manifest
