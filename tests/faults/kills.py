"""A site of two listeners and two workers under load is killed in parts, at random: does its ledger balance?

    python -m tests.faults.kills [--kills 1000] [--minutes M] [--seed 1] [--json FILE]

Needs Debian's orthanc and postgresql. Modalities send studies of two objects, split over both listeners,
every third object to both, each again until it is acknowledged. Meanwhile kill -9 takes a random process: a
node as a whole (it is started again a moment later), or one of its children (the listener, the inspector, a
worker: the node starts it again). At the end each study must stand delivered and the PACS hold each result
once. An object whose reader was killed again and again is set aside for a person (quarantined): the node
cannot know that it was not the object's fault. The ledger names each.

Persons withdraw, accept, reject and release meanwhile by the command line, and are killed at it. Whoever
got no answer asks again: the command may have been carried out or not.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Select, func, or_, select
from sqlalchemy.engine import make_url

from benchmarks.lab import command_line
from dicom_node import people
from dicom_node.base.config import loading
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError
from dicom_node.base.lifecycle import DeliveryState, HeldState, ObjectRole, Outcome, StudyState
from dicom_node.base.store.tables import (
    AuditRow,
    DecisionRow,
    Delivery,
    HeldResult,
    Instance,
    ReceivedObject,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.people import audit, studies
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, Node, in_background, store
from tests.postgres_lab import program, start_postgres
from tests.site_lab import Site, running_site

_SETTLED_SECONDS = 300  # without any change
_REPLACED = select(Delivery.result_id).where(Delivery.state == DeliveryState.CANCELLED)
_ENDED = {StudyState.DELIVERED, StudyState.QUARANTINED, StudyState.FAILED, StudyState.CANCELLED}


@dataclass
class Sent:
    """What modalities sent. ``acknowledged``: Successes by SOP Instance UID, of ``studies``."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    studies: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, image: Dataset) -> None:
        """Success was answered for this object."""
        with self._lock:
            self.acknowledged[str(image.SOPInstanceUID)] += 1
            self.studies.add(str(image.StudyInstanceUID))


def settings_of(site: Site) -> Settings:
    return loading.load([site.listeners[0].config])


def wait_until_settled(site: Site, sent: Sent) -> None:
    """Until every study has ended or is in quarantine and no lost decision waits to be applied again, or
    nothing has changed for a while.
    """
    incoming = site.listeners[0].folder / "var" / "spool" / "incoming"
    seen, since = None, time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        states = Counter(study["state"] for study in site.listeners[0].studies().values())
        waits = (
            set(states) - _ENDED or any(incoming.glob("*.dcm")) or site.listeners[0].cli("decisions", "list")
        )
        if states.total() >= len(sent.studies) and not waits:
            return
        if states != seen:
            seen, since = states, time.monotonic()
        time.sleep(1)


def count(site: Site, sent: Sent, folder: Path) -> dict[str, Any]:
    """Read the database, the spool and the PACS; ``folder``: that of the site, ``var`` lies in it.

    An object that was set aside because its reader was killed has no SOP Instance UID in the database: it is
    read from its file.
    """
    with people.reading(settings_of(site)) as session:
        arrivals = [
            (row.sop_instance_uid or _uid(folder / "var" / row.path), row.outcome, row.reason)
            for row in session.scalars(select(ReceivedObject))
        ]
        roles = {row.sop_instance_uid: row.role for row in session.scalars(select(Instance))}
        rows = session.scalars(select(Study)).all()
        studies = {row.study_instance_uid: row.state for row in rows}
        failed = [row.reason for row in rows if row.state is StudyState.FAILED]
        deliveries = Counter(str(state) for state in session.scalars(select(Delivery.state)))
        results = set(session.scalars(select(Result.sop_instance_uid)))
        stopped = set(session.scalars(_stopped()))  # by a person: it may have arrived before, or not
    held = Counter(site.pacs.instances())
    aside = {uid for uid, outcome, _ in arrivals if outcome is Outcome.QUARANTINED}
    came = Counter(uid for uid, _, _ in arrivals)
    lost = set(sent.acknowledged) - set(roles) - aside
    in_spool = {_uid(file) for file in (folder / "var" / "spool").rglob("*.dcm")} & lost if lost else set()
    return {
        "objects sent": len(sent.acknowledged),
        "what became of them": dict(Counter(_fate(uid, roles, aside, in_spool) for uid in sent.acknowledged)),
        "acknowledgements": sent.acknowledged.total(),
        "acknowledgements without an arrival": (sent.acknowledged - came).total(),
        "arrivals": dict(Counter(str(outcome) for _, outcome, _ in arrivals)),
        "arrivals that nobody sent": sum(uid not in sent.acknowledged for uid in came),
        "set aside": [
            {"object": uid, "indexed from another arrival": uid in roles, "reason": reason}
            for uid, outcome, reason in arrivals
            if outcome is Outcome.QUARANTINED
        ],
        "left in incoming": len(list((folder / "var" / "spool" / "incoming").glob("*.dcm"))),
        "studies sent": len(sent.studies),
        "what became of studies": dict(Counter(str(studies.get(uid, "nowhere")) for uid in sent.studies)),
        "why they failed": failed,
        "results": len(results),
        "deliveries": dict(deliveries),
        "in the PACS": held.total(),
        "results stopped or replaced": len(stopped),
        "results not in the PACS": len(results - stopped - set(held)),
        "in the PACS twice or unknown": held.total() - len(results & set(held)),
    }


def _stopped() -> Select[str]:
    """Results that a person stopped, or that a later object's results replaced before they were sent."""
    rejected = select(HeldResult.result_id).where(HeldResult.state == HeldState.REJECTED)
    return select(Result.sop_instance_uid).where(
        or_(*(Result.id.in_(one) for one in (select(Withdrawal.result_id), rejected, _REPLACED)))
    )


def _uid(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def _fate(uid: str, roles: dict[str, ObjectRole], aside: set[str], in_spool: set[str]) -> str:
    """Every object has exactly one."""
    if uid in roles:
        return "own" if roles[uid] is ObjectRole.OWN else "indexed"
    if uid in aside:
        return "in quarantine"
    return "in the spool, unknown to the database" if uid in in_spool else "nowhere"


def mistakes(ledger: dict[str, Any]) -> list[str]:
    """What does not balance, in words; none where nothing was lost and nothing doubled."""
    arrivals, fates = Counter(ledger["arrivals"]), Counter(ledger["what became of them"])
    indexed = fates["indexed"] + fates["own"]
    studies = Counter(ledger["what became of studies"])
    asked: dict[str, Callable[[], bool]] = {
        "each object indexed, own, or in quarantine": lambda: (
            set(fates) <= {"indexed", "own", "in quarantine"}
        ),
        "as many first arrivals as objects indexed": lambda: arrivals["new"] == indexed,
        "received = new + duplicates + quarantined": lambda: (
            set(arrivals) <= {Outcome.NEW, Outcome.DUPLICATE, Outcome.QUARANTINED, Outcome.SET_ASIDE}
        ),
        "no acknowledgement without an arrival": lambda: not ledger["acknowledgements without an arrival"],
        "nothing arrived that nobody sent": lambda: not ledger["arrivals that nobody sent"],
        "nothing left in incoming": lambda: not ledger["left in incoming"],
        "each study delivered, failed, or in quarantine with its object": lambda: (
            set(studies) <= _ENDED
            and studies[StudyState.QUARANTINED] <= len(ledger["set aside"])
            and studies[StudyState.CANCELLED] <= ledger["results stopped or replaced"]
        ),
        "each delivery confirmed, replaced, or stopped by a person": lambda: (
            set(ledger["deliveries"])
            <= {DeliveryState.CONFIRMED, DeliveryState.DISCARDED, DeliveryState.CANCELLED}
            and ledger["deliveries"].get(DeliveryState.DISCARDED, 0) <= ledger["results stopped or replaced"]
        ),
        "each result in the PACS": lambda: not ledger["results not in the PACS"],
        "nothing twice": lambda: not ledger["in the PACS twice or unknown"],
    }
    return [f"NOT SO: {what}" for what, holds in asked.items() if not holds()]


_KILLED = 0.25  # share of commands that are killed
_SECONDS = 2.0  # between two acts
_WITHDRAWN = 0.05  # chance of a delivered study to be looked at for it
_AT_WORK = 4.0  # seconds within which a command is killed
_ACTIONS = {
    "withdraw": "result_withdrawn",
    "accept": "results_assessed",
    "reject": "results_assessed",
    "release": "study_released",
}


@dataclass
class Persons:
    """What was decided, by study and kind; ``killed``: commands that got no answer."""

    site: Site
    chance: random.Random
    done: set[tuple[str, str]] = field(default_factory=set)
    killed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Decide on something every few seconds, until the stop."""
        while not self.stop.wait(_SECONDS):
            if choices := self._choices():
                self._act(*self.chance.choice(choices), killed=self.chance.random() < _KILLED)

    def finish(self, stop: threading.Event) -> None:
        """Decide on all that waits for a person, until the stop."""
        while not stop.wait(_SECONDS):
            for uid, kind in self.waiting():
                self._act(uid, kind)

    def waiting(self) -> list[tuple[str, str]]:
        """What waits for a person who has not decided yet."""
        return [choice for choice in self._choices() if choice[1] != "withdraw"]

    def _act(self, uid: str, kind: str, *, killed: bool = False) -> None:
        config = self.site.listeners[0].config
        words = ["studies", kind, uid, *self._options(uid, kind), "--config", str(config)]
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if killed:
            time.sleep(self.chance.uniform(0, _AT_WORK))
            process.kill()
        _, said = process.communicate()
        self.killed += process.returncode < 0
        if process.returncode == 0 or b"withdrawn before" in said:  # by a command that was killed
            self.done.add((uid, kind))

    def _options(self, uid: str, kind: str) -> list[str]:
        """Of the command; of two versions of an image the one is taken that is in force."""
        if kind == "release":
            with contextlib.suppress(NodeError):
                rows = studies.versions(loading.load([self.site.listeners[0].config]), uid)
                return [word for row in rows if row["counts"] for word in ("--take", str(row["number"]))]
        because = ["--because", "benchmark"]
        return {"withdraw": ["--reason", "quality", *because], "reject": because}.get(kind, [])

    def _choices(self) -> list[tuple[str, str]]:
        """What a person might decide now and has not decided yet."""
        # Nothing is released of objects that name no study.
        chosen = select(Study.study_instance_uid, Study.state).where(Study.study_instance_uid.is_not(None))
        try:
            with people.reading(loading.load([self.site.listeners[0].config])) as session:
                states = {str(uid): state for uid, state in session.execute(chosen)}
        except NodeError:
            return []
        found = []
        for uid, state in states.items():
            if state is StudyState.QUARANTINED:
                found.append((uid, "release"))
            elif state is StudyState.UNASSESSED:
                found.append((uid, "reject" if int(uid[-1]) % 2 else "accept"))
            elif state is StudyState.DELIVERED and self.chance.random() < _WITHDRAWN:
                found.append((uid, "withdraw"))
        return [choice for choice in found if choice not in self.done]


def decided(site: Site) -> dict[str, Any]:
    """What the database, the audit and the copy say of persons' decisions."""
    settings = settings_of(site)
    files = {file.name: audit.read_decision(file) for file in audit.copied_decisions(settings.node.data_dir)}
    lines = [line for line in files.values() if line is not None]
    of_study = select(Study.study_instance_uid)
    with people.reading(settings) as session:
        noted = select(AuditRow.action, Study.study_instance_uid).join(Study, Study.id == AuditRow.study_id)
        results = (
            select(Study.study_instance_uid, HeldResult.state)
            .join(HeldResult)
            .where(HeldResult.result_id.not_in(_REPLACED))
        )
        of_result = of_study.join(Result, Result.study_id == Study.id)
        withdrawn = of_result.join(Withdrawal, Withdrawal.result_id == Result.id)
        others = of_result.where(Result.id.not_in(select(Withdrawal.result_id)))
        return {
            "audit": Counter(
                (action.value, uid)
                for action, uid in session.execute(noted.where(AuditRow.action.in_(audit.DECISIONS)))
            ),
            "copy": Counter((line["action"], line["study"]) for line in lines),
            "twice": len(lines) - len({line["id"] for line in lines}),
            "faults": [name for name, line in files.items() if line is None],
            "withdrawn": set(session.scalars(withdrawn)) - set(session.scalars(others)),
            "verdicts": {uid: verdict for uid, verdict in session.execute(results)},  # noqa: C416
            "quarantined": set(session.scalars(of_study.where(Study.state == StudyState.QUARANTINED))),
            # Of a job that ran for the last time when the database was saved: it has no results any more.
            "failed": set(session.scalars(of_study.where(Study.state == StudyState.FAILED))),
        }


def wrong(persons: Persons, said: dict[str, Any], when: str) -> Iterator[str]:
    """What of persons' decisions is lost, doubled or undone, in words."""
    holds: dict[str, Callable[[str], bool]] = {
        "withdraw": lambda uid: uid in said["withdrawn"],
        "accept": lambda uid: said["verdicts"].get(uid) is HeldState.ACCEPTED,
        "reject": lambda uid: said["verdicts"].get(uid) is HeldState.REJECTED,
        "release": lambda uid: uid not in said["quarantined"],
    }
    for uid, kind in sorted(pair for pair in persons.done if pair[0] not in said["failed"]):
        if not holds[kind](uid):
            yield f"NOT SO: {when}, {kind} of study {uid} is in force"
        if not said["audit"][_ACTIONS[kind], uid]:
            yield f"NOT SO: {when}, {kind} of study {uid} is in the audit"
    for key in said["audit"].keys() | said["copy"].keys():
        if said["audit"][key] != said["copy"][key] and key[1] not in said["failed"]:
            times = f"{said['audit'][key]} and {said['copy'][key]}"
            yield f"NOT SO: {when}, {' of study '.join(key)} is as often in audit and copy: {times}"
    if said["twice"]:
        yield f"NOT SO: {when}, each decision is in its copy once"
    yield from (f"NOT SO: {when}, the copy is whole: {text}" for text in said["faults"])


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
    report(
        {name: round(seconds / 60, 1) for name, seconds in times.items()} | ledger, wrong_ones, arguments.json
    )
    return 1 if wrong_ones else 0


def report(ledger: dict[str, Any], wrong_ones: list[str], file: Path | None) -> None:
    """Print the ledger and what is wrong in it; write both to the file."""
    print(json.dumps(ledger, indent=1))
    print("\n".join(wrong_ones) or "The ledger balances.")
    if file:
        file.write_text(json.dumps(ledger | {"wrong": wrong_ones}, indent=1), encoding="utf-8")


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
    with people.reading(settings_of(site)) as session:
        failed = select(Study.study_instance_uid).where(Study.state == StudyState.FAILED)
        return {str(uid) for uid in session.scalars(failed)}


def others(site: Site, new: set[str], failed: set[str]) -> list[str]:
    """The studies of ``new`` objects in the PACS that are not among ``failed``."""
    headers = (dcmread(io.BytesIO(site.pacs.fetch(uid)), stop_before_pixels=True) for uid in new)
    return sorted({str(header.StudyInstanceUID) for header in headers} - failed)


def again(site: Site, dump: Path) -> int:
    """How many decisions the restored database had to be told."""
    made = datetime.fromtimestamp(dump.stat().st_mtime, UTC)
    with people.reading(settings_of(site)) as session:
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
