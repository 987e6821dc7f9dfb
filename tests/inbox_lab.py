"""A reception without a network: real spool files, a real journal, a real database."""

import atexit
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from dicom_node.base.config.loading import file_of, newest
from dicom_node.base.config.settings import Settings
from dicom_node.base.durable import write_new
from dicom_node.base.events import (
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_RELEASED,
    LISTENER_STARTED,
    Event,
    EventType,
)
from dicom_node.base.files import Files
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Instance, Job, ReceivedObject, Study
from dicom_node.receive.inspection import Inspector
from dicom_node.receive.journal import JournalWriter
from dicom_node.receive.spool import Arrival, Spool
from dicom_node.studies.completion import Assembler
from dicom_node.studies.indexing import Indexer
from dicom_node.studies.reconciliation import reindex
from tests.peers import a_peer, a_receiver
from tests.rows import Stored

CONFIG: dict[str, Any] = {
    "assembly": {"quiet_seconds": 5, "quiet_seconds_us": 30},
    "console": {"local_peers": True},
    "peers": [
        a_peer("modality", may=["send"]),
        a_peer("quick", may=["send"], quiet_seconds=1),
        a_peer("latin", may=["send"], assume_charset="ISO_IR 100"),
        a_peer("grabber", may=["send"]),
        a_receiver("pacs", results=["sr", "sc", "cleaned"]),
    ],
    "rules": [
        {
            "name": "ultrasound",
            "when": {"modality": "US"},
            "max_study_age_days": 0,
            "pipeline": "ultrasound",
            "send_to": ["pacs"],
        },
        {
            "name": "grabbed",
            "when": {"calling_ae": "GRABBER"},
            "max_study_age_days": 0,
            "pipeline": "ultrasound",
            "send_to": ["pacs"],
            "secondary_captures_from": ["grabber"],
        },
    ],
}


INSPECTOR = Inspector()  # one process for all tests of a run
atexit.register(INSPECTOR.close)


def spooled(
    spool: Spool, arrival: Arrival, sop_class: str, uid: str, syntax: str, chunks: Iterable[bytes]
) -> str:
    """Spool one data set in pieces, as an association does; returns its spool name."""
    incoming = spool.open(arrival, sop_class, uid, syntax)
    try:
        for chunk in chunks:
            incoming.write(chunk)
        return incoming.commit()
    finally:
        incoming.abandon()


@dataclass
class Inbox(Stored):
    """A node's inbox in a folder; ``later`` and ``settle`` move its clock, which tests cannot wait for."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=lambda: CONFIG)
    url: str = ""
    inspector: Inspector = field(default=INSPECTOR)
    is_open: bool = True

    def __post_init__(self) -> None:
        node = {"data_dir": self.folder, "database_url": self.url}
        self.settings = Settings.model_validate({**self.config, "node": node})
        self.database = Database(self.settings.database_url)
        self.database.upgrade()
        self.spool = Spool(self.folder / "spool", minimum_free_bytes=0)
        self.journal = JournalWriter(self.folder / "journal", "listener1")
        self.reopen()

    def reopen(self) -> None:
        """As after a restart of the node."""
        self.indexer = Indexer(self.database, self.spool, self.settings, self.inspector)
        self.assembler = Assembler(self.database, self.settings)

    def close(self) -> None:
        """Once: a second close would close a file of somebody else by its number."""
        if self.is_open:
            self.is_open = False
            if self.journal._file >= 0:
                os.close(self.journal._file)
            self.database.dispose()

    def receive(
        self, *objects: Dataset, calling: str = "MODALITY", association: str = "", priority: int = 0
    ) -> list[str]:
        """Spool objects as the listener does; returns their spool names."""
        return [
            self.receive_bytes(
                encoded(ds),
                str(ds.SOPClassUID),
                str(ds.SOPInstanceUID),
                str(ds.file_meta.TransferSyntaxUID),
                calling=calling,
                association=association,
                priority=priority,
            )
            for ds in objects
        ]

    def receive_bytes(
        self,
        data: bytes,
        sop_class: str,
        uid: str,
        syntax: str,
        *,
        calling: str = "MODALITY",
        association: str = "",
        priority: int = 0,
    ) -> str:
        """Spool a data set as it is."""
        arrival = Arrival(association, calling, "AINODE", "127.0.0.1", priority, datetime.now(UTC))
        return spooled(self.spool, arrival, sop_class, uid, syntax, [data])

    def tell(self, event: EventType, association: str = "", **fields: str | int) -> None:
        """A journal line of the listener."""
        known = {
            "association": association,
            "listener": "listener1",
            "calling": "MODALITY",
            "called": "AINODE",
        }
        self.journal.append(Event(event, datetime.now(UTC), {**known, "address": "127.0.0.1", **fields}))

    def opened(self, association: str) -> None:
        self.tell(ASSOCIATION_ACCEPTED, association)

    def released(self, association: str) -> None:
        self.tell(ASSOCIATION_RELEASED, association, objects=1)

    def listener_restarted(self) -> None:
        if self.journal._file >= 0:
            os.close(self.journal._file)
        self.journal = JournalWriter(self.folder / "journal", "listener2")
        self.tell(LISTENER_STARTED, listener="listener2")

    @property
    def files(self) -> Files:
        return Files(self.settings)

    @property
    def stores(self) -> tuple[Database, Spool, Files]:
        """What is compared with each other."""
        return self.database, self.spool, self.files

    def reindex(self) -> int:
        """As into a database that lost its rows; how many objects were read."""
        return reindex(*self.stores)

    def index(self, *objects: Dataset, **given: Any) -> int:
        """Receive these, if any, and index what is there."""
        self.receive(*objects, **given)
        return self.indexer.run_once()

    def assemble(self, seconds: float = 0.0) -> int:
        """Assemble as if so many seconds had passed."""
        return self.assembler.run_once(datetime.now(UTC) + timedelta(seconds=seconds))

    def settle(self, *objects: Dataset, **given: Any) -> None:
        """Receive these, if any, index, and let every quiet time pass."""
        self.index(*objects, **given)
        self.assemble(seconds=300)

    def study(self, uid: str | None) -> Study:
        [study] = [row for row in self.rows(Study) if row.study_instance_uid == uid]
        return study

    def study_of(self, image: Dataset) -> Study:
        return self.study(image.StudyInstanceUID)

    def instance(self, image: Dataset) -> Instance:
        [row] = [row for row in self.rows(Instance) if row.sop_instance_uid == image.SOPInstanceUID]
        return row

    def outcomes(self) -> list[str]:
        """What became of each object, in the order of reception."""
        return self.column(ReceivedObject.outcome)

    def jobs(self) -> list[Job]:
        return self.rows(Job)

    def spool_files(self) -> int:
        """How many objects lie in the spool."""
        return len(list((self.folder / "spool").rglob("*.dcm")))

    def file_of(self, image: Dataset) -> Dataset:
        """The spooled version that counts."""
        return dcmread(self.folder / self.instance(image).path)


def encoded(ds: Dataset) -> bytes:
    """The data set alone, as it travels."""
    syntax = ds.file_meta.TransferSyntaxUID
    return encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def enter_peer(data_dir: Path, name: str) -> None:
    """As the console of another machine does; this machine has yet to take it over."""
    text = f'[[peers]]\nname = "{name}"\nae_title = "ELSEWHERE"\n'
    write_new(file_of(data_dir, newest(data_dir) + 1), text)
