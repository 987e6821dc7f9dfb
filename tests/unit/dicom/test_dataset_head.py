"""UIDs from the first bytes of a data set: right, or not at all."""

from __future__ import annotations

import random
import zlib

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from dicom_node.dicom.dataset_head import read_sop_uids, read_study_uids
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, TransferSyntax, transfer_syntax

US, INSTANCE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.826.0.1.3680043.10.543.1"


def encoded(syntax: TransferSyntax, dataset: Dataset | None = None) -> bytes:
    dataset = Dataset() if dataset is None else dataset
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


def nested(depth: int, *, undefined: bool) -> Dataset:
    """A data set with sequences in sequences, which have UIDs of studies too."""
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.4"
    if depth:
        dataset.ReferencedStudySequence = [Dataset(), nested(depth - 1, undefined=undefined)]
        dataset["ReferencedStudySequence"].is_undefined_length = undefined
        for item in dataset.ReferencedStudySequence:
            item.is_undefined_length_sequence_item = undefined
            item.StudyInstanceUID = "9.9.9"
    return dataset


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.uid)
def test_the_study_is_found_behind_sequences_and_never_in_one(
    syntax: TransferSyntax, undefined: bool
) -> None:
    whole = encoded(syntax, nested(5, undefined=undefined))
    assert read_study_uids(whole, syntax, 2**20) == ("1.2.3", "1.2.4")
    if not syntax.is_deflated:
        for length in range(len(whole)):
            assert set(read_study_uids(whole[:length], syntax, 2**20)) <= {"", "1.2.3", "1.2.4"}


def test_hostile_nesting_shows_nothing() -> None:
    explicit = transfer_syntax("1.2.840.10008.1.2.1")
    assert explicit is not None
    opened = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    study = b"\x20\x00\x0d\x00UI\x06\x00" + b"9.9.9\0" + b"\x20\x00\x0e\x00UI\x02\x00" + b"1\0"
    closed = b"\xfe\xff\xdd\xe0\0\0\0\0"
    unknown = b"\x08\x00\x10\x11UN\0\0\xff\xff\xff\xff"
    assert read_study_uids(opened * 50_000 + study, explicit, 2**20) == ("", "")
    assert read_study_uids(closed + study, explicit, 2**20) == ("", "")
    assert read_study_uids(unknown + study, explicit, 2**20) == ("", "")
