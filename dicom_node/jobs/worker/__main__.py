"""``python -m dicom_node.jobs.worker``: one worker process.

Its configuration is the first line of standard input, as JSON, from the node that starts it, or stands in
files (``--config FILE``). SIGHUP lets it finish its job and end, SIGTERM hands the job back.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import stat
import sys
import threading
from pathlib import Path

from ai_pipeline import extras
from dicom_node import logs
from dicom_node.config import loading, settings
from dicom_node.errors import ExitCode, NodeError
from dicom_node.store.database import Database


def main() -> int:
    """Work until SIGTERM, SIGINT, or until standard input (a pipe from the node) closes."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.jobs", description="One worker of the node.")
    parser.add_argument("--config", type=Path, action="append", help="as for dicom-node serve")
    arguments = parser.parse_args()
    try:
        loaded = loading.load(arguments.config) if arguments.config else _given()
    except NodeError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    if lacking := extras.missing():
        sys.stderr.write(f"{lacking}\n")
        return ExitCode.CONFIG
    logs.configure(loaded.node.log_level, f"worker {os.getpid()}", loaded.log_target)
    _limit_threads(loaded.workers.threads)
    limit_memory(loaded.workers.memory_mib)
    # After the thread limit, which libraries read when imported.
    from dicom_node.jobs.worker.process import Worker

    database = Database(loaded.database_url)
    try:
        worker = Worker(loaded, database)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: worker.retiring.set())
        watch_parent(worker.stopping)
        worker.run_forever()
    finally:
        database.dispose()
    return 0


def _given() -> settings.Settings:
    """The settings in the first line of standard input, read unbuffered: only its end follows."""
    line = b""
    while not line.endswith(b"\n"):
        some = os.read(sys.stdin.fileno(), 65536)
        if not some:
            raise SystemExit(int(ExitCode.USAGE))
        line += some
    return settings.Settings.model_validate_json(line)


def watch_parent(stopping: threading.Event) -> None:
    """Stop when standard input closes: it is a pipe from the node, which closes however the node dies."""
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def watch() -> None:
        while os.read(
            sys.stdin.fileno(), 4096
        ):  # not sys.stdin: its lock would trouble the interpreter's end
            pass
        stopping.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def limit_memory(mib: int) -> None:
    """A hostile image makes an allocation fail, not the machine.

    RLIMIT_DATA counts what is written to (heap and private mappings, Linux 4.7): 0.6 GiB in a warm worker.
    RLIMIT_AS would count 1.4 GiB there, most of it reserved by inference libraries and never touched.
    """
    if mib:
        resource.setrlimit(resource.RLIMIT_DATA, (mib * 2**20, mib * 2**20))


def _limit_threads(threads: int) -> None:
    """Libraries that count cores themselves (OpenCV, OpenMP) get as many threads as the settings say."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(name, str(threads))
    cores = sorted(os.sched_getaffinity(0))
    if threads < len(cores):
        first = os.getpid() % len(cores)
        os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in range(threads)})


if __name__ == "__main__":
    sys.exit(main())
