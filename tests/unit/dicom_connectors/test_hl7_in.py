"""HL7 messages in: framing, limits, durable acknowledgement, and what they do to studies."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import text

from dicom_connectors.hl7.carrying_out import Hl7Messages
from dicom_connectors.hl7.inbox import Inbox
from dicom_connectors.hl7.listener import Hl7Listener
from dicom_connectors.hl7.settings import Hl7Settings
from dicom_node.base import events
from dicom_node.base.lifecycle import CorrectionState, DeliveryState, JobState, MessageState, StudyState
from dicom_node.base.store.merges import AwaitedCorrection, Hl7Message, ReplacedPatient
from dicom_node.base.store.tables import Delivery, Job, RegisteredPatient, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.people.audit import Person
from dicom_node.people.hl7_messages import list_sent_under_former
from dicom_node.people.registered import PatientData, list_patients, register_patient
from dicom_node.studies.quarantine import release_study
from tests.certificates_lab import Authority
from tests.hl7_lab import END, START, Sender, framed, message, sender
from tests.inbox_lab import CONFIG
from tests.inbox_lab import Inbox as Reception
from tests.modality import ultrasounds
from tests.ports import free_port
from tests.rows import a_job, a_result
from tests.waiting import wait_until

AUTHORITY = "HOSP"


@pytest.fixture
def site(open_inbox: Callable[..., Reception]) -> Reception:
    return open_inbox({**CONFIG, "assembly": {"quiet_seconds": 1, "quiet_seconds_us": 1}})


@contextmanager
def listening(site: Reception, **settings: Any) -> Iterator[int]:
    """The listener of a site without its other threads; yields its port."""
    port = free_port()
    given = {"port": port, "senders": {"ris": ["127.0.0.0/8"]}, "messages_a_second": 1000, **settings}
    hl7 = Hl7Settings.model_validate(given)
    listener = Hl7Listener(site.database, hl7, Inbox(site.database, site.settings, AUTHORITY))
    stop = threading.Event()
    thread = threading.Thread(target=listener.run_once, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: site.events(events.HL7_STARTED.number), what="the listener")
        yield port
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def carry_out(site: Reception) -> None:
    hl7 = Hl7Settings.model_validate({"assigning_authority": AUTHORITY, "order_rules": {"AI1": "ultrasound"}})
    Hl7Messages(site.database, site.settings, hl7, "test").run_once()


def take(site: Reception, data: bytes) -> str:
    """Take a message without a network and carry it out; returns why it was refused."""
    _, refusal, _ = Inbox(site.database, site.settings, AUTHORITY).take(data, "ris")
    carry_out(site)
    return refusal


def images(patient: str = "OLD", study: str = "merged", name: str = "Doe^Jane", **more: Any) -> list[Dataset]:
    found = ultrasounds(study, 2)
    for one in found:
        for keyword, value in {"PatientID": patient, "PatientName": name, **more}.items():
            setattr(one, keyword, value)
    return found


def sent_result(site: Reception, study: Study, state: DeliveryState, **values: Any) -> None:
    """A result of the study's job, in the outbox in this state."""
    with site.database.write() as session:
        found = session.get_one(Study, study.id)
        job = a_job(found, JobState.SUCCEEDED, f"rule-{state}")
        session.add(job)
        session.flush()
        result = a_result(job)
        session.add(result)
        session.flush()
        from dicom_node.base.store.transitions import utc_now

        session.add(Delivery(result=result, destination="pacs", state=state, next_at=utc_now(), **values))


# Framing and limits


def test_messages_come_split_and_together(site: Reception) -> None:
    with listening(site) as port, sender(port) as ris:
        both = framed(message(number="1")) + b"\r\n" + framed(message(number="2"))
        for at in range(0, len(both), 7):
            ris.socket.sendall(both[at : at + 7])
        assert ris.answer()[:3] == ["MSA", "AA", "1"]
        assert ris.answer()[:3] == ["MSA", "AA", "2"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no start block"),
        (START + message() + START + message() + END, "block inside"),
        (START + b"x" * 3000, "more than 2048 bytes"),
        (framed(b"MSH|" + b"x" * 3000), "more than 2048 bytes"),
    ],
    ids=["no start block", "no end block", "endless", "too long"],
)
def test_a_faulty_frame_ends_its_connection_and_is_counted(site: Reception, data: bytes, says: str) -> None:
    with listening(site, message_kib=2) as port:
        with sender(port) as ris:
            ris.socket.sendall(data)
            assert ris.answer()[1:2] in ([], ["AR"])
            assert ris.answer() == []
        with sender(port) as ris:
            assert ris.send(message())[1] == "AA", "others are served"
    [event] = site.events(events.HL7_REFUSED.number)
    assert says in event.fields["reason"]


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", "AR", "begin with MSH"),
        (b"PID|1\r", "AR", "begin with MSH"),
        (message() + b"\0", "AR", "NUL"),
        (message(version="9.9"), "AR", "MSH-12"),
        (message(charset="KLINGON"), "AR", "MSH-18"),
        (message(name="M\xfcller", charset="8859/1").replace(b"8859/1", b""), "AR", "character set"),
        (message(number=""), "AR", "MSH-10"),
        (message(number="x" * 65), "AR", "MSH-10"),
        (message(kind="ADT^A01"), "AR", "only ADT"),
        (message(former=""), "AE", "no MRG"),
        (message(former="NEW^^^HOSP"), "AE", "the same Patient ID"),
        (message(patient="A^^^HOSP~B^^^HOSP"), "AE", "several"),
        (message(patient="x" * 65 + "^^^HOSP"), "AE", "64 characters"),
        (message(more="PID|" + "x|" * 100_000 + "\r"), "AR", "fields"),
        (message(more="PID|1||" + "1^^^HOSP~" * 50_000 + "\r"), "AR", "fields"),
        (message(more="PID|1\r" * 1000), "AR", "segments"),
        (b"MSH^^^^^^|", "AR", "begin with MSH"),
    ],
)
def test_a_faulty_message_is_refused_at_once_and_changes_nothing(
    site: Reception, data: bytes, code: str, says: str
) -> None:
    began = time.monotonic()
    with listening(site) as port, sender(port) as ris:
        answer = ris.send(data)
    assert answer[1] == code
    assert says in answer[3]
    assert time.monotonic() - began < 10
    assert site.rows(Hl7Message) == []


def test_a_segment_that_nobody_reads_may_be_long(site: Reception) -> None:
    began = time.monotonic()
    assert take(site, message(more="OBX|" + "x|" * 100_000 + "\r")) == ""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("charset", ["", "UNICODE UTF-8", "8859/1"])
def test_the_character_set_is_that_of_the_header(site: Reception, charset: str) -> None:
    site.settle(*images(name="Müller^Jane", SpecificCharacterSet="ISO_IR 192"))
    data = message("ADT^A08", "OLD^^^HOSP", name="Müller^Jane", charset=charset)
    assert take(site, data) == ""
    assert site.rows(Hl7Message)[0].state is MessageState.NOTHING, "the same name"


def test_a_silent_and_a_slow_sender_are_ended(site: Reception) -> None:
    with listening(site, idle_seconds=0.3) as port, sender(port) as ris:
        assert ris.answer() == []
    assert site.events(events.HL7_REFUSED.number) == []


def test_strangers_and_too_many_connections_are_closed(site: Reception) -> None:
    with listening(site, connections=2, senders={"ris": ["127.0.0.1"]}) as port:
        with sender(port) as first, sender(port) as second:
            assert first.send(message(number="1"))[1] == "AA"
            assert second.send(message(number="2"))[1] == "AA"
            with sender(port) as third:
                assert third.answer() == []
        wait_until(lambda: _is_taken(port), what="a free place")
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.9", 0))
            stranger.settimeout(10)
            stranger.connect(("127.0.0.1", port))
            assert Sender(stranger).answer() == []
    counted = {event.fields["sender"]: event.fields["reason"] for event in site.events(1092)}
    assert counted["127.0.0.9"] == "unknown address"
    assert counted["ris"] == "too many connections"


def _is_taken(port: int) -> bool:
    with sender(port) as ris:
        try:
            return ris.send(message(number="3"))[:2] == ["MSA", "AA"]
        except OSError:
            return False


def test_a_flood_waits_in_its_connections_and_nothing_is_lost(site: Reception) -> None:
    began = time.monotonic()
    with listening(site, messages_a_second=50) as port, sender(port) as one, sender(port) as other:
        for number in range(30):
            one.socket.sendall(framed(message(number=f"a{number}")))
            other.socket.sendall(framed(message(number=f"b{number}")))
        answers = [ris.answer()[1:3] for ris in (one, other) for _ in range(30)]
    assert answers == [["AA", f"{name}{number}"] for name in "ab" for number in range(30)]
    assert time.monotonic() - began > 59 / 50
    assert len(site.rows(Hl7Message)) == 60


def test_tls_wants_the_certificate_of_a_client(site: Reception, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "house"), Authority(tmp_path, "stranger")
    certificate, key = authority.certify("node")
    tls = {"certificate": certificate, "private_key": key, "trusted": authority.certificate}
    with listening(site, tls=tls) as port:
        assert _answer_by_tls(port, authority, authority.certify("ris")) == ["AA"]
        assert _answer_by_tls(port, authority, stranger.certify("thief")) == []
        with sender(port) as plain:
            plain.socket.sendall(framed(message(number="2")))
            assert plain.answer() == []
    assert len(site.rows(Hl7Message)) == 1


def _answer_by_tls(port: int, authority: Authority, of_client: tuple[Path, Path]) -> list[str]:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*map(str, of_client))
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as connection:
                return Sender(connection).send(message())[1:2]
        except ssl.SSLError:
            return []


# Durable acknowledgement


def test_a_message_is_stored_when_it_is_acknowledged_and_taken_once(site: Reception) -> None:
    with listening(site) as port, sender(port) as ris:
        assert ris.send(message(name="Doe^Jane"))[1] == "AA"
        [row] = site.rows(Hl7Message)
        assert (row.sender, row.application, row.control_id) == ("ris", "RIS^HOSP", "1")
        assert ris.send(message(name="Doe^Jane"))[1] == "AA", "again"
        assert ris.send(message(name="Doe^John"))[1:2] == ["AE"], "another one with its number"
    assert len(site.rows(Hl7Message)) == 1
    assert b"Doe" not in Path(site.settings.database_url.removeprefix("sqlite:///")).read_bytes()


def test_a_message_that_cannot_be_stored_is_not_acknowledged(site: Reception) -> None:
    inbox = Inbox(site.database, site.settings, AUTHORITY)
    with site.database.write() as session:
        session.execute(text("ALTER TABLE hl7_message RENAME TO away"))
    answer, refusal, _ = inbox.take(message(), "ris")
    assert b"MSA|AE|1|the message cannot be stored now" in answer
    assert "send it again" in refusal


# Patients


def test_a_merge_holds_the_study_until_its_images_are_corrected(site: Reception) -> None:
    site.settle(*images())
    study = site.study_of(images()[0])
    sent_result(site, study, DeliveryState.PENDING)
    assert take(site, message(name="Doe^Jane")) == ""
    held = site.study_of(images()[0])
    assert held.state is StudyState.QUARANTINED
    assert {job.state for job in site.jobs()} <= {"cancelled", "succeeded"}
    assert [row.state for row in site.rows(Delivery)] == [DeliveryState.CANCELLED]
    first, second = images("NEW")
    site.index(first)
    carry_out(site)
    assert site.study_of(first).state is StudyState.QUARANTINED, "one image has the former ID still"
    site.index(second, calling="QUICK")  # the PACS corrects what the modality sent
    carry_out(site)
    assert site.study_of(first).state is StudyState.RECEIVING
    assert site.rows(AwaitedCorrection)[0].state is CorrectionState.CORRECTED
    site.assemble(seconds=10)
    [job] = [row for row in site.rows(Job) if row.state == "queued"]
    assert site.study_of(first).patient_id == "NEW"
    assert job.study_revision == 2


def test_what_was_sent_under_the_former_id_is_said(site: Reception) -> None:
    site.settle(*images())
    study = site.study_of(images()[0])
    sent_result(site, study, DeliveryState.CONFIRMED, sent_at=utc_now())
    sent_result(site, study, DeliveryState.SENDING)
    take(site, message())
    [event] = site.events(events.SENT_UNDER_FORMER.number)
    assert (event.fields["objects"], event.fields["destinations"]) == (1, ["pacs"])
    with site.database.write() as session:  # what was under way arrives
        row = session.get_one(Delivery, 2)
        row.state, row.sent_at = DeliveryState.UNCONFIRMED, utc_now()
    carry_out(site)
    assert [one.fields["objects"] for one in site.events(events.SENT_UNDER_FORMER.number)] == [1, 2]
    rows = site.read(list_sent_under_former)
    assert [(row["former_id"], row["patient_id"], row["destination"]) for row in rows] == [
        ("OLD", "NEW", "pacs")
    ] * 2


def test_a_merge_that_comes_before_the_study_holds_it(site: Reception) -> None:
    take(site, message())
    site.settle(*images())
    study = site.study_of(images()[0])
    assert study.state is StudyState.QUARANTINED
    assert site.jobs() == []
    site.write(release_study, study.id)
    site.assemble(seconds=10)
    assert len(site.jobs()) == 1, "a person released it as it is"


def test_chains_and_circles(site: Reception) -> None:
    site.settle(*images("A"))
    take(site, message(patient="B^^^HOSP", former="A^^^HOSP", number="1"))
    take(site, message(patient="C^^^HOSP", former="B^^^HOSP", number="2"))
    site.index(*images("B"))
    carry_out(site)
    assert site.study_of(images()[0]).state is StudyState.QUARANTINED, "B was merged, too"
    take(site, message(patient="A^^^HOSP", former="C^^^HOSP", number="3"))
    assert len(site.events(events.MERGED_IN_CIRCLE.number)) == 1
    site.index(*images("C"))
    carry_out(site)
    assert site.study_of(images()[0]).state is StudyState.QUARANTINED, "nobody knows who survives"
    take(site, message(patient="D^^^HOSP", former="C^^^HOSP", number="4"))
    site.index(*images("D"))
    carry_out(site)
    assert site.study_of(images()[0]).state is StudyState.RECEIVING


def test_ids_of_another_site_change_nothing(site: Reception) -> None:
    site.settle(*images(IssuerOfPatientID="ELSEWHERE"))
    with listening(site) as port, sender(port) as ris:
        assert ris.send(message(patient="NEW^^^OTHER", former="OLD^^^OTHER"))[1] == "AA"
        assert ris.send(message(patient="NEW", former="OLD", number="2"))[1] == "AA"
        assert ris.send(message(number="3"))[1] == "AA"
    carry_out(site)
    states = [row.state for row in site.rows(Hl7Message)]
    assert states == [MessageState.FOREIGN, MessageState.FOREIGN, MessageState.DONE]
    assert site.study_of(images()[0]).state is not StudyState.QUARANTINED, "its issuer is another"
    [event] = site.events(events.HL7_FOREIGN.number)
    assert event.fields["count"] == 2


def test_a_study_in_quarantine_for_another_reason_stays_there(site: Reception) -> None:
    one, other = images()
    other.PatientID = "SOMEBODY"
    site.settle(one, other)
    assert site.study_of(one).state is StudyState.QUARANTINED
    take(site, message())
    site.index(*images("NEW"))
    carry_out(site)
    assert site.study_of(one).state is StudyState.QUARANTINED


def test_other_data_hold_a_study_and_contradictions_keep_it_held(site: Reception) -> None:
    site.settle(*images(PatientBirthDate="19700101"))
    same = message("ADT^A08", "OLD^^^HOSP", name="DOE^JANE", born="19700101", number="1")
    take(site, same)
    assert site.study_of(images()[0]).state is not StudyState.QUARANTINED
    take(site, message("ADT^A08", "OLD^^^HOSP", name="Smith^Jane", born="19700101", number="2"))
    assert site.study_of(images()[0]).state is StudyState.QUARANTINED
    site.index(*images(name="Jones^Jane", PatientBirthDate="19700101"))
    carry_out(site)
    assert site.study_of(images()[0]).state is StudyState.QUARANTINED, "neither is that name"
    take(site, message("ADT^A08", "OLD^^^HOSP", name="Jones^Jane", born="19700101", number="3"))
    carry_out(site)
    assert site.study_of(images()[0]).state is StudyState.RECEIVING, "the newest message says so"


def test_registered_patients_follow(site: Reception) -> None:
    by = Person("ann")
    for patient in ("OLD", "BOTH", "NEW"):
        given = PatientData(PatientID=patient, PatientName="Doe^Jane", PatientBirthDate="1970-01-01")
        register_patient(site.settings, given, by)
    take(site, message(patient="MOVED^^^HOSP", former="OLD^^^HOSP", name="Smith^Jane", number="1"))
    take(site, message(patient="NEW^^^HOSP", former="BOTH^^^HOSP", number="2"))
    rows = site.read(list_patients, site.settings)
    assert {(row["patient_id"], row["name"]) for row in rows} == {
        ("MOVED", "Smith^Jane"),
        ("NEW", "Doe^Jane"),
    }
    assert len(site.rows(RegisteredPatient)) == 2


def test_a_person_who_released_a_study_is_not_asked_twice(site: Reception) -> None:
    site.settle(*images())
    take(site, message(number="1"))
    site.write(release_study, 1)
    take(site, message(number="2"))
    assert site.study_of(images()[0]).state is StudyState.RECEIVING
    assert site.rows(AwaitedCorrection)[0].state is CorrectionState.RELEASED
    assert len(site.rows(ReplacedPatient)) == 1


# Orders


def order(
    *, patient: str = "OLD^^^HOSP", control: str = "NW", priority: str = "", code: str = "", number: str = "1"
) -> bytes:
    """An order for the study of ``images``, by its accession number."""
    [first, *_] = images()
    more = f"ORC|{control}|P1\rTQ1|1||||||||{priority}\rOBR|1|P1||{code}\rIPC|{first.AccessionNumber}|R1\r"
    return message("OMI^O23", patient, "", number=number, more=more)


def test_an_order_of_2_3_1_is_read(site: Reception) -> None:
    [first, *_] = images()
    control, request = "ORC|NW|P1|||||^^^^^S\r", f"OBR|1|P1||X{'|' * 14}{first.AccessionNumber}\r"
    more = f"{control}{request}ZDS|{first.StudyInstanceUID}^H^Application^DICOM\r"
    site.settle(*images())
    assert take(site, message("ORM^O01", "OLD^^^HOSP", "", more=more, version="2.3.1")) == ""
    assert site.study_of(first).priority == 1


def test_an_order_makes_a_study_stat_and_its_waiting_jobs(site: Reception) -> None:
    site.settle(*images())
    take(site, order(priority="S"))
    assert site.study_of(images()[0]).priority == 1
    assert {job.priority for job in site.jobs()} == {1}
    assert len(site.events(events.ORDERED_STAT.number)) == 1


def test_an_order_that_comes_first_waits_for_its_study(site: Reception) -> None:
    take(site, order(priority="S"))
    assert site.rows(Hl7Message)[0].state is MessageState.WAITING
    site.index(*images())
    carry_out(site)
    site.assemble(seconds=10)
    assert {job.priority for job in site.jobs()} == {1}
    assert site.rows(Hl7Message)[0].state is MessageState.DONE
    assert site.rows(Hl7Message)[0].content == {}


def test_an_order_starts_a_rule_that_the_settings_name_once(site: Reception) -> None:
    site.settle(*images())
    with site.database.write() as session:
        session.get_one(Job, 1).state = JobState.HELD
    take(site, order(code="OTHER", number="1"))
    assert site.jobs()[0].state is JobState.HELD, "the settings do not name it"
    take(site, order(code="AI1", number="2"))
    take(site, order(code="AI1", number="3"))
    assert [job.state for job in site.jobs()] == [JobState.QUEUED]
    states = [row.state for row in site.rows(Hl7Message)]
    assert states == [MessageState.NOTHING, MessageState.DONE, MessageState.NOTHING]


def test_an_order_of_another_patient_changes_nothing(site: Reception) -> None:
    site.settle(*images())
    take(site, order(patient="SOMEBODY^^^HOSP", priority="S", number="1"))
    take(site, order(patient="OLD^^^OTHER", priority="S", number="2"))
    assert site.study_of(images()[0]).priority == 0
    assert len(site.events(events.ORDER_OTHER_PATIENT.number)) == 1
    assert [row.state for row in site.rows(Hl7Message)] == [MessageState.NOTHING, MessageState.FOREIGN]


def test_a_cancelled_order_and_one_whose_time_is_over_do_not_wait(site: Reception) -> None:
    take(site, order(priority="S", number="1"))
    take(site, order(control="CA", number="2"))
    assert site.rows(Hl7Message)[0].state is MessageState.NOTHING
    take(site, order(priority="S", number="3"))
    with site.database.write() as session:
        session.get_one(Hl7Message, 3).received_at -= timedelta(hours=73)
    carry_out(site)
    assert site.rows(Hl7Message)[2].state is MessageState.EXPIRED
    site.settle(*images())
    assert site.study_of(images()[0]).priority == 0


def test_an_order_without_a_study_is_refused(site: Reception) -> None:
    assert "no accession number" in take(site, message("ORM^O01", former="", more="ORC|NW\rOBR|1\r"))
    several = "OBR|1" + "|" * 17 + "A1\rOBR|2" + "|" * 17 + "A2\r"
    assert "several" in take(site, message("ORM^O01", former="", more=several, number="2"))
