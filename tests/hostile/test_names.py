"""Names of patients, which must stay where they belong: canaries in each attribute, looked for everywhere."""

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGBaseline8Bit,
)
from pydicom.valuerep import PersonName
from typer.testing import CliRunner

from dicom_node.serve import cli
from tests.collector_lab import Collector, running_collector
from tests.hostile.association_lab import APPLICATION, CONTEXT, request
from tests.modality import (
    chest,
    data_set,
    ultrasound,
    ultrasound_from,
)
from tests.node_lab import Node, running, store
from tests.pacs_lab import (
    Pacs,
    run_pacs,
)
from tests.smtp_lab import MailServer, WebServer
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore")

PATIENT_ID = "PIDZX81"


FREE_TEXT = {
    "StudyDescription": "DESCASSOWARY",
    "SeriesDescription": "SERIECHIDNA",
    "StationName": "STNBILBY",
    "ProtocolName": "PROTOQUOLL",
    "BodyPartExamined": "BODYTAKAHE",
}


CODES = {
    "Modality": "MODALKIWI",
    "ViewPosition": "VIEWNENE",
    "PresentationIntentType": "INTENTEMU",
    "Laterality": "LATERALRHEA",
    "ManufacturerModelName": "MODELTUATARA",
    "Manufacturer": "MAKERWETA",
    "InstanceNumber": "776655443",
    "SeriesNumber": "665544332",
}


CANARIES = {
    "PatientName": "QUETZAL^XOCHITL",
    "PatientID": PATIENT_ID,
    "PatientBirthDate": "18770213",
    "AccessionNumber": "ACCVQ55",
    "ReferringPhysicianName": "REFWOMBAT^A",
    "OperatorsName": "OPNUMBAT^B",
    "InstitutionName": "INSTQUOKKA",
    "PatientComments": "COMMDUGONG",
    "ImageComments": "IMGPOTOROO",
    "AdditionalPatientHistory": "HISTGALAH",
    "PatientAddress": "ADDRKEA 7",
    "DeviceSerialNumber": "SERKAKAPO",
    "StudyID": "STIDMOA",
    **FREE_TEXT,
}


OTHER_ID, OTHER_NAME = "OIDKX93", "SECONDTAPIR"


TOKENS = (
    *("QUETZAL", "XOCHITL", "REFWOMBAT", "OPNUMBAT", "ADDRKEA", "1877-02-13", OTHER_ID, OTHER_NAME),
    *(value for value in CANARIES.values() if value.isalnum()),
    *CODES.values(),
    "PHOTOJPEGMOA",
)


HELD_IN_THE_INDEX = {
    ("study", "patient_id"): {PATIENT_ID},
    ("study", "accession_number"): {"ACCVQ55"},  # the console searches for it
    ("instance", "attributes"): {*FREE_TEXT.values(), *CODES.values(), "PHOTOJPEGMOA"},
    ("instance", "modality"): {
        CODES["Modality"]
    },  # rules ask for it, and the console shows it with the study
}


MARKUP = "[bold]EVIL[/]"


NODE_CONFIG = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = 0.2
quiet_seconds_us = 0.2
[outbox]
retry_seconds = 0.2
[mail]
host = "127.0.0.1"
port = {mail}
security = "none"
sender = "node@example.org"
[telemetry]
endpoint = "{collector}"
[[notifications]]
name = "web"
on = ["failure", "quarantine"]
events = [2010, 2015, 3010]
url = "{web}"
every_minutes = 0
[[notifications]]
name = "people"
on = ["failure", "quarantine"]
events = [2010, 2015, 3010]
to = ["admin@example.org"]
every_minutes = 0
[log]
format = "json"
[[peers]]
name = "modality"
ae_title = "MODALITY"
may = ["send"]
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "gsps", "sc", "cleaned", "seg"]
[[peers]]
name = "research"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
deidentify = true
results = ["cleaned", "sr"]
[[rules]]
name = "ultrasound"
when = {{ modality = "US", study_description = "*CASSOWARY" }}
max_study_age_days = 0
pipeline = "ultrasound"
send_to = ["pacs", "research"]
[[rules]]
name = "chest"
when = {{ modality = "DX", body_part = "CHEST", station = "OTHER" }}
pipeline = "chest_xray"
send_to = ["pacs"]
"""


def birds(text: str | bytes) -> set[str]:
    """The canaries in a text."""
    words = (text.decode("latin-1") if isinstance(text, bytes) else text).casefold()
    return {token for token in TOKENS if token.casefold() in words}


def planted(ds: Dataset, **values: Any) -> Dataset:
    """The object with all canaries in it."""
    other = data_set(PatientID=OTHER_ID, TypeOfPatientID="TEXT")
    return changed(ds, **{**CANARIES, "OtherPatientIDsSequence": [other], **values})


def objects() -> dict[str, list[Dataset]]:
    """Good, quarantined for each reason, broken, of no rule, and refused."""
    burned_in = Image.fromarray(ultrasound("speckle").pixel_array)
    ImageDraw.Draw(burned_in).text((8, 30), "QUETZAL XOCHITL", fill=(255, 255, 255), font_size=18)
    xray = np.zeros((32, 32), np.uint16)
    undecodable = planted(ultrasound("charset"))
    undecodable.PatientName = PersonName(b"QUETZAL\xff\xfe", ["UTF8"])
    broken = planted(ultrasound("broken"), PixelData=encapsulate([b"\xff\xd8 QUETZAL \xff\xd9"]))
    broken.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    broken["PixelData"].is_undefined_length = True
    return {
        "good": [planted(ultrasound_from("canary", np.asarray(burned_in)))],
        "quarantined": [
            planted(ultrasound("two")),
            planted(ultrasound("two", number=2), PatientName=OTHER_NAME),
            planted(ultrasound("no-uid"), StudyInstanceUID="QUETZAL.XOCHITL"),
            planted(ultrasound("no-rows"), Rows=0),
            undecodable,
        ],
        "broken": [broken],
        "of no rule": [planted(chest("none", xray)), planted(ultrasound("codes"), **CODES)],
        "no image": [
            planted(
                ultrasound("photometric"),
                **CODES | {"Modality": "US"},
                PhotometricInterpretation="PHOTOJPEGMOA",
            )
        ],
        "refused": [planted(ultrasound("refused"), SOPInstanceUID=f"{PATIENT_ID}.QUETZAL")],
    }


@dataclass
class Watch:
    """What the node's processes showed to everybody of the machine while they ran, and names of its files."""

    node: Node
    seen: set[bytes] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(path.name)) == self.node.pid:
                    self.seen |= {(path / kind).read_bytes() for kind in ("cmdline", "environ", "comm")}
            except OSError:  # it ended meanwhile
                continue
        self.names |= {
            str(Path(root, name)) for root, _, files in os.walk(self.node.folder) for name in files
        }

    @contextmanager
    def on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(0.2):
            self.look()


def printed(node: Node, *words: str) -> str:
    """What a verb prints on both streams."""
    done = CliRunner().invoke(cli.app, [*words, "--config", str(node.config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@dataclass(frozen=True)
class Passed:
    """A node through which everything went."""

    node: Node
    pacs: Pacs
    watch: Watch
    mail: MailServer
    web: WebServer
    collector: Collector

    @property
    def data(self) -> Path:
        return self.node.folder / "var"


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    refuses_once = lambda _uid, times: 0xC123 if times == 1 else 0x0000
    folder, pacs = tmp_path_factory.mktemp("canaries"), Pacs(answer=refuses_once)
    opened = ExitStack()
    mail, web = opened.enter_context(MailServer().running()), opened.enter_context(WebServer().running())
    collector = opened.enter_context(running_collector())
    places = {"mail": mail.port, "web": web.url, "collector": collector.endpoint}
    node = Node(folder, NODE_CONFIG.format(pacs=pacs.port, folder=folder, **places), alone=True)
    debug = node.config.read_text(encoding="utf-8").replace(
        "[listener]", 'log_level = "debug"\n[listener]', 1
    )
    node.config.write_text(debug, encoding="utf-8")
    sent = objects()
    with opened, run_pacs(pacs), running(node):
        watch = Watch(node)
        with watch.on():
            for name in ("good", "quarantined", "broken", "of no rule", "no image"):
                assert set(store(node.port, sent[name], "MODALITY")) == {0}, name
            assert store(node.port, sent["refused"], "MODALITY") == [0xC000]
            assert store(node.port, sent["good"], "STRANGER") == [None]
            for title in (MARKUP.encode(), b"\x1b[2J\x9b31m", b"\xe2\x80\xae\r\nFORGED"):
                with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
                    connection.sendall(request(APPLICATION + CONTEXT, calling=title))
                    connection.recv(100)
            node.wait_for(["delivered", "quarantined", "not_applicable", "failed"], count=9)
            wait_until(lambda: bool(mail.mails and web.calls and collector.bodies), 60, "sent to all")
        yield Passed(node, pacs, watch, mail, web, collector)


def test_the_canaries_were_in_it_and_are_found_where_they_belong(passed: Passed) -> None:
    states = sorted(study["state"] for study in passed.node.studies().values())
    assert states == ["delivered", "failed", "failed", *["not_applicable"] * 2, *["quarantined"] * 4]
    spooled = [path.read_bytes() for path in (passed.data / "spool").rglob("*") if path.is_file()]
    assert set().union(*map(birds, spooled)) >= set(TOKENS) - {"1877-02-13"}
    assert {"QUETZAL", PATIENT_ID} <= set().union(*map(birds, passed.pacs.stored.values()))
    hidden = [path.read_bytes() for path in (passed.data / "deidentified").rglob("*.dcm")]
    assert hidden
    assert set().union(*map(birds, hidden)) == set()


def test_no_log_names_anybody_at_debug_level(passed: Passed) -> None:
    log = passed.node.log.read_text(encoding="utf-8")
    lines = log.splitlines()
    assert [line for line in lines if birds(line)] == []
    levels = [json.loads(line)["level"] for line in lines if line.startswith("{")]
    assert "debug" in levels
    assert len(levels) > 50
    assert not any(sign in log for sign in "\x1b\x9b\u202e\r")


def test_no_table_holds_more_than_the_index_needs(passed: Passed) -> None:
    found = []
    with closing(sqlite3.connect(passed.data / "node.db")) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        assert {"event", "association", "job", "delivery", "study"} <= set(tables)
        for table in tables:
            rows = database.execute(f"select * from {table}")
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    text = value if isinstance(value, bytes) else str(value)
                    if more := birds(text) - HELD_IN_THE_INDEX.get((table, column), set()):
                        found.append((table, column, more, text))
    assert found == []


def test_no_other_file_of_the_node_and_no_name_of_a_file_has_one(passed: Passed) -> None:
    objects_of_dicom = ("spool", "results", "deidentified", "node.db")
    searched = [
        path
        for path in passed.data.rglob("*")
        if path.is_file() and not path.relative_to(passed.data).parts[0].startswith(objects_of_dicom)
    ]
    assert {"policy.json"} <= {path.name for path in searched}
    assert len(searched) > 2
    assert any("journal" in path.parts for path in searched)
    assert [path for path in searched if birds(path.read_bytes())] == []
    assert len(passed.watch.names) > 20
    assert [name for name in passed.watch.names if birds(name)] == []


def test_no_command_line_or_environment_has_one(passed: Passed) -> None:
    assert sum(b"dicom_node" in text for text in passed.watch.seen) >= 4, "node, listener, inspector, worker"
    assert [text for text in passed.watch.seen if birds(text)] == []


VERBS: Sequence[tuple[str, ...]] = (
    ("events", "list", "--limit", "0"),
    ("associations", "list"),
    ("jobs", "list"),
    ("jobs", "show", "1"),
    ("outbox", "list"),
    ("peers", "why", "modality"),
    ("models", "drift"),
)


def test_no_verb_that_shows_no_patients_shows_one(passed: Passed) -> None:
    for words in VERBS:
        for form in ((), ("--json",)):
            output = printed(passed.node, *words, *form)
            assert output, words
            assert birds(output) == set(), words
            assert not any(sign in output for sign in "\x1b\x9b\u202e\r"), words
    events = json.loads(printed(passed.node, *VERBS[0], "--json"))
    numbers = {row["number"] for row in events}
    assert {1004, 1005, 2004, 2005, 3006, 3010, 3022, 5002, 5003} <= numbers, (
        "each of these might have told something"
    )
    assert MARKUP in {row["fields"].get("calling") for row in events}


def test_lists_of_studies_show_the_patient_id_only(passed: Passed) -> None:
    listed = passed.node.studies()
    assert birds(json.dumps(list(listed.values()))) == {PATIENT_ID, CODES["Modality"]}  # a column of the list
    uid = next(str(study["study_instance_uid"]) for study in listed.values() if study["state"] == "delivered")
    assert birds(printed(passed.node, "studies", "show", uid, "--json")) == {PATIENT_ID}


def test_nothing_that_is_sent_to_others_has_one(passed: Passed) -> None:
    """Webhooks, e-mail, traces."""
    hooks = [json.dumps(call) for call in passed.web.calls]
    mails = [mail.as_string() + str(mail.get_content()) for mail in passed.mail.mails]
    assert "unknown (9 characters)" in "".join(hooks), "the reason why no rule takes it"
    for sent in (hooks, mails, passed.collector.bodies):
        assert sent
        assert [text for text in sent if birds(text)] == []
