"""A console on an inbox to which objects may come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.services import users
from tests.console_lab import ConsoleLab, add_users, quick_hasher
from tests.inbox_lab import Inbox


@pytest.fixture(scope="session")
def with_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a user of each role, made once: that takes longer than most tests."""
    inbox = Inbox(tmp_path_factory.mktemp("users"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "hasher", quick_hasher)
        add_users(inbox.settings)
    inbox.close()
    return inbox.folder / "node.db"


@pytest.fixture
def inbox(tmp_path: Path, with_users: Path) -> Iterator[Inbox]:
    folder = tmp_path / "var"
    folder.mkdir()
    shutil.copy(with_users, folder / "node.db")
    inbox = Inbox(folder)
    yield inbox
    inbox.close()


@pytest.fixture
def console(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> ConsoleLab:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    return ConsoleLab(inbox.settings, inbox.database)
