"""Which rule takes which image, and where what the node has or makes of it goes."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node import events, outbox, preflight
from dicom_node.config.settings import ResultSettings, RuleSettings, Settings
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import NotAllowedNow
from dicom_node.events import RESULTS_ROUTED
from dicom_node.inbox.inspection import inspect
from dicom_node.jobs.rules import ImageFacts, StudyFacts, decide, explain, why_none
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.notifications.gather import Gatherer
from dicom_node.outbox import last_check
from dicom_node.services import assessments, studies
from dicom_node.services.audit import Person
from dicom_node.store.tables import Delivery, Job, Notification, Original, Study
from dicom_node.store.transitions import settle_study, utc_now
from dicom_node.studies.purge import purge
from dicom_node.studies.quarantine import release_study
from dicom_node.studies.rerun import rerun
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.outbox_lab import outgoing
from tests.unit.inbox.objects import changed, report
from tests.unit.jobs.worker_lab import configuration, work

TODAY = date(2026, 3, 1)


def rule(name: str = "rule", **values: Any) -> RuleSettings:
    always = {"when": {"modality": "*"}, "pipeline": "p", "send_to": ["pacs"]}
    return RuleSettings.model_validate({"name": name, **always, **values})


def image(uid: str = "1.2.3", **attributes: str) -> ImageFacts:
    return ImageFacts(
        uid,
        "1.2.840.10008.5.1.4.1.1.1.1",
        attributes.pop("modality", "DX"),
        ObjectRole.SOURCE,
        calling_ae="ROOM1",
        called_ae="AINODE",
        sender="room1",
        attributes=attributes,
    )


def why(when: dict[str, Any], *images: ImageFacts) -> list[str]:
    return [told.reason for one in images for told in explain([rule(when=when)], one) if not told.applies]


@pytest.mark.parametrize(
    ("when", "attributes"),
    [
        ({}, {}),
        ({"modality": "DX"}, {}),
        ({"modality": ["CR", "dx"]}, {}),
        ({"body_part": "chest"}, {"BodyPartExamined": "CHEST"}),
        ({"study_description": "*thorax*"}, {"StudyDescription": "RX THORAX PA"}),
        ({"series_description": "lung [?]"}, {"SeriesDescription": "LUNG [2]"}),
        ({"view": ["PA", "AP"]}, {"ViewPosition": "AP"}),
        ({"station": "BUCKY?"}, {"StationName": "BUCKY1"}),
        ({"calling_ae": "ROOM*", "called_ae": "AINODE"}, {}),
    ],
)
def test_patterns_ignore_case_and_all_conditions_hold_together(
    when: dict[str, Any], attributes: dict[str, str]
) -> None:
    assert why(when, image(**attributes)) == []


@pytest.mark.parametrize(
    ("when", "attributes", "reason"),
    [
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
def test_the_first_condition_that_fails_is_named_and_no_free_text_of_a_header_is_repeated(
    when: dict[str, Any], attributes: dict[str, str], reason: str
) -> None:
    assert why(when, image(**attributes)) == [reason]


def test_when_no_rule_applies_the_closest_one_is_named_with_all_that_failed() -> None:
    chest = rule("chest", when={"modality": ["CR", "DX"], "body_part": "CHEST", "view": "PA"})
    breast = rule("breast", when={"modality": "MG", "view": "CC", "calling_ae": "ROOM2"})
    images = [
        image("1.1", BodyPartExamined="KNEE"),
        image("1.2", BodyPartExamined="CHEST", ViewPosition="LL"),
    ]
    assert why_none([breast, chest], images) == "no rule applies; closest is chest: view LL does not match PA"
    assert why_none([breast, chest], images[:1]) == (
        "no rule applies; closest is chest: body part KNEE does not match CHEST and view is empty, not PA"
    )
    assert why_none([], images) == "no rule applies: none is configured"
    assert why_none([chest], []) == "no rule applies: the study has no images"


def test_companions_and_own_results_are_never_taken() -> None:
    own = ImageFacts("1", "1.2.840.10008.5.1.4.1.1.6.1", "US", ObjectRole.OWN)
    report = ImageFacts("2", "1.2.840.10008.5.1.4.1.1.88.33", "SR", ObjectRole.NON_SOURCE)
    capture = ImageFacts("3", "1.2.840.10008.5.1.4.1.1.7", "US", ObjectRole.SOURCE, sender="grabber")
    for one, taken in ((rule(), []), (rule(secondary_captures_from=["grabber"]), [("3",)])):
        decided = decide([one], StudyFacts("", TODAY), [own, report, capture])
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
    [decision] = decide([rule(max_study_age_days=days)], StudyFacts(study_date, TODAY), [image()])
    assert bool(decision.held_reason) is held


@pytest.mark.parametrize(("given", "held"), [("02.01.2019", True), ("20190230", True), ("00000000", False)])
def test_a_study_whose_date_names_no_day_is_held(tmp_path: Path, given: str, held: bool) -> None:
    with quiet_pydicom():
        dataset = changed(ultrasound("x"), StudyDate=given)
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    found = inspect(tmp_path / "x.dcm")
    facts = image(**found.attributes)
    for days, asked_for, expected in ((7, False, held), (7, True, False), (0, False, False)):
        study = StudyFacts(found.study_date, TODAY, asked_for=asked_for)
        [decision] = decide([rule(max_study_age_days=days)], study, [facts])
        assert bool(decision.held_reason) is expected


Configured = Callable[..., Inbox]


@pytest.fixture
def configured(open_inbox: Configured) -> Configured:
    """A node without a network with one rule like this."""
    rule = {"name": "rule", "when": {"modality": "*"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
    return lambda **values: open_inbox({**CONFIG, "rules": [rule | values]})


def test_the_daily_cap_counts_studies_of_one_sender(configured: Configured) -> None:
    node = configured(daily_cap=2, max_study_age_days=0)
    for number in range(3):
        node.settle(ultrasound(f"many{number}"))
    node.settle(ultrasound("other"), calling="QUICK")
    assert [job.state.value for job in node.jobs()] == ["queued", "queued", "held", "queued"]


@pytest.mark.parametrize(
    ("store", "priority", "job"),
    [(0, "routine", 0), (1, "low", 1), (2, "routine", -1), (2, "stat", 1), (0, "low", -1)],
)
def test_stat_comes_from_the_sender_or_the_rule(
    configured: Configured, store: int, priority: str, job: int
) -> None:
    node = configured(priority=priority, max_study_age_days=0)
    node.settle(ultrasound("priority"), priority=store)
    assert [row.priority for row in node.jobs()] == [job]


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
def node(open_inbox: Configured) -> Inbox:
    return open_inbox(configuration())


def destinations(node: Inbox) -> list[str]:
    return sorted(row.destination for row in node.rows(Delivery))


def analysed(node: Inbox, settings: Settings, number: int = 1) -> str:
    node.settings = settings
    node.reopen()
    Gatherer(node.database, settings).run_once()  # nothing of before is notified
    image = changed(ultrasound("one", number=number), StudyInstanceUID="1.2.840.1")
    node.settle(image)
    work(node)
    return str(image.StudyInstanceUID)


def notified(node: Inbox) -> list[str]:
    Gatherer(node.database, node.settings).run_once()
    return [row.text for row in node.rows(Notification)]


def test_a_suspected_finding_goes_further_and_first_and_says_so_once(node: Inbox) -> None:
    uid = analysed(node, made(node, MARK))
    assert destinations(node) == ["er", "er", "pacs", "pacs"]
    assert node.rows(Study)[0].priority == 1
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


def test_a_peer_that_got_a_finding_gets_the_report_that_replaces_it(node: Inbox) -> None:
    analysed(node, made(node, MARK))
    before = destinations(node).count("er")
    analysed(node, made(node, {**MARK, "when": "Pneumothorax suspected"}), number=2)
    assert destinations(node).count("er") > before


def test_a_result_that_is_held_is_notified_when_a_person_accepted_it(node: Inbox) -> None:
    uid = analysed(node, made(node, MARK, assess_first=True))
    assert notified(node) == []
    assessments.accept_results(node.settings, uid, ANNA)
    assert [len(notified(node)) for _ in range(2)] == [1, 1]


def test_a_rejected_result_is_withheld_and_not_a_finding(node: Inbox) -> None:
    withheld = {"when": "withheld", "notify": ["on-call"]}
    uid = analysed(node, made(node, {**MARK, "notify": []}, withheld, assess_first=True))
    assessments.reject_results(node.settings, uid, ANNA, because="Secret words")
    [text] = notified(node)
    assert text.startswith("Results of this study are withheld") and "Secret" not in text
    assert {row.state for row in node.rows(Delivery)} == {S.DISCARDED}


@pytest.mark.parametrize("do", ["stumble", "not-clean"])
def test_a_study_that_was_not_assessed_is_routed(node: Inbox, do: str) -> None:
    settings = made(node, {**MARK, "when": "not assessed"}, do=do)
    once = settings.workers.model_copy(update={"attempts": 1})
    analysed(node, settings.model_copy(update={"workers": once}))
    assert "er" in destinations(node) and node.rows(Study)[0].priority == 1
    [text] = notified(node)
    assert text.startswith("The AI did not assess this study")


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


S = DeliveryState


ARCHIVE = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}


BOTH = {"name": "both", "ae_title": "BOTH", "host": "127.0.0.1", "port": 4244, "may": ["send", "receive"]}


def inbox_that_forwards(open_inbox: Configured, *forward: str) -> Inbox:
    rule = CONFIG["rules"][0] | {"forward": forward}
    return open_inbox({**CONFIG, "peers": [*CONFIG["peers"], ARCHIVE, BOTH], "rules": [rule]})


@pytest.fixture
def inbox(open_inbox: Configured) -> Inbox:
    return inbox_that_forwards(open_inbox, "archive")


def rows(inbox: Inbox) -> list[tuple[str, str, str]]:
    """UID, destination and state of each delivery of an original."""
    uids = {row.id: row.sop_instance_uid for row in inbox.rows(Original)}
    sent = [row for row in inbox.rows(Delivery) if row.original_id]
    return [(uids[row.original_id], row.destination, row.state.value) for row in sent]


def states(inbox: Inbox) -> list[str]:
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
    first, second, late = (ultrasound("one", number=number) for number in (1, 2, 3))
    inbox.index(first, second)
    assert rows(inbox) == [], "not before the study is complete"
    inbox.settle()
    wanted = [(first.SOPInstanceUID, "archive", "pending"), (second.SOPInstanceUID, "archive", "pending")]
    assert rows(inbox) == wanted
    assert [event.number for event in inbox.events()].count(events.ORIGINALS_FORWARDED.number) == 1
    inbox.write(rerun, 1, inbox.settings)
    assert rows(inbox) == wanted, "a rerun neither withdraws nor repeats it"
    all_become(inbox, S.CONFIRMED)
    inbox.settle(late)
    assert states(inbox) == ["confirmed", "confirmed", "pending"]


def test_a_corrected_version_is_forwarded_too_and_an_unsent_one_before_it_is_not(inbox: Inbox) -> None:
    image = ultrasound("corrected")
    inbox.settle(image)
    inbox.index(changed(image, PatientName="Correct^Name"))
    assert states(inbox) == ["cancelled"]
    inbox.settle()
    assert states(inbox) == ["cancelled", "pending"]
    with inbox.database.read() as session:
        newest = session.scalars(select(Original).order_by(Original.id.desc())).first()
        assert newest and newest.path == inbox.instance(image.SOPInstanceUID).path


def test_a_duplicate_is_not_forwarded_again_nor_a_purged_image_that_comes_again(inbox: Inbox) -> None:
    image = ultrasound("again")
    inbox.settle(image)
    inbox.settle(image, changed(image, InstanceCreationTime="120000"))
    all_become(inbox, S.CONFIRMED)
    jobs_succeed(inbox)
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == 2
    inbox.index(image)
    inbox.write(rerun, 1, inbox.settings)
    assert states(inbox) == ["confirmed"]
    with inbox.database.read() as session:
        assert not session.scalars(select(Original)).one().purged, "its file is the new one"


def test_a_corrected_report_of_a_modality_is_forwarded_anew(inbox: Inbox) -> None:
    image = ultrasound("reported")
    document = changed(report(image), CompletionFlagDescription="no cyst")
    inbox.settle(image, document)
    all_become(inbox, S.CONFIRMED)
    inbox.settle(changed(document, CompletionFlagDescription="cyst of 40 mm"))
    theirs = [row[2] for row in rows(inbox) if row[0] == document.SOPInstanceUID]
    assert theirs == ["confirmed", "pending"]


@pytest.mark.parametrize("calling", ["BOTH", "both"])
def test_nothing_goes_back_to_who_sent_it(open_inbox: Configured, calling: str) -> None:
    inbox = inbox_that_forwards(open_inbox, "both", "archive")
    inbox.settle(ultrasound("mine"), calling=calling)
    assert [row[1] for row in rows(inbox)] == ["archive"]


def test_nothing_of_a_study_in_quarantine_is_forwarded_until_it_is_released(inbox: Inbox) -> None:
    first, second = (ultrasound("one", number=number) for number in (1, 2))
    inbox.settle(first)
    inbox.settle(changed(second, PatientID="SOMEBODY-ELSE"))
    assert states(inbox) == ["cancelled"]
    with pytest.raises(NotAllowedNow, match="quarantine"):
        inbox.write(outbox.retry, 1)
    inbox.write(release_study, 1)
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
    assert states(inbox) == ["confirmed", "pending"]
    assert rows(inbox)[1][0] == late.SOPInstanceUID
    assert (len(inbox.jobs()), inbox.study(image.StudyInstanceUID).state) == (1, StudyState.DELIVERING)


def test_the_last_check_keeps_it_from_a_destination_that_is_de_identified_by_now(inbox: Inbox) -> None:
    image = ultrasound("named")
    inbox.settle(image)
    item = outgoing(image, inbox.folder)
    size = item.path.stat().st_size
    peer = inbox.settings.peer("archive")
    assert last_check.fault_of_original(item, peer, size) == ""
    blind = peer.model_copy(update={"deidentify": True})
    assert "names the patient" in last_check.fault_of_original(item, blind, size)
    assert "missing or damaged" in last_check.fault_of_original(item, peer, size + 1)


def report_of(image: Dataset, number: int) -> Dataset:
    """A report of the device in the study of the image."""
    return changed(report(image), SOPInstanceUID=derived_uid("test", "report", str(number)))
