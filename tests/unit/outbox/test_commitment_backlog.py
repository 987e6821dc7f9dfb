"""A modality's request for storage commitment while objects that it sent before still wait to be indexed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.events import COMMITMENT_ASKED
from dicom_node.studies.associations import JournalIngest
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.outbox.test_outbox import (
    Takes,
    answers,
    archive_confirms,
    asking,
    hours_pass,
    of,
    state,
)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = asking(tmp_path)
    yield inbox
    inbox.close()


@pytest.mark.parametrize("ended", ["released", "open", "lost with its listener"])
def test_nothing_is_committed_while_a_newer_version_may_wait_to_be_indexed(inbox: Inbox, ended: str) -> None:
    image = ultrasound("backlog")
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    inbox.opened("newer")
    inbox.receive(changed(image, Laterality="R"), association="newer")
    if ended == "released":
        inbox.released("newer")
    elif ended != "open":
        inbox.listener_restarted()
    fields = {"transaction": "2.25.1", "calling": "MODALITY", "peer": "modality"}
    inbox.tell(COMMITMENT_ASKED, **fields, objects=[of(image)])  # type: ignore[arg-type]
    JournalIngest(inbox.database, inbox.folder / "journal").run_once()
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("waiting", [])
    inbox.released("newer")
    inbox.settle()
    archive_confirms(inbox)
    hours_pass(inbox, 0.1)
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("reported", [])
