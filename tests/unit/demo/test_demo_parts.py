"""Parts of the demonstration: its inputs, its PACS, and how what came back is read."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, examples
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.demo import inputs, returned
from dicom_node.demo.pacs import AE_TITLE, EmbeddedPacs, Pacs, start
from dicom_node.errors import FaultyInput, PeerUnreachable
from dicom_node.scu import modality
from dicom_node.scu.modality import Callee, Sent

STILL = Path(examples.get_path("rgb_color"))
CINE = Path(examples.get_path("ybr_color"))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    running = EmbeddedPacs(tmp_path / "pacs")
    yield running
    running.stop()


def send(pacs: Pacs, *files: Path) -> list[Sent]:
    return modality.send(Callee(AE_TITLE, "127.0.0.1", pacs.port, "US1"), files, lambda _sent: None)


def find(pacs: EmbeddedPacs, **keys: str) -> list[str]:
    """SOP Instance UIDs by C-FIND at IMAGE level."""
    ae = AE(ae_title="ASKING")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", pacs.port, ae_title=AE_TITLE)
    question = Dataset()
    question.QueryRetrieveLevel, question.SOPInstanceUID = "IMAGE", ""
    for key, value in keys.items():
        setattr(question, key, value)
    try:
        answers = list(association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind))
    finally:
        association.release()
    assert answers[-1][0].Status == 0x0000
    return [answer.SOPInstanceUID for status, answer in answers if status.Status == 0xFF00]


def test_the_embedded_pacs_shows_what_it_was_sent(pacs: EmbeddedPacs) -> None:
    sent = send(pacs, STILL, CINE)
    assert all(item.stored for item in sent)
    uids = [item.sop_instance_uid for item in sent]
    still = dcmread(STILL)
    assert find(pacs, StudyInstanceUID=str(still.StudyInstanceUID)) == [uids[0]]
    assert find(pacs, SOPInstanceUID=uids[1]) == [uids[1]]
    assert find(pacs, SOPInstanceUID="1.2.3") == []
    [data] = pacs.fetch(str(still.StudyInstanceUID))
    assert STILL.read_bytes().endswith(data[-1000:])


def test_the_embedded_pacs_keeps_the_first_copy_and_survives_a_restart(tmp_path: Path) -> None:
    first = EmbeddedPacs(tmp_path / "pacs")
    send(first, STILL)
    send(first, STILL)
    first.stop()
    second = EmbeddedPacs(tmp_path / "pacs")
    try:
        assert len(second.fetch(str(dcmread(STILL).StudyInstanceUID))) == 1
    finally:
        second.stop()


def test_the_embedded_pacs_writes_nothing_beside_its_folder(tmp_path: Path) -> None:
    pacs = EmbeddedPacs(tmp_path / "pacs")
    evil = dcmread(STILL)
    try:
        with warnings.catch_warnings(action="ignore"):
            evil.SOPInstanceUID = evil.file_meta.MediaStorageSOPInstanceUID = "1/../../../out"
            evil.save_as(tmp_path / "evil.dcm")
            assert [item.stored for item in send(pacs, tmp_path / "evil.dcm")] == [False]
    finally:
        pacs.stop()
    assert not list(tmp_path.rglob("out*"))


@pytest.mark.debian("orthanc")
def test_the_demonstrations_orthanc_serves_nobody_but_the_demonstration(tmp_path: Path) -> None:
    """It cannot listen on one address alone, and may hold images of the user's own."""
    pacs = start(tmp_path / "pacs")
    try:
        assert [item.stored for item in send(pacs, STILL)] == [True]
        with pytest.raises(PeerUnreachable):
            modality.send(Callee(AE_TITLE, "127.0.0.1", pacs.port, "STRANGER"), [STILL], lambda _sent: None)
        assert associates(pacs.port, "127.0.0.1") and not associates(pacs.port, "127.0.0.2")
    finally:
        pacs.stop()


def associates(port: int, source: str) -> bool:
    ae = AE(ae_title="AINODE")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", port, ae_title=AE_TITLE, bind_address=(source, 0))
    accepted = bool(association.is_established)
    association.abort()
    return accepted


def test_every_study_of_the_demonstration_has_one_patient(tmp_path: Path) -> None:
    studies = inputs.shipped(tmp_path, None)
    assert sorted(study.modality for study in studies) == ["DX", "US", "US", "US"]
    assert len({study.study_instance_uid for study in studies}) == len(studies)
    for study in studies:
        headers = [dcmread(path, stop_before_pixels=True) for path in study.files]
        assert {str(header.StudyInstanceUID) for header in headers} == {study.study_instance_uid}
        assert len({str(header.get("PatientID", "")) for header in headers}) == 1


def test_without_public_images_the_chest_is_a_phantom_that_says_so(tmp_path: Path) -> None:
    chest = inputs.shipped(tmp_path, tmp_path / "nothing")[-1]
    assert "SYNTHETIC" in chest.origin
    header = dcmread(chest.files[0], stop_before_pixels=True)
    assert header.SeriesDescription == "SYNTHETIC PHANTOM"
    assert str(header.PatientName).startswith("Invented^")


def test_a_second_run_sends_the_same_chest(tmp_path: Path) -> None:
    once, again = (inputs.shipped(tmp_path / name, None)[-1].files[0] for name in ("1", "2"))
    assert once.read_bytes() == again.read_bytes()


@pytest.mark.data
def test_a_public_chest_x_ray_is_one_that_no_model_was_trained_on(tmp_path: Path, data: Path) -> None:
    chest = inputs.shipped(tmp_path, data)[-1]
    assert "NIH ChestX-ray14" in chest.origin
    name = chest.origin.split()[2]
    [row] = [line for line in (data / "cxr_nih" / "manifest.csv").read_text().splitlines() if name in line]
    assert ",test," in row
    assert not str(dcmread(chest.files[0]).PatientName).startswith("0"), "an invented patient"


@pytest.mark.debian("dicom3tools")
def test_the_chest_is_a_valid_dx_image(tmp_path: Path) -> None:
    chest = inputs.shipped(tmp_path, None)[-1].files[0]
    done = subprocess.run(["dciodvfy", chest], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.startswith(("Error", "Warning"))] == []


def test_own_files_are_sent_by_study_and_the_rest_is_passed_over(tmp_path: Path) -> None:
    for path in (STILL, Path(examples.get_path("jpeg2k")), CINE):
        shutil.copy(path, tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    studies = inputs.own(tmp_path)
    assert sorted(len(study.files) for study in studies) == [1, 2]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FaultyInput, match="holds no DICOM file"):
        inputs.own(empty)


def test_previews_are_written_beside_the_objects_and_replaced_by_the_next_run(tmp_path: Path) -> None:
    objects = [STILL.read_bytes(), CINE.read_bytes()]
    kinds = {str(dcmread(CINE).SOPInstanceUID): "cleaned"}
    for _ in range(2):
        written = returned.write(tmp_path / "us-1", objects, kinds)
    assert [item.kind for item in written] == ["source", "cleaned"]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == [
        "us-1/01-source.png",
        "us-1/02-cleaned.png",
        "us-1/pacs/01-source.dcm",
        "us-1/pacs/02-cleaned.dcm",
    ]
    header = dcmread(CINE, stop_before_pixels=True)
    with Image.open(tmp_path / "us-1" / "02-cleaned.png") as picture:
        assert picture.size == (header.Columns, header.Rows)


def test_the_phantom_looks_like_a_chest_from_afar() -> None:
    pixels = inputs.chest_phantom().astype(np.float32)
    lungs = pixels[400:700, 250:420].mean(), pixels[400:600, 700:800].mean()
    middle = pixels[400:800, 490:530].mean()
    assert max(lungs) < 0.6 * middle
