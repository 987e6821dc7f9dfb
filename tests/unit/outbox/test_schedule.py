"""Waits of the outbox."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicom_node.config.sections import OutboxSettings
from dicom_node.outbox.schedule import wait_before_question, wait_before_retry

SETTINGS = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)


@given(st.integers(min_value=0, max_value=10_000))
def test_a_retry_waits_at_least_half_its_turn_and_never_over_the_limit(attempts: int) -> None:
    full = min(2 * 2 ** max(attempts - 1, 0), 300)
    assert full / 2 <= wait_before_retry(attempts, SETTINGS).total_seconds() <= full


def test_nodes_do_not_call_in_step() -> None:
    assert len({wait_before_retry(5, SETTINGS) for _ in range(20)}) > 1


@given(st.integers(min_value=1, max_value=1000))
def test_questions_become_rarer(queries: int) -> None:
    now, later = (wait_before_question(number, SETTINGS) for number in (queries, queries + 1))
    assert now <= later


def test_the_first_questions_are_quick() -> None:
    assert sum(wait_before_question(number, SETTINGS).total_seconds() for number in range(1, 5)) < 15
