"""The PDF of the summary page at a real Orthanc, by each transport: it gives the same document out again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node import results
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.model.kinds import ResultKind
from dicom_node.scu import open_destination
from dicom_node.scu.destination import Outgoing, Presence, SendStatus
from tests.golden_lab import objects
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB]) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> results.BuiltObject:
    made = objects(tmp_path_factory.mktemp("objects"))
    return next(one for _, one in made if one.kind is ResultKind.PDF)


@pytest.mark.parametrize("transport", ["dimse", "orthanc", "dicomweb"])
def test_orthanc_takes_the_document_and_gives_out_the_pdf(
    tmp_path: Path, orthanc: Orthanc, built: results.BuiltObject, transport: str
) -> None:
    url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
    known = {"name": "ehr", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port}
    peer = PeerSettings.model_validate(
        {**known, "may": ("receive",), "transport": transport, "url": url, "results": ["pdf"]}
    )
    assert built.data is not None
    path = tmp_path / "page.dcm"
    path.write_bytes(built.data)
    document = dcmread(path)
    item = Outgoing(
        built.sop_class_uid,
        built.sop_instance_uid,
        str(document.StudyInstanceUID),
        built.series_instance_uid,
        path,
        hashlib.sha256(built.data).hexdigest(),
    )
    destination = open_destination(peer, Settings())
    try:
        assert [check for check in destination.test() if not check.ok] == []
        [report] = destination.send([item])
        assert report.status is SendStatus.STORED, report.text
        [answer] = destination.confirm([item])
        assert answer.presence is Presence.FOUND
    finally:
        destination.close()
    given = orthanc.call("GET", f"/instances/{orthanc.id_of(item.sop_instance_uid)}/pdf")
    assert given.rstrip(b"\0") == bytes(document.EncapsulatedDocument).rstrip(b"\0")
    orthanc.call("DELETE", f"/instances/{orthanc.id_of(item.sop_instance_uid)}")
