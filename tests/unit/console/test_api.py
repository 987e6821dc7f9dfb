"""The REST API: tokens, and what it answers."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from sqlalchemy import select

from dicom_node.errors import FaultyInput, NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, users
from dicom_node.store.accounts import ApiToken
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox, encoded
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed


def arrive(inbox: Inbox) -> None:
    inbox.receive(changed(ultrasound("one"), PatientID="SECRET-1"), ultrasound("two"))
    inbox.settle()


def test_studies_are_listed_searched_and_shown(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox)
    program = Program(console, UserRole.VIEWER)
    status, found = program.ask("GET", "/studies", params={"state": "queued", "order": "waiting"})
    assert (status, [row["id"] for row in found["studies"]], found["next"]) == (200, [1, 2], None)
    status, found = program.ask("POST", "/studies/search", json={"patient": "SECRET-*"})
    assert (status, [row["patient_id"] for row in found["studies"]]) == (200, ["SECRET-1"])
    status, study = program.ask("GET", "/studies/1")
    assert (status, study["images"][0]["modality"], study["jobs"][0]["rule"]) == (200, "US", "ultrasound")
    assert program.ask("GET", "/studies/99") == (404, {"error": "there is no such study"})
    with console.database.read() as session:
        actions = [row["action"] for row in audit.rows(session) if row["actor"] == "viewer"]
        assert "SECRET" not in str(audit.rows(session))
    assert sorted(actions) == ["list_seen", "study_searched", "study_seen"]


def test_what_an_operator_may_change(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox)
    program = Program(console, UserRole.OPERATOR)
    assert program.ask("POST", "/jobs/1/cancel") == (204, None)
    status, found = program.ask("GET", "/jobs", params={"state": "cancelled"})
    assert (status, [row["job"] for row in found["jobs"]]) == (200, [1])
    status, error = program.ask("POST", "/jobs/1/cancel")
    assert (status, set(error)) == (409, {"error"})
    assert program.ask("POST", "/studies/1/rerun")[0] == 200
    assert program.ask("POST", "/outbox/1/discard", json={"because": "x"})[0] == 400
    assert program.ask("POST", "/outbox/1/discard", json={"because": "for a test"})[0] == 404
    assert program.ask("POST", "/studies/1/send", json={"peer": "nobody"})[0] == 404
    assert program.ask("GET", "/outbox")[1] == {"deliveries": [], "next": None}
    names = [peer.name for peer in console.settings.peers]
    assert [row["name"] for row in program.ask("GET", "/peers")[1]] == names


def test_an_upload_says_of_each_file_what_became_of_it(console: ConsoleLab, inbox: Inbox) -> None:
    program = Program(console, UserRole.OPERATOR)
    image = ultrasound("one")
    image.save_as(inbox.folder / "one.dcm", enforce_file_format=True)
    data = (inbox.folder / "one.dcm").read_bytes()
    assert encoded(image) in data
    status, rows = program.ask("POST", "/upload", files=[("files", ("a.dcm", data)), ("files", ("b", b"no"))])
    assert (status, [row["refusal"] == "" for row in rows]) == (200, [True, False])
    inbox.settle()
    assert inbox.outcomes() == ["new"]
    image = [("files", ("a.png", b"no"))]
    assert program.ask("POST", "/upload", files=image, data={"StudyDate": "soon"})[0] == 400


def test_only_the_hash_of_a_token_is_stored_and_its_use_is_noted(console: ConsoleLab) -> None:
    program = Program(console, UserRole.VIEWER)
    assert program.ask("GET", "/jobs")[0] == 200
    with console.database.read() as session:
        [row] = session.scalars(select(ApiToken))
        assert row.token_sha256 == hashlib.sha256(program.token.encode()).hexdigest()
        assert row.used_at is not None
    [shown] = users.list_tokens(console.settings)
    assert (shown["user"], shown["role"], shown["purpose"]) == ("viewer", "viewer", "a test")
    assert program.token not in str(shown)


def test_a_token_ends_with_its_time_its_removal_or_its_user(console: ConsoleLab) -> None:
    for end in ("expired", "removed", "no user"):
        program = Program(console, UserRole.READER)
        assert program.ask("GET", "/jobs")[0] == 200
        newest = users.list_tokens(console.settings)[-1]["token"]
        if end == "expired":
            with console.database.write() as session:
                row = session.get_one(ApiToken, newest)
                row.expires_at = row.created_at - timedelta(days=1)
        elif end == "removed":
            users.remove_token(console.settings, newest)
        else:
            users.remove_user(console.settings, "reader")
        assert program.ask("GET", "/jobs")[0] == 401, end
    with pytest.raises(NotFound):
        users.remove_token(console.settings, 99)
    with pytest.raises(NotFound):
        users.add_token(console.settings, "reader", "a test", 1)
    for purpose, days in (("", 1), ("x" * 65, 1), ("a\x00b", 1), ("a test", 0), ("a test", 10**6)):
        with pytest.raises(FaultyInput):
            users.add_token(console.settings, "viewer", purpose, days)
