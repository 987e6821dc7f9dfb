"""What comes after a purge: results that are wanted once more from images that were sent again, and late
images, whose reports do not take the place of those on purged images.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.services import images, studies
from dicom_node.store.tables import Delivery, Result
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge_results
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import confirm, work

STUDY = 1


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    node = Inbox(tmp_path / "var", illustrated())
    yield node
    node.close()


def analysed(node: Inbox, number: int = 1) -> str:
    image = ultrasound("one", number=number)
    node.receive(image)
    node.settle()
    work(node)
    return str(image.StudyInstanceUID)


def purged(node: Inbox) -> dict[Path, bytes]:
    """Confirm and delete images and results; what the files of the results were."""
    confirm(node)
    files = {file: file.read_bytes() for file in (node.folder / "results").rglob("*.dcm")}
    studies.delete_received(node.settings, [STUDY])
    spool = node.settings.spool.model_copy(update={"result_days": 1})
    settings = node.settings.model_copy(update={"spool": spool})
    assert purge_results(node.database, settings, utc_now() + timedelta(days=2)) == len(files) > 3
    assert not any(file.exists() for file in files)
    return files


def wanted_by_another(node: Inbox, station: str = "AINODE") -> None:
    peers, [rule] = node.settings.peers, node.settings.rules
    rule = rule.model_copy(update={"send_to": ("pacs", "second")})
    made = peers[1].model_copy(update={"name": "second", "ae_title": "SECOND"})
    general = node.settings.node.model_copy(update={"station_name": station})
    changed = {"peers": (*peers, made), "rules": (rule,), "node": general}
    node.settings = node.settings.model_copy(update=changed)
    node.reopen()


def deliveries(node: Inbox, destination: str) -> list[Delivery]:
    with node.database.read() as session:
        rows = session.scalars(select(Delivery).where(Delivery.destination == destination)).all()
        session.expunge_all()
        return list(rows)


def test_what_was_deleted_is_made_again_byte_for_byte_for_a_further_destination(node: Inbox) -> None:
    analysed(node)
    uid = analysed(node, number=2)  # results of two jobs, at two times
    files = purged(node)
    wanted_by_another(node)
    analysed(node)
    analysed(node, number=2)
    studies.rerun_rules(node.settings, [uid])
    work(node)
    with node.database.read() as session:
        rows = session.scalars(select(Result)).all()
        here = {node.folder / row.path for row in rows if not row.purged}
    second = deliveries(node, "second")
    assert {delivery.state for delivery in second} == {DeliveryState.PENDING}
    assert len(second) == len(here) >= len(files) - 1
    assert {file: file.read_bytes() for file in here} == {file: files[file] for file in here}
    assert {one.state for one in deliveries(node, "pacs")} == {DeliveryState.CONFIRMED}
    assert 4005 in [event.number for event in node.events()]


def test_results_of_late_images_say_when_their_series_began(node: Inbox) -> None:
    for number in (1, 2):
        analysed(node, number)
    series: dict[str, list[Dataset]] = {}
    for file in (node.folder / "results").rglob("*.dcm"):
        made = dcmread(file)
        series.setdefault(str(made.SeriesInstanceUID), []).append(made)
    shared = [objects for objects in series.values() if len(objects) > 1]
    assert shared
    for objects in shared:
        assert len({(made.SeriesDate, made.SeriesTime) for made in objects}) == 1
        assert len({made.InstanceCreationTime for made in objects}) > 1


def test_what_would_be_another_object_now_is_sent_nowhere_and_its_delivery_says_why(node: Inbox) -> None:
    uid = analysed(node)
    files = purged(node)
    wanted_by_another(node, station="OTHER")
    analysed(node)
    studies.rerun_rules(node.settings, [uid])
    work(node)
    second = deliveries(node, "second")
    assert len(second) == len(files)
    assert {one.state for one in second} == {DeliveryState.CANCELLED}
    assert all("result_days" in one.reason for one in second)
    assert [event.number for event in node.events()].count(4006) == len(files)
    assert not any(file.exists() for file in files)
    assert {job.state for job in node.jobs()} <= {JobState.SUCCEEDED, JobState.CANCELLED}
    assert node.study(uid).state is StudyState.DELIVERED


def without_its_images(node: Inbox) -> None:
    """Image 1 of the study was analysed, its results were confirmed, and it was purged."""
    analysed(node)
    confirm(node)
    assert [row["deleted"] for row in studies.delete_received(node.settings, [STUDY])] == [True]


def reports(node: Inbox) -> list[Result]:
    with node.database.read() as session:
        rows = session.scalars(select(Result).where(Result.kind == ResultKind.SR).order_by(Result.id)).all()
        session.expunge_all()
        return list(rows)


def texts(report: Dataset) -> str:
    return " ".join(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT")


def test_the_report_on_a_late_image_replaces_none_and_says_which_images_it_is_without(node: Inbox) -> None:
    without_its_images(node)
    analysed(node, 2)
    first, second = reports(node)
    report = dcmread(node.folder / second.path)
    assert (first.supersedes, second.supersedes) == ("", "")
    assert "PredecessorDocumentsSequence" not in report
    assert "No longer here: image 1 of this study" in texts(report)


def test_the_report_on_one_more_image_replaces_only_that_on_images_that_are_here(node: Inbox) -> None:
    without_its_images(node)
    analysed(node, 2)
    analysed(node, 3)
    _, second, third = reports(node)
    assert third.supersedes == second.sop_instance_uid
    assert "No longer here: image 1 of this study" in texts(dcmread(node.folder / third.path))


def test_the_console_shows_both_reports(node: Inbox) -> None:
    without_its_images(node)
    analysed(node, 2)
    with node.database.read() as session:
        shown = images.report_files(session, node.settings, STUDY)
    assert shown == [node.folder / row.path for row in reports(node)]
