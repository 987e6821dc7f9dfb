"""Attack of A2 by each way, both databases (temporary)."""
import json, time
from datetime import timedelta
import pytest
from sqlalchemy import select
from werkzeug.wrappers import Request, Response
from dicom_node.base.events import RESULT_APPEARED, RESULT_NOT_REMOVED, RESULT_REMOVED
from dicom_node.base.lifecycle import DeliveryState, ResultKind, RemovalState
from dicom_node.base.store.tables import Delivery, Removal, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.removals import Removals
from tests.hostile.web import answering
from tests.outbox_lab import Outbox
from tests.postgres_lab import POSTGRESQL
from tests.wire.test_removals import Server, dicomweb_of, removal_states, removals, run_until
from tests.wire.orthanc_lab import TAKING_BACK, needs_orthanc, peer, stored, Orthanc, start_orthanc


from tests.wire.conftest import orthanc  # noqa


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=POSTGRESQL)])
def url(request):
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else ""


@pytest.fixture
def web():
    server = Server()
    with answering(server) as (server.url, _):
        yield server


def body_of(outbox):
    [result] = outbox.scalars(select(Result))
    uids = {"00080016": result.sop_class_uid, "00080018": result.sop_instance_uid}
    return json.dumps([{tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}]).encode()


@pytest.mark.parametrize("state", ["unconfirmed", "pending", "dead"])
@pytest.mark.parametrize("interruption", ["none", "503", "404", "401", "restart", "html"])
def test_appears_late(tmp_path, url, web, state, interruption):
    outbox = Outbox(tmp_path, [dicomweb_of(web.url)], confirm_seconds=3, database_url=url)
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState(state), sent_at=utc_now())
    there = body_of(outbox)
    outbox.withdraw()
    web.body = b"[]"
    removals(outbox).run_once()
    assert removal_states(outbox) == {"asked"}
    if interruption in ("503", "404", "401"):
        web.search = int(interruption)
        outbox.put(Removal, next_at=utc_now())
        removals(outbox).run_once()
        web.search = 200
    elif interruption == "html":
        web.body = b"<html>"
        outbox.put(Removal, next_at=utc_now()); removals(outbox).run_once()
    elif interruption == "restart":
        outbox.database.dispose()
    web.body = there
    outbox.put(Removal, next_at=utc_now())
    run_until(outbox, "gone", "by_hand")
    print(outbox.read(lambda s: [(r.state, r.reason) for r in s.scalars(select(Removal))]), outbox.numbers())
    assert web.body == b"[]" or outbox.numbers()[RESULT_NOT_REMOVED.number]
    assert outbox.numbers()[RESULT_APPEARED.number] == 1


def test_peer_goes_and_comes_back(tmp_path, url, web):
    outbox = Outbox(tmp_path, [dicomweb_of(web.url)], confirm_seconds=3, database_url=url)
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    there = body_of(outbox)
    outbox.withdraw()
    web.body = b"[]"
    removals(outbox).run_once()
    before = outbox.settings
    outbox.settings = before.model_copy(update={"peers": ()})
    outbox.put(Removal, next_at=utc_now())
    removals(outbox).run_once()
    outbox.worker().run_once()
    print(outbox.rows(), removal_states(outbox), outbox.numbers())
    assert removal_states(outbox) == {"by_hand"}
    assert outbox.numbers()[RESULT_NOT_REMOVED.number] == 1


def test_renamed_peer_then_found(tmp_path, url, web):
    """The result was UNCONFIRMED at a peer that has a rejection note only; found later."""
    pacs = dicomweb_of(web.url).model_copy(update={"withdraw": "", "iocm": True})
    outbox = Outbox(tmp_path, [pacs], confirm_seconds=3, database_url=url)
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    there = body_of(outbox)
    outbox.withdraw()
    web.body = b"[]"
    for _ in range(3): outbox.worker().run_once()
    print(outbox.rows(), outbox.numbers())


@needs_orthanc
def test_orthanc_late(tmp_path, url, orthanc):
    outbox = Outbox(tmp_path, [peer(orthanc, "orthanc", name="pacs", **TAKING_BACK)], confirm_seconds=4, database_url=url)
    [uid] = outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    outbox.withdraw()
    removals(outbox).run_once()
    assert removal_states(outbox) == {"asked"}
    from pydicom import dcmread
    stored(orthanc, dcmread(outbox.file_of(uid)))
    outbox.put(Removal, next_at=utc_now())
    run_until(outbox, "gone")
    assert uid not in orthanc.instances()
    assert outbox.numbers()[RESULT_APPEARED.number] == 1


@needs_orthanc
def test_dimse_late_with_rest_removal(tmp_path, url, orthanc):
    """DIMSE C-STORE whose answer is lost, then withdrawn, appears; peer with commitment/query."""
    outbox = Outbox(tmp_path, [peer(orthanc, "dimse", name="pacs")], confirm_seconds=4, database_url=url)
    [uid] = outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    outbox.withdraw()
    from pydicom import dcmread
    outbox.worker().run_once()
    stored(orthanc, dcmread(outbox.file_of(uid)))
    outbox.put(Delivery, next_at=utc_now())
    for _ in range(3): outbox.worker().run_once()
    print(outbox.rows(), outbox.numbers())
    assert outbox.numbers()[RESULT_NOT_REMOVED.number] == 1
