"""The service's answers: a cleaned picture or a reason, whatever comes and however much of it."""

import json
import logging
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from ai_pipeline.serve import guard
from ai_pipeline.serve.tasks import STATUSES, Answer, Outcome
from tests.certificates_lab import self_signed
from tests.unit.ai_pipeline.serve.serve_lab import CLEANED, UNCLEANED, Service, content_of, parts_of, served
from tests.waiting import wait_until

DONE = Answer(Outcome.CLEANED, media_type="application/dicom", report={"removed": {"text": 2}})
WITHHELD = Answer(Outcome.WITHHELD, "no cleaned picture: text is left", report={"places": [[1, 2, 3, 4]]})
TOKEN = "a token of this test"
BOUNDARY = 'multipart/related; type="application/dicom"; boundary="b"'
FORM = {"sensitive_data_list": '{"PatientName": "Kowalska^Maria"}', "sop_instance_uid": "1.2.3"}
MASKS = [{"stationName": "*", "color": "000000", "rectangles": ["1 2 30 40", "5 60 7 8"]}]
LOOKED_AT = Answer(Outcome.CLEANED, report={"masks": MASKS, "detected_tags": ["PatientName"]})


def related(*objects: bytes, end: bytes = b"--b--\r\n") -> bytes:
    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + content + b"\r\n" for content in objects) + end


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=60)


def test_a_cleaned_file_comes_with_its_report() -> None:
    with served(DONE) as service:
        answer = service.post("/clean")
    report, file = parts_of(answer)
    assert answer.status_code == 200
    assert json.loads(content_of(report)) == {"outcome": "cleaned", "withheld": False, "removed": {"text": 2}}
    assert file.get_content_type() == "application/dicom"
    assert content_of(file) == CLEANED


@pytest.mark.parametrize("accept", ["application/dicom", "image/png, application/dicom;q=.5"])
def test_a_cleaned_file_comes_alone_where_its_type_is_asked_for(accept: str) -> None:
    with served(DONE) as service:
        answer = service.post("/clean", Accept=accept)
    assert answer.headers["Content-Type"] == "application/dicom"
    assert answer.content == CLEANED


@pytest.mark.parametrize("accept", ["image/png", "image/*"])
def test_who_asks_for_a_picture_gets_no_dicom_file_under_its_name(accept: str) -> None:
    with served(DONE) as service:
        answer = service.post("/clean", Accept=accept)
    assert answer.status_code == 406
    assert answer.json()["detail"] == "this file is handed back as application/dicom: name that in Accept"
    assert CLEANED not in answer.content


def test_who_opens_the_address_is_told_where_the_paths_are_described() -> None:
    with served(DONE) as service:
        answer = requests.get(f"{service.url}/", timeout=60)
    assert (answer.status_code, "/openapi.json" in answer.json()["detail"]) == (404, True)


def test_what_nobody_can_be_given_is_not_cleaned() -> None:
    with served(DONE) as service:
        answer = service.post("/clean", Accept="text/html")
    assert answer.status_code == 406
    assert service.cleaning.tasks == []


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.CLEANED])
def test_without_success_there_is_a_reason_and_no_picture(outcome: Outcome) -> None:
    with served(Answer(outcome, "because of this", "application/dicom")) as service:
        answer = service.post("/clean", Accept="application/dicom")
    assert answer.status_code == STATUSES[outcome] >= 400
    assert answer.json()["detail"] == "because of this"
    assert answer.json()["withheld"] is (outcome is Outcome.WITHHELD)
    assert UNCLEANED not in answer.content


def test_no_two_outcomes_have_the_same_status() -> None:
    assert len(set(STATUSES.values())) == len(Outcome)


@pytest.mark.parametrize("query", ["policy=KOWALSKA", "in_doubt=KOWALSKA", "modality=kowalska", "modality=A"])
def test_a_faulty_parameter_is_no_withheld_picture(query: str) -> None:
    with served(DONE) as service:
        answer = service.post(f"/clean?{query}")
    assert answer.status_code == 400
    assert "KOWALSKA" not in answer.text.upper()
    assert service.cleaning.tasks == []


def test_a_gigabyte_is_refused_before_a_byte_of_it_is_read() -> None:
    with (
        served(DONE, body_mib=512) as service,
        connected(service) as caller,
    ):
        caller.sendall(b"POST /clean HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        assert caller.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert service.cleaning.tasks == []


def test_a_body_that_does_not_say_its_length_is_counted() -> None:
    with served(DONE, body_mib=1) as service:
        body = (b"x" * size for size in (2**19, 2**19, 1))
        answer = requests.post(f"{service.url}/clean", data=body, timeout=60)
    assert answer.status_code == 413
    assert service.cleaning.tasks == []


def test_more_requests_at_once_than_set_are_told_to_come_again() -> None:
    go_on = threading.Event()
    with served(DONE, before=lambda: go_on.wait(60), requests=1) as service:
        first = threading.Thread(target=service.post, args=("/clean",))
        first.start()
        wait_until(lambda: len(service.cleaning.tasks) == 1, what="the first is under way")
        second = service.post("/clean")
        health = requests.get(f"{service.url}/health", timeout=60)
        go_on.set()
        first.join()
        third = service.post("/clean")
    assert (second.status_code, second.headers["Retry-After"]) == (429, "5")
    assert health.json() == {"status": "ok"}
    assert third.status_code == 200
    assert len(service.cleaning.tasks) == 2


def test_a_body_that_does_not_come_is_given_up() -> None:
    with (
        served(DONE, seconds=0.5) as service,
        connected(service) as caller,
    ):
        caller.sendall(b"POST /clean HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert caller.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert service.cleaning.tasks == []


def test_half_a_request_whose_sender_left_is_not_cleaned() -> None:
    with served(DONE) as service:
        with connected(service) as caller:
            caller.sendall(b"POST /clean HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert service.post("/clean").status_code == 200
        assert service.cleaning.received == [b"x"]


def test_half_a_head_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    with served(DONE) as service, connected(service) as caller:
        caller.sendall(b"POST /clean HTTP/1.1\r\nHo")
        assert caller.recv(4096) == b""


def test_who_comes_with_a_request_is_served_beside_many_who_come_without() -> None:
    with served(DONE) as service, ExitStack() as idle:
        for _ in range(2 * guard.MOST_IDLE):
            idle.enter_context(connected(service))
        wait_until(lambda: service.connections >= guard.MOST_IDLE, what="they are connected")
        assert service.post("/clean").status_code == 200
        assert service.connections <= guard.MOST_IDLE + 1


def test_a_tls_handshake_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    certificate, key = self_signed(tmp_path, "service")
    with (
        served(DONE, certificate=certificate, private_key=key) as service,
        connected(service) as caller,
    ):
        caller.settimeout(20)
        assert caller.recv(4096) == b""


def slow(service: Service) -> socket.socket:
    """A caller who asks for an answer, and hardly takes any of it."""
    caller = socket.socket()
    caller.settimeout(60)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    caller.connect(("127.0.0.1", service.port))
    caller.sendall(b"POST /clean HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    return caller


def test_an_answer_that_is_taken_slowly_does_not_hold_its_place() -> None:
    with served(DONE, requests=1, seconds=2) as service:
        service.cleaning.cleaned = bytes(60 << 20)
        with slow(service) as caller:
            began = time.monotonic()
            while service.post("/clean", Accept="text/html").status_code == 429:
                assert time.monotonic() - began < 20
                taken = 0
                while (piece := caller.recv(1 << 20)) and taken < 2 << 20:
                    taken += len(piece)
                time.sleep(0.5)
        assert time.monotonic() - began < 10


def test_the_end_of_an_answer_that_nobody_takes_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(guard, "CLOSE_SECONDS", 0.5)
    with served(DONE, seconds=2) as service:
        service.cleaning.cleaned = bytes(6 << 20)
        with slow(service):
            wait_until(lambda: service.connections == 1, what="the caller is there")
            wait_until(lambda: service.connections == 0, 30, "the connection is cut")


def test_nothing_is_begun_for_a_caller_who_is_gone() -> None:
    began, left = threading.Event(), threading.Event()

    def leave() -> None:
        began.set()
        left.wait(60)
        time.sleep(0.3)  # until the service has seen it

    body = related(b"one", b"two", b"three")
    head = (
        f"POST /studies HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: {BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with served(DONE, before=leave) as service:
        with connected(service) as caller:
            caller.sendall(head.encode() + body)
            began.wait(60)
        left.set()
        wait_until(lambda: service.cleaning.late == 2, what="the others are given up")
        assert service.cleaning.received == [b"one"]


def test_a_study_that_takes_too_long_comes_back_with_what_is_cleaned() -> None:
    with served(DONE, before=lambda: time.sleep(0.5), study_seconds=0.4) as service:
        answer = service.post("/studies", related(b"one", b"two"), **{"Content-Type": BOUNDARY})
    report, *files = parts_of(answer)
    found = [item["outcome"] for item in json.loads(content_of(report))["objects"]]
    assert found == ["cleaned", "too late"]
    assert len(files) == 1


def test_many_small_objects_are_not_all_open_at_once() -> None:
    opened: list[int] = []
    files = Path("/proc/self/fd")
    with served(DONE, before=lambda: opened.append(len([*files.iterdir()]))) as service:
        answer = service.post("/studies", related(*[b"x"] * 200), **{"Content-Type": BOUNDARY})
    assert answer.status_code == 200
    assert max(opened) < min(opened) + 5


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/clean", "", 401),
        ("/clean", "Bearer another's token here", 401),
        ("/clean", f"Basic {TOKEN}", 401),
        ("/clean", f"Bearer {TOKEN}", 200),
        ("/deidentify-image", "", 401),
        ("/metrics", "", 401),
        ("/openapi.json", "", 401),
        ("/health", "", 200),
    ],
)
def test_who_lacks_the_token_gets_nothing(path: str, given: str, status: int) -> None:
    with served(DONE, token=SecretStr(TOKEN)) as service:
        method = "GET" if path in ("/metrics", "/openapi.json", "/health") else "POST"
        answer = requests.request(
            method, service.url + path, data=b"x", headers={"Authorization": given}, timeout=60
        )
    assert answer.status_code == status
    assert bool(service.cleaning.tasks) is (path == "/clean" and status == 200)


def test_it_serves_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "service")
    with served(DONE, certificate=certificate, private_key=key) as service:
        assert requests.get(f"{service.url}/health", verify=str(certificate), timeout=60).json()


def test_a_study_comes_back_cleaned_with_a_report_on_each_object() -> None:
    with served(DONE, WITHHELD, DONE) as service:
        answer = service.post("/studies", related(b"one", b"two", b"three"), **{"Content-Type": BOUNDARY})
    report, *files = parts_of(answer)
    assert answer.status_code == 202
    assert service.cleaning.received == [b"one", b"two", b"three"]
    objects = json.loads(content_of(report))["objects"]
    assert [found["outcome"] for found in objects] == ["cleaned", "withheld", "cleaned"]
    assert [content_of(file) for file in files] == [CLEANED, CLEANED]


def test_a_study_of_which_everything_is_withheld_has_no_picture() -> None:
    with served(WITHHELD) as service:
        answer = service.post("/studies", related(b"one", b"two"), **{"Content-Type": BOUNDARY})
    assert answer.status_code == 422
    assert [found["withheld"] for found in answer.json()["objects"]] == [True, True]
    assert UNCLEANED not in answer.content


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        pytest.param(related(b"one", end=b""), BOUNDARY, 400, id="no last boundary"),
        pytest.param(b"--b--\r\n", BOUNDARY, 400, id="no parts"),
        pytest.param(b"something else", BOUNDARY, 400, id="no multipart"),
        pytest.param(related(*[b""] * 201), BOUNDARY, 400, id="too many parts"),
        pytest.param(related(b"one"), BOUNDARY.replace("dicom", "pdf"), 415, id="other objects"),
        pytest.param(related(b"one"), BOUNDARY.partition("; b")[0], 415, id="no boundary"),
    ],
)
def test_a_faulty_study_is_refused(body: bytes, content_type: str, status: int) -> None:
    with served(DONE) as service:
        answer = service.post("/studies", body, **{"Content-Type": content_type})
    assert answer.status_code == status
    assert CLEANED not in answer.content


def test_karnak_is_told_what_to_cover_with_its_uid() -> None:
    with served(LOOKED_AT) as service:
        answer = service.form("/deidentify-image", FORM, Accept="application/json; version=1")
    assert answer.json() == {
        "masks": MASKS,
        "message": "2 sensitive data detected",
        "sop_instance_uid": "1.2.3",
    }
    assert service.cleaning.received == [b"pixels"]
    assert service.cleaning.tasks[0].form == FORM


def test_karnak_gets_one_pixel_in_its_own_colour_where_nothing_is_to_be_covered() -> None:
    """Without a mask its code does not forward the image (Profile.java of 3cfa6eb2)."""
    mask = {"stationName": "*", "color": "101010", "rectangles": ["0 0 1 1"]}
    with served(Answer(Outcome.CLEANED, report={"masks": [mask], "detected_tags": []})) as service:
        answer = service.form("/deidentify-image", FORM).json()
    assert answer["masks"] == [mask]
    assert answer["message"] == "No sensitive data detected"


def test_karnak_is_told_which_tags_are_written_in_the_image() -> None:
    with served(LOOKED_AT) as service:
        answer = service.form("/reporting", FORM).json()
    assert answer["detected_tags"] == ["PatientName"]
    assert answer["sop_instance_uid"] == "1.2.3"


@pytest.mark.parametrize(
    ("fields", "accept", "status", "detail"),
    [
        pytest.param({}, "*/*", 422, "sensitive_data_list", id="without sensitive_data_list"),
        pytest.param({"sensitive_data_list": "{"}, "*/*", 400, "Invalid JSON", id="no JSON"),
        pytest.param({"sensitive_data_list": "[1]"}, "*/*", 400, "must be a JSON object", id="no object"),
        pytest.param({"sensitive_data_list": '{"PatientAge": 3}'}, "*/*", 400, "object", id="no texts"),
        pytest.param({"sensitive_data_list": "[" * 90_000}, "*/*", 400, "Invalid JSON", id="deep JSON"),
        pytest.param(FORM, "application/json; version=3", 406, "version 3", id="another version"),
        pytest.param(FORM | {"palette_color_lut": "1," * 65_500}, "*/*", 413, "bytes", id="long fields"),
    ],
)
@pytest.mark.parametrize("path", ["/deidentify-image", "/reporting"])
def test_a_faulty_form_of_karnak_is_refused(
    path: str, fields: dict[str, str], accept: str, status: int, detail: str
) -> None:
    with served(LOOKED_AT) as service:
        answer = service.form(path, fields, Accept=accept)
    assert answer.status_code == status
    assert detail in json.dumps(answer.json()["detail"])
    assert service.cleaning.tasks == []


@pytest.mark.parametrize("path", ["/deidentify-image", "/reporting"])
def test_a_form_in_a_character_set_that_is_slow_to_decode_is_refused(path: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="sensitive_data_list"\r\n\r\n{}\r\n--b--\r\n'
    content_type = "multipart/form-data; boundary=b; charset=punycode"
    with served(LOOKED_AT) as service:
        answer = service.post(path, body, **{"Content-Type": content_type})
    assert answer.status_code == 415


def test_a_form_of_karnak_without_an_image_is_refused() -> None:
    with served(LOOKED_AT) as service:
        answer = requests.post(f"{service.url}/deidentify-image", data=FORM, timeout=60)
    assert answer.status_code == 422
    assert answer.json()["detail"] == [{"type": "missing", "loc": ["body", "image"], "msg": "Field required"}]


def test_karnak_gets_no_mask_for_an_image_that_is_withheld() -> None:
    with served(WITHHELD) as service:
        answer = service.form("/deidentify-image", FORM)
    assert answer.status_code == 422
    assert answer.json() == {"detail": WITHHELD.reason}


def test_metrics_count_and_name_nobody() -> None:
    with served(DONE, WITHHELD) as service:
        service.post("/clean")
        service.post("/clean?policy=research")
        requests.get(f"{service.url}/KOWALSKA", timeout=60)
        text = requests.get(f"{service.url}/metrics", timeout=60).text
    assert 'ai_pipeline_serve_requests_total{path="/clean",status="200"} 1.0' in text
    assert 'ai_pipeline_serve_requests_total{path="/clean",status="422"} 1.0' in text
    assert 'ai_pipeline_serve_requests_total{path="other",status="404"} 1.0' in text
    assert 'ai_pipeline_serve_objects_total{outcome="withheld"} 1.0' in text
    assert "KOWALSKA" not in text


def test_the_log_names_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served(LOOKED_AT) as service:
        service.form("/deidentify-image", FORM | {"operator": "KOWALSKA"})
        service.post("/KOWALSKA?name=KOWALSKA", b"KOWALSKA", Name="KOWALSKA")
    assert "/deidentify-image: status 200" in caplog.text
    assert "KOWALSKA" not in caplog.text.upper()


def test_openapi_describes_every_path() -> None:
    with served(DONE) as service:
        schema = requests.get(f"{service.url}/openapi.json", timeout=60).json()
    assert {*schema["paths"]} == {*guard.PATHS} - {"/openapi.json"}
    assert "multipart/form-data" in schema["paths"]["/deidentify-image"]["post"]["requestBody"]["content"]


def test_a_defect_is_an_answer_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("KOWALSKA")

    with served(DONE, before=fail) as service:
        answer = service.post("/clean")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal server error."}
    assert "KOWALSKA" not in caplog.text
