"""Copies that would take a study from its patient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ImplicitVRLittleEndian,
)

from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.store.tables import Result
from tests.inbox_lab import Inbox
from tests.modality import (
    ultrasound,
)
from tests.peers import a_peer
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.unit.receive.objects import changed, in_syntax

# pydicom warns of the values that we send


IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")


WHOLE = {"IssuerOfPatientID": "HOSPITAL", "PatientBirthDate": "19700101", "PatientSex": "F"}


EMPTY = dict.fromkeys(IDENTITY, "")


def without(ds: Dataset, *keywords: str) -> Dataset:
    copy = changed(ds)
    for keyword in keywords:
        del copy[keyword]
    return copy


def another_image(ds: Dataset, **values: str) -> Dataset:
    """A further image of the study."""
    uid = derived_uid("further", ds.SOPInstanceUID)
    further = changed(ds, SOPInstanceUID=uid, InstanceNumber=2, **values)
    further.file_meta.MediaStorageSOPInstanceUID = uid
    return further


Variant = Callable[[Dataset], Dataset]


# What else a copy may say of the patient: COPIES of tests/unit/studies/test_judgement.py
LESS: dict[str, Variant] = {
    "all missing": lambda ds: without(ds, *IDENTITY),
    "delimiters": lambda ds: changed(ds, **EMPTY | {"PatientName": "^^=^=", "PatientBirthDate": "00000000"}),
    "blanks, another transfer syntax": lambda ds: in_syntax(
        changed(ds, **EMPTY | {"PatientID": "  ", "PatientName": " ^ ^", "PatientSex": " "}),
        ImplicitVRLittleEndian,
    ),
}


OTHER: dict[str, Variant] = {
    "another patient": lambda ds: changed(ds, PatientID="SOMEBODY", PatientName="Some^Body"),
    "another name, no ID": lambda ds: changed(ds, PatientID="", PatientName="Some^Body"),
    "a further image of nobody": lambda ds: another_image(ds, **EMPTY),
    "a further image of somebody": lambda ds: another_image(ds, PatientID="SOMEBODY"),
}


VARIANTS = LESS | OTHER


@dataclass(frozen=True)
class TwoPatients:
    """Studies that the first sender sent, by name, and what the second one made of them."""

    node: Inbox
    studies: dict[str, Dataset]

    def outcomes(self, variants: Mapping[str, Variant], when: str) -> dict[str, tuple[str, int]]:
        """State of the study and the number of its results, by the name of the variant."""
        found = {name: self.studies[f"{name}, {when}"].StudyInstanceUID for name in variants}
        return {
            name: (str(self.node.study(uid).state), len(self.results(uid))) for name, uid in found.items()
        }

    def results(self, uid: str) -> list[Dataset]:
        study = self.node.study(uid).id
        return [
            dcmread(self.node.folder / row.path) for row in self.node.rows(Result) if row.study_id == study
        ]


def sent(name: str) -> Dataset:
    return changed(ultrasound(name, size=(64, 48)), **WHOLE)


@pytest.fixture(scope="module")
def two_patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPatients]:
    """Each variant comes while its study is received, and once more after the study was delivered."""
    config = configuration()
    config["peers"][1]["results"] = ["sr"]
    config["peers"] += [a_peer(f"us{n}", may=["send"]) for n in (1, 2)]
    early = {f"{name}, early": (sent(f"e{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    late = {f"{name}, late": (sent(f"l{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    with closing(Inbox(tmp_path_factory.mktemp("identities") / "var", config)) as node:
        node.settle(*(ds for ds, _ in late.values()), calling="US1")
        work(node)
        confirm(node)
        node.index(*(ds for ds, _ in early.values()), calling="US1")
        both = early | late
        node.settle(*(make(ds) for ds, make in both.values()), calling="US2")
        work(node)
        confirm(node)
        yield TwoPatients(node, {name: ds for name, (ds, _) in both.items()})


@pytest.mark.filterwarnings("ignore")
def test_every_result_is_of_the_patient_whom_the_first_sender_named(two_patients: TwoPatients) -> None:
    results = {
        name: two_patients.results(source.StudyInstanceUID) for name, source in two_patients.studies.items()
    }
    assert sum(map(len, results.values())) >= len(VARIANTS)
    for name, source in two_patients.studies.items():
        patient = {word: source.get(word) for word in IDENTITY}
        for result in results[name]:
            assert {word: result.get(word) for word in IDENTITY} == patient, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("when", "results"), [("early", 0), ("late", 1)])
def test_what_says_less_changes_nothing_and_what_contradicts_the_patient_waits_for_a_person(
    two_patients: TwoPatients, when: str, results: int
) -> None:
    assert two_patients.outcomes(LESS, when) == dict.fromkeys(LESS, ("delivered", 1))
    assert two_patients.outcomes(OTHER, when) == dict.fromkeys(OTHER, ("quarantined", results))
