"""Samples are those that DCMTK decodes, bit by bit."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.phantoms import write_dicom

pytestmark = pytest.mark.debian("dcmtk")

JPEG = [
    "JPEG-lossy",
    "JPGExtended",
    "SC_jpeg_no_color_transform",
    "SC_jpeg_no_color_transform_2",
    "SC_rgb_dcmtk_+eb+cr",
    "SC_rgb_dcmtk_+eb+cy+n1",
    "SC_rgb_dcmtk_+eb+cy+n2",
    "SC_rgb_dcmtk_+eb+cy+np",
    "SC_rgb_dcmtk_+eb+cy+s2",
    "SC_rgb_dcmtk_+eb+cy+s4",
    "SC_rgb_jpeg_app14_dcmd",
    "SC_rgb_jpeg_dcmtk",
    "SC_rgb_jpeg_gdcm",
    "SC_rgb_jpeg_lossy_gdcm",
    "SC_rgb_small_odd_jpeg",
    "examples_ybr_color",
]
JPEG_LS = ["JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "MR_small_jpeg_ls_lossless",
           "SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample"]  # fmt: skip


def run(program: str, *arguments: str | Path) -> Path:
    """Run a program of DCMTK; returns the file that its last argument names."""
    subprocess.run([program, *map(str, arguments)], check=True, timeout=60)
    return Path(arguments[-1])


@pytest.mark.parametrize(
    ("name", "program"),
    [(name, ("dcmdjpeg", "+cn")) for name in JPEG] + [(name, ("dcmdjpls",)) for name in JPEG_LS],
)
def test_a_file_of_other_makers_has_the_samples_that_dcmtk_decodes(
    tmp_path: Path, name: str, program: tuple[str, ...]
) -> None:
    path = Path(str(get_testdata_file(f"{name}.dcm", download=False)))
    theirs = open_dicom(run(*program, path, tmp_path / "theirs.dcm"))
    ours = open_dicom(path)
    frames = range(min(3, ours.header.frames))
    assert [np.array_equal(ours.stored(frame), theirs.stored(frame)) for frame in frames] == [True] * len(
        frames
    )


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_a_lossless_jpeg_of_each_depth_and_predictor_gives_the_samples_back(
    tmp_path: Path, bits: int, predictor: int
) -> None:
    """ITU-T T.81 Table H.1. The samples have every difference, the largest among them."""
    samples = (
        np.random.default_rng(predictor).integers(0, 2**bits, (61, 83)).astype("u1" if bits == 8 else "u2")
    )
    samples[:4] = (2**bits - 1) * (np.arange(83) % 2)
    plain = write_dicom(tmp_path / "plain.dcm", samples[None], BitsStored=bits, HighBit=bits - 1)
    packed = run("dcmcjpeg", "+el", "+sv", str(predictor), plain, tmp_path / "packed.dcm")
    assert np.array_equal(open_dicom(packed).stored(), samples)


@pytest.mark.parametrize("quality", ["30", "90"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_lossy_jpeg_of_12_bits_too_has_the_samples_that_dcmtk_decodes(
    tmp_path: Path, bits: int, quality: str
) -> None:
    ramp = np.arange(64 * 80).reshape(64, 80) % 2**bits
    plain = write_dicom(
        tmp_path / "plain.dcm",
        ramp[None].astype("u1" if bits == 8 else "u2"), BitsStored=bits, HighBit=bits - 1,
    )  # fmt: skip
    packed = run("dcmcjpeg", "+ee", "+q", quality, plain, tmp_path / "packed.dcm")
    theirs = run("dcmdjpeg", packed, tmp_path / "theirs.dcm")
    assert np.array_equal(open_dicom(packed).stored(), open_dicom(theirs).stored())
