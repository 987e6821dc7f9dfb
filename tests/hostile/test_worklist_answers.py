"""What a worklist manager may answer (UPS-RS) without harm: endless, malformed, of wrong types, slow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom import workitem
from dicom_node.errors import PeerUnreachable
from dicom_node.scu import ChangeStatus, open_worklist
from dicom_node.scu.connections import MAXIMUM_ANSWER_BYTES
from tests.hostile.web import answering
from tests.worklist_lab import instances, work_item

ITEM = work_item("1.2.3").to_json_dict()


@contextmanager
def manager(status: int, body: bytes) -> Iterator[Any]:
    with answering(status, body, Content_Type="application/dicom+json") as (url, _):
        peer = {"name": "ris", "ae_title": "RIS", "transport": "dicomweb", "url": url, "worklist": ["*"]}
        settings = Settings.model_validate({"outbox": {"answer_seconds": 5}})
        yield open_worklist(PeerSettings.model_validate({**peer, "may": []}), settings)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        b'"text"',
        b"7",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[" + b" " * MAXIMUM_ANSWER_BYTES + b"]",
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=["html", "null", "text", "number", "nested", "no text", "long", "digits"],
)
def test_an_answer_that_is_none_is_no_work(body: bytes) -> None:
    with manager(200, body) as ris:
        for ask in (ris.search, lambda: ris.read("1.2.3")):
            try:
                assert not ask()
            except PeerUnreachable as error:
                assert "html" not in str(error)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("00404021", {"vr": "SQ", "Value": ["no item"]}),
        ("00404021", {"vr": "SQ", "Value": 5}),
        ("00404021", {"vr": "LO", "Value": ["a", "b"]}),
        ("00404021", {"vr": "SQ", "Value": [instances("1.2.3").to_json_dict()] * 1001}),
        ("00080018", {"vr": "UI", "Value": ["../../etc"]}),
        ("00080018", {"vr": "UI", "Value": ["1.2", "1.3"]}),
        ("00080018", {"vr": "UI", "BulkDataURI": "file:///etc/passwd"}),
        ("00741000", {"vr": "CS", "Value": [{"a": 1}]}),
        ("00404018", {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["a^b"]}}]}),
        ("00100010", {"vr": "PN", "Value": [["a"]]}),
        ("00404041", 3),
    ],
)
def test_a_faulty_item_is_left_out_and_the_others_are_read(tag: str, value: Any) -> None:
    with manager(200, json.dumps([{**ITEM, tag: value}, ITEM, [], None, 1, {}]).encode()) as ris:
        found = [workitem.read_workitem(one) for one in ris.search()]
        read = [item for item in found if item is not None]
        assert all(item.study_instance_uid in ("", "1.2.3") for item in read)
        assert read[-1].uid == ITEM["00080018"]["Value"][0]
        assert not any(code.value == "a^b" for item in read for code in item.codes)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, ChangeStatus.DONE),
        (400, ChangeStatus.CONFLICT),
        (409, ChangeStatus.CONFLICT),
        (404, ChangeStatus.ABSENT),
        (410, ChangeStatus.ABSENT),
        (401, ChangeStatus.RETRY),
        (422, ChangeStatus.REFUSED),
        (302, ChangeStatus.RETRY),
        (500, ChangeStatus.RETRY),
        (503, ChangeStatus.RETRY),
    ],
)
def test_the_meaning_of_a_status(status: int, expected: ChangeStatus) -> None:
    with manager(status, b"Doe^John") as ris:
        answer = ris.change_state("1.2.3", "1.2.4", workitem.ProcedureStepState.IN_PROGRESS)
        assert answer.status is expected
        assert ris.update("1.2.3", "1.2.4", workitem.progress(1, "x")).status is expected
        assert "Doe" not in answer.text


def test_a_thousand_codes_and_stations_are_read_in_no_time() -> None:
    item = Dataset.from_json(ITEM)
    item.ScheduledWorkitemCodeSequence = [item.ScheduledWorkitemCodeSequence[0]] * 1000
    item.InputInformationSequence = [instances("1.2.3", url="http://a/" + "x" * 5000)] * 1000
    began = time.monotonic()
    read = workitem.read_workitem(item)
    assert read is not None
    assert len(read.codes) == 10
    assert time.monotonic() - began < 5
