from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inbox_lab import Inbox


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "var")
    yield inbox
    inbox.close()
