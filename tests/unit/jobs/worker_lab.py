"""Pipelines that do as told, put beside the real ones, and a node without a network that runs them."""

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    Finding,
    ModelRef,
    Origin,
    PipelineCard,
    PipelineOptions,
    PipelineResult,
    Progress,
    Refuse,
    Region,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.models.engine import OnnxRuntime
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.processes import limit_memory, watch_parent
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Result, Study
from dicom_node.base.store.transitions import settle_study, utc_now
from dicom_node.jobs.worker import run as worker_module
from tests.inbox_lab import Inbox
from tests.peers import a_peer, a_receiver
from tests.unit.ai_training import small_models

MODEL = ModelRef("obedient", "1", "0" * 64, "1" * 64)


def work(node: Inbox, settings: Settings | None = None) -> int:
    """Run every job that is due; returns how many claims it took."""
    worker, claims = worker_module.Worker(settings or node.settings, node.database), 0
    while worker.run_once():
        claims += 1
    return claims


def analysed_deidentified(node: Inbox, *images: Dataset) -> dict[str, list[Result]]:
    """Receive, assemble, run; the results by the destination that they wait for."""
    node.settle(*images)
    work(node)
    return waiting_for(node)


def waiting_for(node: Inbox) -> dict[str, list[Result]]:
    results, rows = {row.id: row for row in node.rows(Result)}, defaultdict(list)
    for delivery in node.rows(Delivery):
        rows[delivery.destination].append(results[delivery.result_id])
    return rows


def confirm(node: Inbox) -> None:
    """As if every destination had confirmed what it was to get: the studies end."""
    with node.database.write() as session:
        for row in session.scalars(select(Delivery)):
            row.state, row.confirmed_at = DeliveryState.CONFIRMED, utc_now()
        session.flush()
        for number in session.scalars(select(Study.id)):
            settle_study(session, number)


def states(node: Inbox) -> list[DeliveryState]:
    """Of each delivery."""
    return node.column(Delivery.state)


class ObedientOptions(PipelineOptions):
    """``do``: the name of a method; ``log``: a file."""

    do: str = "find"
    log: str = ""


class Obedient:
    """Does what the rule's option ``do`` says; ``log`` is a file that counts its runs."""

    card = PipelineCard(name="obedient", version="1", options=ObedientOptions)

    def __init__(self, *, models_dir: Path | None = None) -> None:
        self._models_dir = models_dir

    def warm_up(self) -> None:
        pass

    def models(self) -> tuple[ModelRef, ...]:
        return (MODEL,)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        if all(image.header.body_part == "LEG" for image in images):
            return Refuse("a leg")
        return Accept(tuple(image.uid for image in images))

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        if log := options.get("log"):
            with Path(str(log)).open("a") as file:
                file.write("run\n")
        getattr(self, str(options.get("do", "find")).replace("-", "_"))(images, report)
        return PipelineResult(tuple(self._finding(image) for image in images), models=(MODEL,))

    def find(self, images: Sequence[SourceImage], _report: Progress) -> None:
        for image in images:
            image.stored()

    def sleep(self, _images: Sequence[SourceImage], report: Progress) -> None:
        for step in range(100):
            report(step / 100, "sleeping")
            time.sleep(0.1)

    def hang(self, _images: Sequence[SourceImage], _report: Progress) -> None:
        time.sleep(1000)

    def stumble(self, _images: Sequence[SourceImage], _report: Progress) -> None:
        raise RuntimeError("Secret^Name is in this text")

    def not_decode(self, _images: Sequence[SourceImage], _report: Progress) -> None:
        raise PixelError("the pixels do not decode")

    def give_no_number(self, images: Sequence[SourceImage], _report: Progress) -> None:
        """Asks a network that divides nothing by nothing, for images of a breast."""
        if any(image.header.body_part == "BREAST" for image in images):
            OnnxRuntime(small_models.ratio(), threads=1)(*[np.zeros(1, np.float32)] * 2)

    def not_clean(self, _images: Sequence[SourceImage], _report: Progress) -> None:
        raise CleaningFailed("text may be left")

    def hoard(self, images: Sequence[SourceImage], _report: Progress) -> None:
        """Takes all the memory there is for images of a breast."""
        hoard = [
            bytearray(2**26) for image in images if image.header.body_part == "BREAST" for _ in range(2**10)
        ]
        assert not hoard

    def _finding(self, image: SourceImage) -> Finding:
        region = Region("box", ((10.0, 10.0), (30.0, 25.0)), Origin.DETECTOR)
        code = Code("BURNED_IN_MARK", "99TEST", "Mark")
        return Finding("Mark", code, 0.75, 0.5, Decision.PRESENT, image.uid, MODEL, regions=(region,))


def register() -> None:
    """Make the pipeline known to this process."""
    pipelines.PIPELINES["obedient"] = EntryPoint(
        "obedient", "tests.unit.jobs.worker_lab:Obedient", pipelines.GROUP
    )


def configuration(do: str = "find", log: Path | None = None, **workers: Any) -> dict[str, Any]:
    """One rule with the pipeline, one PACS; ``workers`` are settings of that section."""
    register()
    return {
        "assembly": {"quiet_seconds": 0, "quiet_seconds_us": 0},
        "workers": {"retry_seconds": 0, **workers},
        "peers": [
            a_peer("modality", may=["send"]),
            a_receiver("pacs", results=["sr", "sc"]),
        ],
        "rules": [
            {
                "name": "rule",
                "when": {"modality": "*"},
                "pipeline": "obedient",
                "send_to": ["pacs"],
                "max_study_age_days": 0,
                "options": {"do": do, "log": str(log or "")},
            }
        ],
    }


if __name__ == "__main__":
    register()
    worker_module._GRACE_SECONDS = worker_module._FINISH_SECONDS = 0.5
    settings = Settings.model_validate(json.loads(sys.argv[1]))
    limit_memory(settings.workers.memory_mib)
    worker = worker_module.Worker(settings, Database(settings.database_url))
    signal.signal(signal.SIGTERM, lambda *_: worker.stopping.set())
    watch_parent(worker.stopping.set)
    worker.run_forever()
