"""The main job, with real parts: DCMTK sends, the node works, a real Orthanc holds what came back."""

from __future__ import annotations

import io
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node import services
from dicom_node.config import loading
from dicom_node.dicom.uids import derived_uid
from dicom_node.store import views
from tests.modality import quick_ultrasound, set_pixels
from tests.node_lab import Node, rule, running, site_config, store, wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

pytestmark = [pytest.mark.debian("orthanc"), pytest.mark.debian("dcmtk"), pytest.mark.timeout(1800)]

RULES = (
    rule("ultrasound"),
    rule("chest_xray", 'modality = ["CR", "DX"], calling_ae = "MODALITY"', "heatmaps = true"),
    rule("chest_xray", 'modality = ["CR", "DX"], calling_ae = "CLEANER"', "clean = true", name="chest-clean"),
)
RESULTS = ("sr", "gsps", "sc", "heatmap", "cleaned", "seg")

SR = "1.2.840.10008.5.1.4.1.1.88.34"
COLOUR_STATE = "1.2.840.10008.5.1.4.1.1.11.2"
GREY_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


@dataclass(frozen=True)
class Site:
    """A node with its PACS."""

    node: Node
    pacs: Orthanc

    def objects(self, study_uid: str) -> list[Dataset]:
        """What the PACS holds of a study."""
        held = (dcmread(io.BytesIO(self.pacs.fetch(uid))) for uid in self.pacs.instances())
        return [ds for ds in held if study_uid == ds.StudyInstanceUID]

    def send(self, images: Sequence[Dataset], calling: str = "MODALITY") -> dict[str, object]:
        """Store them, wait until all are in the index, and return the study's row at its end.

        Success says that an object is safe; the index learns of it a moment later, and a study that was
        delivered before stands there unchanged until then.
        """
        study_uid = images[0].StudyInstanceUID
        due = self.received(study_uid) + len(images)
        assert set(store(self.node.port, images, calling)) == {0x0000}
        wait_until(lambda: self.received(study_uid) == due, 120, f"{due} objects received")
        return self.end_of(study_uid)

    def received(self, study_uid: str) -> int:
        """How many objects the index has received for a study, repeated ones counted."""
        with services.reading(loading.load([self.node.config])) as session:
            known = any(row["study_instance_uid"] == study_uid for row in views.list_studies(session))
            return len(views.show_study(session, study_uid)["received"]) if known else 0

    def end_of(self, study_uid: str) -> dict[str, object]:
        """The study's row once it stands in an end state."""
        ends = ("delivered", "not_applicable", "quarantined", "failed")
        studies: dict[str | None, dict[str, object]] = {}

        def ended() -> bool:
            studies.update(self.node.studies())
            return study_uid in studies and studies[study_uid]["state"] in ends

        wait_until(
            ended,
            300,
            f"end of study {study_uid}",
            step=0.3,
            shown=lambda: self.node.log.read_text()[-1500:],
            progress=lambda: {uid: row["state"] for uid, row in studies.items()},
        )
        return studies[study_uid]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with start_orthanc(folder / "orthanc", ae_title="ORTHANC") as pacs:
        senders, boxes = ("MODALITY", "CLEANER"), "burned_in_boxes = true"
        config = site_config(
            pacs.dicom_port, "".join(RULES), RESULTS, senders=senders, ae_title=pacs.ae_title, of_pacs=boxes
        )
        node = Node(folder / "node", config)
        with running(node):
            yield Site(node, pacs)


def of_its_own(path: Path, name: str, folder: Path) -> Path:
    """A copy with UIDs of its own, the pixels untouched."""
    ds = dcmread(path)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        delattr(ds, keyword)  # unread: one of the public files has an invalid UID
    ds.StudyInstanceUID = derived_uid(name, "study")
    ds.SeriesInstanceUID = derived_uid(name, "series")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, "instance")
    copy = folder / f"{name}.dcm"
    ds.save_as(copy)
    return copy


def dcmsend(site: Site, calling: str, *paths: Path) -> None:
    """Send as a modality would, in each file's own transfer syntax."""
    done = subprocess.run(
        ["dcmsend", "-aet", calling, "-aec", "AINODE", "127.0.0.1", str(site.node.port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_ultrasound_comes_back_as_report_overlay_picture_and_cleaned(site: Site, tmp_path: Path) -> None:
    path = of_its_own(Path(str(get_testdata_file("examples_rgb_color.dcm"))), "us-rgb", tmp_path)
    dcmsend(site, "MODALITY", path)
    source = dcmread(path)
    row = site.end_of(source.StudyInstanceUID)
    assert row["state"] == "delivered", row
    held = site.objects(source.StudyInstanceUID)
    assert {SR, COLOUR_STATE} <= {ds.SOPClassUID for ds in held}
    cleaned = [ds for ds in held if "clean" in ds.SeriesDescription.lower() and ds.Modality != "SEG"]
    assert len(cleaned) == 1 and cleaned[0].BurnedInAnnotation == "NO"
    for ds in held:
        assert (ds.PatientID, ds.PatientName) == (source.PatientID, source.PatientName)
        assert "AI" in ds.SeriesDescription.split()
    assert {item["kind"] for item in row["results"]} >= {"sr", "gsps", "sc", "cleaned"}


def test_a_study_sent_twice_makes_no_second_result(site: Site, tmp_path: Path) -> None:
    image = quick_ultrasound("twice")
    site.send([image])
    before = Counter(site.pacs.instances())
    row = site.send([image, image])
    assert Counter(site.pacs.instances()) == before
    assert row["revision"] == 1


def test_results_that_come_back_to_the_node_start_nothing(site: Site) -> None:
    image = quick_ultrasound("return")
    site.send([image])
    results = site.objects(image.StudyInstanceUID)
    jobs = len(site.node.cli("jobs", "list"))
    row = site.send(results, "ORTHANC")
    assert row["state"] == "delivered" and row["revision"] == 1
    assert len(site.node.cli("jobs", "list")) == jobs


def test_a_late_image_makes_one_revision_whose_report_replaces_the_first(site: Site) -> None:
    first, late = quick_ultrasound("late", number=1), quick_ultrasound("late", number=2)
    site.send([first])
    before = {ds.SOPInstanceUID: ds for ds in site.objects(first.StudyInstanceUID)}
    row = site.send([late])
    assert (row["state"], row["revision"]) == ("delivered", 2)
    after = {ds.SOPInstanceUID: ds for ds in site.objects(first.StudyInstanceUID)}
    assert set(before) < set(after)
    [old] = [ds for ds in before.values() if ds.SOPClassUID == SR]
    [new] = [ds for uid, ds in after.items() if ds.SOPClassUID == SR and uid not in before]
    replaced = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_two_patients_in_one_study_are_quarantined_and_nothing_is_released(site: Site) -> None:
    one, other = quick_ultrasound("mixed", number=1), quick_ultrasound("mixed", number=2)
    other.PatientID, other.PatientName = "ID-somebody-else", "Somebody^Else"
    row = site.send([one, other])
    assert row["state"] == "quarantined"
    assert "patient" in str(row["reason"])
    assert site.objects(one.StudyInstanceUID) == []


def test_a_korean_name_comes_back_whole(site: Site) -> None:
    image = quick_ultrasound("korean")
    image.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    assert site.send([image])["state"] == "delivered"
    for ds in site.objects(image.StudyInstanceUID):
        assert ds.PatientName == image.PatientName
        assert ds.PatientName.phonetic == image.PatientName.phonetic


@pytest.mark.data
def test_chest_x_rays_are_analysed_and_what_is_none_is_refused_with_a_reason(
    site: Site, tmp_path: Path, data: Path
) -> None:
    files = data / "dicom" / "files"
    refused = {
        "leg": "pydicom-data__RG3_J2KI",
        "dental": "fo-dicom__CR-ModalitySequenceLUT",
        "spine1": "pydicom__6154",
        "spine2": "pydicom__6247",
        "spine3": "pydicom__6278",
        "dog": "highdicom__dx_image",
    }
    sent = {
        name: of_its_own(files / f"{stem}.dcm", name, tmp_path)
        for name, stem in {"chest": "pydicom-data__RG1_J2KI", **refused}.items()
    }
    dcmsend(site, "MODALITY", *sent.values())
    uids = {name: dcmread(path).StudyInstanceUID for name, path in sent.items()}
    rows = {name: site.end_of(uid) for name, uid in uids.items()}
    assert rows["chest"]["state"] == "delivered"
    assert {SR, GREY_STATE} <= {ds.SOPClassUID for ds in site.objects(uids["chest"])}
    for name in refused:
        assert rows[name]["state"] == "not_applicable", name
        assert rows[name]["reason"]
        assert site.objects(uids[name]) == []


@pytest.mark.data
def test_a_name_in_the_pixels_of_a_chest_x_ray_comes_back_cleaned(
    site: Site, tmp_path: Path, data: Path
) -> None:
    path = of_its_own(data / "dicom" / "files" / "presidio__0_ORIGINAL_compressed.dcm", "presidio", tmp_path)
    source = dcmread(path)
    third = cv2.resize(source.pixel_array, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    set_pixels(source, third, source.PhotometricInterpretation, source.BitsStored)
    source.save_as(path)  # whole it takes a minute, most of it to look for further text
    dcmsend(site, "CLEANER", path)
    row = site.end_of(source.StudyInstanceUID)
    assert row["state"] == "delivered", row
    [cleaned] = [
        ds
        for ds in site.objects(source.StudyInstanceUID)
        if "clean" in ds.SeriesDescription.lower() and ds.Modality != "SEG"
    ]
    assert cleaned.BurnedInAnnotation == "NO"
    assert cleaned.get("PatientIdentityRemoved") != "YES"
    assert (cleaned.pixel_array != source.pixel_array).any()
