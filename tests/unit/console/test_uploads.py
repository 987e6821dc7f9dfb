"""What a browser sends comes in as what a modality sends, no more of it; and its way goes on to be seen."""

from __future__ import annotations

import asyncio
import io
import re
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom.dataset import Dataset

from ai_pipeline.images import decode
from dicom_console.handlers import uploads as handlers
from dicom_console.views import uploaded
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import uploads, users
from dicom_node.store.tables import Job, Study
from tests.console_lab import PASSWORD, Browser, ConsoleLab, audited
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed, small_xray

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


def test_a_zip_is_its_objects_whatever_their_names(browser: Browser, inbox: Inbox, tmp_path: Any) -> None:
    one, two = part_10(ultrasound("one")), part_10(small_xray("two"))
    names = ("../../../evil.dcm", "/etc/passwd", "sub/DICOMDIR", "__MACOSX/a", ".hidden", "readme.txt")
    contents = (one, two, b"x", b"x", b"x", b"hello, this is no DICOM")
    browser.upload(("all.zip", zipped(*zip(names, contents, strict=True))))
    assert outcomes(browser) == ["it is neither DICOM (Part 10) nor a ZIP, a PNG or a JPEG", "taken", "taken"]
    inbox.settle()
    assert inbox.outcomes() == ["new", "new"]
    assert not list(tmp_path.rglob("evil*"))


def test_who_sees_some_senders_only_adds_to_no_other_study(console: ConsoleLab, inbox: Inbox) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    inbox.receive(secret, calling="ROOM9")
    inbox.settle()
    added = part_10(changed(secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77"))
    files = [added, part_10(new), part_10(changed(new, StudyInstanceUID=""))]
    for name, senders in (("elsewhere", ["ROOM1"]), ("limited", ["CONSOLE"])):
        users.add_user(console.settings, name, UserRole.OPERATOR, PASSWORD, senders=senders)
    browser = console.browser()
    browser.sign_in("elsewhere")
    assert browser.upload(("new", files[1])) == 403
    browser = console.browser()
    browser.sign_in("limited")
    browser.upload(("all.zip", zipped(*((f"{n}", file) for n, file in enumerate(files)))))
    hidden, no_study = (
        "its study is one that you do not see",
        "its Study Instance UID is not in its first MiB",
    )
    assert outcomes(browser) == [hidden, no_study, "taken"]
    assert len(inbox.spool.pending()) == 1
    [taken] = inbox.spool.pending()
    assert taken.read_bytes().endswith(new.PixelData)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither DICOM"),
        (b"<html><script>alert(1)</script>", "neither DICOM"),
        (b"PK\x03\x04" + bytes(400), "cannot be read"),
        (bytes(128) + b"DICM" + bytes(200), "no valid UIDs"),
        (bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2**31), "does not end"),
        (picture(), "needs a patient"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "needs a patient"),
    ],
    ids=["empty", "HTML", "ZIP", "no elements", "no end", "picture", "no picture"],
)
def test_what_is_no_object_is_refused_in_words(browser: Browser, inbox: Inbox, data: bytes, why: str) -> None:
    browser.upload(("file.dcm", data))
    assert why in outcomes(browser)[0]
    assert inbox.spool.pending() == []


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


def test_a_faulty_object_is_quarantined_as_any_other(browser: Browser, inbox: Inbox) -> None:
    browser.upload(("a", part_10(changed(ultrasound("one"), StudyInstanceUID=""))))
    assert outcomes(browser) == ["taken"]
    inbox.settle()
    assert inbox.outcomes() == ["quarantined"]


def test_a_zip_that_unpacks_without_end_is_cut_off(browser: Browser, inbox: Inbox) -> None:
    head = part_10(ultrasound("one"))
    bomb = zipped(("bomb", head + bytes(300 * 2**20)))
    assert len(bomb) < 2**20
    browser.upload(("bomb.zip", bomb))
    assert "times as packed" in outcomes(browser)[0]
    assert inbox.spool.pending() == []


def test_all_files_of_a_zip_together_have_a_limit(
    browser: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    files = [part_10(ultrasound(name, size=(600, 400))) for name in ("one", "two")]
    console.change("console", upload_mib=1)
    browser.upload(("a.zip", zipped(*((str(n), data) for n, data in enumerate(files)))))
    assert [text == "taken" for text in outcomes(browser)] == [False, True]


@pytest.mark.parametrize("limit", ["ENTRIES", "DIRECTORY_BYTES"])
def test_a_zip_has_so_many_files(browser: Browser, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    data = zipped(*((f"{n}", b"x") for n in range(9)))
    monkeypatch.setattr(uploads, limit, 8)
    browser.upload(("a.zip", data))
    assert outcomes(browser)[0].startswith("this ZIP has more than")


def test_a_zip_that_says_other_numbers_in_zip64_is_refused(browser: Browser, inbox: Inbox) -> None:
    """Python reads as much of the directory as ZIP64 says (APPNOTE.TXT 4.3.14): here 5 MB."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    directory, many = 30, 100_000
    body = b"PK\x03\x04" + bytes(26) + entry * many
    end = len(body)
    length = len(entry) * many
    body += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, many, many, length, directory)
    body += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    body += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), directory, 0)
    browser.upload(("a.zip", body))
    assert "ZIP64" in outcomes(browser)[0]
    assert inbox.spool.pending() == []


def test_an_encrypted_zip_is_refused(browser: Browser) -> None:
    data = bytearray(zipped(("a", part_10(ultrasound("one")))))
    data[6] |= 1  # general purpose bit flag, local header
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    browser.upload(("a.zip", bytes(data)))
    assert "encrypted" in outcomes(browser)[0]


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "L")])
def test_a_picture_becomes_a_secondary_capture(browser: Browser, inbox: Inbox, kind: str, mode: str) -> None:
    browser.upload(("scan.png", picture(kind, mode)), ("b.png", picture()), **ABOUT)
    assert outcomes(browser) == ["taken", "taken"]
    inbox.settle()
    with inbox.database.read() as session:
        from dicom_console.views import listing, search

        [row], _ = search.search(session, search.Search())
        shown = listing.show(session, inbox.settings, row["id"])
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


def test_a_picture_that_lies_about_its_size_is_refused(browser: Browser, inbox: Inbox) -> None:
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 300_000, 300_000)
    browser.upload(("a.png", bytes(data)), ("b.png", b"\x89PNG\r\n\x1a\n" + bytes(60)), **ABOUT)
    assert "taken" not in outcomes(browser)
    assert inbox.spool.pending() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"PatientID": ""},
        {"PatientName": ""},
        {"PatientName": "a\\b"},
        {"PatientID": "x" * 65},
        {"Modality": "ECG"},
        {"PatientBirthDate": "yesterday"},
        {"PatientSex": "?"},
        {"AccessionNumber": "x" * 17},
    ],
)
def test_a_wrong_field_is_named_and_nothing_taken(
    browser: Browser, inbox: Inbox, wrong: dict[str, str]
) -> None:
    assert browser.upload(("a.png", picture()), **{**ABOUT, **wrong}) == 400
    assert 'class="problem"' in browser.text
    assert inbox.spool.pending() == []


def test_an_upload_beyond_the_limits_is_refused(browser: Browser, console: ConsoleLab, inbox: Inbox) -> None:
    data = part_10(ultrasound("one"))
    console.change("spool", minimum_free_mib=2**40)
    assert browser.upload(("a", data)) == 507
    assert inbox.spool.pending() == []


def test_a_body_that_is_too_large_is_cut_off(inbox: Inbox, console: ConsoleLab) -> None:
    from dicom_console.app import create_app

    small = inbox.settings.console.model_copy(update={"upload_mib": 1})
    console.app = create_app(inbox.settings.model_copy(update={"console": small}), inbox.database)
    assert console.browser(UserRole.OPERATOR).upload(("a", bytes(2**20 + 1))) == 413


def test_uploads_need_the_token_of_their_form(browser: Browser, inbox: Inbox) -> None:
    files = [("files", ("a", part_10(ultrasound("one"))))]
    assert browser.client.post("/upload", data={"csrf": "0"}, files=files).status_code == 403
    assert (
        browser.client.post("/upload", files=files, headers={"Sec-Fetch-Site": "cross-site"}).status_code
        == 403
    )
    assert inbox.spool.pending() == []


def test_more_uploads_than_places_are_put_off(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_places", asyncio.Semaphore(0))
    assert browser.upload(("a", b"x")) == 503


def test_a_rule_may_take_what_is_uploaded_as_a_picture(inbox: Inbox, with_console: Inbox) -> None:
    browser = ConsoleLab(with_console.settings, with_console.database).browser(UserRole.OPERATOR)
    browser.upload(("a.png", picture()), **ABOUT)
    with_console.settle()
    assert [job.rule for job in with_console.jobs()] == ["grabbed"]


@pytest.fixture
def with_console(inbox: Inbox, console: ConsoleLab) -> Inbox:
    """The same inbox under a rule that names the console."""
    rule = {**CONFIG["rules"][1], "when": {"calling_ae": "CONSOLE"}, "secondary_captures_from": ["console"]}
    config = {**CONFIG, "console": {"enabled": True}, "rules": [rule]}
    other = Inbox(inbox.folder, config)
    yield other
    other.close()


def page_of(browser: Browser) -> str:
    found = re.search(r'data-from="(/upload/\d+)"', browser.text)
    assert found, browser.text
    return found[1]


def test_a_study_is_followed_from_the_spool_to_its_end(browser: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    browser.upload(("Mueller.dcm", part_10(sent)))
    address = page_of(browser)
    assert "Objects still being read: 1 of 1" in browser.text
    inbox.settle()
    assert browser.get(address) == 200
    assert "still being read" not in browser.text
    study = inbox.study(str(sent.StudyInstanceUID))
    assert f'href="/studies/{study.id}"' in browser.text
    assert "0 of 1 jobs" in browser.text
    assert "All of it came to its end" not in browser.text
    with inbox.database.write() as session:
        session.query(Job).update({"state": JobState.NOT_APPLICABLE})
        session.query(Study).update({"state": StudyState.NOT_APPLICABLE, "reason": "it is a leg"})
    browser.get(address)
    assert "it is a leg" in browser.text
    assert "All of it came to its end" in browser.text
    assert "Mueller" not in browser.text
    browser.get("/upload")
    assert f'href="{address}"' in browser.text


def test_a_study_that_is_gone_meanwhile_is_left_out(inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    with inbox.database.read() as session:
        assert [row["id"] for row in uploaded._studies(session, [1, 99])] == [1]


def test_what_was_quarantined_says_why(browser: Browser, inbox: Inbox) -> None:
    one = ultrasound("one")
    other = changed(one, PixelData=bytes(255 - value for value in one.PixelData))
    browser.upload(("a", part_10(one)), ("b", part_10(other)))
    address = page_of(browser)
    inbox.settle()
    browser.get(address)
    assert 'class="state quarantined"' in browser.text
    assert re.search(r"1 conflict: \w+", browser.text), browser.text
    assert "All of it came to its end" in browser.text


def test_another_number_is_no_upload(browser: Browser, console: ConsoleLab) -> None:
    assert browser.get("/upload/999999") == 404
    assert browser.get("/upload/1") == 404, "a row of the audit, of something else"
    assert console.browser(UserRole.VIEWER).get("/upload/1") == 403


def test_a_held_study_is_found_and_called_so(browser: Browser, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"), ultrasound("two"))
    inbox.settle()
    first = inbox.jobs()[0]
    with inbox.database.write() as session:
        session.get_one(Job, first.id).state = JobState.HELD
        session.get_one(Study, first.study_id).state = StudyState.NOT_APPLICABLE
    browser.get("/studies")
    assert browser.text.count('class="state held"') == 1
    assert '<option value="held">' in browser.text
    assert browser.post("/studies/search", state="held") == 303
    assert browser.follow() == 200
    assert browser.text.count("<tr>") == 2, "the heading and one study"
    assert f'href="/studies/{first.study_id}"' in browser.text
    browser.get(f"/studies/{first.study_id}")
    assert 'class="state held"' in browser.text
    assert browser.get("/studies?state=nonsense") == 400
