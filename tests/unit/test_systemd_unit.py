"""The systemd unit gives the service no right that it does not use; systemd itself judges it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "config" / "systemd"
UNIT, TEMPLATE = FOLDER / "dicom-node.service", FOLDER / "dicom-node@.service"


@pytest.mark.debian("systemd")
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda unit: unit.name)
def test_systemd_calls_its_exposure_two_at_most(unit: Path) -> None:
    """From 0 to 10, the threshold in tenths; it had 6.9 before."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "UMask=0077", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "RestrictNamespaces=yes",
        "PrivateUsers=yes",
        "ProtectProc=invisible", "ProtectSystem=strict", "SystemCallFilter=@system-service", "LimitCORE=0",
        "MemoryMax=8G", "TasksMax=512", "StateDirectoryMode=0700",
    ],
)  # fmt: skip
def test_what_the_threat_model_counts_on_stands_in_it(line: str) -> None:
    assert line in UNIT.read_text(encoding="utf-8").splitlines()


def test_a_part_of_a_site_differs_in_its_role_and_folder_only() -> None:
    alone, part = (
        {line for line in unit.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
        for unit in (UNIT, TEMPLATE)
    )
    assert {line.partition("=")[0] for line in alone ^ part} == {
        "Description",
        "RequiresMountsFor",
        "StateDirectory",
        "StateDirectoryMode",
        "ReadWritePaths",
        "WorkingDirectory",
        "ExecStartPre",
        "ExecStart",
    }
    for verb in ("check", "serve"):
        assert any(line.endswith(f"dicom-node {verb} --role %i") for line in part)
