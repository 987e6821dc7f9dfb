"""What the console makes of a request: where it came from, what it accepts, keys that are repeated."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from fastapi import HTTPException, Request

from dicom_console.handlers import dicomweb
from dicom_console.views import qido
from dicom_console.web import accept
from dicom_console.web.accept import MediaRange
from dicom_console.web.limits import address_of
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab


def test_the_first_value_of_a_key_counts_and_a_warning_names_the_key() -> None:
    given = [("ModalitiesInStudy", "US"), ("00080061", "CT"), ("PatientID", "A")]
    query = qido.query_of(qido.Level.STUDY, given)
    assert (query.value("ModalitiesInStudy"), query.ignored) == ("US", ("00080061",))


@pytest.mark.parametrize(("weight", "media"), [(0.5, "multipart/related"), (1.0, "application/dicom")])
def test_one_part_is_sent_as_the_client_prefers(weight: float, media: str) -> None:
    dicom = "application/dicom"
    accepted = [MediaRange(dicom, False, "", weight), MediaRange(dicom, True, "", 0.7)]
    assert str(dicomweb._parts(accepted, dicom, ["1.2"], []).media_type).startswith(media)  # type: ignore[list-item]


def test_a_method_that_an_address_has_not_is_answered_with_those_that_it_has(console: ConsoleLab) -> None:
    answer = console.browser(UserRole.VIEWER).client.put("/studies")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/jpeg;q=0.2, image/*;q=0.7", "image/png"),
        ("image/jpeg;q=0, */*", "image/png"),
        ("*/*;q=0, image/jpeg;q=0.001", "image/jpeg"),
        ("image/png;q=1.000, */*;q=0.9", "image/png"),
        ("image/png;q=high, image/jpeg", "image/jpeg"),
        ("image/jpeg;q=0, image/png;q=0.0", ""),
        ("*/*, image/jpeg;q=0, image/png;q=0", ""),
        ("multipart/related; type=image/png", ""),
    ],
)
def test_the_preferred_media_type_is_sent(given: str, sent: str) -> None:
    request = Request({"type": "http", "query_string": b"", "headers": [(b"accept", given.encode())]})
    try:
        assert accept.one_of(request, "image/jpeg", "image/png") == sent
    except HTTPException as refused:
        assert (refused.status_code, sent) == (406, "")


@pytest.mark.parametrize(
    ("passed", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),  # the first was written by the visitor
        ("192.0.2.7,10.1.2.3", "192.0.2.7"),  # two proxies
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711, 10.0.0.9:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.1, [2001:db8::2]", "2001:db8::2"),
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.7, <script>", "10.0.0.1"),
        ("192.0.2.1:", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_each_visitor_behind_a_trusted_proxy_has_an_address(passed: str, address: str) -> None:
    headers, trusted = [(b"x-forwarded-for", passed.encode())], [ip_network("10.0.0.0/8")]
    for sender, found in (("10.0.0.1", address), ("::ffff:10.0.0.1", address), ("192.0.2.8", "192.0.2.8")):
        scope = {"client": (sender, 5), "headers": headers}
        assert address_of(scope, trusted).removeprefix("::ffff:") == found
