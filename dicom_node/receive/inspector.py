"""Opens received objects in a separate process, under limits of memory and time.

A hostile object can end only this process. It is started again and the next object is read. A stalled disk or
a busy machine looks alike, so an object is quarantined only when a fresh process, with more time, fails too.
"""

from __future__ import annotations

import errno
import json
import select
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from dicom_node.base.dicom.elements import Limits
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.processes import without_secrets
from dicom_node.receive import inspection
from dicom_node.receive.inspection import Inspected

_START_SECONDS = 120.0
_BYTES_A_SECOND = 10 * 2**20  # of a slow disk, beside the time limit
_LONGER = 4  # times as much time for the second try


class ReaderLost(Exception):
    """The process did not answer; the text says why. It may not have been the object's fault."""


class Inspector:
    """The process, started on first use. One thread at a time uses it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, which is started unless it runs, when it is ready. Raises OSError."""
        if self._process is not None and self._process.poll() is not None:  # killed between two objects
            self.close()
        if self._process is None:
            limits = json.dumps(asdict(self._limits))
            # Its errors would quote what is in the object.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dicom_node.receive.inspecting", limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=without_secrets(),
            )
            if not _line(self._process, _START_SECONDS):  # no fault of any object
                self.close()
                raise OSError(errno.ETIMEDOUT, "the process that reads objects does not start")
        return self._process

    def inspect(self, path: Path, assume_charset: str = "") -> Inspected:
        """The header of a Part 10 file, read again where the process is lost. Raises only OSError, if the
        disk cannot read the file.
        """
        try:
            return self.inspect_once(path, assume_charset)
        except ReaderLost:
            return self.inspect_again(path, assume_charset)

    def inspect_once(self, path: Path, assume_charset: str = "", times: int = 1) -> Inspected:
        """The header of a Part 10 file. Raises ReaderLost, and OSError if the disk cannot read the file.

        ``times``: how many times the time limit it gets.
        """
        found = self._ask({"inspect": str(path), "assume": assume_charset}, path.stat().st_size, times)
        if "error" in found:
            raise OSError(found["error"], "the file cannot be read")
        return Inspected(**{**found, "patient": Patient(**found["patient"])})

    def inspect_again(self, path: Path, assume_charset: str = "") -> Inspected:
        """Read by a fresh process, with more time; an object at which it is lost too is at fault. Raises
        OSError.
        """
        self.close()
        try:
            return self.inspect_once(path, assume_charset, _LONGER)
        except ReaderLost as lost:
            return unread(path, str(lost))

    def fresh(self) -> Inspector:
        """Another one with the same limits, for second tries."""
        return Inspector(self._limits)

    def same_image(self, one: Path, other: Path, *, again: bool = False) -> bool | None:
        """Whether two files decode to the same samples; None if one does not decode within the limits.

        Raises ReaderLost, unless it is tried ``again``, with more time.
        """
        try:
            size, times = one.stat().st_size + other.stat().st_size, _LONGER if again else 1
            return cast("bool | None", self._ask({"same": [str(one), str(other)]}, size, times)["same"])
        except (OSError, ReaderLost) as error:
            if isinstance(error, ReaderLost) and not again:
                raise
            return None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, request: dict[str, Any], size: int, times: int) -> dict[str, Any]:
        seconds = times * (self._limits.seconds + size / _BYTES_A_SECOND)
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({**request, "seconds": seconds}).encode("ascii") + b"\n")
            answer = _line(process, seconds)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            self.close()
            raise ReaderLost(f"reading it took more than {seconds:.0f} s")
        if not answer.endswith(b"\n"):
            self.close()
            raise ReaderLost(
                f"the process that read it died; it may have needed more than {self._limits.memory_mib} MiB"
            )
        return cast(dict[str, Any], json.loads(answer))


def unread(path: Path, fault: str) -> Inspected:
    """Describe an object without opening its data set, by its C-STORE command and file meta information.

    Raises OSError.
    """
    return Inspected(*inspection.read_requested(path), fault=fault)


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """One line, what there is of it when the process ends, None when the time is over."""
    assert process.stdout is not None
    end, read = time.monotonic() + seconds, bytearray()
    while not read.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(end - time.monotonic(), 0))
        if not ready:
            return None
        if not (block := process.stdout.read(2**20)):
            break
        read += block
    return bytes(read)
