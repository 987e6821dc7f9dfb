"""A web server that is no PACS, or a PACS that answers nonsense: an end in words, and no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import ResultKind
from dicom_node.scu import open_destination
from tests.hostile.web import answering
from tests.outbox_lab import Outbox

JSON = "application/dicom+json"
Transport = Literal["orthanc", "dicomweb"]


def receiver(transport: Transport, url: str, *, confirm: Literal["query", "none"] = "query") -> PeerSettings:
    return PeerSettings(
        name="pacs", ae_title="PACS", may=("receive",), transport=transport, url=url, confirm=confirm
    )


@pytest.mark.parametrize("confirm", ["query", "none"])
@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", JSON),
        (b"{}", JSON),
        (b"[1]", JSON),
        (b'"stored"', JSON),
        (b"null", JSON),
        (b'{"00081199": 5}', JSON),
        (b'{"00081199": {"vr": "SQ", "Value": [7]}}', JSON),
        (b'{"Status": ["Success"]}', JSON),
        (b"[" * 100_000, JSON),
        (b"<html>sign in</html>", "application/dicom+xml"),
        (b"<html", "application/dicom+xml"),
        (b"<html>sign in</html>", "text/html"),
    ],
)
def test_no_nonsense_is_a_success_and_its_tries_have_an_end(
    tmp_path: Path,
    transport: Transport,
    body: bytes,
    kind: str,
    confirm: Literal["query", "none"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with answering(body=body, Content_Type=kind) as (url, asked):
        peer = receiver(transport, url, confirm=confirm)
        outbox = Outbox(tmp_path, [peer], retry_seconds=0.01, retry_limit_seconds=0.01, confirm_seconds=0.01)
        outbox.add_study(["pacs"], [ResultKind.SR])
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
        [check] = open_destination(peer, outbox.settings).test()
    assert 3 <= sum(one.startswith("POST") for one in asked) < 20
    assert "defect" not in row["reason"] and len(row["reason"]) > 20, row["reason"]
    assert not any(record.exc_info for record in caplog.records)
    assert len(check.text) > 10
