"""The inspection takes every transfer syntax that is negotiated; the PACS reads what is not decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, SegmentationStorage

from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, SyntaxKind, TransferSyntax
from dicom_node.dicom.uids import derived_uid
from tests.modality import chest, ultrasound_from
from tests.node_lab import ULTRASOUND, Node, running, site_config, store
from tests.pacs_lab import Pacs, free_port, run_pacs

pytestmark = pytest.mark.timeout(900)

KEPT = [one for one in TRANSFER_SYNTAXES if one.kind in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)]
NEWEST = (
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.8.1",
)


def coded(ds: Dataset, syntax: str) -> Dataset:
    """The object in this syntax, as far as a header goes: its frame is no code stream."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([b"\xff\x0a" + bytes(100)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def picture(name: str, number: int = 1) -> Dataset:
    return ultrasound_from(name, np.full((48, 64, 3), 90, np.uint8), number=number)


def segmentation(image: Dataset, syntax: str) -> Dataset:
    """One beside the image, which is kept only."""
    ds = picture(image.PatientID.removeprefix("ID-"), number=9)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    ds.Modality, ds.SeriesInstanceUID = "SEG", derived_uid("segmentation", image.SeriesInstanceUID)
    return coded(ds, syntax)


@dataclass(frozen=True)
class Site:
    """A node that got every study, and its PACS."""

    node: Node
    pacs: Pacs

    def row(self, name: str) -> dict[str, object]:
        return self.node.studies()[picture(name).StudyInstanceUID]

    def reports(self, name: str) -> list[Dataset]:
        held = (dcmread(io.BytesIO(data), force=True) for data in self.pacs.stored.values())
        return [ds for ds in held if ds.StudyInstanceUID == picture(name).StudyInstanceUID]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pacs = Pacs(free_port())
    node = Node(
        tmp_path_factory.mktemp("syntaxes"), site_config(pacs.port, ULTRASOUND, senders=("MODALITY",))
    )
    images = [coded(picture(one.uid), one.uid) for one in TRANSFER_SYNTAXES if one.is_encapsulated]
    beside = [(picture(f"seg-{uid}"), segmentation(picture(f"seg-{uid}"), uid)) for uid in NEWEST]
    mixed = [picture("mixed"), coded(picture("mixed", number=2), NEWEST[0])]
    # Not of the rule: what matters is that it is no fault.
    uncompressed = [native(one) for one in TRANSFER_SYNTAXES if not one.is_encapsulated]
    with run_pacs(pacs), running(node):
        for group in (images, *beside, mixed, uncompressed):
            assert set(store(node.port, list(group), "MODALITY")) == {0}
        node.wait_for(
            ("delivered", "failed", "quarantined", "not_applicable"), len(images + uncompressed) + 5
        )
        yield Site(node, pacs)


def texts(report: Dataset) -> str:
    return "\n".join(str(element.value) for element in report.iterall() if element.keyword == "TextValue")


def native(one: TransferSyntax) -> Dataset:
    ds = chest(one.uid, np.full((8, 8), 0x0101, np.uint16))
    ds.file_meta.TransferSyntaxUID = UID(one.uid)
    return ds


def test_an_image_that_is_not_decoded_is_kept_and_the_pacs_gets_a_report_that_says_so(site: Site) -> None:
    def is_reported(one: TransferSyntax) -> bool:
        row, reports = site.row(one.uid), site.reports(one.uid)
        words = "".join(texts(report) for report in reports)
        reason = "AI did not run: cannot be decoded: its transfer syntax"
        named = one.uid in words and one.name.removesuffix(" (Retired)") in words
        return (
            (row["state"], row["instances"], len(reports)) == ("failed", 1, 1) and reason in words and named
        )

    assert len(KEPT) > 30
    assert [one.name for one in KEPT if not is_reported(one)] == []


def test_a_segmentation_that_is_kept_only_takes_no_study_with_it(site: Site) -> None:
    rows = {uid: site.row(f"seg-{uid}") for uid in NEWEST}
    found = {
        uid: (row["state"], row["instances"], len(site.reports(f"seg-{uid}"))) for uid, row in rows.items()
    }
    assert found == dict.fromkeys(NEWEST, ("delivered", 2, 1))


def test_of_a_study_that_decodes_in_part_the_report_names_the_rest(site: Site) -> None:
    assert site.row("mixed")["state"] == "delivered"
    [report] = site.reports("mixed")
    assert "1 of the images not analysed: cannot be decoded: its transfer syntax JPEG XL" in texts(report)


def test_no_syntax_that_is_negotiated_is_a_fault(site: Site) -> None:
    for one in TRANSFER_SYNTAXES:
        assert site.row(one.uid)["state"] == ("failed" if one.is_encapsulated else "not_applicable"), one
