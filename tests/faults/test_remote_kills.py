"""Node and workers are killed while studies go to a vendor's AI server and its answers come back."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from dicom_node.base.events import ANSWER_ASIDE
from dicom_node.base.store.database import Database
from tests.ct_lab import ct_slices
from tests.node_lab import Node, in_background, running, store_until_acknowledged
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import start_postgres
from tests.service_lab import run_example, service_site
from tests.vendor_lab import Vendor, derives, remote_rule, run_vendor, vendor_site
from tests.waiting import wait_until

SLICES = 2
OPTIONS = "deadline = 10.0, under_way = 2"
WORKERS = "attempts = 200"


def kill(node: Node, chance: random.Random) -> str:
    """Kill the node or a worker, one as often as the other; returns which."""
    if chance.random() < 0.5:
        node.kill()
        node.start()
        return "node"
    for child in psutil.Process(node.pid).children():
        with suppress(psutil.Error, ProcessLookupError):
            if "dicom_node.jobs.worker" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                return "worker"
    return "nothing"


def vendor_by_dicom(stack: ExitStack, pacs: Pacs, options: str) -> tuple[Vendor, str]:
    """A vendor's DICOM server, and the configuration of a node with it; ``options``: of its rule."""
    vendor = stack.enter_context(run_vendor(Vendor(whole=SLICES, after=0.5)))
    return vendor, vendor_site(pacs, vendor, rules=remote_rule(options=options), workers=WORKERS)


def second_by_dicom(stack: ExitStack, pacs: Pacs, port: int) -> tuple[Vendor, Vendor, str]:
    """Two vendors' DICOM servers, of which the first is down, and the configuration of a node with them."""
    first, second = (Vendor(ae_title=name, calling=name, node=port) for name in ("VENDOR", "RIVAL"))
    stack.enter_context(run_vendor(second))
    rules = remote_rule(options='deadline = 3.0, under_way = 100, second = "rival"')
    return first, second, vendor_site(pacs, first, second, rules=rules, workers=WORKERS)


def first_is_back(node: Node, first: Vendor, second: Vendor) -> None:
    """The first server is up again, and answers what only the second has: nothing of it counts."""

    def came() -> int:
        return len(node.events(ANSWER_ASIDE.number))

    before, objects = came(), derives(second.images())
    with run_vendor(first):
        first.send_until_taken(objects)
        wait_until(lambda: came() >= before + len(objects), what="its answers", progress=came)
    assert not first.stored


def service(stack: ExitStack, pacs: Pacs, answers: str) -> str:
    """The service of examples/, and the configuration of a node with it."""
    console = free_port()
    url = stack.enter_context(run_example(console))
    way = "sent" if answers == "called back" else answers
    return service_site(pacs, url, f'answers = "{way}", {OPTIONS}', console=console, workers=WORKERS)


@pytest.mark.timeout(3600)  # ends earlier when nothing moves
@pytest.mark.parametrize("answers", ["sent", "copies", "returned", "fetched", "called back", "second"])
@pytest.mark.parametrize(("database", "least"), [("sqlite", 8), ("postgresql", 4)])
def test_kills_at_any_step_lose_double_and_mix_nothing(
    tmp_path: Path, rounds: int, database: str, least: int, answers: str
) -> None:
    """Twelve kills and studies of each way here, a hundred by ``make hostile``. ``answers``: as the option
    of the pipeline; ``copies``: sent, for de-identified copies; ``second``: the second server answers as the
    first is down.
    """
    kills = min(50, max(least, rounds // 1000))
    chance, pacs = random.Random(20261201), Pacs()
    with ExitStack() as stack:
        stack.enter_context(run_pacs(pacs))
        url = stack.enter_context(start_postgres()).new_database() if database == "postgresql" else ""
        if url:
            Database(url).upgrade()
        port = free_port()
        if answers in ("sent", "copies"):
            hidden = ", deidentify = true" if answers == "copies" else ""
            vendor, config = vendor_by_dicom(stack, pacs, OPTIONS + hidden)
            vendor.node = port
        elif answers == "second":
            first, second, config = second_by_dicom(stack, pacs, port)
        else:
            config = service(stack, pacs, answers)
        node = Node(tmp_path / "node", config, port, database_url=url, alone=True)
        stack.enter_context(running(node))
        killed: Counter[str] = Counter()
        senders = []
        for number in range(kills):
            images = ct_slices(f"away{number}", SLICES, side=16)
            senders.append(
                in_background(lambda images=images: store_until_acknowledged(node.port, images, "CT1"))
            )
            time.sleep(chance.uniform(0.5, 4.0))
            killed[kill(node, chance)] += 1
        wait_until(lambda: not any(sender.is_alive() for sender in senders), what="every study acknowledged")
        node.wait_for(["delivered"], count=kills)
        if answers == "second":
            first_is_back(node, first, second)
        print(f"{kills} kills: {dict(killed)}")
    assert min(killed["node"], killed["worker"]) > 0
    stored = [dcmread(BytesIO(data), force=True) for data in pacs.stored.values()]
    held = Counter((one.PatientID, one.StudyInstanceUID) for one in stored)
    studies = [ct_slices(f"away{number}", 1, side=16)[0] for number in range(kills)]
    assert held == {(one.PatientID, one.StudyInstanceUID): SLICES for one in studies}
