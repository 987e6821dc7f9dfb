"""The DUL of one association: a thread that waits for its socket instead of polling it, within limits of time
for each read and write.

Stock pynetdicom sleeps 1 ms in two loops per association: 31 idle associations cost half a core, and each
C-STORE waits for two or three of these sleeps. Here the DUL waits on socket and eventfd, the association on
an event. Each system call releases the interpreter and has to get it back from the threads of all other
associations, which costs more than the call. So without TLS the socket is blocking, the kernel keeps the time
(``SO_RCVTIMEO``) and returns when all bytes are there (``MSG_WAITALL``), and a message is read to its end
without waiting for each PDU. The protocol machine itself (``fsm``) is pynetdicom's. Written for pynetdicom
3.0.
"""

import contextlib
import logging
import os
import queue
import select
import socket
import ssl
import struct
import threading
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.transport import AssociationSocket

from dicom_node.scp.connection import limits
from dicom_node.scp.connection.pdus import A_ASSOCIATE_RQ, P_DATA_TF, PData, check_request

_LOGGER = logging.getLogger(__name__)

LONGEST_WAIT = 1.0  # seconds; timers are looked at this often
_CLOSING = 0.5  # seconds that a peer has to close after release or abort, before we do (Sta13)
_AWAITING_REQUEST, _ESTABLISHED, _CLOSED, _IDLE = "Sta2", "Sta6", "Sta13", "Sta1"  # PS3.8 9.2.2

TOO_LATE = "no association request within the time allowed"
TOO_SLOW = "too slow: a message did not come within the time allowed"


class Deadline:
    """The time by which a peer must complete a message: ``seconds`` from now, later with each byte received.

    ``bytes_per_second``: the slowest allowed rate. The peer must not be silent for longer than twice
    ``seconds``.
    """

    def __init__(self, seconds: float, bytes_per_second: float = float("inf")) -> None:
        self._longest = seconds
        self._until = time.monotonic() + seconds
        self._bytes_per_second = bytes_per_second

    def extend(self, count: int) -> None:
        """Extend the deadline, because ``count`` bytes have been received."""
        self._until += count / self._bytes_per_second

    @property
    def seconds(self) -> float:
        """The seconds to wait for the next bytes; zero or negative when the time is over."""
        return min(self._longest, self._until - time.monotonic())


class DeadlineSocket(AssociationSocket):  # type: ignore[misc]
    """The socket of one association. ``deadline`` and ``send_seconds`` are set before it is used."""

    deadline: Deadline
    send_seconds: float

    def __init__(self, association: Any, connection: socket.socket) -> None:
        super().__init__(association, client_socket=connection)
        self._limits: dict[int, float] = {}

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly ``nr_bytes``, or fewer if the connection was closed. Raises OSError."""
        data = bytearray(nr_bytes)
        with memoryview(data) as view:
            count = self.recv_into(view)
        del data[count:]
        return data

    def recv_into(self, view: memoryview) -> int:
        """Fill ``view``; returns the number of bytes read, fewer if the connection was closed. Raises
        OSError.
        """
        count = 0
        while count < len(view):
            seconds = self.deadline.seconds
            if seconds <= 0:
                raise TimeoutError
            received = self._receive(view[count:], seconds)
            if not received:
                break
            count += received
            self.deadline.extend(received)
        return count

    def send(self, bytestream: bytes) -> None:
        """Send all of ``bytestream``; a peer that does not read loses its connection (Evt17)."""
        try:
            self._limit(socket.SO_SNDTIMEO, self.send_seconds)
            self.socket.sendall(bytestream)
        except (OSError, AttributeError):
            self.event_queue.put("Evt17")

    def interrupt(self) -> None:
        """Wake the thread that reads or sends; it then finds the connection lost."""
        with contextlib.suppress(OSError, TypeError):
            # Not SSLSocket's own: that goes on without TLS, and what is read then is ciphertext.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def drop(self, limit: int, seconds: float) -> int:
        """Read and discard received bytes, at most ``limit``; returns how many. Raises OSError."""
        self._limit(socket.SO_RCVTIMEO, seconds)
        return len(self.socket.recv(limit))

    def _receive(self, view: memoryview, seconds: float) -> int:
        self._limit(socket.SO_RCVTIMEO, seconds)
        if isinstance(self.socket, ssl.SSLSocket):
            return self.socket.recv_into(view)
        try:
            return int(self.socket.recv_into(view, len(view), socket.MSG_WAITALL))
        except BlockingIOError:
            raise TimeoutError from None

    def _limit(self, option: int, seconds: float) -> None:
        """How long the next call may wait. A deadline that has hardly moved is not set again."""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(seconds)
        elif not 0.98 * seconds <= self._limits.get(option, 0.0) <= seconds:
            microseconds = max(1, int(990_000 * seconds))
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", *divmod(microseconds, 10**6)))
            self._limits[option] = microseconds / 1e6


class Provider(DULServiceProvider):  # type: ignore[misc]
    """The thread that owns the socket of one association.

    ``request_seconds``: the most time from the connection to the complete association request.
    """

    def __init__(self, association: Association, request_seconds: float) -> None:
        super().__init__(association)
        self.daemon = True
        self._alarm = _Alarm()
        self._readable = False
        self._busy = self._ending = False
        self._closes_at: float | None = None
        self._drops = limits.DROPPED
        self._buffer = memoryview(b"")
        self.deadline = Deadline(request_seconds)

    def run_reactor(self) -> None:
        """Run the thread: process one event at a time, and sleep when there is none."""
        self._idle_timer.start()
        self.artim_timer.timeout = max(self.deadline.seconds, 0.001)  # what TLS has left of it
        self.socket.deadline, self.socket.send_seconds = self.deadline, self.network_timeout
        self._poll = select.poll()
        self._poll.register(self._alarm.fileno(), select.POLLIN)
        self._poll.register(self.socket.socket.fileno(), select.POLLIN)
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                if self._ending and self.state_machine.current_state == _IDLE:
                    break
                self._step()
        except Exception as error:  # noqa: BLE001 - whatever a peer sent, only its own association may end
            self.assoc.ends(f"invalid PDU: {type(error).__name__}")
            self._abort_hard()
        finally:
            self._alarm.close()
            self.to_user_queue.put(None)  # wakes a reader that waits for a primitive

    def idle_timer_expired(self) -> bool:
        """Whether the peer was silent for too long.

        A PDU that is being read has its own deadline, and while an object is being stored the peer need not
        send.
        """
        return not self._busy and super().idle_timer_expired()

    def send_pdu(self, primitive: Any) -> None:
        """Let the DUL's thread send a primitive."""
        super().send_pdu(primitive)
        self._alarm.ring()

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self._alarm.ring()

    def stop_dul(self) -> bool:
        """End the thread if the connection is closed; returns whether it ended."""
        if self.state_machine.current_state != _IDLE:
            return False
        self.kill_dul()
        return True

    def finish(self) -> None:
        """Send pending PDUs and end; a peer that delays the thread loses its connection.

        Called by the association's thread.
        """
        self._ending = True
        self._alarm.ring()
        self.join(LONGEST_WAIT + _CLOSING)
        if self.is_alive():
            self.socket.interrupt()
            self.kill_dul()
            self.join(LONGEST_WAIT + _CLOSING)

    def _step(self) -> None:
        if self.event_queue.empty():
            if self.artim_timer.expired:
                if self.state_machine.current_state == _AWAITING_REQUEST:
                    self.assoc.ends(TOO_LATE)
                self.event_queue.put("Evt18")
            elif self.state_machine.current_state == _CLOSED:
                self._await_closing()
            elif not self._process_recv_primitive() and self._readable:
                self._readable, self._busy = False, True
                self._read_message()
                self._idle_timer.restart()  # the peer's turn begins now, however long our disk took
                self._busy = False
        try:
            event = self.event_queue.get(block=False)
        except queue.Empty:
            self._wait()
            return
        self._busy = True
        self.state_machine.do_action(event)
        self._idle_timer.restart()  # the peer's turn begins now, however long our disk took
        self._busy = False

    def _await_closing(self) -> None:
        """Drop what still comes, so that the peer reads our last PDU; close when it does not, or goes on."""
        # A peer that aborts while its object is being stored: the answer has nowhere to go.
        with contextlib.suppress(queue.Empty):
            self.to_provider_queue.get(block=False)
        now = time.monotonic()
        self._closes_at = self._closes_at or now + _CLOSING
        dropped = 0
        if self._readable:
            self._readable = False
            with contextlib.suppress(OSError):
                dropped = self.socket.drop(limits.DROPPED, _CLOSING)
            self._drops -= dropped or self._drops
        if now >= self._closes_at or self._drops <= 0:
            self.socket.close()  # Evt17

    def _wait(self) -> None:
        """Until the socket can be read, the association has something to send, or a timer is due."""
        sock = self.socket.socket
        if sock is None:
            time.sleep(0.001)  # closed by us, its event is on the way
            return
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._readable = True
            return
        ready = dict(self._poll.poll(1000 * self._seconds_to_wait()))
        if self._alarm.fileno() in ready:
            self._alarm.clear()
            del ready[self._alarm.fileno()]
        self._readable = bool(ready)

    def _seconds_to_wait(self) -> float:
        if self._closes_at is not None:
            return max(0.0, self._closes_at - time.monotonic())
        if self.state_machine.current_state == _CLOSED:
            return 0.0
        if self.state_machine.current_state == _AWAITING_REQUEST:
            return min(LONGEST_WAIT, max(0.0, float(self.artim_timer.remaining)))
        return LONGEST_WAIT

    def _read_message(self) -> None:
        """One PDU, and the rest of its message while only the peer is awaited: without waiting for each."""
        self._read_pdu()
        while self.assoc.dimse.within_message and not self._kill_thread:
            if not (self.event_queue.empty() and self.to_provider_queue.empty()):
                break
            self._read_pdu()

    def _read_pdu(self) -> None:
        """As pynetdicom does it, but a PDU beyond its largest length is not read."""
        # A new deadline for each message; an association request has what is left since the connection.
        if not self._awaits_request and not self.assoc.dimse.within_message:
            self.deadline = Deadline(self.network_timeout, limits.SLOWEST_BYTES_PER_SECOND)
        self.socket.deadline = self.deadline
        try:
            head = self.socket.recv(6)
            length = int.from_bytes(head[2:], "big")
            if len(head) == 6 and not (1 <= head[0] <= 7 and length <= self._largest(head[0])):
                self.assoc.ends("no PDU, or one beyond its largest length")
                self.event_queue.put("Evt19")
                return
            body = self._read_body(length) if len(head) == 6 else memoryview(b"")
        except TimeoutError:
            self.assoc.ends(TOO_LATE if self._awaits_request else TOO_SLOW)
            self._abort_hard()
            self.kill_dul()
        except OSError:
            self.event_queue.put("Evt17")
        else:
            if len(head) < 6 or len(body) < length or self._ending:
                self.event_queue.put("Evt17")
            else:
                self._take_pdu(head, body)

    def _read_body(self, length: int) -> memoryview:
        """In a buffer that the next PDU overwrites: new memory for each costs as much as reading it."""
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        view = self._buffer[:length]
        return view[: self.socket.recv_into(view)]

    @property
    def _awaits_request(self) -> bool:
        return bool(self.state_machine.current_state == _AWAITING_REQUEST)

    def _take_pdu(self, head: bytearray, body: memoryview) -> None:
        try:
            if head[0] == P_DATA_TF:
                pdu, event = PData(body), "Evt10"
                if self.state_machine.current_state == _ESTABLISHED and self.event_queue.empty():
                    # What the state machine does here (DT-2) without its queues and hooks.
                    self.assoc.dimse.receive_primitive(pdu)
                    return
            else:
                if head[0] == A_ASSOCIATE_RQ:
                    self.assoc.request_head, whole = check_request(body)
                else:
                    whole = head + body
                pdu, event = self._decode_pdu(whole)
        except Exception as error:  # noqa: BLE001 - pynetdicom's decoders raise what they like: PS3.8 Evt19
            self.assoc.ends(f"invalid PDU: {type(error).__name__}")
            self.event_queue.put("Evt19")
            return
        self.event_queue.put(event)
        self._recv_pdu.put(pdu)

    def _largest(self, kind: int) -> int:
        """Bytes of a PDU of this kind that are read."""
        is_data = kind == P_DATA_TF and self.state_machine.current_state == _ESTABLISHED
        ours = max(self.assoc.acceptor.maximum_length or 0, limits.LARGEST_PDU)
        return ours if is_data else limits.LARGEST_REQUEST

    def _abort_hard(self) -> None:
        """Abort past the state machine, whose state is unknown after an error."""
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = 0x02, 0x00
        with contextlib.suppress(OSError, AttributeError):
            self.socket.send_seconds = _CLOSING
            self.socket.send(pdu.encode())
            self.socket.close()
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self.assoc._kill = True


class _Alarm:
    """Wakes the thread that waits in ``poll``. Its descriptor is never used after it was closed."""

    def __init__(self) -> None:
        self._file = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._file

    def ring(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.eventfd_write(self._file, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._file)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
