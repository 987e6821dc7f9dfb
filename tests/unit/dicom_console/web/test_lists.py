"""Lists of pages have the columns that their actions declare."""

from collections.abc import Iterator

import pytest

from dicom_console.web import pages
from dicom_node.base.actions.action import declared
from dicom_node.base.actions.columns import Column, Time
from dicom_node.base.lifecycle import UserRole
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

ADDED = (
    Column("room number", lambda _row: "OP 3"),
    Column("began", lambda _row: Time("2024-03-01T10:00:00.000Z")),
)


@pytest.fixture(params=["studies", "jobs"])
def with_columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a list that declares further columns."""
    listing = declared(pages.LISTS[request.param])
    monkeypatch.setattr(listing, "columns", (*listing.columns, *ADDED))
    pages._environment.cache_clear()
    yield request.param
    pages._environment.cache_clear()


def test_a_column_that_a_list_declares_is_on_its_page(
    console: ConsoleLab, inbox: Inbox, with_columns: str
) -> None:
    inbox.settle(ultrasound("one"))
    page = console.browser(UserRole.VIEWER).page(f"/{with_columns}")
    assert "<th>Room number</th>" in page
    assert '<td data-label="room number">OP 3</td>' in page
    assert pages.moment("2024-03-01T10:00:00.000Z") in page
