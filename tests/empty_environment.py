"""Install the wheel dicom-ai-pipeline[serve] into an empty environment, clean a file, judge all licences.

    python -m tests.empty_environment [FOLDER]

It takes the packages from where pip takes them, follows the lines of ``ai_pipeline/PACKAGE.md``, prints
seconds, and ends with 1 where a package is under a GPL or an unknown licence, or the file is not cleaned.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

from tests import ROOT
from tests.waiting import wait_until
from tests.wheels import build

VIRAL = re.compile(r"\b[AL]?GPL|GNU |UNKNOWN")
"""LGPL too: no package is under it; libraries inside some wheels are (docs/reference/licences.md)."""
ADDRESS = "http://127.0.0.1:8000"


def environment(folder: Path, wheel: Path) -> Path:
    """The programs of a new environment in ``folder`` that holds the wheel with its service alone."""
    venv.create(folder, with_pip=True)
    programs, pins = folder / "bin", ROOT / "constraints.txt"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", pins]
    subprocess.run([*pip, f"{wheel}[serve]"], check=True)
    return programs


def licences(programs: Path) -> dict[str, str]:
    """The licence of each package of the environment by its name, as pip-licenses says."""
    judge = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"]
    found = json.loads(subprocess.check_output([*judge, "--python", programs / "python"]))
    return {row["Name"]: row["License"] for row in found}


def sample(programs: Path) -> Path:
    """An ultrasound image with burned-in text, which pydicom brings."""
    program = "from pydicom.examples import get_path; print(get_path('ybr_color'))"
    return Path(subprocess.check_output([programs / "python", "-I", "-c", program], text=True).strip())


def clean_by_service(programs: Path, source: Path) -> bytes:
    """The cleaned object that a service of the environment answers."""
    with subprocess.Popen([programs / "ai-pipeline", "serve"], stderr=subprocess.DEVNULL) as service:
        try:
            wait_until(_answers, 60, "the service")
            asked = urllib.request.Request(
                f"{ADDRESS}/clean", source.read_bytes(), {"Accept": "application/dicom"}, method="POST"
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return bytes(answer.read())
        finally:
            service.terminate()


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"{ADDRESS}/health", timeout=5):
            return True
    except OSError:
        return False


def main(folder: Path) -> int:
    """Do all of it in ``folder``."""
    wheel = build(ROOT / "ai_pipeline", folder / "wheel")
    began = time.perf_counter()
    programs = environment(folder / "environment", wheel)
    installed = time.perf_counter()
    source = sample(programs)
    command = [programs / "ai-pipeline", "run", source, "--out", folder / "results", "--json"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=folder).stdout)
    cleaned = time.perf_counter()
    answer = clean_by_service(programs, source)
    ended = time.perf_counter()

    print(
        f"installed in {installed - began:.0f} s; `ai-pipeline run` {cleaned - installed:.0f} s; "
        f"service and its answer {ended - cleaned:.0f} s; in all {ended - began:.0f} s"
    )
    faults = []
    if not any(image["kind"] == "cleaned" for image in row["images"]):
        faults.append("`ai-pipeline run` gave no cleaned picture")
    if answer[128:132] != b"DICM" or answer == source.read_bytes():
        faults.append("the service gave no cleaned object")
    for name, licence in sorted(licences(programs).items()):
        print(f"  {name}: {licence}")
        if VIRAL.search(licence):
            faults.append(f"{name} is under {licence}")
    print("\n".join(faults) or "no GPL, AGPL or LGPL among the packages")
    return bool(faults)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(*sys.argv[1:2] or [temporary]).resolve()))
