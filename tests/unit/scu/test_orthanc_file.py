"""What an Orthanc says that it stored is read as far as it can be ours, each time that it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu import orthanc
from dicom_node.scu.destination import Presence
from dicom_node.scu.orthanc import OrthancDestination
from tests.modality import ultrasound
from tests.outbox_lab import outgoing

BLOCK = bytes(2**20)


class Changing:
    """Sends another file first, and one without an end when it is asked again."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def find(self, *_: Any, **__: Any) -> list[str]:
        return ["one"]

    def get_instance_file(self, *_: Any, **__: Any) -> Iterator[bytes]:
        self.sent.append(0)
        for _block in range(1 if len(self.sent) == 1 else 200):
            self.sent[-1] += 1
            yield BLOCK if len(self.sent) > 1 else b"another"


def test_a_file_that_grows_without_end_when_it_is_read_again_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing()
    monkeypatch.setattr(orthanc, "_client", lambda _peer: changing)
    peer = PeerSettings(name="pacs", ae_title="PACS", transport="orthanc", url="http://127.0.0.1:9")
    image = ultrasound("one")
    item = outgoing(image, tmp_path, "0" * 64)
    destination = OrthancDestination(peer, Settings(peers=[peer]))
    [answer] = destination.confirm([item])
    destination.close()
    assert answer.presence is Presence.DIFFERENT
    assert changing.sent[0] == 1 and changing.sent[1] < 5
