"""kill -9 of the indexer, again and again: each acknowledged object is indexed once and its file is there."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import func, select

from dicom_node.config.settings import Settings
from dicom_node.inbox.inspector import Inspector
from dicom_node.inbox.spool import Spool
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, ReceivedObject
from dicom_node.studies.scan import Indexer
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

ROOT = Path(__file__).resolve().parents[3]
OBJECTS = 240


def index_for_ever(folder: Path) -> None:
    """The victim: what the node's indexing thread does."""
    settings = Settings.model_validate({"node": {"data_dir": folder}})
    inspector = Inspector(settings.inspection)
    inspector.start()
    indexer = Indexer(Database(settings.database_url), Spool(folder / "spool", 0), settings, inspector)
    print("ready", flush=True)
    while True:
        indexer.run_once()
        time.sleep(0.01)


def test_a_killed_indexer_indexes_each_acknowledged_object_once(inbox: Inbox) -> None:
    chance = random.Random(20260102)
    image = ultrasound("crash", size=(24, 18))
    names = []
    for number in range(OBJECTS):
        # Four studies; every tenth object comes twice.
        image.SOPInstanceUID = f"1.2.3.{number - (number % 10 == 9)}"
        image.StudyInstanceUID = f"1.2.4.{number // 60}"
        names += inbox.receive(image)
    kills = 0
    while inbox.spool.pending() and kills < 6:
        command = [sys.executable, "-m", "tests.unit.studies.test_index_crash", str(inbox.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.4))
            victim.kill()
        kills += 1
    assert kills > 1
    inbox.reopen()
    inbox.index()
    assert inbox.spool.pending() == []
    with inbox.database.read() as session:
        receptions = session.scalars(select(ReceivedObject)).all()
        assert sorted(row.spool_name for row in receptions) == sorted(names)
        assert session.scalar(select(func.count()).select_from(Instance)) == OBJECTS - OBJECTS // 10
        assert all((inbox.folder / row.path).is_file() for row in receptions)
    assert inbox.outcomes().count("duplicate") == OBJECTS // 10


if __name__ == "__main__":
    index_for_ever(Path(sys.argv[1]))
