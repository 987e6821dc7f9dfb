"""Registered patients: chosen at uploads, and never mistaken for others."""

from collections.abc import Callable

import pytest

from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import StudyState
from dicom_node.base.sitekey import path_of
from dicom_node.base.store import sight
from dicom_node.base.store.tables import RegisteredPatient
from dicom_node.people import registered, studies
from dicom_node.people.audit import Person
from dicom_node.people.registered import PatientData
from tests.console_lab import audited
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed

BY = Person("operator")
SAID = {"PatientID": "P-7", "PatientName": "Müller^Änne", "PatientBirthDate": "1960-01-02", "PatientSex": "F"}


@pytest.fixture
def inbox(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox()


def register(inbox: Inbox, **changes: str) -> int:
    return registered.register_patient(inbox.settings, PatientData(**SAID | changes), BY)


def a_study(inbox: Inbox, name: str = "one", **said: str) -> None:
    """Receive and assemble a study of the registered patient, or of one who differs."""
    header = SAID | {"PatientBirthDate": "19600102", "SpecificCharacterSet": "ISO_IR 192"} | said
    inbox.settle(changed(ultrasound(name), **header))


def test_a_patient_is_registered_changed_listed_and_removed(inbox: Inbox) -> None:
    number = register(inbox)
    registered.change_patient(inbox.settings, number, PatientData(**SAID | {"PatientSex": ""}), BY)
    [row] = inbox.read(registered.list_patients, inbox.settings)
    told = ("patient", "patient_id", "issuer", "name", "birth_date", "sex", "registered_by")
    assert [row[key] for key in told] == [number, "P-7", "", "Müller^Änne", "19600102", "", "operator"]
    assert inbox.read(registered.list_patients, inbox.settings, patient="P*") == [row]
    assert inbox.read(registered.list_patients, inbox.settings, patient="Q") == []
    registered.remove_patient(inbox.settings, number, BY)
    assert inbox.read(registered.list_patients, inbox.settings) == []
    with pytest.raises(NotFound):
        registered.remove_patient(inbox.settings, number, BY)
    acts = ("patient_added", "patient_changed", "patient_removed")
    assert [audited(inbox.database, act) for act in acts] == [[{"patient": number}]] * 3


def test_name_and_birth_date_stand_in_no_file_of_the_database(inbox: Inbox) -> None:
    register(inbox, PatientName="Unmistakable^Name")
    assert not [path for path in inbox.folder.glob("node.db*") if b"nmistakable" in path.read_bytes()]


def test_under_another_site_key_only_the_id_is_known(inbox: Inbox) -> None:
    register(inbox)
    path_of(inbox.folder).unlink()
    registered._seal.cache_clear()
    [row] = inbox.read(registered.list_patients, inbox.settings)
    assert (row["patient_id"], row["name"], row["birth_date"]) == ("P-7", "", "")
    registered._seal.cache_clear()


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"PatientBirthDate": "1961-01-02"}, "another birth date"),
        ({"PatientSex": "M"}, "another sex"),
        ({"PatientName": "Meier^Änne", "PatientSex": "M"}, "another name and sex"),
    ],
    ids=["birth date", "sex", "name and sex"],
)
def test_a_registration_that_contradicts_a_study_is_refused(
    inbox: Inbox, said: dict[str, str], what: str
) -> None:
    a_study(inbox)
    with pytest.raises(NotAllowedNow, match=what):
        register(inbox, **said)
    assert inbox.rows(RegisteredPatient) == []
    number = register(inbox, PatientName="MÜLLER^ÄNNE", PatientSex="")
    with pytest.raises(NotAllowedNow, match=what):
        registered.change_patient(inbox.settings, number, PatientData(**SAID | said), BY)


def test_the_same_id_of_another_issuer_is_another_patient(inbox: Inbox) -> None:
    a_study(inbox)
    register(inbox, IssuerOfPatientID="NORTH", PatientSex="M")
    with pytest.raises(NotAllowedNow, match="is registered already"):
        register(inbox, IssuerOfPatientID="NORTH", PatientSex="M")
    with pytest.raises(FaultyInput, match="PatientName is missing"):
        register(inbox, PatientName=" ")


def test_an_id_cannot_be_changed(inbox: Inbox) -> None:
    number = register(inbox)
    with pytest.raises(NotAllowedNow, match="cannot be changed"):
        registered.change_patient(inbox.settings, number, PatientData(**SAID | {"PatientID": "P-8"}), BY)


def test_a_study_that_contradicts_a_registration_is_quarantined_until_a_person_releases_it(
    inbox: Inbox,
) -> None:
    register(inbox)
    a_study(inbox, "one")
    a_study(inbox, "two", PatientBirthDate="19610102")
    same, other = (inbox.study_of(ultrasound(name)) for name in ("one", "two"))
    assert (same.state, other.state) == (StudyState.QUEUED, StudyState.QUARANTINED)
    assert other.reason.startswith("its images say another birth date than the patient who is registered")
    assert len(inbox.outcomes()) == 2, "nothing was refused at the door"
    studies.release(inbox.settings, str(other.study_instance_uid), [], BY)
    inbox.assemble(seconds=300)
    assert inbox.study_of(ultrasound("two")).state is StudyState.QUEUED


def test_a_patient_registered_as_the_console_shows_names_is_the_patient_of_the_images(inbox: Inbox) -> None:
    number = register(inbox, PatientName="Müller, Änne")
    a_study(inbox)
    assert inbox.study_of(ultrasound("one")).state is StudyState.QUEUED
    assert inbox.read(registered.registered_patient, inbox.settings, number)["name"] == "Müller^Änne"
    inbox.read(registered.refuse_other_than_registered, SAID | {"PatientName": "Müller, Änne"})


def test_versions_compare_a_registration_with_the_images_until_a_person_releases_the_study(
    inbox: Inbox,
) -> None:
    register(inbox)
    a_study(inbox, "two", PatientName="Meier^Änne", PatientSex="M")
    study = inbox.study_of(ultrasound("two"))
    rows = studies.versions(inbox.settings, str(study.study_instance_uid))
    assert study.reason.startswith("its images say another name and sex than")
    assert [(row["number"], row["choose"], row["differs"]) for row in rows] == [
        (None, "registered", {"PatientName": "Müller^Änne", "PatientSex": "F"}),
        (None, "images", {"PatientName": "Meier^Änne", "PatientSex": "M"}),
    ]
    studies.release(inbox.settings, str(study.study_instance_uid), [], BY, as_of=rows[0]["as_of"])
    assert studies.versions(inbox.settings, str(study.study_instance_uid)) == []


def test_what_is_typed_at_an_upload_and_contradicts_a_registration_is_refused(inbox: Inbox) -> None:
    number = register(inbox)
    inbox.read(registered.refuse_other_than_registered, SAID | {"PatientSex": ""})
    with pytest.raises(NotAllowedNow, match="another sex"):
        inbox.read(registered.refuse_other_than_registered, SAID | {"PatientSex": "M"})
    chosen = inbox.read(
        registered.described_as_registered, inbox.settings, number, {"PatientID": "", "Modality": "US"}
    )
    assert chosen == SAID | {"PatientBirthDate": "19600102", "Modality": "US"}


def test_who_sees_some_senders_only_registers_nobody_and_sees_nobody(inbox: Inbox) -> None:
    number = register(inbox)
    with sight.seen_by(["CONSOLE"]):
        assert inbox.read(registered.list_patients, inbox.settings) == []
        for change in (register, lambda node: registered.remove_patient(node.settings, number, BY)):
            with pytest.raises(NotAllowedNow, match="some senders only"):
                change(inbox)
    assert len(inbox.rows(RegisteredPatient)) == 1


def test_the_number_of_a_removed_patient_is_never_that_of_another(inbox: Inbox) -> None:
    removed = register(inbox)
    registered.remove_patient(inbox.settings, removed, BY)
    assert register(inbox, PatientID="P-2", PatientName="Roe^Rita") != removed
    with pytest.raises(NotFound):
        inbox.read(registered.described_as_registered, inbox.settings, removed, {"PatientID": ""})
