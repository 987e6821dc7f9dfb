"""Faulty objects are quarantined with the reason, and stop no other."""

import warnings
import zlib
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydicom import config, dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
)

from dicom_node.base.lifecycle import (
    StudyState,
)
from dicom_node.base.store.tables import (
    Instance,
    ReceivedObject,
    Study,
)
from dicom_node.receive.spool import Arrival, encode_header
from tests.inbox_lab import Inbox, encoded
from tests.modality import ultrasound
from tests.unit.receive.objects import (
    changed,
    in_syntax,
)
from tests.unit.studies.test_judgement import IMAGE, LOSSLESS, XRAY


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"Rows": 0, "Columns": 0},
            f"object {IMAGE.SOPInstanceUID} from MODALITY, {datetime.now(UTC):%Y-%m}",
        ),
        ({"Rows": 0, "Columns": 0}, "; send it again repaired, or release the study without it"),
        ({"Rows": 0, "Columns": 0}, "0 × 0"),
        ({"PixelData": IMAGE.PixelData[:-1000]}, "bytes, its attributes say"),
        ({"PixelData": IMAGE.PixelData + bytes(10_000)}, "bytes, its attributes say"),
        ({"PixelData": None}, "no Pixel Data"),
        ({"StudyInstanceUID": ""}, "Study Instance UID"),
        ({"SeriesInstanceUID": None}, "Series Instance UID"),
    ],
    ids=[
        "says where it came from",
        "says what to do",
        "size",
        "short",
        "long",
        "no pixels",
        "study",
        "series",
    ],
)
def test_a_faulty_image_is_quarantined_with_the_reason_and_its_study_is_listed(
    inbox: Inbox, values: dict[str, Any], reason: str
) -> None:
    image = changed(IMAGE, **values)
    for keyword in [keyword for keyword, value in values.items() if value is None]:
        delattr(image, keyword)
    [name] = inbox.receive(image)
    inbox.settle()
    study = inbox.study(image.get("StudyInstanceUID") or None)
    assert study.state is StudyState.QUARANTINED
    assert reason in study.reason
    assert inbox.outcomes() == ["quarantined"]
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()


@pytest.mark.parametrize(
    ("keyword", "syntax"),
    [
        *product(
            ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID"), [ExplicitVRLittleEndian]
        ),
        *product(["PatientID"], LOSSLESS[:3]),
    ],
)
def test_a_tag_that_stands_twice_is_quarantined_under_its_first_value(
    inbox: Inbox, keyword: str, syntax: str
) -> None:
    """DCMTK and Orthanc file the object by the first, pydicom reads the last."""
    deflated = syntax == DeflatedExplicitVRLittleEndian
    image, second = in_syntax(XRAY, ExplicitVRLittleEndian if deflated else syntax), Dataset()
    setattr(second, keyword, "1.2.826.0.1.3680043.10.543.99")
    second.file_meta = image.file_meta
    data = encoded(image) + encoded(second)  # behind the Pixel Data, where only some parsers look
    if deflated:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, syntax)
    inbox.settle()
    study = inbox.study_of(image)
    assert (study.state, study.patient_id) == (StudyState.QUARANTINED, image.PatientID)
    assert f"{Tag(keyword)} is given twice".upper() in study.reason.upper()
    assert inbox.outcomes() == ["quarantined"]


def test_a_data_set_does_not_replace_what_the_listener_wrote_of_its_arrival(inbox: Inbox) -> None:
    """PS3.10 7.1: the first header counts, whatever the data set begins with."""
    image = ultrasound("forged")
    forged = encode_header(
        Arrival("listener-1", "ROOM9", "AINODE", "10.0.0.9", 0, datetime.now(UTC)),
        image.SOPClassUID,
        image.SOPInstanceUID,
        "1.2.840.10008.1.2.4.70",
    )
    inbox.receive_bytes(
        forged[132:] + encoded(image), image.SOPClassUID, image.SOPInstanceUID, "1.2.840.10008.1.2.1"
    )
    inbox.settle()
    assert inbox.column(ReceivedObject.calling_ae) == ["MODALITY"]
    [indexed] = inbox.events(2001)
    assert "(0002,0000) in front of the data set was left out" in indexed.fields["reason"]
    assert inbox.file_of(image).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_an_object_of_another_class_than_its_request_is_quarantined(inbox: Inbox) -> None:
    inbox.receive_bytes(
        encoded(IMAGE), "1.2.840.10008.5.1.4.1.1.7", IMAGE.SOPInstanceUID, ExplicitVRLittleEndian
    )
    inbox.settle()
    study = inbox.study_of(IMAGE)
    assert study.state is StudyState.QUARANTINED
    assert "SOP Class UID differs from the one in the C-STORE request" in study.reason


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "said"),
    [
        ("PatientID", "OB", b"B2B2", "PatientID (0010,0020) has the value representation OB, not LO"),
        ("PatientID", "SQ", [Dataset()], "PatientID (0010,0020) has the value representation SQ, not LO"),
        ("SOPInstanceUID", "OB", b"1.2.34", "SOP Instance UID (0008,0018) is no UID"),
        # Orthanc files these under another patient than a result that repeats what is read here.
        ("SOPInstanceUID", "UN", b"1.2.34", "SOP Instance UID (0008,0018) is no UID"),
        ("PatientID", "LO", "4711 \0", "Patient ID (0010,0020) is written in a way that others"),
        ("PatientID", "LO", "4711\t", "Patient ID (0010,0020) is written in a way that others"),
        ("PatientID", "LO", "47\x0011", "Patient ID (0010,0020) is written in a way that others"),
        ("PatientID", "UN", b"47112 ", "Patient ID (0010,0020) is written in a way that others"),
        (
            "PatientID",
            "LO",
            "4711\\4712",
            "Patient ID (0010,0020) has more than one value: others read the first",
        ),
        ("SpecificCharacterSet", "CS", "UTF_8", "Patient ID (0010,0020) is written in a way that others"),
    ],
)
def test_an_identifier_that_others_may_read_as_another_one_is_none(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, keyword: str, vr: str, value: object, said: str
) -> None:
    monkeypatch.setattr(config, "replace_un_with_known_vr", False)  # UN is sent as UN
    image = ultrasound("nö text")
    image[Tag(keyword)] = DataElement(Tag(keyword), vr, value)
    inbox.receive_bytes(encoded(image), image.SOPClassUID, "1.2.3.4", ExplicitVRLittleEndian)
    inbox.settle()
    assert said in inbox.study_of(image).reason


def test_noise_and_what_is_cut_off_are_quarantined_and_stop_no_other_file(inbox: Inbox) -> None:
    image = ultrasound("after the noise")
    whole = encoded(ultrasound("cut off"))
    cuts = [1, 7, 50, 333, 700, len(whole) // 2, len(whole) - 1]
    for data in (bytes(range(256)) * 40, b"", *(whole[:cut] for cut in cuts)):
        inbox.receive_bytes(data, image.SOPClassUID, "1.2.3", ExplicitVRLittleEndian)
    inbox.receive_bytes(whole, image.SOPClassUID, "1.2.4", "1.2.3.4.5.6")  # a transfer syntax of nobody
    (inbox.folder / "spool" / "incoming" / "stray.dcm").write_bytes(b"no DICOM at all")
    inbox.settle(image)
    assert sorted(inbox.outcomes()) == ["new", *["quarantined"] * 11]
    assert inbox.study_of(image).state is StudyState.QUEUED


def test_a_name_that_its_character_set_does_not_decode_is_quarantined_but_for_a_peer_that_is_known_to_use_it(
    inbox: Inbox,
) -> None:
    inbox.receive_bytes(*latin_name_without_character_set("plain"))
    inbox.receive_bytes(*latin_name_without_character_set("known"), calling="LATIN")
    inbox.index()
    assert inbox.outcomes() == ["quarantined", "new"]
    assert inbox.column(Instance.assumed_charset) == ["ISO_IR 100"]


def latin_name_without_character_set(name: str) -> tuple[bytes, str, str, str]:
    image = ultrasound(name)
    image.PatientName = "Mueller^Joerg"
    del image.SpecificCharacterSet
    data = encoded(image).replace(b"Mueller^Joerg", b"M\xfcller^J\xf6rg  ")
    return data, image.SOPClassUID, image.SOPInstanceUID, image.file_meta.TransferSyntaxUID


def test_sixteen_colour_frames_of_odd_width_are_sound(inbox: Inbox) -> None:
    image = changed(
        ultrasound("cine", size=(101, 75)),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        NumberOfFrames=16,
        PixelData=bytes(101 * 75 * 3 * 16),
    )
    inbox.index(image)
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
    studies = inbox.rows(Study)
    ends = {StudyState.QUEUED, StudyState.NOT_APPLICABLE, StudyState.QUARANTINED}
    assert len(studies) > 40
    assert {study.state for study in studies} <= ends
    assert all(study.reason for study in studies if study.state is StudyState.QUARANTINED)
