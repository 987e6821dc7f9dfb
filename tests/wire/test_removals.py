"""Withdrawn results are deleted at the peer: a real Orthanc by REST, and servers that refuse, fail or lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydicom import dcmread, dcmwrite
from sqlalchemy import select, update

from dicom_node.config.settings import PeerSettings
from dicom_node.events import RESULT_NOT_REMOVED, RESULT_REMOVED
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.outbox.removals import Removals
from dicom_node.scu import Outgoing, RemovalAnswer, Remover, open_remover
from dicom_node.services import results
from dicom_node.store.accounts import Removal
from dicom_node.store.tables import Result, Study
from dicom_node.store.transitions import utc_now
from tests.outbox_lab import Outbox
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

NOTHING = {"reason": RejectionReason.QUALITY, "because": "of the wrong side"}


def peer(url: str, transport: str = "orthanc", **more: object) -> PeerSettings:
    known = {"name": "pacs", "ae_title": "PACS", "may": ("receive",), "withdraw": "delete"}
    return PeerSettings.model_validate({**known, "transport": transport, "url": url, **more})


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


def delivered(outbox: Outbox) -> list[str]:
    sent = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    return sent


def withdraw(outbox: Outbox, uids: list[str] | None = None) -> dict[str, list[str]]:
    with outbox.database.read() as session:
        study = str(session.scalars(select(Study.study_instance_uid)).one())
    return results.withdraw_by_uid(outbox.settings, study, uids, **NOTHING)  # type: ignore[arg-type]


def shown(outbox: Outbox) -> dict[str, list[dict[str, object]]]:
    with outbox.database.read() as session:
        found = results.show(session, outbox.settings, 1)
    return {"removals": found["removals"], "by_hand": found["by_hand"]}


def states(outbox: Outbox) -> set[str]:
    return {str(row["state"]) for row in shown(outbox)["removals"]}


def removals(outbox: Outbox, **how: object) -> Removals:
    return Removals(outbox.database, outbox.settings, "a test", **how)  # type: ignore[arg-type]


def run_until(outbox: Outbox, *wanted: str) -> None:
    worker = removals(outbox)

    def done() -> bool:
        worker.run_once()
        return states(outbox) <= set(wanted)

    wait_until(done, 30, "/".join(wanted))


@pytest.mark.debian("orthanc")
def test_exactly_the_withdrawn_results_are_gone_from_orthanc(tmp_path: Path, orthanc: Orthanc) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc.url)])
    first, *others = delivered(outbox)
    assert withdraw(outbox, [first]) == {}
    assert states(outbox) == {"asked"} and first in orthanc.instances()
    run_until(outbox, "gone")
    assert first not in orthanc.instances() and set(others) <= set(orthanc.instances())
    [row] = shown(outbox)["removals"]
    assert (row["destination"], row["sop_instance_uid"], row["reason"]) == ("pacs", first, "")
    assert outbox.numbers()[RESULT_REMOVED.number] == 1
    assert withdraw(outbox) == {}
    run_until(outbox, "gone")
    assert not {first, *others} & set(orthanc.instances())


@pytest.mark.debian("orthanc")
def test_what_is_gone_already_counts_as_gone_and_another_object_is_left(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc.url)])
    gone, replaced, _ = delivered(outbox)
    for uid in (gone, replaced):
        orthanc.call("DELETE", f"/instances/{orthanc.id_of(uid)}")
    other = dcmread(outbox.file_of(replaced))
    other.InstanceNumber = 77
    buffer = BytesIO()
    dcmwrite(buffer, other)
    orthanc.upload(buffer.getvalue())
    withdraw(outbox, [gone, replaced])
    run_until(outbox, "gone", "by_hand")
    found = {row["sop_instance_uid"]: row for row in shown(outbox)["removals"]}
    assert (found[gone]["state"], found[replaced]["state"]) == ("gone", "by_hand")
    assert "another object" in str(found[replaced]["reason"]) and replaced in orthanc.instances()
    assert shown(outbox)["by_hand"] == {"pacs": [replaced]}
    assert outbox.numbers()[RESULT_NOT_REMOVED.number] == 1


@pytest.mark.debian("orthanc")
def test_a_node_that_dies_between_deletion_and_question_asks_again(tmp_path: Path, orthanc: Orthanc) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc.url)])
    delivered(outbox)
    withdraw(outbox)

    class Killed(BaseException):
        """As kill -9: nothing of the worker goes on."""

    class Dying:
        def __init__(self, real: Remover) -> None:
            self.real = real

        def remove(self, item: Outgoing) -> RemovalAnswer:
            assert self.real.remove(item).gone
            raise Killed

        def close(self) -> None:
            self.real.close()

    dying = removals(outbox, open_remover=lambda one, settings: Dying(open_remover(one, settings)))
    with pytest.raises(Killed):
        dying.run_once()
    assert states(outbox) == {"asked"}
    run_until(outbox, "gone")


class Server:
    """Answers as told: ``delete`` and ``find`` are statuses, ``body`` is what a search finds."""

    def __init__(self) -> None:
        self.delete, self.find, self.body = 200, 200, b"[]"
        self.deleted: list[str] = []
        me = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, status: int, body: bytes) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self._answer(me.find, me.body)

            def do_POST(self) -> None:
                self._answer(me.find, me.body)

            def do_DELETE(self) -> None:
                me.deleted.append(self.path)
                if me.delete == 200:
                    me.body = b"[]"
                self._answer(me.delete, b"")

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def at_server(tmp_path: Path, server: Server) -> Outbox:
    """A result that the DICOMweb server has, withdrawn."""
    outbox = Outbox(tmp_path, [peer(server.url, "dicomweb")])
    outbox.add_study(["pacs"], [ResultKind.SC])
    with outbox.database.write() as session:
        result = session.scalars(select(Result)).one()
        for delivery in result.deliveries:
            delivery.sent_at = utc_now()
        server.body = json.dumps(
            [
                {
                    "00080016": {"vr": "UI", "Value": [result.sop_class_uid]},
                    "00080018": {"vr": "UI", "Value": [result.sop_instance_uid]},
                }
            ]
        ).encode()
    withdraw(outbox)
    return outbox


def test_a_dicomweb_server_deletes_the_instance(at_server: Outbox, server: Server) -> None:
    run_until(at_server, "gone")
    header = dcmread(at_server.file_of(str(shown(at_server)["removals"][0]["sop_instance_uid"])))
    assert server.deleted == [
        f"/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
    ]


@pytest.mark.parametrize("status", [401, 403, 405, 501])
def test_a_server_that_refuses_leaves_it_to_a_person(at_server: Outbox, server: Server, status: int) -> None:
    server.delete = status
    run_until(at_server, "by_hand")
    found = shown(at_server)
    assert str(status) in str(found["removals"][0]["reason"])
    assert list(found["by_hand"]) == ["pacs"]


@pytest.mark.parametrize("status", [500, 503, 429, 302])
def test_a_server_in_trouble_is_asked_again(at_server: Outbox, server: Server, status: int) -> None:
    server.delete = status
    worker = removals(at_server)
    assert worker.run_once() == 1
    [row] = shown(at_server)["removals"]
    assert (row["state"], row["attempts"]) == ("asked", 1) and row["reason"]
    server.delete = 200
    run_until(at_server, "gone")


@pytest.mark.parametrize("body", [b"{", b"<html>", b"[1, 2]", b'{"a": 1}', b"[" * 5000, b" " * 2**24])
def test_answers_that_cannot_be_read_never_count_as_gone(
    at_server: Outbox, server: Server, body: bytes
) -> None:
    server.delete, server.body = 204, body
    removals(at_server).run_once()
    assert states(at_server) == {"asked"}


def test_a_server_that_says_deleted_and_still_has_it_is_asked_again(
    at_server: Outbox, server: Server
) -> None:
    server.delete = 204
    removals(at_server).run_once()
    [row] = shown(at_server)["removals"]
    assert (row["state"], row["reason"]) == ("asked", "it is still there")


def test_an_address_that_leads_elsewhere_does_not_make_it_gone(at_server: Outbox, server: Server) -> None:
    server.find = 404
    removals(at_server).run_once()
    assert states(at_server) == {"by_hand"} and server.deleted == []


def test_a_server_that_is_away_is_asked_again(at_server: Outbox, server: Server) -> None:
    server.http.server_close()
    removals(at_server).run_once()
    assert states(at_server) == {"asked"}


def test_a_peer_that_is_no_longer_to_delete_leaves_it_to_a_person(at_server: Outbox) -> None:
    other = at_server.settings.peers[0].model_copy(update={"withdraw": ""})
    settings = at_server.settings.model_copy(update={"peers": (other,)})
    Removals(at_server.database, settings, "a test").run_once()
    assert states(at_server) == {"by_hand"}


def test_a_result_whose_file_is_gone_is_left_to_a_person(at_server: Outbox, server: Server) -> None:
    with at_server.database.write() as session:
        path = session.scalars(select(Result.path)).one()
        session.execute(update(Result).values(purged=True))
    (at_server.settings.node.data_dir / path).unlink()
    removals(at_server).run_once()
    assert states(at_server) == {"by_hand"} and server.deleted == []


def test_what_never_left_is_not_asked_for(tmp_path: Path, server: Server) -> None:
    outbox = Outbox(tmp_path, [peer(server.url, "dicomweb")])
    outbox.add_study(["pacs"])
    withdraw(outbox)
    with outbox.database.read() as session:
        assert session.scalars(select(Removal)).all() == []
    assert removals(outbox).run_once() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"transport": "dimse", "host": "127.0.0.1", "port": 1},
        {"transport": "orthanc", "url": "http://x", "iocm": True},
        {"transport": "orthanc", "url": "http://x", "may": ("query",)},
    ],
)
def test_peers_that_cannot_delete_are_refused_in_words(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"withdraw|DICOM"):
        PeerSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "may": ("receive",), "withdraw": "delete", **wrong}
        )
