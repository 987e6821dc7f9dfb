"""Marks of all hostile tests: they take long, and pydicom warns of the values that they send."""

from pathlib import Path

import pytest

from dicom_node.base.config import settings as sections
from dicom_node.deliver import delivery_worker

_MARKS = (
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for mark in _MARKS:
                item.add_marker(mark)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slow peers be cut off within seconds."""
    monkeypatch.setattr(sections, "SLOWEST_KIB_PER_SECOND", 16384)
    monkeypatch.setattr(delivery_worker, "_STOP_SECONDS", 0.3)
