"""An outbox in which one report waits for the PACS."""

from pathlib import Path

import pytest

from dicom_node.base.lifecycle import ResultKind
from tests.outbox_lab import PEER, Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path, [PEER], confirm_seconds=1800, refusals=3)
    outbox.add_study(["pacs"], [ResultKind.SR])
    return outbox
