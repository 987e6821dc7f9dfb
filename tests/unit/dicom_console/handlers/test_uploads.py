"""Objects that a person uploads, and their way to the end."""

import io
import re
import socket
import struct
import zipfile
from collections.abc import Callable

import pytest
from PIL import Image
from pydicom import dcmread

from dicom_console.app import create_app
from dicom_node.base.lifecycle import Intake, JobState, ObjectRole, StudyState, UserRole
from dicom_node.base.store.tables import Instance, Job, ReceivedObject, Study
from dicom_node.people import stow, users
from dicom_node.people.audit import Person
from tests.console_lab import PASSWORD, Browser, ConsoleLab, Program, audited, serving
from tests.inbox_lab import Inbox, encoded
from tests.modality import data_set, part_10, ultrasound
from tests.unit.receive.objects import changed


def outcomes(operator: Browser) -> list[str]:
    """Why files were refused, in order, then "taken" for each object that was not."""
    assert operator.status == 200, operator.text
    why = re.findall(r'<td class="reason">[^<]*</td><td class="reason problem">([^<]*)</td>', operator.text)
    taken = re.search(r"(\d+) objects? taken", operator.text)
    assert taken
    return why + ["taken"] * int(taken[1])


def test_an_object_is_received_as_from_a_modality(operator: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    operator.upload(("IMG0001", part_10(sent)))
    assert outcomes(operator) == ["taken"]
    inbox.settle()
    row = inbox.instance(sent)
    assert (row.calling_ae, row.called_ae, row.role) == ("CONSOLE", "AINODE", ObjectRole.SOURCE)
    assert inbox.file_of(sent).PixelData == sent.PixelData
    assert inbox.column(Job.rule) == ["ultrasound"]
    [noted] = audited(inbox.database, "uploaded")
    assert noted | {"association": ""} == {"objects": 1, "refused": 0, "association": ""}


def test_who_sees_some_senders_only_adds_to_no_other_study(console: ConsoleLab, inbox: Inbox) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    inbox.settle(secret, calling="ROOM9")
    added = part_10(changed(secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77"))
    taken_over = part_10(changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78"))
    # the Study Instance UID again, where only some parsers look
    second = data_set(StudyInstanceUID=secret.StudyInstanceUID, file_meta=new.file_meta)
    twice = part_10(changed(new, SOPInstanceUID="1.2.826.0.1.3680043.10.543.79")) + encoded(second)
    waiting = ultrasound("waiting")  # received, and not in the database yet
    inbox.receive(waiting, calling="ROOM9")
    into_waiting = part_10(changed(waiting, SOPInstanceUID="1.2.826.0.1.3680043.10.543.80"))
    files = [
        added, part_10(new), part_10(changed(new, StudyInstanceUID="")), taken_over, twice, into_waiting,
    ]  # fmt: skip
    for name, senders in (("elsewhere", ["QUICK"]), ("limited", ["CONSOLE"])):
        users.add_user(console.settings, name, UserRole.OPERATOR, PASSWORD, senders=senders)
    assert console.browser("elsewhere").upload(("new", files[1])) == 403
    operator = console.browser("limited")
    operator.upload(*((f"{n}", file) for n, file in enumerate(files)))
    hidden, no_study = stow.NOT_ITS_STUDY.when, stow.NO_OBJECT.when
    assert outcomes(operator) == [hidden, no_study, hidden, "taken", "taken", "taken"]
    before = inbox.study_of(secret)
    while inbox.spool.pending():
        inbox.settle()
    assert inbox.outcomes() == ["new", "new", "new", "quarantined", "quarantined"]
    assert inbox.study_of(waiting).state is not StudyState.QUARANTINED
    assert inbox.study_of(secret).state is before.state is not StudyState.QUARANTINED
    assert inbox.study_of(new).state is StudyState.QUARANTINED


def test_what_the_listener_refuses_is_refused_here(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    other_class = ultrasound("one")
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data = part_10(ultrasound("two"))
    unknown_syntax = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    operator.upload(("a", part_10(other_class)), ("b", unknown_syntax))
    assert ["SOP class" in outcomes(operator)[0], "transfer syntax" in outcomes(operator)[1]] == [True, True]
    console.change("listener", maximum_object_mib=0)
    operator.upload(("c", data))
    assert "maximum_object_mib" in outcomes(operator)[0]
    assert inbox.spool.pending() == []


ABOUT = {"PatientID": "P-7", "PatientName": "Müller^Änne", "Modality": "US", "PatientBirthDate": "1960-01-02"}


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, (60, 41), 100 if mode != "RGB" else (9, 99, 199)).save(data, kind)
    return data.getvalue()


def zipped(*files: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def taking_uploads(console: ConsoleLab, inbox: Inbox) -> None:
    """Go on with a rule that takes uploaded pictures."""
    [rule, *others] = inbox.settings.rules
    taking = rule.model_copy(update={"secondary_captures_from": ("console",)})
    inbox.settings = inbox.settings.model_copy(update={"rules": (taking, *others)})
    inbox.reopen()
    console.take(inbox.settings)


def test_pictures_become_one_new_study_that_rules_take(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    kinds = (
        ("scan.png", "PNG", "RGB"),
        ("b.jpg", "JPEG", "L"),
        ("c.tif", "TIFF", "CMYK"),
        ("d.png", "PNG", "P"),
    )
    operator.upload(*((name, picture(kind, mode)) for name, kind, mode in kinds), **ABOUT)
    assert outcomes(operator) == ["taken"] * 4
    inbox.index()
    inbox.assemble()
    [study] = inbox.rows(Study)
    [job] = inbox.jobs()
    assert (study.patient_id, study.state) == ("P-7", StudyState.QUEUED)
    assert len(job.source_uids) == 4
    made = dcmread(inbox.folder / inbox.rows(Instance)[0].path)
    assert (str(made.PatientName), made.PatientBirthDate) == ("Müller^Änne", "19600102")
    assert (made.SOPClassUID, made.Rows, made.Columns) == ("1.2.840.10008.5.1.4.1.1.7", 41, 60)
    assert operator.get(f"/studies/images/{inbox.rows(Instance)[0].id}/1") == 200


def test_a_zip_of_objects_and_pictures_is_opened_and_its_names_are_only_shown(
    operator: Browser, inbox: Inbox
) -> None:
    names = ("../../etc/passwd", "/absolute", "<script>alert(1)</script>", "notes.txt")
    files = (part_10(ultrasound("one")), picture(), b"no picture", b"no DICOM")
    operator.upload(("all.zip", zipped(*zip(names, files, strict=True), ("__MACOSX/._a", b"x"))), **ABOUT)
    assert outcomes(operator)[2:] == ["taken", "taken"]
    assert "all.zip: &lt;script&gt;" in operator.text
    assert "<script>alert" not in operator.text
    assert len(inbox.spool.pending()) == 2
    assert not [path for path in inbox.folder.rglob("*") if path.name in ("passwd", "absolute")]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_rest_interface_takes_the_same_fields(console: ConsoleLab, inbox: Inbox, rows: int) -> None:
    files = [("files", (f"{number}.png", picture())) for number in range(rows)]
    program = Program(console, UserRole.OPERATOR)
    assert program.ask("POST", "/upload", files=files, data={**ABOUT, "View": "PA"}) == (
        200, [{"name": f"{number}.png", "refusal": ""} for number in range(rows)],
    )  # fmt: skip
    status, answer = program.ask("POST", "/upload", files=files, data={**ABOUT, "StudyDate": "2999-01-01"})
    assert (status, "StudyDate is no day" in answer["error"]) == (400, True)
    assert len(inbox.spool.pending()) == rows


def test_a_faulty_form_keeps_what_was_typed_and_stores_nothing(operator: Browser, inbox: Inbox) -> None:
    assert operator.upload(("a.png", picture()), **ABOUT | {"PatientName": "A" * 50_000}) == 400
    assert "PatientName has more than 64 characters" in operator.text
    assert 'name="PatientID" value="P-7"' in operator.text
    assert inbox.spool.pending() == []
    operator.upload(("a.png", picture()))
    assert "a picture does not say whose it is" in outcomes(operator)[0]
    assert inbox.spool.pending() == []


@pytest.mark.parametrize("role", [UserRole.VIEWER, UserRole.READER])
def test_who_may_not_upload_uploads_nothing(console: ConsoleLab, inbox: Inbox, role: UserRole) -> None:
    assert console.browser(role).upload(("a.png", picture()), **ABOUT) == 403
    files = [("files", ("a.png", picture()))]
    assert Program(console, role).ask("POST", "/upload", files=files, data=ABOUT)[0] == 403
    assert inbox.spool.pending() == []


def test_more_than_may_wait_is_refused(operator: Browser, console: ConsoleLab, inbox: Inbox) -> None:
    console.change("spool", waiting_objects=2)
    operator.upload(*((f"{number}.png", picture()) for number in range(3)), **ABOUT)
    assert outcomes(operator) == [stow.NO_ROOM.when, "taken", "taken"]
    assert len(inbox.spool.pending()) == 2


def test_of_a_file_that_is_two_things_only_the_picture_is_kept(operator: Browser, inbox: Inbox) -> None:
    both = picture() + zipped(("one.dcm", part_10(ultrasound("one"))), ("a", b"<script>"))
    operator.upload(("both.png", both), **ABOUT)
    assert outcomes(operator) == ["taken"]
    inbox.settle()
    [made] = inbox.rows(Instance)
    stored = inbox.folder / made.path
    assert len(dcmread(stored).PixelData) == 60 * 41 * 3
    assert b"PK" not in stored.read_bytes()


def test_an_upload_is_complete_when_its_form_ends_and_not_before(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    request = stow.StowRequest(inbox.database, console.settings, Person("operator"), intake=Intake.UPLOAD)
    for name in ("one", "two"):
        request.begin()
        request.write(part_10(changed(ultrasound("one"), SOPInstanceUID=f"1.2.3.{len(name)}")))
        request.end()
        inbox.index()
        assert inbox.assemble() == 0, (
            "the console was killed here: the study waits as after a lost association"
        )
    request.close()
    assert inbox.assemble() == 1
    assert inbox.jobs()[0].state is JobState.QUEUED


def test_what_a_killed_console_leaves_is_complete_after_its_quiet_time(
    console: ConsoleLab, inbox: Inbox
) -> None:
    request = stow.StowRequest(inbox.database, console.settings, Person("operator"), intake=Intake.UPLOAD)
    request.begin()
    request.write(part_10(ultrasound("one")))
    request.end()
    request.begin()
    request.write(part_10(ultrasound("two"))[:3000])
    inbox.index()
    assert inbox.assemble(seconds=29) == 0
    assert inbox.assemble(seconds=31) == 1
    assert inbox.column(ReceivedObject.sop_instance_uid) == [ultrasound("one").SOPInstanceUID]


def test_an_upload_that_is_cut_half_way_stores_nothing(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.OPERATOR)
    cookies = "; ".join(f"{name}={value}" for name, value in browser.client.cookies.items())
    body = (
        f'--b\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{browser.token()}\r\n--b\r\n'
        'Content-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    ).encode() + part_10(ultrasound("one"))
    head = (
        f"POST /upload HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {2 * len(body)}\r\n\r\n"
    )
    with serving(console.app) as (_, port), socket.create_connection(("127.0.0.1", port)) as sender:
        sender.sendall(head.encode() + body)
        sender.shutdown(socket.SHUT_WR)
        answer = sender.recv(4096)
    assert b"200" not in answer.split(b"\r\n")[0]
    assert inbox.spool.pending() == []
    assert console.audited("uploaded") == []


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "it is empty"),
    "HTML": (lambda: b"<html><script>alert(1)</script>", "it is none of the files that are taken"),
    "no elements": (lambda: bytes(128) + b"DICM" + bytes(200), "no valid UIDs"),
    "no end": (lambda: bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2**31), "does not end"),
}


def test_what_is_no_object_is_refused_in_words(operator: Browser, inbox: Inbox) -> None:
    for data, why in REFUSED.values():
        operator.upload(("file.dcm", data()))
        assert why in outcomes(operator)[0], why
        assert inbox.spool.pending() == [], why


def test_a_body_that_is_too_large_is_cut_off(inbox: Inbox, console: ConsoleLab) -> None:
    console.change("console", upload_mib=1)
    console.app = create_app(console.settings, inbox.database)
    assert console.browser(UserRole.OPERATOR).upload(("a", bytes(2**20 + 1))) == 413


def test_uploads_need_the_token_of_their_form(operator: Browser, inbox: Inbox) -> None:
    files = [("files", ("a", part_10(ultrasound("one"))))]
    for sent in ({"data": {"csrf": "0"}}, {"headers": {"Sec-Fetch-Site": "cross-site"}}):
        assert operator.client.post("/upload", files=files, **sent).status_code == 403
    assert inbox.spool.pending() == []


def test_a_study_is_followed_from_the_spool_to_its_end(operator: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    operator.upload(("Mueller.dcm", part_10(sent)))
    [address] = re.findall(r'data-from="(/upload/\d+)"', operator.text)
    assert "Objects still being read: 1 of 1" in operator.text
    inbox.settle()
    assert "still being read" not in operator.page(address)
    assert f'href="/studies/{inbox.study_of(sent).id}"' in operator.text
    assert "0 of 1 jobs" in operator.text
    assert "All of it came to its end" not in operator.text
    inbox.put(Job, state=JobState.NOT_APPLICABLE)
    inbox.put(Study, state=StudyState.NOT_APPLICABLE, reason="it is a leg")
    assert "it is a leg" in operator.page(address)
    assert "All of it came to its end" in operator.text
    assert "Mueller" not in operator.text
    assert f'href="{address}"' in operator.page("/upload")
    assert all(
        "Nothing was assessed, so nothing is excluded." in operator.page(page)
        for page in ("/studies", f"/studies/{inbox.study_of(sent).id}", "/patients/1")
    )


def test_a_held_study_is_found_and_called_so(operator: Browser, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), ultrasound("two"))
    first = inbox.jobs()[0]
    inbox.put(Job, first.id, state=JobState.HELD)
    inbox.put(Study, first.study_id, state=StudyState.NOT_APPLICABLE)
    assert operator.page("/studies").count('class="state held"') == 1
    assert operator.page("/studies?state=held").count("<tr>") == 2, "the heading and one study"
    assert f'href="/studies/{first.study_id}"' in operator.text
    assert "Nothing was" not in operator.text
    assert 'class="state held"' in operator.page(f"/studies/{first.study_id}")
    assert operator.get("/studies?state=nonsense") == 400
