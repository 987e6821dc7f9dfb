"""Why a result goes to nobody: in words, by command and at the console."""

from collections.abc import Callable
from typing import Any

import pytest

from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind
from dicom_node.base.store import kept_results
from tests.inbox_lab import CONFIG, Inbox
from tests.peers import a_receiver
from tests.rows import a_job, a_result, a_study


def kept(inbox: Inbox, kind: ResultKind = ResultKind.SR, **of_job: Any) -> str:
    """The reason for a result of this kind without a delivery."""
    study = a_study("1.2.3")
    inbox.add(study)
    job = a_job(study, JobState.SUCCEEDED, **of_job)
    inbox.add(job)
    result = a_result(job, kind)
    inbox.add(result)
    if kind is ResultKind.SR:
        inbox.delivery(job, DeliveryState.CONFIRMED, ResultKind.CLEANED)
    return inbox.read(kept_results.reasons, inbox.settings, study.id)[result.id]


@pytest.mark.parametrize(
    ("kind", "of_job", "reason"),
    [
        (ResultKind.HEATMAP, {}, "pacs takes no heatmap: see results of the peer"),
        (ResultKind.SR, {}, "nothing in it needs a word: its other results say all (no_call of the rule)"),
        (ResultKind.GSPS, {"destinations": []}, "rule ultrasound sends to no peer: see its send_to"),
        (
            ResultKind.GSPS,
            {"destinations": ["gone"]},
            "of the peers of rule ultrasound none is configured any more",
        ),
    ],
    ids=["a kind that the peer does not take", "a report of mere cleaning", "no peer", "a peer that is gone"],
)
def test_the_reason_of_a_result_that_goes_to_nobody(
    inbox: Inbox, kind: ResultKind, of_job: dict[str, Any], reason: str
) -> None:
    assert kept(inbox, kind, **of_job) == reason


def test_a_peer_of_deidentified_results_takes_none_with_a_name(open_inbox: Callable[..., Inbox]) -> None:
    peers = [a_receiver("pacs", results=["sr", "cleaned"], deidentify=True)]
    node = open_inbox({**CONFIG, "peers": peers, "rules": []})
    assert kept(node, ResultKind.SR) == "pacs takes only de-identified results"


def test_a_result_with_a_delivery_has_no_reason(inbox: Inbox) -> None:
    study = a_study("1.2.3")
    inbox.add(study)
    job = a_job(study, JobState.SUCCEEDED)
    inbox.add(job)
    inbox.delivery(job, DeliveryState.PENDING)
    assert inbox.read(kept_results.reasons, inbox.settings, study.id) == {}
