"""What the console makes of a request: where it came from, what it accepts, keys that are repeated."""

import struct
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import HTTPException, Request
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit

from dicom_console.handlers import dicomweb
from dicom_console.handlers.dicomweb import MediaRange
from dicom_console.views import qido
from dicom_console.views.dicomweb import frames
from dicom_console.web.limits import address_of
from dicom_node.errors import FaultyInput, NotFound
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab
from tests.modality import ultrasound


def test_the_first_value_of_a_key_counts_and_a_warning_names_the_key() -> None:
    given = [("ModalitiesInStudy", "US"), ("00080061", "CT"), ("PatientID", "A")]
    query = qido.query_of(qido.Level.STUDY, [*given, ("fuzzymatching", "maybe")])
    assert (query.value("ModalitiesInStudy"), query.ignored) == ("US", ("00080061", "fuzzymatching"))
    with pytest.raises(FaultyInput, match="YYYYMMDD"):
        qido.query_of(qido.Level.STUDY, [("StudyDate", "99999999")])


def test_a_key_is_matched_whatever_an_object_has_in_its_place() -> None:
    header = Dataset()
    for keyword, vr, value in (
        ("SeriesDate", "DA", b"2019.01.05"),
        ("StudyDate", "DA", b"yesterday "),
        ("Rows", "US", b"\1"),
        ("RequestAttributesSequence", "LO", b"text"),
        ("ReferringPhysicianName", "PN", b"Meyer^Hans^^=X^Y"),
        ("SeriesDescription", "LO", b"a" * 64),
    ):
        header[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
    for key, value, is_found in (
        ("SeriesDate", "20190105", True),
        ("SeriesDate", "-20180101", False),
        ("StudyDate", "-20180101", False),
        ("Rows", "1", False),
        ("RequestAttributesSequence.ScheduledProcedureStepID", "1", False),
        ("ReferringPhysicianName", "meyer^hans", True),
        ("SeriesDescription", "*a" * 40 + "b", False),  # in no time
    ):
        [(path, wanted)] = qido.query_of(qido.Level.INSTANCE, [(key, value)]).keys.items()
        assert qido._matches_at(header, path, wanted) is is_found, key


def test_frames_are_told_apart_by_their_code_streams_and_none_is_promised_in_vain(tmp_path: Path) -> None:
    image, streams = ultrasound("one"), [b"\xff\xd8" + bytes([n] * 10) + b"\xff\xd9" for n in range(3)]
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    offsets = struct.pack("<4sI3I", b"\xfe\xff\x00\xe0", 12, 0, 4, 6)  # wrong
    image.add_new("PixelData", "OB", offsets + encapsulate(streams, has_bot=False)[8:])
    for said in (3, 4):
        image.NumberOfFrames = said
        image.save_as(tmp_path / "cine.dcm", enforce_file_format=True)
        if said == 3:
            assert list(frames(tmp_path / "cine.dcm", [3, 1])) == [streams[2], streams[0]]
    with pytest.raises(NotFound):
        frames(tmp_path / "cine.dcm", [4])


@pytest.mark.parametrize(("weight", "media"), [(0.5, "multipart/related"), (1.0, "application/dicom")])
def test_one_part_is_sent_as_the_client_prefers(weight: float, media: str) -> None:
    dicom = "application/dicom"
    accepted = [MediaRange(dicom, False, "", weight), MediaRange(dicom, True, "", 0.7)]
    assert str(dicomweb._parts(accepted, dicom, ["1.2"], []).media_type).startswith(media)  # type: ignore[list-item]


@pytest.mark.parametrize("url", ["", "https://ai-node.example.org"])
def test_a_retrieve_url_is_at_the_console_s_own_address_where_it_has_one(url: str) -> None:
    request = SimpleNamespace(base_url="http://127.0.0.1:8080/")
    site = SimpleNamespace(settings=SimpleNamespace(console=SimpleNamespace(url=url)))
    [address] = dicomweb.url(SimpleNamespace(request=request, site=site), "/studies/1")["00081190"]["Value"]
    assert address == f"{url or 'http://127.0.0.1:8080'}{dicomweb.router.prefix}/studies/1"


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
        assert dicomweb.one_of(request, "image/jpeg", "image/png") == sent
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
