"""Image sets in miniature, exactly as they are published: names, tables, quirks; the pictures are drawn."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_training.sets.published import FINDINGS
from tests.modality import chest
from tests.unit.chests import drawn_chest
from tests.unit.heads import HEAD, drawn_head

Grey = npt.NDArray[np.uint8]
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
    noise = np.random.default_rng(number).normal(0, 8, grey.shape)
    noisy = np.clip(grey + noise, 0, 255).astype(np.uint8)
    return noisy if columns is None else np.asarray(cv2.resize(noisy, (columns, side)), np.uint8)


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
    for name in ("PatientAge", "PatientSex", "PatientID"):
        if not getattr(ds, name):
            delattr(ds, name)
    ds.save_as(path, enforce_file_format=True)


def table(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def chexpert(folder: Path, patients: int = 16) -> Path:
    """CheXpert-v1.0-small: a lateral film of each first patient, -1 and blank, an unknown sex."""
    root = folder / "CheXpert-v1.0-small"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS)
    for part, numbers in (("train", range(1, patients + 1)), ("valid", range(64541, 64545))):
        rows = []
        for number in numbers:
            study = f"{part}/patient{number:05d}/study1"
            marks = dict.fromkeys(FINDINGS, "")
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
        split = ("train", "validate", "test")[number % 3]
        marks = [
            "1.0" if name == "Edema" and number % 2 else "-1.0" if name == "Pneumonia" else ""
            for name in FINDINGS
        ]
        if number:
            labels.append((subject, study, *marks))
        for view in ("PA", "LATERAL"):
            name = f"{number:08x}-{view.lower()}"
            picture(folder / f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg", film(number))
            splits.append((name, study, subject, split))
            metadata.append((name, subject, study, view))
    table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *FINDINGS), labels)
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", columns, metadata)
    return folder


def vindr(folder: Path, images: int = 16) -> Path:
    """VinDr-CXR of PhysioNet: three readers of each train image, a consensus of each test image.

    All readers see an effusion on every second film, one of three cardiomegaly. The first film is oblong.
    """
    for part in ("train", "test"):
        labels, boxes = [], []
        readers = ("R1", "R8", "R10") if part == "train" else ("",)
        for number in range(images if part == "train" else 4):
            image = f"{part}{number:04x}"
            pixels = film(number, columns=64 if number == 0 else None)
            dicom(
                folder / part / f"{image}.dicom",
                pixels,
                age="" if number % 4 else "061Y",
                inverted=number % 3 == 0,
            )
            for reader in readers:
                seen = {"Pleural effusion": number % 2 == 0, "Cardiomegaly": reader == "R8"}
                marks = [int(seen.get(name, False)) for name in VINDR_LABELS[:-1]]
                by = (reader,) if reader else ()
                labels.append((image, *by, *marks, int(not any(marks))))
                shift = len(reader)
                found = [(name, *(edge + shift for edge in BOX)) for name, there in seen.items() if there]
                boxes += [(image, *by, *box) for box in found or [("No finding", "", "", "", "")]]
        by = ("rad_id",) if part == "train" else ()
        table(folder / f"annotations/image_labels_{part}.csv", ("image_id", *by, *VINDR_LABELS), labels)
        columns = ("image_id", *by, "class_name", "x_min", "y_min", "x_max", "y_max")
        table(folder / f"annotations/annotations_{part}.csv", columns, boxes)
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
    rows = []
    names = [f"{number:03d}_HC" for number in range(examinations)] + ["010_2HC", "010_3HC", "004_2HC"]
    for number, name in enumerate(names):
        pixels, mask = drawn_head()
        noisy = np.clip(pixels + np.random.default_rng(number).normal(0, 3, pixels.shape), 0, 255).astype(
            np.uint8
        )
        line = np.zeros_like(pixels)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(line, outlines, -1, 255, 1)
        picture(folder / f"training_set/{name}.png", noisy)
        picture(folder / f"training_set/{name}_Annotation.png", line)
        rows.append((f"{name}.png", 0.2, round(HEAD.circumference * 0.2, 2)))
    picture(folder / "test_set/000_HC.png", drawn_head()[0])
    header = ("filename", "pixel size(mm)", "head circumference (mm)")
    table(folder / "training_set_pixel_size_and_HC.csv", header, rows)
    table(folder / "test_set_pixel_size.csv", header[:2], [("000_HC.png", 0.2)])
    return folder


def otu(folder: Path, of_each: int = 7, val: int = 1) -> Path:
    """MMOTU's OTU_2d: coloured, binary and doubly binary masks, two blanks before the class, CRLF.

    Frame 2 is nearly frame 1; the first frame of val is nearly the first of train.
    """
    root = folder / "OTU_2d"
    lists: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    for number in range(1, 8 * (of_each + val) + 1):
        cls = (number - 1) % 8
        part = "train" if number <= 8 * of_each else "val"
        alike = {2: 1, 8 * of_each + 1: 1}.get(number, number)
        pixels, mask = frame(alike)
        rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        picture(root / f"images/{number}.JPG", rgb)
        colours = np.zeros_like(rgb)
        colours[mask > 0] = (0, 64 + 16 * cls, 128)
        for suffix, drawn in (("", colours), ("_binary", mask), ("_binary_binary", mask)):
            picture(root / f"annotations/{number}{suffix}.PNG", drawn)
        lists[part].append((f"{number}.JPG", cls))
    for part, listed in lists.items():
        (root / f"{part}.txt").write_bytes("\r\n".join(Path(name).stem for name, _ in listed).encode())
        (root / f"{part}_cls.txt").write_bytes("\r\n".join(f"{name}  {cls}" for name, cls in listed).encode())
    return root


def jsrt(folder: Path, films: int = 8, side: int = 2048) -> Path:
    """JSRT and SCR: raw words without a header, dark where bright; masks of 1,024 squares as GIF."""
    for number in range(1, films + 1):
        stem = f"JPC{'LN' if number % 2 else 'NN'}{number:03d}"
        grey, organs = drawn_chest(side // 2)
        large = cv2.resize(grey, (side, side), interpolation=cv2.INTER_NEAREST)
        (folder / "All247images").mkdir(parents=True, exist_ok=True)
        words = (4095 - large.astype(np.uint16) * 16).astype(">u2")
        (folder / f"All247images/{stem}.IMG").write_bytes(words.tobytes())
        masks = {"heart": organs[0], "right lung": organs[1], "left lung": organs[2]}
        for name in ("heart", "right lung", "left lung", "right clavicle", "left clavicle"):
            path = folder / f"scratch/fold{2 - number % 2}/masks/{name}/{stem}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = masks.get(name, np.zeros_like(organs[0]))
            Image.fromarray(drawn.astype(np.uint8) * 255).save(path)
    return folder


def own_folder(folder: Path) -> Path:
    """Pictures in folders that are named as their labels."""
    for label in ("Cardiomegaly", "No Finding"):
        for number in range(12):
            picture(folder / label / f"{number}.png", film(number))
    return folder
