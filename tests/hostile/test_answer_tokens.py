"""Results that are sent with the token of a study: others' tokens, old ones, 10,000 that are made up."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import requests
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.base.answer_token import AnswerTokens
from dicom_node.base.events import ANSWER_REFUSED
from dicom_node.base.lifecycle import AssociationOutcome, AwaitedState
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.tables import Association, EventRow, Job, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import answers
from tests.browser_lab import served_app
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import part_10, ultrasound
from tests.service_lab import KIND, multipart


@dataclass
class Door:
    """A console on a real port, and studies that a service has."""

    node: Inbox
    url: str
    tokens: AnswerTokens

    def awaited(self, image: Dataset, **changed: object) -> str:
        """A study that is at the service; the token of its answer."""
        self.node.settle(image)
        uid, now = str(image.StudyInstanceUID), utc_now()
        with self.node.database.write() as session:
            study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
            job = session.scalars(select(Job).where(Job.study_id == study.id)).first()
            assert job is not None
            values = {
                "study_id": study.id, "job_id": job.id, "peer": "pacs", "study_instance_uid": uid,
                "state": AwaitedState.AWAITED, "began_at": now, "limit_at": now + timedelta(minutes=5),
                "next_at": now,
            }  # fmt: skip
            row = AwaitedAnswer(**values | changed)
            session.add(row)
            session.flush()
            return self.tokens.make(row.id, row.began_at)

    def post(self, token: str, objects: list[Dataset], study: str = "") -> requests.Response:
        """Send these with a token."""
        return requests.post(
            f"{self.url}/answers/studies{study}",
            data=multipart([part_10(one) for one in objects]),
            headers={"Authorization": f"Bearer {token}", "Content-Type": KIND},
            timeout=60,
        )

    def waiting(self) -> int:
        """Objects that are stored and not indexed."""
        return len(self.node.spool.pending())

    def refusals(self) -> list[tuple[str, int]]:
        """Reason and number of requests of each event on refusals."""
        with self.node.database.read() as session:
            rows = session.scalars(select(EventRow).where(EventRow.number == ANSWER_REFUSED.number))
            return [(str(row.fields["reason"]), int(row.fields["requests"])) for row in rows]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    node = Inbox(tmp_path / "var")
    lab = ConsoleLab(node.settings, node.database)
    lab.change("spool", minimum_free_mib=0)
    with served_app(lab) as address:
        yield Door(node, address, AnswerTokens(node.settings.node.data_dir))
    node.close()


def same_study(image: Dataset) -> list[Dataset]:
    """Two results of the study of an image."""
    results = [ultrasound("result", number=number, size=(64, 64)) for number in (1, 2)]
    for one in results:
        one.StudyInstanceUID, one.PatientID = image.StudyInstanceUID, image.PatientID
    return results


def test_results_with_the_token_of_their_study_are_stored_under_their_service(door: Door) -> None:
    image = ultrasound("one")
    answer = door.post(door.awaited(image), same_study(image))
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["00081199"]["Value"]) == 2
    assert door.waiting() == 2
    with door.node.database.read() as session:
        [row] = session.scalars(select(Association).where(Association.listener == "answers"))
        assert row.calling_ae == door.node.settings.peer("pacs").ae_title
        assert row.closed_at is not None
        assert row.outcome is AssociationOutcome.RELEASED
        assert row.objects == 2


def test_half_a_request_is_an_association_that_was_aborted(door: Door) -> None:
    """So that an answer of which more may have been to come is not taken for a whole one."""
    image = ultrasound("one")
    whole = multipart([part_10(one) for one in same_study(image)])
    headers = {"Authorization": f"Bearer {door.awaited(image)}", "Content-Type": KIND}
    url = f"{door.url}/answers/studies"
    assert requests.post(url, data=whole[:-50], headers=headers, timeout=60).status_code == 400
    assert door.waiting() == 1
    with door.node.database.read() as session:
        [row] = session.scalars(select(Association).where(Association.listener == "answers"))
        assert row.outcome is AssociationOutcome.ABORTED


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state": AwaitedState.ANSWERED}, answers.Refusal.ENDED),
        ({"state": AwaitedState.SILENT}, answers.Refusal.ENDED),
        ({"state": AwaitedState.WAITING}, answers.Refusal.ENDED),
        ({"limit_at": utc_now() - timedelta(seconds=1)}, answers.Refusal.ENDED),
        ({"peer": "nobody"}, answers.Refusal.UNKNOWN),
    ],
    ids=["whole", "given up", "not sent yet", "time over", "peer is gone"],
)
def test_a_token_is_worth_nothing_outside_of_its_time(
    door: Door, changed: dict[str, object], reason: answers.Refusal
) -> None:
    image = ultrasound("one")
    answer = door.post(door.awaited(image, **changed), same_study(image))
    assert answer.status_code == 401
    assert door.waiting() == 0
    assert door.refusals() == [(reason.value, 1)]


def test_the_token_of_another_study_stores_nothing(door: Door) -> None:
    mine, others = ultrasound("one"), ultrasound("two")
    token, _ = door.awaited(mine), door.awaited(others)
    answer = door.post(token, same_study(others))
    assert answer.status_code == 409, "each object is of another study"
    assert door.post(token, same_study(others), f"/{others.StudyInstanceUID}").status_code == 401
    assert door.refusals() == [(answers.Refusal.OTHER_STUDY.value, 1)]
    assert door.waiting() == 0


def test_a_token_that_names_another_time_or_number_is_made_up(door: Door) -> None:
    token = door.awaited(ultrasound("one"))
    number, began, mark = token.split("-")
    for made_up in (f"{int(number) + 1}-{began}-{mark}", f"{number}-{int(began) + 1}-{mark}", token[:-1], ""):
        assert door.post(made_up, []).status_code == 401
    older = door.tokens.make(int(number), utc_now() - timedelta(days=1))
    assert door.post(older, []).status_code == 401, "of a database that was replaced"


def test_ten_thousand_made_up_tokens_are_one_event_and_no_search(door: Door) -> None:
    image = ultrasound("one")
    token = door.awaited(image)
    made_up = f"1-1-{'0' * 64}"
    local = threading.local()

    def ask(_: int) -> int:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        headers = {"Authorization": f"Bearer {made_up}"}
        answered: int = local.session.post(
            f"{door.url}/answers/studies", headers=headers, timeout=60
        ).status_code
        return answered

    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(ask, range(10_000))} <= {401, 503}
    assert door.refusals() == [(answers.Refusal.UNKNOWN.value, 1)]
    assert door.post(token, same_study(image)).status_code == 200, "the service is heard all the same"


def test_the_next_event_says_how_many_were_refused_meanwhile(door: Door) -> None:
    now = [0.0]
    gate = answers.AnswerDoor(door.node.database, door.node.settings, lambda: now[0])
    for at in (0, 1, 2, 3601):
        now[0] = at
        with pytest.raises(answers.TokenRefused):
            gate.admit("made up")
    assert [number for _, number in door.refusals()] == [1, 3]


def test_an_answer_ends_while_its_objects_come(door: Door) -> None:
    """What came before is stored; what comes after its end is not."""
    image = ultrasound("one")
    token = door.awaited(image)

    def body() -> Iterator[bytes]:
        whole = multipart([part_10(one) for one in same_study(image)])
        yield whole[:-100]
        with door.node.database.write() as session:
            session.scalars(select(AwaitedAnswer)).one().state = AwaitedState.SILENT
        time.sleep(0.2)
        yield whole[-100:]

    headers = {"Authorization": f"Bearer {token}", "Content-Type": KIND}
    answer = requests.post(f"{door.url}/answers/studies", data=body(), headers=headers, timeout=60)
    assert answer.status_code == 401
    assert door.waiting() == 0


def test_more_bytes_than_an_answer_may_have_are_refused(door: Door) -> None:
    image = ultrasound("one")
    with patch.object(answers, "MOST_OBJECT_BYTES", 20_000):
        answer = door.post(door.awaited(image), same_study(image))
    assert answer.status_code == 202, "the first object was there before"
    assert door.waiting() == 1


def test_no_token_and_no_hash_of_one_is_in_the_database(door: Door) -> None:
    token = door.awaited(ultrasound("one"))
    files = door.node.settings.node.data_dir.glob("node.db*")
    assert not [file for file in files if token.split("-")[2].encode() in file.read_bytes()]
