"""The programs of others that judge results."""

import subprocess
from pathlib import Path

# Synthetic Data (0008,001C) is younger than Debian's dciodvfy of 2022, which calls unknown attributes errors.
_NEWER_THAN_DCIODVFY = (
    "</(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
)


def dciodvfy_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error, but for attributes that are younger than it."""
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, timeout=300, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.startswith("Error") and _NEWER_THAN_DCIODVFY not in line]
