"""Studies that should have a result by the rules, and have none; what is asked for and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node import fetch
from dicom_node.config.settings import PeerSettings
from dicom_node.events import STUDIES_MISSING
from dicom_node.model.lifecycle import FetchState, StudyState
from dicom_node.scu import open_archive
from dicom_node.store import fetches
from dicom_node.store.tables import Fetch
from tests.archive_lab import FakeArchive, answer_for, film, inbox_beside, peer
from tests.inbox_lab import Inbox
from tests.pacs_lab import free_port, run_pacs

DELIVERED = StudyState.DELIVERED
TODAY = f"{datetime.now().astimezone():%Y%m%d}"


def why(inbox: Inbox, days: int = 1) -> dict[str, str]:
    found = fetch.missing(inbox.database, inbox.settings, inbox.settings.peer("archive"), days)
    return {one.found.study_instance_uid: one.why for one in found}


def test_what_never_came_or_came_in_part_is_missing_and_fetched(tmp_path: Path) -> None:
    never, part, whole, failed = (film(name) for name in ("never", "part", "whole", "failed"))
    answers = [answer_for(image, StudyDate=TODAY) for image in (never, part, whole, failed)]
    answers[1].NumberOfStudyRelatedInstances = 2
    answers[2].NumberOfStudyRelatedInstances = 1
    other = answer_for(film("other"), StudyDate=TODAY, ModalitiesInStudy="MG")
    with run_pacs(FakeArchive(free_port(), answers=[*answers, other]), classes=()) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port, missing_days=1)
        inbox.receive(part, whole, failed)
        inbox.settle()
        with inbox.database.write() as session:
            here = fetches.here(session, [image.StudyInstanceUID for image in (part, whole, failed)])
            for image, state in ((part, DELIVERED), (whole, DELIVERED), (failed, StudyState.FAILED)):
                here[image.StudyInstanceUID].state, here[image.StudyInstanceUID].reason = state, "a reason"
        assert why(inbox) == {
            never.StudyInstanceUID: "it never came",
            part.StudyInstanceUID: "incomplete: 1 of 2 objects came",
            failed.StudyInstanceUID: "failed: a reason",
        }
        assert fetch.report_missing(inbox.database, inbox.settings) == 3
        [event] = [row for row in inbox.events() if row.number == STUDIES_MISSING.number]
        assert (event.fields["peer"], event.fields["number"]) == ("archive", 3)
        rows = fetch.missing(inbox.database, inbox.settings, inbox.settings.peer("archive"), 1)
        with inbox.database.write() as session:
            for row in rows:
                if row.fetchable:
                    fetch.fetch_missing(session, "archive", row)
        assert set(why(inbox)) == {failed.StudyInstanceUID}  # the others are on their way


def test_without_missing_days_nobody_is_asked(tmp_path: Path) -> None:
    inbox = inbox_beside(tmp_path, free_port())  # where nobody listens: a question would fail
    assert fetch.report_missing(inbox.database, inbox.settings) == 0


def test_a_study_is_asked_for_once_again_and_cancelled(tmp_path: Path) -> None:
    image = film("once")
    with run_pacs(FakeArchive(free_port(), answers=[answer_for(image)]), classes=()) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port)
        archive = open_archive(inbox.settings.peer("archive"), inbox.settings)
        asked = fetch.questions(date(2024, 3, 1), date(2024, 3, 3), ["DX"])
        assert len(asked) == 3
        first = fetch.ask(inbox.database, archive, "archive", asked)
        again = fetch.ask(inbox.database, archive, "archive", asked)
    assert (first.wanted, again.wanted, first.first, again.first) == (1, 1, 1, 1)
    with inbox.database.write() as session:
        assert fetch.cancel(session, "archive") == 1
        assert fetch.cancel(session, "archive") == 0
        assert fetch.ask_again(session, "archive") == 1
        [row] = fetches.listed(session)
        assert row.state is FetchState.WAITING


def test_the_pace_is_that_of_the_peer_or_slower_and_a_clock_put_back_stops_nothing(tmp_path: Path) -> None:
    inbox = inbox_beside(tmp_path, free_port(), fetch_per_minute=60)
    fetcher = fetch.Fetcher(inbox.database, inbox.settings, inbox.settings.peer("archive"), "test")
    now = datetime.now(UTC)

    def pause(per_minute: float, last: datetime | None) -> float:
        return fetcher._pause(Fetch(per_minute=per_minute), last, now)

    assert pause(0, None) == 0
    assert pause(0, now) == 1
    assert pause(600, now) == 1
    assert pause(6, now - timedelta(seconds=4)) == 6
    assert pause(0, now - timedelta(seconds=5)) <= 0
    assert pause(0, now + timedelta(hours=3)) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"retrieve": "move"}, 'add "send" to may'),
        ({"port": None}, "host and port"),
        ({"transport": "dicomweb"}, "needs url"),
        ({"may": ["send"], "missing_days": 3}, 'may = \\["query"\\]'),
    ],
)
def test_a_peer_that_cannot_be_asked_is_a_mistake(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PeerSettings.model_validate({**peer(104), **wrong})
