"""Storage SCPs to measure, each started fresh in a folder of its own on a free port."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.sender import associate
from dicom_node.base.config.settings import Settings
from dicom_node.receive.policy import AEPolicy

# pynetdicom as its documentation writes a storage SCP; only the limit of 10 associations is raised, or it
# would refuse senders, and its logging is off as for ours.
_DOCUMENTED = """
import sys
from pathlib import Path
from pynetdicom import ALL_TRANSFER_SYNTAXES, AE, AllStoragePresentationContexts, _config, evt
_config.LOG_HANDLER_LEVEL = "none"
folder, port = Path(sys.argv[1]), int(sys.argv[2])
def handle_store(event):
    ds = event.dataset
    ds.file_meta = event.file_meta
    ds.save_as(folder / ds.SOPInstanceUID, enforce_file_format=True)
    return 0x0000
ae = AE(ae_title="AINODE")
ae.maximum_associations = 100
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, handle_store)])
"""


@dataclass(frozen=True, slots=True)
class Receiver:
    """``start`` gets a folder and a port and returns the process."""

    name: str
    durable: str
    start: Callable[[Path, int], subprocess.Popen[bytes]]
    programs: tuple[str, ...] = ()
    """What it needs beside Python."""
    stalls: bool = False
    """Sends responses in two pieces with Nagle on."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be started here."""
        return all(_which(program) is not None for program in self.programs)


@dataclass(slots=True)
class Running:
    """A receiver that accepts associations."""

    address: tuple[str, int]
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children, ended or not."""
        times = self.process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                one = child.cpu_times()
                total += one.user + one.system
        return float(total)

    def memory_bytes(self) -> int:
        """Resident memory of the process and its children that have not ended."""
        total = 0
        for one in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += int(one.memory_info().rss)
        return total

    def settle(self) -> None:
        """Let forked children end and be counted: storescp reaps them when the next connection comes."""
        time.sleep(0.3)
        with contextlib.suppress(OSError):
            socket.create_connection(self.address, timeout=5).close()
        time.sleep(0.3)


@contextlib.contextmanager
def running(receiver: Receiver, folder: Path, sop_class: str) -> Iterator[Running]:
    """Context manager: start ``receiver`` in the new folder ``folder``, wait until it accepts associations
    for ``sop_class``, and at the end kill it and delete the folder.

    What other processes wrote is synced to the disk first: the fsyncs of a durable receiver would wait for
    it.
    """
    os.sync()
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = receiver.start(folder, port)
    try:
        _wait_until_accepting(process, port, sop_class)
        yield Running(("127.0.0.1", port), psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_accepting(process: subprocess.Popen[bytes], port: int, sop_class: str) -> None:
    """Return when the receiver at ``port`` of this machine accepts an association. Raises RuntimeError if it
    ends, or does not accept one within 30 s.
    """
    end = time.monotonic() + 30
    while True:
        try:
            associate(("127.0.0.1", port), [(sop_class, ["1.2.840.10008.1.2.1"])]).release()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the receiver does not accept associations") from None
            time.sleep(0.05)


def _start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a program, with further environment variables, its output discarded."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


# Two listeners of one folder on one port; they end with their standard input, as this does.
_TWO = """
import subprocess, sys
from pathlib import Path
command = [sys.executable, "-m", "dicom_node.receive.listener", "--data-dir", sys.argv[1]]
[child.wait() for child in [subprocess.Popen(command), subprocess.Popen([*command, "--place", "listener-2"])]]
"""


def _node(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the node's listener."""
    _write_policy(folder / "policy.json", {"port": port})
    return _start(sys.executable, "-m", "dicom_node.receive.listener", "--data-dir", str(folder))


def _two_listeners(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start two listeners of the node that share one port."""
    for name in ("policy.json", "policy-listener-2.json"):
        _write_policy(folder / name, {"port": port, "share_port": True})
    return _start(sys.executable, "-c", _TWO, str(folder))


def _write_policy(path: Path, listener: dict[str, Any]) -> None:
    """Write the policy file of a listener with the settings ``listener``, which accepts one sender."""
    tables = {
        "listener": listener,
        "spool": {"minimum_free_mib": 1},
        "peers": [{"name": "sender", "ae_title": "SENDER", "maximum_associations": 100}],
    }
    policy = AEPolicy.from_settings(Settings.model_validate(tables))
    replace(policy, log_level="error").write(path)


def _documented(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start pynetdicom's documented storage SCP."""
    return _start(sys.executable, "-c", _DOCUMENTED, str(folder), str(port))


def _sink(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start ``sink.py``, which checks nothing and only writes what it gets."""
    return _start(sys.executable, str(Path(__file__).with_name("sink.py")), str(folder), str(port))


def _storescp(folder: Path, port: int, **environment: str) -> subprocess.Popen[bytes]:
    """Start DCMTK's storescp, a process for each association."""
    options = ("--fork", "+xa", "-od", str(folder), "--max-pdu", "131072", str(port))
    return _start(_path("storescp"), *options, **environment)


def _storescp_syncing(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start DCMTK's storescp with a library that syncs each file when it is closed."""
    library = folder.parent / "sync_on_close.so"
    source = Path(__file__).with_name("sync_on_close.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return _storescp(folder, port, LD_PRELOAD=str(library))


def _orthanc(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start Orthanc without its HTTP server."""
    config = {
        "Name": "bench",
        "StorageDirectory": str(folder / "storage"),
        "HttpServerEnabled": False,
        "DicomAet": "AINODE",
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomThreadsCount": 32,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return _start(_path("Orthanc"), str(path))


def _which(program: str) -> str | None:
    """The path of an installed program; None without it."""
    return shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin")


def _path(program: str) -> str:
    """The path of a program that must be installed."""
    path = _which(program)
    assert path is not None
    return path


NODE = Receiver("this node", "yes", _node)
DOCUMENTED = Receiver("pynetdicom as documented", "no", _documented)
STORESCP = Receiver("storescp", "no", _storescp, ("storescp",), stalls=True)
SYNCING = Receiver("storescp, a sync per file", "yes", _storescp_syncing, ("storescp", "cc"), stalls=True)
ORTHANC = Receiver("Orthanc", "yes", _orthanc, ("Orthanc",), stalls=True)
SINK = Receiver("bare sink", "yes", _sink)
TWO_LISTENERS = Receiver("this node, two listeners", "yes", _two_listeners)
RECEIVERS = (NODE, TWO_LISTENERS, SINK, DOCUMENTED, STORESCP, SYNCING, ORTHANC)
