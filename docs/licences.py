"""``docs/licences.md``: licences of all that a release brings, from the metadata of what is installed."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

from ai_pipeline.models.registry import cards

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("ai_pipeline", "dicom_node", "ai_training")
_COPYLEFT = re.compile(r"\b[AL]?GPL|GNU ")
_TEXT = """# Licences

Written by `python docs/generate.py` from the metadata of the installed packages (versions: `release.lock`,
`constraints.txt`); do not edit. A wheel may carry libraries of others (codecs, compilers' run times): their
licences lie in its `*.dist-info` folder.

The node itself is AGPL-3.0-or-later. **Whoever passes it on, or lets others use a changed one over a network,
gives them its source.**

## GPL, AGPL and LGPL among what it uses

{copyleft}
## A release

What `release.lock` names: the run time with its extras `ai`, `postgres`, `console`, `oidc`, `s3`,
`pdf`, `hl7` and `fhir`.

{release}
## Models

Weights inside our own wheel, or in a package's, by their [cards](models.md), which name the files.

{models}
## Font

The summary page is drawn in DejaVu Sans Condensed 2.37 (licences of Bitstream Vera and Arev; DejaVu's changes
are in the public domain): `ai_pipeline/images/fonts/LICENCE.txt`.

## Training, conversion, other backends

What the package `ai_training` and the extra `torch` ask for besides; not part of a release.

{training}
The extra `telemetry`, no part of a release either: opentelemetry-proto (Apache-2.0), protobuf (BSD-3-Clause).

## Programs of the container image

Python (PSF-2.0) and, of Debian, under the licences in `/usr/share/doc/*/copyright`: bubblewrap
(LGPL-2.0-or-later), libGL (MIT), GLib (LGPL-2.1-or-later).
"""


def licences() -> str:
    """The page."""
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "release.lock").read_text(encoding="utf-8"), re.MULTILINE)
    others = sorted(set(_asked_for()) - set(locked))
    copyleft = [name for name in (*locked, *others) if _COPYLEFT.search(_licence(name))]
    return _TEXT.format(
        copyleft=_table(
            ("package", "licence", "imported in"), ((n, _licence(n), _importers(n)) for n in copyleft)
        ),
        release=_packages(locked),
        models=_table(("model", "licence"), ((card.name, card.licence) for card in cards())),
        training=_packages(others),
    )


def _asked_for() -> Iterator[str]:
    """Packages that training and the extras beyond a release name themselves."""
    node = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    training = tomllib.loads((ROOT / "ai_training" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = node["optional-dependencies"] | training["optional-dependencies"]
    chosen = (extras[name] for name in ("torch", "yolo"))
    for requirement in (*training["dependencies"], *chain.from_iterable(chosen)):
        name = re.split(r"[^\w.-]", requirement)[0]
        if name != "dicom-ai-node":
            yield name


def _packages(names: Iterable[str]) -> str:
    return _table(("package", "licence"), ((n, _licence(n)) for n in sorted(names, key=str.casefold)))


def _licence(name: str) -> str:
    """The expression, else the classifiers, else the first line of the free text."""
    known = metadata.metadata(name)
    classified = [
        text.split(" :: ")[-1] for text in known.get_all("Classifier") or [] if "License ::" in text
    ]
    named = [text for text in classified if text != "OSI Approved"]
    return (
        known.get("License-Expression")
        or ", ".join(named)
        or (known.get("License") or "UNKNOWN").splitlines()[0]
    )


def _importers(name: str) -> str:
    modules = {top for top, owners in _owners().items() if name in owners}
    files = sorted({file for file, imported in _imports() if imported in modules})
    return ", ".join(f"`{file}`" for file in files) or "nowhere: another package loads it"


@cache
def _owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@cache
def _imports() -> list[tuple[str, str]]:
    """Files of ours, each with every top-level module that it imports."""
    files = [file for package in _OURS for file in (ROOT / package).rglob("*.py")]
    return [(str(file.relative_to(ROOT)), module) for file in files for module in _imported(file)]


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, ("---",) * len(headings), *rows)]
    return "".join(f"{line}\n" for line in lines)
