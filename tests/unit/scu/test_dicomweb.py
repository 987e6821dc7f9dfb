"""Store Instances Responses (PS3.18 I.2) as servers write them."""

from __future__ import annotations

import json

import pytest
import requests
from pydicom.dataset import Dataset

from dicom_node.scu import SendStatus
from dicom_node.scu.dicomweb import _refused, _stored


def response(**sequences: int | None) -> Dataset:
    """``failed=0x0110`` or ``warned=0xB000``: a response about one object."""
    answer, item = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    if (reason := sequences.get("failed")) is not None:
        item.FailureReason = reason
        answer.FailedSOPSequence = [item]
    else:
        if (warning := sequences.get("warned")) is not None:
            item.WarningReason = warning
        answer.ReferencedSOPSequence = [item]
    return answer


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (response(), SendStatus.STORED),
        (response(warned=0xB000), SendStatus.WARNED),
        (response(failed=0x0110), SendStatus.RETRY),
        (response(failed=0xA700), SendStatus.RETRY),
        (response(failed=0x0122), SendStatus.REFUSED),
        (response(failed=0xC000), SendStatus.REFUSED),
        (response(failed=0x0111), SendStatus.VERIFY),
        (Dataset(), SendStatus.VERIFY),
    ],
)
def test_an_accepted_request_says_what_became_of_the_object(answer: Dataset, status: SendStatus) -> None:
    assert _stored(answer, "1.2.3").status is status


def test_an_answer_that_names_another_object_is_no_success() -> None:
    assert _stored(response(), "1.2.4").status is SendStatus.VERIFY


def conflict(body: bytes) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = 409
    answer._content = body
    return requests.HTTPError(response=answer)


def test_a_conflict_is_judged_by_its_reason() -> None:
    report = _refused(conflict(json.dumps(response(failed=0xA700).to_json_dict()).encode()))
    assert report is not None
    assert report.status is SendStatus.RETRY


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'"text"', b"{}"])
def test_a_conflict_without_a_readable_reason_is_left_to_its_http_status(body: bytes) -> None:
    assert _refused(conflict(body)) is None
