"""A site of two listeners and two workers under load is killed in parts, at random: does its ledger balance?

    python -m tests.faults.kills [--kills 1000] [--minutes M] [--seed 1] [--json FILE]

Needs Debian's orthanc and postgresql. Modalities send studies of two objects, split over both listeners,
every third object to both, each again until it is acknowledged. Meanwhile kill -9 takes a random process: a
node as a whole (it is started again a moment later), or one of its children (the listener, the inspector, a
worker: the node starts it again). At the end each study must stand delivered and the PACS hold each result
once. An object whose reader was killed again and again is set aside for a person (quarantined): the node
cannot know that it was not the object's fault. The ledger names each.

Persons withdraw, accept, reject and release meanwhile (tests/faults/kills/persons.py), and are killed at it.
In the middle the database is saved with pg_dump. At the end, when the ledger balances, that dump is restored
in place of the database, the spool is indexed again, and each decision must still be in force and in the
audit once. Exit status 1 where anything is missing, doubled or undone.
"""

import contextlib
import io
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from benchmarks.lab import command_line
from dicom_node import people
from dicom_node.base.config import loading
from dicom_node.base.lifecycle import StudyState
from dicom_node.base.store.tables import DecisionRow, Study
from tests.faults.kills.ledger import Sent, count, mistakes, wait_until_settled
from tests.faults.kills.persons import Persons, decided, wrong
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, Node, in_background, store
from tests.postgres_lab import program, start_postgres
from tests.site_lab import Site, running_site

SENDERS = 3
_PAUSE = 8.0  # seconds of a sender between studies: two busy cores keep up with that between two kills
_SENT_UNTIL = 0.8  # of the kills: what is left then is worked off while the others fall
_HELD = (
    PROGRAM.replace('"command"', '"held"', 1).replace(
        'modality = "US"', 'modality = "US", calling_ae = "US2"'
    )
    + "assess_first = true\n"
)
_RULES = (
    """
[[peers]]
name = "us2"
ae_title = "US2"
"""
    + PROGRAM.replace('modality = "US"', 'modality = "US", calling_ae = "US1"')
    + _HELD
)


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
            title = "US2" if number % 4 == 3 else "US1"  # whose results wait for a person
            for part in (1, 2):
                image = ultrasound(f"faults-{sender}-{number}", number=part, size=(48, 40))
                for _ in range(2 if (2 * number + part) % 3 == 0 else 1):
                    self._send(site, image, number + part, title)
            if number % 10 == 5:  # other pixels under the UID of the last object: for a person to choose
                image.PixelData = bytes(255 - value for value in image.PixelData)
                self._send(site, image, number, title)
            time.sleep(_PAUSE)

    def _send(self, site: Site, image: Dataset, turn: int, title: str) -> None:
        """As a modality behind a balancer: now this listener, now that, again until it gets Success."""
        for attempt in itertools.count(turn):
            if store(site.listeners[attempt % 2].port, [image], title) == [0x0000]:
                break
            time.sleep(0.1)
        self.sent.add(image)


def main() -> int:
    """Kill, wait, count, print."""
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no kill after that many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the ledger to this file")
    arguments = parser.parse_args()
    began, load = time.monotonic(), Load()
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        start_postgres() as postgres,
        running_site(
            Path(folder), url := postgres.new_database(), _RULES, ("sr",), quiet=0.5, alone=True
        ) as site,
    ):
        chance = random.Random(arguments.seed)
        persons = Persons(site, random.Random(arguments.seed))
        senders = [in_background(lambda number=number: load.run(site, number)) for number in range(SENDERS)]
        person = in_background(persons.run)
        dump = Path(folder) / "middle.dump"
        killed: Counter[str] = Counter()
        until = began + 60 * arguments.minutes
        for share in (0.5, _SENT_UNTIL, 1.0):
            kill(site, round(arguments.kills * share), until, chance, killed)
            if share == 0.5:
                with_postgres(url, "pg_dump", "--format=custom", "--file", str(dump))
            if share == _SENT_UNTIL:
                load.stop.set()
        for thread in senders:
            thread.join()
        for node in site.nodes:
            node.kill()
            start(node)
        killing = time.monotonic() - began
        persons.stop.set()
        person.join()
        _progress("settling")
        settle(site, load, persons)
        settled = time.monotonic() - began
        ledger: dict[str, Any] = {"killed": dict(killed), "commands killed": persons.killed}
        ledger["decisions"] = dict(Counter(kind for _, kind in persons.done))
        ledger |= count(site, load.sent, Path(folder))
        wrong_ones = [*mistakes(ledger), *wrong(persons, decided(site), "before the restore")]
        held, failed = set(site.pacs.instances()), failed_studies(site)
        _progress(f"before the restore: {wrong_ones or 'the ledger balances'}")
        restore(site, url, dump)
        settle(site, load, persons)
        after = decided(site)
        wrong_ones += wrong(persons, after, "after the restore")
        new = set(site.pacs.instances()) - held
        ledger["results after the restore of studies that had failed"] = len(new)
        wrong_ones += [
            f"NOT SO: the restore sent nothing new of study {uid}" for uid in others(site, new, failed)
        ]
        ledger["decisions done again after the restore"] = again(site, dump)
    times = {"minutes of killing": killing, "settled": settled, "minutes": time.monotonic() - began}
    ledger = {name: round(seconds / 60, 1) for name, seconds in times.items()} | ledger
    print(json.dumps(ledger, indent=1))
    print("\n".join(wrong_ones) or "The ledger balances.")
    if arguments.json:
        arguments.json.write_text(json.dumps(ledger | {"wrong": wrong_ones}, indent=1), encoding="utf-8")
    return 1 if wrong_ones else 0


def settle(site: Site, load: Load, persons: Persons) -> None:
    """Until every study has ended, persons deciding on what waits for them."""
    enough = threading.Event()
    person = in_background(lambda: persons.finish(enough))
    wait_until_settled(site, load.sent)
    while persons.waiting():  # a study that is released goes its way again
        time.sleep(1)
        wait_until_settled(site, load.sent)
    enough.set()
    person.join()


def restore(site: Site, url: str, dump: Path) -> None:
    """As after a lost database: stop, restore, start, index the spool again, compare."""
    _progress("restoring the dump of the middle")
    for node in site.nodes:
        node.kill()
    with_postgres(url, "pg_restore", "--clean", "--if-exists", "--exit-on-error", str(dump))
    for node in site.nodes:
        node.start()
    for words in (("spool", "reindex"), ("spool", "compare")):
        done = site.listeners[0].run_apart(*words)
        _progress(f"dicom-node {' '.join(words)}: {(done.stdout or done.stderr).splitlines()[:1]}")


def failed_studies(site: Site) -> set[str]:
    """Studies whose analysis failed. Those that failed since the dump are analysed again afterwards."""
    with people.reading(loading.load([site.listeners[0].config])) as session:
        failed = select(Study.study_instance_uid).where(Study.state == StudyState.FAILED)
        return {str(uid) for uid in session.scalars(failed)}


def others(site: Site, new: set[str], failed: set[str]) -> list[str]:
    """The studies of ``new`` objects in the PACS that are not among ``failed``."""
    headers = (dcmread(io.BytesIO(site.pacs.fetch(uid)), stop_before_pixels=True) for uid in new)
    return sorted({str(header.StudyInstanceUID) for header in headers} - failed)


def again(site: Site, dump: Path) -> int:
    """How many decisions the restored database had to be told."""
    made = datetime.fromtimestamp(dump.stat().st_mtime, UTC)
    with people.reading(loading.load([site.listeners[0].config])) as session:
        since = select(func.count()).select_from(DecisionRow).where(DecisionRow.at > made)
        return session.scalar(since.where(DecisionRow.applied_at.is_not(None))) or 0


def with_postgres(url: str, name: str, *words: str) -> None:
    """Run one of PostgreSQL's programs on the site's database."""
    known = make_url(url)
    server = ["-h", str(known.host), "-p", str(known.port), "-U", str(known.username)]
    command = [program(name), *server, "-d", str(known.database), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def kill(site: Site, kills: int, until: float, chance: random.Random, killed: Counter[str]) -> None:
    """kill -9 of one random process at a time, ``until`` (monotonic seconds); ``killed`` counts them."""
    while killed.total() < kills and time.monotonic() < until:
        time.sleep(chance.uniform(0.1, 0.9))
        before = killed.total()
        kill_one(site, chance, killed)
        if killed.total() % 20 == 0 and killed.total() != before:
            _progress(f"{killed.total()} killed, {len(site.pacs.instances())} results")


def kill_one(site: Site, chance: random.Random, killed: Counter[str]) -> None:
    """kill -9 of a node, which is started again, or of one of its children; ``killed`` counts it."""
    node = chance.choice(site.nodes)
    with contextlib.suppress(psutil.NoSuchProcess):
        if chance.random() < 0.25:
            node.kill()
            killed["a node and all its processes"] += 1
            in_background(lambda: start(node)).join(chance.uniform(0, 6))
        elif children := list(_children(node)):
            kind, child = chance.choice(children)
            child.kill()
            killed[kind] += 1


def _progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def start(node: Node) -> None:
    """Start it, unless it is killed before it is ready."""
    with contextlib.suppress(AssertionError):
        node.start()


def _children(node: Node) -> Iterator[tuple[str, psutil.Process]]:
    for child in psutil.Process(node.pid).children():
        words = child.cmdline()
        for module, kind in (
            ("dicom_node.receive.listener", "a listener process"),
            ("dicom_node.receive.inspection", "an inspector"),
            ("dicom_node.jobs.worker", "a worker process"),
            ("dicom_console", "a console process"),
        ):
            if module in words:
                yield kind, child


if __name__ == "__main__":
    sys.exit(main())
