"""The listener process: ``python -m dicom_node.receive.listener --data-dir DIR [--place listener-N]``.

The process writes ``{"listening": [host, port]}`` to standard output when it accepts connections, else
``{"cannot_start": reason}``. It ends when standard input closes (the node died) or on SIGTERM, after giving
associations a few seconds. On SIGHUP it reads ``policy.json`` again if the file was replaced.

Each association has a thread (``association``), and all share one service (``service``).
"""

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
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.base import events, logs
from dicom_node.base.errors import ExitCode, SpoolError
from dicom_node.base.processes import ALIVE_SECONDS, show_life, signal_pipe
from dicom_node.base.tls import server_context
from dicom_node.receive.association import Association
from dicom_node.receive.journal import JournalWriter, journal_folder, listener_lock
from dicom_node.receive.policy import (
    AEPolicy,
    PolicyFile,
    addresses,
    policy_path,
)
from dicom_node.receive.service import ListenerService
from dicom_node.receive.spool import Spool

_LOGGER = logging.getLogger(__name__)


_LOCK_SECONDS = 15.0  # longer than a predecessor takes to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the listener process until SIGTERM or the end of standard input; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.receive", description="The node's listener.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with policy.json")
    parser.add_argument("--place", default="", help="listener-2 and so on: a further one on this folder")
    given = parser.parse_args(arguments)
    try:
        policy = PolicyFile(policy_path(given.data_dir, given.place)).current()
        logs.configure(policy.log_level, "listener", as_json=policy.log_as_json)
        with _lock_place(listener_lock(given.data_dir, given.place)):
            _serve(Listener(given.data_dir, given.place))
    except (OSError, ValueError, SpoolError) as error:
        print(json.dumps({"cannot_start": str(error)}), flush=True)
        return ExitCode.UNAVAILABLE
    return ExitCode.OK


def _serve(listener: "Listener") -> None:
    """Run a listener until SIGTERM or the end of standard input."""
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
        ready, _, _ = select.select([signals, stdin], [], [], 1)
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
def _lock_place(path: Path) -> Iterator[None]:
    """Context manager: lock the file ``path``, because two listeners in one place would delete each other's
    half-written objects.

    Waits for a listener that is ending. Raises OSError.
    """
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
    """The DICOM listener (C-STORE, C-ECHO, storage commitment, MPPS) of one data folder.

    It reads ``policy.json`` in ``data_dir``, and writes below ``spool`` and ``journal``; a further listener
    on the same folder has its own files, named by its ``place`` such as "listener-2". It follows changes of
    the policy file, except of host and port.
    """

    def __init__(self, data_dir: Path, place: str = "") -> None:
        """Read the policy, delete leftovers and open the listening socket; :meth:`start` accepts connections.

        ``place``: the place name of a further listener, "" for the first. Raises OSError, ValueError,
        SpoolError.
        """
        self._policy_file = PolicyFile(policy_path(data_dir, place))
        policy = self._policy_file.current()
        self._listener_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        spool = Spool(data_dir / "spool", policy.minimum_free_mib * 2**20, place)
        self._leftovers = spool.remove_leftovers()
        journal = JournalWriter(journal_folder(data_dir, place), self._listener_id)
        self._service = ListenerService(self._policy_file, data_dir, spool, journal, self._listener_id)
        self._tls = policy.tls and server_context(*policy.tls)
        self._applied = self._refused = policy
        self._associations: set[Association] = set()
        self._stopping = False
        self._socket = listen(policy)
        self._learn_addresses(policy)
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> tuple[str, int]:
        """Start to accept connections; return host and port. The event that records it also ends associations
        left by former listeners.
        """
        host, port = self._socket.getsockname()[:2]
        self._service.events.record(
            events.happened(
                events.LISTENER_STARTED,
                listener=self._listener_id,
                host=host,
                port=port,
                leftovers=self._leftovers,
            )
        )
        self._thread.start()
        return host, port

    def keep_up(self) -> None:
        """Apply a changed policy file, and write delayed journal events; call it about once a second.

        Raises RuntimeError if the accepting thread has ended: the process must end and be started again.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that accepts connections ended")
        policy = self._policy_file.current()
        if policy is not self._applied:  # read again: also where only certificates were replaced
            try:
                self._tls = policy.tls and server_context(*policy.tls)
                logging.getLogger().setLevel(policy.log_level.upper())
                self._learn_addresses(policy)
                self._applied = policy
            except OSError as error:  # certificates that change since the node checked them: tried again
                if policy is not self._refused:
                    _LOGGER.error(
                        "new certificates cannot be used, the previous ones stay in force: %s", error
                    )
                self._refused = policy
        self._service.events.keep_up()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, and abort the rest."""
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
        self._service.events.record(events.happened(events.LISTENER_STOPPED, listener=self._listener_id))

    def _accept(self) -> None:
        """Accept connections until the listener stops; nothing in this thread waits for a peer."""
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
        """Serve an association, and list it while it is open."""
        self._associations.add(association)
        try:
            association.run()
        finally:
            self._associations.discard(association)

    def _learn_addresses(self, policy: AEPolicy) -> None:
        """Look up the addresses of the peers and reserve connections for them, in a thread because the name
        service may be slow.
        """
        hosts = {peer.host for peer in policy.peers if peer.host}
        threading.Thread(
            target=lambda: self._service.entrance.know([one for host in hosts for one in addresses(host)]),
            daemon=True,
        ).start()


def listen(listener: AEPolicy) -> socket.socket:
    """Return a listening socket at the configured address. Raises OSError."""
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


if __name__ == "__main__":
    sys.exit(main())
