"""A program on a long series: time and peak memory of the worker, from the spool to the results.

    python -m benchmarks.programs [--slices 2000] [--side 512] [--answer objects|findings|failure]

The program copies a mask and a report (made by highdicom for the first slices), writes empty findings, or
fails. Slices are copied into its folder in the file system, and only their headers are in memory.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lab import command_line
from dicom_node.base.store.tables import Job, Result
from tests import ct_lab
from tests.inbox_lab import Inbox

_MADE_AT_ONCE = 100
_MASKED = 20  # slices, of which the mask and the report are
_WORKER = """
import json, sys
from pathlib import Path
from dicom_node.base.config.settings import Settings
from dicom_node.base.processes import limit_memory
from dicom_node.base.store.database import Database
from dicom_node.jobs.worker.run import Worker

settings = Settings.model_validate(json.loads(sys.stdin.readline()))
limit_memory(settings.workers.memory_mib)

def peak():  # ru_maxrss is inherited from the parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))

worker = Worker(settings, Database(settings.database_url))
before = peak()
while worker.run_once():
    pass
print(json.dumps({"MiB before": before, "peak MiB": peak()}))
"""


def main() -> None:
    """Run the worker once, and print what it took."""
    parser = command_line(__doc__)
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--answer", choices=("objects", "findings", "failure"), default="objects")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="programs-") as name:
        folder = Path(name)
        code = {
            "findings": ct_lab.COUNTS,
            "failure": "raise SystemExit(3)",
            "objects": ct_lab.copies(
                ct_lab.answer(folder, ct_lab.ct_slices("long", _MASKED, side=given.side))
            ),
        }[given.answer]
        config = ct_lab.configuration(
            ct_lab.program(folder, code), results=("sr", "seg", "sc", "summary"), seconds=600
        )
        node = Inbox(folder / "node", config)
        for first in range(0, given.slices, _MADE_AT_ONCE):
            last = min(first + _MADE_AT_ONCE, given.slices)
            node.index(*ct_lab.ct_slices("long", last, side=given.side)[first:])
        node.assemble(seconds=300)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _WORKER],
            input=node.settings.for_children(),
            capture_output=True,
            text=True,
            check=True,
        )
        [job] = node.rows(Job)
        report = {
            "slices": len(job.source_uids),
            "state": job.state,
            "reason": job.reason,
            "seconds": round(time.monotonic() - began, 1),
            **json.loads(done.stdout.splitlines()[-1]),
            "results": [f"{row.kind} {row.bytes >> 10} KiB" for row in node.rows(Result)],
        }
        print(json.dumps(report))
        node.close()


if __name__ == "__main__":
    main()
