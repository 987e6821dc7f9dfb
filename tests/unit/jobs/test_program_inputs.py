"""What rules give to programs: objects of any class, with or without pixels, and long series."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    ParametricMapStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    XRayAngiographicImageStorage,
)

from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import JobState, ObjectRole, ResultKind
from dicom_node.base.store.tables import Job, Result
from dicom_node.people import preflight
from dicom_node.receive.policy import AEPolicy, accepted_classes, further_classes
from tests import ct_lab
from tests.inbox_lab import Inbox
from tests.modality import assign, chest
from tests.unit.jobs.worker_lab import register, work
from tests.unit.receive.objects import changed

Make = Callable[..., Inbox]
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
LISTS = f"""{ct_lab.READS}
from pydicom import dcmread
seen = [str(dcmread(file, stop_before_pixels=True, force=True).SOPInstanceUID) for file in files]
Path(LOG).open("a").write(json.dumps(seen) + "\\n")
(target / "findings.json").write_text(json.dumps({{"findings": []}}))
"""
"""Writes down what it got, a line a run."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Make]:
    """Makes a node whose rule gives these modalities to a program that lists what it gets."""
    made: list[Inbox] = []

    def make(modality: Any, code: str = LISTS, **given: Any) -> Inbox:
        script = ct_lab.program(tmp_path, f"LOG = {str(tmp_path / 'log')!r}\n{code}")
        rule = {"when": {"modality": modality}}
        made.append(Inbox(tmp_path / "node", ct_lab.configuration(script, rule=rule, **given)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def got(node: Inbox) -> list[list[str]]:
    """The SOP Instance UIDs that the program got, in each of its runs."""
    log = node.folder.parent / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def of_class(sop_class: str, modality: str, name: str = "one", **values: Any) -> Dataset:
    """An object of another class of the study; without pixels where its class has none."""
    made = changed(ct_lab.ct_slices(name, 1)[0], SOPClassUID=sop_class, Modality=modality)
    made.SOPInstanceUID = f"{made.SOPInstanceUID}.{len(modality)}"
    made.file_meta.MediaStorageSOPClassUID = sop_class
    if sop_class == RTStructureSetStorage:
        for word in ("PixelData", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
            del made[word]
    return assign(made, **values)


CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "NM": NuclearMedicineImageStorage,
    "XA": XRayAngiographicImageStorage,
    "SEG": SegmentationStorage,
    "RTSTRUCT": RTStructureSetStorage,
}


@pytest.mark.parametrize("modality", CLASSES)
def test_an_object_of_any_class_is_taken_and_given_to_the_program(node: Make, modality: str) -> None:
    inbox = node(modality)
    sent = of_class(CLASSES[modality], modality)
    assert sent.SOPClassUID in accepted_classes(further_classes(inbox.settings))
    inbox.settle(sent)
    work(inbox)
    assert got(inbox) == [[sent.SOPInstanceUID]]


@pytest.mark.parametrize(
    ("modality", "sop_class"), [("OT", ParametricMapStorage), ("SEG", LABEL_MAP)], ids=["map", "label map"]
)
def test_objects_that_are_not_decoded_here_are_given_as_files(
    node: Make, modality: str, sop_class: str
) -> None:
    inbox = node(modality)
    sent = of_class(sop_class, modality, BitsAllocated=32, BitsStored=32, HighBit=31)
    sent.PixelData = bytes(4 * sent.Rows * sent.Columns)
    inbox.settle(sent)
    work(inbox)
    assert got(inbox) == [[sent.SOPInstanceUID]]


def test_an_image_beside_a_segmentation_is_given_with_it_where_the_rule_names_both(node: Make) -> None:
    inbox = node(["CT", "SEG"])
    [ct] = ct_lab.ct_slices("one", 1)
    seg = of_class(SegmentationStorage, "SEG")
    inbox.settle(ct, seg)
    work(inbox)
    assert sorted(got(inbox)[0]) == sorted([ct.SOPInstanceUID, seg.SOPInstanceUID])


@pytest.mark.parametrize("modality", ["CT", "*"])
def test_what_is_no_image_starts_nothing_unless_the_rule_names_it(node: Make, modality: str) -> None:
    inbox = node(modality)
    inbox.settle(of_class(SegmentationStorage, "SEG"))
    assert inbox.jobs() == []
    assert inbox.instance(of_class(SegmentationStorage, "SEG")).role is ObjectRole.NON_SOURCE


def test_without_a_program_no_further_class_is_taken() -> None:
    settings = Settings.model_validate({})
    assert further_classes(settings) == ()
    assert CTImageStorage not in accepted_classes(further_classes(settings))


def test_the_listener_takes_what_programs_get(node: Make) -> None:
    policy = AEPolicy.from_settings(node("CT").settings)
    assert {CTImageStorage, LABEL_MAP} <= set(policy.further_storage_classes)


def test_a_film_beside_a_ct_is_not_given_to_a_program_for_ct(node: Make) -> None:
    inbox = node("CT")
    film = chest("one", np.zeros((40, 31), np.uint16), number=9)
    inbox.settle(film, *ct_lab.ct_slices("one", 1))
    work(inbox)
    assert got(inbox) == [[ct_lab.ct_slices("one", 1)[0].SOPInstanceUID]]


def test_a_failure_on_a_series_is_one_picture_and_not_one_for_each_slice(node: Make) -> None:
    inbox = node("CT", "raise SystemExit(3)")
    inbox.settle(*ct_lab.ct_slices("one", 5))
    work(inbox)
    assert inbox.column(Job.state) == [JobState.FAILED]
    assert sorted(inbox.column(Result.kind)) == [ResultKind.SC, ResultKind.SR]


def test_an_image_of_many_frames_is_given(node: Make) -> None:
    inbox = node("RTDOSE")
    public = dcmread(get_testdata_file("rtdose.dcm"))
    inbox.settle(public)
    work(inbox)
    assert got(inbox) == [[public.SOPInstanceUID]]


@pytest.mark.parametrize("code", [LISTS, "raise SystemExit(3)"], ids=["an empty answer", "a failure"])
def test_there_is_a_report_where_a_program_got_no_image(node: Make, code: str) -> None:
    inbox = node("RTSTRUCT", code)
    inbox.settle(of_class(RTStructureSetStorage, "RTSTRUCT"))
    work(inbox)
    assert ResultKind.SR in inbox.column(Result.kind)


@pytest.mark.parametrize(
    ("pipeline", "when", "further", "faulty"),
    [
        ("command", {"modality": "CT"}, [], False),
        ("command", {"modality": ["SEG", "RTSTRUCT"]}, [], False),
        ("obedient", {"modality": "CT"}, [], True),
        ("obedient", {"modality": "CT"}, [CTImageStorage], False),
        ("obedient", {"modality": ["US", "MR"]}, [], True),
        ("obedient", {"modality": "C*"}, [], False),
        ("obedient", {"modality": "XYZ"}, [], False),
    ],
    ids=["program", "no images", "CT", "CT is taken", "one of two", "CR", "unknown"],
)
def test_check_names_a_modality_of_which_nothing_can_arrive(
    tmp_path: Path, pipeline: str, when: dict[str, Any], further: list[str], faulty: bool
) -> None:
    register()
    data = ct_lab.configuration(ct_lab.program(tmp_path, LISTS), rule={"when": when, "pipeline": pipeline})
    if pipeline != "command":
        data["rules"][0]["options"] = {}
    data |= {"listener": {"further_storage_classes": further}, "node": {"data_dir": str(tmp_path)}}
    said = [str(problem) for problem in preflight.check_data(data).problems if "modality" in problem.key]
    assert [text for text in said if "never holds" in text] == (said if faulty else [])
    assert bool(said) == faulty
