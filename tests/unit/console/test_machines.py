"""What programs that watch the node may ask."""

from __future__ import annotations

import fcntl
import os

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from dicom_console.app import create_app
from dicom_node.model.roles import UserRole
from dicom_node.monitoring.processes import Sign, SignsOfLife
from dicom_node.store import database as store_database
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.monitoring.site_of_two import SiteOfTwo
from tests.unit.store.test_outage import away


def test_health_is_answered_without_a_database(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.database.dispose()
    (inbox.folder / "node.db").rename(inbox.folder / "away.db")
    (inbox.folder / "node.db").mkdir()
    browser = console.browser()
    assert (browser.get("/healthz"), browser.text) == (200, "ok\n")
    assert browser.get("/readyz") == 503
    assert browser.headers["content-type"].startswith("text/plain")
    status, text = numbers(console)
    assert status == 503
    assert text.startswith("The database of the node does not answer.")


def test_ready_is_a_node_that_receives_and_has_room(console: ConsoleLab) -> None:
    browser = console.browser()
    assert browser.get("/readyz") == 503
    assert "no node" in browser.text
    file = console.settings.node.data_dir / "all.lock"
    file.write_text(str(os.getpid()), encoding="ascii")
    assert browser.get("/readyz") == 503, "a file that its process does not hold is of no node"
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        console.change("spool", minimum_free_mib=2**40)
        assert browser.get("/readyz") == 503
        assert "minimum_free_mib" in browser.text
        console.change("spool", minimum_free_mib=0)
        assert (browser.get("/readyz"), browser.text) == (200, "ready\n")


def test_a_console_of_its_own_is_ready_unless_a_listener_beside_it_was_lost(
    console: ConsoleLab,
) -> None:
    browser = console.browser()
    with (console.settings.node.data_dir / "console-1.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        assert browser.get("/readyz") == 200
        listener = SignsOfLife(console.app.state.site.database, "listener-1", "vm/listener-1")
        listener.report([Sign("main", 7)], ["listener-1"])
        assert browser.get("/readyz") == 503
        listener.leave()
        assert browser.get("/readyz") == 200


def numbers(console: ConsoleLab) -> tuple[int, str]:
    """Status and text of /metrics, asked for with the token."""
    console.change("console", metrics_token=SecretStr("t0ken"))
    answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
    return answer.status_code, answer.text


def test_metrics_count_and_name_nobody(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(changed(ultrasound("one"), PatientID="SECRET-1"))
    inbox.settle()
    status, text = numbers(console)
    assert status == 200
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines["dicom_node_objects_received"] == "1.0"
    assert lines['dicom_node_jobs{state="queued"}'] == "1.0"
    assert lines['dicom_node_deliveries{state="dead"}'] == "0.0"
    assert "SECRET" not in text
    assert "1.2." not in text


def test_the_first_page_and_the_numbers_show_each_machine_of_a_site(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = SiteOfTwo(console.database, monkeypatch)
    site.pass_time(30, site.a, site.b)
    site.pass_time(60, site.a)
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/") == 200
    assert browser.text.count("silent for") == 2
    _, text = numbers(console)
    assert "dicom_node_processes_lost 2.0" in text
    labels = 'machine="B",place="listener-2",process="listener"'
    assert f"dicom_node_process_silent_seconds{{{labels}}} 62.0" in text


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [
        ("", "", 403),
        ("", "Bearer ", 403),
        ("t0ken", "", 403),
        ("t0ken", "Bearer token", 403),
        ("t0ken", "Bearer t0ken", 200),
    ],
)
def test_metrics_are_for_who_has_the_token_from_wherever_they_are_asked_for(
    console: ConsoleLab, token: str, given: str, status: int
) -> None:
    console.change("console", metrics_token=SecretStr(token))
    for here in ("127.0.0.1", "::1", "192.0.2.1"):
        client = TestClient(console.app, client=(here, 4711))
        assert client.get("/metrics", headers={"Authorization": given}).status_code == status


def test_a_port_for_metrics_needs_no_token_and_answers_nothing_else(console: ConsoleLab) -> None:
    console.change("console", metrics_port=9112)
    app = create_app(console.settings, console.database)
    client = TestClient(app, base_url="http://127.0.0.1:9112")
    assert {client.get(path).status_code for path in ("/healthz", "/metrics")} == {200}
    assert {client.get(path).status_code for path in ("/", "/sign-in", "/api/v1/studies")} == {404}
    at_the_console = TestClient(app, base_url="http://127.0.0.1:8080", headers={"Host": "127.0.0.1:9112"})
    assert at_the_console.get("/metrics").status_code == 403


@pytest.mark.parametrize("path", ["/sign-in", "/", "/api/v1/studies", "/metrics", "/static/style.css"])
def test_a_name_that_is_not_listed_is_answered_by_421_and_what_to_do(console: ConsoleLab, path: str) -> None:
    client = TestClient(console.app)
    for host in ("evil.example.org", "testserver.evil.example.org", "192.0.2.9:80", ""):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 421, host
        assert "console.hosts" in answer.text
        assert "evil" not in answer.text
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["testserver", "localhost:8080", "AI-Node.example.org:8443", "[fd00::7]:8443"]
)
def test_the_address_that_is_connected_to_localhost_and_listed_names_are_answered(
    console: ConsoleLab, host: str
) -> None:
    console.change("console", hosts=("ai-node.EXAMPLE.org", "fd00::7"))
    assert TestClient(console.app).get("/sign-in", headers={"Host": host}).status_code == 200


def test_an_outage_of_the_database_is_one_line_of_the_log_and_its_end_another(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    browser = console.browser(UserRole.VIEWER)
    with away(console.database):
        assert [browser.get(path) for path in ("/readyz", "/jobs", "/audit", "/studies")] == [503] * 4
        assert "node.db" not in browser.text and "Traceback" not in browser.text
    [said] = caplog.messages
    assert said.startswith("pages are not answered: the database sqlite")
    caplog.clear()
    monkeypatch.setattr(store_database, "_QUIET_SECONDS", 0.0)
    assert [browser.get(path) for path in ("/studies", "/jobs")] == [200, 200]
    [said] = caplog.messages
    assert said.startswith("the database answers again")
