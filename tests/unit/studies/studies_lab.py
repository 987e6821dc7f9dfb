"""Choices and runs of studies, as the tests of several files make them."""

from datetime import timedelta

from dicom_node.people import studies
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import (
    changed,
)

DAY = timedelta(days=1)


def release(inbox: Inbox, uid: str, *take: int) -> None:
    studies.release(inbox.settings, uid, take)
    inbox.settle()


def analysed_rerun(node: Inbox, name: str, **values: str) -> str:
    """Receive, assemble and run one study; its UID."""
    image = changed(ultrasound(name), **values)
    node.settle(image)
    work(node)
    return str(image.StudyInstanceUID)
