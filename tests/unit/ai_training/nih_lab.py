"""A small NIH ChestX-ray14 download in exactly the real layout, with drawn chests as real PNG files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
FINDINGS = ("No Finding", "Effusion", "Cardiomegaly|Effusion", "Infiltration")
AGES = {1: "058Y", 2: "414", 3: "009Y", 4: "006M"}
"""What the table really holds: letters, ages above 400, children."""


def nih_download(
    folder: Path, patients: int = 40, films: int = 2, side: int = 128, archives: bool = True
) -> Path:
    """Write the download: table, lists, boxes, images (in two archives' folders, or in one ``images/``).

    The last quarter of the patients is the official test list. Effusions are drawn: white bases.
    """
    random = np.random.default_rng(7)
    rows, lists = [HEADER], {"train_val": [], "test": []}
    for number in range(1, patients + 1):
        for film in range(films):
            name = f"{number:08d}_{film:03d}.png"
            found = FINDINGS[(number + film) % len(FINDINGS)]
            age = AGES.get(number, str(30 + number % 50))
            view = "PA" if number % 3 else "AP"
            sex = "F" if number % 2 else "M"
            rows.append(f"{name},{found},{film},{number},{age},{sex},{view},2682,2749,0.143,0.143,")
            lists["train_val" if number <= patients * 3 // 4 else "test"].append(name)
            part = f"images_{1 + number % 2:03d}/images" if archives else "images"
            _write(folder / part / name, _chest("Effusion" in found, "Cardio" in found, side, random), number)
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(lists["train_val"]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(lists["test"]) + "\n")
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{lists['test'][0]},Infiltrate,225.08,547.01,86.77,79.18,,,\n"
        f"{lists['train_val'][0]},Effusion,100.0,700.5,200.0,150.0,,,\n"
        "99999999_000.png,Mass,1,2,3,4,,,\n"
    )
    return folder


def _chest(effusion: bool, large: bool, side: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    image = np.full((side, side), 150, np.uint8)
    for centre in (0.3, 0.7):
        cv2.ellipse(image, (int(centre * side), side // 2), (side // 7, side // 3), 0, 0, 360, 40, cv2.FILLED)
    cv2.ellipse(
        image, (side // 2, int(0.65 * side)), (side // (5 if large else 8), side // 6), 0, 0, 360, 200, -1
    )
    if effusion:
        image[int(0.7 * side) :] = 210
    return np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def _write(path: Path, image: npt.NDArray[np.uint8], number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Some of the real files are RGBA.
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2BGRA) if number % 5 == 0 else image
    assert cv2.imwrite(str(path), picture)
