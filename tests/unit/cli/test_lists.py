"""Lists, details and what a person may do: ``studies``, ``jobs``, ``outbox``, ``events``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.cli.common.options import moment
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.services import audit
from dicom_node.store.tables import Job
from tests.rows import NOW, a_job, a_study
from tests.unit.cli.conftest import BROKEN, CONFLICT, DELIVERED, Run, audited, event, in_database

LISTS = ("associations", "studies", "jobs", "outbox", "events")


def test_studies_list_has_the_keys_that_others_build_on(run: Run, filled: Path) -> None:
    rows = run("studies", "list", "--config", filled, "--json").json
    assert [row["study_instance_uid"] for row in rows] == [DELIVERED, BROKEN, CONFLICT]
    first = rows[0]
    assert first["state"] == "delivered"
    assert first["reason"] == ""
    assert first["patient_id"] == "P1"
    assert first["modalities"] == ["US"], "own results that came back do not count"
    assert first["instances"] == 1
    assert first["revision"] == 1
    assert first["last_received_at"] == "2026-01-02T03:12:00.000Z"
    assert [(r["kind"], r["sop_instance_uid"], r["deliveries"]) for r in first["results"]] == [
        ("sr", "2.25.1.sr", {"pacs": "confirmed"}),
        ("sc", "2.25.1.sc", {"pacs": "confirmed"}),
    ]


def test_studies_are_filtered_by_state_and_time(run: Run, filled: Path) -> None:
    def uids(*options: str) -> list[str]:
        rows = run("studies", "list", "--config", filled, "--json", *options).json
        return [row["study_instance_uid"] for row in rows]

    assert uids("--state", "failed") == [BROKEN]
    assert uids("--state", "failed", "--state", "quarantined") == [BROKEN, CONFLICT]
    assert uids("--since", "2026-01-02T00:00Z") == [DELIVERED, BROKEN]
    assert uids("--limit", "1") == [DELIVERED]
    assert len(uids("--limit", "0")) == 3


def test_held_studies_are_called_so_and_can_be_asked_for(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        for uid, state in (("1.2.840.99.4", JobState.HELD), ("1.2.840.99.5", JobState.NOT_APPLICABLE)):
            study = a_study(uid, StudyState.NOT_APPLICABLE, NOW)
            session.add(study)
            session.flush()
            session.add(a_job(study, state))
    listed = run("studies", "list", "--state", "held", "--config", filled, "--json").json
    assert [(row["study_instance_uid"], row["job_held"]) for row in listed] == [("1.2.840.99.4", True)]
    assert listed[0]["state"] == "not_applicable", "what others build on stays"
    both = run("studies", "list", "--state", "held", "--state", "failed", "--config", filled, "--json").json
    assert [row["study_instance_uid"] for row in both] == ["1.2.840.99.4", BROKEN]
    table = run("studies", "list", "--config", filled).out.splitlines()
    assert sorted(line.split()[1] for line in table if "99.4" in line or "99.5" in line) == [
        "held",
        "not_applicable",
    ]
    assert " held" in run("studies", "show", "99.4", "--config", filled).out
    assert "held" in run("studies", "list", "--state", "hold", "--config", filled).err


def test_withdrawn_results_are_told_with_who_and_why(run: Run, filled: Path) -> None:
    assert (
        run(
            "studies",
            "withdraw",
            DELIVERED,
            "--reason",
            "quality",
            "--because",
            "wrong side",
            "--config",
            filled,
        ).status
        == 0
    )
    shown = run("studies", "show", DELIVERED, "--config", filled)
    assert shown.out.count("by command line: wrong side (quality)") == 2
    listed = run("studies", "list", "--config", filled).out.splitlines()
    assert ["2 withdrawn" in line for line in listed if DELIVERED in line or BROKEN in line] == [True, False]
    [row] = [
        row for row in run("studies", "list", "--config", filled, "--json").json if row["study"] == DELIVERED
    ]
    assert [result["withdrawn"]["because"] for result in row["results"]] == ["wrong side"] * 2
    with in_database(filled) as session:
        told = [row["fields"] for row in audit.rows(session) if row["action"] == "result_withdrawn"]
    assert [(fields["reason"], fields["because"]) for fields in told] == [("quality", "wrong side")]
    assert "because" not in audited(filled)[0][1], "what is sent to other systems has no words of a person"


def test_tries_of_a_delivery_are_one_line_of_a_study(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        for number in range(5):
            at = NOW + timedelta(seconds=number)
            session.add(event(5008, at, 1, destination="pacs"))
            session.add(event(5003, at, 1, delivery=number, destination="pacs", reason="refused"))
        session.add(event(5003, NOW, 1, destination="second", reason="refused"))
    lines = run("studies", "show", DELIVERED, "--config", filled).out.splitlines()
    assert [("5 times" in line) for line in lines if " 5003 " in line].count(True) == 1
    assert len([line for line in lines if " 5003 " in line]) == 2
    assert not [line for line in lines if " 5008 " in line]
    kept = run("studies", "show", DELIVERED, "--config", filled, "--json").json["events"]
    assert len([row for row in kept if row["number"] in (5003, 5008)]) == 11, "programs get all"


@pytest.mark.parametrize("title", ["WRONGAE", "wrongae"])
def test_a_title_that_the_node_was_called_by_is_known_as_such(run: Run, filled: Path, title: str) -> None:
    with in_database(filled) as session:
        session.add(event(1004, datetime.now(UTC), calling="US1", called="WRONGAE"))
    told = run("peers", "why", title, "--config", filled).err
    assert ("US1 called this node" in told) == (title == "WRONGAE")


@pytest.mark.parametrize(
    "verb",
    ["studies list", f"studies show {BROKEN}", "jobs list", "jobs show 1", "outbox list", "events list",
     "associations list",
     "peers list", "models list", "models verify"],
)  # fmt: skip
def test_every_key_is_in_the_reference(run: Run, filled: Path, verb: str) -> None:
    reference = Path(__file__).resolve().parents[3] / "docs" / "reference"
    listed = "".join((reference / f"{name}.md").read_text(encoding="utf-8") for name in ("lists", "settings"))
    printed = run(*verb.split(), "--config", filled, "--json").json
    keys = set().union(*printed) if isinstance(printed, list) else set(printed)
    assert keys, verb
    assert [key for key in sorted(keys) if f"`{key}`" not in listed] == []


@pytest.mark.parametrize("group", LISTS)
def test_an_empty_list_is_an_empty_array(run: Run, site: Path, group: str) -> None:
    assert run("db", "upgrade", "--config", site).status == 0
    assert run(group, "list", "--config", site, "--json").json == []
    assert run(group, "list", "--config", site).out == ""


def test_a_list_makes_no_database(run: Run, site: Path) -> None:
    printed = run("studies", "list", "--config", site)
    assert printed.status == 78
    assert "start `dicom-node serve`" in printed.err
    assert not (site.parent / "var").exists()


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
    assert run("studies", "show", DELIVERED, *config, "--json").json["state"] == "delivered"
    assert run(*replay, "--json").json == [row | {"queued": True, "reason": ""}]
    shown = run("studies", "show", DELIVERED, *config, "--json").json
    assert (shown["state"], [job["state"] for job in shown["jobs"]]) == ("queued", ["queued", "succeeded"])
    assert [event["number"] for event in shown["events"] if event["number"] > 3000][:1] == [3033]

    assert BROKEN in run("studies", "rerun", "99.1", "99.2", *config).out
    refused = run("studies", "rerun", BROKEN, CONFLICT, *config)
    assert (refused.status, refused.out) == (1, "")
    assert "is in quarantine: `dicom-node studies release` releases it" in refused.err
    assert run("studies", "rerun", "1.2.3.4", *config).status == 66


def test_the_last_figures_of_a_uid_find_its_study(run: Run, filled: Path) -> None:
    assert run("studies", "show", "99.2", "--config", filled, "--json").json["study_instance_uid"] == BROKEN
    ambiguous = run("studies", "show", "", "--config", filled)
    assert (ambiguous.status, ambiguous.out) == (66, "")
    assert run("studies", "show", "1.2.3.4", "--config", filled).status == 66


def test_an_ending_of_several_uids_tells_which(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        session.add(a_study("1.2.3.99.2", StudyState.DELIVERED, NOW))
    refused = run("studies", "show", "99.2", "--config", filled)
    assert refused.status == 66
    for expected in (BROKEN, "1.2.3.99.2", "give more figures"):
        assert expected in refused.err


def test_a_study_without_uid_is_called_by_its_number(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        nameless = a_study(DELIVERED, StudyState.QUARANTINED, NOW + timedelta(hours=1))
        nameless.study_instance_uid = None
        session.add(nameless)
    config = ("--config", filled)
    row = run("studies", "list", *config, "--json").json[0]
    name = row["study"]
    assert (row["study_instance_uid"], name) == (None, "no-uid-4")
    assert name in run("studies", "list", *config).out
    assert run("studies", "show", name, *config, "--json").json["events"] == []
    assert run("studies", "versions", name, *config).status == 0
    assert run("studies", "show", "no-uid-1", *config).status == 66, "that one has a UID"
    assert run("studies", "release", name, *config).status == 0
    assert run("studies", "show", name, *config, "--json").json["state"] == "receiving"


def test_events_and_deliveries_tell_their_study(run: Run, filled: Path) -> None:
    assert BROKEN in run("events", "list", "--number", "3006", "--config", filled).out
    assert BROKEN in run("outbox", "list", "--state", "dead", "--config", filled).out


def test_debug_events_are_listed_when_asked_for(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        session.add(event(5008, NOW))

    def numbers(*options: str) -> set[int]:
        return {row["number"] for row in run("events", "list", *options, "--config", filled, "--json").json}

    assert 5008 not in numbers()
    assert 5008 in numbers("--debug")
    assert numbers("--number", "5008") == {5008}


def test_who_waits_is_told_for_how_long_while_somebody_works(run: Run, filled: Path) -> None:
    def waits() -> list[float | None]:
        rows = run("jobs", "list", "--state", "queued", "--config", filled, "--json").json
        return [row["waits_seconds"] for row in rows]

    assert run("jobs", "retry", 3, "--config", filled).status == 0
    assert waits() == [None], "no node runs"
    with in_database(filled) as session:
        job = session.get_one(Job, 1)
        job.state, job.lease_until = JobState.RUNNING, datetime.now(UTC) + timedelta(minutes=1)
    assert waits() != [None]


def test_a_heading_tells_the_zone_of_all_times(run: Run, filled: Path) -> None:
    heading = run("associations", "list", "--config", filled).out.splitlines()[0]
    assert len(re.findall(r"\([+-]\d\d:\d\d\)", heading)) == 1


def test_a_study_events_include_those_of_its_associations(run: Run, filled: Path) -> None:
    rows = run("events", "list", "--study", DELIVERED, "--config", filled, "--json").json
    assert [(row["number"], row["fields"]) for row in rows] == [(1001, {"association": "a-1"})]


def test_events_answer_what_happened_at_a_time(run: Run, filled: Path) -> None:
    rows = run(
        "events",
        "list",
        "--since",
        "2026-01-02T03:12:04Z",
        "--until",
        "2026-01-02T03:12:06Z",
        "--config",
        filled,
        "--json",
    ).json
    assert [(row["number"], row["text"], row["level"]) for row in rows] == [
        (3006, "job failed for good", "error")
    ]
    assert rows[0]["study_instance_uid"] == BROKEN
    assert len(run("events", "list", "--number", "1001", "--config", filled, "--json").json) == 2


def test_an_event_of_a_newer_version_is_listed_too(run: Run, filled: Path) -> None:
    [row] = run("events", "list", "--number", "9999", "--config", filled, "--json").json
    assert row["text"] == "event of another version"


def test_the_newest_events_are_kept_when_there_are_too_many(run: Run, filled: Path) -> None:
    rows = run("events", "list", "--limit", "2", "--config", filled, "--json").json
    assert [row["number"] for row in rows] == [3006, 9999]


def test_a_failed_job_is_retried_and_cancelled_by_hand(run: Run, filled: Path) -> None:
    assert run("jobs", "retry", 3, "--config", filled).status == 0
    shown = run("jobs", "show", 3, "--config", filled, "--json").json
    assert (shown["state"], shown["reason"]) == ("queued", "")
    study = run("studies", "show", BROKEN, "--config", filled, "--json").json
    assert study["state"] == "queued"
    again = run("jobs", "retry", 3, "--config", filled)
    assert (again.status, again.err) == (1, "dicom-node: job 3 is queued: it cannot be queued again\n")
    assert run("jobs", "cancel", 3, "--config", filled).status == 0
    assert run("jobs", "list", "--state", "cancelled", "--config", filled, "--json").json[0]["job"] == 3
    assert run("jobs", "cancel", 99, "--config", filled).status == 66


def test_dead_letters_are_sent_again_by_hand(run: Run, filled: Path) -> None:
    dead = run("outbox", "list", "--state", "dead", "--config", filled, "--json").json
    assert [row["destination"] for row in dead] == ["pacs", "pacs"]
    assert run("outbox", "retry", dead[0]["delivery"], "--config", filled).status == 0
    assert "1 delivery" in run("outbox", "retry", "--dead", "--config", filled).out
    assert run("outbox", "list", "--state", "dead", "--config", filled, "--json").json == []
    assert run("outbox", "retry", "--config", filled).status == 64
    assert run("outbox", "retry", 999, "--config", filled).status == 66


def test_what_stopped_of_several_studies_runs_again(run: Run, filled: Path) -> None:
    dead = run("outbox", "list", "--state", "dead", "--config", filled, "--json").json
    [study] = {row["study_instance_uid"] for row in dead}
    done = run("studies", "retry", study, "9.9.9", "--config", filled, "--json")
    assert (done.status, [row["done"] for row in done.json]) == (1, [True, False])
    assert run("outbox", "list", "--state", "dead", "--config", filled, "--json").json == []
    assert run("studies", "retry", study, "--config", filled).status == 1


def test_deliveries_are_discarded_with_a_reason_and_sent_to_a_further_peer(run: Run, filled: Path) -> None:
    [dead, *_] = run("outbox", "list", "--state", "dead", "--json", "--config", filled).json
    number, study = dead["delivery"], dead["study_instance_uid"]
    discard = ("outbox", "discard", number, "--config", filled, "--because")
    assert run(*discard, "x").status == 65
    assert run(*discard, "the PACS was replaced").status == 0
    [row] = run("outbox", "list", "--state", "discarded", "--json", "--config", filled).json
    assert (row["delivery"], row["discarded_because"]) == (number, "the PACS was replaced")
    assert run(*discard, "once more").status == 1
    assert run("outbox", "discard", "--because", "why", "--config", filled).status == 64
    assert run("studies", "send", study, "--to", "pacs", "--config", filled).status == 1
    assert run("studies", "send", study, "--to", "nobody", "--config", filled).status == 66
    withdraw = ("studies", "withdraw", study, "--config", filled, "--reason", "quality", "--because")
    assert run(*withdraw, "x").status == 65
    assert run(*withdraw, "no use", "--result", "1.2.3").status == 66
    done = run(*withdraw, "no use")
    assert (done.status, "Withdrawn" in done.out) == (0, True)
    assert run(*withdraw, "no use").status == 1


def test_results_of_several_studies_are_withdrawn_until_one_refuses(run: Run, filled: Path) -> None:
    rows = run("outbox", "list", "--json", "--config", filled).json
    [study, *_] = dict.fromkeys(row["study_instance_uid"] for row in rows)
    why = ("--config", filled, "--reason", "quality", "--because", "no use")
    assert run("studies", "withdraw", study, "9.9.9", "--result", "1.2", *why).status == 64
    done = run("studies", "withdraw", study, "9.9.9", *why)
    assert (done.status, f"nothing of {study}" in done.out) == (66, True)
    assert run("studies", "withdraw", study, *why).status == 1


def test_received_images_are_deleted_where_nothing_needs_them(run: Run, filled: Path) -> None:
    done = run("studies", "delete", CONFLICT, "--json", "--config", filled)
    assert (done.status, [row["deleted"] for row in done.json]) == (1, [False])
    assert "quarantine" in done.json[0]["reason"]
    assert run("studies", "delete", "9.9.9", "--config", filled).status == 66


def test_a_study_is_released_from_quarantine(run: Run, filled: Path) -> None:
    assert run("studies", "release", CONFLICT, "--config", filled).status == 0
    row = run("studies", "show", CONFLICT, "--config", filled, "--json").json
    assert row["state"] == "receiving"
    assert run("studies", "release", CONFLICT, "--config", filled).status == 1


def test_several_studies_are_released_each_alone_and_choices_are_for_one(run: Run, filled: Path) -> None:
    assert run("studies", "release", CONFLICT, "9.9.9", "--take", "1", "--config", filled).status == 64
    done = run("studies", "release", CONFLICT, "9.9.9", "--config", filled)
    assert done.status == 1
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


def test_what_is_no_time_is_a_usage_error(run: Run, filled: Path) -> None:
    printed = run("events", "list", "--since", "yesterday", "--config", filled)
    assert printed.status == 64
    assert "is no time" in printed.err


def test_associations_are_listed_with_what_came_of_them(run: Run, filled: Path) -> None:
    rows = run("associations", "list", "--config", filled, "--json").json
    assert [(row["association"], row["outcome"], row["objects"]) for row in rows] == [
        ("a-2", "open", 0),
        ("a-1", "released", 2),
    ]
    assert rows[0]["closed_at"] is None
    since = run("associations", "list", "--since", "2026-01-02T03:12:00Z", "--config", filled, "--json").json
    assert [row["association"] for row in since] == ["a-2"]


@pytest.mark.parametrize("group", ["studies", "jobs", "outbox", "events", "associations"])
def test_a_list_goes_on_with_a_mistake_that_does_not_concern_the_database(
    run: Run, filled: Path, group: str
) -> None:
    wanted = run(group, "list", "--json", "--config", filled).json
    filled.write_text(filled.read_text().replace('may = ["receive"]', 'may = ["recieve"]'))
    ran = run(group, "list", "--json", "--config", filled)
    assert (ran.status, ran.json) == (0, wanted)
    assert "mistakes (1): dicom-node check" in ran.err


def test_a_list_refuses_a_mistake_about_the_database(run: Run, filled: Path) -> None:
    filled.write_text(filled.read_text().replace("data_dir =", "data_folder ="))
    ran = run("studies", "list", "--config", filled)
    assert (ran.status, ran.out) == (78, "")
    assert "node.data_folder" in ran.err
