"""Calls of the ``dicom-node`` verbs that the demonstration uses, with output as JSON, as a script would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dicom_node.errors import DemoFailed, ExitCode

PROGRAM = (sys.executable, "-P", "-m", "dicom_node")


def send(config: Path, peer: str, files: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Send files to a peer of this configuration; returns the status of each file."""
    found: list[dict[str, Any]] = _asked(config, "send", peer, *map(str, files))
    return found


def study(config: Path, uid: str) -> dict[str, Any] | None:
    """The study as the node lists it, None if the node does not know the study yet."""
    found: dict[str, Any] | None = _asked(config, "studies", "show", uid)
    return found


def findings(config: Path, uid: str) -> list[dict[str, Any]]:
    """The findings of the study's newest reports."""
    found: list[dict[str, Any]] = _asked(config, "studies", "findings", uid)
    return [{key: row[key] for key in row.keys() - {"report_uid", "verdicts"}} for row in found]


def deliveries(config: Path, uid: str) -> list[dict[str, Any]]:
    """The deliveries of the study's results."""
    found: list[dict[str, Any]] = _asked(config, "outbox", "list", "--limit", "0", "--study", uid)
    return found


def _asked(config: Path, *words: str) -> Any:
    """None for what is not there. Raises DemoFailed."""
    command = [*PROGRAM, *words, "--json", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == ExitCode.NOT_FOUND:
        return None
    if done.returncode not in (ExitCode.OK, ExitCode.FAILED):
        raise DemoFailed(f"dicom-node {' '.join(words[:2])}: {done.stderr.strip()}")
    return json.loads(done.stdout)
