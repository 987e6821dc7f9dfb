"""Objects that a person uploads, and their way to the end."""

import re
import struct
from collections.abc import Callable

from dicom_console.app import create_app
from dicom_node.base.lifecycle import JobState, ObjectRole, StudyState, UserRole
from dicom_node.base.store.tables import Job, Study
from dicom_node.people import stow, users
from tests.console_lab import PASSWORD, Browser, ConsoleLab, audited
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


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "no file of DICOM"),
    "HTML": (lambda: b"<html><script>alert(1)</script>", "no file of DICOM"),
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
