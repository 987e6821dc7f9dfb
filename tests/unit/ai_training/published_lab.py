"""Image sets in miniature, exactly as they are published: names, tables, quirks; the pictures are drawn."""

import csv
import gzip
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ai_training.sets.images import LABELS
from tests.modality import chest
from tests.unit.chests import drawn_chest
from tests.unit.heads import HEAD, drawn_head

Grey = np.ndarray


def film(number: int) -> Grey:
    """A drawn chest, each with its own noise."""
    grey, _ = drawn_chest(96, heart=0.35 + 0.2 * (number % 2))
    return noise(grey, 8, np.random.default_rng(number))


def noise(grey: Grey, level: float, random: np.random.Generator) -> Grey:
    return np.clip(grey + random.normal(0, level, grey.shape), 0, 255).astype(np.uint8)


def frame(number: int, rows: int = 96, columns: int = 128) -> tuple[Grey, Grey]:
    """A frame of clouds, unlike every other, with a bright lesion; its mask, 0 and 255."""
    clouds = np.random.default_rng(number).integers(0, 120, (12, 16), np.uint8)
    picture = np.asarray(cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_CUBIC), np.uint8)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.ellipse(mask, (columns // 2, rows // 2), (20 + number % 9, 14), 0, 0, 360, 255, -1)
    return np.where(mask > 0, np.uint8(200), picture), mask


def picture(path: Path, pixels: Grey) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def dicom(path: Path, pixels: Grey, *, inverted: bool = False) -> None:
    """A film in DICOM, ``inverted``: as MONOCHROME1."""
    stored = pixels.astype(np.uint16) << 4
    ds = chest(path.stem, 4095 - stored if inverted else stored)
    if inverted:
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    ds.save_as(path, enforce_file_format=True)


def table(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def public(folder: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """A set as it is fetched: pictures, their masks, and a manifest of these columns beside both."""
    listed = []
    for number, (pixels, mask, *more) in enumerate(rows):
        names = (f"images/{number}.png", f"masks/{number}.png")
        for name, drawn in zip(names, (pixels, mask), strict=True):
            picture(folder / name, drawn)
        listed.append((*names, *more))
    table(folder / "manifest.csv", ("file", "mask", *columns), listed)
    return folder


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_FINDINGS = ("No Finding", "Effusion", "Cardiomegaly|Effusion", "Infiltration")
NIH_AGES = {1: "058Y", 2: "414", 3: "009Y", 4: "006M"}
"""What the table really holds: letters, ages above 400, children."""


def nih_download(folder: Path, patients: int = 40, side: int = 128, archives: bool = True) -> Path:
    """NIH ChestX-ray14: table, lists, boxes, images (in two archives' folders, or in one ``images/``).

    The last quarter of the patients is the official test list. Effusions are drawn: white bases.
    """
    random, rows = np.random.default_rng(7), []
    lists = {"train_val": [], "test": []}
    for number, film in product(range(1, patients + 1), range(2)):
        name, found = f"{number:08d}_{film:03d}.png", NIH_FINDINGS[(number + film) % len(NIH_FINDINGS)]
        person = (number, NIH_AGES.get(number, 30 + number % 50), "MF"[number % 2])
        rows.append((name, found, film, *person, "PA" if number % 3 else "AP", 2682, 2749, 0.143, 0.143, ""))
        lists["train_val" if number <= patients * 3 // 4 else "test"].append(name)
        grey, _ = drawn_chest(side, heart=0.55 if "Cardio" in found else 0.35)
        grey[int(0.7 * side) if "Effusion" in found else side :] = 210
        pixels = noise(grey, 12, random)
        part = f"images_{1 + number % 2:03d}/images" if archives else "images"
        # Some of the real files are RGBA.
        picture(folder / part / name, pixels if number % 5 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGRA))
    table(folder / "Data_Entry_2017.csv", NIH_HEADER.split(","), rows)
    for part, names in lists.items():
        (folder / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{lists['test'][0]},Infiltrate,225.08,547.01,86.77,79.18,,,\n"
        f"{lists['train_val'][0]},Effusion,100.0,700.5,200.0,150.0,,,\n"
        "99999999_000.png,Mass,1,2,3,4,,,\n"
    )
    return folder


def drawn_chest_set(folder: Path, patients: int = 36, side: int = 64) -> Path:
    """Two images of each of so many patients, in the three splits in turn; returns ``manifest.csv``.

    Every third patient has Cardiomegaly and a wide heart, every sixth Edema too; the others have no finding.
    """
    random, rows = np.random.default_rng(3), []
    for patient, number in product(range(patients), range(2)):
        sick, name = patient // 3 % 2 == 0, f"images/{patient}-{number}.png"
        found = {"Cardiomegaly": sick, "Edema": patient // 3 % 4 == 0}
        picture(folder / name, noise(drawn_chest(side, heart=0.55 if sick else 0.35)[0], 12, random))
        marks = (int(found.get(label, False)) for label in LABELS)
        rows.append((name, f"p{patient}", 50, ("train", "val", "test")[patient % 3], *marks))
    return table(folder / "manifest.csv", ("file", "patient_id", "age", "split", *LABELS), rows)


def hc18(folder: Path) -> Path:
    """HC18: line drawings of ellipses, 010_HC.png and 010_2HC.png of one examination, a test set without."""
    names = [f"{number:03d}_HC" for number in range(12)] + ["010_2HC", "010_3HC", "004_2HC"]
    pixels, mask = drawn_head()
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = cv2.drawContours(np.zeros_like(pixels), outlines, -1, 255, 1)
    for number, name in enumerate(names):
        picture(folder / f"training_set/{name}.png", noise(pixels, 3, np.random.default_rng(number)))
        picture(folder / f"training_set/{name}_Annotation.png", line)
    picture(folder / "test_set/000_HC.png", pixels)
    rows = [(f"{name}.png", 0.2, round(HEAD.circumference * 0.2, 2)) for name in names]
    header = ("filename", "pixel size(mm)", "head circumference (mm)")
    table(folder / "training_set_pixel_size_and_HC.csv", header, rows)
    table(folder / "test_set_pixel_size.csv", header[:2], [("000_HC.png", 0.2)])
    return folder


def otu(folder: Path, of_each: int = 7) -> Path:
    """MMOTU's OTU_2d: coloured, binary and doubly binary masks, two blanks before the class, CRLF.

    Frame 2 is nearly frame 1; the first frame of val is nearly the first of train.
    """
    root, lists = folder / "OTU_2d", {"train": range(1, 8 * of_each + 1)}
    lists["val"] = range(8 * of_each + 1, 8 * of_each + 9)
    for number in (*lists["train"], *lists["val"]):
        pixels, mask = frame(1 if number in {2, lists["val"].start} else number)
        picture(root / f"images/{number}.JPG", cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
        colours = np.where(mask[..., None] > 0, (0, 64 + 16 * ((number - 1) % 8), 128), 0).astype(np.uint8)
        for suffix, drawn in (("", colours), ("_binary", mask), ("_binary_binary", mask)):
            picture(root / f"annotations/{number}{suffix}.PNG", drawn)
    for part, numbers in lists.items():
        (root / f"{part}.txt").write_bytes("\r\n".join(map(str, numbers)).encode())
        classes = "\r\n".join(f"{number}.JPG  {(number - 1) % 8}" for number in numbers)
        (root / f"{part}_cls.txt").write_bytes(classes.encode())
    return root


def anatomy(folder: Path) -> Path:
    """Two drawn chests in each split, as the public set is laid out: the organs are bits of one mask."""
    rows = []
    for number, split in enumerate(["train", "val", "test"] * 2):
        grey, organs = drawn_chest(200 + 8 * number)
        rows.append((grey, np.packbits(organs, axis=0, bitorder="little")[0], f"p{number}", "", split))
    return public(folder / "cxr_anatomy", ("patient", "ctr", "split"), rows).parent
