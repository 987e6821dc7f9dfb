"""SOP Class and Instance UID from the first bytes of a data set: right, or not at all."""

from __future__ import annotations

import random
import zlib

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from dicom_node.dicom.dataset_head import read_sop_uids
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, TransferSyntax, transfer_syntax

US, INSTANCE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.826.0.1.3680043.10.543.1"


def encoded(syntax: TransferSyntax) -> bytes:
    dataset = Dataset()
    dataset.SpecificCharacterSet = ["ISO 2022 IR 6", "ISO 2022 IR 87"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = US, INSTANCE
    dataset.PatientComments = "X" * 3000
    found = encode(dataset, syntax.is_implicit_vr, syntax.is_little_endian)
    assert found is not None
    if not syntax.is_deflated:
        return found
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(found) + deflate.flush()


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.uid)
def test_both_are_found_in_every_transfer_syntax(syntax: TransferSyntax) -> None:
    assert read_sop_uids(encoded(syntax)[:1024], syntax) == (US, INSTANCE)


def test_what_is_cut_off_is_not_guessed() -> None:
    for syntax in map(transfer_syntax, ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")):
        assert syntax is not None
        whole = encoded(syntax)
        for length in range(300):
            found = read_sop_uids(whole[:length], syntax)
            assert found[0] in ("", US)
            assert found[1] in ("", INSTANCE)


def test_a_data_set_in_another_syntax_than_negotiated_shows_nothing() -> None:
    implicit, explicit = transfer_syntax("1.2.840.10008.1.2"), transfer_syntax("1.2.840.10008.1.2.1")
    assert implicit is not None
    assert explicit is not None
    assert read_sop_uids(encoded(implicit), explicit) == ("", "")
    assert read_sop_uids(encoded(explicit), implicit) == ("", "")


def test_random_bytes_show_nothing_and_raise_nothing() -> None:
    chance = random.Random(20261124)
    for syntax in TRANSFER_SYNTAXES[:1] + tuple(one for one in TRANSFER_SYNTAXES if one.is_deflated):
        for _ in range(2000):
            assert read_sop_uids(chance.randbytes(chance.randrange(64)), syntax) == ("", "")
