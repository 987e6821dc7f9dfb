"""A server that answers with a redirect: no object and no password goes to the other address."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu import Presence, SendStatus, open_destination
from tests.hostile.web import answering
from tests.modality import ultrasound
from tests.outbox_lab import outgoing


@pytest.mark.parametrize("leads_on", [True, False])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
def test_a_redirect_is_followed_by_nothing(
    tmp_path: Path, transport: str, status: int, leads_on: bool
) -> None:
    """Nor is it a success where it names no other address."""
    image = ultrasound("redirected")
    item = outgoing(image, tmp_path)
    with (
        answering() as (elsewhere, taken),
        answering(status, **{"Location": f"{elsewhere}/taken"} if leads_on else {}) as (url, asked),
    ):
        peer = PeerSettings(
            name="pacs",
            ae_title="PACS",
            may=("receive",),
            transport=transport,  # type: ignore[arg-type]
            url=url,
            username="node",
            password="secret",
        )
        destination = open_destination(peer, Settings(peers=(peer,)))
        (sent,) = destination.send([item])
        (confirmed,) = destination.confirm([item])
        (tested,) = destination.test()
    assert len(asked) == 3 and taken == []
    assert sent.status is SendStatus.RETRY and "not followed" in sent.text
    assert confirmed.presence is Presence.UNKNOWN and "not followed" in confirmed.text
    assert not tested.ok and "not followed" in tested.text
