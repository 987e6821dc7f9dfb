"""An archive on a real socket that answers as a test wants, and an inbox that may ask it."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet

from dicom_node.deliver.scu import StudyQuery, open_archive
from dicom_node.studies import fetch
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import DIGITAL_XRAY, assign, chest, data_set
from tests.pacs_lab import Pacs, free_port, run_pacs

DAY = date(2024, 3, 2)
QUERY = StudyQuery(DAY, DAY, "DX")
PIXELS = np.zeros((16, 16), np.uint16)


@dataclass
class FakeArchive(Pacs):
    """Answers every question with ``answers``, and every C-GET with ``gives``."""

    answers: Sequence[Dataset] = ()
    gives: Sequence[Dataset] = ()
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)

    def contexts(self) -> list[PresentationContext]:
        storage = build_context(DIGITAL_XRAY, ExplicitVRLittleEndian)
        storage.scu_role = storage.scp_role = True
        return [build_context(StudyRootQueryRetrieveInformationModelGet), storage]

    def handlers(self) -> list[Any]:
        return [*super().handlers(), (evt.EVT_C_GET, self._on_get)]

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for answer in self.answers:
            yield 0xFF00, answer
        yield 0x0000, None

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        self.asked.append(str(event.identifier.StudyInstanceUID))
        yield len(self.gives)
        for image in self.gives:
            time.sleep(self.pause)
            yield 0xFF00, image


def answer_for(image: Dataset, **other: str) -> Dataset:
    """What an archive says of the study of this image, but for ``other``."""
    named = ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex")
    known = {"QueryRetrieveLevel": "STUDY", "ModalitiesInStudy": "DX", "StudyDate": "20240302"}
    with disable_value_validation():
        return data_set(**known | {keyword: image.get(keyword, "") for keyword in named} | other)


def film(name: str) -> Dataset:
    return assign(chest(name, PIXELS), StudyDate="20240302")


def peer(port: int, **settings: object) -> dict[str, Any]:
    known = {"name": "archive", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "may": ["query"]}
    return {**known, "retrieve": "get", "fetch_per_minute": 600, **settings}


def inbox_beside(
    folder: Path,
    port: int,
    rule: Mapping[str, Any] = {},
    assembly: Mapping[str, float] = {},
    *,
    url_of_database: str = "",
    **settings: object,
) -> Inbox:
    """A rule for films, and this archive beside the other peers; ``settings``: of the archive."""
    others = [dict(one) for one in CONFIG["peers"]]
    others[-1]["ae_title"] = "RESULTS"
    films = {**CONFIG["rules"][0], "when": {"modality": "DX"}, "name": "films", "max_study_age_days": 7}
    config = {
        **CONFIG,
        "assembly": {**CONFIG["assembly"], **assembly},
        "peers": [*others, peer(port, **settings)],
        "rules": [{**films, **rule}],
        "outbox": {"answer_seconds": 1, "retry_seconds": 0.01, "retry_limit_seconds": 0.01},
    }
    return Inbox(folder, config, url=url_of_database)


@contextmanager
def beside(
    folder: Path,
    *rules: dict[str, Any],
    answers: Sequence[Dataset],
    gives: Sequence[Dataset] = (),
    **settings: object,
) -> Iterator[Inbox]:
    """Such an inbox, and an archive that answers and gives this as long as the scope lasts."""
    with run_pacs(FakeArchive(free_port(), answers=answers, gives=gives), classes=()) as pacs:
        yield inbox_beside(folder, pacs.port, *rules, **settings)


def fetched(inbox: Inbox, name: str = "archive") -> dict[str, int]:
    """Ask, fetch until nothing is due, index and assemble."""
    archive = open_archive(inbox.settings.peer(name), inbox.settings)
    asked = fetch.ask(inbox.database, archive, name, [QUERY])
    fetcher = fetch.Fetcher(inbox.database, inbox.settings, inbox.settings.peer(name), "tests")
    for _ in range(fetch.ATTEMPTS):
        fetcher.run_once(threading.Event())
        time.sleep(0.02)
    inbox.settle()
    return asked
