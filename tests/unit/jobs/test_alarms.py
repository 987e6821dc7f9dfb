"""The alarms that our pages teach, word by word: each fires for a film that it is for; no other passes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.pipelines import PIPELINES
from dicom_connectors.notifications.gather import Gatherer
from dicom_node.base.lifecycle import JobState, ResultKind
from dicom_node.base.store.tables import Delivery, Job, Notification, Result, Study
from dicom_node.people import preflight, verdicts
from dicom_node.people.preflight import occasions
from dicom_node.results import stated_report
from tests import ROOT
from tests.inbox_lab import Inbox
from tests.peers import a_peer, a_receiver
from tests.result_images import DX, write_image
from tests.unit.ai_pipeline.chest.chest_lab import nih_film
from tests.unit.jobs.worker_lab import work


def taught(page: str) -> dict[str, Any]:
    """The first configuration of a page."""
    [text, *_] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "operate" / page).read_text(), re.DOTALL)
    return tomllib.loads(text.replace("${file:/run/secrets/webhook}", "https://127.0.0.1:9/x"))


def configuration(**rule: Any) -> dict[str, Any]:
    """The rule and the notifications of both pages, on a node with the peers that they name."""
    pages = [taught(page) for page in ("findings.md", "notifications.md")]
    [chest] = pages[0]["rules"]
    channel = {"url": "https://127.0.0.1:9/x", "every_minutes": 0}
    return {
        "assembly": {"quiet_seconds": 0},
        "mail": pages[1]["mail"],
        "notifications": [{"name": "on-call", **channel}, *pages[1]["notifications"]],
        "peers": [
            a_peer("modality", may=["send"]),
            *(a_receiver(name, results=["sr", "sc"]) for name in ("pacs", "er")),
        ],
        "rules": [chest | {"max_study_age_days": 0} | rule],
    }


def analysed(node: Inbox, pixels: np.ndarray, **header: Any) -> Inbox:
    """A PA film of a chest, received and analysed."""
    about = {"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientAge": "050Y", **header}
    file = write_image(node.folder.parent / "film.dcm", DX, pixels.astype(np.uint16) * 16, **about)
    Gatherer(node.database, node.settings).run_once()  # nothing of before is notified
    node.settle(dcmread(file))
    work(node)
    return node


def notified(node: Inbox) -> dict[str, str]:
    Gatherer(node.database, node.settings).run_once()
    return {row.rule: row.text for row in node.rows(Notification)}


def report_of(node: Inbox) -> Dataset:
    [report] = [row for row in node.rows(Result) if row.kind is ResultKind.SR]
    return dcmread(node.folder / report.path)


def results_in(report: Dataset) -> list[str]:
    items = [item for element in report.iterall() if element.VR == "SQ" for item in element.value]
    return [
        str(item.ConceptCodeSequence[0].CodeValue)
        for item in items
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == "RESULT"
    ]


@pytest.mark.data
def test_the_alarms_of_our_pages_fire(open_inbox: Any, data: Path) -> None:
    node = analysed(open_inbox(configuration()), nih_film(data, "00010828_039.jpg"))
    assert {"pacs", "er"} <= set(node.column(Delivery.destination))
    assert node.column(Study.priority) == [1]
    told = notified(node)
    assert told["on-call"].startswith("Look at it first. Suspected: Pleural effusion\n")
    assert told["effusion"].startswith("Suspected: Pleural effusion\n")
    assert set(stated_report.read_report(report_of(node)).calls) == {"Look at it first"}
    [uid] = node.column(Study.study_instance_uid)
    listed = node.read(verdicts.findings_of_study, node.settings, uid)
    assert [row["finding"] for row in listed if row["decision"] == "call"] == ["Look at it first"]


NOTHING_SAID = {"BodyPartExamined": "", "StudyDescription": "", "SeriesDescription": ""}


@pytest.mark.data
@pytest.mark.parametrize("tells", [False, True])
def test_a_film_that_is_refused_though_it_may_be_ill_is_told_and_is_an_occasion(
    open_inbox: Any, data: Path, tells: bool
) -> None:
    clipped = np.clip((nih_film(data).astype(np.float64) - 110) * 8, 0, 255)
    node = analysed(open_inbox(configuration(tell_pacs_refusals=tells)), clipped)
    assert node.column(Job.state) == [JobState.NOT_APPLICABLE]
    assert set(node.column(Delivery.destination)) == {"pacs", "er"}
    assert node.column(Study.priority) == [1]
    report = report_of(node)
    assert stated_report.read_report(report).short_result[0] == (
        "AI: This film could not be read as a chest: look at it first."
    )
    assert results_in(report) == ["LOOKFIRST"]
    assert notified(node)["on-call"].startswith("Look at it first\n")


@pytest.mark.data
def test_what_nobody_calls_a_chest_and_looks_like_none_is_refused_in_silence(
    open_inbox: Any, data: Path
) -> None:
    hand = cv2.putText(np.zeros((512, 512), np.uint8), "SCOUT", (40, 250), 0, 3, 255, 5)
    node = analysed(open_inbox(configuration()), hand, **NOTHING_SAID)
    assert node.rows(Result) == []
    assert "Look at it first" not in str(notified(node))


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, ["Infiltrate suspected"]),
        ({"operating_point": "balanced"}, ["Atelectasis suspected"]),
        ({"operating_point": "sensitive"}, ["Atelectasis suspected", "Pleural effusion suspected"]),
        ({"ratio": "off"}, ["Heart enlarged"]),
        ({}, ["Pneumothorax suspected", "Look at it frist", "Pneumothorax", "Heart enlarged suspected"]),
    ],
)
def test_an_alarm_that_can_never_fire_is_a_mistake_that_names_those_that_can(
    options: dict[str, str], missing: list[str]
) -> None:
    made = configuration(options=options)
    [rule] = made["rules"]
    can = {"Look at it first"} | ({"Atelectasis suspected", "Heart enlarged"} if not options else set())
    rule["then"] = [{"when": when, "priority": "STAT"} for when in (*missing, *can)]
    made["notifications"] = made["notifications"][:2]
    made["rules"][0]["then"].append({"when": "withheld", "notify": ["on-call"]})
    problems = preflight.check_data(made).problems
    values = [problem.value for problem in problems if problem.key == "rules.chest.then"]
    assert values == [repr(when.removesuffix(" suspected")) for when in missing]
    assert all("Look at it first" in p.remedy or "did you mean" in p.remedy for p in problems)


def test_a_program_does_not_switch_the_check_of_names_off() -> None:
    made = configuration()
    made["notifications"][-1]["findings"] = ["Pneumothorex", "Pleural effusion"]
    made["rules"].append(
        {
            "name": "program",
            "when": {"modality": "CT"},
            "pipeline": "command",
            "options": {"command": ["true"], "model": "m", "version": "1", "network": True},
            "send_to": ["pacs"],
            "then": [
                {"when": "Fracture suspected", "priority": "STAT"},
                {"when": "Look at it first", "priority": "STAT"},
            ],
        }
    )
    found = preflight.check_data(made)
    assert [one.value for one in found.problems if ".then" in one.key] == ["'Look at it first'"]
    [warning] = [one for one in found.tried if one.subject == "notifications.effusion.findings"]
    assert not warning.ok
    assert "'Pneumothorex': only a program" in warning.text


def test_each_pipeline_says_what_it_can_suspect(open_inbox: Any) -> None:
    node = open_inbox(configuration())
    [chest] = node.settings.rules
    said = {
        name: occasions(chest.model_copy(update={"pipeline": name, "options": {}}), node.settings)
        for name in ("ovarian", "fetal_head", "ultrasound", "container")
        if name in PIPELINES
    }
    assert "Teratoma of ovary suspected" in said["ovarian"]
    assert not any("without lesion" in one or "High-grade" in one for one in said["ovarian"])
    assert said["fetal_head"] == set()
    assert said["ultrasound"] == {"Burned-in annotation to remove suspected"}
    assert said["container"] == {preflight.ANY_FINDING}
