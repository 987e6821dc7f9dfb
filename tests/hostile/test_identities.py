"""Copies of a study with a missing or another identity: no result leaves for another patient, or for none.

The first sender gives each image its patient. A second one, as a de-identifying gateway might, sends the same
UIDs and pixels, or further images of the study, with less of the identity or with another one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from sqlalchemy import func, select

from dicom_node import services
from dicom_node.config import loading
from dicom_node.dicom.uids import derived_uid
from dicom_node.store.tables import ReceivedObject
from tests.modality import hash_of, ultrasound_from
from tests.node_lab import Node, running, site_config, store, wait_until
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.unit.inbox.objects import changed, in_syntax

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of the values that we send

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
LESS: dict[str, Variant] = {
    "all empty": lambda ds: changed(ds, **EMPTY),
    "all missing": lambda ds: without(ds, *IDENTITY),
    "blanks": lambda ds: changed(ds, **EMPTY | {"PatientID": "  ", "PatientName": " ^ ^", "PatientSex": " "}),
    "delimiters": lambda ds: changed(ds, **EMPTY | {"PatientName": "^^=^=", "PatientBirthDate": "00000000"}),
    "all empty, another transfer syntax": lambda ds: in_syntax(changed(ds, **EMPTY), ImplicitVRLittleEndian),
    "all empty, another Accession Number": lambda ds: changed(ds, **EMPTY, AccessionNumber="OTHER"),
    **{f"no {keyword}": (lambda ds, keyword=keyword: changed(ds, **{keyword: ""})) for keyword in IDENTITY},
    "no ID, no name": lambda ds: changed(ds, PatientID="", IssuerOfPatientID="", PatientName=""),
    "ID alone": lambda ds: changed(ds, PatientName="", PatientBirthDate="", PatientSex=""),
    "name alone": lambda ds: changed(ds, **{**EMPTY, "PatientName": ds.PatientName}),
    "sex alone": lambda ds: changed(ds, **{**EMPTY, "PatientSex": "F"}),
}  # fmt: skip
"""Says less of the patient than the image in force, and nothing else."""
OTHER: dict[str, Variant] = {
    "another ID": lambda ds: changed(ds, PatientID="SOMEBODY"),
    "another issuer": lambda ds: changed(ds, IssuerOfPatientID="ELSEWHERE"),
    "another name": lambda ds: changed(ds, PatientName="Some^Body"),
    "another birth date": lambda ds: changed(ds, PatientBirthDate="19010101"),
    "another sex": lambda ds: changed(ds, PatientSex="M"),
    "another patient": lambda ds: changed(ds, PatientID="SOMEBODY", PatientName="Some^Body"),
    "another ID alone": lambda ds: changed(ds, **{**EMPTY, "PatientID": "SOMEBODY"}),
    "another name alone": lambda ds: changed(ds, **{**EMPTY, "PatientName": "Some^Body"}),
    "another ID, no name": lambda ds: changed(ds, PatientID="SOMEBODY", PatientName=""),
    "another name, no ID": lambda ds: changed(ds, PatientID="", PatientName="Some^Body"),
    "a further image of nobody": lambda ds: another_image(ds, **EMPTY),
    "a further image without ID": lambda ds: another_image(ds, PatientID="", IssuerOfPatientID=""),
    "a further image of somebody": lambda ds: another_image(ds, PatientID="SOMEBODY"),
}
"""Contradicts the image in force, or the study: a person must choose."""
VARIANTS = LESS | OTHER


@dataclass(frozen=True)
class Site:
    """Studies that the first sender sent, by name, and what the second one made of them."""

    node: Node
    pacs: Pacs
    studies: dict[str, Dataset]

    def outcomes(self, variants: Mapping[str, Variant], when: str) -> dict[str, tuple[str, int]]:
        """State of the study and the number of its results, by the name of the variant."""
        studies = self.node.studies()
        names = {name: f"{name}, {when}" for name in variants}
        return {
            name: (studies[self.studies[study].StudyInstanceUID]["state"], len(self.results(study)))
            for name, study in names.items()
        }

    def results(self, name: str) -> list[Dataset]:
        held = (dcmread(io.BytesIO(data), force=True) for data in self.pacs.stored.values())
        return [ds for ds in held if ds.StudyInstanceUID == self.studies[name].StudyInstanceUID]


def sent(name: str) -> Dataset:
    """A picture of one grey level: analysed in a moment."""
    grey = hash_of(name) % 200
    return changed(ultrasound_from(name, np.full((48, 64, 3), grey, np.uint8)), **WHOLE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Each variant comes while its study is received, and once more after the study was delivered."""
    pacs = Pacs(free_port())
    config = site_config(pacs.port, quiet=4, senders=("US1", "US2"))  # the copy must come within it
    node = Node(tmp_path_factory.mktemp("identities"), config)
    early = {f"{name}, early": (sent(f"e{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    late = {f"{name}, late": (sent(f"l{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    ends = ("delivered", "quarantined")
    with run_pacs(pacs), running(node):
        assert set(store(node.port, [ds for ds, _ in late.values()], "US1")) == {0}
        node.wait_for(ends, count=len(late))
        for ds, make in early.values():
            assert store(node.port, [ds], "US1") + store(node.port, [make(ds)], "US2") == [0, 0]
        assert set(store(node.port, [make(ds) for ds, make in late.values()], "US2")) == {0}
        both = early | late
        wait_until(
            lambda: received(node) == 2 * len(both),
            what="all objects in the index",
            progress=lambda: received(node),
        )
        node.wait_for(ends, count=len(both))
        yield Site(node, pacs, {name: ds for name, (ds, _) in both.items()})


def received(node: Node) -> int:
    """How many objects are in the index."""
    with services.reading(loading.load([node.config])) as session:
        return session.scalar(select(func.count(ReceivedObject.id))) or 0


WHEN = ("early", "late")


def test_every_result_is_of_the_patient_whom_the_first_sender_named(site: Site) -> None:
    assert sum(len(site.results(name)) for name in site.studies) >= len(VARIANTS)
    for name, source in site.studies.items():
        patient = {word: source.get(word) for word in IDENTITY}
        for result in site.results(name):
            assert {word: result.get(word) for word in IDENTITY} == patient, name


@pytest.mark.parametrize("when", WHEN)
def test_a_copy_that_says_less_neither_stops_nor_changes_the_study(site: Site, when: str) -> None:
    assert site.outcomes(LESS, when) == dict.fromkeys(LESS, ("delivered", 1))


@pytest.mark.parametrize("when", WHEN)
def test_what_contradicts_the_patient_waits_for_a_person(site: Site, when: str) -> None:
    assert site.outcomes(OTHER, when) == dict.fromkeys(OTHER, ("quarantined", 1 if when == "late" else 0))
