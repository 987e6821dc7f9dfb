"""``docs/reference/licences.md``: licences of all that a release brings, from the installed packages."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import chain

import grimp
from generate import ROOT, table

from ai_pipeline.models.registry import cards

_OURS = ("ai_pipeline", "dicom_connectors", "dicom_node", "ai_training")
_COPYLEFT = re.compile(r"\b[AL]?GPL|GNU ")
_TEXT = """# Licences

Written by `python docs/generate.py` from the metadata of the installed packages (versions: `release.lock`,
`constraints.txt`); do not edit. A wheel may carry libraries of others (codecs, compilers' run times): their
licences lie in its `*.dist-info` folder.

## Which part is under which

{parts}
The node's wheel has the files of `ai_pipeline` too, under their own licence: an environment has one of both.
`make pipeline` builds the distribution. `make licences` installs it with its service into an empty
environment, cleans a file there, and fails where pip-licenses names a GPL, AGPL, LGPL or unknown licence; a
test says the same of the installed packages without a network. Two wheels carry libraries under the
LGPL-2.1, each as a file of its own that may be replaced: FFmpeg in opencv-python-headless, GEOS in shapely.
certifi and tqdm are under the MPL-2.0.

## GPL, AGPL and LGPL among what it uses

{copyleft}
## A release

What `release.lock` names: the run time with its extras `ai`, `postgres`, `console`, `serve`, `oidc`, `s3`,
`pdf`, `hl7`, `fhir` and `telemetry`.

{release}
## Models

Weights inside our own wheel, or in a package's, by their [cards](../models.md), which name the files.

{models}
## Font

The summary page is drawn in DejaVu Sans Condensed 2.37 (licences of Bitstream Vera and Arev; DejaVu's changes
are in the public domain): `ai_pipeline/images/fonts/LICENCE.txt`.

## Training, conversion, other backends

What the package `ai_training` and the extra `torch` ask for besides; not part of a release. Its further
extras: `captum` (BSD-3-Clause), `monai` and `tensorboard` (Apache-2.0), `bm3d` (free for
non-commercial use only).

{training}
## Programs of the container image

Python (PSF-2.0) and, of Debian, under the licences in `/usr/share/doc/*/copyright`: bubblewrap
(LGPL-2.0-or-later).
"""

_PARTS = (
    (
        "`ai_pipeline` with its weights, cards and device rules: the distribution `dicom-ai-pipeline` "
        "([page](../../ai_pipeline/PACKAGE.md))",
        "Apache-2.0 (`ai_pipeline/LICENSE`)",
        "others build it into their programs; nothing that it imports or asks for is under a GPL. "
        "`deid.toml` among its rules is MIT; the font has its own terms",
    ),
    (
        "the node: `dicom_node`, `dicom_connectors`, `dicom_console`",
        "AGPL-3.0-or-later (`LICENSE`)",
        "orthanc-rest-client is GPL-3.0; **whoever passes the node on, or lets others use a changed one "
        "over a network, gives them its source**",
    ),
    (
        "`ai_training`, `examples`, `tests`, `benchmarks`, `docs`",
        "AGPL-3.0-or-later",
        "`ai_training` can train with ultralytics (AGPL-3.0); what is shipped was not trained with it",
    ),
)


def licences() -> str:
    """The page."""
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "release.lock").read_text(encoding="utf-8"), re.MULTILINE)
    others = sorted(set(_asked_for()) - set(locked))
    copyleft = [name for name in (*locked, *others) if _COPYLEFT.search(_licence(name))]
    graph = grimp.build_graph(*_OURS, include_external_packages=True, cache_dir=None)
    return _TEXT.format(
        parts=table(("part", "licence", "why"), _PARTS),
        copyleft=table(
            ("package", "licence", "imported in"),
            [(name, _licence(name), _importers(name, graph)) for name in copyleft],
        ),
        release=_packages(locked),
        models=table(("model", "licence"), [(card.name, card.licence) for card in cards()]),
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
    return table(("package", "licence"), [(name, _licence(name)) for name in sorted(names, key=str.casefold)])


def _licence(name: str) -> str:
    """The expression, else the classifiers, else the first line of the free text."""
    known = metadata.metadata(name)
    classified = [text.split(" :: ")[-1] for text in known.get_all("Classifier", []) if "License ::" in text]
    return (
        known.get("License-Expression")
        or ", ".join(text for text in classified if text != "OSI Approved")
        or (known.get("License") or "UNKNOWN").splitlines()[0]
    )


def _importers(name: str, graph: grimp.ImportGraph) -> str:
    owners = metadata.packages_distributions()
    tops = [top for top in owners if name in owners[top] and top in graph.modules]
    modules = {module for top in tops for module in graph.find_modules_that_directly_import(top)}
    return ", ".join(f"`{module}`" for module in sorted(modules)) or "nowhere: another package loads it"
