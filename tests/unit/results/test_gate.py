"""The gate before results are written, and the identity that they copy."""

import difflib
import io
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.tag import BaseTag, Tag

from ai_pipeline.contract import DerivedImage, Finding, ImageKind, Origin, PipelineResult, Region
from dicom_node.base.dicom.header import items, quiet_pydicom
from dicom_node.base.dicom.identity import COPIED, IDENTIFYING, REQUIRED_MAYBE_EMPTY
from dicom_node.base.dicom.uids import Installation, is_own_result
from dicom_node.base.errors import DecodedDifferently, FaultyObject, ResultRefused
from dicom_node.base.lifecycle import DEIDENTIFIED_KINDS, ReaderVerdict, RejectionReason, ResultKind
from dicom_node.receive.inspection import inspect
from dicom_node.results import gate, standard
from dicom_node.results.assessment import FindingAssessment, build_assessment
from dicom_node.results.build import build
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import profile_violations
from dicom_node.results.deidentified.identity import KnownIdentity
from dicom_node.results.deidentified.pseudonyms import Pseudonyms, pseudonymised
from dicom_node.results.rejection import build_rejection
from dicom_node.results.source import _IMAGE_KEYWORDS, Source, SourceObject, read_sources, repairs_of
from dicom_node.results.uids import BUILDER_VERSION
from tests import golden_lab
from tests.deidentified_lab import BIRTH_DATE, HERE, SECRET, UID_ROOT, deidentified, write_named
from tests.modality import data_set
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    DX,
    INSTALLATION,
    NODULE,
    UNCALIBRATED,
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
from tests.result_reading import meaning_of, named, read_result


def _scoord(ds: Dataset) -> Dataset:
    return next(item for item in items(ds) if item.get("ValueType") == "SCOORD")


def _referenced(ds: Dataset) -> Dataset:
    """What the first region is drawn on."""
    return _scoord(ds).ContentSequence[0].ReferencedSOPSequence[0]


Break = Callable[[Dataset], object]


def _set(keyword: str, value: object) -> Break:
    return lambda ds: setattr(ds, keyword, value)


def _without(keyword: str) -> Break:
    return lambda ds: delattr(ds, keyword)


BREAKS: dict[str, Break] = {
    "PatientID is not that of the source": _set("PatientID", "another"),
    "PatientName is not that of the source": _set("PatientName", "Else^Someone"),
    "SeriesInstanceUID is one of the source": lambda ds: setattr(
        ds,
        "SeriesInstanceUID",
        ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID,
    ),
    "SeriesInstanceUID is no UID": _set("SeriesInstanceUID", "1.02.3"),
    "must be UNVERIFIED": _set("VerificationFlag", "VERIFIED"),
    "does not name this product": lambda ds: ds.ContributingEquipmentSequence.clear(),
    "PatientIdentityRemoved": _set("PatientIdentityRemoved", "YES"),
    "CurrentRequestedProcedureEvidenceSequence": _without("CurrentRequestedProcedureEvidenceSequence"),
    "does not say AI": _set("SeriesDescription", "Result"),
    "reaches out of its image": lambda ds: setattr(
        _scoord(ds), "GraphicData", [0, 0, 9000, 0, 9000, 9000, 0, 0]
    ),
    "not closed": lambda ds: setattr(_scoord(ds), "GraphicData", list(_scoord(ds).GraphicData)[:-2]),
    "a polyline is not closed": lambda ds: setattr(
        _scoord(ds), "GraphicData", list(_scoord(ds).GraphicData)[:-1]
    ),
    "no source of this job": lambda ds: setattr(_referenced(ds), "ReferencedSOPInstanceUID", "1.2.3"),
}


@dataclass(frozen=True)
class Made:
    """One result of one film: its bytes, and what it was made for."""

    data: bytes
    kind: ResultKind
    context: ResultContext
    sources: Sequence[Source]

    def read(self) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.data))

    def release(self, changed: Dataset | None = None) -> None:
        """Send the result through the gate, as it was built or ``changed`` before it was encoded."""
        buffer, built = io.BytesIO(self.data), changed or self.read()
        if changed is not None:
            buffer = io.BytesIO()
            with quiet_pydicom():
                changed.save_as(buffer)
        gate.check(buffer.getvalue(), built, self.context, self.kind, self.sources)


def make(one: SourceObject, kind: ResultKind, *findings: Finding) -> Made:
    asked = context(kinds=[kind])
    data = build(asked, [one], PipelineResult(findings=findings))[0].data
    return Made(data, kind, asked, read_sources([one]))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    return source(write_image(tmp_path_factory.mktemp("gate") / "cr.dcm", CR, grey_image()))


@pytest.fixture(scope="module")
def made(film: SourceObject) -> Made:
    return make(film, ResultKind.SR, finding(CARDIOMEGALY, 0.83, film.image.uid, (50, 60, 150, 170)))


@pytest.fixture(scope="module")
def picture(film: SourceObject) -> Made:
    return make(film, ResultKind.SC, finding(CARDIOMEGALY, 0.83, film.image.uid, (50, 60, 150, 170)))


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of the last of three frames."""
    one = source(write_image(tmp_path_factory.mktemp("gate") / "us.dcm", US_MULTI_FRAME, speckle(frames=3)))
    return make(one, ResultKind.SR, finding(NODULE, 0.5, one.image.uid, (1, 1, 160, 120), frame=3))


def test_what_is_faultless_leaves_with_the_lowest_series_number_of_ours_too(
    made: Made, picture: Made, cine: Made
) -> None:
    for one in (made, picture, cine):
        one.release()
    lowest = picture.read()
    lowest.SeriesNumber = 9000
    picture.release(lowest)


FAULTS: list[tuple[str, str, Break]] = [
    *(("made", said, fault) for said, fault in BREAKS.items()),
    *(  # half a pixel
        (
            "made",
            "reaches out of its image",
            lambda ds, point=point: setattr(
                _scoord(ds), "GraphicData", [9.0, 9.0, 20.0, 9.0, *point, 9.0, 9.0]
            ),
        )
        for point in ((-0.5, 9.0), (9.0, -0.5), (224.5, 9.0), (9.0, 256.5))
    ),
    *(
        (
            "cine",
            "names a frame that the source has not",
            lambda ds, number=number: setattr(_referenced(ds), "ReferencedFrameNumber", number),
        )
        for number in (0, 4)
    ),
    ("picture", "ImageType is not DERIVED", _set("ImageType", ["ORIGINAL", "PRIMARY"])),
    ("picture", "BurnedInAnnotation is NO on cleaned images", _set("BurnedInAnnotation", "NO")),
    ("picture", "SourceImageSequence is missing", _without("SourceImageSequence")),
    ("picture", "PixelData has not the length", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
    ("picture", "PixelData has not the length", lambda ds: setattr(ds, "PixelData", ds.PixelData + bytes(2))),
    ("picture", "SeriesNumber is below 9000", _set("SeriesNumber", 8999)),
]


@pytest.mark.parametrize(("which", "said", "fault"), FAULTS)
def test_a_result_with_this_fault_does_not_leave(
    request: pytest.FixtureRequest, which: str, said: str, fault: Break
) -> None:
    one: Made = request.getfixturevalue(which)
    changed = one.read()
    with quiet_pydicom():
        fault(changed)
    with pytest.raises(ResultRefused, match=said) as refused:
        one.release(changed)
    assert not re.search("Else|Test", str(refused.value)), "it names nobody"


@pytest.mark.parametrize("built", [230.73450088500977, 16777216.5, 1 / 3, 0.0, -1e-7])
def test_a_coordinate_is_the_same_in_single_precision(built: float) -> None:
    assert gate._equal(float(np.float32(built)), built)
    assert not gate._equal(built + 1.0 + abs(built) / 1e4, built)


def test_an_odd_number_of_bytes_is_padded() -> None:
    single = data_set(Rows=1, Columns=1, SamplesPerPixel=1, BitsAllocated=8)
    assert [bool(list(gate._pixels(single, length))) for length in (None, 1, 2)] == [True, True, False]


def test_bytes_behind_the_pixels_do_not_leave(picture: Made) -> None:
    with pytest.raises(ResultRefused, match="PixelData has not the length"):
        gate.check(picture.data + bytes(2), picture.read(), picture.context, ResultKind.SC, picture.sources)


def _cleaned(uid: str, pixels: npt.NDArray[np.uint16], *, verified: bool = True) -> PipelineResult:
    return PipelineResult(
        images=(DerivedImage(ImageKind.CLEANED, uid, pixels, "MONOCHROME2", "x", verified=verified),)
    )


FAR = Region("box", ((5000.0, 10.0), (6000.0, 20.0)), Origin.DETECTOR)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda uid: _cleaned(uid, grey_image(), verified=False), "not verified"),
        (lambda uid: _cleaned(uid, np.ascontiguousarray(grey_image()[1:])), "its source"),
        (lambda uid: PipelineResult(findings=(finding(NODULE, 0.5, uid, regions=(FAR,)),)), "outside"),
        (lambda _: PipelineResult(findings=(finding(NODULE, 0.5, "1.2.3", (1, 1, 9, 9)),)), "."),
        (lambda uid: PipelineResult(findings=(finding(NODULE, 0.5, uid, (1, 1, 9, 9), frame=4),)), "."),
    ],
)
def test_a_result_with_this_fault_is_not_built(
    film: SourceObject, wrong: Callable[[str], PipelineResult], said: str
) -> None:
    with pytest.raises(ResultRefused, match=said):
        build(context(), [film], wrong(film.image.uid))


BREAKS_DEIDENTIFIED: dict[str, tuple[Break, str]] = {
    "a name in a comment": (_set("ImageComments", "seen by Dr. ZQXMustermann"), "ImageComments holds"),
    "a name whose parts are too short to be looked for alone": (
        _set("ImageComments", "seen by Wu^Li"),
        "ImageComments holds",
    ),
    "an institution in an item": (
        lambda ds: setattr(ds.ContributingEquipmentSequence[0], "InstitutionName", f"{SECRET}Clinic"),
        "InstitutionName holds",
    ),
    "the Patient ID in our own words": (
        _set("SeriesDescription", f"AI cleaned image {SECRET}PID1"),
        "SeriesDescription holds",
    ),
    "a private attribute": (
        lambda ds: ds.private_block(0x0011, "ANY", create=True).add_new(1, "LO", "harmless"),
        "has to be removed",
    ),
    "the birth date": (_set("ContentDate", BIRTH_DATE), "ContentDate is a date of the source"),
    "the birth date as text": (
        _set("SeriesDescription", "AI cleaned image, born 1941-03-09"),
        "SeriesDescription holds",
    ),
    "a UID of the source": (
        _set("FrameOfReferenceUID", f"{UID_ROOT}.3.1"),
        "FrameOfReferenceUID is a UID of the source",
    ),
    "a value in binary data": (
        lambda ds: ds.add_new("ICCProfile", "OB", f"{SECRET}HOSPITAL".upper().encode()),
        "its bytes hold",
    ),
    "no word of what was done": (_without("PatientIdentityRemoved"), "PatientIdentityRemoved is not YES"),
    "no code of what was done": (_without("DeidentificationMethodCodeSequence"), "code of the basic"),
    "the name itself": (_set("PatientName", f"{SECRET}Mustermann^{SECRET}Erika"), "PatientName"),
    "an attribute that has to go": (
        lambda ds: setattr(ds.ContributingEquipmentSequence[0], "ContributionDateTime", "20260107101500"),
        "ContributionDateTime has to be removed",
    ),
}


@pytest.fixture(scope="module")
def at_the_gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Callable[[bytes, Dataset], None]]:
    """A de-identified image that passes, and the gate for such as it."""
    name = f"{SECRET}Mustermann^{SECRET}Erika=Li^Wu"
    image = source(write_named(tmp_path_factory.mktemp("gate") / "us.dcm", PatientName=name))
    [given] = read_sources([image])
    disguised, identity = [pseudonymised(given, Pseudonyms(HERE))], KnownIdentity.from_sources([given])
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound", station_name="")
    data = deidentified(image.path, ctx=ctx).objects[0].data

    def release(data: bytes, ds: Dataset) -> None:
        kind, header = ResultKind.CLEANED, disguised[0].header
        gate.check(
            data,
            ds,
            ctx,
            kind,
            disguised,
            partial(profile_violations, ctx, kind, header, identity, frozenset()),
        )

    release(data, pydicom.dcmread(io.BytesIO(data)))
    return data, release


@pytest.mark.parametrize("fault", BREAKS_DEIDENTIFIED)
def test_an_object_with_this_fault_does_not_leave(
    at_the_gate: tuple[bytes, Callable[[bytes, Dataset], None]], fault: str
) -> None:
    data, release = at_the_gate
    ds = pydicom.dcmread(io.BytesIO(data))
    break_it, said = BREAKS_DEIDENTIFIED[fault]
    with quiet_pydicom():
        break_it(ds)
        buffer = io.BytesIO()
        ds.save_as(buffer)
    with pytest.raises(ResultRefused, match=said) as caught:
        release(buffer.getvalue(), ds)
    assert SECRET not in str(caught.value)
    assert BIRTH_DATE not in str(caught.value)


def test_common_words_of_a_header_hold_nothing_up(tmp_path: Path) -> None:
    """A department called "Ultrasound", a station or a patient called like the scanner are no leaks."""
    path = write_image(
        tmp_path / "us.dcm",
        US,
        speckle(),
        InstitutionalDepartmentName="Ultrasound",
        StationName="SCANNER",
        StudyID="1",
        PatientID="12",
        PatientName="Scanner^No",
        PatientBirthDate="19000101",
        DeviceSerialNumber="1",
    )
    made = deidentified(path)
    assert (made.withheld, len(made.objects)) == ((), 3)


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


def element(tag: BaseTag, vr: bytes, value: bytes) -> bytes:
    """The attribute in Explicit VR Little Endian."""
    value += (b"\0" if vr in (b"OB", b"UI", b"UN") else b" ") * (len(value) % 2)
    length = b"\0\0" + struct.pack("<L", len(value)) if vr in LONG else struct.pack("<H", len(value))
    return struct.pack("<HH", tag.group, tag.element) + vr + length + value


def encoded_item(parts: dict[str, tuple[bytes, bytes]]) -> bytes:
    content = b"".join(element(Tag(word), *parts[word]) for word in sorted(parts, key=Tag))
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


def written(path: Path, attributes: dict[str, bytes]) -> Path:
    """A film with these encoded attributes in place of its own."""
    film = write_image(path, CR, grey_image(32, 32), SpecificCharacterSet="ISO_IR 6").read_bytes()
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
    copying = context(kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])
    return [read_result(one) for one in build(copying, [image], PipelineResult())]


def copied(*, sequences: bool) -> list[str]:
    words = {*COPIED, *_IMAGE_KEYWORDS} - OF_OBJECT - IDENTIFYING
    return sorted(word for word in words if (dictionary_VR(Tag(word)) == "SQ") is sequences)


@pytest.mark.parametrize("fault", codes())
def test_every_sequence_that_results_copy_may_be_faulty(tmp_path: Path, fault: str) -> None:
    raw = {word: element(Tag(word), b"SQ", codes()[fault]) for word in copied(sequences=True)}
    assert built(written(tmp_path / "film.dcm", raw))


@pytest.mark.parametrize("fault", texts())
def test_every_attribute_that_results_copy_may_be_faulty(tmp_path: Path, fault: str) -> None:
    vr, value = texts()[fault]
    own = {word: dictionary_VR(Tag(word)).split(" or ")[0].encode() for word in copied(sequences=False)}
    raw = {word: element(Tag(word), vr or own[word], value) for word in own}
    assert built(written(tmp_path / "film.dcm", raw))


def test_text_in_place_of_sequences_is_left_out(tmp_path: Path) -> None:
    words = copied(sequences=True)
    path = written(tmp_path / "film.dcm", {word: element(Tag(word), b"LO", b"CHEST") for word in words})
    assert built(path)
    (repairs,) = repairs_of([source(path)]).values()
    assert {*words} - {*repairs.left_out} == set()


@pytest.mark.parametrize("word", ["InstitutionName", "StationName", "Manufacturer", "StudyDescription"])
def test_text_that_names_nobody_is_left_out_where_it_cannot_be_decoded(tmp_path: Path, word: str) -> None:
    vr = dictionary_VR(Tag(word)).encode()
    path = written(tmp_path / "film.dcm", {word: element(Tag(word), vr, UNDECODABLE)})
    for one in built(path):
        assert "rnberg" not in str(one)
        assert one.PatientName == "Test^CR"
    assert repairs_of([source(path)])[str(source(path).image.uid)].left_out == {word}


@pytest.mark.parametrize("word", ["PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName"])
def test_identity_that_cannot_be_read_is_refused(tmp_path: Path, word: str) -> None:
    vr = dictionary_VR(Tag(word)).encode()
    for raw in (element(Tag(word), vr, UNDECODABLE), element(Tag(word), b"SQ", encoded_item(CODE))):
        path = written(tmp_path / "film.dcm", {word: raw})
        assert word in inspect(path).fault
        with pytest.raises((DecodedDifferently, FaultyObject)):
            read_sources([source(path)])


def test_an_assumed_character_set_is_used_before_text_is_left_out(tmp_path: Path) -> None:
    raw = element(Tag("StudyDescription"), b"LO", UNDECODABLE)
    path = written(tmp_path / "film.dcm", {"StudyDescription": raw})
    found = inspect(path, "ISO_IR 100")
    assert (found.assumed_charset, found.identity["StudyDescription"]) == ("ISO_IR 100", "Nürnberg")
    (read,) = read_sources([source(path, assume_charset=found.assumed_charset)])
    assert read.header.StudyDescription == "Nürnberg"


def test_identity_that_is_too_long_stands_in_results_to_the_letter(tmp_path: Path) -> None:
    accession = b"2026-11-27-RADIOLOGY-4711"
    raw = {"AccessionNumber": element(Tag("AccessionNumber"), b"SH", accession)}
    path = written(tmp_path / "film.dcm", raw)
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


# Same input, same objects; anything else, other objects; which installation made them

NAMES = [  # the others: tests/unit/base/dicom/test_dicom.py
    ("ISO_IR 100", "Buc^Jérôme"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
]


@pytest.fixture
def image(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "cr.dcm", CR, grey_image()))


def made_from(ctx: ResultContext, *sources: SourceObject) -> list[BuiltObject]:
    """Two findings and a cleaned image of each source."""
    places = ((CARDIOMEGALY, 0.83, (50, 60, 150, 170)), (NODULE, 0.6, (10, 10, 40, 40)))
    found = [finding(code, p, one.image.uid, box) for one in sources for code, p, box in places]
    images = [without_text(one, np.s_[:, :5, :5])[0] for one in sources]
    made = build(ctx, sources, PipelineResult(findings=tuple(found), images=tuple(images)))
    assert made
    return made


NAMED = context(exists=lambda _: True)  # what exists is named and not made_from


def uids(objects: list[BuiltObject]) -> list[str]:
    return [one.sop_instance_uid for one in objects]


@pytest.mark.parametrize(
    "changed",
    [
        {"models": (replace(CALIBRATED, sha256="f" * 64),)},
        {"models": (replace(CALIBRATED, card_sha256="f" * 64),)},
        {"models": (CALIBRATED, UNCALIBRATED)},
        {"pipeline_version": "1.1"},
        {"options": {"clean": True}},
        {"charset": "source"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_shapes_a_result_changes_all_its_uids(
    image: SourceObject, changed: dict[str, object]
) -> None:
    before, after = made_from(NAMED, image), made_from(replace(NAMED, **changed), image)
    assert not set(uids(before)) & set(uids(after))
    assert not {o.series_instance_uid for o in before} & {o.series_instance_uid for o in after}


@pytest.mark.parametrize("changed", ["pixels_sha256", "identity_sha256"])
def test_other_pixels_or_another_identity_make_other_objects(image: SourceObject, changed: str) -> None:
    after = made_from(NAMED, replace(image, **{changed: "other"}))
    assert not set(uids(made_from(NAMED, image))) & set(uids(after))


def test_the_time_is_no_part_of_the_identity(image: SourceObject) -> None:
    later = replace(NAMED, analysed_at=NAMED.analysed_at + timedelta(days=1))
    assert uids(made_from(later, image)) == uids(made_from(NAMED, image))


def test_what_results_copy_are_the_modules_that_all_objects_of_a_study_share() -> None:
    """PS3.3 A.1.2.1 and A.1.2.2. The list is typed in, because the inbox does without highdicom."""
    never = {
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "ReferencedPatientPhotoSequence",
    }
    modules = ("patient", "clinical-trial-subject", "general-study", "patient-study", "clinical-trial-study")
    attributes = [one for name in modules for one in standard.attributes_of(name)]
    types = {keyword: kind for place, keyword, kind in attributes if not place and keyword not in never}
    assert (*types, "TimezoneOffsetFromUTC") == COPIED
    assert {keyword for keyword, kind in types.items() if kind == "2"} == REQUIRED_MAYBE_EMPTY


def test_what_exists_is_named_and_not_built_again(image: SourceObject) -> None:
    first = made_from(context(), image)
    again = made_from(context(exists=lambda uid: uid in uids(first)), image)
    assert again == [replace(one, data=None) for one in first]


def test_a_late_image_leaves_the_objects_of_the_others_and_renews_what_is_of_all(tmp_path: Path) -> None:
    one, two = (
        source(write_image(tmp_path / f"{name}.dcm", CR, grey_image(), StudyInstanceUID="1.2.3"))
        for name in ("a", "b")
    )
    before, after = made_from(context(), one), made_from(context(), two, one)
    kept = {o.sop_instance_uid: o for o in after}
    for old in before:
        if old.kind in (ResultKind.SR, ResultKind.SUMMARY, ResultKind.PDF):
            assert old.sop_instance_uid not in kept
        else:
            assert kept[old.sop_instance_uid] == old
    for kind in (ResultKind.GSPS, ResultKind.SUMMARY):
        assert len({o.series_instance_uid for o in (*before, *after) if o.kind is kind}) == 1


def test_a_report_names_the_one_that_it_replaces(image: SourceObject) -> None:
    earlier = {"supersedes": "1.2.3.4", "supersedes_series": "1.2.3"}
    report = made_from(context(kinds=[ResultKind.SR], **earlier), image)[0]
    series = read_result(report).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.supersedes == "1.2.3.4"


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=[str(charset) for charset, _ in NAMES])
@pytest.mark.parametrize("wanted", ["utf8", "source"])
def test_a_name_is_the_same_text_in_every_result(
    tmp_path: Path, charset: str | list[str], name: str, wanted: str
) -> None:
    named = {"SpecificCharacterSet": charset, "PatientName": name, "ReferringPhysicianName": name}
    path = write_image(tmp_path / "cr.dcm", CR, grey_image(), **named)
    for sent in map(read_result, made_from(context(charset=wanted), source(path))):
        assert str(sent.PatientName) == str(sent.ReferringPhysicianName) == name
        assert sent.SpecificCharacterSet == ("ISO_IR 192" if wanted == "utf8" else charset)


def test_text_that_is_not_in_the_named_set_is_refused_not_replaced(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100", PatientName="Buc^Jérôme"
    )
    report = context(kinds=[ResultKind.SR])
    for wrong in (b"ISO_IR 192", b"ISO_IR 999", b"ISO_IR 6  "):
        broken = tmp_path / "broken.dcm"
        broken.write_bytes(path.read_bytes().replace(b"ISO_IR 100", wrong))
        with pytest.raises(DecodedDifferently) as caught:
            made_from(report, source(broken))
        assert "Buc" not in str(caught.value)
        (one,) = made_from(report, source(broken, assume_charset="ISO_IR 100"))
        assert str(read_result(one).PatientName) == "Buc^Jérôme"


def test_an_unknown_character_set_does_no_harm_to_plain_text(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cr.dcm", CR, grey_image())
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))
    for made in map(read_result, made_from(context(charset="source"), source(path))):
        assert (made.PatientName, made.SpecificCharacterSet) == ("Test^CR", "ISO_IR 192")


def test_a_label_that_the_source_charset_lacks_makes_the_object_utf8(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100"))
    named = finding(replace(CARDIOMEGALY, meaning="심장비대"), 0.8, one.image.uid, (5, 5, 50, 50))
    ctx = context(charset="source", kinds=[ResultKind.SR])
    report = read_result(build(ctx, [one], PipelineResult(findings=(named,)))[0])
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert "심장비대" in str(report)


def test_the_patient_of_a_report_is_one_whichever_image_says_it(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "ONE"}
    bare = source(write_image(tmp_path / "a.dcm", CR, grey_image(), PatientName="", PatientSex="", **study))
    full = source(write_image(tmp_path / "b.dcm", CR, grey_image(), **study))
    made = map(read_result, made_from(context(), bare, full))
    assert {(str(one.PatientName), one.PatientSex) for one in made} == {("Test^CR", "F")}
    other = source(write_image(tmp_path / "c.dcm", CR, grey_image(), PatientName="Other^One", **study))
    with pytest.raises(ResultRefused, match="more than one patient"):
        made_from(context(), bare, full, other)


def test_our_own_results_are_known_again_and_those_of_another_maker_are_not(image: SourceObject) -> None:
    for one in made_from(context(), image):
        assert is_own_result(read_result(one))
    item = data_set(Manufacturer="Scanner Maker", ManufacturerModelName="DICOM AI Node")
    for one in (pydicom.dcmread(image.path), Dataset(), data_set(ContributingEquipmentSequence=[item])):
        assert not is_own_result(one)


WRITE = "run `python -m tests.golden_lab` and review the difference"


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return golden_lab.dumps()


def fault(name: str, golden: str, now: str) -> str:
    """What to do where a dump is not what the builders make now; empty where it is."""
    if golden == now:
        return ""
    if not golden.startswith(f"{golden_lab.first_line()}\n"):
        return f"{name} is of another builder version than {BUILDER_VERSION}: {WRITE}"
    changed = "\n".join(difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", n=1))
    return f"{name} changed: raise BUILDER_VERSION (results/uids.py), then {WRITE}\n{changed}"


def test_results_are_what_the_golden_dumps_say(now: dict[str, str]) -> None:
    golden = {path.name: path.read_text(encoding="utf-8") for path in golden_lab.FOLDER.glob("*.txt")}
    assert golden.keys() == now.keys(), WRITE
    faults = [fault(name, golden[name], now[name]) for name in sorted(now)]
    assert not any(faults), "\n".join(filter(None, faults))


ELSEWHERE = Installation.from_drawn("f" * 32)


def built_equipment(folder: Path, ctx: ResultContext) -> dict[str, Dataset]:
    """Results on one film, the report first, a rejection note and an assessment, by kind."""
    image = source(write_image(folder / "film.dcm", DX, grey_image()))
    result = PipelineResult((finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 90, 90)),))
    made, installation = build(ctx, [image], result), ctx.installation
    report = folder / f"{installation.serial_number}.dcm"
    report.write_bytes(made[0].data or b"")
    said = FindingAssessment(
        "Cardiomegaly", ("8186001", "SCT"), "", CALIBRATED.id, "1", ReaderVerdict.ACCEPTED, "", ANALYSED_AT
    )
    made.append(build_assessment(report, [said], "ann", "AINODE", installation, ""))
    made.append(
        build_rejection([report], RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", installation)
    )
    return {str(one.kind): read_result(one) for one in made}


def observers(one: Dataset) -> dict[str, str]:
    """Device Observer UID and Serial Number of an SR or KO."""
    found = [item for code in ("121012", "121016") for item in named(one, code)]
    return {meaning_of(item): str(item.get("UID") or item.get("TextValue")) for item in found}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return built_equipment(tmp_path_factory.mktemp("here"), context())


def test_the_observer_is_this_installation_with_these_models(
    here: dict[str, Dataset], tmp_path: Path
) -> None:
    kinds = [ResultKind.SR]
    second = built_equipment(tmp_path, context(CALIBRATED, UNCALIBRATED, kinds=kinds))
    elsewhere = built_equipment(tmp_path, context(kinds=kinds, installation=ELSEWHERE))
    uid = "Device Observer UID"
    for kind in ("sr", "assessment", "rejection"):
        assert observers(here[kind])["Device Observer Serial Number"] == INSTALLATION.serial_number
        assert observers(here[kind])[uid] != observers(elsewhere[kind])[uid]
    assert observers(here["sr"])[uid] != observers(second["sr"])[uid]
