"""What a browser sends comes in as what a modality sends; registered patients; fetched studies."""

import io
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom.dataset import Dataset

from ai_pipeline.images import decode
from dicom_console.app import create_app
from dicom_console.views import listing, search
from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import fetches, uploads, users
from dicom_node.store.tables import Job, Study
from tests.archive_lab import FakeArchive, answer_for, film, peer
from tests.console_lab import PASSWORD, Browser, ConsoleLab, audited
from tests.inbox_lab import Inbox, encoded
from tests.modality import ultrasound
from tests.pacs_lab import free_port, run_pacs
from tests.unit.inbox.objects import changed

ABOUT = {"PatientID": "P-7", "PatientName": "Müller^Änne", "Modality": "US", "PatientBirthDate": "1960-01-02"}


def part_10(ds: Dataset) -> bytes:
    data = io.BytesIO()
    ds.save_as(data, enforce_file_format=True)
    return data.getvalue()


def zipped(*files: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, (60, 41), 100 if mode != "RGB" else (9, 99, 199)).save(data, kind)
    return data.getvalue()


def outcomes(browser: Browser) -> list[str]:
    """Why files were refused, in order, then "taken" for each object that was not."""
    assert browser.status == 200, browser.text
    why = re.findall(r'<td class="reason">[^<]*</td><td class="reason problem">([^<]*)</td>', browser.text)
    taken = re.search(r"(\d+) objects? taken", browser.text)
    assert taken
    return why + ["taken"] * int(taken[1])


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.OPERATOR)


def test_an_object_is_received_as_from_a_modality(browser: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    browser.upload(("IMG0001", part_10(sent)))
    assert outcomes(browser) == ["taken"]
    inbox.settle()
    row = inbox.instance(str(sent.SOPInstanceUID))
    assert (row.calling_ae, row.called_ae, row.role) == ("CONSOLE", "AINODE", ObjectRole.SOURCE)
    assert inbox.file_of(str(sent.SOPInstanceUID)).PixelData == sent.PixelData
    assert [job.rule for job in inbox.jobs()] == ["ultrasound"]
    [noted] = audited(inbox.database, "uploaded")
    assert noted | {"association": ""} == {"objects": 1, "refused": 0, "association": ""}


def test_who_sees_some_senders_only_adds_to_no_other_study(console: ConsoleLab, inbox: Inbox) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    inbox.settle(secret, calling="ROOM9")
    added = part_10(changed(secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77"))
    taken_over = part_10(changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78"))
    second = Dataset()  # the Study Instance UID again, where only some parsers look
    second.StudyInstanceUID, second.file_meta = secret.StudyInstanceUID, new.file_meta
    twice = part_10(changed(new, SOPInstanceUID="1.2.826.0.1.3680043.10.543.79")) + encoded(second)
    waiting = ultrasound("waiting")  # received, and not in the database yet
    inbox.receive(waiting, calling="ROOM9")
    into_waiting = part_10(changed(waiting, SOPInstanceUID="1.2.826.0.1.3680043.10.543.80"))
    no_study_uid = part_10(changed(new, StudyInstanceUID=""))
    files = [added, part_10(new), no_study_uid, taken_over, twice, into_waiting]
    for name, senders in (("elsewhere", ["ROOM1"]), ("limited", ["CONSOLE"])):
        users.add_user(console.settings, name, UserRole.OPERATOR, PASSWORD, senders=senders)
    browser = console.browser()
    browser.sign_in("elsewhere")
    assert browser.upload(("new", files[1])) == 403
    browser = console.browser()
    browser.sign_in("limited")
    browser.upload(("all.zip", zipped(*((f"{n}", file) for n, file in enumerate(files)))))
    hidden, no_study = (
        "its study is one that you do not see, or the object is",
        "its Study and SOP Instance UID are not in its first MiB",
    )
    assert outcomes(browser) == [hidden, no_study, hidden, "taken", "taken", "taken"]
    before = inbox.study(secret.StudyInstanceUID)
    while inbox.spool.pending():
        inbox.settle()
    assert inbox.outcomes() == ["new", "new", "new", "quarantined", "quarantined"]
    assert inbox.study(waiting.StudyInstanceUID).state is not StudyState.QUARANTINED
    assert inbox.study(secret.StudyInstanceUID).state is before.state is not StudyState.QUARANTINED
    assert inbox.study(new.StudyInstanceUID).state is StudyState.QUARANTINED


def test_what_the_listener_refuses_is_refused_here(
    browser: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    other_class = ultrasound("one")
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data = part_10(ultrasound("two"))
    unknown_syntax = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    browser.upload(("a", part_10(other_class)), ("b", unknown_syntax))
    assert ["SOP class" in outcomes(browser)[0], "transfer syntax" in outcomes(browser)[1]] == [True, True]
    console.change("listener", maximum_object_mib=0)
    browser.upload(("c", data))
    assert "maximum_object_mib" in outcomes(browser)[0]
    assert inbox.spool.pending() == []


def zip64() -> bytes:
    """Python reads as much of the directory as ZIP64 says (APPNOTE.TXT 4.3.14): here 5 MB."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    directory, many = 30, 100_000
    body = b"PK\x03\x04" + bytes(26) + entry * many
    end, length = len(body), len(entry) * many
    body += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, many, many, length, directory)
    body += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return body + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), directory, 0)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "neither DICOM"),
    "HTML": (lambda: b"<html><script>alert(1)</script>", "neither DICOM"),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(400), "cannot be read"),
    "no elements": (lambda: bytes(128) + b"DICM" + bytes(200), "no valid UIDs"),
    "no end": (lambda: bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2**31), "does not end"),
    "picture": (picture, "needs a patient"),
    "no picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "needs a patient"),
    "ZIP64": (zip64, "ZIP64"),
    "bomb": (lambda: zipped(("bomb", part_10(ultrasound("one")) + bytes(40 * 2**20))), "times as packed"),
}


def test_what_is_no_object_is_refused_in_words(browser: Browser, inbox: Inbox) -> None:
    for data, why in REFUSED.values():
        browser.upload(("file.dcm", data()))
        assert why in outcomes(browser)[0] and inbox.spool.pending() == [], why


@pytest.mark.parametrize("limit", ["ENTRIES", "DIRECTORY_BYTES"])
def test_a_zip_has_so_many_files(browser: Browser, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    data = zipped(*((f"{n}", b"x") for n in range(9)))
    monkeypatch.setattr(uploads, limit, 8)
    browser.upload(("a.zip", data))
    assert outcomes(browser)[0].startswith("this ZIP has more than")


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "L")])
def test_a_picture_becomes_a_secondary_capture(browser: Browser, inbox: Inbox, kind: str, mode: str) -> None:
    browser.upload(("scan.png", picture(kind, mode)), ("b.png", picture()), **ABOUT)
    assert outcomes(browser) == ["taken", "taken"]
    inbox.settle()
    [row], _ = inbox.read(search.search, search.Search())
    shown = inbox.read(listing.show, inbox.settings, row["id"])
    assert (row["patient_id"], row["instances"], row["modalities"]) == ("P-7", 2, ["US"])
    assert shown["person"]["PatientName"] == "Müller^Änne"
    made = inbox.file_of(shown["images"][0]["sop_instance_uid"])
    assert (made.SOPClassUID, made.ConversionType) == ("1.2.840.10008.5.1.4.1.1.7", "WSD")
    assert (made.Rows, made.Columns, made.SamplesPerPixel) == (41, 60, 3 if mode == "RGB" else 1)
    assert made.get("LossyImageCompression", "00") == ("01" if kind == "JPEG" else "00")
    assert browser.get(f"/studies/images/{shown['images'][0]['id']}/1") == 200


def test_a_picture_is_in_no_file_that_a_killed_console_would_leave(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    decoded, seen = decode._picture_samples, []

    def look(*of: Any) -> Any:
        seen.append(list(scratch.iterdir()))
        return decoded(*of)

    monkeypatch.setattr(decode, "_picture_samples", look)
    browser.upload(("scan.png", picture()), **ABOUT)
    assert (outcomes(browser), seen) == (["taken"], [[]])


def test_a_body_that_is_too_large_is_cut_off(inbox: Inbox, console: ConsoleLab) -> None:
    small = inbox.settings.console.model_copy(update={"upload_mib": 1})
    console.app = create_app(inbox.settings.model_copy(update={"console": small}), inbox.database)
    assert console.browser(UserRole.OPERATOR).upload(("a", bytes(2**20 + 1))) == 413


def test_uploads_need_the_token_of_their_form(browser: Browser, inbox: Inbox) -> None:
    files = [("files", ("a", part_10(ultrasound("one"))))]
    for sent in ({"data": {"csrf": "0"}}, {"headers": {"Sec-Fetch-Site": "cross-site"}}):
        assert browser.client.post("/upload", files=files, **sent).status_code == 403
    assert inbox.spool.pending() == []


def test_a_study_is_followed_from_the_spool_to_its_end(browser: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    browser.upload(("Mueller.dcm", part_10(sent)))
    [address] = re.findall(r'data-from="(/upload/\d+)"', browser.text)
    assert "Objects still being read: 1 of 1" in browser.text
    inbox.settle()
    assert "still being read" not in browser.page(address)
    study = inbox.study(str(sent.StudyInstanceUID))
    assert f'href="/studies/{study.id}"' in browser.text and "0 of 1 jobs" in browser.text
    assert "All of it came to its end" not in browser.text
    inbox.put(Job, state=JobState.NOT_APPLICABLE)
    inbox.put(Study, state=StudyState.NOT_APPLICABLE, reason="it is a leg")
    assert "it is a leg" in browser.page(address)
    assert "All of it came to its end" in browser.text and "Mueller" not in browser.text
    assert f'href="{address}"' in browser.page("/upload")


def test_a_held_study_is_found_and_called_so(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), ultrasound("two"))
    first = inbox.jobs()[0]
    inbox.put(Job, first.id, state=JobState.HELD)
    inbox.put(Study, first.study_id, state=StudyState.NOT_APPLICABLE)
    assert browser.page("/studies").count('class="state held"') == 1
    assert browser.page("/studies?state=held").count("<tr>") == 2, "the heading and one study"
    assert f'href="/studies/{first.study_id}"' in browser.text
    assert 'class="state held"' in browser.page(f"/studies/{first.study_id}")
    assert browser.get("/studies?state=nonsense") == 400


ANNA = {
    "PatientID": "P-77", "PatientName": "Secret^Anna", "PatientBirthDate": "1970-01-02", "PatientSex": "F",
}  # fmt: skip


def test_a_registered_patient_is_chosen_for_an_upload(
    browser: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    assert browser.post("/patients/register", **ANNA) == 303
    assert browser.headers["location"] == "/upload?patient=1", "no address names a patient"
    assert browser.follow() == 200
    for shown in ("P-77", "Secret^Anna", "1970-01-02"):
        assert f'value="{shown}" readonly' in browser.text
    assert browser.upload(("a.png", picture()), **ANNA, Modality="US") == 200, browser.text
    inbox.settle()
    assert [row.patient_id for row in inbox.rows(Study)] == ["P-77"]
    inbox.database.dispose()
    files = b"".join(path.read_bytes() for path in inbox.folder.glob("node.db*"))
    assert files and b"Secret" not in files and b"19700102" not in files
    assert "Secret, Anna" in browser.page("/patients")
    assert [browser.post("/patients/registered/1/remove") for _ in range(2)] == [303, 404]
    assert browser.get("/upload?patient=1") == 404
    rows = [row for row in console.audit_rows() if row["action"].startswith("patient_")]
    assert [row["action"] for row in rows] == ["patient_removed", "patient_added"]
    assert not any("P-77" in str(row["fields"]) for row in rows)


def test_pictures_of_somebody_else_under_a_registered_id_are_refused(browser: Browser, inbox: Inbox) -> None:
    browser.post("/patients/register", **ANNA)
    for other, said in (
        ({"PatientName": "Other^Anna"}, "another name"),
        ({"PatientBirthDate": "1971-01-02"}, "another birth date"),
        ({"PatientSex": "M"}, "another sex"),
    ):
        assert browser.upload(("a.png", picture()), **ANNA | other, Modality="US") == 400
        assert said in browser.text and list(inbox.spool.pending()) == [], said


def test_an_id_is_registered_once_and_not_for_another_than_its_studies(
    browser: Browser, inbox: Inbox
) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="P-77", PatientName="SECRET^ANNA^", PatientSex="F"))
    unborn = ANNA | {"PatientBirthDate": ""}
    for given, status, said in (
        (ANNA | {"PatientName": "Other^Name"}, 400, "studies here"),
        (unborn, 303, ""),
        (unborn, 400, "already"),
    ):
        assert browser.post("/patients/register", **given) == status
        assert said in browser.text


FORM = {"peer": "archive", "modalities": "dx", "first": "2024-03-02", "last": "2024-03-02", "rule": ""}


def with_archive(console: ConsoleLab, port: int) -> None:
    asked = PeerSettings.model_validate(peer(port, ae_title="ARCHIVE"))
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, asked)}))


def test_an_operator_has_studies_fetched(console: ConsoleLab) -> None:
    today = f"{datetime.now().astimezone():%Y%m%d}"
    lost = answer_for(film("lost"), StudyDate=today, ModalitiesInStudy="US")
    answers = [answer_for(film("wanted")), lost]
    with run_pacs(FakeArchive(free_port(), "ARCHIVE", answers=answers), classes=()) as pacs:
        with_archive(console, pacs.port)
        browser, viewer = console.browser(UserRole.OPERATOR), console.browser(UserRole.VIEWER)
        assert "/fetches/archive/missing" in browser.page("/fetches")
        assert browser.post("/fetches/archive/missing") == 200 and "it never came" in browser.text
        assert not fetches.listed(console.settings)
        for path, given in (("/fetches", FORM), ("/fetches/archive/missing", {"fetch": "true"})):
            assert browser.post(path, **given) == 303
            assert viewer.post(path, **given) == 403
        browser.get("/fetches")
        assert "archive" in browser.text and "waiting" in browser.text
    assert browser.post("/fetches/archive/cancel") == browser.post("/fetches/archive/again") == 303
    assert [row.state for row in fetches.listed(console.settings)] == ["waiting"] * 2
    assert console.audited("studies_fetched")[-1]["studies"] == 1 and "/fetches" in browser.page("/peers")


def test_too_many_days_are_for_the_command_and_what_is_no_date_is_refused(
    browser: Browser, console: ConsoleLab
) -> None:
    with_archive(console, free_port())
    for given, status in (
        ({"first": "2020-01-01"}, 409), ({"first": "yesterday"}, 400), ({"modalities": "../.."}, 400),
        ({"peer": "pacs"}, 409), ({}, 409),  # it does not answer
    ):  # fmt: skip
        assert browser.post("/fetches", **FORM | given) == status, given
    assert not fetches.listed(console.settings)


def test_what_is_of_all_senders_is_refused(console: ConsoleLab) -> None:
    with_archive(console, 1)
    assert console.browser(UserRole.OPERATOR).post("/patients/register", **ANNA) == 303
    users.add_user(console.settings, "limited", UserRole.OPERATOR, PASSWORD, senders=["CONSOLE"])
    browser = console.browser()
    browser.sign_in("limited")
    for path, fields, said in (
        ("/patients/register", ANNA, "sees some only"),
        ("/patients/register", ANNA | {"PatientID": "P-78"}, "sees some only"),
        ("/fetches", FORM, "sees some only"),
        ("/fetches/archive/missing", {"fetch": "true"}, "sees some only"),
    ):
        assert browser.post(path, **fields) in (400, 409) and said in browser.text, path
    other = ANNA | {"PatientName": "Other^Anna", "Modality": "US"}
    assert browser.upload(("a.png", picture()), **other) == 400 and "another name" in browser.text
