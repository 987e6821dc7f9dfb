"""Who sees the studies of some senders only, and that lists are noted."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from pydicom.dataset import Dataset
from sqlalchemy import inspect

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.errors import FaultyInput
from dicom_node.base.events import FETCH_ASKED, STORE_REFUSED, STUDIES_MISSING
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store import sight
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import (
    AuditRow,
    Delivery,
    Feedback,
    Instance,
    Job,
    ReceivedObject,
    RegisteredPatient,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people import audit, users
from tests.console_lab import PASSWORD, ConsoleLab, routes
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed, own_result


@pytest.fixture
def limited(node: Inbox) -> ConsoleLab:
    """With the address of STOW-RS, and an operator each for the sender of the study and for another room."""
    served = node.settings.console.model_copy(update={"dicomweb_store": True})
    other = PeerSettings(name="room9", ae_title="ROOM9", may=("send",))
    settings = node.settings.model_copy(update={"console": served, "peers": (*node.settings.peers, other)})
    limited = ConsoleLab(settings, node.database)
    for name, title in (("here", node.rows(Instance)[0].calling_ae), ("elsewhere", "ROOM9")):
        users.add_user(limited.settings, name, UserRole.OPERATOR, PASSWORD, senders=[title])
    return limited


def addresses(app: FastAPI, node: Inbox, *, each: bool = True) -> Iterator[tuple[str, str]]:
    """Method and path of each endpoint, with the UIDs of the study that is here, its number and those of its
    images, where it asks for results of one of each kind, too; else with the first number alone.
    """
    study, images = node.rows(Study)[0], node.rows(Instance)
    numbers, of_a_kind = {study.id}, {row.kind: row.id for row in node.rows(Result)}
    numbers |= {image.id for image in images} if each else set()
    known = {
        "uid": study.study_instance_uid,
        "study": study.study_instance_uid,
        "series": images[0].series_instance_uid,
        "instance": images[0].sop_instance_uid,
        "change": "retry",
    }
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            for number in numbers | {*of_a_kind.values()} if each and "result" in route.path else numbers:
                values = {**known, "number": number, "n": number, "frame": 1, "frames": 1, "layer": 1}
                yield (
                    method,
                    re.sub(r"\{(\w+)[^}]*\}", lambda m, v=values: str(v.get(m[1], "images")), route.path),
                )


def test_each_table_belongs_to_studies_or_to_the_node() -> None:
    tables = (mapper.class_ for mapper in Base.registry.mappers)
    assert {one.__tablename__ for one in tables if sight.condition_of(one, ["ROOM9"]) is None} == {
        "user_account", "user_session", "api_token", "cursor", "disk_sample", "installation",
        "learnt_screen", "lease", "site_process", "decision", "commitment", "waiting_report",
    }  # fmt: skip


def test_no_address_shows_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    study = node.rows(Study)[0]
    secrets = [study.study_instance_uid, study.patient_id, study.accession_number, "an operator"]
    secrets += [row.sop_instance_uid for row in (*node.rows(Instance), *node.rows(Result))]
    sender = node.rows(Instance)[0].calling_ae
    # Of no study here: a fetch, a list, a refused object.
    node.write(record, FETCH_ASKED, study=secrets[0], peer="pacs")
    node.write(record, STUDIES_MISSING, peer="pacs", studies=secrets[:1])
    node.write(record, STORE_REFUSED, calling=sender, instance=secrets[-1], reason="")
    node.write(audit.note, audit.Person("an operator"), AuditAction.UPLOADED, association="", objects=1)
    tokens = {name: users.add_token(limited.settings, name, "a test", 1) for name in ("here", "elsewhere")}
    shown: dict[str, set[str]] = {}
    for name, token in tokens.items():
        browser = limited.browser(name)
        shown[name] = set()
        for method, path in dict.fromkeys(addresses(limited.app, node, each=name == "elsewhere")):
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
    assert len(shown["here"]) > 15  # the same addresses show it to whom it may be shown


def _keys(schema: dict[str, Any], method: str, path: str) -> Iterable[str]:
    """Keys of the body that an address takes, as the schema of the REST API says."""
    [action] = [
        actions[method.lower()]
        for template, actions in schema["paths"].items()
        if method.lower() in actions and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ] or [{}]
    body = action.get("requestBody", {}).get("content", {}).get("application/json", {"schema": {}})["schema"]
    name = body.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"].get(name, {}).get("properties", ())


def test_no_address_changes_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    def rows() -> dict[str, list[object]]:
        return {
            table.__name__: [
                [getattr(row, column.key) for column in inspect(table).column_attrs]
                for row in node.rows(table)
            ]
            for table in (Study, Job, Result, Delivery, Withdrawal, Feedback, RegisteredPatient)
        }

    before = rows()
    browser = limited.browser("elsewhere")
    headers = {"Authorization": f"Bearer {users.add_token(limited.settings, 'elsewhere', 'a test', 1)}"}
    csrf = browser.token()
    [study] = node.rows(Study)
    fields = {"because": "none of ours", "reason": "quality", "peer": "pacs"}
    drawn = {"boxes": [[0, 0, 9, 9]], "name": "room9"}
    assessed = {
        "finding": "1.2",
        "model": "a 1",
        "verdict": "accepted",
        "studies": [study.id],
        "results": [1],
    }
    days = {"first": "2024-03-02", "last": "2024-03-02"}
    patient = {"PatientID": study.patient_id, "PatientName": "Somebody^Else"}
    values = {**fields, **drawn, **assessed, **days, **patient, "state": "failed", "change": "withdraw"}
    schema = browser.client.get("/api/v1/openapi.json", headers=headers).json()
    for method, path in dict.fromkeys(addresses(limited.app, node)):
        if method == "GET" or path.startswith(("/sign-", "/sessions", "/language")):
            continue
        if path.startswith("/api/"):
            body = {key: value for key, value in values.items() if key in _keys(schema, method, path)}
            answer = browser.client.request(method, path, json=body, headers=headers)
            form = "cannot be read" in answer.text and not path.endswith(("/rules/images/try", "/registered"))
            assert not form, (path, answer.text)
        else:
            answer = browser.client.request(
                method, path, data={"csrf": csrf, "change": "withdraw", "study": "1", "result": "1", **fields}
            )
        assert answer.status_code != 500, path
    assert rows() == before


@pytest.mark.parametrize(
    ("make", "sees"),
    [
        pytest.param(lambda image: ultrasound("one", number=2), False, id="further image"),
        pytest.param(lambda image: changed(image, PatientID="P9"), False, id="conflict"),
        pytest.param(lambda image: changed(image, SOPClassUID="1.2.3"), False, id="faulty"),
        pytest.param(changed, True, id="copy"),
        pytest.param(own_result, True, id="own result"),
    ],
)
def test_who_stored_into_a_study_first_does_not_see_what_others_send(
    inbox: Inbox, make: Callable[[Dataset], Dataset], sees: bool
) -> None:
    image = ultrasound("one")
    inbox.index(image, calling="CONSOLE")
    with sight.seen_by(["CONSOLE"]):
        assert len(inbox.rows(Study)) == 1
    inbox.index(make(image), calling="US1")
    with sight.seen_by(["CONSOLE"]):
        assert len(inbox.rows(Study)) == len(inbox.rows(ReceivedObject)[:1]) == sees
    with sight.seen_by(["CONSOLE", "US1"]):
        assert len(inbox.rows(Study)) == 1


def test_an_admin_sees_all_and_senders_are_ae_titles(limited: ConsoleLab) -> None:
    with pytest.raises(FaultyInput, match="admin"):
        users.add_user(limited.settings, "boss", UserRole.ADMIN, PASSWORD, senders=["US1"])
    for title in ("A" * 17, "US\\1", "US\n1"):
        with pytest.raises(FaultyInput, match="AE titles"):
            users.change_user(limited.settings, "here", senders=[title])
    with pytest.raises(FaultyInput, match="no machine sends as 'US77'"):
        users.change_user(limited.settings, "here", senders=["US77"])
    users.change_user(limited.settings, "here", senders=[])
    assert users.list_users(limited.settings)[2]["senders"] == []


def noted(console_of_node: ConsoleLab, action: str) -> list[tuple[Any, ...]]:
    return [(row["actor"], row["fields"]) for row in console_of_node.audit_rows() if row["action"] == action]


@pytest.mark.parametrize(("path", "name"), [("/studies", "studies"), ("/patients", "patients")])
def test_a_list_is_noted_once_for_each_person_until_some_minutes_are_over(
    console_of_node: ConsoleLab, path: str, name: str
) -> None:
    reader, admin = (console_of_node.browser(role) for role in (UserRole.READER, UserRole.ADMIN))
    for browser in (reader, reader, admin):
        assert "ID-one" in browser.page(path)
    assert noted(console_of_node, "list_seen") == [("admin", {"list": name}), ("reader", {"list": name})]
    console_of_node.put(AuditRow, at=utc_now() - timedelta(minutes=6))
    reader.get(path)
    assert len(noted(console_of_node, "list_seen")) == 3
