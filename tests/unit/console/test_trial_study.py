"""What a viewer shows: a study of nobody goes to a real PACS, and its settings follow what a person saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO

import pytest
from pydicom.filereader import read_dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered, trial_study
from tests.console_lab import ConsoleLab, config_file
from tests.inbox_lab import CONFIG, Inbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as server:
        yield server


def with_pacs(console: ConsoleLab, pacs: Pacs, **values: object) -> ConsoleLab:
    """The console of a node that sends there."""
    peers = [*CONFIG["peers"][:-1], {**CONFIG["peers"][-1], "port": pacs.port, **values}]
    node = {"data_dir": console.settings.node.data_dir}
    console.take(Settings.model_validate({**CONFIG, "peers": peers, "node": node}))
    return console


def test_each_kind_of_result_arrives_and_names_nobody(console: ConsoleLab, pacs: Pacs) -> None:
    console = with_pacs(console, pacs)
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/peers/pacs") == 200
    assert "Send a test study" in browser.text
    assert browser.post("/peers/pacs/trial") == 200, browser.text
    assert browser.text.count(">yes</span>") == 1 + len(trial_study.KINDS)
    assert "Send pacs what it shows" not in browser.text, "that is for admins"
    objects = [
        read_dataset(BytesIO(data), pacs.syntaxes[uid] == "1.2.840.10008.1.2", True)
        for uid, data in pacs.stored.items()
    ]
    assert len(objects) == 1 + len(trial_study.KINDS)
    assert {(str(one.PatientID), str(one.PatientName)) for one in objects} == {
        (trial_study.PATIENT_ID, trial_study.PATIENT_NAME)
    }
    assert len({one.StudyInstanceUID for one in objects}) == 1
    [report] = [one for one in objects if one.SOPClassUID == Comprehensive3DSRStorage]
    assert "Clinical finding" in str(report)
    with console.database.read() as session:
        assert audit.rows(session)[0]["action"] == "peer_tested"
    assert not list(console.settings.node.data_dir.glob("tmp*")), "nothing is left behind"


def test_a_peer_gets_what_its_viewer_shows(console: ConsoleLab, pacs: Pacs) -> None:
    console = with_pacs(console, pacs)
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/peers/pacs/shows", shows="sr") == 200
    assert "results = [&#34;sr&#34;]" in admin.text, "one of the files stays locked"
    assert admin.post("/peers/pacs/shows") == 409
    peer = {"name": "second", "ae_title": "SECOND", "host": "127.0.0.1", "port": pacs.port}
    peer["may"] = ["receive"]
    entered.save(console.settings, "peers", peer)
    both = Settings.model_validate(
        {**console.settings.model_dump(mode="json"), "peers": [*CONFIG["peers"], peer]}
    )
    console.take(both)
    assert admin.post("/peers/second/shows", shows="gsps") == 200
    assert entered.show_entry(both, "peers", "second")["content"]["results"] == ["gsps"]


def test_what_a_peer_does_not_take_is_told(console: ConsoleLab) -> None:
    server = Pacs(free_port())
    with run_pacs(server, classes=[SecondaryCaptureImageStorage]):
        rows = trial_study.send(with_pacs(console, server).settings, "pacs")
    taken = {row["kind"] for row in rows if row["ok"]}
    assert taken == {"image", "summary", "sc", "heatmap", "cleaned"}
    assert all(row["text"] for row in rows if not row["ok"])
    rows = trial_study.send(console.settings, "pacs")
    assert not any(row["ok"] for row in rows), "nobody is there any more"


def test_it_is_for_peers_that_get_results_with_a_patient(console: ConsoleLab, pacs: Pacs) -> None:
    with pytest.raises(NotAllowedNow):
        trial_study.send(console.settings, "modality")
    hidden = with_pacs(console, pacs, deidentify=True, results=["cleaned"])
    with pytest.raises(NotAllowedNow):
        trial_study.send(hidden.settings, "pacs")
    assert hidden.browser(UserRole.OPERATOR).post("/peers/nobody/trial") == 404


def test_the_command_line_does_the_same(inbox: Inbox, pacs: Pacs) -> None:
    config = config_file(inbox.settings, port=pacs.port)
    done = CliRunner().invoke(app, ["peers", "test-study", "pacs", "--json", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert [row["kind"] for row in json.loads(done.stdout)] == ["image", *trial_study.KINDS]
