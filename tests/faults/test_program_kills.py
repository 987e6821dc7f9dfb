"""A program, its judge, its worker and the node are killed at any step: nothing is lost, doubled, mixed."""

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from tests import ct_lab
from tests.node_lab import Node, in_background, rule, running, site_config, store_until_acknowledged
from tests.pacs_lab import Pacs, run_pacs
from tests.waiting import wait_until

SLICES = 2
# Without an import that takes long: 50 kills in a quarter of an hour.
DERIVES = """
import sys, time
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
for file in source.iterdir():
    data = bytearray(file.read_bytes())
    at = data.index(b"\\x08\\x00\\x18\\x00UI") + 8  # SOP Instance UID
    data[at + 12 : at + 16] = b"7777"
    data[-400:] = bytes(400)
    time.sleep(0.2)
    (target / file.name).write_bytes(data)
"""


def processes(node: Node) -> dict[str, list[psutil.Process]]:
    """The living processes of the node by what they do."""
    found: dict[str, list[psutil.Process]] = {"node": [psutil.Process(node.pid)]}
    with suppress(psutil.Error):
        for child in found["node"][0].children(recursive=True):
            with suppress(psutil.Error):
                words = " ".join(child.cmdline())
                kind = next((kind for kind, word in KINDS.items() if word in words), "")
                if kind:
                    found.setdefault(kind, []).append(child)
    return found


KINDS = {
    "judge": "answer_process",
    "program": "program.py",
    "supervisor": "ai_pipeline.programs.supervisor",
    "worker": "dicom_node.jobs.worker",
}
"""A word on the command line of each, those below a worker first."""


def kill(node: Node, chance: random.Random) -> str:
    """Kill a process of the node, each kind as often as another; returns its kind."""
    living = processes(node)
    kind = chance.choice(sorted(living))
    if kind == "node":
        node.kill()
        node.start()
    else:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(living[kind]).pid, signal.SIGKILL)
    return kind


@pytest.mark.timeout(3600)  # ends earlier when nothing moves
def test_kills_at_any_step_of_an_answer_lose_double_and_mix_nothing(tmp_path: Path, rounds: int) -> None:
    """Eight kills and studies here, fifty by ``make hostile``."""
    kills = min(50, max(8, rounds // 1000))
    chance, pacs = random.Random(20261130), Pacs()
    script = ct_lab.program(tmp_path, DERIVES)
    command = f'command = ["{sys.executable}", "{script}", "{{input}}", "{{output}}"]'
    given = rule("command", 'modality = "CT"', f'{command}, model = "derives", version = "1", network = true')
    config = site_config(pacs.port, given, ("image",), lease=5, workers="attempts = 200")
    with run_pacs(pacs), running(Node(tmp_path / "node", config, alone=True)) as node:
        killed: Counter[str] = Counter()
        senders = []
        for number in range(kills):
            images = ct_lab.ct_slices(f"kill{number}", SLICES, side=16)
            senders.append(
                in_background(lambda images=images: store_until_acknowledged(node.port, images, "US1"))
            )
            time.sleep(chance.uniform(0.2, 3.0))
            killed[kill(node, chance)] += 1
        wait_until(lambda: not any(sender.is_alive() for sender in senders), what="every study acknowledged")
        node.wait_for(["delivered"], count=kills)
        print(f"{kills} kills: {dict(killed)}")
    assert len(killed) > 2, "not only the node"
    stored = [dcmread(BytesIO(data), force=True) for data in pacs.stored.values()]
    held = Counter((one.PatientID, one.StudyInstanceUID) for one in stored)
    wanted = {
        (image.PatientID, image.StudyInstanceUID): SLICES
        for number in range(kills)
        for image in ct_lab.ct_slices(f"kill{number}", 1, side=16)
    }
    assert held == wanted
