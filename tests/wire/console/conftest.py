"""One browser for the tests of a file."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium

from tests.browser_lab import debian_chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with debian_chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _a_tests_own_pages_are_closed(chromium: Chromium) -> Iterator[None]:
    """A cine that nobody looks at any more plays on, and takes half a core from the tests after it."""
    before = chromium.contexts
    yield
    for context in chromium.contexts:
        if context not in before:
            context.close()
