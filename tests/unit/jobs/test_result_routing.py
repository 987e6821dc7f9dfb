"""What a rule does when a finding is suspected, results are withheld, or the AI did not run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from dicom_node import preflight
from dicom_node.config.settings import ResultSettings, Settings
from dicom_node.errors import FaultyInput
from dicom_node.events import RESULTS_ROUTED
from dicom_node.model.lifecycle import JobState
from dicom_node.notifications.gather import Gatherer
from dicom_node.outbox.ledger import Ledger
from dicom_node.services import assessments, rules, studies
from dicom_node.services.audit import Person
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery, Notification, Study
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_job, a_result, a_study
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration, register, work

ANNA = Person("anna", "10.0.0.1")
MARK = {"when": "mark suspected", "send_to": ["er"], "notify": ["on-call"], "priority": "STAT"}


def made(node: Inbox, *then: dict[str, Any], do: str = "find", **rule: Any) -> Settings:
    content = configuration(do)
    content["peers"].append({**content["peers"][1], "name": "er", "ae_title": "ER"})
    content["rules"][0] |= {"then": list(then), **rule}
    content["notifications"] = [{"name": "on-call", "url": "https://127.0.0.1:9/x", "every_minutes": 0}]
    content["console"] = {"url": "https://ai-node.example.org"}
    return Settings.model_validate({**content, "node": {"data_dir": node.folder}})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    register()
    node = Inbox(tmp_path / "var", configuration())
    yield node
    node.close()


def analysed(node: Inbox, settings: Settings, number: int = 1) -> str:
    node.settings = settings
    node.reopen()
    Gatherer(node.database, settings).run_once()  # nothing of before is notified
    image = changed(ultrasound("one", number=number), StudyInstanceUID="1.2.840.1")
    node.receive(image)
    node.settle()
    work(node)
    return str(image.StudyInstanceUID)


def destinations(node: Inbox) -> list[str]:
    with node.database.read() as session:
        return sorted(session.scalars(select(Delivery.destination)))


def notified(node: Inbox) -> list[str]:
    Gatherer(node.database, node.settings).run_once()
    with node.database.read() as session:
        return list(session.scalars(select(Notification.text).order_by(Notification.id)))


def priority(node: Inbox) -> int:
    with node.database.read() as session:
        return session.scalars(select(Study.priority)).one()


def test_a_suspected_finding_goes_further_and_first_and_says_so_once(node: Inbox) -> None:
    uid = analysed(node, made(node, MARK))
    assert destinations(node) == ["er", "er", "pacs", "pacs"]
    assert priority(node) == 1
    [text] = notified(node)
    assert text.startswith("Suspected: Mark\n")
    assert "https://ai-node.example.org/studies/1" in text and "AI: " in text
    assert "job=" not in text and uid not in text
    [event] = [row for row in node.events() if row.number == RESULTS_ROUTED.number]
    assert event.fields["destinations"] == "er" and "mark" not in str(event.fields).lower()
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert destinations(node) == ["er", "er", "pacs", "pacs"], "each delivery once"
    assert len(notified(node)) == 1, "the same results are notified once"


def test_a_condition_that_does_not_hold_changes_nothing(node: Inbox) -> None:
    analysed(node, made(node, {**MARK, "when": "Pneumothorax suspected"}))
    assert destinations(node) == ["pacs", "pacs"]
    assert priority(node) == 0 and notified(node) == []


def test_a_peer_that_got_a_finding_gets_the_report_that_replaces_it(node: Inbox) -> None:
    analysed(node, made(node, MARK))
    before = destinations(node).count("er")
    analysed(node, made(node, {**MARK, "when": "Pneumothorax suspected"}), number=2)
    assert destinations(node).count("er") > before


def test_a_result_that_is_held_is_notified_when_a_person_accepted_it(node: Inbox) -> None:
    uid = analysed(node, made(node, MARK, assess_first=True))
    assert notified(node) == []
    assessments.accept_results(node.settings, uid, ANNA)
    assert len(notified(node)) == 1
    assert len(notified(node)) == 1


def test_a_rejected_result_is_withheld_and_not_a_finding(node: Inbox) -> None:
    withheld = {"when": "withheld", "notify": ["on-call"]}
    uid = analysed(node, made(node, {**MARK, "notify": []}, withheld, assess_first=True))
    assessments.reject_results(node.settings, uid, ANNA, because="Secret words")
    [text] = notified(node)
    assert text.startswith("Results of this study are withheld") and "Secret" not in text
    with node.database.read() as session:
        assert set(session.scalars(select(Delivery.state))) == {"discarded"}


@pytest.mark.parametrize("do", ["stumble", "not-clean"])
def test_a_study_that_was_not_assessed_is_routed(node: Inbox, do: str) -> None:
    settings = made(node, {**MARK, "when": "not assessed"}, do=do)
    analysed(
        node, settings.model_copy(update={"workers": settings.workers.model_copy(update={"attempts": 1})})
    )
    assert "er" in destinations(node) and priority(node) == 1
    [text] = notified(node)
    assert text.startswith("The AI did not assess this study")


def test_a_destination_that_was_removed_later_is_left_out(node: Inbox) -> None:
    settings = made(node, MARK)
    left = tuple(peer for peer in settings.peers if peer.name != "er")
    analysed(node, settings.model_copy(update={"peers": left}))
    assert destinations(node) == ["pacs", "pacs"]


def test_recent_studies_show_which_conditions_hold(node: Inbox) -> None:
    analysed(node, made(node))
    other = made(node, MARK, {"when": "not assessed", "notify": ["on-call"]})
    with node.database.read() as session:
        [row] = rules.tried(session, node.settings, other)
    assert row["changes"]
    [rule] = row["then"]["rules"]
    assert rule["then"] == ["mark suspected: to er, notify on-call, STAT"]


def test_stat_goes_first_and_every_fourth_turn_is_of_what_has_waited_longest(node: Inbox) -> None:
    analysed(node, made(node))
    settings, lease = node.settings, timedelta(seconds=60)
    with node.database.write() as session:
        [routine] = session.scalars(select(Study.id))
        for number in range(5):
            study = a_study(f"1.2.{number}", priority=1)
            session.add(study)
            session.flush()
            job = a_job(study, JobState.SUCCEEDED)
            session.add(job)
            session.flush()
            result = a_result(job)
            session.add(result)
            session.flush()
            deliveries.add(session, result, "pacs")
    ledger = Ledger(node.database, settings, settings.peer("pacs"), "a test", lease)
    turns = [ledger.claim()[0][0].study for _ in range(6)]
    assert turns.index(routine) == 3 and len(set(turns)) == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"when": "Pneumothorax", "send_to": ["er"]},
        {"when": " suspected", "send_to": ["er"]},
        {"when": "a\x00b suspected", "send_to": ["er"]},
        {"when": "withheld", "send_to": ["er"]},
        {"when": "Mark suspected"},
        {"when": "x" * 100 + " suspected", "notify": ["on-call"]},
    ],
)
def test_faulty_conditions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResultSettings.model_validate(wrong)


def test_odd_names_are_compared_as_they_are() -> None:
    odd = ResultSettings.model_validate(
        {"when": "Lungenödem [links] (50 %), {{x}} suspected", "notify": ["a"]}
    )
    assert odd.holds(["lungenödem [links] (50 %), {{x}}"]) and not odd.holds(["Lungenödem l (50 %), {{x}}"])


def test_a_thousand_conditions_are_too_many(node: Inbox) -> None:
    with pytest.raises(ValidationError, match="50"):
        made(node, *[MARK] * 1000)


def test_what_no_pipeline_finds_or_nobody_configured_is_a_mistake() -> None:
    made = configuration()
    made["rules"][0] |= {
        "pipeline": "chest_xray",
        "options": {},
        "then": [
            {"when": "Pneumothorex suspected", "send_to": ["nobody"], "notify": ["no-one"]},
            {"when": "Pneumothorax suspected", "send_to": ["modality"]},
        ],
    }
    found = {problem.key: problem.remedy for problem in preflight.check_data(made).problems}
    assert "Pneumothorax" in found["rules.rule.then"]
    assert "no such peer" in found["rules.rule.then[0].send_to"]
    assert "no such notification" in found["rules.rule.then[0].notify"]
    assert "may not receive" in found["rules.rule.then[1].send_to"]


def test_text_of_rules_is_checked_for_peers_of_conditions(node: Inbox) -> None:
    text = rules.as_toml(made(node, {**MARK, "send_to": ["pacs"]}))
    assert rules.parsed(made(node), text).rules[0].then[0].send_to == ("pacs",)
    with pytest.raises(FaultyInput, match="send_to"):
        rules.parsed(made(node), text.replace('"pacs"], notify', '"nobody"], notify'))
