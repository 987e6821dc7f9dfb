"""A job with a PACS and a de-identified archive: each gets its own objects, and only those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult, Progress, SourceImage
from dicom_node.model.deidentified import Retained, is_deidentified
from dicom_node.model.lifecycle import JobState
from dicom_node.services import studies
from dicom_node.store.tables import Delivery, EventRow, Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import MODEL, Obedient, configuration, confirm, work

Make = Callable[..., Inbox]
PATIENT = b"ID-one"


class Scrubber(Obedient):
    """Says that each image is clean, unless it is told to say nothing of the kind."""

    card = replace(Obedient.card, name="scrubber")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        verified = options["do"] == "clean"
        pictures = []
        for image in images:
            mask = np.zeros((1, image.header.rows, image.header.columns), np.uint8)
            mask[0, 4:20, 8:60] = 1
            frames = image.stored()[None]
            pictures.append(DerivedImage(ImageKind.CLEANED, image.uid, frames, "RGB", "x", verified=verified))
            pictures.append(DerivedImage(ImageKind.MASK, image.uid, mask, "MONOCHROME2", "mask"))
        return PipelineResult(tuple(map(self._finding, images)), tuple(pictures), models=(MODEL,))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a node without a network that sends to these peers."""
    pipelines.PIPELINES["scrubber"] = EntryPoint("scrubber", f"{__name__}:Scrubber", pipelines.GROUP)
    made: list[Inbox] = []

    def make(
        do: str = "clean",
        send_to: Sequence[str] = ("pacs", "archive"),
        domains: Mapping[str, str] = {},
        **pacs: Any,
    ) -> Inbox:
        config = configuration(do)
        config["rules"][0].update(pipeline="scrubber", send_to=list(send_to))
        config["peers"][1].update(pacs)
        archive = {"name": "archive", "ae_title": "ARCHIVE", "deidentify": True}
        config["peers"].append({**config["peers"][1], **archive, "results": ["cleaned", "seg", "sr"]})
        for name, domain in domains.items():
            own = {"name": name, "ae_title": name.upper(), "pseudonym_domain": domain}
            config["peers"].append({**config["peers"][2], **own})
        made.append(Inbox(tmp_path / "var", config))
        return made[-1]

    yield make
    for node in made:
        node.close()


def analysed(node: Inbox, *images: Dataset) -> dict[str, list[Result]]:
    """Receive, assemble, run; the results by the destination that they wait for."""
    node.receive(*images)
    node.settle()
    work(node)
    with node.database.read() as session:
        rows: dict[str, list[Result]] = {}
        for delivery in session.scalars(select(Delivery).join(Delivery.result).order_by(Delivery.id)):
            rows.setdefault(delivery.destination, []).append(delivery.result)
        session.expunge_all()
    return rows


def test_each_destination_gets_its_own_objects_and_only_those(make: Make) -> None:
    node = make(results=["sr", "sc", "cleaned", "seg"])
    waiting = analysed(node, ultrasound("one"))
    assert sorted(row.kind for row in waiting["pacs"]) == ["cleaned", "sc", "seg", "sr"]
    assert sorted(row.kind for row in waiting["archive"]) == ["cleaned", "seg", "sr"]
    for name, rows in waiting.items():
        for row in rows:
            data = (node.folder / row.path).read_bytes()
            hidden = name == "archive"
            assert row.deidentified == hidden == is_deidentified(dcmread(node.folder / row.path))
            assert (PATIENT in data) is not hidden


def test_peers_of_one_domain_get_the_same_objects_and_others_none_of_them(make: Make) -> None:
    domains = {"registry": "study7", "partner": "study7", "stranger": "study8"}
    node = make(send_to=["archive", *domains], domains=domains)
    waiting = {
        name: {row.sop_instance_uid for row in rows}
        for name, rows in analysed(node, ultrasound("one")).items()
    }
    assert waiting["registry"] == waiting["partner"]
    apart = [waiting[name] for name in ("archive", "registry", "stranger")]
    assert [len(uids) for uids in apart] == [3, 3, 3]
    assert len(set.union(*apart)) == 9
    of_peers = {
        dcmread(file, specific_tags=["StudyInstanceUID"]).StudyInstanceUID
        for file in node.folder.glob("deidentified/**/*.dcm")
    }
    assert len(of_peers) == 3


def test_a_late_image_replaces_the_report_of_each_side_by_one_of_its_own(make: Make) -> None:
    node = make(results=["sr"])
    first, late = (ultrasound("one", number=number) for number in (1, 2))
    analysed(node, first)
    waiting = analysed(node, late)
    for rows in waiting.values():
        old, new = (row for row in rows if row.kind == "sr")
        assert (old.supersedes, new.supersedes) == ("", old.sop_instance_uid)
    report = dcmread(node.folder / [row for row in waiting["archive"] if row.kind == "sr"][1].path)
    before = report.PredecessorDocumentsSequence[0]
    assert before.StudyInstanceUID == report.StudyInstanceUID != first.StudyInstanceUID


def test_a_report_on_an_image_that_came_after_the_purge_replaces_none_on_either_side(make: Make) -> None:
    node = make(results=["sr"])
    first, late = (ultrasound("one", number=number) for number in (1, 2))
    analysed(node, first)
    confirm(node)
    studies.delete_by_uid(node.settings, [first.StudyInstanceUID])
    for rows in analysed(node, late).values():
        old, new = (row for row in rows if row.kind == "sr")
        assert (old.supersedes, new.supersedes) == ("", "")
        assert b"No longer here: image 1 of this study" in (node.folder / new.path).read_bytes()


def test_a_report_for_another_domain_names_no_report_of_the_former(make: Make) -> None:
    """A peer that gets a domain of its own: the old report's UID would link it with those it leaves."""
    node = make(send_to=["archive"])
    first, late = (ultrasound("one", number=number) for number in (1, 2))
    analysed(node, first)
    peers = [
        peer.model_copy(update={"pseudonym_domain": "own"}) for peer in node.settings.peers if peer.deidentify
    ]
    node.settings = node.settings.model_copy(update={"peers": (*node.settings.peers[:2], *peers)})
    reports = [row for row in analysed(node, late)["archive"] if row.kind == "sr"]
    assert [(row.pseudonym_domain, row.supersedes) for row in reports] == [("", ""), ("own", "")]


def test_an_archive_is_told_what_it_retains(make: Make) -> None:
    node = make(send_to=["archive", "registry"], domains={"registry": "own"})
    peers = [
        peer.model_copy(update={"retain": (Retained.PATIENT_CHARACTERISTICS,)})
        if peer.name == "registry"
        else peer
        for peer in node.settings.peers
    ]
    node.settings = node.settings.model_copy(update={"peers": tuple(peers)})
    image = ultrasound("one")
    image.PatientSex = "F"
    sexes = {
        name: {dcmread(node.folder / row.path).PatientSex for row in rows}
        for name, rows in analysed(node, image).items()
    }
    assert sexes == {"archive": {""}, "registry": {"F"}}


def test_what_may_not_leave_holds_nobody_else_up(make: Make) -> None:
    node = make("not-verify", results=["sr"])
    waiting = analysed(node, ultrasound("one"))
    assert [row.kind for row in waiting["pacs"]] == ["sr"]
    assert "archive" not in waiting
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED]
    assert 4004 in events(node)


def test_a_job_for_the_archive_alone_fails_when_nothing_may_leave_and_sends_nothing(make: Make) -> None:
    node = make("not-verify", ["archive"])
    assert analysed(node, ultrasound("one")) == {}
    assert [job.state for job in node.jobs()] == [JobState.FAILED]
    assert 4004 in events(node)
    assert list(node.folder.glob("results/**/*.dcm")) == []


def test_a_job_for_the_archive_alone_builds_nothing_that_names_the_patient(make: Make) -> None:
    node = make(send_to=["archive"])
    assert len(analysed(node, ultrasound("one"))["archive"]) == 3
    assert list(node.folder.glob("results/**/*.dcm")) == []


def events(node: Inbox) -> set[int]:
    with node.database.read() as session:
        return set(session.scalars(select(EventRow.number)))
