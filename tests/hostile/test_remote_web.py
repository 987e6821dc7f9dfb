"""A service of a vendor's AI that answers badly: what is stored of it, how long that takes, what is said."""

import gzip
import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_connectors.remote.fetching import look
from dicom_connectors.remote.pipeline import RemoteOptions
from dicom_connectors.remote.settings import Vendor
from dicom_connectors.remote.web import Posted, StudyBody, WebService
from dicom_node.base.config.loading import load
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import AwaitedState
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.database import Database
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.scu import Outgoing, SendStatus, open_archive
from tests.certificates_lab import Authority
from tests.ct_lab import ct_slices
from tests.hostile.web import answering
from tests.modality import part_10
from tests.pacs_lab import Pacs
from tests.service_lab import (
    KIND,
    Service,
    answered,
    authorities,
    multipart,
    raw,
    run_service,
    service_site,
)
from tests.vendor_lab import derived, derives

SECONDS = 2.0
RETRY, REFUSED = SendStatus.RETRY, SendStatus.REFUSED


def configured(folder: Path, url: str, more: str = "") -> Settings:
    """The settings of a node with one service."""
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\n{service_site(Pacs(), url, more=more)}', encoding="utf-8"
    )
    return load([config])


def vendor_of(settings: Settings) -> Vendor:
    """The service of these settings."""
    options = RemoteOptions(peer="vendor", model="finder", version="3", answers="returned")
    return Vendor(settings.peer("vendor"), options, 1.0)


def posted(folder: Path, url: str, images: list[Dataset], more: str = "", seconds: float = SECONDS) -> Posted:
    """Send these images once; what became of that."""
    settings = configured(folder, url, more)
    now = utc_now()
    row = AwaitedAnswer(
        id=1, study_id=1, job_id=1, peer="vendor", study_instance_uid=str(images[0].StudyInstanceUID),
        state=AwaitedState.SENDING, began_at=now, limit_at=now + timedelta(seconds=seconds),
    )  # fmt: skip
    outgoing = []
    for number, image in enumerate(images):
        path = folder / f"{number}.dcm"
        path.write_bytes(part_10(image))
        uids = image.SOPClassUID, image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID
        outgoing.append(Outgoing(*map(str, uids), path, ""))
    service = WebService(vendor_of(settings), settings)
    return service.post(row, StudyBody(outgoing), seconds)


def spooled(folder: Path) -> list[Path]:
    """What of it the node has."""
    return list((folder / "spool").rglob("*.dcm"))


IMAGES = ct_slices("hostile", 2, side=16)
WHOLE = answered(derives(IMAGES))
BOMB = gzip.compress(bytes(64 << 20))


@pytest.mark.parametrize(
    ("wire", "status", "why"),
    [
        (raw(b""), REFUSED, "no results"),
        (raw(b"{}", "application/dicom+json"), REFUSED, "no results"),
        (raw(multipart([]), KIND), REFUSED, "no object"),
        (WHOLE[: len(WHOLE) // 2], RETRY, "ended early"),
        (raw(bytes(200_000), KIND), REFUSED, "not as this kind of server"),
        (raw(multipart([part_10(derived(IMAGES[0]))], b""), KIND), RETRY, "ended early"),
        (raw(b"", KIND, length=3 << 30), REFUSED, "too many bytes"),
        (raw(b"", KIND, length=-1), RETRY, "ended early"),
        (raw(BOMB, KIND, Content_Encoding="gzip"), REFUSED, "compressed"),
        (raw(multipart([b"x"] * 2_010), KIND), REFUSED, "too many bytes or objects"),
        (raw(multipart([b"no DICOM" * 100]), KIND), REFUSED, "object 1 of its answer: it is no file"),
        (answered(derives(ct_slices("others", 1, side=16))), REFUSED, "another study"),
        (answered([*derives(IMAGES), *derives(ct_slices("others", 1, side=16))]), REFUSED, "object 3"),
        (raw(b"", status="202 Accepted"), REFUSED, "no results"),
        (raw(b"", status="302 Found", Location="http://127.0.0.1:1/"), RETRY, "another address"),
        (raw(b"", status="307 Temporary Redirect", Location="http://127.0.0.1:1/"), RETRY, "another address"),
        (raw(b"", status="401 Unauthorized"), RETRY, "not accepted"),
        (raw(b"", status="413 Content Too Large"), REFUSED, "request refused"),
        (raw(b"", status="500 Internal Server Error"), RETRY, "problem"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", SendStatus.UNREACHABLE, ""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", SendStatus.UNREACHABLE, ""),
        (b"", SendStatus.UNREACHABLE, ""),
        (b"\x00\x01 no HTTP", SendStatus.UNREACHABLE, ""),
    ],
    ids=[
        "nothing", "JSON", "no part", "half", "no boundary", "no end", "3 GB declared", "negative length",
        "gzip bomb", "too many parts", "no DICOM", "another study", "another study at the end", "202", "302",
        "307", "401", "413", "500", "200 headers", "a long header", "closed", "no HTTP",
    ],
)  # fmt: skip
def test_what_is_no_whole_answer_of_this_study_stores_nothing(
    tmp_path: Path, wire: bytes, status: SendStatus, why: str
) -> None:
    with run_service(Service(lambda _: wire)) as service:
        outcome = posted(tmp_path, service.url, IMAGES)
    assert outcome.report.status is status, outcome
    assert why in outcome.report.text
    assert not spooled(tmp_path)


def test_a_whole_answer_is_stored_object_by_object(tmp_path: Path) -> None:
    with run_service(Service(lambda _: WHOLE)) as service:
        outcome = posted(tmp_path, service.url, IMAGES)
    assert outcome.report.status is SendStatus.STORED, outcome
    assert len(spooled(tmp_path)) == len(IMAGES)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("999999999", 3600), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("٣", 0), ("", 0)],
)
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_service_says_when_it_wants_the_next_request(
    tmp_path: Path, status: str, value: str, seconds: float
) -> None:
    wire = raw(b"", status=status).replace(b"\r\n\r\n", f"\r\nRetry-After: {value}\r\n\r\n".encode())
    with run_service(Service(lambda _: wire)) as service:
        outcome = posted(tmp_path, service.url, IMAGES)
    assert (outcome.report.status, outcome.after) == (RETRY, seconds)


@pytest.mark.parametrize("start", [b"", WHOLE[:300]], ids=["head", "body"])
def test_a_byte_a_second_is_cut_off_at_the_deadline(tmp_path: Path, start: bytes) -> None:
    def slow(write: Callable[[bytes], object]) -> None:
        write(start)
        for byte in WHOLE[len(start) :][:30]:
            write(bytes([byte]))
            time.sleep(0.2)

    began = time.monotonic()
    with run_service(Service(slowly=slow)) as service:
        outcome = posted(tmp_path, service.url, IMAGES, seconds=1.0)
    assert time.monotonic() - began < 4
    assert outcome.report.status in (RETRY, SendStatus.HUNG), outcome
    assert not spooled(tmp_path)


@pytest.mark.parametrize(("trusted", "is_taken"), [("its", True), ("another", False)])
def test_only_a_certificate_of_the_pinned_authority_gets_a_study(
    tmp_path: Path, trusted: str, is_taken: bool
) -> None:
    its, another = Authority(tmp_path, "its"), Authority(tmp_path, "another")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*its.certify("service"))
    pinned = {"its": its, "another": another}[trusted].certificate
    with run_service(Service(lambda _: WHOLE), context) as service:
        outcome = posted(tmp_path, service.url, IMAGES, authorities(pinned))
    assert (outcome.report.status is SendStatus.STORED) is is_taken, outcome
    assert len(service.asked) == int(is_taken), "nothing of the study was sent to a stranger"


def test_a_certificate_of_another_host_gets_no_study(tmp_path: Path) -> None:
    its = Authority(tmp_path, "its")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*its.certify("other", hosts="DNS:other.example.org"))
    with run_service(Service(lambda _: WHOLE), context) as service:
        outcome = posted(tmp_path, service.url, IMAGES, authorities(its.certificate))
    assert outcome.report.status is SendStatus.UNREACHABLE, outcome
    assert not service.asked


def named(uid: str, series: str = "1.2.3.4") -> dict[str, object]:
    """An object in the list of a service."""
    return {"00080018": {"vr": "UI", "Value": [uid]}, "0020000E": {"vr": "UI", "Value": [series]}}


@pytest.mark.parametrize(
    "listed",
    [
        [named("../../admin")],
        [named("1.2.3", "1.2/../x")],
        [named("1.2." + "3" * 70)],
        [{"00080018": {"vr": "UI", "Value": [{}]}}],
        [{}],
    ],
    ids=["a path", "a path as series", "too long", "no text", "nothing"],
)
def test_what_a_list_names_without_valid_uids_is_not_asked_for(tmp_path: Path, listed: list[object]) -> None:
    with answering(body=json.dumps(listed).encode(), Content_Type="application/dicom+json") as (url, asked):
        archive = open_archive(configured(tmp_path, url).peer("vendor"), configured(tmp_path, url))
        assert archive.objects("1.2.3") == frozenset()
    assert all(path.startswith("GET /studies/1.2.3/instances") for path in asked)


def test_more_objects_than_an_answer_may_have_are_not_fetched(tmp_path: Path) -> None:
    listed = json.dumps([named(f"1.2.3.{number}") for number in range(2_001)]).encode()
    with answering(body=listed, Content_Type="application/dicom+json") as (url, asked):
        settings = configured(tmp_path, url)
        database = Database(settings.database_url)
        database.upgrade()
        row = AwaitedAnswer(id=1, study_instance_uid="1.2.3", peer="vendor")
        polled = look(database, settings, vendor_of(settings), row, (), threading.Event())
    assert polled.is_final
    assert "more than 2000 objects" in polled.why
    assert not [path for path in asked if "/series/" in path]
