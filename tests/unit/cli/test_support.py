"""A support bundle names no patient and no secret: canaries are planted wherever one could stand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from sqlalchemy import update

from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow, Study
from dicom_node.store.transitions import utc_now
from tests.unit.cli.conftest import DELIVERED, Run

NAMES = ["CANARY", "Canary^Jane", "4711-PID", "19560807", "hunter2", "tweety", DELIVERED, "SYLVESTER"]


def test_no_canary_is_in_it(run: Run, filled: Path, tmp_path: Path) -> None:
    peers = (
        '\n[[peers]]\nname = "web"\nae_title = "WEB"\nmay = ["receive"]\ntransport = "dicomweb"\n'
        'url = "https://127.0.0.1:9/CANARY"\nusername = "tweety"\npassword = "hunter2"\n'
        '[[rules]]\nname = "odd"\nwhen = { study_description = "CANARY" }\n'
        'pipeline = "ultrasound"\nsend_to = ["web"]\n'
    )
    with filled.open("a", encoding="utf-8") as config:
        config.write(peers)
    database = Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}")
    with database.write() as session:
        session.execute(update(Study).values(patient_id="4711-PID", reason="Canary^Jane"))
        for number in (1004, 2005, 3006, 5004, 5020, 9999):
            fields: dict[str, object] = {
                "calling_ae": "SYLVESTER",
                "reason": "Canary^Jane",
                "study": DELIVERED,
                "state": "CANARY X",
                "patient": 19560807,
                "destination": "pacs",
                "objects": 3,
                "path": "/CANARY/4711-PID",
            }
            session.add(EventRow(at=utc_now(), number=number, fields=fields))
    database.dispose()

    done = run("support-bundle", tmp_path / "bundle.zip", "--config", filled)
    assert done.status == 0, done.err
    assert (tmp_path / "bundle.zip").stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        parts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    for name, text in parts.items():
        assert [canary for canary in NAMES if canary in text] == [], name
    told = [event for event in json.loads(parts["events.json"]) if event["number"] == 5020]
    assert told[0]["fields"] == {"calling_ae": "other", "destination": "pacs", "objects": 3}
    assert json.loads(parts["versions.json"])["pydicom"] != "not installed"
    assert json.loads(parts["counts.json"])


def test_a_node_without_a_database_has_a_bundle_too(run: Run, site: Path, tmp_path: Path) -> None:
    assert run("support-bundle", tmp_path / "bundle.zip", "--config", site).status == 0
    assert run("support-bundle", tmp_path / "bundle.zip", "--config", site).status == 73, (
        "it is there already"
    )
