"""What other viewers than OHIF make of results: Orthanc's own pictures, DCMTK, dwv (docs/viewers.md)."""

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser as Chromium
from pydicom import dcmread

from tests import golden_lab
from tests.wire.orthanc_lab import Orthanc, needs_orthanc, start_orthanc
from tests.wire.viewers.dwv_lab import needs_dwv, opened
from tests.wire.viewers.ohif_lab import chromium_with_webgl

PICTURES = os.environ.get("PICTURES")
NOT_DIAGNOSTIC = "not for diagnostic use"
IMAGES = ("sc", "summary", "cleaned")
needs_dcmtk = pytest.mark.debian("dcmtk")
needs_browser = pytest.mark.debian("chromium-headless-shell")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The results of a drawn fetal head by kind, its image as "image", and a heat map of a film."""
    folder = tmp_path_factory.mktemp("results")
    written = golden_lab.written(folder)
    of_head = {
        name.partition("-")[2]: path for name, path in written.items() if name.startswith("fetal_head")
    }
    return {**of_head, "heatmap": written["chest_xray-heatmap"], "image": folder / "head.dcm"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for path in files.values():
            running.upload(path.read_bytes())
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with chromium_with_webgl() as browser:
        yield browser


def picture(viewer: str, kind: str) -> Path | None:
    """Where ``make viewers`` wants the picture of that kind in that viewer."""
    return Path(PICTURES) / f"viewer-{viewer}-{kind}.png" if PICTURES else None


def difference(seen: Image.Image, path: Path) -> float:
    """The mean difference of a drawn picture from the pixels of the file, in grey levels."""
    pixels = dcmread(path).pixel_array
    wanted = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    return float(np.abs(np.asarray(seen.convert("RGB"), float) - wanted).mean())


def keep(seen: Image.Image, viewer: str, kind: str) -> None:
    if place := picture(viewer, kind):
        small = seen.convert("RGB")
        small.thumbnail((500, 500))
        small.quantize(64).save(place, optimize=True)


@needs_orthanc
@pytest.mark.parametrize("kind", [*IMAGES, "heatmap"])
def test_orthanc_draws_pictures_as_they_are(orthanc: Orthanc, files: dict[str, Path], kind: str) -> None:
    uid = str(dcmread(files[kind], stop_before_pixels=True).SOPInstanceUID)
    drawn = orthanc.call("GET", f"/instances/{orthanc.id_of(uid)}/preview")
    seen = Image.open(io.BytesIO(drawn))
    keep(seen, "orthanc", kind)
    assert difference(seen, files[kind]) < 1


@needs_dcmtk
@pytest.mark.parametrize("kind", [*IMAGES, "heatmap"])
def test_dcmtk_draws_pictures_as_they_are(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    drawn = tmp_path / "picture.png"
    subprocess.run(["dcmj2pnm", "--write-png", str(files[kind]), str(drawn)], check=True, timeout=60)
    seen = Image.open(drawn)
    keep(seen, "dcmtk", kind)
    assert difference(seen, files[kind]) < 1


@needs_dcmtk
@pytest.mark.parametrize(("kind", "words"), [("sr", "Head circumference"), ("obgyn", "123.0 mm")])
def test_dcmtk_writes_the_words_of_a_report(
    files: dict[str, Path], kind: str, words: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    subprocess.run(["dsr2html", str(files[kind]), str(page)], check=True, timeout=60)
    text = page.read_text(encoding="utf-8")
    assert words in text
    assert NOT_DIAGNOSTIC in text


@needs_dwv
@needs_browser
@pytest.mark.parametrize("shown", [("sc",), ("summary",), ("cleaned",), ("image", "sr")], ids="+".join)
def test_dwv_draws_pictures_and_shapes(
    chromium: Chromium, files: dict[str, Path], shown: tuple[str, ...]
) -> None:
    empty = np.zeros((500, 600, 3))
    with opened(chromium, [files[kind] for kind in shown], picture("dwv", shown[-1])) as page:
        page.wait_for_timeout(1000)
        assert page.evaluate("window.failed") == []
        seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    assert np.abs(seen - empty).mean() > 5
    # Shapes are yellow, the ultrasound image is grey.
    assert bool((seen.max(axis=-1).astype(int) - seen.min(axis=-1) > 40).any()) is (shown[-1] != "cleaned")


@needs_dwv
@needs_browser
def test_dwv_refuses_a_segmentation_without_geometry(chromium: Chromium, files: dict[str, Path]) -> None:
    with opened(chromium, [files["image"], files["seg"]], None) as page:
        page.wait_for_timeout(1000)
        assert page.evaluate("window.failed") != []
