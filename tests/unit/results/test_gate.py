"""The gate before results are written, and the identity that they copy."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import DerivedImage, Finding, ImageKind, Origin, PipelineResult, Region
from dicom_node.base.dicom.header import items, quiet_pydicom
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import DEIDENTIFIED_KINDS, ResultKind
from dicom_node.results import gate
from dicom_node.results.build import build
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import profile_violations
from dicom_node.results.deidentified.identity import KnownIdentity
from dicom_node.results.deidentified.pseudonyms import Pseudonyms, pseudonymised
from dicom_node.results.source import Source, SourceObject, read_sources
from tests.deidentified_lab import BIRTH_DATE, HERE, SECRET, UID_ROOT, deidentified, write_named
from tests.modality import data_set
from tests.result_images import (
    CARDIOMEGALY,
    NODULE,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)


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


BREAKS = {
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
def made(one: SourceObject) -> Made:
    return make(one, ResultKind.SR, finding(CARDIOMEGALY, 0.83, one.image.uid, (50, 60, 150, 170)))


@pytest.fixture(scope="module")
def picture(one: SourceObject) -> Made:
    return make(one, ResultKind.SC, finding(CARDIOMEGALY, 0.83, one.image.uid, (50, 60, 150, 170)))


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


FAULTS = [
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
    ("picture", "both or not at all", _set("PixelSpacingCalibrationType", "FIDUCIAL")),
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


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "PatientBirthDate"])
@pytest.mark.parametrize("is_missing", [False, True], ids=["empty", "missing"])
def test_a_result_without_its_patient_does_not_leave(made: Made, keyword: str, is_missing: bool) -> None:
    nobody = made.read()
    assert nobody[keyword].value
    nobody[keyword].value = ""
    if is_missing:
        delattr(nobody, keyword)
    with pytest.raises(ResultRefused, match=f"{keyword} is not that of the source"):
        made.release(nobody)


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
    one: SourceObject, wrong: Callable[[str], PipelineResult], said: str
) -> None:
    with pytest.raises(ResultRefused, match=said):
        build(context(), [one], wrong(one.image.uid))


BREAKS_DEIDENTIFIED = {
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


Gate = tuple[bytes, Callable[[bytes, Dataset], None]]


@pytest.fixture(scope="module")
def at_the_gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
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
def test_an_object_with_this_fault_does_not_leave(at_the_gate: Gate, fault: str) -> None:
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
