"""The bytes of a program's file (gate.md A)."""

import struct
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from ai_pipeline.contract import ProgramFile
from dicom_node.base.dicom.elements import Limits
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.results.foreign.answer import check_encoding, judge_answer
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import JudgedObject, Verdict
from tests.unit.results.foreign.foreign_lab import ct_study, derived_slice, files, part10, said, verdict_on


def verdict_on_bytes(content: bytes, limits: AnswerLimits | None = None) -> JudgedObject:
    [found] = judge_answer([ProgramFile("a.dcm", content)], ct_study(), limits or AnswerLimits()).objects
    return found


def data_set_alone(dataset: Dataset) -> bytes:
    """The bytes behind the header of the file."""
    whole = part10(dataset)
    length = struct.unpack_from("<I", whole, 140)[0]
    return whole[144 + length :]


def test_an_honest_object_passes() -> None:
    found = verdict_on(derived_slice())
    assert found.verdict is Verdict.GOES, said(found)


def test_a_file_without_header_is_read_if_it_is_a_data_set_in_one_syntax() -> None:
    found = verdict_on_bytes(data_set_alone(derived_slice()))
    assert "the file had no header (PS3.10 7.1)" in found.repairs


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "not DICOM", id="empty"),
        pytest.param(b"{}" * 200, "not DICOM", id="json"),
        pytest.param(b"\0" * 128 + b"DICM", "transfer syntax", id="a header that ends at once"),
        pytest.param(part10(derived_slice())[:-3], "truncated", id="cut off"),
        pytest.param(part10(derived_slice())[:400], "truncated", id="cut off in an element"),
        pytest.param(b"\0" * 128 + b"DICM" + b"\2\0\0\0ZZ" * 9, "transfer syntax", id="no header"),
    ],
)
def test_what_is_no_whole_file_is_refused(content: bytes, reason: str) -> None:
    found = verdict_on_bytes(content)
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_a_tag_that_is_given_twice_is_refused_by_name() -> None:
    element = b"\x10\x00\x20\x00LO\x06\x00PID-9 "
    content = part10(derived_slice())
    at = content.index(b"\x10\x00\x20\x00LO")
    found = verdict_on_bytes(content[:at] + element + content[at:])
    assert "Patient ID (0010,0020) is given twice" in said(found)


def test_a_length_beyond_the_end_of_the_file_is_refused() -> None:
    content = bytearray(part10(derived_slice()))
    at = content.rindex(b"\xe0\x7f\x10\x00OW")
    struct.pack_into("<I", content, at + 8, 0x7FFFFFFF)
    assert "truncated" in said(verdict_on_bytes(bytes(content)))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param(Limits(items=3), "items", id="items"),
        pytest.param(Limits(elements=20), "attributes", id="elements"),
        pytest.param(Limits(depth=1), "sequences within", id="depth"),
    ],
)
def test_each_limit_of_the_structure_refuses(limits: Limits, reason: str) -> None:
    dataset = derived_slice()
    inner = Dataset()
    inner.PurposeOfReferenceCodeSequence = [Dataset()]
    dataset.SourceImageSequence = [inner] * 4
    found = verdict_on_bytes(part10(dataset), AnswerLimits(header=limits))
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_a_deflated_object_is_inflated_within_the_limit() -> None:
    dataset = derived_slice()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = part10(dataset)
    assert verdict_on_bytes(content).verdict is Verdict.GOES
    bomb = verdict_on_bytes(content, AnswerLimits(header=Limits(inflated_mib=0)))
    assert "inflates to more than" in said(bomb)


def test_an_object_in_implicit_vr_is_sent_in_explicit_vr() -> None:
    dataset = derived_slice()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found = verdict_on_bytes(part10(dataset))
    assert found.dataset is not None
    assert found.dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_data_set_in_another_vr_than_its_transfer_syntax_says_is_refused() -> None:
    dataset = derived_slice()
    content = part10(dataset).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1)
    assert "Explicit VR" in said(verdict_on_bytes(content))


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, "1.2.3.4"])
def test_a_transfer_syntax_that_cannot_be_sent_on_is_refused(syntax: str) -> None:
    dataset = derived_slice()
    content = part10(dataset)
    old = b"UI" + struct.pack("<H", 20) + b"1.2.840.10008.1.2.1\0"
    new = str(syntax).encode() + b"\0" * (len(str(syntax)) % 2)
    content = content.replace(old, b"UI" + struct.pack("<H", len(new)) + new, 1)
    assert verdict_on_bytes(content).verdict is Verdict.REFUSED


def test_private_attributes_are_left_out() -> None:
    dataset = derived_slice()
    block = dataset.private_block(0x0011, "MAKER", create=True)
    block.add_new(1, "LO", "secret")
    found = verdict_on(dataset)
    assert found.dataset is not None
    assert not any(tag.is_private for tag in found.dataset.keys())  # noqa: SIM118
    assert "private attributes were left out" in found.repairs


def test_a_private_class_is_refused() -> None:
    found = verdict_on(derived_slice(SOPClassUID="1.2.3.4.5"))
    assert "SOP class" in said(found)


def test_a_wrong_vr_drops_what_nobody_reads_and_refuses_what_is_judged() -> None:
    harmless = part10(derived_slice(KVP="120")).replace(b"\x18\x00\x60\x00DS", b"\x18\x00\x60\x00AT")
    assert "KVP was left out: it cannot be read by its character set and VR" in said(
        verdict_on_bytes(harmless)
    )
    content = part10(derived_slice()).replace(b"\x20\x00\x0d\x00UI", b"\x20\x00\x0d\x00SS")
    assert verdict_on_bytes(content).verdict is Verdict.REFUSED


def test_utf8_that_is_not_declared_is_read_as_utf8() -> None:
    dataset = derived_slice(SeriesDescription="Lungenödem")
    content = part10(dataset).replace(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192", b"\x08\x00\x05\x00CS\x00\x00")
    found = verdict_on_bytes(content)
    assert "text in UTF-8 was not declared as such: ISO_IR 192" in found.repairs
    assert found.dataset is not None
    assert "Lungenödem" in str(found.dataset.SeriesDescription)


def test_a_name_that_does_not_decode_is_refused() -> None:
    content = part10(derived_slice()).replace("Ōta".encode(), b"\xff\xfeta"[:4])
    found = verdict_on_bytes(content)
    assert found.reasons == ("PatientName cannot be read by its character set and VR",)


def test_padding_behind_the_data_set_is_left_out() -> None:
    content = part10(derived_slice()) + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + b"\0" * 8
    found = verdict_on_bytes(content)
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert "DataSetTrailingPadding" not in found.dataset


def test_a_file_of_a_compressed_image_keeps_its_pixels() -> None:
    from pydicom.encaps import encapsulate

    stream = b"\xff\x4f\xff\x51" + b"\0" * 60
    dataset = derived_slice(PixelData=encapsulate([stream]))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    found = verdict_on_bytes(part10(dataset))
    assert found.dataset is None or found.dataset.file_meta.TransferSyntaxUID == JPEG2000Lossless


def test_an_answer_of_too_many_objects_is_refused_unread() -> None:
    answer = judge_answer(files(derived_slice(1), derived_slice(2)), ct_study(), AnswerLimits(objects=1))
    assert answer.reasons == ("the answer has more than 1 objects",)
    assert {one.verdict for one in answer.objects} == {Verdict.REFUSED}


def test_an_answer_of_too_many_bytes_is_refused_unread() -> None:
    limits = replace(AnswerLimits(), mebibytes=0)
    assert "MiB" in judge_answer(files(derived_slice()), ct_study(), limits).reasons[0]


@pytest.mark.parametrize(
    ("is_signed", "padding", "vr"),
    [pytest.param(1, -2000, "SS", id="signed"), pytest.param(0, 63536, "US", id="unsigned")],
)
def test_a_padding_value_in_implicit_vr_is_signed_as_the_pixels_are(
    is_signed: int, padding: int, vr: str
) -> None:
    wrote = derived_slice(PixelRepresentation=is_signed)
    wrote.add_new("PixelPaddingValue", vr, padding)
    wrote.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert (found.dataset["PixelPaddingValue"].VR, found.dataset.PixelPaddingValue) == (vr, padding)


def test_pixels_of_16_bits_in_implicit_vr_are_words() -> None:
    wrote = derived_slice()
    wrote.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert found.dataset["PixelData"].VR == "OW"


def test_a_number_that_its_vr_cannot_hold_is_refused_with_a_reason() -> None:
    """Writing such a number must not end the job."""
    wrote = derived_slice()
    with quiet_pydicom():
        wrote.add_new("PixelPaddingValue", "US", -2000)
    candidate = Candidate("a.dcm", wrote, ForeignKind.IMAGE, ct_study(), AnswerLimits())
    candidate.apply(check_encoding)
    assert [remark.text for remark in candidate.remarks] == ["one of its values cannot be encoded"]
