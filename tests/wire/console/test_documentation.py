"""The search of the documentation."""

import os
import re
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from tests.browser_lab import IN_A_BROWSER
from tests.node_lab import in_background
from tests.wheels import ROOT

pytestmark = IN_A_BROWSER

TASKS = {
    "forgot password": ("console/start.html", "#forgot-a-password"),
    "second modality": ("connect/modality.html", "#add-a-second-modality-such-as-an-ultrasound-machine"),
    "init": ("deploy/service.html", "#or-by-questions-init"),
    "full disk": ("operate/disk.html", ""),
    "restore": ("operate/backup.html", "#restore"),
    "withdraw results": ("console/studies.html", "#withdraw-results"),
}
"""What an operator looks for: the page and its heading."""
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


@pytest.mark.skipif(
    not MKDOCS.exists() and "CI" not in os.environ, reason="`make docs` installs what makes pages"
)
def test_the_search_of_the_documentation_shows_the_page_of_the_task_first(
    tmp_path: Path, chromium: Chromium
) -> None:
    subprocess.run([MKDOCS, "build", "--quiet", "--site-dir", tmp_path], cwd=ROOT, check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as site:
        in_background(site.serve_forever)
        page = chromium.new_page(base_url=f"http://127.0.0.1:{site.server_port}")
        for words, (place, heading) in TASKS.items():
            page.goto("/index.html")
            # Typed, not filled: the search listens for keys, and under load it misses a value that no key set
            page.locator(".md-search__input").press_sequentially(words)
            found = page.locator(".md-search-result__item").first.locator("a")
            expect(found.first).to_have_attribute("href", re.compile(re.escape(place)))
            assert any(str(link.get_attribute("href")).endswith(heading) for link in found.all()), words
        site.shutdown()
