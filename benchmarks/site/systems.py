#!/usr/bin/env python3
"""A day among other systems: what was sent to the node in three ways, and what arrived at other systems.

    benchmarks/site/systems.py [--studies 240] [--minutes 15] [--one-node] [--seed 1] [--json FILE]

Needs Debian's orthanc and postgresql, and the FHIR server of the tests (``make``). The site is real: two
listeners, two workers, a console, PostgreSQL. Three of four studies come from ultrasound machines, which say
by MPPS when they begin and end, pause for longer than the quiet time in between, and ask for storage
commitment; the fourth comes from a gateway by STOW-RS. All are forwarded to Orthanc; reports go there as SR,
to the MLLP server of python-hl7 as ORU^R01, and to Medplum's router as FHIR. The model is a program that
finds the same in each image.

Meanwhile kill -9 takes nodes, listeners, inspectors, workers and the console at random; the RIS loses every
third acknowledgement and is away for a while; answers of the FHIR server are lost for a while; machines take
every third report of a commitment at the second try only; Orthanc is killed and started again.

What is counted is read from the receivers. Exit status 1 where something was lost, or is there twice.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults import kill_one
from benchmarks.lab import command_line
from dicom_node.config import loading
from dicom_node.hl7 import control_id
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.asking_modality import AskingModality, ask
from tests.console_lab import PASSWORD
from tests.fhir_lab import FhirServer, start_fhir
from tests.hostile.valve import Valve, valve_before
from tests.mllp_lab import LOSE, Receiver, run_receiver
from tests.modality import chest, ultrasound
from tests.mpps_lab import begun, change, create, ended
from tests.node_lab import Node, in_background, running, site_config, store
from tests.ports import free_port
from tests.postgres_lab import KEEPS_COMMITS, start_postgres
from tests.site_lab import Site, running_site
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

MACHINES = 3
QUIET_SECONDS = 1.0
SETTLED_SECONDS = 300.0  # without any change
_PROGRAM = """
import json, os, pathlib, pydicom
code = {"value": "SYSTEMS", "scheme": "99TEST", "meaning": "Seen by a test"}
files = pathlib.Path(os.environ["MERCURE_IN_DIR"]).glob("*.dcm")
uids = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
found = [{"source_uid": uid, "label": "Seen", "code": code, "decision": "present"} for uid in uids]
pathlib.Path(os.environ["MERCURE_OUT_DIR"], "findings.json").write_text(json.dumps({"findings": found}))
"""
_ARRIVED = "ARRIVED "
_LUA = f"""function ReceivedInstanceFilter(dicom, origin, info)
  print("{_ARRIVED}" .. dicom["SOPInstanceUID"])
  return true
end
"""
"""Orthanc's log has a line for each object that comes, also where it has it already."""
_BOUNDARY = b"--systems"
_STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=systems'}
_KNOWN = 0x0111  # N-CREATE: it was taken, and the answer was lost
_ENDED = 0x0110  # N-SET: likewise
_NOT_NOW = 0x0213  # N-EVENT-REPORT


@dataclass(frozen=True)
class Exam:
    """One study. ``machine``: that it comes from; None: from the gateway."""

    number: int
    machine: int | None
    images: tuple[Dataset, ...]

    @property
    def study(self) -> str:
        """Its Study Instance UID."""
        return str(self.images[0].StudyInstanceUID)

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs."""
        return [str(image.SOPInstanceUID) for image in self.images]


def plan(studies: int) -> list[Exam]:
    """Studies of two or three images."""
    exams = []
    for number in range(studies):
        name, parts, machine = f"systems-{number}", range(1, 3 + number % 2), number % (MACHINES + 1)
        if machine < MACHINES:
            images = [ultrasound(name, number=part, size=(48, 40)) for part in parts]
        else:
            pixels = np.random.default_rng(number).integers(0, 4000, (40, 48), dtype="<u2")
            images = [chest(name, pixels + part, number=part) for part in parts]
        exams.append(Exam(number, machine if machine < MACHINES else None, tuple(images)))
    return exams


class Machine(AskingModality):
    """It takes every third report at the second try, and none while the archive cannot be asked.

    ``early``: objects that were reported as committed before the archive had them.
    """

    def __init__(self, ae_title: str, pacs: Orthanc) -> None:
        super().__init__(ae_title)
        self.early: list[str] = []
        self.tries: Counter[str] = Counter()
        self._pacs = pacs

    def _on_report(self, event: Any) -> tuple[int, None]:
        """``reports`` has those that were taken."""
        report = event.event_information
        transaction = str(report.TransactionUID)
        self.tries[transaction] += 1
        if self.tries[transaction] == 1 and int(transaction.rpartition(".")[2]) % 3 == 0:
            return _NOT_NOW, None
        committed = [str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence", ())]
        try:
            self.early += [uid for uid in committed if not _holds(self._pacs, uid)]
        except OSError:
            return _NOT_NOW, None
        return super()._on_report(event)


def _holds(pacs: Orthanc, uid: str) -> bool:
    try:
        pacs.id_of(uid)
    except LookupError:
        return False
    return True


@dataclass
class Systems:
    """What is around the nodes: how they are configured to it, and what arrived."""

    ehr: FhirServer
    line: Valve
    """To the FHIR server; it can lose answers."""
    ris: Receiver = field(default_factory=Receiver)
    console: int = field(default_factory=free_port)
    machines: list[Machine] = field(default_factory=list)
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(MACHINES)])

    def settings(self, folder: Path) -> str:
        """Peers and rules, but for the archive; ``folder``: where the program of the rules is."""
        program = folder / "program.py"
        program.write_text(_PROGRAM, encoding="utf-8")
        machines = "".join(
            f'[[peers]]\nname = "m{n}"\nae_title = "M{n}"\nhost = "127.0.0.1"\nport = {port}\nmpps = true\n'
            'commit_after = "delivered"\n'
            for n, port in enumerate(self.ports)
        )
        options = (
            f'command = ["{sys.executable}", "{program}"], model = "none", version = "1", network = true'
        )
        return (
            f'{machines}[[peers]]\nname = "ris"\nae_title = "RIS"\nhost = "127.0.0.1"\n'
            f'port = {self.ris.port}\nmay = ["receive"]\ntransport = "hl7"\n'
            '[[peers]]\nname = "ehr"\nae_title = "EHR"\nmay = ["receive"]\ntransport = "fhir"\n'
            f'url = "http://127.0.0.1:{self.line.port}"\n'
            '[[rules]]\nname = "all"\nwhen = { modality = ["US", "DX"] }\nmax_study_age_days = 0\n'
            'pipeline = "command"\nforward = ["pacs"]\nsend_to = ["pacs", "ris", "ehr"]\n'
            f"options = {{ {options} }}\n"
        )

    @property
    def table_of_console(self) -> str:
        """The console's part of a configuration."""
        return f"[console]\nenabled = true\nport = {self.console}\ndicomweb_store = true\n"

    @contextmanager
    def around(self, pacs: Orthanc) -> Iterator[None]:
        """The machines listen for reports."""
        self.machines = [Machine(f"M{n}", pacs) for n in range(MACHINES)]
        with ExitStack() as listening:
            for one, port in zip(self.machines, self.ports, strict=True):
                one.port = port
                listening.enter_context(one.listening())
            yield


@contextmanager
def systems() -> Iterator[Systems]:
    """With a FHIR server that runs."""
    with start_fhir() as ehr, valve_before(ehr.port) as line:
        yield Systems(ehr, line)


class Senders:
    """Machines and the gateway at work: each repeats what was not answered, until it is."""

    def __init__(self, site: Site, around: Systems, exams: Sequence[Exam], seconds: float) -> None:
        """``seconds``: over which the studies are spread."""
        settings = loading.load([site.nodes[0].config])
        users.add_user(settings, "gateway", UserRole.OPERATOR, PASSWORD)
        self._token = users.add_token(settings, "gateway", "a day", 1)
        self._site, self._around = site, around
        self._begun, self._pace = time.monotonic(), seconds / max(len(exams), 1)
        self._stop = threading.Event()
        self.done = 0
        self.repeated: Counter[str] = Counter()
        mine: dict[int | None, list[Exam]] = defaultdict(list)
        for exam in exams:
            mine[exam.machine].append(exam)
        self._threads = [in_background(lambda part=part: self._work(part)) for part in mine.values()]

    def wait(self) -> None:
        """Until all is sent. Fails where nothing is taken any more."""
        try:
            wait_until(
                lambda: not any(thread.is_alive() for thread in self._threads),
                SETTLED_SECONDS,
                "everything is taken",
                progress=lambda: self.done,
            )
        finally:
            self._stop.set()

    def _work(self, exams: Sequence[Exam]) -> None:
        for exam in exams:
            self._stop.wait(max(0.0, self._begun + exam.number * self._pace - time.monotonic()))
            if exam.machine is None:
                self._again("STOW-RS", lambda exam=exam: self._stow(exam))
            else:
                self._examine(exam)
            self.done += 1

    def _examine(self, exam: Exam) -> None:
        """As a machine: begin, images with pauses, the end before the last image, the request."""
        title, step, chance = f"M{exam.machine}", f"1.2.3.{exam.number + 1}", random.Random(exam.number)
        first, last = begun(exam.study), ended(exam.images)
        self._again("N-CREATE", lambda: _status(create(self._port, step, first, title)) in (0, _KNOWN))
        for number, image in enumerate(exam.images):
            if number == len(exam.images) - 1 and exam.number % 2:
                self._end(step, last, title)
            self._again("C-STORE", lambda image=image: store(self._port, [image], title) == [0])
            self._stop.wait(chance.uniform(0, 2 * QUIET_SECONDS))
        if not exam.number % 2:
            self._end(step, last, title)
        self._again("N-ACTION", lambda: ask(self._port, f"2.25.{exam.number + 1}", exam.uids, title) == 0)

    def _end(self, step: str, last: Dataset, title: str) -> None:
        self._again("N-SET", lambda: _status(change(self._port, step, last, title)) in (0, _ENDED))

    def _stow(self, exam: Exam) -> bool:
        parts = b"".join(
            _BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + _part_10(image) + b"\r\n"
            for image in exam.images
        )
        try:
            answer = requests.post(
                f"http://127.0.0.1:{self._around.console}/api/dicomweb/studies",
                data=parts + _BOUNDARY + b"--\r\n",
                headers={**_STOW, "Authorization": f"Bearer {self._token}"},
                timeout=60,
            )
        except requests.RequestException:
            return False
        if answer.status_code != 200:
            return False
        stored = Dataset.from_json(answer.json()).ReferencedSOPSequence
        return sorted(str(item.ReferencedSOPInstanceUID) for item in stored) == sorted(exam.uids)

    @property
    def _port(self) -> int:
        """Of one listener or the other."""
        return random.choice(self._site.listeners).port

    def _again(self, what: str, send: Callable[[], bool]) -> None:
        while not self._stop.is_set() and not send():
            self.repeated[what] += 1
            self._stop.wait(0.3)


def _status(answer: Dataset | None) -> int | None:
    return None if answer is None else answer.get("Status")


def _part_10(image: Dataset) -> bytes:
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass
class Arrived:
    """What the receivers have, read from them."""

    originals: Counter[str] = field(default_factory=Counter)
    """Objects of the archive that are no reports, by SOP Instance UID."""
    came: Counter[str] = field(default_factory=Counter)
    """How often each object came to the archive."""
    reports: dict[str, Dataset] = field(default_factory=dict)
    """Reports in the archive, by SOP Instance UID."""
    messages: dict[str, list[str]] = field(default_factory=dict)
    """What the RIS received, by MSH-10."""


def arrived(site: Site, around: Systems) -> Arrived:
    """Ask Orthanc and the RIS."""
    found = Arrived()
    for uid in site.pacs.instances():
        ds = dcmread(BytesIO(site.pacs.fetch(uid)))
        if ds.SOPClassUID == Comprehensive3DSRStorage:
            found.reports[uid] = ds
        else:
            found.originals[uid] += 1
    for line in site.pacs.log.read_text(errors="replace").splitlines():
        if _ARRIVED in line:
            found.came[line.rpartition(_ARRIVED)[2].strip()] += 1
    for number, message in zip(around.ris.numbers(), list(around.ris.received), strict=False):
        found.messages.setdefault(number, []).append(str(message))
    return found


def is_settled(site: Site, around: Systems, exams: Sequence[Exam]) -> bool:
    """Whether nothing more is to come: each study is delivered, each request reported."""
    states = Counter(study["state"] for study in site.nodes[0].studies().values())
    asked = sum(exam.machine is not None for exam in exams)
    told = {str(report.TransactionUID) for one in around.machines for report in one.reports}
    return states == {"delivered": len(exams)} and len(told) >= asked


@dataclass(frozen=True)
class Row:
    """A line of the ledger. ``again``: came more than once, and is there once."""

    what: str
    sent: int
    arrived: int
    lost: int
    twice: int
    again: int = 0


def ledger(site: Site, around: Systems, exams: Sequence[Exam]) -> tuple[list[Row], list[str]]:
    """What was sent beside what arrived, and what is wrong, in words."""
    found = arrived(site, around)
    wrong = [f"{uid} was reported as committed too early" for one in around.machines for uid in one.early]
    by_machine = [exam for exam in exams if exam.machine is not None]
    by_gateway = [exam for exam in exams if exam.machine is None]
    rows = [
        _images("images by C-STORE, in Orthanc", by_machine, found),
        _images("images by STOW-RS, in Orthanc", by_gateway, found),
    ]
    strange = set(found.originals) - {uid for exam in exams for uid in exam.uids}
    wrong += [f"nobody sent {uid}, which Orthanc has" for uid in strange]
    of_study: dict[str, list[str]] = defaultdict(list)
    for uid, report in found.reports.items():
        of_study[str(report.StudyInstanceUID)].append(uid)
    complete = {
        exam.study: [uid for uid in of_study[exam.study] if _images_of(found.reports[uid]) == set(exam.uids)]
        for exam in exams
    }
    for what, part in (("studies by MPPS", by_machine), ("studies by quiet time", by_gateway)):
        has = sum(bool(complete[exam.study]) for exam in part)
        more = sum(len(complete[exam.study]) > 1 for exam in part)
        rows.append(Row(f"{what}, reports in Orthanc", len(part), has, len(part) - has, more))
    early = [exam.study for exam in by_machine if len(of_study[exam.study]) != 1]
    wrong += [f"study {uid} has {len(of_study[uid])} reports: it was analysed too early" for uid in early]
    rows += [_of_ris(found), _of_ehr(around, found), _of_machines(around, by_machine)]
    wrong += _differences(around, found)
    wrong += [f"{row.what}: {row.lost} lost" for row in rows if row.lost]
    wrong += [f"{row.what}: {row.twice} twice" for row in rows if row.twice]
    return rows, wrong


def _images(what: str, exams: Sequence[Exam], found: Arrived) -> Row:
    uids = [uid for exam in exams for uid in exam.uids]
    counts = [found.originals[uid] for uid in uids]
    again = sum(max(found.came[uid] - 1, 0) for uid in uids)
    return Row(what, len(uids), sum(map(bool, counts)), counts.count(0), sum(n > 1 for n in counts), again)


def _images_of(report: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def _of_ris(found: Arrived) -> Row:
    """A message whose number came before is a repeat; the receiver knows it by that (MSH-10)."""
    due = {control_id(uid) for uid in found.reports}
    there = due & set(found.messages)
    again = sum(len(texts) - 1 for texts in found.messages.values())
    return Row("reports, ORU^R01 at the RIS", len(due), len(there), len(due - there), 0, again)


def _of_ehr(around: Systems, found: Arrived) -> Row:
    """A report that replaces an earlier one is the same DiagnosticReport, with both identifiers."""
    named = Counter(
        one["value"].rpartition(":")[2]
        for report in around.ehr.all_of("DiagnosticReport")
        for one in report["identifier"]
    )
    there = set(found.reports) & set(named)
    twice = sum(number > 1 for number in named.values())
    return Row(
        "reports, FHIR at the EHR", len(found.reports), len(there), len(found.reports) - len(there), twice
    )


def _of_machines(around: Systems, exams: Sequence[Exam]) -> Row:
    told = Counter(str(report.TransactionUID) for one in around.machines for report in one.reports)
    due = {f"2.25.{exam.number + 1}" for exam in exams}
    again = sum(number - 1 for number in told.values())
    return Row(
        "requests for commitment, reported", len(due), len(due & set(told)), len(due - set(told)), 0, again
    )


def _differences(around: Systems, found: Arrived) -> list[str]:
    """Contents that are not those of the reports, and repeats that differ."""
    wrong = []
    numbers = {control_id(uid): report for uid, report in found.reports.items()}
    for number, texts in found.messages.items():
        report = numbers.get(number)
        lines = texts[0].split("\r")
        if report is None:
            wrong.append(f"message {number} is of no report")
        elif sum(line.startswith("OBX|") and "|CWE|SYSTEMS^" in line for line in lines) != len(
            _images_of(report)
        ):
            wrong.append(f"message {number} has other findings than its report")
        if len(set(texts)) > 1:
            wrong.append(f"message {number} came again with other contents")
    observations = Counter(one["status"] for one in around.ehr.all_of("Observation"))
    latest = {str(report.StudyInstanceUID): len(_images_of(report)) for report in found.reports.values()}
    for report in found.reports.values():
        study = str(report.StudyInstanceUID)
        latest[study] = max(latest[study], len(_images_of(report)))
    if observations["preliminary"] != sum(latest.values()):
        wrong.append(
            f"{observations['preliminary']} Observations in force for {sum(latest.values())} findings"
        )
    said: dict[str, set[str]] = defaultdict(set)
    for report in (report for one in around.machines for report in one.reports):
        said[str(report.TransactionUID)].add(report.to_json())
        if "FailedSOPSequence" in report:
            wrong.append(f"commitment {report.TransactionUID} failed")
    wrong += [f"commitment {uid} was reported in two ways" for uid, ways in said.items() if len(ways) > 1]
    return wrong


def shown(rows: Sequence[Row]) -> str:
    """The ledger as a table of Markdown."""
    lines = [
        f"| {one.what} | {one.sent} | {one.arrived} | {one.lost} | {one.twice} | {one.again} |"
        for one in rows
    ]
    return "\n".join(
        ["| what, where | due | arrived | lost | twice | came again |", "|---|---|---|---|---|---|", *lines]
    )


def run_day(
    site: Site, around: Systems, exams: Sequence[Exam], seconds: float, chance: random.Random
) -> dict[str, Any]:
    """Send all, with faults while it is sent; wait until nothing more is to come; count."""
    killed: Counter[str] = Counter()
    around.ris.answer = lambda _, times: LOSE if times == 1 and len(around.ris.received) % 3 == 0 else "AA"
    began = time.monotonic()

    def kills(until: float) -> None:
        """At least one, also where the one before took longer than that."""
        while True:
            time.sleep(chance.uniform(2.0, 10.0))
            kill_one(site, chance, killed)
            if time.monotonic() >= began + until * seconds:
                return

    with ExitStack() as open_ris:
        open_ris.enter_context(run_receiver(around.ris))
        senders = Senders(site, around, exams, seconds)
        kills(0.3)
        open_ris.pop_all().close()  # the RIS is away
        around.line.from_peer = 20  # the FHIR server does what it is asked, and nobody hears
        kills(0.5)
        open_ris.enter_context(run_receiver(around.ris))
        site.pacs.kill()
        kills(0.6)
        site.pacs.start()
        around.line.open()
        kills(1.0)
        senders.wait()
        sent = time.monotonic() - began
        for restarted in [in_background(lambda node=node: _restart(node)) for node in site.nodes]:
            restarted.join()
        wait_until(
            lambda: is_settled(site, around, exams),
            SETTLED_SECONDS,
            "all is delivered and reported",
            step=1,
            shown=lambda: Counter(study["state"] for study in site.nodes[0].studies().values()),
            progress=lambda: [study["state"] for study in site.nodes[0].studies().values()],
        )
    rows, wrong = ledger(site, around, exams)
    return {
        "studies": len(exams),
        "seconds of sending": round(sent),
        "seconds": round(time.monotonic() - began),
        "killed": dict(killed),
        "requests that senders repeated": dict(senders.repeated),
        "rows": [vars(row) for row in rows],
        "table": shown(rows),
        "wrong": wrong,
    }


def _restart(node: Node) -> None:
    node.kill()
    node.start()


@contextmanager
def one_node(folder: Path, around: Systems) -> Iterator[Site]:
    """A node that does everything, with SQLite, and its archive."""
    with start_orthanc(folder / "orthanc", lua=[_script(folder)]) as pacs, around.around(pacs):
        config = site_config(
            pacs.dicom_port,
            around.settings(folder) + around.table_of_console,
            quiet=QUIET_SECONDS,
            senders=(),
            ae_title=pacs.ae_title,
        )
        with running(Node(folder / "node", config)) as node:
            yield Site((node,), (), pacs)


@contextmanager
def several_nodes(folder: Path, around: Systems) -> Iterator[Site]:
    """Two listeners, two workers, a console, with PostgreSQL, and their archive."""
    with (
        start_postgres(KEEPS_COMMITS) as postgres,
        running_site(
            folder,
            postgres.new_database(),
            around.settings(folder),
            ("sr",),
            quiet=QUIET_SECONDS,
            console=around.table_of_console,
            lua=[_script(folder)],
        ) as site,
        around.around(site.pacs),
    ):
        yield site


def _script(folder: Path) -> Path:
    script = folder / "arrived.lua"
    script.write_text(_LUA, encoding="utf-8")
    return script


def main() -> int:
    """Run the day, print its ledger."""
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=240)
    parser.add_argument("--minutes", type=float, default=15, help="over which they are sent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one-node", action="store_true", help="one node with SQLite in place of the site")
    parser.add_argument("--json", type=Path, help="write the ledger to this file")
    given = parser.parse_args()
    nodes = one_node if given.one_node else several_nodes
    with (
        tempfile.TemporaryDirectory(prefix="systems-") as folder,
        systems() as around,
        nodes(Path(folder), around) as site,
    ):
        found = run_day(site, around, plan(given.studies), 60 * given.minutes, random.Random(given.seed))
    print(found.pop("table"))
    print(json.dumps({name: value for name, value in found.items() if name != "rows"}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("The ledger balances." if not found["wrong"] else f"{len(found['wrong'])} things are wrong.")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
