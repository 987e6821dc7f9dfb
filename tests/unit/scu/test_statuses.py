"""C-STORE and HTTP statuses: what each means to the outbox (issue item 8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.scu import SendStatus
from dicom_node.scu.statuses import http_report, store_report


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x0000, SendStatus.STORED),
        (0xB000, SendStatus.WARNED),
        (0xB006, SendStatus.WARNED),
        (0xB007, SendStatus.WARNED),
        (0xB123, SendStatus.WARNED),
        (0x0111, SendStatus.VERIFY),
        (0x0110, SendStatus.RETRY),
        (0xA700, SendStatus.RETRY),
        (0xA7FF, SendStatus.RETRY),
        (0x0122, SendStatus.REFUSED),
        (0x0124, SendStatus.REFUSED),
        (0xA800, SendStatus.REFUSED),
        (0xA900, SendStatus.REFUSED),
        (0xC000, SendStatus.REFUSED),
        (0xCFFF, SendStatus.REFUSED),
    ],
)
def test_store_statuses(code: int, status: SendStatus) -> None:
    report = store_report(code)
    assert (report.status, report.code) == (status, f"{code:04X}")


def test_an_answer_without_status_is_a_lost_association() -> None:
    assert store_report(None).status is SendStatus.RETRY


@given(st.integers(min_value=0, max_value=0xFFFF))
def test_only_success_and_warnings_count_as_stored(code: int) -> None:
    stored = store_report(code).status in (SendStatus.STORED, SendStatus.WARNED)
    # PS3.7 C: 0000 success; 0001, 0107, 0116 and Bxxx warnings.
    assert stored == (code in (0x0000, 0x0001, 0x0107, 0x0116) or 0xB000 <= code <= 0xBFFF)


@pytest.mark.parametrize("code", [401, 403, 404, 408, 429, 500, 502, 503, 507])
def test_http_statuses_that_may_pass(code: int) -> None:
    assert http_report(code).status is SendStatus.RETRY


@pytest.mark.parametrize("code", [400, 406, 409, 413, 415, 422])
def test_http_statuses_that_waiting_does_not_cure(code: int) -> None:
    assert http_report(code).status is SendStatus.REFUSED
