#!/usr/bin/env python3
"""A site of two listeners and two workers under load is killed in parts, at random: does its ledger balance?

    benchmarks/faults.py [--kills 1000] [--minutes M] [--seed 1] [--json FILE]

Needs Debian's orthanc and postgresql. Modalities send studies of two objects, split over both listeners,
every third object to both, each again until it is acknowledged. Meanwhile kill -9 takes a random process: a
node as a whole (it is started again a moment later), or one of its children (the listener, the inspector, a
worker: the node starts it again). At the end each study must stand delivered and the PACS hold each result
once. An object whose reader was killed again and again is set aside for a person (quarantined): the node
cannot know that it was not the object's fault. The ledger names each. Exit status 1 where anything is missing
or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.site.ledger import Sent, count, mistakes, wait_until_settled
from tests.modality import ultrasound
from tests.node_lab import Node, in_background, store
from tests.postgres_lab import start_postgres
from tests.site_lab import PROGRAM, Site, running_site

SENDERS = 3


@dataclass
class Load:
    """Three modalities at work, until they are told to stop."""

    sent: Sent = field(default_factory=Sent)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, site: Site, sender: int) -> None:
        """Send studies until it is told to stop; the last one is sent whole."""
        for number in itertools.count():
            if self.stop.is_set():
                return
            for part in (1, 2):
                image = ultrasound(f"faults-{sender}-{number}", number=part, size=(48, 40))
                for _ in range(2 if (2 * number + part) % 3 == 0 else 1):
                    self._send(site, image, number + part)
            time.sleep(1)

    def _send(self, site: Site, image: Dataset, turn: int) -> None:
        """As a modality behind a balancer: now this listener, now that, again until it gets Success."""
        for attempt in itertools.count(turn):
            if store(site.listeners[attempt % 2].port, [image], "US1") == [0x0000]:
                break
            time.sleep(0.1)
        self.sent.add(image)


def main() -> int:
    """Kill, wait, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no kill after that many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the ledger to this file")
    arguments = parser.parse_args()
    began, load = time.monotonic(), Load()
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        start_postgres() as postgres,
        running_site(Path(folder), postgres.new_database(), PROGRAM, '["sr"]', quiet=0.5) as site,
    ):
        senders = [in_background(lambda number=number: load.run(site, number)) for number in range(SENDERS)]
        until = began + 60 * arguments.minutes
        killed = kill(site, arguments.kills, until, random.Random(arguments.seed))
        killing = time.monotonic() - began
        load.stop.set()
        for sender in senders:
            sender.join()
        wait_until_settled(site, load.sent)
        times = {"minutes": time.monotonic() - began, "minutes of killing": killing}
        ledger: dict[str, Any] = {name: round(seconds / 60, 1) for name, seconds in times.items()}
        ledger |= {"killed": dict(killed)} | count(site, load.sent, Path(folder))
    wrong = mistakes(ledger)
    print(json.dumps(ledger, indent=1))
    print("\n".join(wrong) or "The ledger balances.")
    if arguments.json:
        arguments.json.write_text(json.dumps(ledger, indent=1), encoding="utf-8")
    return 1 if wrong else 0


def kill(site: Site, kills: int, until: float, chance: random.Random) -> Counter[str]:
    """kill -9 of one random process at a time, ``until`` (monotonic seconds); how often of what kind."""
    killed: Counter[str] = Counter()
    while killed.total() < kills and time.monotonic() < until:
        time.sleep(chance.uniform(0.1, 0.9))
        node = chance.choice(site.nodes)
        with contextlib.suppress(psutil.NoSuchProcess):
            if chance.random() < 0.25:
                node.kill()
                killed["a node and all its processes"] += 1
                in_background(lambda node=node: start(node)).join(chance.uniform(0, 6))
            elif children := list(_children(node)):
                kind, child = chance.choice(children)
                child.kill()
                killed[kind] += 1
        if killed.total() % 50 == 0:
            print(
                f"{killed.total()} of {kills} killed, {len(site.pacs.instances())} results", file=sys.stderr
            )
    for node in site.nodes:
        node.kill()
        start(node)
    return killed


def start(node: Node) -> None:
    """Start it, unless it is killed before it is ready."""
    with contextlib.suppress(AssertionError):
        node.start()


def _children(node: Node) -> Iterator[tuple[str, psutil.Process]]:
    for child in psutil.Process(node.pid).children():
        words = child.cmdline()
        for module, kind in (
            ("dicom_node.scp", "a listener process"),
            ("dicom_node.inbox", "an inspector"),
            ("dicom_node.jobs.worker", "a worker process"),
        ):
            if module in words:
                yield kind, child


if __name__ == "__main__":
    sys.exit(main())
