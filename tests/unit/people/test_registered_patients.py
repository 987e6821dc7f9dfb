"""Registered patients: what is taken, who contradicts, and that their names are encrypted."""

from typing import Any

import pytest

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.base.store import sight
from dicom_node.base.store.tables import AuditRow
from dicom_node.people import reading
from dicom_node.people.registered_patients import change, list_patients, register, remove
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed

JANE = {"name": "DOE^JANE", "birth_date": "1970-01-31", "sex": "f"}


def listed(settings: Settings, find: str = "") -> list[tuple[str, ...]]:
    keys = ("patient_id", "name", "birth_date", "sex")
    with reading(settings) as session:
        rows = list_patients(session, settings, find=find)
    return [tuple(row[key] for key in keys) for row in rows]


def test_a_patient_is_registered_changed_and_removed_and_each_is_audited(inbox: Inbox) -> None:
    number = register(inbox.settings, "4711 ", **JANE)
    assert listed(inbox.settings) == [("4711", "DOE^JANE", "19700131", "F")]
    change(inbox.settings, number, "4711", name="ROE^JANE")
    assert listed(inbox.settings) == [("4711", "ROE^JANE", "", "")]
    remove(inbox.settings, number)
    assert listed(inbox.settings) == []
    with pytest.raises(NotFound):
        remove(inbox.settings, number)
    actions = [row.action for row in inbox.rows(AuditRow)]
    assert actions == ["patient_saved", "patient_saved", "patient_removed"]


def test_name_and_birth_date_are_not_readable_in_the_database(inbox: Inbox) -> None:
    register(inbox.settings, "4711", **JANE)
    stored = b"".join(path.read_bytes() for path in inbox.folder.rglob("node.db*"))
    assert b"4711" in stored
    assert b"JANE" not in stored
    assert b"19700131" not in stored


@pytest.mark.parametrize("find", ["4711", "47*", "doe", "jan do"])
def test_a_patient_is_found_by_id_or_words_of_the_name(inbox: Inbox, find: str) -> None:
    register(inbox.settings, "4711", **JANE)
    register(inbox.settings, "0815", name="MUSTER^ERIKA")
    assert [row[0] for row in listed(inbox.settings, find)] == ["4711"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"patient_id": " "}, "a Patient ID is needed"),
        ({"patient_id": "A\\B"}, "backslash"),
        ({"patient_id": "1" * 65}, "too long"),
        ({"patient_id": "1\n2"}, "cannot be printed"),
        ({"name": "A^B^C^D^E^F"}, "at most three groups"),
        ({"name": "x" * 65}, "at most three groups"),
        ({"name": "a=b=c=d"}, "at most three groups"),
        ({"birth_date": "31.02.1970"}, "is no date"),
        ({"birth_date": "2970-01-01"}, "in the future"),
        ({"birth_date": "1800-01-01"}, "nobody who lives"),
        ({"sex": "X"}, "the sex is one of F, M, O"),
    ],
)
def test_values_that_dicom_does_not_allow_are_refused(
    inbox: Inbox, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FaultyInput, match=reason):
        register(inbox.settings, **{"patient_id": "4711", **values})
    assert listed(inbox.settings) == []


def test_an_id_is_registered_once_for_an_issuer(inbox: Inbox) -> None:
    register(inbox.settings, "4711", **JANE)
    with pytest.raises(NotAllowedNow, match="registered already"):
        register(inbox.settings, "4711")
    register(inbox.settings, "4711", issuer="NORTH")
    assert len(listed(inbox.settings)) == 2


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"name": "OTHER^PERSON"}, True),
        ({"birth_date": "1950-05-05"}, True),
        ({"sex": "M"}, True),
        ({"name": "DOE^JANE", "birth_date": "19700131", "sex": "F"}, False),
        ({}, False),
        ({"name": "OTHER^PERSON", "issuer": "NORTH"}, False),
    ],
    ids=["name", "birth date", "sex", "all agree", "nothing said", "another issuer"],
)
def test_a_registration_that_contradicts_a_study_is_refused(
    inbox: Inbox, values: dict[str, str], refused: bool
) -> None:
    study = changed(ultrasound("one"), PatientName="Doe^Jane", PatientBirthDate="19700131", PatientSex="F")
    inbox.index(changed(study, PatientID="4711", IssuerOfPatientID=""))
    if refused:
        with pytest.raises(NotAllowedNow, match="another name, birth date or sex"):
            register(inbox.settings, "4711", **values)
    else:
        register(inbox.settings, "4711", **values)
    assert len(listed(inbox.settings)) == (not refused)


def test_who_sees_one_sender_only_registers_and_sees_nobody(inbox: Inbox) -> None:
    register(inbox.settings, "4711", **JANE)
    with sight.seen_by(["US1"]):
        assert listed(inbox.settings) == []
        with pytest.raises(NotAllowedNow, match="all senders"):
            register(inbox.settings, "4712")
        with pytest.raises(NotFound):
            remove(inbox.settings, 1)
