"""Fixtures of tests on studies."""

from collections.abc import Callable

import pytest

from tests.inbox_lab import Inbox
from tests.unit.jobs.worker_lab import configuration


@pytest.fixture
def node(open_inbox: Callable[..., Inbox]) -> Inbox:
    """An inbox with rules and destinations."""
    return open_inbox(configuration())
