"""One package adds a pipeline, and all that its card says is where people and programs look for it."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from ai_pipeline import pipelines
from dicom_node.base.lifecycle import JobState, ResultKind
from dicom_node.base.store.tables import Result
from dicom_node.jobs.worker.run import Worker
from dicom_node.people import pictures
from tests.inbox_lab import Inbox
from tests.modality import chest

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = {
    "assembly": {"quiet_seconds": 0},
    "peers": [
        {"name": "modality", "ae_title": "MODALITY", "may": ["send"]},
        {
            "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 4242, "may": ["receive"],
            "results": ["sr", "gsps", "sc", "seg"],
        },
    ],
    "rules": [
        {
            "name": "hands", "when": {"modality": "DX"}, "pipeline": "bone_age", "send_to": ["pacs"],
            "max_study_age_days": 0, "options": {"atlas": "fine", "margin": 12.5},
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the module, and the entry point that its pyproject.toml names."""
    folder = tmp_path_factory.mktemp("site")
    facts = folder / "bone_age-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: bone-age\nVersion: 1.0\n")
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    [(name, where)] = project["entry-points"][pipelines.GROUP].items()
    (facts / "entry_points.txt").write_text(f"[{pipelines.GROUP}]\n{name} = {where}\n")
    shutil.copy(HERE / "bone_age.py", folder)
    return folder


@pytest.fixture
def node(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """In a process that knows the package."""
    monkeypatch.syspath_prepend(str(site))
    [point] = [found for found in entry_points(group=pipelines.GROUP) if found.name == "bone_age"]
    monkeypatch.setitem(pipelines.PIPELINES, "bone_age", point)
    node = Inbox(tmp_path / "var", CONFIG)
    yield node
    node.close()


@pytest.fixture
def results(node: Inbox) -> dict[ResultKind, Dataset]:
    """What a worker makes of a hand, by its kind."""
    hand = chest("one", np.full((96, 60), 2000, np.uint16))
    hand.BodyPartExamined, hand.ViewPosition, hand.ImageLaterality = "HAND", "PA", "L"
    del hand.AnatomicRegionSequence
    node.receive(hand)
    node.settle()
    assert Worker(node.settings, node.database).run_once()
    assert [(job.state, job.reason) for job in node.jobs()] == [(JobState.SUCCEEDED, "")]
    with node.database.read() as session:
        return {row.kind: dcmread(node.folder / row.path) for row in session.scalars(select(Result)).all()}


def run(site: Path, module: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_line_lists_it_and_its_options(site: Path) -> None:
    listed, shown = (run(site, "ai_pipeline", "pipelines", *words).stdout for words in ((), ("bone_age",)))
    assert "Radiographs of a hand" in listed
    assert "fetal_head" in listed
    words = ("Atlas", "fine: for children below five years", "24 months", "Measures: Bone age.")
    assert [word for word in words if word not in shown] == []


def test_check_knows_its_options_and_what_it_takes(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\ndata_dir = "{tmp_path}/var"\n[spool]\nminimum_free_mib = 0\n'
        '[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\nmay = ["receive"]\n'
        '[[rules]]\nname = "hands"\nwhen = { modality = "DX" }\npipeline = "bone_age"\nsend_to = ["pacs"]\n'
        'options = { atlas = "coarse", margin = 1000, margins = 1 }\n'
        '[[rules]]\nname = "slices"\nwhen = { modality = "CT" }\npipeline = "bone_age"\nsend_to = ["pacs"]\n'
    )
    told = json.loads(run(site, "dicom_node", "check", "--config", file, "--json").stdout)["problems"]
    said = " ".join(f"{one['key']} = {one['value']}: {one['remedy']}".replace(" = :", ":") for one in told)
    remedies = (
        "rules.hands.options.atlas = 'coarse': must be plain or fine",
        "rules.hands.options.margin = 1000: must be at most 120 months",
        "rules.hands.options.margins: bone_age has no such option; did you",
        "bone_age takes no such images; it takes CR, DX",
    )
    assert [remedy for remedy in remedies if remedy not in said] == [], said


def test_the_report_has_its_finding_measurement_text_and_private_codes(
    results: dict[ResultKind, Dataset],
) -> None:
    report = results[ResultKind.SR]
    schemes = {item.CodingSchemeDesignator: item for item in report.CodingSchemeIdentificationSequence}
    assert schemes["99BONE"].CodingSchemeName == "Bones of the tests"
    words = ("ADVANCED", "BONEAGE", "Bone age", "Bone age by a ruler, for tests.", "85562004", "months")
    assert [word for word in words if word not in report.to_json()] == []


def test_presentation_state_picture_and_segmentation_show_it(results: dict[ResultKind, Dataset]) -> None:
    said = ("use: Bone age 20 months", "Suspected: advanced bone age.", "Bone age by a ruler, for tests.")
    assert [one for one in said if one not in str(results[ResultKind.GSPS])] == []
    [segment], picture = results[ResultKind.SEG].SegmentSequence, results[ResultKind.SC]
    assert segment.SegmentLabel == "AI Hand"
    assert picture.Rows > 96, "words stand below the picture"
    assert picture.pixel_array[:96, :60].reshape(-1, 3).tolist().count([255, 214, 0]) > 50, "the line"


@pytest.mark.usefixtures("results")
def test_an_image_page_says_what_its_lines_are(node: Inbox) -> None:
    with node.database.read() as session:
        shown = pictures.image_view(session, node.settings, 1)
    assert shown["about_lines"] == ["that of the bone age lies along the third finger"]
