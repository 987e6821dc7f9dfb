"""A de-identified archive and a PACS, both real Orthancs: one study, two identities."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.scu.transport import CallingAE
from dicom_node.sitekey import path_of
from tests.deidentified_lab import BIRTH_DATE, SECRET, UID_ROOT, write_named
from tests.node_lab import Node, rule, running, site_config, store
from tests.wire.orthanc_lab import Orthanc, start_orthanc

pytestmark = [pytest.mark.debian("orthanc"), pytest.mark.timeout(1800)]

RULES = rule("ultrasound", send_to='["pacs", "archive"]')
ARCHIVE = """
[[peers]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
may = ["receive"]
results = ["cleaned", "seg", "sr"]
deidentify = true
"""


def configuration(pacs: int, archive: int) -> str:
    """``pacs``, ``archive``: their ports."""
    results = ("sr", "gsps", "sc", "heatmap", "cleaned", "seg")
    return site_config(pacs, RULES, results, senders=("MODALITY",)) + ARCHIVE.format(port=archive)


NAME = "MUSTERMANN ERIKA"


@dataclass(frozen=True)
class Site:
    """A node between a PACS that knows the patient and an archive that must not."""

    node: Node
    pacs: Orthanc
    archive: Orthanc
    folder: Path

    def objects(self, study_uid: str = "") -> dict[str, Dataset]:
        """What the archive holds, of one study or of all, by SOP Instance UID."""
        held = {uid: dcmread(io.BytesIO(self.archive.fetch(uid))) for uid in self.archive.instances()}
        return {uid: ds for uid, ds in held.items() if study_uid in ("", ds.StudyInstanceUID)}

    def send(self, study: str, patient: str = "1") -> dict[str, object]:
        """Send a study and wait until all of it is delivered."""
        image = write_named(self.folder / f"{study}.dcm", patient, study, burned())
        assert store(self.node.port, [image], "MODALITY") == [0x0000]
        count = int(study)
        return dict(self.node.wait_for(["delivered"], count)[f"{UID_ROOT}.1.{study}"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with (
        start_orthanc(folder / "pacs", ae_title="PACS") as pacs,
        start_orthanc(folder / "archive", ae_title="ARCHIVE") as archive,
    ):
        ports = {"pacs": pacs.dicom_port, "archive": archive.dicom_port}
        node = Node(folder / "node", configuration(**ports))
        with running(node):
            yield Site(node, pacs, archive, folder)


def test_the_archive_gets_image_mask_and_report_and_no_identity(site: Site) -> None:
    study = site.send("1")
    objects = list(site.objects().values())
    assert sorted(ds.Modality for ds in objects) == ["SEG", "SR", "US"]
    results: list[dict[str, object]] = study["results"]  # type: ignore[assignment]
    hidden = {item["sop_instance_uid"] for item in results if item["deidentified"]}
    assert hidden == {ds.SOPInstanceUID for ds in objects}
    for uid in site.archive.instances():
        data = site.archive.fetch(uid)
        for value in (SECRET, BIRTH_DATE, UID_ROOT):
            assert value.encode() not in data
    cleaned = next(ds for ds in objects if ds.Modality == "US")
    assert (cleaned.PatientIdentityRemoved, cleaned.BurnedInAnnotation) == ("YES", "NO")
    for ds in objects:
        assert set(referred(ds)) <= {cleaned.SOPInstanceUID}
    assert site.node.log.read_text(encoding="utf-8").count(SECRET) == 0


def test_the_pacs_gets_the_same_study_with_its_patient(site: Site) -> None:
    held = [dcmread(io.BytesIO(site.pacs.fetch(uid))) for uid in site.pacs.instances()]
    assert {ds.StudyInstanceUID for ds in held} == {f"{UID_ROOT}.1.1"}
    assert {ds.PatientID for ds in held} == {f"{SECRET}PID1"}
    assert set(site.archive.instances()) & set(site.pacs.instances()) == set()


def test_the_study_is_found_by_its_new_uid_only(site: Site) -> None:
    new = next(iter(site.objects().values())).StudyInstanceUID
    assert found(site.archive, new) == 1
    assert found(site.archive, f"{UID_ROOT}.1.1") == 0


def test_a_second_study_of_the_patient_comes_under_the_same_pseudonym(site: Site) -> None:
    site.send("2")
    site.send("3", patient="2")
    patients: dict[str, set[str]] = {}
    for ds in site.objects().values():
        patients.setdefault(ds.PatientID, set()).add(ds.StudyInstanceUID)
    assert sorted(len(studies) for studies in patients.values()) == [1, 2]


def test_another_node_with_the_same_key_makes_the_same_objects_though_it_is_killed(
    site: Site, tmp_path: Path
) -> None:
    before = {uid: site.archive.fetch(uid) for uid in site.archive.instances()}
    site.node.stop()
    config = configuration(1, site.archive.dicom_port)
    other = Node(tmp_path, config.replace('send_to = ["pacs", "archive"]', 'send_to = ["archive"]'))
    kept = path_of(tmp_path / "var")
    kept.parent.mkdir(parents=True, mode=0o700)
    shutil.copy(path_of(site.node.folder / "var"), kept)  # a backup that is put back
    with running(other):
        assert store(other.port, [site.folder / "1.dcm"], "MODALITY") == [0x0000]
        other.kill()
        other.start(ready_seconds=180)
        other.wait_for(["delivered"], 1)
        sent = {item["sop_instance_uid"] for item in other.studies()[f"{UID_ROOT}.1.1"]["results"]}
    assert sent
    assert {uid: site.archive.fetch(uid) for uid in site.archive.instances()} == before
    assert sent <= set(before)


def burned() -> np.ndarray:
    """Speckle with the patient's name above it."""
    rng = np.random.default_rng(7)
    grey = rng.gamma(2.0, 22, (120, 160)).clip(0, 180).astype("u1")
    picture = Image.fromarray(grey).resize((320, 240), Image.Resampling.BICUBIC).convert("RGB")
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((0, 0, 320, 36), fill=(0, 0, 0))
    drawing.text((10, 6), NAME, fill=(255, 255, 255), font_size=20)
    return np.asarray(picture)


def found(archive: Orthanc, study_uid: str) -> int:
    """How many studies a C-FIND for this UID finds."""
    ae = CallingAE(ae_title="SOMEBODY")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", archive.dicom_port, ae_title=archive.ae_title)
    assert association.is_established
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", study_uid, ""
    answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
    count = sum(1 for _, identifier in answers if identifier is not None)
    association.release()
    return count


def referred(ds: Dataset) -> Iterator[str]:
    if "ReferencedSOPInstanceUID" in ds:
        yield ds.ReferencedSOPInstanceUID
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from referred(item)
