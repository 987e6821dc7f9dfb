"""Headers with faults, and what results copy of them."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.tag import BaseTag, Tag

from ai_pipeline.contract import PipelineResult
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.identity import COPIED, IDENTIFYING
from dicom_node.base.errors import DecodedDifferently, FaultyObject, ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.receive.inspection import inspect
from dicom_node.results.build import build
from dicom_node.results.source import _IMAGE_KEYWORDS, read_sources, repairs_of
from tests.result_images import (
    CR,
    DX,
    NODULE,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    without_text,
    write_image,
)
from tests.result_reading import read_result
from tests.unit.results.report_lab import CTX, made_from

# What says which object it is, or what its pixels are: a fault of these is one of the image.
OF_OBJECT = {
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SpecificCharacterSet",
    "Modality", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "Rows", "Columns", "NumberOfFrames", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "VOILUTSequence",
}  # fmt: skip


LONG = {b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}


UNDECODABLE = "Nürnberg".encode("latin-1")


CODE = {
    "CodeValue": (b"SH", b"43468-8"),
    "CodingSchemeDesignator": (b"SH", b"LN"),
    "CodeMeaning": (b"LO", b"X"),
}


def element(word: str, vr: bytes, value: bytes) -> bytes:
    """The attribute in Explicit VR Little Endian."""
    tag = Tag(word)
    value += (b"\0" if vr in (b"OB", b"UI", b"UN") else b" ") * (len(value) % 2)
    length = b"\0\0" + struct.pack("<L", len(value)) if vr in LONG else struct.pack("<H", len(value))
    return struct.pack("<HH", tag.group, tag.element) + vr + length + value


def encoded_item(parts: dict[str, tuple[bytes, bytes]]) -> bytes:
    content = b"".join(element(word, *parts[word]) for word in sorted(parts, key=Tag))
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def codes() -> dict[str, bytes]:
    """Values of a sequence, faulty in some way for every sequence that results copy."""
    deep = encoded_item({})
    for _ in range(10):
        deep = encoded_item({"ConceptCodeSequence": (b"SQ", deep)})
    urn = {"URNCodeValue": (b"UR", b"urn:oid:1.2.3"), "CodeMeaning": (b"LO", b"X")}
    changed = {
        "no meaning": {word: CODE[word] for word in CODE if word != "CodeMeaning"},
        "empty meaning": CODE | {"CodeMeaning": (b"LO", b"")},
        "long meaning": CODE | {"CodeMeaning": (b"LO", b"M" * 80)},
        "two meanings": CODE | {"CodeMeaning": (b"LO", b"A\\B")},
        "undecodable meaning": CODE | {"CodeMeaning": (b"LO", UNDECODABLE)},
        "meaning is a sequence": CODE | {"CodeMeaning": (b"SQ", encoded_item({}))},
        "no scheme": {word: CODE[word] for word in CODE if word != "CodingSchemeDesignator"},
        "long value": CODE | {"CodeValue": (b"LO", b"1" * 80)},
        "two values": CODE | {"LongCodeValue": (b"UC", b"12345678901234567890")},
        "short long value": {"LongCodeValue": (b"UC", b"1")} | CODE,
        "urn": urn,
        "no urn": urn | {"URNCodeValue": (b"UR", b"not one")},
    }
    return {name: encoded_item(parts) for name, parts in changed.items()} | {
        "empty": b"",
        "empty item": encoded_item({}),
        "many": encoded_item(CODE) * 40,
        "nested": deep,
    }


def texts() -> dict[str, tuple[bytes, bytes]]:
    """Value representation ("" for that of the attribute) and bytes, faulty for some attribute."""
    values = {
        "empty": b"", "blank": b"  ", "long": b"L" * 9000, "65": b"L" * 65, "digits": b"9" * 18,
        "undecodable": UNDECODABLE, "escape": b"\x1b$B;3ED\x1b(B", "many": b"\\".join([b"1"] * 300),
        "control": b"A\x07\nB", "NUL": b"A\0B", "slashes": b"\\", "zero": b"0\\0", "1e999": b"1e999",
    }  # fmt: skip
    others = {
        "SQ": encoded_item(CODE), "US": b"\1\0", "FD": struct.pack("<d", 2.5), "OB": b"\xff\0",
        "UN": b"a\xff", "UT": b"T" * 70000,
        "DS": b"1.5\\2", "CS": b"YES", "PN": b"A^B=C=D", "AT": b"\1\0\2\0",
    }  # fmt: skip
    return {name: (b"", value) for name, value in values.items()} | {
        f"as {vr}": (vr.encode(), value) for vr, value in others.items()
    }


def written(folder: Path, attributes: dict[str, bytes]) -> Path:
    """A film with these encoded attributes in place of its own."""
    path = write_image(folder / "film.dcm", CR, grey_image(32, 32), SpecificCharacterSet="ISO_IR 6")
    film = path.read_bytes()
    start = 144 + struct.unpack_from("<L", film, 140)[0]
    given = dict(elements(film[start:])) | {Tag(word): raw for word, raw in attributes.items()}
    path.write_bytes(film[:start] + b"".join(given[tag] for tag in sorted(given)))
    return path


def elements(data: bytes) -> Iterator[tuple[BaseTag, bytes]]:
    place = 0
    while place < len(data):
        group, number = struct.unpack_from("<HH", data, place)
        long = data[place + 4 : place + 6] in LONG
        end = place + (12 + struct.unpack_from("<L", data, place + 8)[0] if long else 8)
        end += 0 if long else struct.unpack_from("<H", data, place + 6)[0]
        yield Tag(group, number), data[place:end]
        place = end


def built(path: Path) -> list[Dataset]:
    """Report, presentation state and picture: a page and its document have of the source what this has."""
    assert inspect(path).fault == ""
    with quiet_pydicom():
        image = source(path)
    return [read_result(one) for one in build(CTX, [image], PipelineResult())]


def copied(*, sequences: bool) -> list[str]:
    words = {*COPIED, *_IMAGE_KEYWORDS} - OF_OBJECT - IDENTIFYING
    return sorted(word for word in words if (dictionary_VR(word) == "SQ") is sequences)


@pytest.mark.parametrize("fault", codes())
def test_every_sequence_that_results_copy_may_be_faulty(tmp_path: Path, fault: str) -> None:
    raw = {word: element(word, b"SQ", codes()[fault]) for word in copied(sequences=True)}
    assert built(written(tmp_path, raw))


@pytest.mark.parametrize("fault", texts())
def test_every_attribute_that_results_copy_may_be_faulty(tmp_path: Path, fault: str) -> None:
    vr, value = texts()[fault]
    own = {word: dictionary_VR(word).split(" or ")[0].encode() for word in copied(sequences=False)}
    raw = {word: element(word, vr or own[word], value) for word in own}
    assert built(written(tmp_path, raw))


def test_text_in_place_of_sequences_is_left_out(tmp_path: Path) -> None:
    words = copied(sequences=True)
    path = written(tmp_path, {word: element(word, b"LO", b"CHEST") for word in words})
    assert built(path)
    (repairs,) = repairs_of([source(path)]).values()
    assert {*words} - {*repairs.left_out} == set()


@pytest.mark.parametrize("word", ["InstitutionName", "StationName", "Manufacturer", "StudyDescription"])
def test_text_that_names_nobody_is_left_out_where_it_cannot_be_decoded(tmp_path: Path, word: str) -> None:
    vr = dictionary_VR(word).encode()
    path = written(tmp_path, {word: element(word, vr, UNDECODABLE)})
    for one in built(path):
        assert "rnberg" not in str(one)
        assert one.PatientName == "Test^CR"
    assert repairs_of([source(path)])[str(source(path).image.uid)].left_out == {word}


@pytest.mark.parametrize("word", ["PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName"])
def test_identity_that_cannot_be_read_is_refused(tmp_path: Path, word: str) -> None:
    vr = dictionary_VR(word).encode()
    for raw in (element(word, vr, UNDECODABLE), element(word, b"SQ", encoded_item(CODE))):
        path = written(tmp_path, {word: raw})
        assert word in inspect(path).fault
        with pytest.raises((DecodedDifferently, FaultyObject)):
            read_sources([source(path)])


def test_an_assumed_character_set_is_used_before_text_is_left_out(tmp_path: Path) -> None:
    raw = element("StudyDescription", b"LO", UNDECODABLE)
    path = written(tmp_path, {"StudyDescription": raw})
    found = inspect(path, "ISO_IR 100")
    assert (found.assumed_charset, found.identity["StudyDescription"]) == ("ISO_IR 100", "Nürnberg")
    (read,) = read_sources([source(path, assume_charset=found.assumed_charset)])
    assert read.header.StudyDescription == "Nürnberg"


def test_identity_that_is_too_long_stands_in_results_to_the_letter(tmp_path: Path) -> None:
    accession = b"2026-11-27-RADIOLOGY-4711"
    raw = {"AccessionNumber": element("AccessionNumber", b"SH", accession)}
    path = written(tmp_path, raw)
    with quiet_pydicom():
        assert {str(one.AccessionNumber) for one in built(path)} == {accession.decode()}
    assert set(repairs_of([source(path)])[source(path).image.uid].kept) == {"AccessionNumber"}


DRAWN = {"cr": (DX, 0), "us": (US, 0), "cine": (US_MULTI_FRAME, 3)}


def write_with_overlays(path: Path, sop_class: str, frames: int) -> Path:
    write_image(path, sop_class, grey_image() if sop_class == DX else speckle(frames=frames))
    dataset = pydicom.dcmread(path)
    for group in (0x6000, 0x6002, 0x50FE, 0x60FE):
        drawn = np.ones((dataset.Rows, dataset.Columns), np.uint8)
        dataset.add_new((group, 0x0010), "US", dataset.Rows)
        dataset.add_new((group, 0x0011), "US", dataset.Columns)
        dataset.add_new((group, 0x0022), "LO", "Secret^Name")
        dataset.add_new((group, 0x3000), "OW", pack_bits(drawn.ravel()))
    dataset.save_as(path)
    return path


def groups(dataset: Dataset) -> set[int]:
    """Groups of the attributes, but for Overlay Activation (60xx,1001): it names a layer and has no pixel."""
    found = {element.tag.group for element in dataset if element.tag.element != 0x1001}
    for element in dataset:
        if element.VR == "SQ":
            found |= {group for item in element.value for group in groups(item)}
    return found


@pytest.mark.parametrize("kind", DRAWN)
def test_no_result_carries_a_group_of_overlays_or_curves(tmp_path: Path, kind: str) -> None:
    sop_class, frames = DRAWN[kind]
    given = source(write_with_overlays(tmp_path / f"{kind}.dcm", sop_class, frames))
    assert groups(pydicom.dcmread(given.path)) >= {0x6000, 0x6002, 0x50FE, 0x60FE}
    images = without_text(given, np.s_[:, 10:20, 10:60])
    found = finding(NODULE, 0.5, given.image.uid, (9, 9, 40, 40), frame=1 if frames else None)
    built = build(context(), [given], PipelineResult(findings=(found,), images=images))

    wanted = {ResultKind.SR, ResultKind.GSPS, ResultKind.SC, ResultKind.CLEANED, ResultKind.SEG}
    assert wanted <= {each.kind for each in built}
    for each in built:
        assert not any(group & 0xFF00 in {0x5000, 0x6000} for group in groups(read_result(each))), each.kind


def test_the_patient_of_a_report_is_one_whichever_image_says_it(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "ONE"}
    bare = source(write_image(tmp_path / "a.dcm", CR, grey_image(), PatientName="", PatientSex="", **study))
    full = source(write_image(tmp_path / "b.dcm", CR, grey_image(), **study))
    made = map(read_result, made_from(context(), bare, full))
    assert {(str(one.PatientName), one.PatientSex) for one in made} == {("Test^CR", "F")}
    other = source(write_image(tmp_path / "c.dcm", CR, grey_image(), PatientName="Other^One", **study))
    with pytest.raises(ResultRefused, match="more than one patient"):
        made_from(context(), bare, full, other)
