"""A small day of a node among other systems; benchmarks/site/systems.py has the large one, of a site."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("hl7", reason="needs the extra test")

from benchmarks.site.systems import ledger, one_node, plan, run_day, systems


@pytest.mark.debian("orthanc")
@pytest.mark.timeout(1800)
def test_a_killed_node_loses_nothing_and_sends_nothing_twice_to_other_systems(tmp_path: Path) -> None:
    exams = plan(8)
    with systems() as around, one_node(tmp_path, around) as site:
        found = run_day(site, around, exams, 15, random.Random(1))
        assert found["wrong"] == []
        assert [(row["sent"], row["arrived"]) for row in found["rows"]] == [
            (14, 14), (6, 6), (6, 6), (2, 2), (8, 8), (8, 8), (6, 6),
        ]  # fmt: skip
        number = around.ris.numbers()[0]  # what the ledger would say if it were not so
        around.ris.received = [one for one in around.ris.received if str(one["MSH"][0][10]) != number]
        site.pacs.call("DELETE", f"/instances/{site.pacs.id_of(exams[0].uids[0])}")
        around.ehr.create({**around.ehr.all_of("DiagnosticReport")[0], "id": "another"})
        assert ledger(site, around, exams)[1] == [
            "images by C-STORE, in Orthanc: 1 lost",
            "reports, ORU^R01 at the RIS: 1 lost",
            "reports, FHIR at the EHR: 1 twice",
        ]
