"""A second vendor's AI server gets what the first cannot be given."""

from pathlib import Path

import pytest

from dicom_node.base.events import ANSWER_ASIDE, ANSWER_AWAITED, ANSWER_SENDING, ANSWER_UNKNOWN
from tests.ct_lab import ct_slices
from tests.node_lab import store
from tests.pacs_lab import Pacs
from tests.vendor_lab import Vendor, derives, remote_rule, run_vendor
from tests.waiting import wait_until
from tests.wire.test_remote import study_of
from tests.wire.test_remote_faults import beside, modalities

pytestmark = pytest.mark.timeout(300)


def rival(**more: object) -> Vendor:
    return Vendor(ae_title="RIVAL", calling="RIVAL", **more)  # type: ignore[arg-type]


def both(minutes: float) -> str:
    return remote_rule(options=f'deadline = {minutes}, second = "rival"')


def test_the_second_answers_while_the_first_is_down_and_the_first_changes_nothing_later(
    tmp_path: Path,
) -> None:
    images, pacs, first, second = ct_slices("second", 2, side=32), Pacs(), Vendor(answers=None), rival()
    with beside(tmp_path, pacs, first, second, rules=both(0.2), is_up=False) as node, run_vendor(second):
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["delivered"])
        with run_vendor(first):
            assert first.send(derives(second.images())) == [0, 0]
            wait_until(lambda: len(node.events(ANSWER_ASIDE.number)) == 2, what="the first one's answer")
        assert study_of(node, images)["state"] == "delivered"
        assert not first.stored
    assert modalities(pacs) == ["CT", "CT"]


def test_a_first_that_is_back_before_half_of_the_deadline_gets_the_study(tmp_path: Path) -> None:
    images, pacs, first, second = ct_slices("first", 2, side=32), Pacs(), Vendor(), rival()
    with beside(tmp_path, pacs, first, second, rules=both(2), is_up=False) as node, run_vendor(second):
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_SENDING.number)), what="the first try")
        with run_vendor(first):
            node.wait_for(["delivered"])
    assert not second.stored
    assert modalities(pacs) == ["CT", "CT"]


def test_a_second_that_is_down_too_is_said(tmp_path: Path) -> None:
    images, pacs, first, second = ct_slices("none", 2, side=32), Pacs(), Vendor(), rival()
    with beside(tmp_path, pacs, first, second, rules=both(0.1), is_up=False) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["failed"])
        assert "it could not be sent to rival in 0.1 minutes" in study_of(node, images)["reason"]
        wait_until(lambda: modalities(pacs) == ["SR"], what="the report that the AI did not run")


def test_the_second_does_not_answer_what_the_first_has(tmp_path: Path) -> None:
    images, pacs = ct_slices("both", 2, side=32), Pacs()
    first, second = Vendor(answers=None), rival(answers=None)
    with beside(tmp_path, pacs, first, second, rules=both(2)) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        second.send(derives(first.images()))
        wait_until(lambda: len(node.events(ANSWER_UNKNOWN.number)) == 1, what="it in quarantine")
        assert not second.stored
        first.send(derives(first.images()))
        node.wait_for(["delivered"])
    assert modalities(pacs) == ["CT", "CT"]
