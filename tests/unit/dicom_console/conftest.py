"""A console on an inbox to which objects may come."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.lifecycle import UserRole
from dicom_node.people import users
from tests.console_lab import Browser, ConsoleLab, add_users, console_of, quick_hasher
from tests.inbox_lab import Inbox
from tests.unit.dicom_console.illustrated import analysed, illustrated


@pytest.fixture(scope="session", autouse=True)
def _passwords_cost_nothing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "hasher", quick_hasher)
        yield


@pytest.fixture(scope="session")
def with_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a user of each role, made once: that takes longer than most tests."""
    inbox = Inbox(tmp_path_factory.mktemp("users"))
    add_users(inbox.settings)
    inbox.close()
    return inbox.folder / "node.db"


@pytest.fixture
def open_with_users(
    open_inbox: Callable[..., Inbox], tmp_path: Path, with_users: Path
) -> Callable[..., Inbox]:
    """Opens one node with this configuration and a user of each role."""

    def open_one(*config: Mapping[str, Any]) -> Inbox:
        (tmp_path / "var").mkdir()
        shutil.copy(with_users, tmp_path / "var" / "node.db")
        return open_inbox(*config)

    return open_one


@pytest.fixture
def inbox(open_with_users: Callable[..., Inbox]) -> Inbox:
    return open_with_users()


@pytest.fixture
def console(inbox: Inbox) -> ConsoleLab:
    return console_of(inbox)


@pytest.fixture(scope="session")
def analysed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a node that analysed a still and a cine of one study and has users, made once: tests get
    copies.
    """
    with analysed(tmp_path_factory.mktemp("analysed") / "var") as node:
        add_users(node.settings)
    return node.folder


@pytest.fixture
def node(open_inbox: Callable[..., Inbox], tmp_path: Path, analysed_once: Path) -> Inbox:
    """A node of its own with an analysed study: a still and a cine, their results not sent yet."""
    shutil.copytree(analysed_once, tmp_path / "var")
    return open_inbox(illustrated())


@pytest.fixture
def console_of_node(node: Inbox) -> ConsoleLab:
    return console_of(node)


@pytest.fixture
def viewer(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.VIEWER)


@pytest.fixture
def admin(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.ADMIN)


@pytest.fixture
def operator(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.OPERATOR)
