"""A disk that does not read a result's file makes no dead letter; a file that is gone or another does."""

import errno
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.lifecycle import ResultKind
from dicom_node.deliver import inspection
from dicom_node.deliver.scu import storage
from tests.hostile.web import answering
from tests.outbox_lab import PEER, Outbox
from tests.pacs_lab import Pacs, free_port, run_pacs

IO_ERROR = "disk: input/output error"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def database_url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    ("module", "reader"),
    [(inspection, "sha256_of"), (Path, "is_dir"), (storage, "read_file_meta_info")],
    ids=["hash", "folder", "header"],
)
def test_a_result_that_the_disk_does_not_read_now_waits_and_is_sent_later(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, module: Any, reader: str
) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()], database_url=database_url, refusals=1)
        sent = outbox.add_study(["pacs"], [ResultKind.SR])
        with monkeypatch.context() as patch:
            patch.setattr(module, reader, Mock(side_effect=OSError(errno.EIO, "Input/output error")))
            outbox.worker().run_once()
            [row] = outbox.rows()
            assert (row["state"], row["reason"], row["refusals"]) == ("pending", IO_ERROR, 0)
        outbox.run_until("confirmed")
        assert pacs.received == sent
    outbox.database.dispose()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"another")])
def test_a_file_that_is_gone_or_another_is_a_dead_letter(tmp_path: Path, damage: Any) -> None:
    outbox = Outbox(tmp_path, [PEER])
    [uid] = outbox.add_study(["pacs"], [ResultKind.SR])
    damage(outbox.file_of(uid))
    outbox.worker().run_once()
    assert outbox.states() == {"dead": 1}


def test_a_data_folder_that_is_not_mounted_makes_no_dead_letter(tmp_path: Path, database_url: str) -> None:
    url = database_url or f"sqlite:///{tmp_path / 'node.db'}"
    outbox = Outbox(tmp_path / "var", [PEER], database_url=url, refusals=1)
    outbox.add_study(["pacs"], [ResultKind.SR])
    (tmp_path / "var").rename(tmp_path / "away")
    (tmp_path / "var").mkdir()
    outbox.worker().run_once()
    [row] = outbox.rows()
    assert row["state"] == "pending"
    assert row["reason"].startswith("disk: ")
    outbox.database.dispose()


def test_a_file_that_the_disk_stops_to_read_during_an_upload_is_no_fault_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread(BytesIO):
        """A file of which the disk does not read the rest."""

        def read(self, *_: int | None) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with answering(200, b"{}") as (url, _):
        peer = PeerSettings(name="pacs", ae_title="PACS", transport="orthanc", url=url, may=("receive",))
        outbox = Outbox(tmp_path, [peer])
        outbox.add_study(["pacs"], [ResultKind.SR])
        opened = Path.open

        def open_unread(path: Path, *given: Any, **named: Any) -> Any:
            is_upload = sys._getframe(1).f_code.co_name == "_store"
            return Unread(b"12345678") if is_upload else opened(path, *given, **named)

        monkeypatch.setattr(Path, "open", open_unread)
        outbox.worker().run_once()
        [row] = outbox.rows()
    assert (row["state"], row["reason"], row["refusals"]) == ("pending", IO_ERROR, 0)
