#!/usr/bin/env python3
"""Two drawn devices: how many settings does cleaning lose, with learnt screens and without?

    examples/studies/learnt_screens.py [--patients N] [--judged N] [--seed N] [--save DIR]

    example: examples/studies/learnt_screens.py --patients 26 --judged 8

The makers do not exist, and their words are in no vocabulary. One writes label and value in one text, below
each other; the other in two columns. Every picture has a head line with a name, a number, a date and a
clinic; the same doctor refers all patients, and the same initials of the staff stand below the date. Half of
the headers name doctor and clinic. The screens are learnt from the first patients; pictures of others are
cleaned twice.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import Allowed
from ai_pipeline.burnin.devices.rules import screen_of
from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.burnin.screens.learning import learn
from ai_pipeline.burnin.screens.offers import Choice
from ai_pipeline.burnin.screens.rule_file import file_text, screen_rule
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom

ROWS, COLUMNS = 600, 800
DOCTOR, CLINIC, STAFF = "Dr. Anselm Huber", "Sankt Vera Spital", "RB"
GIVEN = ("Mara", "Jonas", "Lene", "Timo", "Greta", "Bruno", "Nils", "Hedda", "Tilda", "Arvid", "Runa", "Leif")
FAMILY = ("Brandt", "Okafor", "Lindner", "Petrov", "Sattler", "Nguyen", "Morello", "Kaya", "Wirth", "Osei")
FIELDS = {
    "Novascan": (
        *(
            "qFLM {:.0f}",
            "Vrb {:.0f}",
            "KLR {:.0f}%",
            "DRX {:.0f}",
            "Pwx {:.0f}%",
            "SkL {:.0f}",
            "Tiefe {:.1f}cm",
        ),
        *("Frz {:.1f}MHz", "BldR {:.0f}Hz", "Ggl {:.0f}dB", "MSCSKEL", "XBeam", "Rauschf. {:.0f}"),
    ),
    "Orbita": (
        *("Verst|{:.0f}", "Kontur|{:.0f}", "Bildrate|{:.0f} Hz", "Dyn-Umf|{:.0f} dB", "Persis|{:.0f}"),
        *("Glaett|{:.0f}", "Sendel|{:.0f} %", "Fokusz|{:.1f} cm", "Linien|{:.0f}", "Modus|Harmonik"),
    ),
}


@dataclass(frozen=True)
class Drawn:
    """A text in a picture: whether it is a setting, and its letters (a mask)."""

    setting: bool
    text: str
    ink: np.ndarray


def main() -> int:
    """Draw, learn, clean, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=26, help="of each device, from whom it is learnt")
    parser.add_argument("--judged", type=int, default=8, help="of each device, whose pictures are cleaned")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, help="write pictures before and after into this folder")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        rules = folder / "rules"
        rules.mkdir()
        (rules / "screens.toml").write_text(_learnt(folder, arguments.seed, arguments.patients))
        print((rules / "screens.toml").read_text())
        for maker in FIELDS:
            for known in (None, rules):
                counts = Counter[str]()
                for number in range(arguments.patients, arguments.patients + arguments.judged):
                    counts += _judged(folder, maker, arguments.seed, number, known, arguments.save)
                print(maker, "with its screen" if known else "without", dict(counts), flush=True)
    return 0


def _learnt(folder: Path, seed: int, patients: int) -> str:
    """The device rules of both screens, learnt from so many patients each; prints what is offered."""
    files = [
        _file(folder / f"{maker}{number}.dcm", maker, seed, number)[0]
        for maker in FIELDS
        for number in range(patients)
    ]
    learnt = learn(files, shared_tools(), lambda done: print(f"{done} of {len(files)} read", flush=True))
    rules = []
    for device, counts in learnt.screens.items():
        offers = counts.offers()
        for choice in Choice:
            print(choice, [offer.text for offer in offers if offer.choice is choice])
        # A person ticks what is asked about and is a setting: all of it, or a name was offered.
        asked = {offer.text for offer in offers if offer.choice is Choice.ASK}
        settings = {part for forms in FIELDS.values() for form in forms for part in form.split("|")}
        # As they are offered: without blanks, "#" for a number.
        if wrong := asked - {re.sub(r"{[^}]*}", "#", part).replace(" ", "") for part in settings}:
            raise SystemExit(f"offered though it is no setting: {wrong}")
        proposed = {offer.text for offer in offers if offer.choice is Choice.STAYS}
        rules.append(screen_rule(device, offers, proposed | asked))
    return file_text("learnt from drawn devices", rules)


def _judged(
    folder: Path, maker: str, seed: int, number: int, rules: Path | None, save: Path | None
) -> Counter[str]:
    """Clean one picture and count its settings and names by what became of them."""
    file, drawn = _file(folder / "image.dcm", maker, seed, number)
    image = open_dicom(file)
    allowed = Allowed.from_options([], "remove", image.header, screen_of(image.header, rules))
    began = perf_counter()
    try:
        result = clean(image, lambda _share, _what: None, allowed=allowed)
    except CleaningFailed as failure:
        print(f"{maker} {number}: withheld: {failure}")
        return Counter({"withheld": 1})
    counts = Counter({"milliseconds": round(1000 * (perf_counter() - began))})
    before, after = image.display(0), np.asarray(result.image.frames[0])
    changed = (before != after).any(axis=2)
    for one in drawn:
        share = float(changed[one.ink].mean())
        if one.setting:
            counts["settings"] += 1
            counts["settings lost"] += share > 0.02
        else:
            counts["of identity"] += 1
            counts["of identity left"] += share < 0.98
        if (share > 0.02) == one.setting:
            print(
                f"  {maker} {number} {'lost' if one.setting else 'gone'}: {one.text if one.setting else ''}"
            )
    if save:
        save.mkdir(parents=True, exist_ok=True)
        name = f"{maker}-{number}-{'with' if rules else 'without'}.png"
        cv2.imwrite(str(save / name), np.concatenate([before, after], axis=1)[..., ::-1])
    return counts


def _file(path: Path, maker: str, seed: int, number: int) -> tuple[Path, list[Drawn]]:
    """Write the picture of a patient as DICOM; returns the file and what is written in the picture."""
    random = np.random.default_rng((seed, number, len(maker)))
    name = f"{random.choice(FAMILY)}^{random.choice(GIVEN)}{chr(97 + number % 26)}"
    patient = f"{random.integers(10**6, 10**7)}"
    day = f"{random.integers(1, 29):02}.{random.integers(1, 13):02}.2026"
    picture, drawn = _tissue(random), []
    for setting, text, place in (*_head(maker, name, patient, day), *_settings(maker, random)):
        picture, ink = _written(picture, text, place, maker)
        drawn.append(Drawn(setting, text, ink))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "US", maker, f"{maker} 7"
    dataset.SoftwareVersions = "2.4"
    dataset.PatientName, dataset.PatientID = name, patient
    dataset.StudyDate = "".join(reversed(day.split(".")))
    if number % 2:
        dataset.ReferringPhysicianName, dataset.InstitutionName = "Huber^Anselm", CLINIC
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = ROWS, COLUMNS, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = picture.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path, drawn


def _head(maker: str, name: str, patient: str, day: str) -> Iterator[tuple[bool, str, tuple[int, int]]]:
    """The texts of the head line, none of which is a setting."""
    family, given = name.split("^")
    left = 12 if maker == "Novascan" else 40
    yield False, f"{family}, {given}", (left, 8)
    yield False, patient, (left + 300, 8)
    yield False, day, (660, 8)
    yield False, CLINIC, (left, 32)
    yield False, DOCTOR, (left + 300, 32)
    yield False, STAFF, (660, 32)


def _settings(maker: str, random: np.random.Generator) -> Iterator[tuple[bool, str, tuple[int, int]]]:
    """The settings, with values that differ from picture to picture."""
    for row, form in enumerate(FIELDS[maker]):
        label, _, value = form.partition("|")
        number = float(random.integers(2, 90)) if ".0f" in form else float(random.uniform(1.5, 18))
        top = 110 + 26 * row
        if value:
            yield True, label, (620, top)
            yield True, value.format(number), (720, top)
        else:
            yield True, label.format(number), (10, top)


def _written(picture: Picture, text: str, place: tuple[int, int], maker: str) -> tuple[Picture, np.ndarray]:
    """The picture with a text, and its letters as a mask."""
    image = Image.fromarray(picture)
    colour = (230, 230, 230) if maker == "Novascan" else (250, 220, 90)
    font = ImageFont.load_default(17 if maker == "Novascan" else 16)
    ImageDraw.Draw(image).text(place, text, fill=colour, font=font)
    after = np.asarray(image).copy()
    return after, (np.abs(after.astype(int) - picture).max(axis=2) > 100)


def _tissue(random: np.random.Generator) -> Picture:
    """A fan of speckle on black."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float64)
    depth, angle = np.hypot(x - COLUMNS / 2, y), np.arctan2(x - COLUMNS / 2, y)
    inside = (np.abs(angle) < 0.5) & (depth > 110) & (depth < ROWS - 30)
    speckle = cv2.GaussianBlur(random.rayleigh(45, (ROWS, COLUMNS)), (0, 0), 1.5)
    grey = np.where(inside, np.clip(speckle, 0, 200), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


if __name__ == "__main__":
    raise SystemExit(main())
