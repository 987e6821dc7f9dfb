"""Which rule takes which image, and where the images and their results go."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_connectors.notifications.gather import Gatherer
from dicom_node.base import events
from dicom_node.base.config.rule import ResultSettings, RuleSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import DeliveryState, JobState, ObjectRole, StudyState
from dicom_node.base.store.tables import (
    Delivery,
    EventRow,
    Instance,
    Job,
    Notification,
    Original,
    Study,
)
from dicom_node.base.store.transitions import settle_study, utc_now
from dicom_node.deliver import inspection, outbox
from dicom_node.jobs.queue import decide, explain, why_none
from dicom_node.people import held_results, preflight, studies
from dicom_node.people.audit import Person
from dicom_node.receive.inspection import inspect
from dicom_node.studies import quarantine
from dicom_node.studies.purging import purge
from dicom_node.studies.reruns import rerun
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound, ultrasounds
from tests.outbox_lab import outgoing
from tests.peers import a_peer, a_receiver
from tests.unit.jobs.worker_lab import configuration, work
from tests.unit.receive.objects import changed, report

Make = Callable[..., Inbox]

TODAY = date(2026, 3, 1)


def rule(name: str = "rule", **values: Any) -> RuleSettings:
    always = {"when": {"modality": "*"}, "pipeline": "p", "send_to": ["pacs"]}
    return RuleSettings.model_validate({"name": name, **always, **values})


def image(uid: str = "1.2.3", **attributes: str) -> Instance:
    return an_image(uid, "1.2.840.10008.5.1.4.1.1.1.1", attributes.pop("modality", "DX"), **attributes)


def an_image(
    uid: str, sop_class: str, modality: str, role: ObjectRole = ObjectRole.SOURCE, **attributes: str
) -> Instance:
    return Instance(
        sop_instance_uid=uid,
        sop_class_uid=sop_class,
        modality=modality,
        role=role,
        calling_ae="ROOM1",
        called_ae="AINODE",
        attributes=attributes,
    )


def why(when: dict[str, Any], *images: Instance) -> list[str]:
    return [failed for one in images for _, failed in explain([rule(when=when)], one, {}) if failed]


@pytest.mark.parametrize(
    ("when", "attributes", "reason"),
    [
        ({}, {}, ""),
        ({"modality": "DX"}, {}, ""),
        ({"modality": ["CR", "DX"]}, {}, ""),
        ({"body_part": "chest"}, {"BodyPartExamined": "CHEST"}, ""),
        ({"study_description": "*thorax*"}, {"StudyDescription": "RX THORAX PA"}, ""),
        ({"series_description": "lung [?]"}, {"SeriesDescription": "LUNG [2]"}, ""),
        ({"view": ["PA", "AP"]}, {"ViewPosition": "AP"}, ""),
        ({"station": "BUCKY?"}, {"StationName": "BUCKY1"}, ""),
        ({"calling_ae": "ROOM*", "called_ae": "AINODE"}, {}, ""),
        ({"modality": "US"}, {}, "modality DX does not match US"),
        ({"body_part": ["CHEST", "THORAX"]}, {}, "body part is empty, not CHEST or THORAX"),
        ({"view": "PA"}, {"ViewPosition": "LL"}, "view LL does not match PA"),
        ({"calling_ae": "ROOM2"}, {}, "calling ae ROOM1 does not match ROOM2"),
        ({"modality": "DX", "view": "PA"}, {"ViewPosition": "LL"}, "view LL does not match PA"),
        (
            {"study_description": "thorax*"},
            {"StudyDescription": "Mrs Secret, knee"},
            "study description does not match thorax*",
        ),
        (
            {"body_part": "CHEST"},
            {"BodyPartExamined": "Secret^Jane"},
            "body part unknown (11 characters) does not match CHEST",
        ),
        # A code string, but no term.
        ({"modality": "US"}, {"modality": "ZQXCANARY"}, "modality unknown (9 characters) does not match US"),
    ],
)
def test_patterns_ignore_case_and_the_first_that_fails_is_named_without_free_text_of_a_header(
    when: dict[str, Any], attributes: dict[str, str], reason: str
) -> None:
    assert why(when, image(**attributes)) == [reason] * bool(reason)


def test_when_no_rule_applies_the_closest_one_is_named_with_all_that_failed() -> None:
    chest = rule("chest", when={"modality": ["CR", "DX"], "body_part": "CHEST", "view": "PA"})
    breast = rule("breast", when={"modality": "MG", "view": "CC", "calling_ae": "ROOM2"})
    images = [
        image("1.1", BodyPartExamined="KNEE"),
        image("1.2", BodyPartExamined="CHEST", ViewPosition="LL"),
    ]
    assert (
        why_none([breast, chest], images, {})
        == "no rule applies; closest is chest: view LL does not match PA"
    )
    assert why_none([breast, chest], images[:1], {}) == (
        "no rule applies; closest is chest: body part KNEE does not match CHEST and view is empty, not PA"
    )
    assert why_none([], images, {}) == "no rule applies: none is configured"
    assert why_none([chest], [], {}) == "no rule applies: the study has no images"


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [(rule(), []), (rule(secondary_captures_from=["grabber"]), [("3",)])],
    ids=["without secondary captures", "with those of the grabber"],
)
def test_companions_and_own_results_are_never_taken(
    chosen: RuleSettings, taken: list[tuple[str, ...]]
) -> None:
    objects = [
        an_image("1", "1.2.840.10008.5.1.4.1.1.6.1", "US", ObjectRole.OWN),
        an_image("2", "1.2.840.10008.5.1.4.1.1.88.33", "SR", ObjectRole.NON_SOURCE),
        an_image("3", "1.2.840.10008.5.1.4.1.1.7", "US"),
    ]
    decided = decide([chosen], "", objects, TODAY, {"ROOM1": "grabber"})
    assert [decision.source_uids for decision in decided] == taken


@pytest.mark.parametrize(
    ("study_date", "days", "held"),
    [
        ("20260222", 7, False),
        ("20260221", 7, True),
        ("19990101", 0, False),
        ("", 7, False),
        ("unknown", 7, False),
    ],
)
def test_an_old_study_is_held(study_date: str, days: float, held: bool) -> None:
    [decision] = decide([rule(max_study_age_days=days)], study_date, [image()], TODAY, {})
    assert bool(decision.held_reason) is held


@pytest.mark.parametrize(
    ("given", "held"), [("02/01/2019", True), ("02.01.2019", True), ("20190230", True), ("00000000", False)]
)
def test_a_study_whose_date_names_no_day_is_held(tmp_path: Path, given: str, held: bool) -> None:
    with quiet_pydicom():
        dataset = changed(ultrasound("x"), StudyDate=given)
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    found = inspect(tmp_path / "x.dcm")
    for days, requested, expected in ((7, False, held), (7, True, False), (0, False, False)):
        facts = [image(**found.attributes)]
        [decision] = decide(
            [rule(max_study_age_days=days)], found.study_date, facts, TODAY, {}, requested=requested
        )
        assert bool(decision.held_reason) is expected


@pytest.fixture
def configured(open_inbox: Make) -> Make:
    """A ruled without a network with one rule like this."""
    rule = {"name": "rule", "when": {"modality": "*"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
    return lambda **values: open_inbox({**CONFIG, "rules": [rule | values]})


@pytest.mark.parametrize(
    ("store", "priority", "job"),
    [(0, "routine", 0), (1, "low", 1), (2, "routine", -1), (2, "stat", 1), (0, "low", -1)],
)
def test_stat_comes_from_the_sender_or_the_rule(
    configured: Make, store: int, priority: str, job: int
) -> None:
    ruled = configured(priority=priority, max_study_age_days=0)
    ruled.settle(ultrasound("priority"), priority=store)
    assert ruled.column(Job.priority) == [job]


def test_the_first_studies_of_a_node_may_be_old(configured: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.jobs.queue.FIRST_STUDIES", 1)
    ruled = configured()
    for name in ("first", "second"):
        ruled.settle(ultrasound(name))
    assert ruled.column(Job.state) == [JobState.QUEUED, JobState.HELD]


ANNA = Person("anna", "10.0.0.1")


MARK = {"when": "mark suspected", "send_to": ["er"], "notify": ["on-call"], "priority": "STAT"}


def made(ruled: Inbox, *then: dict[str, Any], do: str = "find", **rule: Any) -> Settings:
    content = configuration(do)
    content["peers"].append(content["peers"][1] | a_peer("er"))
    content["rules"][0] |= {"then": list(then), **rule}
    content["notifications"] = [{"name": "on-call", "url": "https://127.0.0.1:9/x", "every_minutes": 0}]
    content["console"] = {"url": "https://ai-ruled.example.org"}
    return Settings.model_validate({**content, "node": {"data_dir": ruled.folder}})


@pytest.fixture
def ruled(open_inbox: Make) -> Inbox:
    return open_inbox(configuration())


def destinations(ruled: Inbox) -> list[str]:
    return sorted(row.destination for row in ruled.rows(Delivery))


def analysed_by_rules(ruled: Inbox, settings: Settings, number: int = 1) -> str:
    ruled.settings = settings
    ruled.reopen()
    Gatherer(ruled.database, settings).run_once()  # nothing of before is notified
    image = changed(ultrasound("one", number=number), StudyInstanceUID="1.2.840.1")
    ruled.settle(image)
    work(ruled)
    return str(image.StudyInstanceUID)


def notified(ruled: Inbox) -> list[str]:
    Gatherer(ruled.database, ruled.settings).run_once()
    return ruled.column(Notification.text)


def test_a_suspected_finding_goes_further_and_first_and_says_so_once(ruled: Inbox) -> None:
    uid = analysed_by_rules(ruled, made(ruled, MARK))
    assert destinations(ruled) == ["er", "er", "pacs", "pacs"]
    assert ruled.rows(Study)[0].priority == 1
    [text] = notified(ruled)
    assert text.startswith("Suspected: Mark\n")
    assert "https://ai-ruled.example.org/studies/1" in text
    assert "AI: " in text
    assert "job=" not in text
    assert uid not in text
    [event] = ruled.events(events.RESULTS_ROUTED.number)
    assert event.fields["destinations"] == "er"
    assert "mark" not in str(event.fields).lower()
    studies.rerun_rules(ruled.settings, [uid])
    work(ruled)
    assert destinations(ruled) == ["er", "er", "pacs", "pacs"], "each delivery once"
    assert len(notified(ruled)) == 1, "the same results are notified once"


def test_a_peer_that_got_a_finding_gets_the_report_that_replaces_it(ruled: Inbox) -> None:
    analysed_by_rules(ruled, made(ruled, MARK))
    before = destinations(ruled).count("er")
    analysed_by_rules(ruled, made(ruled, {**MARK, "when": "Pneumothorax suspected"}), number=2)
    assert destinations(ruled).count("er") > before


def test_a_result_that_is_held_is_notified_when_a_person_accepted_it(ruled: Inbox) -> None:
    uid = analysed_by_rules(ruled, made(ruled, MARK, assess_first=True))
    assert notified(ruled) == []
    held_results.accept_results(ruled.settings, uid, ANNA)
    assert [len(notified(ruled)) for _ in range(2)] == [1, 1]


def test_a_rejected_result_is_withheld_and_not_a_finding(ruled: Inbox) -> None:
    withheld = {"when": "withheld", "notify": ["on-call"]}
    uid = analysed_by_rules(ruled, made(ruled, {**MARK, "notify": []}, withheld, assess_first=True))
    held_results.reject_results(ruled.settings, uid, ANNA, because="Secret words")
    [text] = notified(ruled)
    assert text.startswith("Results of this study are withheld")
    assert "Secret" not in text
    assert set(ruled.column(Delivery.state)) == {S.DISCARDED}


@pytest.mark.parametrize("do", ["stumble", "not-clean"])
def test_a_study_that_was_not_assessed_is_routed(ruled: Inbox, do: str) -> None:
    settings = made(ruled, {**MARK, "when": "not assessed"}, do=do)
    once = settings.workers.model_copy(update={"attempts": 1})
    analysed_by_rules(ruled, settings.model_copy(update={"workers": once}))
    assert "er" in destinations(ruled)
    assert ruled.rows(Study)[0].priority == 1
    [text] = notified(ruled)
    assert text.startswith("The AI did not assess this study")


@pytest.mark.parametrize(
    "wrong",
    [
        {"when": " ", "send_to": ["er"]},
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


def test_what_no_pipeline_finds_or_nobody_configured_is_a_mistake() -> None:
    made = configuration()
    made["rules"][0] |= {
        "pipeline": "chest_xray",
        "options": {},
        "then": [
            {"when": "Pneumothorex suspected", "send_to": ["nobody"], "notify": ["no-one"]},
            {"when": "Atelectasis suspected", "send_to": ["modality"]},
        ],
    }
    found = {problem.key: problem.remedy for problem in preflight.check_data(made).problems}
    assert "Pleural effusion" in found["rules.rule.then"]
    assert "no such peer" in found["rules.rule.then[0].send_to"]
    assert "no such notification" in found["rules.rule.then[0].notify"]
    assert "may not receive" in found["rules.rule.then[1].send_to"]


S = DeliveryState


def inbox_that_forwards(open_inbox: Make, *forward: str) -> Inbox:
    peers = [
        *CONFIG["peers"],
        a_receiver("archive", 4243),
        a_receiver("both", 4244, may=["send", "receive"]),
    ]
    return open_inbox({**CONFIG, "peers": peers, "rules": [CONFIG["rules"][0] | {"forward": forward}]})


@pytest.fixture
def inbox(open_inbox: Make) -> Inbox:
    return inbox_that_forwards(open_inbox, "archive")


def rows(inbox: Inbox) -> list[tuple[str, str, str]]:
    """UID, destination and state of each delivery of an original."""
    uids = {row.id: row.sop_instance_uid for row in inbox.rows(Original)}
    sent = [row for row in inbox.rows(Delivery) if row.original_id]
    return [(uids[row.original_id], row.destination, row.state.value) for row in sent]


def states_of(inbox: Inbox) -> list[str]:
    return [state for _, _, state in rows(inbox)]


def jobs_succeed(inbox: Inbox) -> None:
    inbox.put(Job, state=JobState.SUCCEEDED, finished_at=utc_now())
    inbox.write(settle_study, 1)


def all_become(inbox: Inbox, state: DeliveryState) -> None:
    """As the outbox does it, the study with them."""
    inbox.put(Delivery, state=state, confirmed_at=utc_now() if state is S.CONFIRMED else None)
    for study in inbox.rows(Study):
        inbox.write(settle_study, study.id)


def test_each_image_that_the_rule_takes_is_forwarded_once(inbox: Inbox) -> None:
    first, second, late = ultrasounds("one", 3)
    inbox.index(first, second)
    assert rows(inbox) == [], "not before the study is complete"
    inbox.settle()
    wanted = [(first.SOPInstanceUID, "archive", "pending"), (second.SOPInstanceUID, "archive", "pending")]
    assert rows(inbox) == wanted
    assert inbox.column(EventRow.number).count(events.ORIGINALS_FORWARDED.number) == 1
    inbox.write(rerun, 1, inbox.settings)
    assert rows(inbox) == wanted, "a rerun neither withdraws nor repeats it"
    all_become(inbox, S.CONFIRMED)
    inbox.settle(late)
    assert states_of(inbox) == ["confirmed", "confirmed", "pending"]


def test_a_corrected_version_is_forwarded_too_and_an_unsent_one_before_it_is_not(inbox: Inbox) -> None:
    image = ultrasound("corrected")
    inbox.settle(image)
    inbox.index(changed(image, PatientName="Correct^Name"))
    assert states_of(inbox) == ["cancelled"]
    inbox.settle()
    assert states_of(inbox) == ["cancelled", "pending"]
    paths = inbox.read(lambda session: [row.path for row in session.scalars(select(Original))])
    assert paths[-1] == inbox.instance(image).path


def test_a_duplicate_is_not_forwarded_again_nor_a_purged_image_that_comes_again(inbox: Inbox) -> None:
    image = ultrasound("again")
    inbox.settle(image)
    inbox.settle(image, changed(image, InstanceCreationTime="120000"))
    all_become(inbox, S.CONFIRMED)
    jobs_succeed(inbox)
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == 2
    inbox.index(image)
    inbox.write(rerun, 1, inbox.settings)
    assert states_of(inbox) == ["confirmed"]
    purged = inbox.read(lambda session: [row.purged for row in session.scalars(select(Original))])
    assert purged == [False], "its file is the new one"


def test_a_corrected_report_of_a_modality_is_forwarded_anew(inbox: Inbox) -> None:
    image = ultrasound("reported")
    document = changed(report(image), CompletionFlagDescription="no cyst")
    inbox.settle(image, document)
    all_become(inbox, S.CONFIRMED)
    inbox.settle(changed(document, CompletionFlagDescription="cyst of 40 mm"))
    assert [row[2] for row in rows(inbox) if row[0] == document.SOPInstanceUID] == ["confirmed", "pending"]


@pytest.mark.parametrize("calling", ["BOTH", "both"])
def test_nothing_goes_back_to_who_sent_it(open_inbox: Make, calling: str) -> None:
    inbox = inbox_that_forwards(open_inbox, "both", "archive")
    inbox.settle(ultrasound("mine"), calling=calling)
    assert [row[1] for row in rows(inbox)] == ["archive"]


def test_nothing_of_a_study_in_quarantine_is_forwarded_until_it_is_released(inbox: Inbox) -> None:
    first, second = ultrasounds("one", 2)
    inbox.settle(first)
    inbox.settle(changed(second, PatientID="SOMEBODY-ELSE"))
    assert states_of(inbox) == ["cancelled"]
    with pytest.raises(NotAllowedNow, match="quarantine"):
        inbox.write(outbox.retry, 1)
    inbox.write(quarantine.release_study, 1)
    inbox.settle()
    assert rows(inbox) == [(first.SOPInstanceUID, "archive", "pending")], "the other is another patient's"


@pytest.mark.parametrize(
    ("state", "goes"),
    [(S.PENDING, 0), (S.UNCONFIRMED, 0), (S.DEAD, 0), (S.CONFIRMED, 1), (S.DISCARDED, 1)],
)
def test_files_stay_until_the_images_are_confirmed(inbox: Inbox, state: DeliveryState, goes: int) -> None:
    inbox.settle(ultrasound("stays"))
    jobs_succeed(inbox)
    all_become(inbox, state)
    inbox.put(Study, state=StudyState.DELIVERED)  # as if nothing else were waited for
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == goes


def test_the_study_says_failed_while_an_image_is_a_dead_letter(inbox: Inbox) -> None:
    inbox.settle(ultrasound("dead"))
    jobs_succeed(inbox)
    all_become(inbox, S.DEAD)
    assert inbox.rows(Study)[0].state is StudyState.FAILED
    assert inbox.write(outbox.retry_all) == [1]
    assert inbox.rows(Study)[0].state is StudyState.DELIVERING


def test_a_late_report_of_the_device_is_forwarded_and_starts_no_job(inbox: Inbox) -> None:
    image = ultrasound("beside")
    inbox.settle(image)
    jobs_succeed(inbox)
    all_become(inbox, S.CONFIRMED)
    late, other = report_of(image, 1), report_of(image, 2)
    inbox.receive(late)
    inbox.index(other, calling="QUICK")
    assert states_of(inbox) == ["confirmed", "pending"]
    assert rows(inbox)[1][0] == late.SOPInstanceUID
    assert (len(inbox.jobs()), inbox.study_of(image).state) == (1, StudyState.DELIVERING)


def test_the_last_check_keeps_it_from_a_destination_that_is_de_identified_by_now(inbox: Inbox) -> None:
    image = ultrasound("named")
    inbox.settle(image)
    item = replace(outgoing(image, inbox.folder), is_original=True)
    whole = replace(item, bytes=item.path.stat().st_size)
    peer = inbox.settings.peer("archive")
    assert inspection.fault(whole, peer) == ""
    assert "names the patient" in inspection.fault(whole, peer.model_copy(update={"deidentify": True}))
    assert "missing or damaged" in inspection.fault(item, peer)


def report_of(image: Dataset, number: int) -> Dataset:
    """A report of the device in the study of the image."""
    return changed(report(image), SOPInstanceUID=derived_uid("test", "report", str(number)))
