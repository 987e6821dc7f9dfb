"""Old studies of a real Orthanc through a running node: paced, resumed after kill -9, each analysed once."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmwrite

from tests.modality import chest
from tests.node_lab import PROGRAM, Node, site_config
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb")

RULE = PROGRAM.replace('modality = "US"', 'modality = "DX"').replace("sleep 0.2; ", "")
RULE = RULE.replace("max_study_age_days = 0", "max_study_age_days = 7")  # old ones are held, but by request
PIXELS = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
ASKED = ("--peer", "pacs", "--modality", "DX", "--from", "2024-03-01", "--to", "2024-03-03")


def fill(orthanc: Orthanc, studies: int, prefix: str = "old") -> list[str]:
    """Studies of two films each, spread over three days; returns their UIDs."""
    uids = []
    for number in range(studies):
        for film in (1, 2):
            image = chest(f"{prefix}{number}", PIXELS, number=film)
            image.StudyDate = f"2024030{number % 3 + 1}"
            buffer = BytesIO()
            dcmwrite(buffer, image, enforce_file_format=True)
            orthanc.upload(buffer.getvalue())
        uids.append(str(image.StudyInstanceUID))
    return uids


def node_beside(folder: Path, orthanc: Orthanc, port: int, way: str, per_minute: float = 600) -> Node:
    """A node that may query this Orthanc and returns its results to it."""
    lines = [f"fetch_per_minute = {per_minute}"]
    if way in ("move", "get"):
        lines.append(f'retrieve = "{way}"')
    else:
        lines += [f'transport = "{way}"', f'url = "{orthanc.url}{"/dicom-web" if way == "dicomweb" else ""}"']
    config = site_config(orthanc.dicom_port, RULE, ae_title=orthanc.ae_title, of_pacs="\n".join(lines))
    config = config.replace('may = ["send", "receive"]', 'may = ["send", "receive", "query"]')
    return Node(folder, config, port=port)


def orthanc_beside(folder: Path, port: int) -> Any:
    """An Orthanc that knows the node as a destination of C-MOVE."""
    allowed = {"DicomAlwaysAllowGet": True}
    known = {"node": ("AINODE", "127.0.0.1", port)}
    return start_orthanc(folder, modalities=known, plugins=[DICOMWEB], config=allowed)


def reports(orthanc: Orthanc) -> Counter[str]:
    """How many structured reports each study has there."""
    found: Counter[str] = Counter()
    for series in orthanc.get("/series?expand"):
        if series["MainDicomTags"].get("Modality") == "SR":
            study = orthanc.get(f"/studies/{series['ParentStudy']}")
            found[study["MainDicomTags"]["StudyInstanceUID"]] += len(series["Instances"])
    return found


def starts(node: Node) -> list[datetime]:
    """When the peer was asked for a study, in order."""
    rows = node.cli("events", "list", "--number", "2051", "--limit", "0")
    return sorted(datetime.fromisoformat(row["at"]) for row in rows)


@pytest.mark.parametrize("way", ["move", "get", "orthanc", "dicomweb"])
def test_old_studies_are_fetched_and_analysed_once(tmp_path: Path, way: str) -> None:
    port = free_port()
    with orthanc_beside(tmp_path / "orthanc", port) as orthanc:
        uids = fill(orthanc, 3)
        node = node_beside(tmp_path / "node", orthanc, port, way)
        node.start()
        try:
            done = node.run("fetch", *ASKED)
            assert done.returncode == 0, done.stderr
            assert "3 studies found, 3 of them to be fetched" in done.stderr
            wait_until(lambda: sum(reports(orthanc).values()) >= 3, 120, "three reports")
            assert reports(orthanc) == Counter(dict.fromkeys(uids, 1))
            again = node.run("fetch", *ASKED)
            assert "3 were fetched" in again.stderr
            assert [row["state"] for row in node.cli("fetches", "list")] == ["fetched"] * 3
            assert {row["attempts"] for row in node.cli("fetches", "list")} == {1}
            assert node.cli("fetches", "missing", "pacs", "--days", "1") == []
            assert {"find", "QIDO-RS", "REST query"} & {row["check"] for row in node.cli("peers", "test")}
            assert node.run("check").returncode == 0
        finally:
            node.kill()


def test_a_killed_node_goes_on_and_no_study_is_analysed_twice(tmp_path: Path) -> None:
    """Two studies a second at most, across the kills too."""
    port = free_port()
    with orthanc_beside(tmp_path / "orthanc", port) as orthanc:
        uids = fill(orthanc, 12)
        node = node_beside(tmp_path / "node", orthanc, port, "move", per_minute=120)
        node.start()
        try:
            assert node.run("fetch", *ASKED, "--no-wait").returncode == 0
            for killed_at in (3, 6, 9):
                wait_until(lambda at=killed_at: len(starts(node)) >= at, 120, "the next studies")
                node.kill()
                node.start()
            done = node.run("fetch", *ASKED)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: sum(reports(orthanc).values()) >= 12, 120, "a report for each")
            time.sleep(2)
            assert reports(orthanc) == Counter(dict.fromkeys(uids, 1))
            jobs = node.cli("jobs", "list", "--limit", "0")
            states = Counter(row["state"] for row in jobs)
            assert states.pop("succeeded") == 12
            assert {*states} <= {"cancelled"}  # begun on the first film of two, after a kill between them
            asked = starts(node)
            gaps = [(later - sooner).total_seconds() for sooner, later in pairwise(asked)]
            assert min(gaps) >= 0.4, gaps  # a start is written down a moment after it was timed
            assert (asked[-1] - asked[0]).total_seconds() >= 0.5 * (len(asked) - 1) - 0.1
        finally:
            node.kill()
