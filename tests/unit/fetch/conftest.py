"""What all tests of fetching share."""

from __future__ import annotations

import pytest

from dicom_node.fetch import fetcher


@pytest.fixture(autouse=True)
def _calls_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call to an archive or a manager ends up to this much later than its answer."""
    monkeypatch.setattr(fetcher, "_WATCH_SECONDS", 0.01)
