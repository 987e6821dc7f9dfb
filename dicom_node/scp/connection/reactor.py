"""The DUL of one association: a thread that waits for its socket instead of polling it, within limits.

Stock pynetdicom sleeps 1 ms in two loops per association: 31 idle associations cost half a core, and each
C-STORE waits for two or three of these sleeps. Here the DUL waits on socket and eventfd, the association on
an event. Each system call releases the interpreter and has to get it back from the threads of all other
associations, which costs more than the call. So without TLS the socket is blocking, the kernel keeps the time
(``SO_RCVTIMEO``) and returns when all bytes are there (``MSG_WAITALL``), and a message is read to its end
without waiting for each PDU. The protocol machine itself (``fsm``) is pynetdicom's. Written for pynetdicom
3.0.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import ssl
import threading
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ

from dicom_node.scp.connection import limits
from dicom_node.scp.connection.deadline import Deadline
from dicom_node.scp.connection.pdus import A_ASSOCIATE_RQ, P_DATA_TF, PData, check_request

_LOGGER = logging.getLogger(__name__)

LONGEST_WAIT = 1.0  # seconds; timers are looked at this often
_CLOSING = 0.5  # seconds that a peer has to close after release or abort, before we do (Sta13)
_AWAITING_REQUEST, _ESTABLISHED, _CLOSED, _IDLE = "Sta2", "Sta6", "Sta13", "Sta1"  # PS3.8 9.2.2

TOO_LATE = "no association request within the time allowed"
TOO_SLOW = "too slow: a message did not come within the time allowed"


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
            while not self._kill_thread and not self._has_ended():
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

    def wait_for_its_end(self) -> None:
        """Wait until the thread has ended, which takes time only on a slow disk."""
        if self.is_alive():
            self.join()

    @property
    def within_message(self) -> bool:
        """Whether a message has been received only in part."""
        return bool(self.assoc.dimse.within_message)

    def _has_ended(self) -> bool:
        return self._ending and self.state_machine.current_state == _IDLE

    def _step(self) -> None:
        if self.event_queue.empty():
            if self.artim_timer.expired:
                if self.state_machine.current_state == _AWAITING_REQUEST:
                    self.assoc.ends(TOO_LATE)
                self.event_queue.put("Evt18")
            elif not self._take_primitive():
                if self.state_machine.current_state == _CLOSED:
                    self._await_closing()
                elif self._readable:
                    self._readable, self._busy = False, True
                    self._read_pdu_data()
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

    def _take_primitive(self) -> bool:
        if self.state_machine.current_state == _CLOSED:
            # A peer that aborts while its object is being stored: the answer has nowhere to go.
            with contextlib.suppress(queue.Empty):
                self.to_provider_queue.get(block=False)
            return False
        return bool(self._process_recv_primitive())

    def _await_closing(self) -> None:
        """Drop what still comes, so that the peer reads our last PDU; close when it does not, or goes on."""
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

    def _read_pdu_data(self) -> None:
        """One PDU, and the rest of its message, without going back to wait for each."""
        self._read_pdu()
        while self.within_message and self._awaits_only_the_peer():
            self._read_pdu()

    def _awaits_only_the_peer(self) -> bool:
        return not self._kill_thread and self.event_queue.empty() and self.to_provider_queue.empty()

    def _read_pdu(self) -> None:
        """As pynetdicom does it, but a PDU beyond its largest length is not read."""
        # A new deadline for each message; an association request has what is left since the connection.
        if not self._awaits_request and not self.within_message:
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
            self._give_up(TOO_LATE if self._awaits_request else TOO_SLOW)
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
        if self.state_machine.current_state != _ESTABLISHED or kind != P_DATA_TF:
            return limits.LARGEST_REQUEST
        return max(self.assoc.acceptor.maximum_length or 0, limits.LARGEST_PDU)

    def _give_up(self, reason: str) -> None:
        self.assoc.ends(reason)
        self._abort_hard()
        self.kill_dul()

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
