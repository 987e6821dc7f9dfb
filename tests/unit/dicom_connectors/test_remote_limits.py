"""How many objects an answer of a vendor's AI server may have, and how large they may be together."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_connectors.remote.answer import answer
from dicom_node.base.errors import AnswerAwaited, NoAnswer
from dicom_node.base.lifecycle import AwaitedState
from dicom_node.base.store.awaited import AnswerObject, AwaitedAnswer
from dicom_node.base.store.tables import Job, ReceivedObject
from dicom_node.base.store.transitions import utc_now
from tests.ct_lab import ct_slices
from tests.inbox_lab import CONFIG, Inbox
from tests.peers import a_peer
from tests.vendor_lab import derived

IMAGES = ct_slices("limits", 1, side=16)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """A study whose answer is awaited from VENDOR."""
    vendor = a_peer("vendor", ae_title="VENDOR", host="127.0.0.1", port=104, may=["send", "receive"])
    rule = {
        "name": "ai",
        "when": {"modality": "CT"},
        "max_study_age_days": 0,
        "pipeline": "remote",
        "options": {"peer": "vendor", "model": "finder", "version": "3"},
        "send_to": ["pacs"],
    }
    inbox = Inbox(tmp_path, CONFIG | {"peers": [*CONFIG["peers"], vendor], "rules": [rule]})
    inbox.settle(*IMAGES)
    [job] = inbox.jobs()
    with pytest.raises(AnswerAwaited):
        answer(inbox.database, inbox.settings, job, ())
    _set_state(inbox, AwaitedState.AWAITED)
    yield inbox
    inbox.close()


def _set_state(inbox: Inbox, state: AwaitedState) -> None:
    with inbox.database.write() as session:
        row = session.scalars(select(AwaitedAnswer)).one()
        row.state, row.limit_at = state, utc_now() + timedelta(minutes=5)


def test_objects_above_the_limit_are_set_aside(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_connectors.remote.matching.MOST_OBJECTS", 2)
    inbox.index(*[derived(IMAGES[0]) for _ in range(5)], calling="VENDOR")
    with inbox.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AnswerObject)) == 3  # one more refuses it
    reasons = inbox.column(ReceivedObject.reason)
    assert reasons.count("an answer has at most 2 objects") == 2


@pytest.mark.parametrize(("most", "is_taken"), [(100_000, True), (1000, False)])
def test_an_answer_that_is_too_large_is_none(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, most: int, is_taken: bool
) -> None:
    monkeypatch.setattr("dicom_connectors.remote.answer.MOST_OBJECT_BYTES", most)
    inbox.index(derived(IMAGES[0]), derived(IMAGES[0]), calling="VENDOR")
    _set_state(inbox, AwaitedState.ANSWERED)
    [job] = inbox.rows(Job)
    if is_taken:
        assert len(answer(inbox.database, inbox.settings, job, ()).objects) == 2
        return
    with pytest.raises(NoAnswer, match="the answer of vendor has more than 0 MiB"):
        answer(inbox.database, inbox.settings, job, ())
