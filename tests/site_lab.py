"""A site in small: two listeners, two workers, one PostgreSQL and an Orthanc, as processes of one machine.

``make site`` (``python -m tests.site_lab``) starts it in a folder and keeps it until Ctrl-C.
"""

import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.node_lab import ULTRASOUND, Node, site_config
from tests.postgres_lab import start_postgres
from tests.wire.orthanc_lab import Orthanc, start_orthanc


@dataclass(frozen=True)
class Site:
    """Nodes that share a database and a data folder or a bucket, each with a configuration of its own."""

    listeners: tuple[Node, ...]
    workers: tuple[Node, ...]
    pacs: Orthanc

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All, listeners first."""
        return (*self.listeners, *self.workers)


@contextmanager
def running_site(
    folder: Path,
    database_url: str,
    rules: str = ULTRASOUND,
    results: Sequence[str] = ("sr", "gsps", "sc", "cleaned"),
    quiet: float = 1,
    more: str = "",
    *,
    apart: bool = False,
    alone: bool = False,
) -> Iterator[Site]:
    """Bring the database up to date, start Orthanc, listeners and workers; end them whatever happens.

    ``more`` goes into each configuration. ``apart``: each node has a data folder of its own. ``alone``: nodes
    are started as people start them.
    """
    with start_orthanc(folder / "orthanc") as pacs:
        config = site_config(pacs.dicom_port, rules, results, quiet, lease=5, ae_title=pacs.ae_title) + more

        def node(role: str, number: int) -> Node:
            name = f"{role}-{number}"
            place = folder / name if apart else folder
            return Node(place, config, role=role, name=name, database_url=database_url, alone=alone)

        listeners, workers = (tuple(node(role, n) for n in (1, 2)) for role in ("listener", "worker"))
        site = Site(listeners, workers, pacs)
        upgraded = listeners[0].run_apart("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        try:
            for one in site.nodes:
                one.start()
            yield site
        finally:
            for one in site.nodes:
                with suppress(AssertionError):  # it was never started
                    one.kill()


def main() -> None:
    """Start a site, print where what listens, keep it until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp(prefix="site-"))
    with start_postgres() as postgres, running_site(folder.resolve(), postgres.new_database()) as site:
        for node in site.nodes:
            port = f", DICOM port {node.port}, called AINODE" if node in site.listeners else ""
            print(f"{node.config.stem}: {node.config}, log {node.log}{port}")
        print(f"PACS: {site.pacs.url}, DICOM port {site.pacs.dicom_port}, called {site.pacs.ae_title}")
        print(f"Send: storescu -aet US1 -aec AINODE 127.0.0.1 {site.listeners[0].port} FILES (DCMTK)")
        print("Ctrl-C ends it; the data stay in the folder, the database is thrown away.", flush=True)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # from now on a second one must not stop the ending
            signal.signal(number, lambda *_: ended.set())
        ended.wait()


if __name__ == "__main__":
    main()
