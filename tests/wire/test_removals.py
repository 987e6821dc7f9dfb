"""Withdrawn results are deleted at peers, exactly these, or left to a person."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import delete, select
from werkzeug.wrappers import Request, Response

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.events import (
    RESULT_APPEARED,
    RESULT_NOT_REMOVED,
    RESULT_REMOVED,
)
from dicom_node.base.lifecycle import DeliveryState, ResultKind
from dicom_node.base.store.tables import Delivery, Removal, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.removals import Removals
from dicom_node.people.withdrawal import results_to_withdraw
from tests.hostile.web import answering
from tests.outbox_lab import (
    Outbox,
)
from tests.peers import a_peer
from tests.waiting import wait_until
from tests.wire.orthanc_lab import (
    TAKING_BACK,
    Orthanc,
    needs_orthanc,
    peer,
    stored,
)


def dicomweb_of(url: str) -> PeerSettings:
    return PeerSettings.model_validate(a_peer("pacs", transport="dicomweb", url=url, **TAKING_BACK))


def shown(outbox: Outbox) -> dict[str, list[dict[str, object]]]:
    found = outbox.read(results_to_withdraw, outbox.settings, 1)
    return {"removals": found["removals"], "by_hand": found["by_hand"]}


def removal_states(outbox: Outbox) -> set[str]:
    return {str(row["state"]) for row in shown(outbox)["removals"]}


def removals(outbox: Outbox, **how: object) -> Removals:
    return Removals(outbox.database, outbox.settings, "a test", **how)  # type: ignore[arg-type]


def run_until(outbox: Outbox, *wanted: str) -> None:
    worker = removals(outbox)

    def done() -> bool:
        worker.run_once()
        return removal_states(outbox) <= set(wanted)

    wait_until(done, 30, "/".join(wanted))


@needs_orthanc
def test_exactly_the_withdrawn_results_are_gone_and_another_object_is_left(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    """What is gone already counts as gone."""
    outbox = Outbox(tmp_path, [peer(orthanc, "orthanc", name="pacs", **TAKING_BACK)], confirm_seconds=2)
    first, gone, replaced = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert outbox.withdraw([first]) == {}
    assert removal_states(outbox) == {"asked"}
    assert first in orthanc.instances()
    run_until(outbox, "gone")
    assert first not in orthanc.instances()
    assert {gone, replaced} <= set(orthanc.instances())
    [row] = shown(outbox)["removals"]
    assert (row["destination"], row["sop_instance_uid"], row["reason"]) == ("pacs", first, "")
    assert outbox.numbers()[RESULT_APPEARED.number] == 0
    assert outbox.numbers()[RESULT_REMOVED.number] == 1
    for uid in (gone, replaced):
        orthanc.call("DELETE", f"/instances/{orthanc.id_of(uid)}")
    other = dcmread(outbox.file_of(replaced))
    other.InstanceNumber = 77
    stored(orthanc, other)
    outbox.withdraw()
    run_until(outbox, "gone", "by_hand")
    found = {row["sop_instance_uid"]: row for row in shown(outbox)["removals"]}
    assert (found[gone]["state"], found[replaced]["state"]) == ("gone", "by_hand")
    assert "another object" in str(found[replaced]["reason"])
    assert replaced in orthanc.instances()
    assert shown(outbox)["by_hand"] == {"pacs": [replaced]}
    assert outbox.numbers()[RESULT_NOT_REMOVED.number] == 1


@dataclass
class Server:
    """A DICOMweb server. ``delete``, ``search``: the status of each; ``body``: what a search finds."""

    url: str = ""
    delete: int = 200
    search: int = 200
    body: bytes = b"[]"

    def __call__(self, request: Request) -> Response:
        if self.search != 200:
            return Response(status=self.search)
        if not self.body:
            return Response(status=404)
        if request.method != "DELETE":
            return Response(self.body, content_type="application/dicom+json")
        self.body = b"[]" if self.delete == 200 else self.body
        return Response(status=self.delete)


@pytest.fixture
def dicomweb() -> Iterator[Server]:
    dicomweb = Server()
    with answering(dicomweb) as (dicomweb.url, _):
        yield dicomweb


@pytest.fixture
def at_server(tmp_path: Path, dicomweb: Server) -> Outbox:
    """A result that the DICOMweb dicomweb has, withdrawn."""
    outbox = Outbox(tmp_path, [dicomweb_of(dicomweb.url)], confirm_seconds=2)
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    [result] = outbox.scalars(select(Result))
    uids = {"00080016": result.sop_class_uid, "00080018": result.sop_instance_uid}
    dicomweb.body = json.dumps([{tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}]).encode()
    outbox.withdraw()
    return outbox


@needs_orthanc
@pytest.mark.parametrize("status", [401, 403, 405, 501, 500, 503, 429, 302])
def test_a_server_that_refuses_leaves_it_to_a_person_and_one_in_trouble_is_asked_again(
    at_server: Outbox, dicomweb: Server, status: int
) -> None:
    dicomweb.delete = status
    removals(at_server).run_once()
    [row] = shown(at_server)["removals"]
    refuses = status in (401, 403, 405, 501)
    assert row["state"] == ("by_hand" if refuses else "asked")
    assert not refuses or list(shown(at_server)["by_hand"]) == ["pacs"]
    assert row["reason"]
    assert not refuses or str(status) in str(row["reason"])
    dicomweb.delete = 200
    run_until(at_server, "by_hand" if refuses else "gone")


@pytest.mark.parametrize("empty", [b"[]", b""], ids=["not there", "no such study"])
@pytest.mark.parametrize("in_between", [200, 503], ids=["answers", "is away for a while"])
def test_what_appears_after_its_withdrawal_is_deleted_and_reported(
    at_server: Outbox, dicomweb: Server, empty: bytes, in_between: int
) -> None:
    there, dicomweb.body = dicomweb.body, empty
    removals(at_server).run_once()
    assert removal_states(at_server) == {"asked"}
    dicomweb.search = in_between
    at_server.put(Removal, next_at=utc_now())
    removals(at_server).run_once()
    dicomweb.body, dicomweb.search = there, 200
    run_until(at_server, "gone")
    assert dicomweb.body == b"[]"
    assert at_server.numbers()[RESULT_APPEARED.number] == 1


def test_what_the_outbox_finds_after_it_was_gone_is_deleted_again(
    at_server: Outbox, dicomweb: Server
) -> None:
    there, dicomweb.body = dicomweb.body, b"[]"
    at_server.put(Delivery, sent_at=utc_now() - timedelta(hours=1))
    run_until(at_server, "gone")
    dicomweb.body = there
    at_server.put(Delivery, sent_at=utc_now(), next_at=utc_now())
    at_server.run_until("confirmed")
    run_until(at_server, "gone")
    assert dicomweb.body == b"[]"
    assert at_server.numbers()[RESULT_APPEARED.number] == 1


@pytest.mark.usefixtures("dicomweb")
def test_a_person_is_called_where_the_node_can_delete_nothing(at_server: Outbox) -> None:
    with at_server.database.write() as session:
        session.execute(delete(Removal))
    [pacs] = at_server.settings.peers
    changed = pacs.model_copy(update={"withdraw": ""})
    at_server.settings = at_server.settings.model_copy(update={"peers": (changed,)})
    at_server.run_until("confirmed")
    assert at_server.numbers()[RESULT_NOT_REMOVED.number] == 1


def break_off(request: Request) -> Response:
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return Response()


@pytest.mark.parametrize("answer", ["nothing", 502, 200])
def test_a_result_whose_upload_has_no_clear_answer_is_asked_for_when_it_is_withdrawn(
    tmp_path: Path, answer: str | int
) -> None:
    """The connection breaks after the upload, a proxy answers for the server, the answer is none of DICOM."""
    with answering(break_off if answer == "nothing" else int(answer)) as (url, _):
        server = dicomweb_of(url).model_copy(update={"confirm": "none"})
        outbox = Outbox(tmp_path, [server], answer_seconds=1)
        outbox.add_study(["pacs"], [ResultKind.SC])
        outbox.worker().run_once()
        assert outbox.states() == {"pending": 1}
        outbox.withdraw()
    assert removal_states(outbox) == {"asked"}


@needs_orthanc
def test_what_never_left_is_not_asked_for(tmp_path: Path, dicomweb: Server) -> None:
    outbox = Outbox(tmp_path, [dicomweb_of(dicomweb.url)])
    outbox.add_study(["pacs"])
    outbox.withdraw()
    assert outbox.scalars(select(Removal)) == []
    assert removals(outbox).run_once() == 0
