"""The report on how the last objects to and from a peer kept to the standard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from sqlalchemy import select
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import CannotCreate, UnknownPeer
from dicom_node.events import RESULT_REFUSED, SOURCE_REPAIRED, STORE_REFUSED
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, conformance
from dicom_node.store.tables import Delivery, Result
from dicom_node.store.transitions import record
from tests.console_lab import ConsoleLab, config_file
from tests.inbox_lab import Inbox


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    """Results of which one was stored with a warning, one refused; and what the peers did wrong."""
    with node.database.write() as session:
        first, second, *_ = session.scalars(select(Delivery).order_by(Delivery.id))
        first.state, first.status = DeliveryState.CONFIRMED, "B007"
        second.state, second.status, second.reason = DeliveryState.DEAD, "0122", "SOP class | not supported"
        result = session.get_one(Result, first.result_id)
        record(session, RESULT_REFUSED, 1, job=result.job_id, reason="no Modality")
        record(session, RESULT_REFUSED, 1, job=999, reason="of another peer")
        record(session, STORE_REFUSED, calling="MODALITY", status="A900", reason="of another class")
        record(session, STORE_REFUSED, calling="OTHER", status="A700", reason="no room")
    return ConsoleLab(node.settings, node.database)


def test_states_statuses_and_refusals_of_a_peer_are_counted(console: ConsoleLab) -> None:
    found = conformance.report(console.settings, "pacs", validate=False)
    totals = found["totals"]
    assert totals["states"]["confirmed"] == totals["states"]["dead"] == 1
    assert totals["statuses"] == {"B007": 1, "0122": 1}
    assert [row["reason"] for row in found["refused_by_gate"]] == ["no Modality"]
    assert found["received"] == [] and found["refused_objects"] == [] and found["validator"] is None
    text = conformance.as_text(found)
    assert "SOP class \\| not supported" in text and "of another peer" not in text


def test_what_a_modality_sent_and_was_refused_stands_in_its_report(console: ConsoleLab) -> None:
    with console.database.write() as session:
        uid = conformance.report(console.settings, "modality", validate=False)["received"][0][
            "sop_instance_uid"
        ]
        record(session, SOURCE_REPAIRED, 1, instance=uid, repaired="PatientSex", left_out="")
    found = conformance.report(console.settings, "modality", validate=False)
    assert found["totals"]["outcomes"] == {"new": 2} and found["totals"]["repaired"] == {"PatientSex": 1}
    assert [row["status"] for row in found["refused_objects"]] == ["A900"]
    assert found["sent"] == []


@pytest.mark.debian("dicom3tools")
def test_dciodvfy_looks_at_the_files_and_no_value_comes_along(console: ConsoleLab) -> None:
    with console.database.read() as session:
        path = session.scalars(select(Result.path).order_by(Result.id)).first()
    file = console.settings.node.data_dir / str(path)
    spoilt = dcmread(file)
    with disable_value_validation():
        spoilt.Modality, spoilt.ContentDate = "secret of Nowak", "NOWAK"
        spoilt.PatientName, spoilt.ReferringPhysicianName = "<b>Nowak", "</i>Nowak"
        spoilt.save_as(file)
    found = conformance.report(console.settings, "pacs")
    assert found["validator"] == {"program": "dciodvfy", "files": len(found["sent"])}
    [bad] = [
        row
        for row in found["sent"]
        if any("Modality" in line or "0008,0060" in line for line in row["faults"])
    ]
    assert bad["sop_instance_uid"] == spoilt.SOPInstanceUID
    assert all(number <= len(found["sent"]) for number in found["totals"]["warnings"].values())
    assert not any("/" in line for line in found["totals"]["warnings"]), "no way through numbered items"
    assert "owak" not in str(found) and "NOWAK" not in conformance.as_text(found)


def test_without_dciodvfy_the_report_says_so(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    found = conformance.report(console.settings, "pacs")
    assert found["validator"] == {"program": "", "files": 0}
    assert "not installed" in conformance.as_text(found)


def test_the_report_is_kept_as_a_file_and_never_over_another_one(console: ConsoleLab, tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    conformance.write(console.settings, "pacs", file)
    assert file.read_text(encoding="utf-8").startswith("# Conformance of the last objects: pacs (PACS)")
    with pytest.raises(CannotCreate):
        conformance.write(console.settings, "pacs", file)
    with pytest.raises(UnknownPeer):
        conformance.report(console.settings, "nobody")
    with console.database.read() as session:
        assert audit.rows(session)[0]["action"] == AuditAction.EXPORTED


def test_everybody_sees_the_page_and_an_operator_takes_the_file(console: ConsoleLab) -> None:
    viewer, operator = console.browser(UserRole.VIEWER), console.browser(UserRole.OPERATOR)
    assert viewer.get("/peers/pacs/conformance") == 200 and "Report to keep" not in viewer.text
    assert viewer.post("/peers/pacs/conformance", act="file") == 403
    assert operator.post("/peers/pacs/conformance", act="page") == 200
    assert operator.post("/peers/pacs/conformance", act="file") == 200
    assert operator.headers["content-disposition"] == 'attachment; filename="conformance.md"'
    assert operator.text.startswith("# Conformance")
    assert operator.get("/peers/nobody/conformance") == 404


def test_the_command_prints_and_writes_it(console: ConsoleLab, tmp_path: Path) -> None:
    config = config_file(console.settings)
    file = tmp_path / "kept.md"
    command = ["peers", "conformance", "pacs"]
    done = CliRunner().invoke(app, [*command, str(file), "--config", str(config)])
    assert done.exit_code == 0 and file.exists(), done.output
    done = CliRunner().invoke(app, [*command, "--json", "--config", str(config)])
    assert json.loads(done.stdout)["totals"]["statuses"] == {"B007": 1, "0122": 1}
    again = CliRunner().invoke(app, [*command, str(file), "--config", str(config)])
    assert isinstance(again.exception, CannotCreate)
