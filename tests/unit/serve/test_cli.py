"""What the verbs of the command line do, print and refuse."""

import fcntl
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest
from pydicom import examples
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.base.actions.inputs import moment
from dicom_node.base.config import loading, sample
from dicom_node.base.errors import ExitCode
from dicom_node.base.events import ASSOCIATION_ACCEPTED, JOB_FAILED
from dicom_node.base.lifecycle import (
    Counted,
    DeliveryState,
    JobState,
    ObjectRole,
    Outcome,
    ResultKind,
    StudyState,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import AuditRow, EventRow, Instance, ReceivedObject, Study
from dicom_node.people import audit, outbox, users
from dicom_node.people.demo import DRAWN_FILM, EmbeddedPacs
from dicom_node.serve import cli
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, Stored, a_job, a_study, an_association
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.jobs import scoring_lab
from tests.unit.jobs.scoring_lab import write_card

# A data folder with a database in which everything that a list can show happened once.

DELIVERED, BROKEN, CONFLICT = "1.2.840.99.1", "1.2.840.99.2", "1.2.840.99.3"

CONFIG = """
[node]
data_dir = "{folder}/var"
[listener]
port = 11112
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 4242
may = ["receive"]
[[peers]]
name = "us1"
ae_title = "US1"
[[rules]]
name = "ultrasound"
when = {{ modality = "US", calling_ae = "US1" }}
max_study_age_days = 0
pipeline = "ultrasound"
send_to = ["pacs"]
[[rules]]
name = "chest"
when = {{ modality = ["CR", "DX"], body_part = "CHEST" }}
pipeline = "chest_xray"
send_to = ["pacs"]
"""


@dataclass(frozen=True)
class Ran:
    """What a verb printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a verb in this process; its logging is undone at the end."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    root = logging.getLogger()
    handlers, level, umask = list(root.handlers), root.level, os.umask(0o022)
    yield run
    os.umask(umask)
    root.handlers, root.level = handlers, level


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration file; nothing runs, no database yet."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    return path


@pytest.fixture
def filled(site: Path) -> Path:
    """The same with three studies: delivered, failed with a dead delivery, in quarantine."""
    database = Database(f"sqlite:///{site.parent / 'var' / 'node.db'}")
    database.upgrade()
    stored = Stored(database)
    studies = [
        a_study(DELIVERED, StudyState.DELIVERED, NOW),
        a_study(BROKEN, StudyState.FAILED, NOW - timedelta(hours=1), reason="the PACS refuses it"),
        a_study(CONFLICT, StudyState.QUARANTINED, NOW - timedelta(days=2), reason="two patients"),
    ]
    stored.add(*studies)
    stored.add(*(row for study in studies for row in received(study)))
    for study, state in ((studies[0], DeliveryState.CONFIRMED), (studies[1], DeliveryState.DEAD)):
        stored.add(job := a_job(study, JobState.SUCCEEDED))
        for kind in (ResultKind.SR, ResultKind.SC):
            stored.delivery(job, state, kind)
    stored.add(
        a_job(studies[1], JobState.FAILED, rule="chest", reason="decoder: truncated"),
        an_association("a-1", NOW - timedelta(minutes=5), closed_at=NOW, objects=2),
        an_association("a-2", NOW),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-1"),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-9"),
        event(JOB_FAILED.number, NOW + timedelta(seconds=5), studies[1].id, job=3),
        event(9999, NOW + timedelta(seconds=6)),
    )
    database.dispose()
    return site


@contextmanager
def in_database(site: Path) -> Iterator[Session]:
    """One transaction in the database of this configuration."""
    database = Database(f"sqlite:///{site.parent / 'var' / 'node.db'}")
    with database.write() as session:
        yield session
    database.dispose()


def audited(site: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the audit says that the command line did."""
    with in_database(site) as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.actor == "command line").order_by(AuditRow.id))
        return [(row.action.value, dict(row.fields)) for row in rows]


def received(study: Study) -> list[Any]:
    number = (study.study_instance_uid or "0")[-1]
    titles = {"calling_ae": "US1", "called_ae": "AINODE", "path": "x", "bytes": 1, "received_at": NOW}
    rows: list[Any] = []
    for series, (modality, role) in enumerate((("US", ObjectRole.SOURCE), ("SR", ObjectRole.OWN))):
        uid = f"1.2.3.{number}.{series}"
        known = {"study_id": study.id, "sop_instance_uid": uid, **titles}
        classes = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1", "series_instance_uid": "1.2"}
        kept = {"transfer_syntax_uid": "1.2.840.10008.1.2.1", "identity_sha256": "", "attributes": {}}
        rows += [
            Instance(**known, **classes, **kept, modality=modality, role=role),
            ReceivedObject(**known, spool_name=uid, outcome=Outcome.NEW, association=f"a-{number}"),
        ]
    return rows


def event(number: int, at: datetime, study_id: int | None = None, **fields: Any) -> EventRow:
    return EventRow(at=at, number=number, study_id=study_id, fields=fields)


def test_studies_list_has_the_keys_that_others_build_on(run: Run, filled: Path) -> None:
    rows = run("studies", "list", "--config", filled, "--json").json
    assert [row["study_instance_uid"] for row in rows] == [DELIVERED, BROKEN, CONFLICT]
    expected = {
        "state": "delivered",
        "reason": "",
        "patient_id": "P1",
        "modalities": ["US"],  # own results that came back do not count
        "instances": 1,
        "revision": 1,
        "last_received_at": "2026-01-02T03:12:00.000Z",
    }
    assert rows[0] | expected == rows[0]
    assert [(r["kind"], r["sop_instance_uid"], r["deliveries"]) for r in rows[0]["results"]] == [
        ("sr", "2.25.1.sr", {"pacs": "confirmed"}),
        ("sc", "2.25.1.sc", {"pacs": "confirmed"}),
    ]


def test_withdrawn_results_are_told_with_who_and_why(run: Run, filled: Path) -> None:
    config = ("--config", filled)
    withdraw = ("studies", "withdraw", *config, "--reason", "quality", "--because")
    done = run(*withdraw, "wrong side", "9.9.9", DELIVERED)
    assert (done.status, "9.9.9" in done.out, DELIVERED in done.out) == (1, True, True), "one stops no other"
    assert run("studies", "show", DELIVERED, *config).out.count("by command line: wrong side (quality)") == 2
    assert run("studies", "list", *config).out.count("2 withdrawn") == 1
    [row] = [one for one in run("studies", "list", *config, "--json").json if one["study"] == DELIVERED]
    assert [result["withdrawn"]["because"] for result in row["results"]] == ["wrong side"] * 2
    assert "because" not in audited(filled)[0][1], "what is sent to other systems has no words of a person"


@pytest.mark.parametrize(
    "verb",
    ["studies list", f"studies show {BROKEN}", "jobs list", "jobs show 1", "outbox list", "events list",
     "associations list",
     "peers list", "models list"],
)  # fmt: skip
def test_every_key_is_in_the_reference(run: Run, filled: Path, verb: str) -> None:
    reference = Path(__file__).resolve().parents[3] / "docs" / "reference"
    listed = "".join((reference / f"{name}.md").read_text(encoding="utf-8") for name in ("lists", "settings"))
    printed = run(*verb.split(), "--config", filled, "--json").json
    keys = set().union(*printed) if isinstance(printed, list) else set(printed)
    assert keys, verb
    assert [key for key in sorted(keys) if f"`{key}`" not in listed] == []


@pytest.mark.parametrize("group", ("associations", "studies", "jobs", "outbox", "events"))
def test_an_empty_list_is_an_empty_array(run: Run, site: Path, group: str) -> None:
    assert run("db", "upgrade", "--config", site).status == 0
    assert run(group, "list", "--config", site, "--json").json == []
    assert run(group, "list", "--config", site).out == ""


def test_a_study_is_shown_with_all_that_happened(run: Run, filled: Path) -> None:
    row = run("studies", "show", BROKEN, "--config", filled, "--json").json
    assert [job["rule"] for job in row["jobs"]] == ["chest", "ultrasound"]
    assert {item["outcome"] for item in row["received"]} == {"new"}
    assert [event["number"] for event in row["events"]] == [3006]
    text = run("studies", "show", BROKEN, "--config", filled).out
    for expected in ("decoder: truncated", "the PACS refuses it", "2.25.2.sr", "job failed for good"):
        assert expected in text


def test_a_study_is_run_again_and_a_rule_is_replayed(run: Run, filled: Path) -> None:
    config = ("--config", filled)
    replay = ("rules", "replay", "--since", "2026-01-02T03:00Z", *config)
    [row] = run(*replay, "--dry-run", "--json").json
    assert (row["study_instance_uid"], row["rule"], row["queued"]) == (DELIVERED, "ultrasound", False)
    assert run(*replay, "--json").json == [row | {"queued": True, "reason": ""}]
    assert BROKEN in run("studies", "rerun", "99.1", "99.2", *config).out
    refused = run("studies", "rerun", BROKEN, CONFLICT, *config)
    assert (refused.status, refused.out) == (1, "")
    assert "is in quarantine: `dicom-node studies release` releases it" in refused.err
    assert run("studies", "rerun", "1.2.3.4", *config).status == 66


def test_a_failed_job_is_retried_put_first_and_cancelled_by_hand(run: Run, filled: Path) -> None:
    config = ("--config", filled)
    assert run("jobs", "retry", 3, *config).status == 0
    shown = run("jobs", "show", 3, *config, "--json").json
    assert (shown["state"], shown["reason"]) == ("queued", "")
    assert run("studies", "show", BROKEN, *config, "--json").json["state"] == "queued"
    again = run("jobs", "retry", 3, *config)
    assert (again.status, again.err) == (1, "dicom-node: job 3 is queued: it cannot be queued again\n")
    assert run("jobs", "first", 3, *config).status == 0
    assert run("jobs", "cancel", 3, *config).status == 0
    assert run("jobs", "retry", 3, 99, *config).status == 66, "several by one command"
    assert run("jobs", "list", "--state", "cancelled", *config, "--json").json[0]["job"] == 3


def test_dead_letters_are_sent_again_by_hand(run: Run, filled: Path) -> None:
    dead = run("outbox", "list", "--state", "dead", "--config", filled, "--json").json
    assert [row["destination"] for row in dead] == ["pacs", "pacs"]
    assert run("outbox", "retry", dead[0]["delivery"], "--config", filled).status == 0
    assert "again: 1." in run("outbox", "retry", "--dead", "--config", filled).out
    assert run("outbox", "list", "--state", "dead", "--config", filled, "--json").json == []
    assert [run("outbox", "retry", *words, "--config", filled).status for words in ((), (999,))] == [64, 66]


def test_deliveries_are_discarded_with_a_reason_and_sent_to_a_further_peer(run: Run, filled: Path) -> None:
    [dead, *_] = run("outbox", "list", "--state", "dead", "--json", "--config", filled).json
    discard = ("outbox", "discard", dead["delivery"], "--config", filled, "--because")
    for words, status in (("x", 65), ("the PACS was replaced", 0), ("once more", 1)):
        assert run(*discard, words).status == status, words
    [row] = run("outbox", "list", "--state", "discarded", "--json", "--config", filled).json
    assert (row["delivery"], row["discarded_because"]) == (dead["delivery"], "the PACS was replaced")
    assert run("outbox", "discard", "--because", "why", "--config", filled).status == 64
    for peer, status in (("pacs", 1), ("nobody", 66)):
        assert run("studies", "send", BROKEN, "--to", peer, "--config", filled).status == status


def test_a_study_in_quarantine_is_not_deleted_and_can_be_released(run: Run, filled: Path) -> None:
    done = run("studies", "delete", CONFLICT, "--json", "--config", filled)
    assert (done.status, [row["deleted"] for row in done.json]) == (1, [False])
    assert run("studies", "delete", "9.9.9", "--config", filled).status == 66
    assert [run("studies", "release", CONFLICT, "--config", filled).status for _ in range(2)] == [0, 1]
    assert run("studies", "show", CONFLICT, "--config", filled, "--json").json["state"] == "receiving"


NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOON - timedelta(seconds=90)),
        ("30m", NOON - timedelta(minutes=30)),
        ("2h", NOON - timedelta(hours=2)),
        ("3d", NOON - timedelta(days=3)),
        ("2026-01-02T03:12Z", datetime(2026, 1, 2, 3, 12, tzinfo=UTC)),
        ("2026-01-02T03:12+02:00", datetime(2026, 1, 2, 1, 12, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2).astimezone(UTC)),
        ("3:12", NOON.astimezone().replace(hour=3, minute=12).astimezone(UTC)),
        ("", None),
    ],
)
def test_times_are_understood_as_people_write_them(text: str, expected: datetime | None) -> None:
    assert moment(text, NOON) == expected


def test_associations_are_listed_with_what_came_of_them(run: Run, filled: Path) -> None:
    rows = run("associations", "list", "--config", filled, "--json").json
    shown = [(row["association"], row["outcome"], row["objects"], bool(row["closed_at"])) for row in rows]
    assert shown == [("a-2", "open", 0, False), ("a-1", "released", 2, True)]
    since = run("associations", "list", "--since", "2026-01-02T03:12:00Z", "--config", filled, "--json").json
    assert [row["association"] for row in since] == ["a-2"]


@pytest.mark.parametrize("group", ["studies", "jobs", "outbox", "events", "associations"])
def test_a_list_goes_on_with_a_mistake_that_does_not_concern_the_database(
    run: Run, filled: Path, group: str
) -> None:
    wanted = run(group, "list", "--json", "--config", filled).json
    rewrite(filled, {'may = ["receive"]': 'may = ["recieve"]'})
    ran = run(group, "list", "--json", "--config", filled)
    assert (ran.status, ran.json) == (0, wanted)
    assert "mistakes (1): dicom-node check" in ran.err


def test_a_list_refuses_a_mistake_about_the_database(run: Run, filled: Path) -> None:
    rewrite(filled, {"data_dir =": "data_folder ="})
    ran = run("studies", "list", "--config", filled)
    assert (ran.status, ran.out, "node.data_folder" in ran.err) == (78, "", True)


def set_in_workers(config: Path, key: str, folder: Path) -> None:
    rewrite(config, {"[listener]": f'[workers]\n{key} = "{folder}"\n[listener]'})


def rewrite(config: Path, changes: dict[str, str], further: str = "") -> None:
    text = config.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    config.write_text(text + further, encoding="utf-8")


HOSTILE = "[/red] [bold red]JOHN[/]\x1b[2J\x9b31m\u202e\nFORGED :smile:"


LONG_UID = "1.2.840.113619.2.5.1762583153.215519.978957063.1234567890.98765.1"


@pytest.fixture
def hostile(filled: Path) -> Path:
    """A caller without any right chose its AE title, a modality its patient's ID."""
    with in_database(filled) as session:
        row = an_association("evil", NOW)
        row.calling_ae = HOSTILE
        session.add_all([row, event(1004, NOW, calling_ae=HOSTILE)])
        chosen = update(Study).filter_by(study_instance_uid=DELIVERED)
        session.execute(chosen.values(patient_id=HOSTILE, study_instance_uid=LONG_UID))
    return filled


@pytest.mark.parametrize("group", ["associations", "events", "studies"])
def test_markup_and_control_characters_are_shown_and_not_obeyed(run: Run, hostile: Path, group: str) -> None:
    printed = run(group, "list", "--config", hostile)
    assert (printed.status, printed.err) == (0, "")
    assert r"[/red] [bold red]JOHN[/]\x1b[2J\x9b31m\u202e\nFORGED :smile:" in printed.out
    as_json = run(group, "list", "--config", hostile, "--json")
    assert not {"\x1b", "\x9b", "\u202e"} & set(printed.out + as_json.out)
    assert json.dumps(HOSTILE) in as_json.out


def test_commands_at_once_wait_for_each_other(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eight ended with "the database is locked": they had waited as long as the node's threads do."""
    monkeypatch.setattr(Database.__init__, "__kwdefaults__", {"busy_seconds": 0.05})
    settings = loading.load([filled])
    with closing(sqlite3.connect(settings.node.data_dir / "node.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as commands:
            sent = [commands.submit(outbox.send_study, settings, DELIVERED, "pacs") for _ in range(8)]
            time.sleep(1.5)
            assert not any(one.done() for one in sent)
            other.execute("ROLLBACK")
            ended = {type(one.exception(30)).__name__ for one in sent}
    assert ended == {"NotAllowedNow"}, "the pacs has all of it; no word of a lock"


HEAVY = {"alembic", "numpy", "onnxruntime", "PIL", "psycopg", "pydicom", "pynetdicom", "requests", "torch"}


PROGRAM = """
import sys
from dicom_node.serve import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("LOADED", *sorted(sys.modules))
"""


@pytest.mark.parametrize("words", ["studies list", "jobs retry 3"])
def test_a_list_imports_neither_pydicom_nor_networks(filled: Path, words: str) -> None:
    command = [sys.executable, "-c", PROGRAM, *words.split(), "--config", str(filled)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()
    assert "dicom_node.base.store.tables" in loaded  # it did its work


def today() -> date:
    return datetime.now(UTC).date()


EVEN, SHIFTED, FEW = [30] * 10, [0] * 8 + [100, 200], [1] * 10


@pytest.fixture
def counted(filled: Path) -> Path:
    """A node whose peer us1 sends images as ever, and which gets others from somewhere."""
    model = write_card(filled.parent / "models")
    set_in_workers(filled, "models_dir", filled.parent / "models")
    with in_database(filled) as session:
        for sender, bins, days in (("US1", EVEN, 0), ("US1", SHIFTED, 50), ("", SHIFTED, 1), ("OLD", FEW, 2)):
            outcomes = {Counted.ANALYSED: sum(bins), Counted.REFUSED_PIXELS: 12, Counted.REFUSED_HEADER: 3}
            session.add_all(scoring_lab.counted(model, days, sender, outcomes, Shown=bins))
    return filled


def test_each_model_and_sender_is_one_row(run: Run, counted: Path) -> None:
    other, old, us1 = run("models", "drift", "--config", counted, "--json").json
    rows = [(row["calling_ae"], row["verdict"]) for row in (other, old, us1)]
    assert rows == [("other", "drifted"), ("OLD", "too few"), ("US1", "stable")]
    expected = {
        "analysed": 300,
        "refused_pixels": 12,
        "refused_header": 3,
        "reoriented": 0,
        "reference": {"set": "validation", "images": 1000, "refused": 0.05},
        "since": (today() - timedelta(days=30)).isoformat(),
    }
    assert us1 | expected == us1
    shown, hidden = us1["scores"]
    assert (shown["label"], shown["psi"], shown["verdict"], shown["bins"]) == ("Shown", 0.0, "stable", EVEN)
    assert (hidden["images"], hidden["psi"], hidden["bins"]) == (0, None, None)
    assert old["scores"][0]["bins"] is None, "few images would nearly tell single scores"


PASSWORD = "correct horse battery"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n" * 9))


def test_users_are_added_listed_changed_and_removed(run: Run, filled: Path, typed: None) -> None:
    def of_anna(*words: str) -> dict[str, object]:
        assert run("users", *words, "--config", filled).status == 0
        [row] = [
            row for row in run("users", "list", "--json", "--config", filled).json if row["name"] == "anna"
        ]
        return {key: row[key] for key in ("role", "disabled", "sessions")}

    assert of_anna("add", "anna", "--role", "viewer")["role"] == "viewer"
    assert of_anna("change", "anna", "--role", "reader", "--disable") == {
        "role": "reader",
        "disabled": True,
        "sessions": 0,
    }
    assert "disabled" in run("users", "list", "--config", filled).out
    assert not of_anna("change", "anna", "--enable")["disabled"]
    assert run("users", "change", "anna", "--config", filled).status == ExitCode.USAGE
    of_anna("password", "anna")
    assert run("users", "remove", "anna", "--config", filled).status == 0
    assert run("users", "list", "--json", "--config", filled).json == []
    with in_database(filled) as session:
        rows = [(row["actor"], row["action"]) for row in audit.rows(session)]
    assert {("command line", word) for word in ("user_removed", "password_set", "user_added")} <= set(rows)


def test_tokens_are_made_listed_and_taken_back(run: Run, filled: Path, typed: None) -> None:
    assert run("users", "add", "anna", "--role", "viewer", "--config", filled).status == 0
    made = run("tokens", "add", "anna", "--for", "the dashboard", "--days", 30, "--config", filled)
    assert (made.status, made.out.strip().startswith("dn_")) == (0, True)
    [row] = run("tokens", "list", "--json", "--config", filled).json
    assert (row["user"], row["purpose"], row["used_at"]) == ("anna", "the dashboard", None)
    assert [run("tokens", "remove", row["token"], "--config", filled).status for _ in range(2)] == [0, 66]
    assert run("tokens", "add", "ben", "--for", "nothing", "--config", filled).status == 66


def test_objects_of_a_lost_database_are_told_put_back_and_told_no_more(run: Run, site: Path) -> None:
    spool = lambda verb: run("spool", verb, "--config", site)
    node = Inbox(site.parent / "var")
    node.settle(*(ultrasound("one", number=number) for number in (1, 2)))
    node.close()
    assert spool("compare").out == "Spool and database agree.\n"
    assert spool("reindex").out == "Nothing to put back.\n"
    for path in (site.parent / "var").glob("node.db*"):
        path.unlink()
    Inbox(site.parent / "var").close()  # as a start makes a new one
    compared = spool("compare")
    assert compared.status == ExitCode.FAILED
    assert "2 " in compared.out
    assert "spool reindex" in compared.out
    assert spool("reindex").out == "2 objects are put back: the node takes them in.\n"
    assert audited(site) == [("spool_reindexed", {"objects": 2})]
    assert spool("compare").status == ExitCode.OK


US = examples.get_path("rgb_color")


CINE = examples.get_path("ybr_color")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    running = EmbeddedPacs(tmp_path / "pacs")
    yield running
    running.stop()


def test_peers_test_tries_what_delivery_needs(run: Run, site: Path, pacs: EmbeddedPacs) -> None:
    rewrite(site, {"port = 4242": f"port = {pacs.port}"})
    printed = run("peers", "test", "--config", site, "--json")
    assert printed.status == 0, printed.out
    assert {row["check"] for row in printed.json} >= {"echo", "query", "sr", "gsps"}
    pacs.stop()
    assert run("peers", "test", "pacs", "--config", site).status == ExitCode.UNAVAILABLE


def test_rules_try_says_which_rule_and_why_not(run: Run, site: Path, tmp_path: Path) -> None:
    def told(*options: object) -> dict[str, tuple[bool, str]]:
        rows = run("rules", "try", *options, "--config", site, "--json").json
        return {row["rule"]: (row["applies"], row["reason"]) for row in rows}

    us = told(US, "--from", "us1")
    assert us["ultrasound"] == (True, "all conditions hold")
    assert us["chest"] == (False, "modality US does not match CR or DX")
    assert told(US, "--from", "US1") == us, "by its AE title, too"
    assert told(US)["ultrasound"] == (False, "calling ae is empty, not US1")
    applies, reason = told(DRAWN_FILM)["chest"]
    assert applies
    assert reason.startswith("a person must start it, except")
    assert "takes 7" in reason


def test_check_reports_everything_at_once(run: Run, site: Path, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    options = "options = { heatmap = 1, prevalence = { Fracture = 0.1 } }"
    changes = {
        "port = 11112": f"port = {pacs.port}\ncolour = 1",
        'pipeline = "chest_xray"': f'pipeline = "chest_xray"\n{options}',
        'pipeline = "ultrasound"': 'pipeline = "ultrasnd"',
        'ae_title = "US1"': 'ae_title = "US1"\nassume_charset = "latin"',
        'ae_title = "PACS"': "ae_title = \"PACS\"\nassume_charset = '\\ISO 2022 IR 149'",
    }
    further = (
        '[[rules]]\nname = "less"\nwhen = { modality = "US" }\npipeline = "ultrasound"\nsend_to = ["pacs"]\n'
        'options = { despeckle = true }\n[listener.tls]\ncertificate = "none.pem"\nprivate_key = "none.key"\n'
    )
    rewrite(site, changes, further)
    printed = run("check", "--config", site)
    assert (printed.status, "IR 149" in printed.err) == (78, False)
    for expected in (
        "listener.colour",
        "listener.tls.certificate = none.pem: the certificate is missing: there is no such file",
        "rules.ultrasound.pipeline = 'ultrasnd': no such pipeline; did you mean ultrasound?",
        "rules.chest.options.heatmap: chest_xray has no such option; did you mean heatmaps?",
        "rules.less.options.despeckle: ultrasound has no such option; leave it out: the change",
        "rules.chest.options.prevalence = {'Fracture': 0.1}: chest-efficientnet-lite0@",
        "peers.us1.assume_charset = 'latin'",
    ):
        assert expected in printed.err
    for expected in ("warning peer pacs", "in use by another program (listener.host, listener.port)"):
        assert expected in printed.out, "what may end by itself is no mistake"


def test_check_says_when_a_database_is_missing_whose_objects_are_there(run: Run, site: Path) -> None:
    assert "will be made at the next start\n" in run("check", "--config", site).out
    received = site.parent / "var" / "spool" / "objects" / "one.dcm"
    received.parent.mkdir(parents=True)
    received.touch()
    printed = run("check", "--config", site)
    assert "start the node, then run dicom-node spool reindex" in printed.out + printed.err


def test_config_sample_prints_the_files_of_the_repository(run: Run) -> None:
    folder = Path(__file__).resolve().parents[3] / "config"
    for name in sample.FILES:
        assert run("config", "sample", name).out == (folder / f"{name}.toml").read_text(encoding="utf-8")


def test_a_reload_with_other_files_than_the_nodes_is_refused(run: Run, site: Path) -> None:
    """The node would read its own files again, and the others count as taken over."""
    other = site.with_name("d.toml")
    other.write_bytes(site.read_bytes())
    lock = site.parent / "var" / "all.lock"
    lock.parent.mkdir()
    with lock.open("w+") as held, subprocess.Popen(["sleep", "60"], stdin=held) as node:
        lock.write_text(f"{node.pid}\n{site}", encoding="utf-8")
        refused = run("reload", "--config", other)
        assert node.poll() is None, "it was asked"
        node.kill()
    assert (refused.status, refused.out) == (1, "")
    assert f"the node runs with {site}, not with {other}" in refused.err


OBJECTS = ("spool/objects/ab/1.dcm", "results/cd/2.dcm", "deidentified/ef/3.dcm")


@pytest.fixture
def saved(run: Run, filled: Path, tmp_path: Path) -> Path:
    """A backup, made while somebody writes."""
    key = filled.parent / "var" / "keys" / "site.key"
    key.parent.mkdir()
    key.write_text("ab" * 32, encoding="ascii")
    key.chmod(0o600)
    for place in OBJECTS:
        image = filled.parent / "var" / place
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"image")
    with Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}").write():
        done = run("backup", tmp_path / "saved", "--objects", "--config", filled)
    assert (done.status, "verified" in done.out) == (0, True), done.err
    return tmp_path / "saved"


def test_a_lost_node_is_back_with_its_studies_its_key_and_its_objects(
    run: Run, filled: Path, saved: Path
) -> None:
    var = filled.parent / "var"
    var.rename(filled.parent / "lost")
    assert run("restore", saved, "--config", filled).status == 0
    assert DELIVERED in run("studies", "list", "--config", filled).out
    assert (var / "keys" / "site.key").read_text() == "ab" * 32
    assert (var / "keys" / "site.key").stat().st_mode & 0o777 == 0o600
    assert [(var / place).read_bytes() for place in OBJECTS] == [b"image"] * 3


def test_a_backup_without_the_key_is_whole_and_leaves_the_present_key(
    run: Run, filled: Path, saved: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    assert run("backup", apart, "--without-key", "--config", filled).status == 0
    assert b"ab" * 32 not in b"".join(file.read_bytes() for file in apart.rglob("*") if file.is_file())
    assert run("restore", apart, "--config", filled).status == 0
    assert (filled.parent / "var" / "keys" / "site.key").read_text() == "ab" * 32


def test_device_rules_come_back_and_those_made_since_stay(run: Run, filled: Path, tmp_path: Path) -> None:
    drawn, own = filled.parent / "var" / "device_rules", tmp_path / "own"
    for folder in (drawn, own):
        folder.mkdir()
        (folder / "room3.toml").write_text("first", encoding="utf-8")
    assert run("backup", tmp_path / "saved", "--config", filled).status == 0
    for name, text in (("room3.toml", "second"), ("since.toml", "new")):
        (drawn / name).write_text(text, encoding="utf-8")
    assert run("restore", tmp_path / "saved", "--config", filled).status == 0
    assert (drawn / "room3.toml").read_text() == "first"
    assert [kept.read_text() for kept in drawn.glob("room3.toml.before-*")] == ["second"]
    assert sorted(path.name for path in drawn.glob("*.toml")) == ["room3.toml", "since.toml"]
    rewrite(filled, {}, f'[workers]\ndevice_rules_dir = "{own}"\n')
    assert run("backup", tmp_path / "other", "--config", filled).status == 0
    (own / "room3.toml").unlink()
    assert run("restore", tmp_path / "other", "--config", filled).status == 0
    assert (own / "room3.toml").read_text() == "first"


def test_nothing_is_restored_under_a_node_that_runs(run: Run, filled: Path, saved: Path) -> None:
    with (filled.parent / "var" / "worker-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run("restore", saved, "--config", filled)
    assert refused.status == ExitCode.FAILED
    assert "stop it first" in refused.err


def test_a_backup_that_is_not_whole_is_refused_and_named(run: Run, filled: Path, saved: Path) -> None:
    assert run("restore", saved, "--verify", "--config", filled).status == 0
    (saved / "site.key").write_text("cd" * 32, encoding="ascii")
    for words in (["--verify"], []):
        refused = run("restore", saved, *words, "--config", filled)
        assert refused.status == ExitCode.DATA
        assert "site.key differs from the saved file" in refused.err
    manifest = saved / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"site.key"', '"../site.key"'), encoding="utf-8")
    assert "differs" not in run("restore", saved, "--verify", "--config", filled).err, "a file elsewhere"


def test_a_database_of_a_newer_program_is_refused(run: Run, filled: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(filled.parent / "var" / "node.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = run("backup", tmp_path / "saved", "--config", filled)
    assert refused.status == ExitCode.DATA
    assert "newer" in refused.err


def test_of_a_postgresql_it_says_how_to_save_it(run: Run, site: Path, tmp_path: Path) -> None:
    rewrite(site, {"[node]": '[node]\ndatabase_url = "postgresql+psycopg://u:hunter2@h/n"'})
    done = run("backup", tmp_path / "saved", "--config", site)
    assert done.status == 0
    assert "pg_dump" in done.out
    assert "hunter2" not in done.out


VERBS = [
    ["studies", "list"],
    ["jobs", "list"],
    ["outbox", "list"],
    ["outbox", "retry", "--dead"],
    ["events", "list"],
    ["associations", "list"],
    ["models", "drift"],
    ["spool", "compare"],
    ["db", "upgrade"],
    ["check"],
    ["serve", "--role", "worker"],
]


def configured(folder: Path, url: str = "", processes: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\ndatabase_url = "{url}"\n[workers]\nprocesses = {processes}\n',
        encoding="utf-8",
    )
    return config


def in_one_process(
    asked: Sequence[tuple[Path, list[list[str]]]], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Path, Iterator[tuple[list[str], int, str]]]]:
    """Run verbs one after the other in one interpreter: for each configuration its verbs with status and
    standard error.
    """
    program = (
        "import contextlib, io, json, sys\n"
        "from dicom_node.serve import cli\n"
        "said = []\n"
        "for config, verbs in json.loads(sys.argv[1]):\n"
        "  for verb in verbs:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try: cli.main([*verb, '--config', config])\n"
        "        except SystemExit as end: said.append((int(end.code or 0), err.getvalue()))\n"
        "print('\\n' + json.dumps(said))\n"
    )
    words = json.dumps([(str(config), verbs) for config, verbs in asked])
    done = subprocess.run(
        [sys.executable, "-c", program, words],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        cwd=folder,
        env=environment,
    )
    rows: list[tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == sum(len(verbs) for _, verbs in asked)
    yield from ((config, iter([(verb, *rows.pop(0)) for verb in verbs])) for config, verbs in asked)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda _: b"this is no database, but somebody's letter\n" * 100,
    "overwritten": lambda data: data[:4096] + b"\xff" * 60_000 + data[64_096:],
    "cut": lambda data: data[:5000],
}


def test_a_database_that_is_damaged_or_does_not_answer_is_told_with_what_to_do(tmp_path: Path) -> None:
    away = configured(tmp_path / "away", "postgresql+psycopg://node:hunter2@127.0.0.1:9/node")
    for name, damaged in DAMAGED.items():
        config = configured(tmp_path / name)
        database = Database(f"sqlite:///{config.parent / 'node.db'}")
        database.upgrade()
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.dispose()
        (config.parent / "node.db").write_bytes(damaged((config.parent / "node.db").read_bytes()))
    asked = [(tmp_path / name / "node.toml", VERBS) for name in (*DAMAGED, "away")]
    for config, said_of in in_one_process(asked, tmp_path):
        for verb, status, said in said_of:
            usual = ExitCode.UNAVAILABLE if config == away else ExitCode.SOFTWARE
            assert status == (ExitCode.CONFIG if verb == ["check"] else usual), (config, verb, said)
            assert ("does not answer" if config == away else "is damaged") in said, (config, verb)
            assert "Traceback" not in said, (config, verb)
            assert "hunter2" not in said, (config, verb)


FAULTY = """
source = "room 3"
[[rule]]
name = "ours"
match = { manufacturer = "Maker" }
rectangles = [{ left = 0, top = 0, right = 2.0, bottom = 20 }]
"""


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_faulty_rule_stops_the_node_with_file_key_and_remedy(
    run: Run, site: Path, tmp_path: Path, verb: str
) -> None:
    set_in_workers(site, "device_rules_dir", tmp_path)
    (tmp_path / "room3.toml").write_text(FAULTY, encoding="utf-8")
    printed = run(verb, "--config", site)
    place = f"{tmp_path / 'room3.toml'}: rule[0].rectangles[0].right (rule ours)"
    assert printed.status == 78
    assert f"workers.device_rules_dir = {place}: must be pixels" in " ".join(printed.err.split())


def test_at_a_terminal_a_faulty_answer_is_asked_for_again_and_no_password_shows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answers = {
        "AE title": ["A TITLE THAT IS TOO LONG", "NODE1"],
        "Folder": ["/", str(data)],
        "PACS": ["PACS", "PACS@192.0.2.10:104"],
        "Machines": ["US1@192.0.2.21, XR 2@192.0.2.22"],
        "Console": ["anna"],
        "Password": ["short", PASSWORD],
        "Repeat": ["short", PASSWORD],
    }
    command = ["-m", "dicom_node", "init", "--to", str(tmp_path / "etc")]
    terminal = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=300)
    terminal.logfile_read = seen = io.StringIO()
    while questions := [question for question, left in answers.items() if left]:
        question = questions[terminal.expect([rf"(?s){question}.*: $" for question in questions])]
        if question in ("Password", "Repeat"):
            assert terminal.waitnoecho(60)  # what is typed before is thrown away
        terminal.sendline(answers[question].pop(0))
    terminal.expect(pexpect.EOF)
    terminal.close()
    status, shown = terminal.exitstatus, seen.getvalue()
    assert status == 0, shown
    assert "has more than 16 characters" in shown
    assert "write AE@HOST:PORT" in shown
    assert "no empty folder" in shown
    assert "a password has 12 to 256 characters" in shown
    assert PASSWORD not in shown
    settings = loading.load([tmp_path / "etc" / "node.toml"])
    assert (settings.node.ae_title, settings.node.data_dir) == ("NODE1", data)
    assert [(peer.name, peer.ae_title, peer.host, peer.port) for peer in settings.peers] == [
        ("pacs", "PACS", "192.0.2.10", 104),
        ("us1", "US1", "192.0.2.21", None),
        ("xr-2", "XR 2", "192.0.2.22", None),
    ]
    assert [rule.send_to for rule in settings.rules] == [("pacs",), ("pacs",)]
    assert [(row["name"], row["role"]) for row in users.list_users(settings)] == [("anna", "admin")]
    unit = (tmp_path / "etc" / "dicom-node.service").read_text()
    assert f"ReadWritePaths={data}\nWorkingDirectory={data}\n" in unit
    assert f"DICOM_NODE_CONFIG={tmp_path}/etc/node.toml\n" in unit
    assert f"ExecStart={Path(sys.executable).with_name('dicom-node')} serve\n" in unit
    for path in (data / "node.db", tmp_path / "etc" / "node.toml"):
        assert path.stat().st_mode & 0o077 == 0


def test_options_ask_nothing_and_what_is_there_stays(run: Run, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "etc"
    nothing = [f"--{name}=" for name in ("pacs", "machines", "admin")]
    command = ("init", "--to", folder, "--data-dir", data, "--ae-title", "AINODE", *nothing)
    done = run(*command)
    assert done.status == 0, done.err
    assert not loading.load([folder / "node.toml"]).console.enabled
    before = (folder / "node.toml").read_bytes()
    assert run(*command, "--pacs", "PACS@192.0.2.10:104").status == ExitCode.DATA
    (folder / "node.toml").rename(tmp_path / "kept")
    assert run(*command).status == ExitCode.DATA, "the unit is there"
    (folder / "dicom-node.service").unlink()
    (data / "spool").mkdir()
    assert run(*command).status == ExitCode.USAGE, "the data folder holds a node"
    assert (tmp_path / "kept").read_bytes() == before
    assert not (folder / "node.toml").exists()


HIDE = """
from importlib.machinery import PathFinder
HIDDEN = {"cv2", "onnxruntime", "rapidocr", "onnx", "safetensors", "torch", "sklearn", "skimage", "scipy"}
HIDDEN |= {"psycopg", "psycopg_binary", "psycopg2", "procrastinate"}
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *where: None if name.split(".")[0] in HIDDEN else find(name, *where)
)
"""


def test_what_needs_networks_or_postgresql_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)  # no extra is found
    without_extras = {**os.environ, "PYTHONPATH": str(tmp_path)}
    config, image = configured(tmp_path, processes=1), write_dicom(tmp_path / "image.dcm", echo()[None])
    schemes = {
        configured(tmp_path / scheme, f"{scheme}://node:hunter2@127.0.0.1:9/node"): remedy
        for scheme, remedy in (
            ("postgresql+psycopg", "pip install 'dicom-ai-node[postgres]'"),
            ("postgresql", "must begin with postgresql+psycopg://"),
        )
    }
    verbs = [["check"], ["serve"], ["db", "upgrade"], ["studies", "list"]]
    asked = [
        (configured(tmp_path / "none"), verbs[:1]),
        (config, verbs[:2]),
        *((one, verbs) for one in schemes),
    ]
    (_, none), (_, needed), *with_postgresql = in_one_process(asked, tmp_path, without_extras)
    for _, _, said in none:
        assert "Traceback" not in said, "without workers nothing is missing"
        assert "[ai]" not in said, "without workers nothing is missing"
    for place, said_of in with_postgresql:
        for verb, status, said in said_of:
            assert status, verb
            assert schemes[place] in said, verb
            assert "Traceback" not in said, verb
            assert "hunter2" not in said, verb
    ended = [(status, said) for _, status, said in needed]
    settings = loading.load([config]).for_children()
    for words, given in (
        (["dicom_node.jobs.worker"], f"{settings}\n"),
        (["ai_pipeline", "run", image, "--out", tmp_path / "out"], ""),
    ):
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(
            command,
            input=given,
            env=without_extras,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        ended.append((done.returncode, done.stderr))
    for status, said in ended:
        assert status == 78, said
        assert "install '.[ai]'" in said, said
        assert len(said.splitlines()) < 6, said


def test_check_says_when_the_model_that_was_activated_is_gone(run: Run, site: Path, tmp_path: Path) -> None:
    (models := tmp_path / "models").mkdir()
    set_in_workers(site, "models_dir", models)
    assert "is to use" not in run("check", "--config", site).err
    (models / "active.json").write_text(
        '{"chest_xray": {"stack": ["gone@2"], "history": []}}', encoding="utf-8"
    )
    printed = run("check", "--config", site)
    assert printed.status == 78
    assert "models rollback" in printed.err
    assert "chest_xray is to use gone@2" in printed.err


def test_no_canary_is_in_a_support_bundle(run: Run, filled: Path, tmp_path: Path) -> None:
    further = (
        '\n[[peers]]\nname = "web"\nae_title = "WEB"\nmay = ["receive"]\ntransport = "dicomweb"\n'
        'url = "https://127.0.0.1:9/CANARY"\nusername = "tweety"\npassword = "hunter2"\n'
        '[[rules]]\nname = "odd"\nwhen = { study_description = "CANARY" }\n'
        'pipeline = "ultrasound"\nsend_to = ["web"]\n'
    )
    rewrite(filled, {}, further)
    fields: dict[str, object] = {
        "calling_ae": "SYLVESTER",
        "reason": "Canary^Jane",
        "study": DELIVERED,
        "state": "CANARY X",
        "patient": 19560807,
        "destination": "pacs",
        "objects": 3,
        "path": "/CANARY/4711-PID",
    }
    with in_database(filled) as session:
        session.execute(update(Study).values(patient_id="4711-PID", reason="Canary^Jane"))
        session.add_all(event(number, NOW, **fields) for number in (1004, 2005, 3006, 5004, 5020, 9999))
    done = run("support-bundle", tmp_path / "bundle.zip", "--config", filled)
    assert done.status == 0, done.err
    assert (tmp_path / "bundle.zip").stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        parts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    names = ["CANARY", "Canary^Jane", "4711-PID", "19560807", "hunter2", "tweety", DELIVERED, "SYLVESTER"]
    assert [(name, one) for name, text in parts.items() for one in names if one in text] == []
    told = [one for one in json.loads(parts["events.json"]) if one["number"] == 5020]
    assert told[0]["fields"] == {"destination": "pacs", "objects": 3}
    assert json.loads(parts["versions.json"])["pydicom"] != "not installed"
    assert json.loads(parts["counts.json"])
