"""The UIDs of an object, which all that open it read alike: nobody files it where nobody looked."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.dicom.dataset_head import read_sop_uids, read_study_uids
from dicom_node.dicom.transfer_syntaxes import transfer_syntax
from dicom_node.inbox.inspection import inspect

_HEAD = bytes(128) + b"DICM" + struct.pack("<HH2sH20s", 2, 0x10, b"UI", 20, ExplicitVRLittleEndian.encode())


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


@pytest.mark.parametrize(
    ("vr", "value", "uid"),
    [
        (b"UI", b"1.2.34", "1.2.34"),
        (b"UI", b"1.2.3\0", "1.2.3"),
        (b"LO", b"1.2.3 ", "1.2.3"),
        (b"UI", b" 1.2.3", ""),
        (b"UI", b"\x001.2.3", ""),
        (b"UI", b"1.2.3\n", ""),
        (b"AE", b"  1.2.3 ", ""),
        (b"LO", b"1.2\x1b(B.3", ""),
        (b"PN", b"1.2.3==", ""),
        (b"FD", struct.pack("<d", 1.2), ""),
    ],
    ids=repr,
)
def test_the_heads_of_uploads_and_the_inspection_read_the_same_uids(
    tmp_path: Path, vr: bytes, value: bytes, uid: str
) -> None:
    charset = _element(0x00080005, b"CS", b"\\ISO 2022 IR 6 ")
    instance, study = _element(0x00080018, vr, value), _element(0x0020000D, vr, value)
    data, path = charset + instance + study, tmp_path / "object.dcm"
    path.write_bytes(_HEAD + data)
    found, syntax = inspect(path), transfer_syntax(ExplicitVRLittleEndian)
    assert syntax is not None
    assert (found.sop_instance_uid, found.study_instance_uid) == (uid, uid)
    assert (read_sop_uids(data, syntax)[1], read_study_uids(data, syntax, 0)[0]) == (uid, uid)
