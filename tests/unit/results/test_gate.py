"""The gate refuses what must not leave."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import DerivedImage, Finding, ImageKind, Origin, PipelineResult, Region
from dicom_node import results
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common.context import ResultContext, SourceObject
from dicom_node.results.common.source import Source, read_sources
from tests.result_images import (
    CARDIOMEGALY,
    CR,
    NODULE,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)


def _wrong_patient(ds: Dataset) -> None:
    ds.PatientID = "another"


def _wrong_name(ds: Dataset) -> None:
    ds.PatientName = "Else^Someone"


def _source_series(ds: Dataset) -> None:
    ds.SeriesInstanceUID = (
        ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID
    )


def _no_uid(ds: Dataset) -> None:
    ds.SeriesInstanceUID = "1.02.3"


def _verified(ds: Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def _not_ours(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence[:]


def _identity_removed(ds: Dataset) -> None:
    ds.PatientIdentityRemoved = "YES"


def _no_evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence


def _unsaid(ds: Dataset) -> None:
    ds.SeriesDescription = "Result"


def _scoords(item: Dataset) -> list[Dataset]:
    found = [item] if item.get("ValueType") == "SCOORD" else []
    return found + [one for child in item.get("ContentSequence") or [] for one in _scoords(child)]


def _outside(ds: Dataset) -> None:
    region = _scoords(ds)[0]
    region.GraphicData = [0, 0, 9000, 0, 9000, 9000, 0, 0]


def _open(ds: Dataset) -> None:
    region = _scoords(ds)[0]
    region.GraphicData = list(region.GraphicData)[:-2]


def _odd(ds: Dataset) -> None:
    region = _scoords(ds)[0]
    region.GraphicData = list(region.GraphicData)[:-1]


def _unknown_image(ds: Dataset) -> None:
    _scoords(ds)[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


BREAKS: dict[str, Callable[[Dataset], None]] = {
    "PatientID is not that of the source": _wrong_patient,
    "PatientName is not that of the source": _wrong_name,
    "SeriesInstanceUID is one of the source": _source_series,
    "SeriesInstanceUID is no UID": _no_uid,
    "must be UNVERIFIED": _verified,
    "does not name this product": _not_ours,
    "PatientIdentityRemoved": _identity_removed,
    "CurrentRequestedProcedureEvidenceSequence": _no_evidence,
    "does not say AI": _unsaid,
    "reaches out of its image": _outside,
    "not closed": _open,
    "a polyline is not closed": _odd,
    "no source of this job": _unknown_image,
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
    data = results.build(asked, [one], PipelineResult(findings=findings))[0].data
    assert data is not None
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
    folder = tmp_path_factory.mktemp("gate")
    one = source(write_image(folder / "us.dcm", US_MULTI_FRAME, speckle(frames=3)))
    return make(one, ResultKind.SR, finding(NODULE, 0.5, one.image.uid, (1, 1, 160, 120), frame=3))


def test_what_is_faultless_leaves(made: Made, picture: Made, cine: Made) -> None:
    for one in (made, picture, cine):
        one.release()


@pytest.mark.parametrize("said", BREAKS)
def test_a_report_with_this_fault_does_not_leave(made: Made, said: str) -> None:
    report = made.read()
    with quiet_pydicom():
        BREAKS[said](report)
    with pytest.raises(ResultRefused, match=said):
        made.release(report)


def _not_derived(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY"]


def _no_text_in_it(ds: Dataset) -> None:
    ds.BurnedInAnnotation = "NO"


def _of_no_source(ds: Dataset) -> None:
    del ds.SourceImageSequence


def _short(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-2]


def _long(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData + bytes(2)


def _low_series(ds: Dataset) -> None:
    ds.SeriesNumber = 8999


PICTURE_BREAKS: dict[str, tuple[str, Callable[[Dataset], None]]] = {
    "original": ("ImageType is not DERIVED", _not_derived),
    "no text": ("BurnedInAnnotation is NO on cleaned images", _no_text_in_it),
    "no source": ("SourceImageSequence is missing", _of_no_source),
    "short": ("PixelData has not the length", _short),
    "long": ("PixelData has not the length", _long),
    "series": ("SeriesNumber is below 9000", _low_series),
}


@pytest.mark.parametrize("fault", PICTURE_BREAKS)
def test_a_picture_with_this_fault_does_not_leave(picture: Made, fault: str) -> None:
    said, broken = PICTURE_BREAKS[fault]
    image = picture.read()
    broken(image)
    with pytest.raises(ResultRefused, match=said):
        picture.release(image)


@pytest.mark.parametrize("point", [(-0.5, 9.0), (9.0, -0.5), (224.5, 9.0), (9.0, 256.5)])
def test_a_region_half_a_pixel_out_of_its_image_does_not_leave(
    made: Made, point: tuple[float, float]
) -> None:
    report = made.read()
    _scoords(report)[0].GraphicData = [9.0, 9.0, 20.0, 9.0, *point, 9.0, 9.0]
    with pytest.raises(ResultRefused, match="reaches out of its image"):
        made.release(report)


def test_the_lowest_series_number_of_ours_leaves(picture: Made) -> None:
    image = picture.read()
    image.SeriesNumber = 9000
    picture.release(image)


@pytest.mark.parametrize("number", [0, 4])
def test_a_frame_that_the_source_has_not_is_no_reference(cine: Made, number: int) -> None:
    report = cine.read()
    _scoords(report)[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = number
    with pytest.raises(ResultRefused, match="names a frame that the source has not"):
        cine.release(report)


@pytest.mark.parametrize("built", [230.73450088500977, 16777216.5, 1 / 3, 0.0, -1e-7])
def test_a_coordinate_is_the_same_in_single_precision(built: float) -> None:
    assert gate._equal(float(np.float32(built)), built)
    assert not gate._equal(built + 1.0 + abs(built) / 1e4, built)


def test_an_odd_number_of_bytes_is_padded() -> None:
    single = Dataset()
    single.Rows = single.Columns = single.SamplesPerPixel = 1
    single.BitsAllocated = 8
    assert [bool(list(gate._pixels(single, length))) for length in (None, 1, 2)] == [True, True, False]


def test_bytes_behind_the_pixels_do_not_leave(picture: Made) -> None:
    with pytest.raises(ResultRefused, match="PixelData has not the length"):
        gate.check(picture.data + bytes(2), picture.read(), picture.context, ResultKind.SC, picture.sources)


def test_the_message_of_the_gate_holds_no_name(made: Made) -> None:
    report = made.read()
    report.PatientName = "Else^Someone"
    with pytest.raises(ResultRefused) as caught:
        gate.check(made.data, report, made.context, ResultKind.SR, made.sources)
    assert "Else" not in str(caught.value)
    assert "Test" not in str(caught.value)


def test_a_cleaned_image_that_was_not_verified_does_not_leave(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    image = DerivedImage(ImageKind.CLEANED, one.image.uid, grey_image(), "MONOCHROME2", "x", verified=False)
    with pytest.raises(ResultRefused, match="not verified"):
        results.build(context(), [one], PipelineResult(images=(image,)))


def test_a_cleaned_image_of_another_size_does_not_leave(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    smaller = np.ascontiguousarray(grey_image()[1:])
    image = DerivedImage(ImageKind.CLEANED, one.image.uid, smaller, "MONOCHROME2", "x", verified=True)
    with pytest.raises(ResultRefused, match="its source"):
        results.build(context(), [one], PipelineResult(images=(image,)))


def test_a_finding_on_no_source_or_no_frame_does_not_leave(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "us.dcm", US_MULTI_FRAME, speckle(frames=3)))
    for wrong in (
        finding(NODULE, 0.5, "1.2.3", (1, 1, 9, 9)),
        finding(NODULE, 0.5, one.image.uid, (1, 1, 9, 9), frame=4),
    ):
        with pytest.raises(ResultRefused):
            results.build(context(), [one], PipelineResult(findings=(wrong,)))


def test_a_region_outside_its_image_does_not_leave(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    far = Region("box", ((5000.0, 10.0), (6000.0, 20.0)), Origin.DETECTOR)
    lost = finding(NODULE, 0.5, one.image.uid, regions=(far,))
    with pytest.raises(ResultRefused, match="outside"):
        results.build(context(), [one], PipelineResult(findings=(lost,)))
