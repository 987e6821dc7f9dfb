"""Image sets in miniature, exactly as they are published: names, tables, quirks; the pictures are drawn."""

import csv
import gzip
import json
import warnings
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ai_training.sets.images import LABELS
from ai_training.sets.published import FINDINGS
from tests.modality import chest
from tests.unit.chests import drawn_chest
from tests.unit.heads import HEAD, drawn_head

Grey = np.ndarray
BOX = (20.0, 30.0, 50.0, 60.0)
VINDR_LABELS = (
    "Aortic enlargement",
    "Cardiomegaly",
    "Nodule/Mass",
    "Pleural effusion",
    "Pneumonia",
    "No finding",
)


def film(number: int, side: int = 96, columns: int | None = None) -> Grey:
    """A drawn chest, each with its own noise."""
    grey, _ = drawn_chest(side, heart=0.35 + 0.2 * (number % 2))
    noisy = noise(grey, 8, np.random.default_rng(number))
    return np.asarray(cv2.resize(noisy, (columns or side, side)), np.uint8)


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


def dicom(
    path: Path, pixels: Grey, *, age: str = "", sex: str = "", patient: str = "", inverted: bool = False
) -> None:
    """A film in DICOM, ``inverted``: as MONOCHROME1; what is empty is missing, as anonymisers leave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels.astype(np.uint16) << 4
    ds = chest(path.stem, 4095 - stored if inverted else stored)
    if inverted:
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    with warnings.catch_warnings(action="ignore"):  # RSNA writes ages without Y
        ds.PatientAge, ds.PatientSex, ds.PatientID = age, sex, patient
    for name in [name for name in ("PatientAge", "PatientSex", "PatientID") if not getattr(ds, name)]:
        delattr(ds, name)
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


def nih_download(
    folder: Path, patients: int = 40, films: int = 2, side: int = 128, archives: bool = True
) -> Path:
    """NIH ChestX-ray14: table, lists, boxes, images (in two archives' folders, or in one ``images/``).

    The last quarter of the patients is the official test list. Effusions are drawn: white bases.
    """
    random, rows = np.random.default_rng(7), []
    lists: dict[str, list[str]] = {"train_val": [], "test": []}
    for number, film in product(range(1, patients + 1), range(films)):
        name, found = f"{number:08d}_{film:03d}.png", NIH_FINDINGS[(number + film) % len(NIH_FINDINGS)]
        person = (number, NIH_AGES.get(number, 30 + number % 50), "MF"[number % 2])
        rows.append((name, found, film, *person, "PA" if number % 3 else "AP", 2682, 2749, 0.143, 0.143, ""))
        lists["train_val" if number <= patients * 3 // 4 else "test"].append(name)
        pixels = noise(_nih_chest("Effusion" in found, "Cardio" in found, side), 12, random)
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


def _nih_chest(effusion: bool, large: bool, side: int) -> Grey:
    image = np.full((side, side), 150, np.uint8)
    for centre in (0.3, 0.7):
        cv2.ellipse(image, (int(centre * side), side // 2), (side // 7, side // 3), 0, 0, 360, 40, cv2.FILLED)
    heart = (side // (5 if large else 8), side // 6)
    cv2.ellipse(image, (side // 2, int(0.65 * side)), heart, 0, 0, 360, 200, -1)
    image[int(0.7 * side) if effusion else side :] = 210
    return image


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


def chexpert(folder: Path, patients: int = 16) -> Path:
    """CheXpert-v1.0-small: a lateral film of each first patient, -1 and blank, an unknown sex."""
    root = folder / "CheXpert-v1.0-small"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS)
    for part, numbers in (("train", range(1, patients + 1)), ("valid", range(64541, 64545))):
        rows = []
        for number in numbers:
            study, marks = f"{part}/patient{number:05d}/study1", dict.fromkeys(FINDINGS, "")
            marks["Cardiomegaly"], marks["Pleural Effusion"] = ("1.0", "0.0") if number % 2 else ("", "1.0")
            marks["Pneumonia"] = "-1.0" if part == "train" else "0.0"
            sex = "Unknown" if number == 3 else ("Male", "Female")[number % 2]
            views = [("view1_frontal", "Frontal", "AP"), ("view2_lateral", "Lateral", "")]
            for view, side, position in views[: 1 + (number == 1)]:
                name = f"{study}/{view}.jpg"
                picture(root / name, film(number))
                rows.append((f"{root.name}/{name}", sex, 40, side, position, "", *marks.values()))
        table(root / f"{part}.csv", header, rows)
    return root


def mimic(folder: Path, patients: int = 6) -> Path:
    """MIMIC-CXR-JPG 2.0.0: packed tables, labels of studies, lateral views, a study without labels."""
    splits, labels, metadata = [], [], []
    for number in range(patients):
        subject, study = f"1000{number:04d}", f"5000{number:04d}"
        marks = {"Edema": "1.0" * (number % 2), "Pneumonia": "-1.0"}
        labels.append((subject, study, *(marks.get(name, "") for name in FINDINGS)))
        for view in ("PA", "LATERAL"):
            name = f"{number:08x}-{view.lower()}"
            picture(folder / f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg", film(number))
            splits.append((name, study, subject, ("train", "validate", "test")[number % 3]))
            metadata.append((name, subject, study, view))
    table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *FINDINGS), labels[1:])
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", columns, metadata)
    return folder


def vindr(folder: Path, images: int = 16) -> Path:
    """VinDr-CXR of PhysioNet: three readers of each train image, a consensus of each test image.

    All readers see an effusion on every second film, one of three cardiomegaly. The first film is oblong.
    """
    for part, count, readers in (("train", images, ("R1", "R8", "R10")), ("test", 4, ("",))):
        labels, boxes = [], []
        for number, reader in product(range(count), readers):
            image, by = f"{part}{number:04x}", (reader,) if reader else ()
            seen = {"Pleural effusion": number % 2 == 0, "Cardiomegaly": reader == "R8"}
            marks = [int(seen.get(name, False)) for name in VINDR_LABELS[:-1]]
            labels.append((image, *by, *marks, int(not any(marks))))
            found = [(name, *(edge + len(reader) for edge in BOX)) for name, there in seen.items() if there]
            boxes += [(image, *by, *box) for box in found or [("No finding", "", "", "", "")]]
        for number in range(count):
            age, columns = "" if number % 4 else "061Y", None if number else 64
            pixels = film(number, columns=columns)
            dicom(folder / part / f"{part}{number:04x}.dicom", pixels, age=age, inverted=number % 3 == 0)
        rad = ("rad_id",) if part == "train" else ()
        table(folder / f"annotations/image_labels_{part}.csv", ("image_id", *rad, *VINDR_LABELS), labels)
        header = ("image_id", *rad, "class_name", "x_min", "y_min", "x_max", "y_max")
        table(folder / f"annotations/annotations_{part}.csv", header, boxes)
    return folder


def rsna(folder: Path, images: int = 20, mapping: bool = True) -> Path:
    """RSNA's stage 2: two rows for an image with two boxes; two images of one person, a child."""
    rows, known = [], []
    for number in range(images):
        image = f"{number:08d}-aaaa-4bbb-8ccc-ddddeeeeffff"
        age = "9" if number == 2 else str(30 + number)
        dicom(folder / f"stage_2_train_images/{image}.dcm", film(number), age=age, sex="F", patient=image)
        boxes = [(*BOX[:2], 30.0, 30.0), (5.0, 6.0, 10.0, 20.0)][: 2 * (number % 2)]
        rows += [(image, *box, 1) for box in boxes] or [(image, "", "", "", "", 0)]
        known.append({"subset_img_id": image, "img_id": f"{number // 2:08d}_{number % 2:03d}.png"})
    table(folder / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), rows)
    if mapping:
        (folder / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(known))
    return folder


def hc18(folder: Path, examinations: int = 12) -> Path:
    """HC18: line drawings of ellipses, 010_HC.png and 010_2HC.png of one examination, a test set without."""
    names = [f"{number:03d}_HC" for number in range(examinations)] + ["010_2HC", "010_3HC", "004_2HC"]
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


def otu(folder: Path, of_each: int = 7, val: int = 1) -> Path:
    """MMOTU's OTU_2d: coloured, binary and doubly binary masks, two blanks before the class, CRLF.

    Frame 2 is nearly frame 1; the first frame of val is nearly the first of train.
    """
    root, lists = folder / "OTU_2d", {"train": range(1, 8 * of_each + 1)}
    lists["val"] = range(8 * of_each + 1, 8 * (of_each + val) + 1)
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


def jsrt(folder: Path, films: int = 8, side: int = 2048) -> Path:
    """JSRT and SCR: raw words without a header, dark where bright; masks of 1,024 squares as GIF."""
    grey, (heart, right, left) = drawn_chest(side // 2)
    large = cv2.resize(grey, (side, side), interpolation=cv2.INTER_NEAREST)
    words = (4095 - large.astype(np.uint16) * 16).astype(">u2").tobytes()
    masks = {"heart": heart, "right lung": right, "left lung": left}
    masks |= dict.fromkeys(("right clavicle", "left clavicle"), np.zeros_like(heart))
    (folder / "All247images").mkdir(parents=True)
    for number in range(1, films + 1):
        stem = f"JPC{'LN' if number % 2 else 'NN'}{number:03d}"
        (folder / f"All247images/{stem}.IMG").write_bytes(words)
        for name, drawn in masks.items():
            path = folder / f"scratch/fold{2 - number % 2}/masks/{name}/{stem}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn.astype(np.uint8) * 255).save(path)
    return folder


def own_folder(folder: Path) -> Path:
    """Pictures in folders that are named as their labels."""
    for label in ("Cardiomegaly", "No Finding"):
        for number in range(12):
            picture(folder / label / f"{number}.png", film(number))
    return folder
