"""What is faulty is quarantined with its reason and stops nothing else; what is only unusual is sound."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Study
from tests.inbox_lab import Inbox, encoded
from tests.modality import chest, ultrasound
from tests.unit.inbox.objects import (
    changed,
)


def test_a_faulty_object_that_comes_again_and_again_is_kept_once(inbox: Inbox) -> None:
    image = changed(ultrasound("faulty"), Rows=0)
    inbox.receive(image, image, image)
    inbox.index()
    assert inbox.outcomes() == ["quarantined", "duplicate", "duplicate"]
    assert len(list((inbox.folder / "spool").rglob("*.dcm"))) == 1


def zero_rows(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 0


def short_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-1000]


def long_pixels(ds: Dataset) -> None:
    ds.PixelData += bytes(10_000)


def no_pixels(ds: Dataset) -> None:
    del ds.PixelData


def no_study_uid(ds: Dataset) -> None:
    ds.StudyInstanceUID = ""


def no_series_uid(ds: Dataset) -> None:
    del ds.SeriesInstanceUID


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (zero_rows, "0 × 0"),
        (short_pixels, "bytes, its attributes say"),
        (long_pixels, "bytes, its attributes say"),
        (no_pixels, "no Pixel Data"),
        (no_study_uid, "Study Instance UID"),
        (no_series_uid, "Series Instance UID"),
    ],
)
def test_a_faulty_image_is_quarantined_with_the_reason_and_its_study_is_listed(
    inbox: Inbox, damage: Callable[[Dataset], None], reason: str
) -> None:
    image = ultrasound("faulty")
    damage(image)
    [name] = inbox.receive(image)
    inbox.settle()
    study = inbox.study(image.get("StudyInstanceUID") or None)
    assert study.state is StudyState.QUARANTINED and reason in study.reason
    assert inbox.outcomes() == ["quarantined"]
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()


def test_a_truncated_data_set_is_quarantined_wherever_it_ends(inbox: Inbox) -> None:
    image = ultrasound("truncated")
    whole = encoded(image)
    meta = str(image.SOPClassUID), str(image.SOPInstanceUID), str(image.file_meta.TransferSyntaxUID)
    cuts = [1, 7, 50, 333, 700, len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        inbox.receive_bytes(whole[:cut], *meta)
    inbox.index()
    assert inbox.outcomes() == ["quarantined"] * len(cuts)


def test_a_truncated_copy_of_an_intact_image_is_set_aside_and_its_study_goes_on(inbox: Inbox) -> None:
    image = ultrasound("good")
    inbox.receive(image)
    inbox.settle()
    before = inbox.instance(image.SOPInstanceUID)
    cut = encoded(image)[:-1000]
    syntax = str(image.file_meta.TransferSyntaxUID)
    names = [
        inbox.receive_bytes(cut, image.SOPClassUID, image.SOPInstanceUID, syntax, calling="STRANGER")
        for _ in range(2)
    ]
    inbox.settle()
    assert inbox.outcomes() == ["new", "quarantined", "duplicate"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED
    after = inbox.instance(image.SOPInstanceUID)
    assert (after.path, after.pixels_sha256, after.received_at) == (
        before.path,
        before.pixels_sha256,
        before.received_at,
    )
    told = [row for row in inbox.events() if row.number == 2008]
    assert [row.fields["calling"] for row in told] == ["STRANGER"] and told[0].fields["reason"]
    kept = {path.name for path in (inbox.folder / "spool" / "quarantine").glob("*.dcm")}
    assert kept == {f"{names[0]}.dcm"}


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "AccessionNumber"])
def test_a_faulty_copy_that_says_another_identity_stops_the_study(inbox: Inbox, keyword: str) -> None:
    """It may be a correction: nothing may leave with the old name after it came."""
    image = ultrasound("good")
    inbox.receive(image)
    inbox.settle()
    inbox.receive(changed(changed(image, **{keyword: "OTHER"}), Rows=0))
    inbox.settle()
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


def test_a_faulty_object_before_the_good_one_is_no_copy(inbox: Inbox) -> None:
    image = ultrasound("good")
    inbox.receive(changed(image, Rows=0), image)
    inbox.settle()
    assert inbox.outcomes() == ["quarantined", "new"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


def test_noise_is_quarantined_and_stops_no_other_file(inbox: Inbox) -> None:
    image = ultrasound("after the noise")
    inbox.receive_bytes(bytes(range(256)) * 40, image.SOPClassUID, "1.2.3", "1.2.840.10008.1.2.1")
    inbox.receive_bytes(b"", image.SOPClassUID, "1.2.3", "1.2.840.10008.1.2.1")
    (inbox.folder / "spool" / "incoming" / "stray.dcm").write_bytes(b"no DICOM at all")
    inbox.receive(image)
    inbox.settle()
    assert sorted(inbox.outcomes()) == ["new", "quarantined", "quarantined", "quarantined"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_an_unknown_transfer_syntax_is_quarantined(inbox: Inbox) -> None:
    image = ultrasound("private")
    inbox.receive_bytes(encoded(image), image.SOPClassUID, image.SOPInstanceUID, "1.2.3.4.5.6")
    inbox.index()
    assert "transfer syntax" in inbox.study(image.StudyInstanceUID).reason


def test_a_name_that_its_character_set_does_not_decode_is_quarantined(inbox: Inbox) -> None:
    inbox.receive_bytes(*latin_name_without_character_set("plain"))
    inbox.index()
    assert inbox.outcomes() == ["quarantined"]


def test_a_peer_may_be_known_to_use_a_character_set(inbox: Inbox) -> None:
    data, sop_class, uid, syntax = latin_name_without_character_set("known")
    inbox.receive_bytes(data, sop_class, uid, syntax, calling="LATIN")
    inbox.index()
    assert inbox.outcomes() == ["new"]
    assert inbox.instance(uid).assumed_charset == "ISO_IR 100"


def latin_name_without_character_set(name: str) -> tuple[bytes, str, str, str]:
    image = ultrasound(name)
    image.PatientName = "Mueller^Joerg"
    del image.SpecificCharacterSet
    data = encoded(image).replace(b"Mueller^Joerg", b"M\xfcller^J\xf6rg  ")
    return data, image.SOPClassUID, image.SOPInstanceUID, image.file_meta.TransferSyntaxUID


def test_sixteen_colour_frames_of_odd_width_are_sound(inbox: Inbox) -> None:
    image = ultrasound("cine", size=(101, 75))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    image.NumberOfFrames = 16
    image.PixelData = (bytes(101 * 75 * 3) * 16) + b"\0" * (101 * 75 * 3 * 16 % 2)
    inbox.receive(image)
    inbox.index()
    assert inbox.outcomes() == ["new"]


@pytest.mark.data
def test_public_files_of_many_makers_are_indexed_or_quarantined_with_a_reason(
    inbox: Inbox, data: Path
) -> None:
    for path in sorted((data / "dicom" / "files").glob("*.dcm")):
        whole = path.read_bytes()
        with warnings.catch_warnings(action="ignore"):
            meta = dcmread(path, stop_before_pixels=True, force=True).file_meta
            uids = [str(meta.get(f"MediaStorageSOP{kind}UID", "")) for kind in ("Class", "Instance")]
        length = meta.get("FileMetaInformationGroupLength")
        if whole[128:132] == b"DICM" and length is not None and "TransferSyntaxUID" in meta:
            inbox.receive_bytes(whole[144 + length :], *uids, str(meta.TransferSyntaxUID))
    inbox.settle()
    assert inbox.spool.pending() == []
    with inbox.database.read() as session:
        studies = session.query(Study).all()
        assert len(studies) > 40
        assert all(study.reason for study in studies if study.state is StudyState.QUARANTINED)
        assert {study.state for study in studies} <= {
            StudyState.QUEUED,
            StudyState.NOT_APPLICABLE,
            StudyState.QUARANTINED,
        }


def test_chest_pixels_of_the_modality_lab_are_sound(inbox: Inbox) -> None:
    inbox.receive(chest("cxr", np.zeros((64, 48), np.uint16)))
    inbox.index()
    assert inbox.outcomes() == ["new"]
