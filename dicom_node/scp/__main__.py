"""The listener process: ``python -m dicom_node.scp --data-dir DIR [--place listener-N]``.

The process writes ``{"listening": [host, port]}`` to standard output when it accepts connections, else
``{"cannot_start": reason}``. It ends when standard input closes (the node died) or on SIGTERM, after giving
associations a few seconds. On SIGHUP it reads ``policy.json`` again if the file was replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dicom_node import logs
from dicom_node.errors import ExitCode, SpoolError
from dicom_node.inbox.journal import listener_lock
from dicom_node.scp.listener import Listener
from dicom_node.scp.policy import PolicyFile, policy_path
from dicom_node.signals import ALIVE_SECONDS, show_life, signal_pipe

_LOGGER = logging.getLogger(__name__)
_UPKEEP_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_LOCK_SECONDS = 15.0  # longer than a predecessor takes to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or the end of standard input; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.scp", description="The node's listener.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with policy.json")
    parser.add_argument("--place", default="", help="listener-2 and so on: a further one on this folder")
    given = parser.parse_args(arguments)
    try:
        policy = PolicyFile(policy_path(given.data_dir, given.place)).current()
        logs.configure(policy.log_level, "listener", policy.log)
        with _only_one(listener_lock(given.data_dir, given.place)):
            _serve(Listener(given.data_dir, given.place))
    except (OSError, ValueError, KeyError, TypeError, SpoolError) as error:
        print(json.dumps({"cannot_start": str(error)}), flush=True)
        return ExitCode.UNAVAILABLE
    return ExitCode.OK


def _serve(listener: Listener) -> None:
    # ^C goes to the whole group of processes: it is the node that says when to stop.
    signals = signal_pipe()
    # An association holds three files; a thousand of them are allowed.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    gc.collect()
    gc.freeze()  # pynetdicom collects every 60 connections: not over all modules each time
    host, port = listener.start()
    print(json.dumps({"listening": [host, port]}), flush=True)
    told_at = time.monotonic()
    while not _must_stop(signals):
        listener.keep_up()
        if time.monotonic() - told_at > ALIVE_SECONDS:  # after keep_up, which raises where nobody accepts
            show_life()
            told_at = time.monotonic()
    listener.stop(_GRACE_SECONDS)


def _must_stop(signals: int) -> bool:
    """Wait a while; whether SIGTERM came, or the node closed our standard input by dying."""
    stdin = sys.stdin.fileno()
    ready, _, _ = select.select([signals, stdin], [], [], _UPKEEP_SECONDS)
    if signals in ready and signal.SIGTERM in os.read(signals, 64):
        return True
    return stdin in ready and not os.read(stdin, 4096)


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


if __name__ == "__main__":
    sys.exit(main())
