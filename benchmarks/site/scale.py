#!/usr/bin/env python3
"""How far does a site scale, and what saturates first? A simulation whose inputs were measured.

    benchmarks/site/scale.py [--measure] [--measured FILE] [--seed 1] [--json FILE] [--plot FILE]

``--measure`` takes the processor seconds of each step from the node's own code on Debian's PostgreSQL
(indexing, assembly, a job around its pipeline, a delivery) and writes them to ``--measured``
(benchmarks/site/measured.json); without it they are read from there. The simulation has two hours like the
busiest of a day (benchmarks/site/day.py), 33 studies a modality and day, a third ultrasound of
25 stills of 1 MiB, the rest X-ray of one or two films of 12 MiB.

Assumed, not measured: steps take as long as their processor time (a disk or network that waits comes on top),
the database has 16 cores, the shared folder moves 1 GB a second, each object is written once and read twice,
machines do not disturb each other. One machine in fifty receives (at least two), one is the database, the
others have two workers of two cores. Quiet time is not counted.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.lab import command_line
from benchmarks.site.day import busiest_hour
from benchmarks.site.simulation import Route, Station, poisson, simulate
from dicom_node.outbox.delivery_worker import DeliveryWorker
from tests.drill_lab import node_on, results_of
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.postgres_lab import start_postgres
from tests.unit.jobs.worker_lab import Worker

MEASURED = Path(__file__).with_name("measured.json")
MODALITIES = (120, 500, 1000, 2000, 5000, 10_000)
MODALITIES_A_MACHINE = 50
STUDIES_A_DAY = 33  # of one modality: 4,000 of 120
HOURS = 2
RECEIVED_A_SECOND = 568  # objects by one listener: docs/reference/measurements.md
STILL_SECONDS, FILM_SECONDS = 1.0, 0.56  # by a worker of two cores: docs/deploy/sizing.md
STILL_MIB, FILM_MIB = 1, 12
FOLDER_MIB_A_SECOND, DATABASE_CORES = 1000, 16


@dataclass(frozen=True)
class Step:
    """Processor seconds of one step: of the node's processes, and of PostgreSQL's."""

    node: float
    database: float

    @property
    def whole(self) -> float:
        """A step waits for its answers."""
        return self.node + self.database


def main() -> int:
    """Measure if asked to, simulate, print."""
    parser = command_line(__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--measured", type=Path, default=MEASURED)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.measure:
        steps = {name: asdict(step) for name, step in measure().items()}
        given.measured.write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")
    steps = {name: Step(**step) for name, step in json.loads(given.measured.read_text()).items()}
    rows = [site_of(number, steps, random.Random(given.seed)) for number in MODALITIES]
    print(json.dumps(rows, indent=1))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if given.plot:
        plot(rows, given.plot)
    return 0


def site_of(modalities: int, steps: Mapping[str, Step], chance: random.Random) -> dict[str, Any]:
    """Simulate one site; how busy each station is (1: all of the time), and the turnaround."""
    machines = max(4, modalities // MODALITIES_A_MACHINE)
    listeners = max(2, machines // 50)
    workers = machines - listeners - 1
    stations = {
        "listeners": Station(listeners),
        "shared folder": Station(1),
        "indexing": Station(1),  # the holder of index.lock
        "workers": Station(2 * workers),
        "deliveries": Station(workers),  # a node has one thread for each destination
        "database": Station(DATABASE_CORES),
    }
    rate = modalities * STUDIES_A_DAY * busiest_hour() / 3600
    arrivals = [(at, route(steps, chance)) for at in poisson(rate, HOURS * 3600, chance)]
    took = simulate(arrivals, stations)
    busy = {name: station.work / station.servers / (HOURS * 3600) for name, station in stations.items()}
    return {
        "modalities": modalities,
        "machines": machines,
        "studies an hour": round(rate * 3600),
        "busy": {name: round(share, 3) for name, share in busy.items()},
        "turnaround, seconds": {f"p{p}": round(float(np.percentile(took, p)), 1) for p in (50, 95, 99)},
    }


def route(steps: Mapping[str, Step], chance: random.Random) -> Route:
    """The way of one study through the site."""
    if chance.random() < 1 / 3:
        objects, mib, seconds = 25, STILL_MIB, STILL_SECONDS
    else:
        objects, mib, seconds = chance.randint(1, 2), FILM_MIB, FILM_SECONDS
    analysis = objects * seconds * chance.lognormvariate(0, 0.25)  # not each takes as long as the median
    whole = (steps["assembly"], steps["job"], steps["delivery"])
    asked = objects * steps["indexing"].database + sum(step.database for step in whole)
    return (
        ("listeners", objects / RECEIVED_A_SECOND),
        ("shared folder", 3 * objects * mib / FOLDER_MIB_A_SECOND),
        ("database", asked),
        ("indexing", objects * steps["indexing"].whole + steps["assembly"].whole),
        ("workers", analysis + steps["job"].whole),
        ("deliveries", steps["delivery"].whole),
    )


def measure(studies: int = 30, images: int = 5) -> dict[str, Step]:
    """Run one step after the other, with .5 MiB ultrasound images and a model that is none."""
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        start_postgres() as postgres,
        run_pacs(Pacs(free_port())) as pacs,
    ):
        node = node_on(postgres.new_database(), Path(folder) / "var", pacs)
        server = psutil.Process(int((postgres.data / "postmaster.pid").read_text().split()[0]))
        worker, outbox = Worker(node.settings, node.database), DeliveryWorker(node.database, node.settings)

        def receive(name: str, count: int) -> None:
            for number in range(count):
                node.receive(
                    *(ultrasound(f"{name}{number}", number=k, size=(480, 360)) for k in range(images))
                )

        def work() -> None:
            while worker.run_once():
                pass

        def deliver() -> None:
            while len(pacs.stored) < len(results_of(node)):
                outbox.run_once()

        def used(action: Callable[[], object], count: int) -> Step:
            before = _seconds(server)
            action()
            node_seconds, database_seconds = (b - a for a, b in zip(before, _seconds(server), strict=True))
            return Step(round(node_seconds / count, 5), round(database_seconds / count, 5))

        receive("warm", 2)
        node.settle()
        work()
        deliver()
        receive("study", studies)
        steps = {
            "indexing": used(node.index, studies * images),
            "assembly": used(lambda: node.assemble(seconds=300), studies),
            "job": used(work, studies),
            "delivery": used(deliver, studies),
        }
        node.close()
    return steps


def _seconds(server: psutil.Process) -> tuple[float, float]:
    """Processor seconds so far: of this process with what it started but PostgreSQL, and of PostgreSQL."""
    started = psutil.Process().children(recursive=True)
    ours = [psutil.Process(), *(one for one in started if "postgres" not in one.name())]
    return sum(map(_own, ours)), sum(map(_own, (server, *server.children())))


def _own(process: psutil.Process) -> float:
    """With that of its children that have ended."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:
        return 0.0


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """How busy each kind of station is, over the modalities."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name in rows[0]["busy"]:
        axes.plot([row["modalities"] for row in rows], [row["busy"][name] for row in rows], "o-", label=name)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlabel="modalities (one machine for fifty)", ylabel="busy (1: saturated)"
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
