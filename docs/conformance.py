"""The DICOM conformance statement, in the form of PS3.2 Annex N (2024d and later).

Its sections are in ``statement/``, written from the tables that the program uses and from what its builders
wrote (``tests/golden``); ``tests/conformance/test_statement.py`` compares it with real objects.
"""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

import re

from statement.network import details, model
from statement.objects import code_sets, created, mapping, sr_content
from statement.security import security, security_details
from statement.services import configuration, overview, services


def conformance_statement(version: str) -> str:
    """The whole document."""
    sections = (
        _introduction(version),
        model(),
        services(),
        configuration(),
        details(),
        security(),
        created(),
        sr_content(),
        security_details(),
        mapping(),
        code_sets(),
    )
    body = "\n".join(sections)
    contents = _contents(f"{overview()}\n{body}")
    return f"# DICOM conformance statement\n\n{_cover(version)}\n{overview()}\n{contents}\n{body}"


def _cover(version: str) -> str:
    return f"""\
| | |
| --- | --- |
| product | DICOM AI Node |
| version | {version} |
| form | PS3.2 Annex N |
| use | **Not for diagnostic use** |

Written by `python docs/generate.py` from the tables that the program uses: what is here is what it does.
"""


def _contents(text: str) -> str:
    headings = re.findall(r"^(#{2,3}) (.+)$", text, re.MULTILINE)
    lines = [f"{'  ' * (len(level) - 2)}* {title}" for level, title in headings]
    return "\n".join(("## 2 Table of contents", "", *lines, ""))


def _introduction(version: str) -> str:
    return f"""\
## 3 Introduction

### 3.1 Revision history

| version | what |
| --- | --- |
| {version} | see `CHANGELOG.md` |

### 3.2 Audience

Those who connect the node to modalities, PACS and other systems, and know DICOM.

### 3.3 Remarks

Conformance to this statement does not by itself assure interoperability: test with your own systems
(`dicom-node peers test`, `dicom-node rules try`).

### 3.4 Terms, definitions and abbreviations

Those of PS3.1 to PS3.18. "Peer": a configured remote application entity (`[[peers]]`). "Job": the analysis of a study by one
rule. "Source": the image that a result is about.

### 3.5 References

DICOM PS3 of 2024d and later; IHE Radiology Technical Framework and its supplement AI Results (AIR). What IHE
profiles ask for, with the test that shows it, is in `docs/ihe.md`.
"""
