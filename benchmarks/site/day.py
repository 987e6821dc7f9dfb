#!/usr/bin/env python3
"""A hospital's day, compressed: many modalities, faults at set hours, a ledger at the end.

    benchmarks/site/day.py [--studies 4000] [--modalities 120] [--minutes 60] [--processes 2] [--seed 1]
                           [--priors 0.2] [--json FILE]

Needs Debian's orthanc and postgresql. The site is real: two listeners, two workers, PostgreSQL, Orthanc.
Made up are the studies (small synthetic images, one or two an X-ray study, three to eight an ultrasound),
when they come (emergencies round the clock, wards in the morning, clinics by day, by chance within the hour,
not counted in any hospital), and the models: a program that sleeps for as long as the pipeline was measured
to take (docs/deploy/sizing.md: .56 s a film, 1.0 s an ultrasound still), so that missing cores are not
needed. Only the arrivals are compressed, not the work: the load is as many times that of the day as it is
shorter.

Faults, by the hour of the day: 2 a listener's node killed, 5 a worker's, 9 PostgreSQL away for half an hour,
11 the other worker killed, 14 the PACS away for an hour, 17 the other listener killed. What was killed is
started again at once. Exit status 1 where the ledger does not balance.

``--priors``: the PACS has an earlier film of the patient for this share of the X-ray studies, and the rule
asks for it: each is to be fetched and analysed once, and its results are to stay here.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults import start
from benchmarks.lab import command_line
from benchmarks.site.ledger import Sent, count, mistakes, wait_until_settled
from dicom_node import services
from dicom_node.config import loading
from dicom_node.store.tables import Delivery, Result, Study
from tests.modality import chest, ultrasound
from tests.node_lab import Node, in_background, store
from tests.postgres_lab import KEEPS_COMMITS, Postgres, start_postgres
from tests.site_lab import Site, running_site

_BY_HOUR = {  # how many of its studies come in which hour, from midnight
    "emergency": [2, 2, 2, 1, 1, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5, 4, 3, 3],
    "ward": [0, 0, 0, 0, 1, 3, 8, 12, 9, 6, 4, 3, 2, 2, 3, 3, 2, 1, 1, 0, 0, 0, 0, 0],
    "clinic": [0, 0, 0, 0, 0, 0, 0, 3, 9, 12, 12, 10, 5, 8, 10, 9, 6, 2, 0, 0, 0, 0, 0, 0],
}
_SHARE = {"emergency": 0.3, "ward": 0.25, "clinic": 0.45}  # of the modalities
_SECONDS = {"US": 1.0, "DX": 0.56}  # for each image: docs/reference/measurements.md
_SAMPLE_SECONDS = 5.0


@dataclass(frozen=True)
class Exam:
    """One study: when it comes, as a share of the day, from which modality, of what and how many images."""

    at: float
    modality: int
    kind: str
    images: int

    def objects(self, number: int) -> list[Dataset]:
        """Its images; ``number`` makes them its own."""
        name = f"day-{number}"
        if self.kind == "US":
            return [ultrasound(name, number=k, size=(48, 40)) for k in range(1, self.images + 1)]
        pixels = np.random.default_rng(number).integers(0, 4000, (40, 48), dtype="<u2")
        return [chest(name, pixels + k, number=k) for k in range(1, self.images + 1)]


def plan(studies: int, modalities: int, chance: random.Random) -> list[Exam]:
    """A day's studies in the order in which they come."""
    places = list(_SHARE)
    where = chance.choices(places, weights=list(_SHARE.values()), k=modalities)
    exams = []
    for _ in range(studies):
        modality = chance.randrange(modalities)
        hour = chance.choices(range(24), weights=_BY_HOUR[where[modality]])[0]
        kind = "US" if modality % 3 == 0 else "DX"
        images = chance.randint(3, 8) if kind == "US" else chance.randint(1, 2)
        exams.append(Exam((hour + chance.random()) / 24, modality, kind, images))
    return sorted(exams, key=lambda exam: exam.at)


def busiest_hour() -> float:
    """The share of a day's studies that come in its busiest hour."""
    hours = [sum(_SHARE[place] * by[hour] / sum(by) for place, by in _BY_HOUR.items()) for hour in range(24)]
    return max(hours)


def priors_of(exams: Sequence[Exam], share: float) -> list[Dataset]:
    """Earlier films of this share of the X-ray studies' patients."""
    films = [(number, exam) for number, exam in enumerate(exams) if exam.kind != "US"]
    found = []
    for number, exam in films[: round(share * len(films))]:
        today = exam.objects(number)[0]
        prior = chest(f"prior-{number}", today.pixel_array)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
            setattr(prior, keyword, today.get(keyword))
        prior.StudyDate = f"{int(today.StudyDate[:4]) - 1}{today.StudyDate[4:]}"
        found.append(prior)
    return found


def configuration(modalities: int, *, priors: bool = False) -> str:
    """Peers and rules of the day."""
    asks = 'priors = { peer = "pacs", most = 1, years = 5 }\n' if priors else ""
    peers = "".join(f'[[peers]]\nname = "m{n}"\nae_title = "M{n}"\n' for n in range(modalities))
    write = "echo '{\\\"findings\\\": []}' > $MERCURE_OUT_DIR/findings.json"
    rules = ""
    for modality, seconds in _SECONDS.items():
        work = f"sleep $(ls $MERCURE_IN_DIR/*.dcm | awk 'END {{print NR * {seconds}}}'); {write}"
        rules += (
            f'[[rules]]\nname = "{modality}"\nwhen = {{ modality = "{modality}" }}\nmax_study_age_days = 0\n'
            f'pipeline = "command"\nsend_to = ["pacs"]\n{asks if modality == "DX" else ""}'
            f'options = {{ command = ["/bin/sh", "-c", "{work}"], model = "none", '
            'version = "1", network = true }\n'
        )
    return peers + rules


class Day:
    """The modalities at work: each sends one study at a time, again until it is acknowledged."""

    def __init__(self, site: Site, exams: Sequence[Exam], seconds: float) -> None:
        self.sent, self.late = Sent(), [0.0]
        self._site, self._seconds, self._begun = site, seconds, time.monotonic()
        by_modality: dict[int, list[tuple[int, Exam]]] = defaultdict(list)
        for number, exam in enumerate(exams):
            by_modality[exam.modality].append((number, exam))
        self._threads = [in_background(lambda mine=mine: self._work(mine)) for mine in by_modality.values()]

    def wait_for(self, share: float) -> None:
        """Until so much of the day has passed."""
        time.sleep(max(0.0, self._begun + share * self._seconds - time.monotonic()))

    def end(self) -> None:
        """Wait for the last acknowledgement."""
        for thread in self._threads:
            thread.join()

    def _work(self, exams: Sequence[tuple[int, Exam]]) -> None:
        for number, exam in exams:
            self.wait_for(exam.at)
            left, turn = exam.objects(number), number
            while left:
                port = self._site.listeners[turn % 2].port
                answers = store(port, left, f"M{exam.modality}")
                for image, status in zip(left, answers, strict=True):
                    if status == 0x0000:
                        self.sent.add(image)
                left = [image for image, status in zip(left, answers, strict=True) if status != 0x0000]
                turn += 1
                time.sleep(0.2 if left else 0)
            self.late.append(time.monotonic() - self._begun - exam.at * self._seconds)


class Watch:
    """Memory and open files of each kind of process, every five seconds."""

    def __init__(self, site: Site) -> None:
        self._site, self._ended = site, threading.Event()
        self._memory: dict[str, list[float]] = defaultdict(list)
        self._files: dict[str, list[float]] = defaultdict(list)
        self._thread = in_background(self._look)

    def end(self) -> dict[str, Any]:
        """By kind: the median of the second and of the last quarter of the day, in MiB and in descriptors."""
        self._ended.set()
        self._thread.join()
        return {
            kind: {"MiB": _quarters(self._memory[kind]), "files": _quarters(self._files[kind])}
            for kind in sorted(self._memory)
        }

    def _look(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            largest: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
            for node in self._site.nodes:
                with suppress(psutil.Error, AssertionError):
                    main = psutil.Process(node.pid)
                    for process in (main, *main.children()):
                        with suppress(psutil.Error):
                            kind = _kind(process.cmdline())
                            memory, files = largest[kind]
                            rss = process.memory_info().rss / 2**20
                            largest[kind] = (max(memory, rss), max(files, process.num_fds()))
            for kind, (memory, files) in largest.items():
                self._memory[kind].append(memory)
                self._files[kind].append(files)


def _kind(words: Sequence[str]) -> str:
    named = {
        "dicom_node.scp": "listener",
        "dicom_node.inbox": "inspector",
        "dicom_node.jobs.worker": "worker",
    }
    return next(
        (kind for module, kind in named.items() if module in words), "main" if "serve" in words else "other"
    )


def _quarters(values: Sequence[float]) -> tuple[float, float]:
    quarter = max(len(values) // 4, 1)
    return tuple(
        round(float(np.median(part)), 1)
        for part in (values[quarter : 2 * quarter] or values, values[-quarter:])
    )


def faults(site: Site, postgres: Postgres, hour: float) -> list[tuple[float, Callable[[], None]]]:
    """What goes wrong at which hour; ``hour`` in seconds."""

    def killed(node: Node) -> Callable[[], None]:
        def kill() -> None:
            node.kill()
            in_background(lambda: start(node))

        return kill

    def database_away() -> None:
        postgres.stop("immediate")
        time.sleep(hour / 2)
        postgres.start()

    def pacs_away() -> None:
        site.pacs.kill()
        time.sleep(hour)
        site.pacs.start()

    return [
        (2, killed(site.listeners[0])),
        (5, killed(site.workers[0])),
        (9, database_away),
        (11, killed(site.workers[1])),
        (14, pacs_away),
        (17, killed(site.listeners[1])),
    ]


def turnaround(site: Site) -> dict[str, float]:
    """Seconds from a study's last object to its last confirmation, quiet time (.5 s) included."""
    last = func.max(Delivery.confirmed_at)
    asked = (
        select(Study.last_received_at, last)
        .join(Result, Result.study_id == Study.id)
        .join(Delivery, Delivery.result_id == Result.id)
        .group_by(Study.id, Study.last_received_at)
    )
    with services.reading(loading.load([site.listeners[0].config])) as session:
        seconds = [(end - begun).total_seconds() for begun, end in session.execute(asked) if end]
    return {f"p{part}": round(float(np.percentile(seconds, part)), 1) for part in (50, 95, 99)}


def main() -> int:
    """Plan, run, count, print."""
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--modalities", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=60, help="how long the day takes")
    parser.add_argument("--processes", type=int, default=2, help="jobs at a time on each of two machines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--priors", type=float, default=0, help="share of X-ray studies with an earlier one")
    parser.add_argument("--json", type=Path, help="write the ledger to this file")
    given = parser.parse_args()
    exams = plan(given.studies, given.modalities, random.Random(given.seed))
    priors = priors_of(exams, given.priors)
    with (
        tempfile.TemporaryDirectory(prefix="day-") as folder,
        start_postgres(KEEPS_COMMITS) as postgres,
        running_site(
            Path(folder),
            postgres.new_database(),
            configuration(given.modalities, priors=bool(priors)),
            ("sr",),
            quiet=0.5,
            processes=given.processes,
            archive=bool(priors),
        ) as site,
    ):
        for prior in priors:
            buffer = BytesIO()
            dcmwrite(buffer, prior, enforce_file_format=True)
            site.pacs.upload(buffer.getvalue())
        watch, day = Watch(site), Day(site, exams, 60 * given.minutes)
        for hour, happens in faults(site, postgres, 60 * given.minutes / 24):
            day.wait_for(hour / 24)
            happens()
        day.end()
        wait_until_settled(site, day.sent)
        ledger: dict[str, Any] = {"studies planned": len(exams), "minutes": given.minutes}
        ledger |= {"jobs at a time": 2 * given.processes}
        ledger |= {"turnaround, seconds": turnaround(site)}
        ledger |= {"second and last quarter": watch.end()} | count(site, day.sent, Path(folder), priors)
        ledger["the latest last acknowledgement, seconds after its study came"] = round(max(day.late), 1)
    wrong = mistakes(ledger)
    if len(day.sent.studies) != len(exams):
        wrong.append("NOT SO: each planned study was sent")
    print(json.dumps(ledger, indent=1))
    print("\n".join(wrong) or "The ledger balances.")
    if given.json:
        given.json.write_text(json.dumps(ledger, indent=1), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
