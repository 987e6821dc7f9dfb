"""A node is killed while studies come and HL7 merges their patients."""

import random
import time
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.lifecycle import MessageState
from dicom_node.base.store.database import Database
from dicom_node.base.store.merges import AwaitedCorrection, Hl7Message, ReplacedPatient
from tests.hl7_lab import hl7_config, message, send_until_acknowledged
from tests.modality import quick_ultrasound
from tests.node_lab import Node, in_background, running, site_config, store_until_acknowledged
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import start_postgres
from tests.waiting import wait_until


def study(number: int, patient: str) -> list[Dataset]:
    image = quick_ultrasound(f"killed{number}")
    image.PatientID = f"{patient}{number}"
    return [image]


def results(pacs: Pacs, patient: str) -> list[Dataset]:
    """What the PACS has of patients whose ID begins so."""
    stored = [dcmread(BytesIO(data), force=True) for data in [*pacs.stored.values()]]
    return [one for one in stored if str(one.PatientID).startswith(patient)]


def merged_under_way(node: Node, port: int, number: int, wait: float) -> None:
    """A study comes, its patient is merged, and its images come again; ``wait``: seconds between."""
    store_until_acknowledged(node.port, study(number, "OLD"), "US1")
    time.sleep(wait)
    ids = f"NEW{number}^^^HOSP", f"OLD{number}^^^HOSP"
    send_until_acknowledged(port, message("ADT^A40", *ids, number=f"m{number}"))
    time.sleep(wait)
    store_until_acknowledged(node.port, study(number, "NEW"), "US1")


@pytest.mark.timeout(3600)  # ends earlier when nothing moves
@pytest.mark.parametrize(("database", "least"), [("sqlite", 6), ("postgresql", 4)])
def test_kills_lose_and_double_no_merge_and_mix_no_patients(
    tmp_path: Path, rounds: int, database: str, least: int
) -> None:
    """Ten kills here, a hundred by ``make hostile``."""
    kills = min(50, max(least, rounds // 1000))
    chance, pacs, port = random.Random(20261201), Pacs(), free_port()
    with ExitStack() as stack:
        stack.enter_context(run_pacs(pacs))
        url = stack.enter_context(start_postgres()).new_database() if database == "postgresql" else ""
        if url:
            Database(url).upgrade()
        config = site_config(pacs.port, workers="attempts = 200") + hl7_config(port)
        node = Node(tmp_path / "node", config, database_url=url, alone=True)
        stack.enter_context(running(node))
        senders = []
        for number in range(kills):
            wait = chance.uniform(0, 3)
            senders.append(in_background(partial(merged_under_way, node, port, number, wait)))
            time.sleep(chance.uniform(0.5, 4.0))
            node.kill()
            node.start()
        wait_until(lambda: not any(one.is_alive() for one in senders), 600, what="all acknowledged")
        wait_until(
            lambda: len(results(pacs, "NEW")) == kills, 600, "results", progress=lambda: len(pacs.stored)
        )
        node.wait_for(["delivered"], count=kills)
        with node.reading() as session:
            states = [row.state for row in session.query(Hl7Message)]
            replaced = [row.patient_id for row in session.query(ReplacedPatient)]
            held = [row.study_id for row in session.query(AwaitedCorrection)]
        former = {row["sop_instance_uid"] for row in node.cli("patients", "former")}
    assert states == [MessageState.DONE] * kills
    assert sorted(replaced) == sorted(f"OLD{number}" for number in range(kills))
    assert len(held) == len(set(held)), "each study was held once at most"
    survivors = sorted(str(one.PatientID) for one in results(pacs, "NEW"))
    assert survivors == sorted(f"NEW{number}" for number in range(kills)), "each once, under the survivor"
    assert {str(one.SOPInstanceUID) for one in results(pacs, "OLD")} == former, "nothing is left unsaid"
