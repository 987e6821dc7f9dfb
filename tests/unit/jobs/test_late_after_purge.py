"""An image that comes when the others of its study were purged: no report takes the place of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.model.kinds import ResultKind
from dicom_node.services import images, studies
from dicom_node.store.tables import Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import confirm, work

STUDY = 1


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    """Image 1 of a study was analysed, its results were confirmed, and it was purged."""
    node = Inbox(tmp_path / "var", illustrated())
    analysed(node, 1)
    confirm(node)
    assert [row["deleted"] for row in studies.delete_received(node.settings, [STUDY])] == [True]
    yield node
    node.close()


def analysed(node: Inbox, number: int) -> None:
    node.receive(ultrasound("one", number=number))
    node.settle()
    work(node)


def reports(node: Inbox) -> list[Result]:
    with node.database.read() as session:
        rows = session.scalars(select(Result).where(Result.kind == ResultKind.SR).order_by(Result.id)).all()
        session.expunge_all()
        return list(rows)


def texts(report: Dataset) -> str:
    return " ".join(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT")


def test_its_report_replaces_none_and_says_which_images_it_is_without(node: Inbox) -> None:
    analysed(node, 2)
    first, second = reports(node)
    report = dcmread(node.folder / second.path)
    assert (first.supersedes, second.supersedes) == ("", "")
    assert "PredecessorDocumentsSequence" not in report
    assert "No longer here: image 1 of this study" in texts(report)


def test_the_report_on_one_more_image_replaces_only_that_on_images_that_are_here(node: Inbox) -> None:
    analysed(node, 2)
    analysed(node, 3)
    _, second, third = reports(node)
    assert third.supersedes == second.sop_instance_uid
    assert "No longer here: image 1 of this study" in texts(dcmread(node.folder / third.path))


def test_the_console_shows_both_reports(node: Inbox) -> None:
    analysed(node, 2)
    with node.database.read() as session:
        shown = images.report_files(session, node.settings, STUDY)
    assert shown == [node.folder / row.path for row in reports(node)]
