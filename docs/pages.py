"""What MkDocs needs beside the pages: the pages from elsewhere in the repository.

``mkdocs.yml`` names this file as a hook. Links between pages are written as they hold in the repository; here
they become links between pages of the site, or, where their file is no page, its path.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from pymdownx.superfences import fence_code_format

ROOT = Path(__file__).resolve().parents[1]
MERMAID = ROOT / ".venv-docs" / "mermaid.min.js"
"""Draws the diagrams; `make docs` fetches it."""
ELSEWHERE = {
    "orthanc/README.md": "connect/orthanc.md",
    "examples/README.md": "project/examples.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
    "SECURITY.md": "project/weaknesses.md",
    "README.md": "index.md",
}
"""Files of the repository that are pages too: path there, path below ``docs``; index.md has its own text."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_LOADED = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>")
_LOWER = re.compile(r"^(?: {2}(?=[*-] )| {3}(?=.))", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Mermaid draws diagrams from a file of the site; without this file they stay text."""
    if MERMAID.is_file():
        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
        config.extra_javascript.append("assets/mermaid.min.js")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, and name the pages of folders in the navigation."""
    for there, here in ELSEWHERE.items():
        if files.get_file_from_path(here) is None:
            text = (ROOT / there).read_text(encoding="utf-8")
            files.append(File.generated(config, here, content=rebased(text, there, here)))
    if MERMAID.is_file():
        files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    pages = (file.src_uri for file in files.documentation_pages())
    config.nav = _with_folders(config.nav, sorted(one for one in pages if f"'{one}'" not in repr(config.nav)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_more: Any) -> str:
    """Links to files that are pages of the site under another name; the search shows pages of tasks first."""
    here = page.file.src_uri
    page.meta["search"] = {
        "boost": 4 if here.startswith(("start/", "connect/", "operate/", "console/", "deploy/")) else 1
    }
    return markdown if page.file.generated_by else rebased(markdown, f"docs/{here}", here)


def on_post_page(output: str, *, page: Any, **_more: Any) -> str:
    """Refuse a page that would load something from another server. Raises PluginError."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads {found[0]} from another server")
    return output


def rebased(text: str, there: str, here: str) -> str:
    """The text of the file ``there`` in the repository as the page ``here``; code stays as it is."""

    def link(match: re.Match[str]) -> str:
        mark, words, target, heading = match[1], match[2], match[3], match[4] or ""
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(there), target))
        page = path.removeprefix("docs/") if path.startswith("docs/") else ELSEWHERE.get(path)
        if page is None or page.endswith(".py"):
            return f"{words} (`{path}`)"
        return f"{mark}[{words}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{heading})"

    parts = _FENCE.split(text)
    # What belongs to an item of a list does so by four spaces for Python-Markdown, not by two or three.
    parts[::2] = [_LINK.sub(link, _LOWER.sub("    ", part)) for part in parts[::2]]
    return "".join(parts)


def _with_folders(nav: Any, unnamed: list[str]) -> Any:
    """The navigation with ``folder/`` as the pages of that folder that it names nowhere."""
    if isinstance(nav, dict):
        return {title: _with_folders(item, unnamed) for title, item in nav.items()}
    if isinstance(nav, list):
        items = [_with_folders(item, unnamed) for item in nav]
        return [one for item in items for one in (item if isinstance(item, list) else [item])]
    return [page for page in unnamed if page.startswith(nav)] if nav.endswith("/") else nav
