"""Real ultrasound frames through a whole node: an ovary comes back cleaned, outlined and classified, a fetal
head is not classified.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode

from dicom_node.dicom.walk import items
from tests.modality import ultrasound_from
from tests.node_lab import Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port

pytestmark = [pytest.mark.data, pytest.mark.timeout(600)]

RULES = rule("ovarian", 'modality = "US", body_part = "OVARY"', "heatmaps = true")
RESULTS = ("sr", "gsps", "sc", "heatmap", "cleaned", "seg")
SR, SEG, STATE = ("1.2.840.10008.5.1.4.1.1." + end for end in ("88.34", "66.4", "11.2"))
OVARY = "us_ovarian/images/otu_0435.jpg"
HEAD = "us_fetal_head/images/006_HC.jpg"


@dataclass(frozen=True)
class Case:
    """A study that was sent, its state at its end, and what the PACS was sent of it."""

    source: Dataset
    state: str
    results: tuple[Dataset, ...]

    def only(self, sop_class: str) -> Dataset:
        """The one object of a SOP class."""
        [found] = [ds for ds in self.results if sop_class == ds.SOPClassUID]
        return found

    def picture(self, words: str) -> Dataset:
        """The one picture whose Series Description begins with ``words``."""
        pictures = [ds for ds in self.results if "PixelData" in ds]
        [found] = [ds for ds in pictures if ds.SeriesDescription.startswith(words)]
        return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[dict[str, Case]]:
    """All studies through one node, stopped by now."""
    sent = {
        "ovary": sent_as(data, OVARY, "ovary", "OVARY"),
        "head": sent_as(data, HEAD, "head", "OVARY"),
    }
    with run_pacs(Pacs(free_port())) as pacs:
        node = Node(
            tmp_path_factory.mktemp("pipelines") / "node",
            site_config(pacs.port, RULES, RESULTS, senders=("ROOM3",)),
        )
        with running(node):
            assert set(store(node.port, list(sent.values()), "ROOM3")) == {0x0000}
            rows = node.wait_for(("delivered", "not_applicable", "failed", "quarantined"), count=len(sent))
    held = [decoded(encoded, pacs.syntaxes[uid]) for uid, encoded in pacs.stored.items()]
    yield {
        name: Case(
            source,
            rows[source.StudyInstanceUID]["state"],
            tuple(ds for ds in held if source.StudyInstanceUID == ds.StudyInstanceUID),
        )
        for name, source in sent.items()
    }


def frame(data: Path, name: str) -> npt.NDArray[np.uint8]:
    """A picture of the image sets, RGB; skips where it is not there."""
    picture = cv2.imread(str(data / name))
    if picture is None:
        pytest.skip(f"{data / name} is not there: the public image sets are fetched apart (--data)")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def decoded(encoded: bytes, syntax: str) -> Dataset:
    """A data set as it came by C-STORE, whose pixels can be decoded."""
    uid = UID(syntax)
    ds = decode(io.BytesIO(encoded), uid.is_implicit_VR, uid.is_little_endian)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid
    return ds


def sent_as(data: Path, picture: str, name: str, body_part: str) -> Dataset:
    """A study of the picture with a name burned in."""
    pixels = frame(data, picture)
    cv2.putText(pixels, "KOWALSKA MARIA", (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    made = ultrasound_from(name, pixels)
    made.BodyPartExamined = body_part
    return made


def outlines_of(report: Dataset) -> dict[str, npt.NDArray[np.float64]]:
    """Tracking UID → points ``[N, 2]`` of the outline, of each group of a report that has one (TID 1410)."""
    found = {}
    for group in items(report):
        inside = group.get("ContentSequence", [])
        uids = [str(item.UID) for item in inside if item.ValueType == "UIDREF"]
        lines = [item.GraphicData for item in inside if item.ValueType == "SCOORD"]
        if uids and lines:
            found[uids[0]] = np.reshape(lines[0], (-1, 2)).astype(np.float64)
    return found


def drawn_in(state: Dataset) -> dict[str, npt.NDArray[np.float64]]:
    """Tracking UID → points of what a presentation state draws under it."""
    return {
        str(item.TrackingUID): np.reshape(item.GraphicData, (-1, 2)).astype(np.float64)
        for item in items(state)
        if "TrackingUID" in item and "GraphicData" in item
    }


def test_an_ovary_comes_back_cleaned_outlined_and_classified(cases: dict[str, Case]) -> None:
    case = cases["ovary"]
    assert case.state == "delivered"
    report = case.only(SR)
    said = str(report)
    assert " of ovary" in said and "not for diagnostic use" in said.lower()
    assert "High-grade" not in said, "research only, unless a rule asks for it"
    [(uid, points)] = outlines_of(report).items()
    assert len(points) > 4
    assert np.allclose(drawn_in(case.only(STATE))[uid], points, atol=0.01)
    assert case.picture("AI cleaned image").BurnedInAnnotation == "NO"


def test_the_segments_are_the_lesion_and_what_was_removed(cases: dict[str, Case]) -> None:
    segments = [
        ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning
        for ds in cases["ovary"].results
        if ds.SOPClassUID == SEG
    ]
    assert "Lesion" in segments and len(segments) == 2


def test_picture_and_heat_map_are_drawn_on_the_cleaned_image(cases: dict[str, Case]) -> None:
    for words in ("AI annotated image", "AI heat map"):
        assert cases["ovary"].picture(words).SyntheticData == "YES"


def test_the_head_of_a_fetus_is_not_classified_also_where_the_header_says_ovary(
    cases: dict[str, Case],
) -> None:
    assert cases["head"].state == "not_applicable"
    assert cases["head"].results == ()
