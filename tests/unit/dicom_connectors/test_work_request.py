"""Work items that the node requests of others: what they say, and what their performers answer."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_connectors.worklist.manager import OUTCOME
from dicom_connectors.worklist.requested import Input, WorkOutcome, read_outcome, scheduled
from dicom_node.base.dicom.web import read_dataset
from tests.pacs_lab import Pacs
from tests.unit.dicom_connectors.test_remote import problems
from tests.vendor_lab import Vendor, remote_rule, vendor_site
from tests.worklist_lab import CREATED

NOW = datetime(2026, 12, 1, 3, 12, tzinfo=UTC)
WORK = Code("110004", "DCM", "Computer Aided Detection")


def outputs(*named: Any) -> dict[str, Any]:
    """A COMPLETED work item as a manager answers it, with these outputs: lists of UIDs, or anything."""
    items = [
        {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in one]}}
        if isinstance(one, list)
        else one
        for one in named
    ]
    performed = {"00404033": {"vr": "SQ", "Value": items}}
    return {
        "00741000": {"vr": "CS", "Value": ["COMPLETED"]},
        "00741216": {"vr": "SQ", "Value": [performed]},
    }


def outcome(row: dict[str, Any]) -> WorkOutcome:
    """What the node reads of it."""
    return read_outcome(read_dataset(row, OUTCOME)[0])


def patient() -> Dataset:
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    found.PatientName, found.PatientID, found.PatientBirthDate = "Ölmez^Ayşe", "7", ""
    return found


def test_a_work_item_has_what_its_creation_needs() -> None:
    item = scheduled("1.2.3", [Input("1.2.3.4", [("1.5", "1.6")])], patient(), WORK, "VENDOR", NOW)
    assert [keyword for keyword in CREATED if keyword not in item] == []
    assert "SOPInstanceUID" not in item
    assert item.ProcedureStepState == "SCHEDULED"
    assert item.ScheduledProcedureStepStartDateTime == "20261201031200+0000"


def test_a_work_item_names_its_patient_images_and_performer() -> None:
    item = Dataset.from_json(
        scheduled("1.2.3", [Input("1.2.3.4", [("1.5", "1.6")])], patient(), WORK, "VENDOR", NOW).to_json()
    )
    [given] = item.InputInformationSequence
    assert str(item.PatientName) == "Ölmez^Ayşe"
    assert (given.StudyInstanceUID, given.SeriesInstanceUID) == ("1.2.3", "1.2.3.4")
    assert given.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.6"
    assert item.ScheduledStationNameCodeSequence[0].CodeValue == "VENDOR"


@pytest.mark.parametrize(
    ("row", "state", "results", "names_all", "failure"),
    [
        (outputs(["1.1", "1.2"], ["1.3"]), "COMPLETED", {"1.1", "1.2", "1.3"}, True, ""),
        (outputs(), "COMPLETED", set(), True, "names no result"),
        (outputs({"0020000E": {"vr": "UI", "Value": ["1.9"]}}), "COMPLETED", set(), False, ""),
        (outputs(["1.1"], [""]), "COMPLETED", set(), False, ""),
        (outputs([f"1.{number}" for number in range(10_001)]), "COMPLETED", set(), False, ""),
        ({"00741000": {"vr": "CS", "Value": ["CANCELED"]}}, "CANCELED", set(), True, "was cancelled"),
        ({"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}}, "IN PROGRESS", set(), True, ""),
        ({"00741000": {"vr": "CS", "Value": [{"a": 1}]}}, "IN PROGRESS", set(), True, ""),
        ({}, "IN PROGRESS", set(), True, ""),
    ],
)
def test_what_a_performer_answers_is_read(
    row: dict[str, Any], state: str, results: set[str], names_all: bool, failure: str
) -> None:
    found = outcome(row)
    assert found.state == state
    assert found.results == results
    assert found.names_all is names_all
    assert failure in found.failure()
    assert bool(failure) is bool(found.failure())


def test_an_item_that_is_gone_is_a_failure() -> None:
    assert WorkOutcome("").failure() == "the worklist manager no longer has the work item"


RIS = '[[peers]]\nname = "ris"\nae_title = "RIS"\nmay = []\n'
WEB = RIS + 'transport = "dicomweb"\nurl = "http://127.0.0.1:1/dicom-web"\n'


@pytest.mark.parametrize(
    ("peer", "options", "remedy"),
    [
        (WEB, 'manager = "ris"', ""),
        (WEB, 'manager = "rsi"', "no such peer"),
        (RIS, 'manager = "ris"', "work is requested by UPS-RS"),
        (WEB, 'manager = "ris", work = "110004"', "VALUE^SCHEME^MEANING"),
        (WEB, 'manager = "ris", work = "1^L^"', "VALUE^SCHEME^MEANING"),
    ],
)
def test_a_rule_names_its_worklist_manager(tmp_path: Path, peer: str, options: str, remedy: str) -> None:
    rules = remote_rule(options=f"deadline = 1, {options}") + peer
    found = problems(tmp_path, vendor_site(Pacs(), Vendor(), rules=rules))
    assert remedy in found
    assert bool(found) is bool(remedy)
