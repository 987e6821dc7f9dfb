"""Which rule takes which image, and the first reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.settings import RuleSettings
from dicom_node.jobs.rules import ImageFacts, StudyFacts, decide, explain, why_none
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed

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
    ],
)
def test_the_first_condition_that_fails_is_named(
    when: dict[str, Any], attributes: dict[str, str], reason: str
) -> None:
    assert why(when, image(**attributes)) == [reason]


def test_free_text_of_a_header_is_never_repeated() -> None:
    [reason] = why({"study_description": "thorax*"}, image(StudyDescription="Mrs Secret, knee"))
    assert reason == "study description does not match thorax*"
    [reason] = why({"body_part": "CHEST"}, image(BodyPartExamined="Secret^Jane"))
    assert reason == "body part unknown (11 characters) does not match CHEST"
    [reason] = why({"modality": "US"}, image(modality="ZQXCANARY"))
    assert reason == "modality unknown (9 characters) does not match US", "a code string, but no term"


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
    assert decide([rule()], StudyFacts("", TODAY), [own, report, capture]) == []
    named = rule(secondary_captures_from=["grabber"])
    [decision] = decide([named], StudyFacts("", TODAY), [own, report, capture])
    assert decision.source_uids == ("3",)


def test_images_stand_in_the_order_of_the_examination_however_they_came() -> None:
    images = [image(f"1.{n}", SeriesNumber=str(n % 2), InstanceNumber=str(9 - n)) for n in range(6)]
    [one] = decide([rule()], StudyFacts("", TODAY), images)
    [other] = decide([rule()], StudyFacts("", TODAY), images[::-1])
    assert one.source_uids == other.source_uids == ("1.4", "1.2", "1.0", "1.5", "1.3", "1.1")


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


def test_a_peer_that_had_its_jobs_of_the_day_is_held_and_others_are_not() -> None:
    capped = rule(daily_cap=2)
    for count, held in ((1, False), (2, True), (3, True)):
        facts = StudyFacts("", TODAY, {("rule", "ROOM1"): count, ("rule", "ROOM2"): 99})
        [decision] = decide([capped], facts, [image()])
        assert bool(decision.held_reason) is held


Configured = Callable[..., Inbox]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """A node without a network with one rule like this."""
    made = []

    def make(**values: Any) -> Inbox:
        always = {"modality": "*"}
        one = {"name": "rule", "when": always, "pipeline": "ultrasound", "send_to": ["pacs"], **values}
        made.append(Inbox(tmp_path / "var", {**CONFIG, "rules": [one]}))
        return made[-1]

    yield make
    for node in made:
        node.close()


def test_what_a_limit_stops_is_listed_with_the_reason(configured: Configured) -> None:
    node = configured(max_study_age_days=7)
    old = changed(ultrasound("old"), StudyDate="19991231")
    node.receive(old)
    node.settle()
    [job] = node.jobs()
    assert job.state is JobState.HELD and "days old" in job.reason
    study = node.study(old.StudyInstanceUID)
    assert study.state is StudyState.NOT_APPLICABLE and study.reason.startswith("held: ")


def test_the_daily_cap_counts_studies_of_one_sender(configured: Configured) -> None:
    node = configured(daily_cap=2, max_study_age_days=0)
    for number in range(3):
        node.receive(ultrasound(f"many{number}"))
        node.settle()
    node.receive(ultrasound("other"), calling="QUICK")
    node.settle()
    assert [job.state.value for job in node.jobs()] == ["queued", "queued", "held", "queued"]


@pytest.mark.parametrize(
    ("store", "priority", "job"),
    [(0, "routine", 0), (1, "low", 1), (2, "routine", -1), (2, "stat", 1), (0, "low", -1)],
)
def test_stat_comes_from_the_sender_or_the_rule(
    configured: Configured, store: int, priority: str, job: int
) -> None:
    node = configured(priority=priority, max_study_age_days=0)
    node.receive(ultrasound("priority"), priority=store)
    node.settle()
    assert [row.priority for row in node.jobs()] == [job]


def test_a_study_of_today_is_young(configured: Configured) -> None:
    node = configured(max_study_age_days=1)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    node.receive(changed(ultrasound("young"), StudyDate=f"{yesterday:%Y%m%d}"))
    node.settle()
    assert [row.state for row in node.jobs()] == [JobState.QUEUED]
