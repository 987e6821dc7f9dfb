"""Work of a vendor's AI is requested by work items of a worklist manager (UPS-RS), with real nodes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.events import ANSWER_AWAITED, ANSWER_SILENT, ANSWER_WHOLE
from tests.ct_lab import ct_slices, program, segments_and_reports
from tests.modality import data_set
from tests.node_lab import Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.vendor_lab import Vendor, derives, remote_rule, run_vendor, vendor_site
from tests.waiting import wait_until
from tests.worklist_lab import CANCELED, COMPLETED, IN_PROGRESS, Manager, ups_rs


def manager_peer(url: str, more: str = "") -> str:
    return (
        '[[peers]]\nname = "ris"\nae_title = "RIS"\nmay = []\ntransport = "dicomweb"\n'
        f'url = "{url}"\nworklist_seconds = 2\n{more}\n'
    )


def completed(manager: Manager, uid: str, results: list[Dataset]) -> None:
    """A performer claims the item and completes it, naming these results."""
    transaction = generate_uid()
    assert manager.change(uid, transaction, IN_PROGRESS) == 0
    references = [data_set(ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in results]
    output = data_set(TypeOfInstances="DICOM", ReferencedSOPSequence=references)
    performed = data_set(
        PerformedStationNameCodeSequence=[Dataset()],
        PerformedProcedureStepStartDateTime="20261201031200",
        PerformedProcedureStepEndDateTime="20261201031300",
        PerformedWorkitemCodeSequence=[Dataset()],
        OutputInformationSequence=[output] if results else [],
    )
    item = manager.items[uid]
    item.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    assert manager.change(uid, transaction, COMPLETED) == 0


@contextmanager
def site(folder: Path, manager: Manager, vendor: Vendor, options: str) -> Iterator[tuple[Node, Pacs]]:
    """A node with this vendor and this manager; ``options``: of its rule."""
    pacs = Pacs()
    with run_pacs(pacs), run_vendor(vendor), ups_rs(manager) as url:
        rules = remote_rule(options=f'{options}, manager = "ris"') + manager_peer(url)
        node = Node(folder, vendor_site(pacs, vendor, rules=rules))
        vendor.node = node.port
        with running(node):
            yield node, pacs


def the_item(manager: Manager) -> str:
    wait_until(lambda: len(manager.items) == 1, what="the work item")
    return next(iter(manager.items))


@pytest.mark.timeout(300)
def test_an_answer_is_whole_when_all_results_came_that_the_item_names(tmp_path: Path) -> None:
    """The vendor pauses for longer than the quiet time: half of its answer is not delivered."""
    images, manager, vendor = ct_slices("work", 2, side=32), Manager(), Vendor(answers=None)
    with site(tmp_path, manager, vendor, "deadline = 5") as (node, pacs):
        assert store(node.port, images, "CT1") == [0, 0]
        uid = the_item(manager)
        item = manager.items[uid]
        results = derives(vendor.images())
        vendor.send(results[:1])
        completed(manager, uid, results)
        seen = manager.times("read")
        wait_until(lambda: manager.times("read") >= seen + 2, what="two looks at the completed item")
        assert node.events(ANSWER_WHOLE.number) == []
        vendor.send(results[1:])
        node.wait_for(["delivered"])
    assert len(pacs.stored) == 2
    assert item.PatientID == images[0].PatientID
    assert item.StudyInstanceUID == images[0].StudyInstanceUID


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("cancel", "the work item was cancelled"),
        ("nothing", "the work item is completed, and names no result"),
        ("half", "1 of 2 results that the work item names did not come"),
        ("silence", "no answer from vendor in 0.1 minutes"),
    ],
)
def test_a_vendor_that_does_not_answer_is_said(tmp_path: Path, end: str, reason: str) -> None:
    images, manager, vendor = ct_slices(f"work-{end}", 2, side=32), Manager(), Vendor(answers=None)
    # Of half an answer the first part has to come in time, on a busy machine too.
    deadline = {"silence": "deadline = 0.1", "half": "deadline = 0.5"}.get(end, "deadline = 5")
    with site(tmp_path, manager, vendor, deadline) as (node, pacs):
        assert store(node.port, images, "CT1") == [0, 0]
        uid = the_item(manager)
        results = derives(vendor.images())
        if end == "cancel":
            manager.items[uid].ProcedureStepState = CANCELED
        elif end != "silence":
            completed(manager, uid, [] if end == "nothing" else results)
        if end == "half":
            vendor.send(results[:1])
        # What came of half an answer waits for a person.
        node.wait_for(["unassessed" if end == "half" else "failed"])
        wait_until(lambda: ("cancel request", 0) in manager.log, what="the request to cancel")
        wait_until(lambda: bool(pacs.stored), what="the report that the AI did not run")
        assert reason in str(node.events(ANSWER_SILENT.number))
    assert {str(dcmread(BytesIO(one), force=True).Modality) for one in pacs.stored.values()} == {"SR"}


@pytest.mark.timeout(300)
def test_an_item_is_created_once_whatever_its_manager_answers(tmp_path: Path) -> None:
    """Its manager is overloaded, then its answer is lost, then it answers that it has the item."""
    images, results = ct_slices("work-once", 2, side=32), list[Dataset]()

    def answers(images: Sequence[Dataset]) -> list[Dataset]:
        results.extend(derives(images))
        return results

    vendor = Vendor(answers=answers)
    faults = {("create", 1): "503", ("create", 2): "lose"}
    manager = Manager(fault=lambda operation, times: faults.get((operation, times), ""))
    with site(tmp_path, manager, vendor, "deadline = 5") as (node, pacs):
        assert store(node.port, images, "CT1") == [0, 0]
        uid = the_item(manager)
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the answer is awaited")
        wait_until(lambda: len(results) == 2, what="its answer")
        completed(manager, uid, results)
        node.wait_for(["delivered"])
        assert len(manager.items) == 1
    assert len(pacs.stored) == 2


@pytest.mark.timeout(300)
def test_another_node_of_ours_performs_the_work(tmp_path: Path) -> None:
    """One node requests; the other claims the item, segments, sends the segments, and completes the item."""
    images, manager, pacs = ct_slices("work-node", 2, side=32), Manager(), Pacs()
    script = program(tmp_path, segments_and_reports())
    segments = f'command = ["{sys.executable}", "{script}", "{{input}}", "{{output}}"], '
    there = Vendor(port=free_port())
    with ExitStack() as stack:
        stack.enter_context(run_pacs(pacs))
        url = stack.enter_context(ups_rs(manager))
        rules = remote_rule(options='deadline = 5, manager = "ris"') + manager_peer(url)
        asks = vendor_site(pacs, there, rules=rules, results=("seg", "sr"))
        requester = Node(tmp_path / "requester", asks)
        performs = site_config(
            requester.port,
            rule("command", 'modality = "CT"', f'{segments}model = "lungs", version = "1"')
            + manager_peer(url, 'worklist = ["110004^DCM"]'),
            results=("seg",),
            senders=(),
            ae_title="AINODE",
            of_pacs='confirm = "none"',
        )
        performer = Node(tmp_path / "performer", performs, there.port)
        as_vendor = performer.config.read_text().replace("[node]", '[node]\nae_title = "VENDOR"')
        performer.config.write_text(as_vendor)
        stack.enter_context(running(performer))
        stack.enter_context(running(requester))
        assert store(requester.port, images, "CT1") == [0, 0]
        uid = the_item(manager)
        wait_until(lambda: manager.state(uid) == COMPLETED, what="the work is done")
        study = str(images[0].StudyInstanceUID)
        wait_until(lambda: requester.studies()[study]["state"] in ("delivered", "failed"), what="its end")
        assert requester.studies()[study]["state"] == "delivered", requester.studies()[study]["reason"]
    [segmentation] = [dcmread(BytesIO(one), force=True) for one in pacs.stored.values()]
    assert segmentation.Modality == "SEG"
    assert segmentation.PatientID == images[0].PatientID
    assert segmentation.StudyInstanceUID == study
