#!/usr/bin/env python3
"""Processor time of a node that has nothing to do, on SQLite and on PostgreSQL.

    benchmarks/idle.py [--seconds N]

A node with one rule, one worker and one destination, left alone for a while after "ready"; then so many
seconds are measured: of each of its processes, and of the PostgreSQL server's for it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line, configuration, rule
from benchmarks.start import kind
from tests.node_lab import Node, running
from tests.postgres_lab import Postgres, server_folder

SETTLE = 15.0  # seconds: after its start a node looks more often
LIMIT = 0.005  # of a core


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name, server_folder() as folder:
        server = Postgres(folder)
        server.create()
        server.start()
        try:
            for database, url in {"SQLite": "", "PostgreSQL": server.new_database()}.items():
                measure(Path(name) / database, database, url, seconds)
        finally:
            server.stop("immediate")
    return 0


def measure(folder: Path, database: str, url: str, seconds: float) -> None:
    node = Node(folder, configuration(1, rule("chest_xray", ["DX"])), database_url=url)
    assert node.run_apart("db", "upgrade").returncode == 0
    with running(node):
        time.sleep(SETTLE)
        before = dict(busy(node.pid))
        time.sleep(seconds)
        shares = {name: (spent - before[name]) / seconds for name, spent in busy(node.pid)}
    ours = sum(share for name, share in shares.items() if name != "postgres")
    each = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
    print(f"{database:12} {ours:.2%} of a core (at most {LIMIT:.1%}): {each}", flush=True)


def busy(pid: int) -> Iterator[tuple[str, float]]:
    """Processor seconds so far by name: of the node's processes, and of all PostgreSQL's together."""
    main = psutil.Process(pid)
    for one in (main, *main.children(recursive=True)):
        yield kind(one), sum(one.cpu_times()[:2])
    servers = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "postgres"]
    yield "postgres", sum(sum(one.cpu_times()[:2]) for one in servers)


if __name__ == "__main__":
    sys.exit(main())
