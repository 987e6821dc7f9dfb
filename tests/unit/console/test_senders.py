"""A user who sees the studies of some senders: no page and no address shows or changes another one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from sqlalchemy import func, inspect, select

from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store import sight
from dicom_node.store.accounts import AuditRow, Feedback, RegisteredPatient, Withdrawal
from dicom_node.store.tables import Base, Delivery, Instance, Job, Result, Study
from tests.console_lab import PASSWORD, Browser, ConsoleLab, routes
from tests.inbox_lab import Inbox

OF_THE_NODE = {
    "user_account", "user_session", "api_token", "cursor", "disk_sample", "entered_table", "installation",
    "lease", "site_process", "decision", "commitment", "waiting_report",
}  # fmt: skip
"""Tables whose rows belong to no study, or are read by no page that a limited user has."""


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    """With the DICOMweb addresses, and an operator each for the sender of the study and for another room."""
    served = node.settings.console.model_copy(update={"dicomweb": True, "dicomweb_store": True})
    console = ConsoleLab(node.settings.model_copy(update={"console": served}), node.database)
    with node.database.read() as session:
        sender = session.scalars(select(Instance.calling_ae)).first()
    for name, title in (("here", sender), ("elsewhere", "ROOM9")):
        users.add_user(console.settings, name, UserRole.OPERATOR, PASSWORD, senders=[title])
    return console


def signed_in(console: ConsoleLab, name: str) -> Browser:
    browser = console.browser()
    assert browser.sign_in(name) == 303
    return browser


def addresses(app: FastAPI, node: Inbox) -> Iterator[tuple[str, str]]:
    """Method and path of each endpoint, with the numbers and UIDs of the study that is here."""
    with node.database.read() as session:
        study = session.scalars(select(Study)).one()
        known = {
            "number": [study.id, *session.scalars(select(Instance.id)), *session.scalars(select(Result.id))],
            "uid": study.study_instance_uid,
            "study": study.study_instance_uid,
            "series": study.instances[0].series_instance_uid,
            "instance": study.instances[0].sop_instance_uid,
        }
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            for number in known["number"]:
                values = {**known, "number": number, "n": number, "frame": 1, "frames": 1, "layer": 1}
                yield (
                    method,
                    re.sub(r"\{(\w+)[^}]*\}", lambda m, v=values: str(v.get(m[1], "images")), route.path),
                )


def test_each_table_belongs_to_studies_or_to_the_node() -> None:
    tables = {mapper.class_ for mapper in Base.registry.mappers}
    unlimited = {one.__tablename__ for one in tables if sight.condition_of(one, ["ROOM9"]) is None}
    assert unlimited == OF_THE_NODE


def test_no_address_shows_a_study_of_another_sender(console: ConsoleLab, node: Inbox) -> None:
    with node.database.read() as session:
        study = session.scalars(select(Study)).one()
        secrets = [study.study_instance_uid, study.patient_id, study.accession_number]
        secrets += [row.sop_instance_uid for row in (*study.instances, *study.results)]
    tokens = {name: users.add_token(console.settings, name, "a test", 1) for name in ("here", "elsewhere")}
    shown: dict[str, set[str]] = {}
    for name, token in tokens.items():
        browser = signed_in(console, name)
        shown[name] = set()
        for method, path in dict.fromkeys(addresses(console.app, node)):
            if method != "GET" or path in ("/live", "/sign-in/oidc/leave"):
                continue
            headers = {"Authorization": f"Bearer {token}"} if path.startswith("/api/") else {}
            answer = browser.client.get(path, headers=headers)
            assert answer.status_code != 500, path
            if any(secret and secret.encode() in answer.content for secret in secrets):
                shown[name].add(path)
            if answer.headers["content-type"].startswith("image/") and "/static/" not in path:
                shown[name].add(path)
    assert shown["elsewhere"] == set()
    assert len(shown["here"]) > 20  # the same addresses show it to whom it may be shown


def test_no_address_changes_a_study_of_another_sender(console: ConsoleLab, node: Inbox) -> None:
    def rows() -> dict[str, list[object]]:
        with node.database.read() as session:
            found = {}
            for table in (Study, Job, Result, Delivery, Withdrawal, Feedback, RegisteredPatient):
                columns = [column.key for column in inspect(table).column_attrs]
                found[table.__name__] = [
                    [getattr(row, key) for key in columns] for row in session.scalars(select(table))
                ]
            return found

    before = rows()
    browser = signed_in(console, "elsewhere")
    token = users.add_token(console.settings, "elsewhere", "a test", 1)
    csrf = browser.token()
    with node.database.read() as session:
        uid, number = session.execute(select(Study.study_instance_uid, Study.id)).one()
    fields = {
        "study": str(number),
        "because": "none of ours",
        "reason": "quality",
        "result": "1",
        "peer": "pacs",
    }
    for method, path in dict.fromkeys(addresses(console.app, node)):
        if method == "GET" or path.startswith(("/sign-", "/sessions", "/language")):
            continue
        if path.startswith("/api/"):
            body = {**fields, "studies": [uid], "change": "withdraw", "results": [1]}
            answer = browser.client.request(
                method, path, json=body, headers={"Authorization": f"Bearer {token}"}
            )
        else:
            answer = browser.client.request(method, path, data={"csrf": csrf, "change": "withdraw", **fields})
        assert answer.status_code != 500, path
    assert rows() == before


def test_an_admin_sees_all_and_senders_are_ae_titles(console: ConsoleLab) -> None:
    with pytest.raises(FaultyInput, match="admin"):
        users.add_user(console.settings, "boss", UserRole.ADMIN, PASSWORD, senders=["US1"])
    for title in ("A" * 17, "US\\1", "US\n1"):
        with pytest.raises(FaultyInput, match="AE titles"):
            users.change_user(console.settings, "here", senders=[title])
    users.change_user(console.settings, "here", senders=[])
    assert users.list_users(console.settings)[2]["senders"] == []


def test_an_admin_changes_in_the_browser_what_a_user_sees(console: ConsoleLab, node: Inbox) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.get("/users") == 200
    assert 'value="ROOM9"' in admin.text
    assert admin.post("/users/elsewhere/role", role="reader", sees=" US1 ; US2;") == 303
    by_name = {row["name"]: row for row in users.list_users(console.settings)}
    assert by_name["elsewhere"]["senders"] == ["US1", "US2"]
    assert console.audited("user_changed")[0]["senders"] == ["US1", "US2"]
    assert admin.post("/users/elsewhere/role", role="admin", sees="US1") == 400


def test_what_a_user_sees_is_for_that_request_only(console: ConsoleLab, node: Inbox) -> None:
    limited, free = signed_in(console, "elsewhere"), console.browser(UserRole.VIEWER)
    for _ in range(3):
        assert limited.get("/studies/1") == 404
        assert free.get("/studies/1") == 200
    with node.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow))
