"""examples/ as its README says: send.py → a node with the example's pipeline → receive.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests import wheels
from tests.example_lab import FILM
from tests.node_lab import Node, running
from tests.ports import free_port
from tests.waiting import wait_until

EXAMPLES = wheels.ROOT / "examples"


class Receiver:
    """``receive.py`` as a process."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder, self._log = free_port(), folder / "received", folder / "receiver.log"
        command = [sys.executable, EXAMPLES / "receive.py", self.folder, "--port", str(self.port)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: "until Ctrl-C" in self.printed(), 120, "the receiver")

    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    started = Receiver(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def send(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "send.py", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_the_film_goes_through_the_node_and_comes_back_as_a_report(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels.install(wheels.build(wheels.EXAMPLE, tmp_path / "wheel"), tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    text = (EXAMPLES / "node.toml").read_text(encoding="utf-8")
    _, head, site = text.partition("[assembly]")
    assert head and "port = 11113" in site
    site = f"{head}{site}[spool]\nminimum_free_mib = 0\n".replace("11113", str(receiver.port))
    with running(Node(tmp_path / "node", site)) as node:
        sent = send(FILM, "--port", str(node.port))
        assert (sent.returncode, sent.stdout, sent.stderr) == (0, f"0000 {FILM}\n", "")
        node.wait_for(["delivered", "failed"])
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("prints what came back:\n\n```\n")[2].partition("```")[0]
    assert shown.startswith("SR AI findings") and shown in receiver.printed()
    [report] = [one for one in map(pydicom.dcmread, receiver.folder.iterdir()) if one.Modality == "SR"]
    assert report.StudyInstanceUID == pydicom.dcmread(FILM).StudyInstanceUID


def test_the_sender_takes_a_folder_and_leaves_out_what_is_no_dicom(
    receiver: Receiver, tmp_path: Path
) -> None:
    folder = tmp_path / "study" / "below"
    folder.mkdir(parents=True)
    for file in FILM.parent.glob("*.dcm"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "notes.txt").write_text("no image")
    sent = send(tmp_path / "study", "--port", str(receiver.port), "--to", "RECEIVER")
    assert (sent.returncode, sent.stderr) == (0, f"no DICOM: {folder / 'notes.txt'}\n")
    assert [line[:4] for line in sent.stdout.splitlines()] == ["0000", "0000"]
    assert "    Suspected: nodule of lung. Not found: cardiomegaly." in receiver.printed()
    assert len(list(receiver.folder.iterdir())) == 2


def test_the_sender_says_when_nobody_answers() -> None:
    done = send(FILM, "--port", str(free_port()))
    assert done.returncode == 1
    assert "no association with AINODE" in done.stderr
