"""Decode compressed frames in a process that can do nothing else (:mod:`.decoder_process`).

The process has no file, no network, no environment and no other process to reach. It returns as many samples
as the header says, or an error; a malicious frame can end at most the process of this frame.
docs/reference/confinement.md says which protection holds where.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence

import numpy as np

from ai_pipeline.errors import CodestreamFault, NoDecoder

SECONDS = 60.0  # by the clock, for a frame
HEAD = struct.Struct("<8sQQ")
"""Before the frame: name of its decoder, its length, and that of its samples, which take its place.

Before the answer: :data:`SAMPLES`, or :data:`COMPLAINT` with its length.
"""
SAMPLES, COMPLAINT = b"samples\0", b"complain"
ENDED = struct.Struct("<i?")
"""How a frame's process ended, as ``os.waitstatus_to_exitcode`` has it, and whether its time was over."""
LONGEST_COMPLAINT = 400  # bytes
PICTURE_HEADER = struct.Struct("<QQBB?")
"""What the decoder ``header`` answers on a PNG, JPEG or TIFF: rows and columns once it is upright,
samples of a pixel (1 or 3), bytes of a sample (1 or 2), and whether it was compressed with loss."""
DEEPEST = 3
"""Times that a JPEG 2000 can be halved as it is decoded."""
_START_SECONDS = 120.0
_MOST_KEPT = 32 << 20  # bytes of memory that wait for the next frame
_KILLED = "the decoder was killed: insufficient memory"  # so it is tried again: the frame cannot kill it
# Nothing of our environment. A process with threads could not be forked. Huge pages: 15 ms less for 12 MB.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Decoder:
    """The separate process that decodes frames. It is started when first needed, and again if it has ended;
    threads take turns.
    """

    def __init__(self, arguments: Sequence[str] = ("-m", "ai_pipeline.images.decoder_process")) -> None:
        """``arguments``: those of the Python interpreter that starts the process."""
        # -I: nothing is imported from the working folder, PYTHONPATH or the person's own packages.
        self._command = [sys.executable, "-I", *arguments]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._walls = bytearray()
        self._kept: _Memory | None = None

    def start(self) -> None:
        """Start the process, unless it runs, and wait until it is confined. Raises NoDecoder if it cannot
        start.
        """
        with self._lock:
            self._started()

    def lacks(self) -> str:
        """What the decoding process could reach, because this machine cannot confine it fully, in words; ""
        for nothing.
        """
        self.start()
        files, calls = self._walls
        if calls:
            return ""
        return "system calls (seccomp)" if files else "files and system calls (Landlock, seccomp)"

    def decode(self, name: str, frame: bytes, length: int) -> memoryview:
        """Decode ``frame`` to ``length`` bytes of samples, by the decoder ``name`` of
        :mod:`.decoder_process`. Copy the samples and release them: the next frame then reuses their memory.
        Raises CodestreamFault with the decoder's message, or the reason why it did not answer; NoDecoder if
        the process cannot start.
        """
        with self._lock:
            control = self._started()
            shared = self._memory(HEAD.size + max(len(frame), length, LONGEST_COMPLAINT))
            try:
                shared.fill(HEAD.pack(name.encode(), len(frame), length), frame)
                socket.send_fds(control, [b"."], [shared.file])
                # When it says how it ended it is gone, and changes no more.
                status, late = ENDED.unpack(_received(control, ENDED.size))
            except BaseException as error:  # after ^C too what this process says next would be of this frame
                shared.close()
                self._end()
                if isinstance(error, ConnectionError | TimeoutError | struct.error):
                    raise CodestreamFault(_KILLED) from None
                raise
            memory = memoryview(shared.content)
            # Kept for the next frame where no process of this one can still have it: it gave up its calls.
            if self._walls[1] and len(shared.content) <= _MOST_KEPT:
                self._kept = shared
            else:
                shared.close()

        head, size, _ = HEAD.unpack_from(memory)
        if head == SAMPLES:
            return memory[HEAD.size :][:length]
        if head == COMPLAINT:
            text = str(memory[HEAD.size :][: min(size, LONGEST_COMPLAINT)], errors="replace")
            raise CodestreamFault("".join(letter if letter.isprintable() else "?" for letter in text))
        if late:
            raise CodestreamFault(f"to decode it takes longer than {SECONDS:.0f} s")
        if status == -signal.SIGKILL:
            raise CodestreamFault(_KILLED)
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise CodestreamFault(f"the decoder died of it ({how})")

    def close(self) -> None:
        """End the decoding process."""
        with self._lock:
            self._end()

    def _memory(self, size: int) -> _Memory:
        """Shared memory of at least ``size`` bytes: that of the last frame if it is free and fits, else new
        memory.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            if size <= len(kept.content) <= 4 * size and kept.is_free():
                return kept
            kept.close()
        return _Memory(size)

    def _started(self) -> socket.socket:
        """The socket to the decoding process, which is started unless it runs. Raises NoDecoder."""
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._end()
        control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        control.settimeout(_START_SECONDS)
        with contextlib.suppress(OSError):
            self._walls = _received(control, 2)
        if len(self._walls) < 2:
            control.close()
            self._end()
            raise NoDecoder(f"the process that decodes cannot start: try {' '.join(self._command)}")
        control.settimeout(2 * SECONDS)  # one that stands still itself ends no frame
        self._control = control
        return control

    def _end(self) -> None:
        """End the process, if it runs."""
        control, process = self._control, self._process
        self._control = self._process = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()


DECODER = Decoder()
"""That of this process."""
atexit.register(DECODER.close)


class _Memory:
    """Memory shared with the process that decodes one frame; it exists as long as :attr:`content` is used."""

    def __init__(self, size: int) -> None:
        """Create shared memory of ``size`` bytes."""
        self.file = os.memfd_create("frame", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.truncate(self.file, size)
            # Shrunk by the other process, it would end this one (SIGBUS).
            fcntl.fcntl(
                self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
            self.content = mmap.mmap(self.file, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            self.close()
            raise
        self._used = False

    def fill(self, head: bytes, frame: bytes) -> None:
        """Write ``head`` and ``frame``, and overwrite everything that the last frame has left."""
        end = len(head) + len(frame)
        self.content[: len(head)] = head
        self.content[len(head) : end] = frame
        if self._used:
            np.frombuffer(self.content, np.uint8)[end:] = 0
        self._used = True

    def is_free(self) -> bool:
        """Whether nobody maps the memory any more, so that its size may change."""
        try:
            self.content.resize(len(self.content))
        except BufferError:
            return False
        return True

    def close(self) -> None:
        """Close the shared memory's file: no further process can get the memory."""
        os.close(self.file)


def _received(channel: socket.socket, length: int) -> bytearray:
    """Read from a socket until the other end closes, at most ``length`` bytes."""
    content, place = bytearray(length), 0
    with memoryview(content) as view:
        while place < length and (some := channel.recv_into(view[place:])):
            place += some
    return content if place == length else content[:place]
