"""A real node that received studies over the network, processed them and sent what it made; its console.

When everything came to its end the node stops, and only its console goes on: no state moves under a browser.
"""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from ai_pipeline.models.registry import SHIPPED
from dicom_node.config import loading
from dicom_node.config.settings import Settings
from dicom_node.demo import inputs
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.services import entered, uploads
from dicom_node.services.audit import Person
from dicom_node.services.uploads import UploadedFile
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Notification, Study
from tests.modality import part_10, set_pixels, ultrasound, ultrasound_from
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.rows import Stored
from tests.smtp_lab import WebServer
from tests.ultrasound_lab import picture
from tests.unit.inbox.objects import changed
from tests.waiting import wait_until

OWN_MODEL = "chest-efficientnet-lite0/9.9"
"""A model of the site's own: the shipped one under another version."""
_CONFIG = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = 0.2
quiet_seconds_us = 0.2
[outbox]
refusals = 1
[workers]
processes = 1
models_dir = "{models}"
[console]
local_peers = true
[[notifications]]
name = "hook"
on = ["quarantine"]
url = "{hook}"
[[peers]]
name = "us1"
ae_title = "US1"
may = ["send"]
[[peers]]
name = "us2"
ae_title = "US2"
may = ["send"]
[[peers]]
name = "xray1"
ae_title = "XRAY1"
may = ["send"]
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "gsps", "sc", "heatmap", "cleaned"]
assessments = true
iocm = true
[[peers]]
name = "strict"
ae_title = "STRICT"
host = "127.0.0.1"
port = {strict}
may = ["receive"]
results = ["sr", "cleaned"]
[[peers]]
name = "old"
ae_title = "STRICT"
host = "127.0.0.1"
port = {strict}
may = ["receive"]
results = ["sr"]
[[peers]]
name = "archive"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "sc"]
[[rules]]
name = "chest"
when = {{ calling_ae = "XRAY1" }}
pipeline = "chest_xray"
options = {{ heatmaps = true }}
send_to = ["pacs"]
max_study_age_days = 0
[[rules]]
name = "held"
when = {{ calling_ae = "US2" }}
pipeline = "chest_xray"
send_to = ["pacs"]
max_study_age_days = 0
assess_first = true
[[rules]]
name = "ultrasound"
when = {{ calling_ae = "US1" }}
pipeline = "ultrasound"
send_to = ["pacs", "strict", "old"]
max_study_age_days = 0
"""
# A mistake that sites make: it covers the whole picture, so that nothing can be cleaned.
_DEVICE_RULE = """source = "a test"
licence = "AGPL-3.0-or-later"
[[rule]]
name = "too-much"
match = { modality = "US", manufacturer = "Maker", model = "Scan 7" }
rectangles = [{ left = 0, top = 0, right = 1.0, bottom = 1.0 }]
"""


@dataclass
class Walked:
    """The node after its work. ``settings`` and ``database``: of its console."""

    node: Node
    settings: Settings
    database: Database
    studies: dict[str, int]
    web: WebServer

    def taken_over(self, app: FastAPI) -> None:
        """What a reload does to the console: it starts with the configuration of now."""
        self.settings = loading.load([self.node.config])
        app.state.site = replace(app.state.site, settings=self.settings)


@contextmanager
def walked(folder: Path, data: Path) -> Iterator[Walked]:
    """Studies by what becomes of them. ``data``: the public image sets, else the chest is a phantom."""
    *_, chest = inputs.shipped(folder / "sent", data)
    film = dcmread(chest.files[0])
    half = np.ascontiguousarray(film.pixel_array[::2, ::2])
    set_pixels(film, half, film.PhotometricInterpretation, film.BitsStored)
    sent = _studies(film)
    own_model(folder / "models")
    rules = folder / "var" / "device_rules"
    rules.mkdir(parents=True)
    (rules / "room9.toml").write_text(_DEVICE_RULE, encoding="utf-8")
    pacs, strict = Pacs(free_port()), Pacs(free_port(), "STRICT", answer=lambda uid, times: 0xA900)
    web = WebServer(status=404)
    with run_pacs(pacs), run_pacs(strict), web.running():
        config = _CONFIG.format(pacs=pacs.port, strict=strict.port, hook=web.url, models=folder / "models")
        node = Node(folder, config)
        with running(node):
            for calling, *objects in sent.values():
                assert set(store(node.port, objects, calling)) == {0}
            ended = ("delivered", "not_applicable", "unassessed", "quarantined", "failed")
            node.wait_for(ended, count=len(sent))
            settings = loading.load([node.config])
            database = Database(settings.database_url)
            _upload(database, settings, sent["dead"][1])
            wait_until(lambda: _all_told(database), 60, "the end of deliveries")
            assert node.stop() == 0
        entered.save(settings, "peers", {"name": "ward", "ae_title": "WARD", "may": ["send"]})
        settings = loading.load([node.config])
        rule = {"name": "ward", "when": {"calling_ae": "WARD"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
        entered.save(settings, "rules", rule)
        settings = loading.load([node.config])
        numbers = {row.study_instance_uid: row.id for row in Stored(database).rows(Study)}
        studies = {name: numbers[str(objects[0].StudyInstanceUID)] for name, (_, *objects) in sent.items()}
        yield Walked(node, settings, database, studies, web)
        database.dispose()


def own_model(folder: Path) -> None:
    """Put the site's own model there."""
    name, version = OWN_MODEL.split("/")
    own = folder / name / version
    own.mkdir(parents=True)
    lines = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    kept = [f'version = "{version}"' if line.startswith("version = ") else line for line in lines]
    (own / "card.toml").write_text("\n".join(kept), encoding="utf-8")
    for part in SHIPPED.parent.joinpath("weights").glob(f"{name}*"):
        shutil.copy(part, own)


def _studies(chest: Dataset) -> dict[str, tuple[str, Dataset, ...]]:
    """What is sent, with the AE title that sends it."""
    two = ultrasound("two")
    other = changed(two, PixelData=bytes(255 - value for value in two.PixelData))
    device = {"Manufacturer": "Maker", "ManufacturerModelName": "Scan 7", "SoftwareVersions": "2.1"}
    return {
        "chest": ("XRAY1", chest),
        "held": (
            "US2",
            changed(chest, StudyInstanceUID="1.2.3.1", SOPInstanceUID="1.2.3.2", PatientID="ID-one"),
        ),
        "quarantined": ("US1", two, other),
        "withheld": ("US1", *(changed(ultrasound("three", number=n), **device) for n in (1, 2, 3))),
        "dead": ("US1", changed(_named("four"), PatientName="<script>alert(1)</script>")),
    }


def _named(name: str) -> Dataset:
    """An ultrasound with a name, a date and a number burned in."""
    return ultrasound_from(name, picture(7, (240, 320), colour=True))


def _upload(database: Database, settings: Settings, again: Dataset) -> None:
    """One of the objects once more, by the console."""
    sent = UploadedFile("again.dcm", io.BytesIO(part_10(again)))
    uploads.take(database, settings, [sent], None, Person("operator"))


def _all_told(database: Database) -> bool:
    """Whether every delivery and message came to an end."""
    waiting = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.UNCONFIRMED)
    stored = Stored(database)
    going_on = stored.scalars(select(Delivery.id).where(Delivery.state.in_(waiting)))
    return not going_on and "failed" in stored.scalars(select(Notification.state))
