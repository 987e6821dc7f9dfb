"""A thousand old studies of a real Orthanc through the node, with three kills: each once, never too fast?

Prints what was fetched and analysed, how often, the shortest time between two retrievals, and the seconds.
By hand: ``python benchmarks/fetch.py [STUDIES [PER_MINUTE]]``; needs Orthanc.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.test_fetch import ASKED, fill, node_beside, orthanc_beside, reports, starts

LONGEST = 3600.0  # seconds


def main(studies: int = 1000, per_minute: float = 300) -> None:
    """Fill an Orthanc, fetch all of it, kill the node at a quarter, a half and three quarters."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, orthanc_beside(Path(folder) / "orthanc", port) as orthanc:
        uids = fill(orthanc, studies)
        node = node_beside(Path(folder) / "node", orthanc, port, "move", per_minute)
        node.start()
        began = time.monotonic()
        try:
            assert node.run("fetch", *ASKED, "--no-wait").returncode == 0
            for share in (1, 2, 3):
                wait_until(
                    lambda share=share: len(starts(node)) >= share * studies // 4, LONGEST, "a quarter"
                )
                node.kill()
                node.start()
            done = node.run("fetch", *ASKED)
            wait_until(lambda: sum(reports(orthanc).values()) >= studies, LONGEST, "a report of each")
            seconds = time.monotonic() - began
            time.sleep(5)
            found, asked = reports(orthanc), starts(node)
        finally:
            node.kill()
    print(f"exit status {done.returncode}; {studies} studies of two films, three kills: {seconds:.0f} s")
    print(f"studies with so many reports: {dict(Counter(found[uid] for uid in uids))}")
    gaps = [(later - sooner).total_seconds() for sooner, later in pairwise(asked)]
    print(f"{len(asked)} retrievals, {min(gaps):.3f} s apart at least; {60 / per_minute:.3f} s wanted")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
