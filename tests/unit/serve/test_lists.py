"""What the verbs of nouns list, show and change."""

import json
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import examples
from sqlalchemy import delete, update

from dicom_node.base.actions.inputs import moment
from dicom_node.base.config import loading
from dicom_node.base.errors import ExitCode
from dicom_node.base.lifecycle import AuditAction, Counted
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Study
from dicom_node.people import audit, outbox
from dicom_node.people.demo import DRAWN_FILM, EmbeddedPacs
from tests import ROOT
from tests.rows import NOW, an_association
from tests.unit.jobs import scoring_lab
from tests.unit.jobs.scoring_lab import write_card
from tests.unit.serve.cli_lab import (
    BROKEN,
    CONFLICT,
    DELIVERED,
    Run,
    audited,
    event,
    in_database,
    rewrite,
    set_in_workers,
)


def test_studies_list_has_the_keys_that_others_build_on(ask: Run) -> None:
    rows = ask("studies", "list", "--json").json
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


def test_a_study_whose_results_have_no_destination_is_not_called_delivered(ask: Run, filled: Path) -> None:
    assert f"{DELIVERED}  delivered" in ask("studies", "list").out
    with in_database(filled) as session:
        session.execute(delete(Delivery))
    assert f"{DELIVERED}  sent nowhere" in ask("studies", "list").out


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        ("2026-01-02T03:12Z", "2026-01-02T03:12:01Z", True),
        ("2026-01-01", "2026-01-02T03:12Z", False),
        ("2026-01-03", "2026-01-04", False),
    ],
    ids=["in this time", "before", "after"],
)
def test_studies_and_deliveries_of_one_day_are_listed_and_counted(
    ask: Run, since: str, until: str, found: bool
) -> None:
    times = ("--since", since, "--until", until)
    assert (DELIVERED in [row["study"] for row in ask("studies", "list", *times, "--json").json]) is found
    sent = ask("outbox", "list", *times, "--json").json
    assert (DELIVERED in [row["study_instance_uid"] for row in sent]) is found


def test_lists_end_with_their_totals(ask: Run) -> None:
    last = ask("studies", "list").out.splitlines()[-1]
    assert last == ("In all: 3 studies, 3 objects; 1 failed; 1 quarantined; deliveries: 2 confirmed, 2 dead")
    assert ask("outbox", "list").out.splitlines()[-1] == "In all: deliveries: 2 confirmed, 2 dead"
    assert ask("studies", "list", "--limit", 1).out.endswith(
        ". Only the newest 1 are shown and counted: --limit 0 for all\n"
    )


def test_rules_are_listed(ask: Run) -> None:
    ran = ask("rules", "list")
    assert ran.status == 0
    assert "chest_xray" in ran.out
    assert [row["name"] for row in ask("rules", "list", "--json").json] == ["ultrasound", "chest"]


def test_without_a_database_the_folder_of_a_relative_path_is_named(run: Run, site: Path) -> None:
    rewrite(site, {f'"{site.parent}/var"': '"var"'})
    refused = run("users", "list", "--config", site)
    assert refused.status == ExitCode.CONFIG
    assert "node.data_dir is 'var', below the folder in which a command is started" in refused.err


def test_withdrawn_results_are_told_with_who_and_why(ask: Run, filled: Path) -> None:
    withdraw = ("studies", "withdraw", "--reason", "quality", "--because")
    done = ask(*withdraw, "wrong side", "9.9.9", DELIVERED)
    assert (done.status, "9.9.9" in done.out, DELIVERED in done.out) == (1, True, True), "one stops no other"
    assert ask("studies", "show", DELIVERED).out.count("by command line: wrong side (quality)") == 2
    assert ask("studies", "list").out.count("2 withdrawn") == 1
    assert f"{DELIVERED}  withdrawn" in ask("studies", "list").out
    [row] = [one for one in ask("studies", "list", "--json").json if one["study"] == DELIVERED]
    assert [result["withdrawn"]["because"] for result in row["results"]] == ["wrong side"] * 2
    assert "because" not in audited(filled)[0][1], "what is sent to other systems has no words of a person"


@pytest.mark.parametrize(
    "verb",
    ["studies list", f"studies show {BROKEN}", "jobs list", "jobs show 1", "outbox list", "events list",
     "associations list",
     "peers list", "models list"],
)  # fmt: skip
def test_every_key_is_in_the_reference(ask: Run, verb: str) -> None:
    reference = ROOT / "docs" / "reference"
    listed = "".join((reference / f"{name}.md").read_text(encoding="utf-8") for name in ("lists", "settings"))
    printed = ask(*verb.split(), "--json").json
    keys = set().union(*printed) if isinstance(printed, list) else set(printed)
    assert keys, verb
    assert [key for key in sorted(keys) if f"`{key}`" not in listed] == []


@pytest.mark.parametrize("group", ("associations", "studies", "jobs", "outbox", "events"))
def test_an_empty_list_is_an_empty_array(run: Run, site: Path, group: str) -> None:
    assert run("db", "upgrade", "--config", site).status == 0
    assert run(group, "list", "--config", site, "--json").json == []
    assert run(group, "list", "--config", site).out == ""


def test_a_study_is_shown_with_all_that_happened(ask: Run) -> None:
    row = ask("studies", "show", BROKEN, "--json").json
    assert [job["rule"] for job in row["jobs"]] == ["chest", "ultrasound"]
    assert {item["outcome"] for item in row["received"]} == {"new"}
    assert [event["number"] for event in row["events"]] == [3006]
    text = ask("studies", "show", BROKEN).out
    for expected in ("decoder: truncated", "the PACS refuses it", "2.25.2.sr", "job failed for good"):
        assert expected in text


def test_a_study_is_run_again_and_a_rule_is_replayed(ask: Run) -> None:
    replay = ("rules", "replay", "--since", "2026-01-02T03:00Z")
    [row] = ask(*replay, "--dry-run", "--json").json
    assert (row["study_instance_uid"], row["rule"], row["queued"]) == (DELIVERED, "ultrasound", False)
    assert ask(*replay, "--json").json == [row | {"queued": True, "reason": ""}]
    assert BROKEN in ask("studies", "rerun", "99.1", "99.2").out
    refused = ask("studies", "rerun", BROKEN, CONFLICT)
    assert (refused.status, refused.out) == (1, "")
    assert "is in quarantine: `dicom-node studies release` releases it" in refused.err
    assert ask("studies", "rerun", "1.2.3.4").status == 66


def test_a_failed_job_is_retried_put_first_and_cancelled_by_hand(ask: Run) -> None:
    assert ask("jobs", "retry", 3).status == 0
    shown = ask("jobs", "show", 3, "--json").json
    assert (shown["state"], shown["reason"]) == ("queued", "")
    assert ask("studies", "show", BROKEN, "--json").json["state"] == "queued"
    again = ask("jobs", "retry", 3)
    assert (again.status, again.err) == (1, "dicom-node: job 3 is queued: it cannot be queued again\n")
    assert ask("jobs", "first", 3).status == 0
    assert ask("jobs", "cancel", 3).status == 0
    assert ask("jobs", "retry", 3, 99).status == 66, "several by one command"
    assert ask("jobs", "list", "--state", "cancelled", "--json").json[0]["job"] == 3


def test_dead_letters_are_sent_again_by_hand(ask: Run) -> None:
    dead = ask("outbox", "list", "--state", "dead", "--json").json
    assert [row["destination"] for row in dead] == ["pacs", "pacs"]
    assert ask("outbox", "retry", dead[0]["delivery"]).status == 0
    assert "again: 1." in ask("outbox", "retry", "--dead").out
    assert ask("outbox", "list", "--state", "dead", "--json").json == []
    assert [ask("outbox", "retry", *words).status for words in ((), (999,))] == [64, 66]


def test_deliveries_are_discarded_with_a_reason_and_sent_to_a_further_peer(ask: Run) -> None:
    [dead, *_] = ask("outbox", "list", "--state", "dead", "--json").json
    discard = ("outbox", "discard", dead["delivery"], "--because")
    for words, status in (("x", 65), ("the PACS was replaced", 0), ("once more", 1)):
        assert ask(*discard, words).status == status, words
    [row] = ask("outbox", "list", "--state", "discarded", "--json").json
    assert (row["delivery"], row["discarded_because"]) == (dead["delivery"], "the PACS was replaced")
    assert ask("outbox", "discard", "--because", "why").status == 64
    for peer, status in (("pacs", 1), ("nobody", 66)):
        assert ask("studies", "send", BROKEN, "--to", peer).status == status


def test_a_study_in_quarantine_is_not_deleted_and_can_be_released(ask: Run) -> None:
    done = ask("studies", "delete", CONFLICT, "--json")
    assert (done.status, [row["deleted"] for row in done.json]) == (1, [False])
    assert ask("studies", "delete", "9.9.9").status == 66
    assert [ask("studies", "release", CONFLICT).status for _ in range(2)] == [0, 1]
    assert ask("studies", "show", CONFLICT, "--json").json["state"] == "receiving"


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


def test_associations_are_listed_with_what_came_of_them(ask: Run) -> None:
    rows = ask("associations", "list", "--json").json
    shown = [(row["association"], row["outcome"], row["objects"], bool(row["closed_at"])) for row in rows]
    assert shown == [("a-2", "open", 0, False), ("a-1", "released", 2, True)]
    since = ask("associations", "list", "--since", "2026-01-02T03:12:00Z", "--json").json
    assert [row["association"] for row in since] == ["a-2"]


@pytest.mark.parametrize("group", ["studies", "jobs", "outbox", "events", "associations"])
def test_a_list_goes_on_with_a_mistake_that_does_not_concern_the_database(
    ask: Run, filled: Path, group: str
) -> None:
    wanted = ask(group, "list", "--json").json
    rewrite(filled, {'may = ["receive"]': 'may = ["recieve"]'})
    ran = ask(group, "list", "--json")
    assert (ran.status, ran.json) == (0, wanted)
    assert "mistakes (1): dicom-node check" in ran.err


def test_a_list_refuses_a_mistake_about_the_database(ask: Run, filled: Path) -> None:
    rewrite(filled, {"data_dir =": "data_folder ="})
    ran = ask("studies", "list")
    assert (ran.status, ran.out, "node.data_folder" in ran.err) == (78, "", True)


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


def test_users_are_added_listed_changed_and_removed(ask: Run, filled: Path, typed: None) -> None:
    def of_anna(*words: str) -> dict[str, object]:
        assert ask("users", *words).status == 0
        [row] = [row for row in ask("users", "list", "--json").json if row["name"] == "anna"]
        return {key: row[key] for key in ("role", "disabled", "sessions")}

    assert of_anna("add", "anna", "--role", "viewer")["role"] == "viewer"
    assert of_anna("change", "anna", "--role", "reader", "--disable") == {
        "role": "reader",
        "disabled": True,
        "sessions": 0,
    }
    assert "disabled" in ask("users", "list").out
    assert not of_anna("change", "anna", "--enable")["disabled"]
    assert ask("users", "change", "anna").status == ExitCode.USAGE
    of_anna("password", "anna")
    assert ask("users", "remove", "anna").status == 0
    assert ask("users", "list", "--json").json == []
    with in_database(filled) as session:
        rows = [(row["actor"], row["action"]) for row in audit.rows(session)]
    assert {("command line", word) for word in ("user_removed", "password_set", "user_added")} <= set(rows)


def test_tokens_are_made_listed_and_taken_back(ask: Run, typed: None) -> None:
    assert ask("users", "add", "anna", "--role", "viewer").status == 0
    made = ask("tokens", "add", "anna", "--for", "the dashboard", "--days", 30)
    assert (made.status, made.out.strip().startswith("dn_")) == (0, True)
    [row] = ask("tokens", "list", "--json").json
    assert (row["user"], row["purpose"], row["used_at"]) == ("anna", "the dashboard", None)
    assert [ask("tokens", "remove", row["token"]).status for _ in range(2)] == [0, 66]
    assert ask("tokens", "add", "ben", "--for", "nothing").status == 66


US = examples.get_path("rgb_color")


CINE = examples.get_path("ybr_color")


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


def test_the_audit_is_listed_by_person_action_day_patient_and_study(ask: Run, filled: Path) -> None:
    with in_database(filled) as session:
        for number, uid in enumerate((DELIVERED, BROKEN)):
            study = session.query(Study).filter_by(study_instance_uid=uid).one()
            study.patient_id = " " * number + "AUDITED"  # a space before it counts
            row = audit.note(session, audit.Person("anna"), AuditAction.STUDY_SEEN, study_id=study.id)
            row.at = NOW + timedelta(days=number)
        audit.note(session, audit.Person("ben"), AuditAction.LIST_SEEN, list="studies")

    def listed(*words: object) -> list[tuple[str, str | None]]:
        rows = ask("audit", "list", "--json", *words).json
        return [(row["actor"], row["study"]) for row in rows]

    first, second = ("anna", DELIVERED), ("anna", BROKEN)
    assert listed("--who", "anna") == [second, first]
    assert listed("--what", "list_seen") == [("ben", None)]
    assert listed("--patient", "AUDITED ") == [first]
    assert listed("--study", BROKEN[-4:]) == [second]
    assert listed("--until", "2026-01-03") == [first]
    assert listed("--since", "2026-01-03", "--who", "anna") == [second]
    assert ask("audit", "list", "--what", "nothing").status == ExitCode.USAGE
