"""Results that wait for an assessment: on the study's page, in the numbers, by REST and command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_console.views import metrics
from dicom_node import cli
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store.tables import Delivery, HeldResult
from tests.console_lab import ConsoleLab, Program, config_file, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work


@pytest.fixture(scope="module")
def held_once(tmp_path_factory: pytest.TempPathFactory, with_users: Path) -> Path:
    folder = tmp_path_factory.mktemp("held") / "var"
    folder.mkdir()
    shutil.copy(with_users, folder / "node.db")
    node = Inbox(folder, configuration())
    node.receive(ultrasound("one"))
    node.settle()
    work(node)
    node.close()
    return folder


@pytest.fixture
def node(tmp_path: Path, held_once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    shutil.copytree(held_once, tmp_path / "var")
    node = Inbox(tmp_path / "var", configuration())
    yield node
    node.close()


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def configuration() -> dict[str, object]:
    made = illustrated()
    made["rules"][0]["assess_first"] = True
    return made


def states(node: Inbox) -> set[str]:
    with node.database.read() as session:
        return {state.value for state in session.scalars(select(Delivery.state))}


def test_a_reader_accepts_what_he_saw(console: ConsoleLab, node: Inbox) -> None:
    viewer, reader = console.browser(UserRole.VIEWER), console.browser(UserRole.READER)
    viewer.get("/studies/1")
    assert "wait for an assessment" in viewer.text and "Accept and send" not in viewer.text
    assert viewer.post("/studies/1/accept", as_of="x") == 403
    reader.get("/studies/1")
    seen = reader.field("as_of")
    assert reader.post("/studies/1/accept", as_of="0" * 16) == 409
    assert states(node) == {"unassessed"}
    assert reader.post("/studies/1/accept", as_of=seen) == 303
    assert states(node) == {"pending"}
    reader.get("/studies/1")
    assert "wait for an assessment" not in reader.text
    assert re.search(r"results accepted by reader", reader.text)
    assert re.search(r'class="state confirmed">accepted</span> <small>reader', reader.text)


def test_a_reader_rejects_with_a_reason(console: ConsoleLab, node: Inbox) -> None:
    reader = console.browser(UserRole.READER)
    reader.get("/studies/1")
    seen = reader.field("as_of")
    assert reader.post("/studies/1/reject", as_of=seen, because="") == 409
    assert reader.post("/studies/1/reject", as_of=seen, because="wrong side") == 303
    assert states(node) == {"discarded"}
    reader.get("/studies/1")
    assert "The results were rejected" in reader.text and "wrong side" in reader.text
    assert reader.post("/studies/1/accept", as_of=reader.field("as_of")) == 303
    assert states(node) == {"pending"}


def test_what_waits_is_seen_in_lists_and_numbers(console: ConsoleLab, node: Inbox) -> None:
    browser = console.browser(UserRole.VIEWER)
    browser.get("/")
    assert "results wait for an assessment" in browser.text and 'class="figure bad"' not in browser.text
    with node.database.write() as session:
        for row in session.scalars(select(HeldResult)):
            row.since -= timedelta(days=2)
    browser.get("/")
    assert re.search(r'class="figure bad" href="/studies\?state=unassessed', browser.text)
    for page in ("/studies?state=unassessed", "/outbox?state=unassessed"):
        assert browser.get(page) == 200 and 'class="state unassessed"' in browser.text
    with node.database.read() as session:
        found = {(one.name, one.labels): one.value for one in metrics.gauges(session, node.settings)}
    assert found["unassessed_oldest_seconds", ()] > 2 * 86400
    assert found["deliveries", (("state", "unassessed"),)] == len(list_of(node))
    assert found["studies", (("state", "unassessed"),)] == 1


def list_of(node: Inbox) -> list[int]:
    with node.database.read() as session:
        chosen = select(Delivery.id).where(Delivery.state == DeliveryState.UNASSESSED)
        return list(session.scalars(chosen))


def test_programs_assess_accept_and_reject(console: ConsoleLab, node: Inbox) -> None:
    viewer, reader = Program(console, UserRole.VIEWER), Program(console, UserRole.READER)
    status, found = viewer.ask("GET", "/studies/1/assessment")
    assert status == 200 and found["waiting"] == len(list_of(node)) and found["decisions"] == []
    row = viewer.ask("GET", "/studies/1")[1]["findings"][0]
    about = {key: row[key] for key in ("finding", "model", "tracking_uid")}
    for path, said in (("findings", {**about, "verdict": "accepted"}), ("accept", {}), ("reject", {})):
        assert viewer.ask("POST", f"/studies/1/assessment/{path}", json=said)[0] in (400, 403)
    assert (
        reader.ask("POST", "/studies/1/assessment/findings", json={**about, "verdict": "rejected"})[0] == 400
    )
    said = {**about, "verdict": "rejected", "because": "a rib"}
    assert reader.ask("POST", "/studies/1/assessment/findings", json=said) == (204, None)
    status, answer = reader.ask("POST", "/studies/1/assessment/accept", json={"as_of": found["as_of"]})
    assert status == 409 and "not accepted" in answer["error"]
    refused = {"because": "see the finding", "as_of": "0" * 16}
    assert reader.ask("POST", "/studies/1/assessment/reject", json=refused)[0] == 409
    wanted = {"because": "see the finding", "as_of": found["as_of"]}
    assert reader.ask("POST", "/studies/1/assessment/reject", json=wanted) == (
        200,
        {"objects": found["waiting"]},
    )
    assert states(node) == {"discarded"}
    status, rows = reader.ask("GET", "/assessments")
    assert [(one["verdict"], one["because"], one["actor"]) for one in rows] == [
        ("rejected", "a rib", "reader")
    ]
    assert viewer.ask("GET", "/assessments")[0] == 403
    assert viewer.ask("GET", "/studies/9/assessment")[0] == 404


def test_the_command_line_accepts_and_rejects(node: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    file = config_file(node.settings)
    uid = str(ultrasound("one").StudyInstanceUID)
    for words, said in (
        (["reject", uid, "--because", "wrong side"], "Rejected"),
        (["accept", uid, "--rejected"], "Accepted"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["studies", *words, "--config", str(file)])
        assert not end.value.code and said in capsys.readouterr().out
    assert states(node) == {"pending"}
