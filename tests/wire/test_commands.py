"""The commands of the README and of the pages on starting, connecting and operating, run as they stand there.

In the order of the pages, against one node that is started as the README says, with a PACS, a destination
that shows nothing, and two web servers. Only addresses, ports, numbers and UIDs are ours.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicom_node.people.demo import DRAWN_FILM
from tests import ROOT
from tests.forked import run_forked
from tests.modality import part_10, quick_ultrasound
from tests.node_lab import Node, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.smtp_lab import WebServer
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wire.orthanc_lab import start_orthanc

PAGES = ("README.md", *(f"docs/{part}/*.md" for part in ("start", "connect", "operate")))
NOT_RUN = {
    r"make |python3 -m venv|\S*pipx? |uv ": "installs packages from the network, as .ci/run does",
    r"podman ": "needs a container engine: docs/deploy/container.md says what was run",
    r"dicom-node demo": "starts a node of its own: tests/wire/test_formats.py",
    r"dicom-node serve --config": "the node runs already",
    r"ai-pipeline serve": "serves until it is stopped: tests/unit/ai_pipeline/serve",
    r"dicom-node screens (?!list)|ai-pipeline learn-screen": "needs twenty patients of one machine: "
    "tests/unit/people/test_screens.py",
    r"dicom-node backup$": "is named, for a reader who finds it in another page",
}
"""How commands begin that are not run here, and why."""
FURTHER = """
[console]
enabled = true
port = {console}
dicomweb_store = true
[assembly]
quiet_seconds = 1
quiet_seconds_us = 1
[outbox]
refusals = 1
[workers]
pipelines = ["chest_xray", "ultrasound"]
[[peers]]
name = "us2"
ae_title = "US2"
[[peers]]
name = "ward"
ae_title = "WARD"
host = "127.0.0.1"
port = {ward}
may = ["receive"]
[[rules]]
name = "heads"
when = {{ calling_ae = "US2" }}
pipeline = "fetal_head"
send_to = ["pacs"]
[[rules]]
name = "ward"
when = {{ modality = "US", calling_ae = "US1" }}
pipeline = "ultrasound"
send_to = ["ward"]
[[notifications]]
name = "effusion"
findings = ["Pleural effusion"]
url = "{web}"
[[notifications]]
name = "refused"
on = ["quarantine"]
url = "{refusing}"
"""
"""What the pages say of a site, after the README's sample. No worker runs ``fetal_head``: its job waits."""
MEANS = {
    "HOST": "127.0.0.1",
    "FILE": "image.dcm",
    r"192\.0\.2\.10": "127.0.0.1",
    '"receive"]': '"receive", "query"]',
    "^dicom-node users add": "echo four good words | dicom-node users add",
    "^(dicom-node jobs) retry (17|JOB)$": r"\1 cancel JOB && \1 retry JOB",  # it waits for a worker
    "^dicom-node check --config.*": r"\g<0> | grep 'the node of this data folder runs'",
    "^ai-pipeline run image(.*)": r"ai-pipeline run ultrasound\1 | grep 'annotation found'",
    "^curl": "curl --fail-with-body",
}
"""Patterns of what pages write, and our words."""
BODY = b"--B0\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--B0--\r\n"
SCRIPT = '{ ManufacturerModelName.equals("Scan 7") } (0,0,800,40)'
_PROGRAMS = {"dicom-node": "dicom_node", "ai-pipeline": "ai_pipeline"}
_COMMAND = re.compile(
    r"^ *```(\w*)\n(.*?)^ *```|`((?:dicom-node|ai-pipeline|python3?|pipx?|uv|make|curl|echoscu)\s[^`]+)`",
    re.DOTALL | re.MULTILINE,
)


def commands(page: Path) -> Iterator[str]:
    """The commands of a page, in blocks without a language and between words, without comments."""
    for language, block, words in _COMMAND.findall(page.read_text("utf-8")):
        lines = (block or words.replace("\n", " ")).replace("\\\n", " ").splitlines()
        yield from (" ".join(line.partition(" #")[0].split()) for line in lines if line and not language)


class Site(Node):
    """A node in a folder with an environment, and what the words of the pages mean there."""

    means: dict[str, str]
    environment: dict[str, str] | None = None

    def ours(self, text: str) -> str:
        """What a page writes, with our words."""
        for written, own in self.means.items():
            text = re.sub(written, own, text)
        return text

    def carry_out(self, line: str) -> str:
        """Run a command of a page, which must succeed; returns what it prints."""
        words, how = shlex.split(self.ours(line)), {"cwd": self.folder, "env": self.environment}
        if words[0] in _PROGRAMS and not {">", "|", "&&"} & {*words}:
            done = run_forked(_PROGRAMS[words[0]], *words[1:], **how)
        else:
            command = ["bash", "-o", "pipefail", "-c", self.ours(line)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload]
        assert done.returncode == 0, (self.ours(line), done.stdout, done.stderr)
        return str(done.stdout)

    def first(self, what: str, **wanted: object) -> Any:
        """The first row of ``dicom-node WHAT list`` with these values, once there is one."""

        def found() -> list[Any]:
            return [row for row in self.cli(what, "list") if wanted.items() <= row.items()]

        wait_until(lambda: bool(found()), 300, f"{what} {wanted}", shown=lambda: self.cli(what, "list"))
        return found()[0]

    def send_more(self) -> None:
        """Besides the film: what waits, what nobody confirms, and what contradicts itself."""
        two = quick_ultrasound("two", number=2)
        other = changed(two, PatientID="other", PatientName="Other^Person")
        wrong = changed(other, PixelData=bytes(255 - value for value in other.PixelData))
        assert store(self.port, [quick_ultrasound("one")], "US2") == [0]
        assert (
            store(self.port, [quick_ultrasound("two"), other, wrong, quick_ultrasound("three")], "US1")
            == [0] * 4
        )
        self.means |= {
            r"(versions|release) UID": rf"\1 {two.StudyInstanceUID}",
            r"1\.2\.840…|UID…?": self.first("studies", state="delivered", modalities=["DX"])["study"],
            r"\bJOB\b|\b17\b": str(self.first("jobs", rule="heads")["job"]),
            r"\bNUMBER\b": str(self.first("outbox", state="unconfirmed", destination="ward")["delivery"]),
            "(?<=notifications retry )12": str(self.first("notifications", state="failed")["notification"]),
        }


def follow(site: Site, line: str, further: str) -> None:
    """Do what a page says with a command, before it and after it."""
    if line.startswith("dicom-node restore DEST"):
        site.stop()
    printed = "" if line == "dicom-node serve" else site.carry_out(line)
    match line.split():
        case ["export", *_]:
            site.environment = dict(re.findall(r"(\w+)=([^\0]*)\0", site.carry_out(f"{line} && env -0")))
        case ["dicom-node", "config", "sample", ">", _]:
            site.config.write_text(site.ours(site.config.read_text()) + further)
        case ["dicom-node", "serve"] | ["dicom-node", "restore", "DEST"]:
            site.start()
        case ["python", "examples/send.py", *_]:
            site.send_more()
        case ["dicom-node", "tokens", *_]:
            site.means["dn_…"] = printed.split()[-1]
        case ["dicom-node", "studies", "versions", _]:
            site.means["HASH"] = printed.partition("--as-of ")[2].split()[0]


@pytest.mark.debian("orthanc", "dcmtk")
def test_every_command_of_the_first_pages_works_in_its_order(tmp_path: Path) -> None:
    site, console, ward = Site(tmp_path, ""), free_port(), Pacs(ae_title="WARD", shows=lambda *_: False)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "image.dcm").symlink_to(DRAWN_FILM)
    (tmp_path / "ultrasound.dcm").write_bytes(part_10(quick_ultrasound("five")))
    (tmp_path / "device-rules").mkdir()
    (tmp_path / "DicomPixelAnonymizer.script").write_text(SCRIPT)
    (tmp_path / "body").write_bytes(BODY % part_10(quick_ultrasound("four")))
    with ExitStack() as others:
        pacs = others.enter_context(
            start_orthanc(
                tmp_path / "pacs", ae_title="PACS", modalities={"ainode": ("AINODE", "127.0.0.1", site.port)}
            )
        )
        others.enter_context(run_pacs(ward))
        web, refusing = (others.enter_context(WebServer(status).running()) for status in (200, 404))
        others.callback(site.kill)
        site.means = MEANS | {
            r"\./var": f"{tmp_path}/var",  # lists are read in this process, in another folder
            "11112": str(site.port),
            "8080": str(console),
            "port = 104": f"port = {pacs.dicom_port}",
            r"192\.0\.2\.21\"": f'127.0.0.1"\nport = {pacs.dicom_port}',
            "(?<=send.py )": f"--port {site.port} ",
            "/backup/2026-11-26|DEST": f"{tmp_path}/backup",
        }
        further = FURTHER.format(console=console, ward=ward.port, web=web.url, refusing=refusing.url)
        pages = (page for pattern in PAGES for page in sorted(ROOT.glob(pattern)))
        for line in dict.fromkeys(line for page in pages for line in commands(page)):
            if not any(re.match(begin, line) for begin in NOT_RUN):
                follow(site, line, further)
