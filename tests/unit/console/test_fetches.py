"""The page of fetched studies: what an operator has fetched, how far it is, again and cancelled."""

from __future__ import annotations

from datetime import datetime

from dicom_node.config.settings import PeerSettings
from dicom_node.model.roles import UserRole
from dicom_node.services import fetches
from tests.archive_lab import FakeArchive, answer_for, film, peer
from tests.console_lab import ConsoleLab, Program
from tests.pacs_lab import free_port, run_pacs

FORM = {"peer": "archive", "modalities": "dx", "first": "2024-03-02", "last": "2024-03-02", "rule": ""}


def with_archive(console: ConsoleLab, port: int) -> None:
    asked = PeerSettings.model_validate(peer(port, ae_title="ARCHIVE"))
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, asked)}))


def test_an_operator_has_studies_fetched(console: ConsoleLab) -> None:
    archive = FakeArchive(free_port(), "ARCHIVE", answers=[answer_for(film("wanted"))])
    with run_pacs(archive, classes=()) as pacs:
        with_archive(console, pacs.port)
        browser = console.browser(UserRole.OPERATOR)
        assert browser.post("/fetches", **FORM) == 303
        assert browser.follow() == 200
        assert "archive" in browser.text and "waiting" in browser.text
        assert console.browser(UserRole.VIEWER).post("/fetches", **FORM) == 403
    assert console.audited("studies_fetched")[0]["studies"] == 1
    assert browser.post("/fetches/archive/cancel") == 303
    assert browser.post("/fetches/archive/again") == 303
    assert [row.state for row in fetches.listed(console.settings)] == ["waiting"]
    assert browser.get("/peers") == 200 and "/fetches" in browser.text


def test_a_program_lists_them_by_pages(console: ConsoleLab) -> None:
    found = Program(console, UserRole.VIEWER).ask("GET", "/fetches")
    assert found == (200, {"fetches": [], "next": None})


def test_too_many_days_are_for_the_command_and_what_is_no_date_is_refused(console: ConsoleLab) -> None:
    with_archive(console, free_port())
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/fetches", **{**FORM, "first": "2020-01-01"}) == 409
    assert browser.post("/fetches", **{**FORM, "first": "yesterday"}) == 400
    assert browser.post("/fetches", **{**FORM, "modalities": "../.."}) == 400
    assert browser.post("/fetches", **{**FORM, "peer": "pacs"}) == 409
    assert browser.post("/fetches", **FORM) == 409  # it does not answer
    assert not fetches.listed(console.settings)


def test_without_such_a_peer_the_page_tells_what_to_set(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/fetches") == 200
    assert "No peer may be asked for studies" in browser.text
    assert 'action="/fetches"' not in browser.text


def test_studies_without_a_result_are_shown_and_fetched(console: ConsoleLab) -> None:
    answer = answer_for(
        film("lost"), StudyDate=f"{datetime.now().astimezone():%Y%m%d}", ModalitiesInStudy="US"
    )
    with run_pacs(FakeArchive(free_port(), "ARCHIVE", answers=[answer]), classes=()) as pacs:
        with_archive(console, pacs.port)
        browser = console.browser(UserRole.OPERATOR)
        assert browser.get("/fetches") == 200 and "/fetches/archive/missing" in browser.text
        assert browser.post("/fetches/archive/missing") == 200
        assert "it never came" in browser.text
        assert not fetches.listed(console.settings)
        assert browser.post("/fetches/archive/missing", fetch="true") == 303
        assert console.browser(UserRole.VIEWER).post("/fetches/archive/missing") == 403
    assert [row.state for row in fetches.listed(console.settings)] == ["waiting"]
