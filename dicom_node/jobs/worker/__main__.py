"""Run one worker process: ``python -m dicom_node.jobs.worker``.

Its configuration is the first line of standard input (JSON from the node that starts it). SIGHUP lets the
worker finish its job and end; SIGTERM hands the job back.
"""

import os
import signal
import sys

from ai_pipeline import extras
from ai_pipeline.models.engine import INFERENCE
from dicom_node.base import logs
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ExitCode
from dicom_node.base.processes import limit_memory, lower_priority, settings_line, watch_parent
from dicom_node.base.store.database import Database


def main() -> int:
    """Run the worker process until SIGTERM, SIGINT, or until standard input (a pipe from the node) closes;
    return the exit status.
    """
    loaded = Settings.model_validate_json(settings_line())
    if lacking := extras.missing():
        sys.stderr.write(f"{lacking}\n")
        return ExitCode.CONFIG
    logs.configure(loaded.node.log_level, f"worker {os.getpid()}", as_json=loaded.log.format == "json")
    lower_priority()
    # Libraries that count cores themselves (OpenCV, OpenMP) get as many threads as the settings say.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(name, str(loaded.workers.threads))
    cores = sorted(os.sched_getaffinity(0))
    if loaded.workers.threads < len(cores):
        first = os.getpid() % len(cores)
        os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in range(loaded.workers.threads)})
    os.environ[INFERENCE] = loaded.workers.inference
    limit_memory(loaded.workers.memory_mib)
    # After the thread limit, which libraries read when imported.
    from dicom_node.jobs.worker.run import Worker

    database = Database(loaded.database_url)
    database.changes.follow(database.engine)
    worker = Worker(loaded, database)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stopping.set())
    signal.signal(signal.SIGHUP, lambda *_: worker.retiring.set())
    watch_parent(worker.stopping.set)
    try:
        worker.run_forever()
    finally:
        database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
