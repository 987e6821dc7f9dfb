"""A full disk stops nobody for longer than it is full: senders get A700 and come again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.scp import statuses
from tests.modality import ultrasound
from tests.node_lab import Node, site_config, store, wait_until

A700 = statuses.OUT_OF_RESOURCES.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space there is, to the last page."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def serve(node: Node) -> subprocess.Popen[bytes]:
    """Start it without waiting for "ready"."""
    with node.log.with_suffix(".second").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(node.config)]
        return subprocess.Popen(command, stderr=log)


def test_a_node_that_starts_on_a_full_disk_refuses_objects_until_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    node = Node(small_disk / "node", site_config(1, processes=0))
    node.log = tmp_path / "node.log"
    node.start()
    assert store(node.port, [ultrasound("before")], "US1") == [0]
    node.wait_for(["queued"])
    node.stop()
    filled = fill(small_disk)
    process = serve(node)
    try:
        wait_until(lambda: store(node.port, [ultrasound("full")], "US1") == [A700], 120, "A700")
        time.sleep(3)
        assert store(node.port, [ultrasound("full")], "US1") == [A700]
        log = node.log.with_suffix(".second").read_text()
        assert "Traceback" not in log
        assert log.count("[6006]") == 1, "at most once a minute"
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("after")], "US1") == [0], 120, "space again")
        assert len(node.wait_for(["queued"], 2)) == 2
    finally:
        process.terminate()
        assert process.wait(120) == 0


def test_a_disk_that_fills_while_the_node_runs_rejects_no_association(
    small_disk: Path, tmp_path: Path
) -> None:
    node = Node(small_disk / "node", site_config(1, processes=0))
    node.log = tmp_path / "node.log"
    node.start()
    try:
        filled = fill(small_disk)
        assert [store(node.port, [ultrasound("full")], "US1") for _ in range(3)] == [[A700]] * 3
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("after")], "US1") == [0], 60, "space again")
        assert len(node.wait_for(["queued"])) == 1
    finally:
        node.kill()
    assert "Traceback" not in node.log.read_text()


def test_a_first_start_on_a_full_disk_ends_in_words(small_disk: Path, tmp_path: Path) -> None:
    node = Node(small_disk / "node", site_config(1, processes=0))
    node.log = tmp_path / "node.log"
    fill(small_disk)
    assert serve(node).wait(120) > 0
    log = node.log.with_suffix(".second").read_text()
    assert "is full: make room" in log
    assert "Traceback" not in log
