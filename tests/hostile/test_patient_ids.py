"""Patient IDs as a real Orthanc reads them: what this node takes, it reads alike, whatever the bytes."""

import hashlib
import json
import random
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.charset import python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_node.receive.inspection import inspect
from tests.modality import data_set, part_10
from tests.wire.orthanc_lab import needs_orthanc, start_orthanc

HEADERS = 2_500
# Where alphabets begin.
LETTERS = (0x21, 0xA0, 0x3B1, 0x430, 0x5D0, 0x620, 0xE01, 0x30A1, 0x4E00, 0xAC00, 0xE000, 0x1F600)
MISSPELT = (
    "iso_ir 100", "iso_ir 13", " ", "ISO_IR_100", "ISO_IR_13", "ISO IR 100", "ISO-IR 144", "UTF_8", "LATIN1",
)  # fmt: skip
SETS = (
    *python_encoding,
    *[name for name in python_encoding if name.startswith(("ISO_IR", "GB"))] * 3,
    *MISSPELT,
    *("ISO 2022 IR 100\\ISO 2022 IR 144", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149", "\\ISO 2022 IR 13"),
    *("ISO 2022 IR 13\\ISO 2022 IR 87", "\\ISO 2022 IR 58", "ISO_IR 100\\ISO_IR 192", "\\ISO_IR 166"),
)
ODD = (
    b"\0", b"\t", b"\r\n", b"\x1b(B", b"\x1b$B", b"\x1b-A", b"\x7f", b"\x85", b"\xa0", b"\xff", b"~", b"\\",
    b"^", b"=", b" ", b"\xc2\xa0", b"\xe2\x80\x8b", b"\xef\xbb\xbf",
)  # fmt: skip
ENDS = (*[b""] * 6, b" ", b"  ", b"\0", b"\0\0", b" \0", b"\0 ", b"\t")
VRS = (
    *["LO"] * 20,
    "SH", "ST", "LT", "UT", "UN", "CS", "AE", "PN", "UC", "DS", "IS", "UI", "DA", "OB", "SQ",
)  # fmt: skip


def patient_id(chance: random.Random, charset: str) -> bytes:
    """An ID in letters of the set or in any bytes, with what nobody should write in it or at its ends."""
    letters = [chr(chance.choice(LETTERS) + chance.randrange(96)) for _ in range(chance.randrange(9))]
    codec = python_encoding.get(charset.rpartition("\\")[2], "latin_1")
    written = "".join(letters).encode("ascii" if codec.startswith("iso2022") else codec, "ignore")
    parts = [written, b"4711", *chance.choices((written, b"A", chance.randbytes(3), chance.choice(ODD)))]
    chance.shuffle(parts)
    return b"".join(parts[: chance.randrange(1, 4)]) + chance.choice(ENDS)


def headers() -> Iterator[tuple[Dataset, str]]:
    """Objects, and the set that is assumed of their sender."""
    chance = random.Random(79)
    for count in range(1, HEADERS + 1):
        syntax = chance.choice((ImplicitVRLittleEndian, ExplicitVRLittleEndian))
        uids = dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), f"1.2.3.{count}")
        header = data_set(SOPClassUID=SecondaryCaptureImageStorage, **uids)
        charset = chance.choice(SETS)
        for keyword, vr, value in (
            ("SpecificCharacterSet", "CS", charset.encode()),
            ("PatientID", chance.choice(VRS), patient_id(chance, charset)),
        ):
            tag, even = Tag(keyword), value + b" " * (len(value) % 2)
            header[tag] = RawDataElement(tag, vr, len(even), even, 0, syntax.is_implicit_VR, True)
        header.set_original_encoding(syntax.is_implicit_VR, True, header._character_set)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        yield header, chance.choice(("", "", "", "ISO_IR 144", "ISO_IR 13"))


def orthanc_id(patient: str) -> str:
    """Orthanc's identifier of the patient with this ID."""
    digest = hashlib.sha1(patient.encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[begin : begin + 8] for begin in range(0, 40, 8))


@needs_orthanc
@pytest.mark.filterwarnings("ignore")
def test_a_patient_id_that_is_taken_is_the_one_that_orthanc_reads(tmp_path: Path) -> None:
    taken: dict[str, str] = {}
    sent = BytesIO()
    with zipfile.ZipFile(sent, "w") as archive:
        for header, assumed in headers():
            path = tmp_path / "one.dcm"
            path.write_bytes(part_10(header))
            found = inspect(path, assumed)
            if not found.fault:
                taken[found.sop_instance_uid] = orthanc_id(found.identity.get("PatientID", ""))
                archive.write(path, found.sop_instance_uid)
    assert len(taken) > HEADERS / 4
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        answers = json.loads(orthanc.call("POST", "/instances", sent.getvalue()))
        filed = {one["ID"]: one["ParentPatient"] for one in answers}
        rows = orthanc.get("/instances?expand")
    read = {row["MainDicomTags"]["SOPInstanceUID"]: filed[row["ID"]] for row in rows}
    assert read == taken
