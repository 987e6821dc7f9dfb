"""Fixtures that several rooms' tests share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_node.base.store.database import Database
from dicom_node.studies import choose
from tests.inbox_lab import CONFIG, INSPECTOR, Inbox
from tests.postgres_lab import POSTGRESQL
from tests.smtp_lab import WebServer


@pytest.fixture(scope="session", autouse=True)
def _choices_are_read_by_one_process() -> Iterator[None]:
    """Else each list of choices between versions starts one of its own, which imports for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "Inspector", lambda: Mock(wraps=INSPECTOR, close=Mock()))
        yield


@pytest.fixture
def open_inbox(tmp_path: Path) -> Iterator[Callable[..., Inbox]]:
    """Opens a node without a network in a folder of the test; all are closed at its end."""
    with ExitStack() as opened:

        def open_one(config: Mapping[str, Any] = CONFIG, folder: str = "var", **given: Any) -> Inbox:
            return opened.enter_context(closing(Inbox(tmp_path / folder, config, **given)))

        yield open_one


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


@pytest.fixture
def inbox(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=POSTGRESQL)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Both databases that a site may have: what holds for one holds for the other."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'node.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    database.upgrade()
    yield database
    database.dispose()


@pytest.fixture
def confinement() -> None:
    """Skips, with the reason, where this machine or user cannot confine what runs foreign code."""
    from ai_pipeline.errors import CardError
    from ai_pipeline.models.store import sandbox

    try:
        sandbox.require()
    except CardError as error:
        pytest.skip(str(error))
