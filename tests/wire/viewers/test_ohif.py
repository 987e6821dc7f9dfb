"""What a reader sees of each result in OHIF, in a browser before a real Orthanc (docs/viewers.md)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser as Chromium
from pydicom.dataset import Dataset

from dicom_node.base.lifecycle import ResultKind
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, needs_orthanc, start_orthanc
from tests.wire.viewers.cases import CASES, FOR_OHIF, STANDARD, Study, lines_of, study
from tests.wire.viewers.ohif_lab import (
    Ohif,
    Shape,
    chromium_with_webgl,
    labels,
    mask,
    needs_extension,
    needs_ohif,
    ohif_before,
    shapes,
    text_of,
)

pytestmark = [
    *(needs_ohif, needs_orthanc, pytest.mark.debian("chromium-headless-shell"), pytest.mark.timeout(600)),
]
NOT_DIAGNOSTIC = "not for diagnostic use"
WITHIN = 2.0
"""Pixels of the image that a point may be off its place."""
WITHOUT_A_PLACE = {
    "no-call": "AI: Not found: pleural effusion, nodule of lung.",
    "unusual-chest": "A lung is white. Look at it first.",
    "refused": "AI did not run: this is no frontal film of the chest",
    "ultrasound": "removed: 1 text",
}
"""Words of the report of each case that has no box, line or outline."""
Studies = dict[tuple[str, str], Study]
_Line = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB]) as running:
        yield running


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Studies:
    """Each case in each form, in Orthanc; by name and viewer."""
    folder = tmp_path_factory.mktemp("studies")
    made: Studies = {
        (name, form.viewer): study(folder, name, form) for name in CASES for form in (FOR_OHIF, STANDARD)
    }
    for one in made.values():
        for data in one.files:
            assert orthanc.upload(data)["Status"] == "Success"
    return made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with chromium_with_webgl() as browser:
        yield browser


@pytest.fixture(scope="module")
def ohif(orthanc: Orthanc, chromium: Chromium) -> Iterator[Ohif]:
    """OHIF as it is."""
    with ohif_before(orthanc, chromium) as running:
        yield running


@pytest.fixture(scope="module")
def extended(orthanc: Orthanc, chromium: Chromium) -> Iterator[Ohif]:
    """OHIF with the extension of examples/ohif."""
    with ohif_before(orthanc, chromium, extension=True) as running:
        yield running


def off_their_places(drawn: Sequence[Shape], wanted: Sequence[_Line]) -> list[float]:
    """How far from its place, in pixels, the nearest drawn line is for each of the ``wanted``: the farthest
    point of one from the other's line.
    """
    return [min(_apart(np.asarray(shape.points), line) for shape in drawn) for line in wanted]


def _apart(drawn: _Line, wanted: _Line) -> float:
    return max(_from_line(drawn, wanted), _from_line(wanted, drawn))


def _from_line(points: _Line, line: _Line) -> float:
    """The largest distance of a point from the line through the points of ``line``."""
    start, along = line[:-1], np.diff(line, axis=0)
    lengths = np.maximum((along**2).sum(axis=1), 1e-9)
    share = (((points[:, None] - start) * along).sum(axis=2) / lengths).clip(0, 1)
    nearest = start + share[..., None] * along
    return float(np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1).max())


def _lines_of_state(state: Dataset) -> list[_Line]:
    """Lines of a presentation state in pixels, ``[points, 2]`` each; of curves the points they go through."""
    layers = state.GraphicAnnotationSequence
    graphics = [graphic for layer in layers for graphic in layer.get("GraphicObjectSequence", [])]
    assert {graphic.GraphicAnnotationUnits for graphic in graphics} == {"PIXEL"}
    return [np.reshape(np.asarray(graphic.GraphicData, float), (-1, 2)) for graphic in graphics]


@pytest.mark.parametrize(
    ("name", "words", "picture"),
    [
        ("call", ["AI: left pleural effusion suspected", "72.90 %"], "sr"),
        ("fetal-head", ["Head circumference 123 mm", "BPD (outer-outer)", "outline of head"], "head"),
        ("program", ["AI: lung mass suspected", "AI: nodule of lung suspected"], "program"),
    ],
    ids=["a film with a call", "a fetal head", "a program's box and polygon"],
)
def test_shapes_and_sentences_are_at_their_places(
    ohif: Ohif, studies: Studies, name: str, words: list[str], picture: str
) -> None:
    shown = studies[name, "ohif"]
    report = shown.results[ResultKind.SR]
    wanted = lines_of(report)
    with ohif.opened(shown.uid, report.SeriesNumber, picture) as page:
        drawn = shapes(page, lambda found: max(off_their_places(found, wanted)) < WITHIN)
        labels(page, *words, NOT_DIAGNOSTIC)
    assert max(off_their_places(drawn, wanted)) < WITHIN
    assert all(shown.image.image.uid in shape.image for shape in drawn)


@pytest.mark.parametrize("name", WITHOUT_A_PLACE)
def test_a_report_without_a_place_is_words(ohif: Ohif, studies: Studies, name: str) -> None:
    shown = studies[name, "ohif"]
    report = shown.results[ResultKind.SR]
    with ohif.opened(shown.uid, report.SeriesNumber, "words" if name == "no-call" else "") as page:
        text = text_of(page, WITHOUT_A_PLACE[name])
    assert NOT_DIAGNOSTIC in text


@pytest.mark.parametrize(
    ("name", "words"),
    [("call", ["Area", "mm"]), ("fetal-head", ["Perimeter", "cm"]), ("program", ["Area", "Perimeter"])],
    ids=["a film with a call", "a fetal head", "a program's box and polygon"],
)
def test_readers_can_take_shapes_as_measurements_of_their_own(
    ohif: Ohif, studies: Studies, name: str, words: list[str]
) -> None:
    """All stay at their places, and a polygon stays a polygon."""
    shown = studies[name, "ohif"]
    report = shown.results[ResultKind.SR]
    wanted = lines_of(report)
    with ohif.opened(shown.uid, report.SeriesNumber) as page:
        shapes(page, bool)
        page.get_by_role("button", name="Yes").first.dispatch_event("click")
        labels(page, *words)
        drawn = shapes(page, lambda found: max(off_their_places(found, wanted)) < WITHIN)
    assert max(off_their_places(drawn, wanted)) < WITHIN


def test_the_annotated_picture_is_shown(ohif: Ohif, studies: Studies) -> None:
    shown = studies["call", "ohif"]
    picture = shown.results[ResultKind.SC]
    script = """uid => window.cornerstone.getRenderingEngines()[0].getViewports()[0]
        .getCurrentImageId().includes(uid)"""
    with ohif.opened(shown.uid, picture.SeriesNumber) as page:
        page.wait_for_function(script, arg=str(picture.SOPInstanceUID))
        assert "AI annotated image" in page.inner_text("body")


@needs_extension
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("call", ["Pleural effusion", "72.90 %"]),
        ("fetal-head", ["Head circumference 123 mm"]),
        ("program", ["Lung mass", "Nodule of lung"]),
    ],
    ids=["a film with a call", "a fetal head", "a program's box and polygon"],
)
def test_with_the_extension_standard_reports_have_words_beside_their_shapes(
    extended: Ohif, studies: Studies, name: str, words: list[str]
) -> None:
    shown = studies[name, ""]
    report = shown.results[ResultKind.SR]
    wanted = lines_of(report)
    with extended.opened(shown.uid, report.SeriesNumber) as page:
        drawn = shapes(page, lambda found: max(off_their_places(found, wanted)) < WITHIN)
        labels(page, *words)
    assert max(off_their_places(drawn, wanted)) < WITHIN


@needs_extension
@pytest.mark.parametrize("name", WITHOUT_A_PLACE)
def test_with_the_extension_standard_reports_without_a_place_are_words(
    extended: Ohif, studies: Studies, name: str
) -> None:
    shown = studies[name, ""]
    report = shown.results[ResultKind.SR]
    with extended.opened(shown.uid, report.SeriesNumber) as page:
        text = text_of(page, WITHOUT_A_PLACE[name])
    assert NOT_DIAGNOSTIC in text


@needs_extension
@pytest.mark.parametrize("name", ["call", "fetal-head"])
def test_with_the_extension_presentation_states_are_drawn(
    extended: Ohif, studies: Studies, name: str
) -> None:
    shown = studies[name, ""]
    state = shown.results[ResultKind.GSPS]
    wanted = _lines_of_state(state)
    with extended.opened(shown.uid, state.SeriesNumber, "gsps-extension" if name == "call" else "") as page:
        drawn = shapes(page, lambda found: max(off_their_places(found, wanted)) < WITHIN)
        labels(page, "AI", NOT_DIAGNOSTIC)
    assert max(off_their_places(drawn, wanted)) < WITHIN
    assert all(shown.image.image.uid in shape.image for shape in drawn)


@needs_extension
@pytest.mark.parametrize("name", ["ultrasound", "fetal-head"])
def test_with_the_extension_segmentations_without_geometry_are_drawn(
    extended: Ohif, studies: Studies, name: str
) -> None:
    shown = studies[name, ""]
    segmentation = shown.results[ResultKind.SEG]
    filled = (
        np.asarray(segmentation.pixel_array).reshape(-1, segmentation.Rows, segmentation.Columns).any(axis=0)
    )
    rows, columns = np.nonzero(filled)
    with extended.opened(shown.uid, segmentation.SeriesNumber) as page:
        seen: dict[str, Any] = mask(page)
    assert seen["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen["pixels"] == filled.sum()
    assert shown.image.image.uid in seen["image"]
