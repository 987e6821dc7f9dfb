"""pynetdicom's loops, waiting instead of polling.

Stock pynetdicom sleeps 1 ms in two loops per association: 31 idle associations cost half a core, and each
C-STORE waits for two or three of these sleeps. Here the DUL waits on socket and eventfd, the association on
an event. The protocol machine itself (``fsm``) is pynetdicom's; ``listener.event_driven = false`` brings its
loops back. Written against pynetdicom 3.0: tests hold both paths to the same results.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import ssl
import struct
import threading
import time
from typing import Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from dicom_node.scp.association import NodeAssociation
from dicom_node.scp.reception import Reception

_LOGGER = logging.getLogger(__name__)

_LONGEST_WAIT = 1.0  # seconds; timers are looked at this often
_CLOSING = 0.5  # seconds that a peer has to close after release or abort, before we do (Sta13)
_LARGEST_PDU = 2**20  # bytes; more is taken only where a larger maximum_pdu_bytes (or 0) was announced
_P_DATA_TF = 0x04
_CLOSED = "Sta13"  # PS3.8 Table 9-5: the association is over, the transport is to be closed
_IDLE = "Sta1"


class EventDrivenAssociation(NodeAssociation):
    """The association's thread sleeps until a message, a release or an abort is there."""

    def __init__(self, ae: Any, mode: str, reception: Reception) -> None:
        super().__init__(ae, mode, reception)
        self._something = threading.Event()
        self.dul = _EventDrivenProvider(self)
        self.dul.to_user_queue = _SignallingQueue(self._something)
        self.dimse.msg_queue = _SignallingQueue(self._something)
        # Their setters hand the time-outs to the DUL, which is another one now.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def _run_reactor(self) -> None:
        while not self._kill:
            self._something.wait(_LONGEST_WAIT)
            self._something.clear()
            self._serve_messages()
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted = True
                self.is_established = False
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                _LOGGER.info("association idle too long: aborted")
                self.abort()

    def _serve_messages(self) -> None:
        while not self._kill:
            context_id, message = self.dimse.get_msg(block=False)
            if message is None:
                return
            self._serve_request(message, context_id)


class _SignallingQueue(queue.Queue[Any]):
    """A queue whose reader also waits for other things."""

    def __init__(self, something: threading.Event) -> None:
        super().__init__()
        self._something = something

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._something.set()


class WaitingSocket(AssociationSocket):  # type: ignore[misc]
    """Reads a PDU with as few system calls as it takes."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly ``nr_bytes``, or fewer when the connection was closed. Raises OSError."""
        data = bytearray(nr_bytes)
        view, count = memoryview(data), 0
        while count < nr_bytes:
            received = self.socket.recv_into(view[count:])
            if not received:
                view.release()
                del data[count:]
                break
            count += received
        return data


class _EventDrivenProvider(DULServiceProvider):  # type: ignore[misc]
    """The thread that owns the socket of one association."""

    def __init__(self, association: NodeAssociation) -> None:
        super().__init__(association)
        self.daemon = True
        self._alarm = _Alarm()
        self._readable = False
        self._closes_at: float | None = None

    def run_reactor(self) -> None:
        """The thread: one event at a time, and sleep when there is none."""
        self._idle_timer.start()
        self._poll = select.poll()
        self._poll.register(self._alarm.fileno(), select.POLLIN)
        self._poll.register(self.socket.socket.fileno(), select.POLLIN)
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                self._step()
        except Exception as error:  # noqa: BLE001 - whatever a peer sent, only its own association may end
            _LOGGER.warning("DUL stopped: %s", type(error).__name__)
            self._abort_hard()
        finally:
            self._alarm.close()
            self.to_user_queue.put(None)  # nobody waits for what cannot come any more

    def send_pdu(self, primitive: Any) -> None:
        """Have a primitive sent by the DUL's thread."""
        super().send_pdu(primitive)
        self._alarm.ring()

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self._alarm.ring()

    def stop_dul(self) -> bool:
        """End the thread if there is no connection any more."""
        if self.state_machine.current_state != _IDLE:
            return False
        self.kill_dul()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
        return True

    def _step(self) -> None:
        if self.event_queue.empty():
            if self.artim_timer.expired:
                self.event_queue.put("Evt18")
            elif not self._take_primitive() and self._is_transport_event():
                self._idle_timer.restart()
        try:
            event = self.event_queue.get(block=False)
        except queue.Empty:
            self._wait()
            return
        self.state_machine.do_action(event)

    def _take_primitive(self) -> bool:
        if self.state_machine.current_state == _CLOSED:
            # A peer that aborts while its object is being stored: the answer has nowhere to go.
            with contextlib.suppress(queue.Empty):
                self.to_provider_queue.get(block=False)
            return False
        return bool(self._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == _CLOSED:
            now = time.monotonic()
            self._closes_at = self._closes_at or now + _CLOSING
            if now >= self._closes_at:
                self.socket.close()  # Evt17
                return True
        if not self._readable:
            return False
        self._readable = False
        self._read_pdu_data()
        return True

    def _wait(self) -> None:
        """Until the socket can be read, the association has something to send, or a timer is due."""
        sock = self.socket.socket
        if sock is None:
            time.sleep(0.001)  # closed by us, its event is on the way
            return
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._readable = True
            return
        seconds = _LONGEST_WAIT
        if self._closes_at is not None:
            seconds = max(0.0, self._closes_at - time.monotonic())
        elif self.state_machine.current_state == _CLOSED:
            seconds = 0.0
        ready = dict(self._poll.poll(seconds * 1000))
        if self._alarm.fileno() in ready:
            self._alarm.clear()
            del ready[self._alarm.fileno()]
        self._readable = bool(ready)

    def _read_pdu_data(self) -> None:
        """As pynetdicom does it, but a PDU beyond all measure is not even read."""
        sock = self.socket
        try:
            head = sock.recv(6)
            if len(head) < 6:
                self.event_queue.put("Evt17")
                return
            length = int.from_bytes(head[2:6], "big")
            if not 1 <= head[0] <= 7 or length > self._largest_pdu:
                self.event_queue.put("Evt19")
                return
            body = sock.recv(length)
        except OSError:
            self.event_queue.put("Evt17")
            return
        if len(body) < length:
            self.event_queue.put("Evt17")
            return
        self._take_pdu(head, body)

    def _take_pdu(self, head: bytearray, body: bytearray) -> None:
        try:
            if head[0] == _P_DATA_TF:
                pdu, event = _PData(body), "Evt10"
            else:
                pdu, event = self._decode_pdu(head + body)
        except Exception as error:  # noqa: BLE001 - pynetdicom's decoders raise what they like: PS3.8 Evt19
            _LOGGER.warning("invalid PDU: %s", type(error).__name__)
            self.event_queue.put("Evt19")
            return
        self.event_queue.put(event)
        self._recv_pdu.put(pdu)

    @property
    def _largest_pdu(self) -> int:
        announced: int = self.assoc.acceptor.maximum_length or 0
        return max(announced, _LARGEST_PDU) if announced else 2**32

    def _abort_hard(self) -> None:
        """Past the state machine, which cannot be trusted any more."""
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = 0x02, 0x00
        with contextlib.suppress(OSError, AttributeError):
            self.socket.send(pdu.encode())
            self.socket.close()
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self.assoc._kill = True


class _PData:
    """A P-DATA-TF PDU whose fragments are views into what was read (PS3.8 9.3.5), not copies."""

    def __init__(self, body: bytearray) -> None:
        """Raises ValueError when the items do not fill the PDU."""
        self._values = []
        view, offset = memoryview(body), 0
        while offset < len(body):
            if offset + 5 > len(body):
                raise ValueError("PDV item cut off")
            length, context_id = struct.unpack_from(">IB", body, offset)
            end = offset + 4 + length
            if length < 1 or end > len(body):
                raise ValueError("PDV item longer than its PDU")
            self._values.append((context_id, view[offset + 5 : end]))
            offset = end

    def to_primitive(self) -> P_DATA:
        """What the DIMSE provider takes."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self._values)
        return primitive


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
