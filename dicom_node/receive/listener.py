"""The acceptor's side of an association (PS3.8 9.2), in one thread: negotiation, messages, end.

DIMSE for a storage SCP: the fragments of a data set are written to the spool as they arrive, so an object of
any size needs the memory of one PDU. A command that is not supported ends the association before its data set
is read. A request is answered by the thread that has read its last byte: passing it to another thread would
cost as much as the rest of the work on a small object.

The listener process: ``python -m dicom_node.receive --data-dir DIR [--place listener-N]``.

The process writes ``{"listening": [host, port]}`` to standard output when it accepts connections, else
``{"cannot_start": reason}``. It ends when standard input closes (the node died) or on SIGTERM, after giving
associations a few seconds. On SIGHUP it reads ``policy.json`` again if the file was replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import secrets
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.base import logs
from dicom_node.base.config.settings import ListenerSettings, TlsSettings
from dicom_node.base.errors import ExitCode, SpoolError
from dicom_node.base.events import LISTENER_STARTED, LISTENER_STOPPED, happened
from dicom_node.base.processes import ALIVE_SECONDS, show_life, signal_pipe
from dicom_node.receive import limits
from dicom_node.receive.messages import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    ABORTED_BY_PROVIDER,
    MAXIMUM_PDU_BYTES,
    P_DATA_TF,
    RELEASED,
    DeadlineSocket,
    ProtocolViolation,
    acceptance,
    encode_response,
    fragments,
    p_data_tf,
    read_command,
    read_request,
    rejection,
)
from dicom_node.receive.policy import AEPolicy, Failure, PolicyFile, addresses, policy_path
from dicom_node.receive.spool import JournalWriter, Spool, journal_folder, listener_lock
from dicom_node.receive.statuses import Rejection
from dicom_node.receive.storage_service import AcceptedAssociation, Request, StorageService

_LOGGER = logging.getLogger(__name__)
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2


class Association:
    """One connection. ``run`` is its thread; ``abort`` may be called by another one."""

    def __init__(self, service: StorageService, connection: socket.socket, address: str) -> None:
        self._service, self._address, self._limits = service, address, service.policy.current().listener
        self._socket = DeadlineSocket(
            connection, self._limits.acse_timeout_seconds, self._limits.network_timeout_seconds
        )
        self._buffer = memoryview(b"")
        self._late = "no association request within the time allowed"
        """Why the association ends if the deadline passes."""
        self._reason = ""
        self._failure: Failure | None = None
        self._stopping = self._released = False
        self._accepted: AcceptedAssociation | None = None
        self._command, self._context_id = bytearray(), 0
        self._request: Request | None = None
        self._tiny_fragments = 0

    def run(self) -> None:
        """From the handshake of TLS to the last event in the journal."""
        try:
            if accepted := self._negotiate():
                self._take_messages(accepted)
        except ProtocolViolation as error:
            self._end(str(error))
        except TimeoutError:
            self._end(self._late, "too_late")
        except OSError:
            if self._accepted is not None:
                self._end("the listener stopped" if self._stopping else "connection lost")
        except Exception as error:  # this association ends, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self._end(f"failed here: {type(error).__name__}")
        finally:
            if self._request is not None:
                self._request.abandon()
            self._socket.close()
            if self._accepted is not None:
                self._service.leave(self._accepted, released=self._released, reason=self._reason)
            else:
                self._service.entrance.leave(self._address, self._failure)

    def abort(self) -> None:
        """End the association: the listener stops."""
        self._stopping = True
        self._socket.interrupt()

    def _end(self, reason: str, failure: Failure = "malformed") -> None:
        """Abort; AA-1 and AA-8 of PS3.8 9.2.3. ``failure``: counted where there is no association yet."""
        self._reason, self._failure = reason, failure
        with contextlib.suppress(OSError):
            self._socket.send_seconds = 0.5  # that a peer has to read it
            self._socket.send(ABORTED_BY_PROVIDER)

    def _negotiate(self) -> AcceptedAssociation | None:
        """The association that the peer has now, if it is not rejected (PS3.8 7.1)."""
        try:  # the handshake of TLS: not in the thread that accepts, which one silent peer would block
            self._socket.shake_hands()
        except OSError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            self._service.tls_failed(self._address, str(reason))
            return None
        kind, body = self._read_pdu()
        if kind != A_ASSOCIATE_RQ:
            raise ProtocolViolation("no association request")
        verdict = self._service.enter(read_request(body, self._address))
        if isinstance(verdict, Rejection):
            self._socket.send(rejection(verdict.result, verdict.source, verdict.reason))
            return None
        self._accepted = verdict
        self._socket.send(acceptance(body, verdict.results, verdict.roles, MAXIMUM_PDU_BYTES))
        return verdict

    def _take_messages(self, accepted: AcceptedAssociation) -> None:
        """Until the peer releases or aborts. Raises ProtocolViolation, OSError."""
        while True:
            kind, body = self._read_pdu()
            if kind == P_DATA_TF:
                for context_id, value in fragments(body):
                    self._take(accepted, context_id, value)
            elif kind == A_RELEASE_RQ:
                self._released = True
                self._socket.send(RELEASED)
                return
            elif kind == A_ABORT:
                self._reason = "aborted by the peer"
                return
            else:
                raise ProtocolViolation("a PDU that is not expected")

    def _read_pdu(self) -> tuple[int, memoryview]:
        """Type and body of the next PDU, in a buffer that the next one overwrites.

        New memory for each costs as much as reading it.
        """
        waits = self._accepted is not None and not self._context_id
        if waits:  # an association request has what is left since the connection
            self._late = "idle too long"
            self._socket.allow(self._limits.network_timeout_seconds)
        kind, length = struct.unpack(">BxI", self._socket.read(memoryview(bytearray(6))))
        if waits:
            self._late = "too slow: a message did not come within the time allowed"
            self._socket.allow(self._limits.network_timeout_seconds, limits.SLOWEST_BYTES_PER_SECOND)
        is_data = kind == P_DATA_TF and self._accepted is not None
        largest = limits.LARGEST_PDU if is_data else limits.LARGEST_REQUEST
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT or length > largest:
            raise ProtocolViolation("no PDU, or one beyond its largest length")
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        return kind, self._socket.read(self._buffer[:length])

    def _take(self, accepted: AcceptedAssociation, context_id: int, value: memoryview) -> None:
        """One fragment of a message (PS3.7 6.3, PS3.8 E)."""
        if not value:
            raise ProtocolViolation("PDV without message control header")
        if len(value) <= limits.TINY_FRAGMENT:
            self._tiny_fragments += 1
            if self._tiny_fragments > limits.TINY_FRAGMENTS:
                raise ProtocolViolation("too many tiny fragments")
        if self._context_id not in (0, context_id):
            raise ProtocolViolation("a message in two presentation contexts")
        self._context_id = context_id
        is_last, request = bool(value[0] & _LAST), self._request
        if not value[0] & _COMMAND:
            if request is None:
                raise ProtocolViolation("data set without command")
            request.write(value[1:])
        elif request is not None:
            raise ProtocolViolation("command inside a data set")
        else:
            self._command += value[1:]
            if len(self._command) > limits.LARGEST_COMMAND:
                raise ProtocolViolation("command set beyond its largest length")
            if is_last:
                encoded, self._command = bytes(self._command), bytearray()
                command = read_command(encoded)
                self._request = request = self._service.begin(accepted, command, context_id)
                is_last = not command.has_data_set
        if is_last and request is not None:
            self._answer(accepted, context_id, request)
            self._request, self._context_id, self._tiny_fragments = None, 0, 0

    def _answer(self, accepted: AcceptedAssociation, context_id: int, request: Request) -> None:
        response = encode_response(request.command, self._service.finish(accepted, request))
        limit = accepted.proposal.maximum_length  # 6 bytes of it are the header of a PDV
        step = max(limit - 6, 1) if limit else len(response)
        for start in range(0, len(response), step):
            header = _COMMAND | _LAST if start + step >= len(response) else _COMMAND
            self._socket.send(p_data_tf(context_id, header, response[start : start + step]))


_UPKEEP_SECONDS = 1.0
_LOCK_SECONDS = 15.0  # longer than a predecessor takes to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or the end of standard input; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.receive", description="The node's listener.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with policy.json")
    parser.add_argument("--place", default="", help="listener-2 and so on: a further one on this folder")
    given = parser.parse_args(arguments)
    try:
        policy = PolicyFile(policy_path(given.data_dir, given.place)).current()
        logs.configure(policy.log_level, "listener", policy.log)
        with _only_one(listener_lock(given.data_dir, given.place)):
            _serve(Listener(given.data_dir, given.place))
    except (OSError, ValueError, SpoolError) as error:
        print(json.dumps({"cannot_start": str(error)}), flush=True)
        return ExitCode.UNAVAILABLE
    return ExitCode.OK


def _serve(listener: Listener) -> None:
    # ^C goes to the whole group of processes: it is the node that says when to stop.
    signals = signal_pipe()
    # An association holds two files; a thousand of them are allowed.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    host, port = listener.start()
    print(json.dumps({"listening": [host, port]}), flush=True)
    told_at = time.monotonic()
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([signals, stdin], [], [], _UPKEEP_SECONDS)
        if signals in ready and signal.SIGTERM in os.read(signals, 64):
            break
        if stdin in ready and not os.read(stdin, 4096):  # the node closed it by dying
            break
        listener.keep_up()
        if time.monotonic() - told_at > ALIVE_SECONDS:  # after keep_up, which raises where nobody accepts
            show_life()
            told_at = time.monotonic()
    listener.stop(grace_seconds=5)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two of one place would delete each other's half-written objects. Waits for one that is ending."""
    with path.open("w") as lock:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(f"another listener works on {path.parent}") from None
                time.sleep(0.05)
        yield


class Listener:
    """The C-STORE and C-ECHO service of one data folder.

    Reads ``policy.json`` in ``data_dir``, writes below ``spool`` and ``journal``; a further listener of the
    folder has its own files, named by its ``place`` such as "listener-2". Limits, peers, storage classes and
    certificates follow the file while the listener runs; host and port do not change.
    """

    def __init__(self, data_dir: Path, place: str = "") -> None:
        self._policy_file = PolicyFile(policy_path(data_dir, place))
        policy = self._policy_file.current()
        self._listener_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        spool = Spool(data_dir / "spool", policy.spool.minimum_free_mib * 2**20, place)
        self._leftovers = spool.remove_leftovers()
        journal = JournalWriter(journal_folder(data_dir, place), self._listener_id)
        self._service = StorageService(self._policy_file, data_dir, spool, journal, self._listener_id)
        self._tls = _ssl_context(policy.listener.tls)
        self._applied = self._refused = policy
        self._associations: set[Association] = set()
        self._stopping = False
        self._socket = _listen(policy.listener)
        self._learn_addresses(policy)
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> tuple[str, int]:
        """Start to accept connections; returns host and port. An event ends associations left by former
        listeners.
        """
        host, port = self._socket.getsockname()[:2]
        self._service.record(
            happened(
                LISTENER_STARTED,
                listener=self._listener_id,
                host=host,
                port=port,
                leftovers=self._leftovers,
            )
        )
        self._thread.start()
        return host, port

    def keep_up(self) -> None:
        """Follow the policy file, and write delayed journal events; call it about once a second.

        Raises RuntimeError if the accepting thread has ended: the process must end and be started again.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that accepts connections ended")
        policy = self._policy_file.current()
        if policy is not self._applied:  # read again: also where only certificates were replaced
            try:
                self._tls = _ssl_context(policy.listener.tls)
                logging.getLogger().setLevel(policy.log_level.upper())
                self._learn_addresses(policy)
                self._applied = policy
            except OSError as error:  # certificates that change since the node checked them: tried again
                if policy is not self._refused:
                    _LOGGER.error(
                        "new certificates cannot be used, the previous ones stay in force: %s", error
                    )
                self._refused = policy
        self._service.keep_up()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, abort the rest."""
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()
        for seconds in (grace_seconds, 4.0):  # the abort of all: a successor waits 15 s for us
            end = time.monotonic() + seconds
            while self._associations and time.monotonic() < end:
                time.sleep(0.02)
            for association in list(self._associations):
                association.abort()
        self._service.record(happened(LISTENER_STOPPED, listener=self._listener_id))

    def _accept(self) -> None:
        """Accept connections until the listener stops; nothing here waits for a peer."""
        while not self._stopping:
            try:
                connection, (address, *_) = self._socket.accept()
            except OSError:  # gone before we came, too many open files, or the listener stops
                time.sleep(0.01)
                continue
            if not self._service.entrance.enter(address):
                connection.close()
                continue
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                association = Association(self._service, connection, address)
                threading.Thread(target=self._run, args=(association,), name=address, daemon=True).start()
            except (OSError, RuntimeError, MemoryError) as error:  # gone, or no thread can be started
                _LOGGER.error("connection closed: %s", type(error).__name__)
                self._service.entrance.leave(address)
                connection.close()

    def _run(self, association: Association) -> None:
        self._associations.add(association)
        try:
            association.run()
        finally:
            self._associations.discard(association)

    def _learn_addresses(self, policy: AEPolicy) -> None:
        """Reserve places for addresses of peers; in a thread, because the name service may be slow."""
        hosts = {peer.host for peer in policy.peers if peer.host}

        def learn() -> None:
            self._service.entrance.know([one for host in hosts for one in addresses(host)])

        threading.Thread(target=learn, daemon=True).start()


def _listen(listener: ListenerSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(
            address,
            family=family,
            backlog=128,  # that the system accepts for us
            reuse_port=listener.share_port,
            dualstack_ipv6=family == socket.AF_INET6,
        )
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(
            f"port {listener.port} of {listener.host}: {why} (listener.host, listener.port)"
        ) from None


def _ssl_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
    """BCP 195 (PS3.15 B.12): TLS 1.2 or newer; with CAs of our own, only clients that these certify."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.trusted:
        context.load_verify_locations(tls.trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    sys.exit(main())
