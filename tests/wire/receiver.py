"""The listener as a process of its own, as the node starts it, with the senders of the tests."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from benchmarks.sender import Stored
from dicom_node.base.config.settings import Settings
from dicom_node.base.events import Event, EventType
from dicom_node.receive.journal import read_journal
from dicom_node.receive.policy import AEPolicy, policy_path
from dicom_node.receive.spool import Spool
from tests.forked import Forked
from tests.peers import a_peer, a_receiver
from tests.ports import free_port
from tests.waiting import wait_until

US = "1.2.840.10008.5.1.4.1.1.6.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

PEERS = [
    a_peer("sender", maximum_associations=60),
    a_peer("storescu"),
    a_receiver("pacs"),
]


class Receiver:
    """``python -m dicom_node.receive``, on a free port where none is given.

    ``alone``: started as a node starts it, not by fork.
    """

    def __init__(self, data_dir: Path, place: str = "", *, alone: bool = False, **listener: Any) -> None:
        self.data_dir = data_dir
        self._start = subprocess.Popen if alone else Forked
        self._place = place
        self.port = 0
        self.policy = self._write(listener)
        self.spool = Spool(data_dir / "spool", 0)
        self._process: subprocess.Popen[str] | None = None

    def _write(self, listener: dict[str, Any]) -> AEPolicy:
        peers = listener.pop("peers", PEERS)
        free_mib = listener.pop("minimum_free_mib", 1)
        spool = {"minimum_free_mib": free_mib, "waiting_objects": listener.pop("waiting_objects", 20_000)}
        tables = {"listener": {"port": self.port or free_port(), **listener}, "peers": peers, "spool": spool}
        policy = AEPolicy.from_settings(Settings.model_validate(tables))
        policy = replace(policy, log_level="error")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        policy.write(policy_path(self.data_dir, self._place))
        return policy

    def change(self, **listener: Any) -> None:
        """Write another policy, as the node does on SIGHUP."""
        self._write(listener)

    def start(self, stderr: IO[str] | None = None) -> None:
        """Start it and wait until it listens; ``stderr`` takes its log."""
        self._process = self._start(
            [
                *(sys.executable, "-m", "dicom_node.receive.listener", "--data-dir", str(self.data_dir)),
                *(["--place", self._place] if self._place else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"listener ended with {self._process.wait(10)}"
        self.port = json.loads(line)["listening"][1]

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def wait_until_nothing_is_open(self) -> None:
        """No temporary file is left."""
        wait_until(lambda: not [name for name in self.files() if name.startswith(".")])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(60)
        self._close_pipes()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        status = self.process.wait(60)
        self._close_pipes()
        return status

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def files(self) -> list[str]:
        """Everything below the spool, temporary files too."""
        return [path.name for path in (self.data_dir / "spool").rglob("*") if path.is_file()]

    def events(self, *types: EventType) -> list[Event]:
        """What the journal says, of these types."""
        found = read_journal(self.data_dir / "journal", {})
        return [event for _, _, event in found if not types or event.type in types]

    def wait_for_event(self, event_type: EventType, count: int = 1) -> list[Event]:
        wait_until(lambda: len(self.events(event_type)) >= count, what=event_type.text)
        return self.events(event_type)

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def receiving(data_dir: Path, **listener: Any) -> Iterator[Receiver]:
    """A running listener; whatever happens, it is ended."""
    receiver = Receiver(data_dir, **listener)
    receiver.start()
    try:
        yield receiver
    finally:
        if receiver.process.poll() is None:
            receiver.signal(signal.SIGKILL)
            receiver.process.wait(10)
        receiver._close_pipes()


def ultrasound(number: int = 1, pixels: int = 5000, syntax: str = EXPLICIT, sop_class: str = US) -> Stored:
    """A small object, whole as far as the wire is concerned; UIDs differ by ``number``."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"1.2.826.0.1.3680043.10.543.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
    ds.Modality, ds.PatientID = "US", "TEST"
    ds.PixelData = random.Random(number).randbytes(pixels * 2)
    ds["PixelData"].VR = "OW"
    uid = UID(syntax)
    encoded = encode(ds, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated)
    assert encoded is not None
    return Stored(sop_class, ds.SOPInstanceUID, syntax, encoded)
