"""Learn screens from files: read their pictures, and count what stands where for how many patients."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.burnin.find.annotation import ULTRASOUND, CleaningPolicy
from ai_pipeline.burnin.planning import RemovalTask, plan_removal
from ai_pipeline.burnin.screens.counting import ScreenCounts
from ai_pipeline.burnin.screens.rule_file import Device
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import Reading, SourceImage
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.identity import HeaderIdentity, identity_of
from ai_pipeline.images.numbers import value_of

MOST_DEVICES: Final = 200
"""Devices whose screens are learnt, at most."""
_PATIENT: Final = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "ReferringPhysicianName",
    "OperatorsName", "PerformingPhysicianName", "InstitutionName",
)  # fmt: skip


@dataclass(slots=True)
class Learnt:
    """What was learnt from files: the counts of each device's screen, and how many files were not counted,
    by the reason.
    """

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    screens: dict[Device, ScreenCounts] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, file: Path, tools: Tools) -> None:
        """Read the first frame of an ultrasound image and count it."""
        try:
            image = open_dicom(file)
            subject = subject_of(image)
            if isinstance(subject, str):
                self.skipped[subject] += 1
                return
            counts = self.screens.get(subject.device)
            if counts is None and len(self.screens) >= MOST_DEVICES:
                self.skipped[f"of more than {MOST_DEVICES} devices"] += 1
                return
            counts = counts or ScreenCounts(self.key, image.header.rows)
            self.screens[subject.device] = counts
            counts.add(_patient_of(image.dataset), readings_of(image, tools), subject.identity)
        except (PixelError, OSError):
            self.skipped["the image cannot be read"] += 1
        except CleaningFailed:
            self.skipped["too much of the picture would be text"] += 1


@dataclass(frozen=True, slots=True)
class Subject:
    """Of which device an image is, and whose."""

    device: Device
    identity: HeaderIdentity


def subject_of(image: DicomImage) -> Subject | str:
    """The device and the identity of an image that a screen can be learnt from; else why it cannot."""
    if image.header.modality not in ULTRASOUND:
        return "no ultrasound"
    device, identity = Device.of(image.header), identity_of(image.dataset)
    if device is None:
        return "the header names no device"
    if not _patient_of(image.dataset):
        return "the header names no patient"
    persons = identity_of(_only(image.dataset, _PATIENT))
    if identity is None or persons is None:
        return "the header is too large"
    # A station is often called like its scanner; a person's name is no device's.
    if any(persons.is_in(device.has(key)) for key in ("manufacturer", "model", "software")):
        return "the header names a person as the device"
    return Subject(device, identity)


def readings_of(image: SourceImage, tools: Tools) -> tuple[Reading, ...]:
    """What can be read in the first frame of an image. Raises :class:`CleaningFailed`."""
    task = RemovalTask(tools, CleaningPolicy.CLINICAL)
    return plan_removal(image.display(0), image.header, task, graphics=True).readings


def _patient_of(dataset: Dataset) -> str:
    """A text that is the same for all images of a patient; "" if the header has neither ID nor name."""
    for named, more in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate")):
        if text := str(value_of(dataset, named) or "").strip(" \0"):
            return f"{named} {text}\\{value_of(dataset, more)}"
    return ""


def _only(dataset: Dataset, keywords: Iterable[str]) -> Dataset:
    """The data set with these attributes alone."""
    found = Dataset()
    for keyword in keywords:
        if keyword in dataset:
            element = dataset.get_item(keyword)
            found[element.tag] = element
    return found


def learn(files: Iterable[Path], tools: Tools, done: Callable[[int], None]) -> Learnt:
    """Learn the screens of the devices in ``files``; ``done`` is called with the number of files read."""
    learnt = Learnt()
    for number, file in enumerate(files, start=1):
        learnt.add(file, tools)
        done(number)
    return learnt
