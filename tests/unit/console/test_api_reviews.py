"""The review desk by REST: the same decisions, roles and refusals as on its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.model.roles import UserRole
from dicom_node.services import entered, users
from tests.console_lab import ConsoleLab, Program, quick_hasher
from tests.inbox_lab import Inbox
from tests.unit.console.scrubbed import PLACE, image, scrubbing
from tests.unit.jobs.worker_lab import work

BOX = [0, 0, 130, 30]


@pytest.fixture
def node(tmp_path: Path, with_users: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    folder = tmp_path / "var"
    folder.mkdir()
    shutil.copy(with_users, folder / "node.db")
    node = Inbox(folder, scrubbing())
    node.receive(image("NAME", 1), image("WIDE", 2), image("NAME", 3))
    node.settle()
    work(node)
    yield node
    node.close()


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def waiting(program: Program) -> list[int]:
    status, page = program.ask("GET", "/reviews")
    assert status == 200 and page["next"] is None
    return [row["id"] for row in page["reviews"]]


def test_an_operators_program_accepts_and_draws(console: ConsoleLab, node: Inbox) -> None:
    program = Program(console, UserRole.OPERATOR)
    assert waiting(program) == [1, 2, 3]
    status, row = program.ask("GET", "/reviews/1")
    assert (status, row["cause"], row["verdict"]) == (200, "withheld", None)
    assert row["places"] == [list(PLACE)]
    assert program.ask("POST", "/reviews/2/accept") == (204, None)
    assert program.ask("POST", "/reviews/2/accept")[0] == 409
    assert program.ask("POST", "/reviews/1/boxes", json={"boxes": [BOX]}) == (204, None)
    work(node)
    assert waiting(program) == [3]


def test_boxes_that_are_none_are_refused(console: ConsoleLab) -> None:
    program = Program(console, UserRole.OPERATOR)
    for boxes in ([], [[0, 0, 241, 30]], [[0, 0, 240, 180]], [[5, 5, 5, 5]], [[0, 0, -1, 3]], [BOX] * 11):
        status, answer = program.ask("POST", "/reviews/1/boxes", json={"boxes": boxes})
        assert status == 400 and answer["error"], boxes
    assert program.ask("POST", "/reviews/99/boxes", json={"boxes": [BOX]})[0] == 404
    assert waiting(program) == [1, 2, 3]


def test_a_device_rule_is_tried_saved_listed_and_removed(
    console: ConsoleLab, node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[object] = []
    monkeypatch.setattr(entered, "apply", applied.append)
    operator, admin = Program(console, UserRole.OPERATOR), Program(console, UserRole.ADMIN)
    rule = {"name": "room3", "boxes": [BOX]}
    status, tried = operator.ask("POST", "/reviews/1/device-rule/try", json=rule)
    assert status == 200 and "rectangles" in tried["text"] and len(tried["images"]) == 3
    assert operator.ask("POST", "/reviews/1/device-rule", json=rule)[0] == 403
    assert applied == []
    assert admin.ask("POST", "/reviews/1/device-rule", json=rule) == (
        200,
        {"name": "room3", "not_cleaned": ""},
    )
    assert [row["name"] for row in operator.ask("GET", "/reviews/device-rules")[1]] == ["room3"]
    assert admin.ask("DELETE", "/reviews/device-rules/room3") == (204, None)
    assert admin.ask("DELETE", "/reviews/device-rules/room3")[0] == 404
    assert len(applied) == 2


def test_a_rule_is_saved_where_its_study_cannot_be_run_again_and_that_is_said(
    console: ConsoleLab, node: Inbox
) -> None:
    node.receive(image("CLEAN", 4))
    node.index()  # it is being received again
    answer = Program(console, UserRole.ADMIN).ask(
        "POST", "/reviews/1/device-rule", json={"name": "room3", "boxes": [BOX]}
    )
    assert answer[0] == 200 and "still being received" in answer[1]["not_cleaned"]
    admin = console.browser(UserRole.ADMIN)
    box = dict(zip(("left", "top", "right", "bottom"), map(str, BOX), strict=True))
    assert admin.post("/reviews/1/boxes", act="save", name="room4", **box) == 200
    assert "The device rule room4 is saved." in admin.text
    assert "not cleaned again" in admin.text and "still being received" in admin.text
    assert "in_force.js" not in admin.text, "the page stays until it was read"
    folder = node.settings.node.data_dir / DEVICE_RULES_FOLDER
    assert sorted(path.name for path in folder.iterdir()) == ["room3.toml", "room4.toml"]
    assert waiting(Program(console, UserRole.OPERATOR)) == [1, 2, 3]


def test_a_reader_has_no_desk(console: ConsoleLab) -> None:
    program = Program(console, UserRole.READER)
    for method, path in (("GET", "/reviews"), ("GET", "/reviews/1"), ("POST", "/reviews/1/accept")):
        assert program.ask(method, path)[0] == 403
