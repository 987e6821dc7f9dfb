"""Images in every form: to the node, and back with what others can read, without burned-in names."""

from __future__ import annotations

import io
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from pynetdicom.dsutils import decode

from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, SyntaxKind, TransferSyntax
from tests.chest_lab import CHESTS
from tests.chest_lab import write as write_chest
from tests.modality import chest, part_10, ultrasound_from
from tests.node_lab import ULTRASOUND, Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.ultrasound_lab import ENCODINGS, SECRETS, Reader, decoded, write
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import start_orthanc

pytestmark = [
    pytest.mark.debian("orthanc", "dcmtk", "dicom3tools"),
    pytest.mark.timeout(1800),
]
RULE = rule("chest_xray", 'modality = ["CR", "DX"]')
KINDS = ("sr", "gsps", "sc", "seg", "cleaned")
SR, SEG, STATE = ("1.2.840.10008.5.1.4.1.1." + end for end in ("88.34", "66.4", "11.2"))
ENDS = ("delivered", "not_applicable", "quarantined", "failed")
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


@dataclass(frozen=True)
class Case:
    """An image as it was sent, and what the PACS holds of its study afterwards."""

    file: bytes
    row: dict[str, Any]
    held: dict[str, bytes] = field(repr=False)

    @property
    def source(self) -> Dataset:
        return dcmread(io.BytesIO(self.file))

    def results(self) -> list[Dataset]:
        """All but the source."""
        own = self.source.SOPInstanceUID
        return [dcmread(io.BytesIO(data)) for uid, data in self.held.items() if uid != own]

    def cleaned(self) -> Dataset:
        """The one cleaned picture."""
        [found] = [ds for ds in self.results() if ds.SeriesDescription.startswith("AI cleaned image")]
        return found

    def mask(self) -> np.ndarray:
        """What the segmentation marks, ``[rows, columns]``."""
        [found] = [ds for ds in self.results() if ds.SOPClassUID == SEG]
        return np.asarray(found.pixel_array).reshape(found.Rows, found.Columns) > 0


@dataclass(frozen=True)
class Site:
    """One run of the node for all forms, stopped by now."""

    cases: dict[str, Case]
    told: str = field(repr=False)  # all that the node logged and its commands show


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Site:
    """Without forms that differ by a lossless syntax alone: see tests/unit/ai_pipeline/images."""
    folder = tmp_path_factory.mktemp("formats")
    written = {name: write(encoding, folder) for name, encoding in ENCODINGS.items()}
    film = cv2.imread(str(data / "cxr_nih" / "images" / "00000032_037.jpg"), cv2.IMREAD_GRAYSCALE)
    if film is not None:
        # The pipeline takes 128 pixels and more, and one form leaves out a fifth of the rows.
        film = cv2.resize(film, (160, 160), interpolation=cv2.INTER_AREA)
        written |= {kind: write_chest(kind, film, folder) for kind in CHESTS}
    port = free_port()
    with start_orthanc(folder / "orthanc", modalities={"node": ("AINODE", "127.0.0.1", port)}) as pacs:
        config = site_config(pacs.dicom_port, RULE + ULTRASOUND, KINDS, ae_title=pacs.ae_title)
        node = Node(folder / "node", config, port=port)
        with running(node):
            ids = [pacs.upload(path.read_bytes())["ID"] for path in written.values()]
            pacs.call("POST", "/modalities/node/store", json.dumps(ids).encode())
            rows = node.wait_for(ENDS, count=len(ids))
            shown = everything_shown(node)
        held = {uid: pacs.fetch(uid) for uid in pacs.instances()}
    study_of = lambda file: dcmread(file, stop_before_pixels=True).StudyInstanceUID
    by_study: dict[str, dict[str, bytes]] = defaultdict(dict)
    for uid, data_set in held.items():
        by_study[study_of(io.BytesIO(data_set))][uid] = data_set
    studies = {name: study_of(path) for name, path in written.items()}
    cases = {
        name: Case(written[name].read_bytes(), rows[uid], by_study[uid]) for name, uid in studies.items()
    }
    return Site(cases, shown)


@pytest.fixture
def case(request: pytest.FixtureRequest, site: Site) -> Case:
    found = site.cases[request.param]
    assert found.row["state"] == "delivered", found.row
    return found


def everything_shown(node: Node) -> str:
    """The log, and what the commands say of studies, jobs, deliveries and events."""
    lists = ("studies", "jobs", "outbox", "events")
    said = [json.dumps(node.cli(noun, "list", "--limit", "0"), ensure_ascii=False) for noun in lists]
    said += [node.run("studies", "show", str(uid)).stdout for uid in node.studies()]
    journal = [path.read_text(errors="replace") for path in (node.folder / "var").rglob("*.jsonl")]
    return "\n".join([node.log.read_text(encoding="utf-8"), *said, *journal])


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.mark.data
@pytest.mark.parametrize("case", CHESTS, indirect=True)
def test_it_comes_back_with_a_report_that_highdicom_reads_and_validators_find_no_error(
    case: Case, tmp_path: Path
) -> None:
    source, path = case.source, tmp_path / "object.dcm"
    assert case.held[source.SOPInstanceUID] == case.file
    [report] = [ds for ds in case.results() if ds.Modality == "SR"]
    read = hd.sr.srread(io.BytesIO(case.held[report.SOPInstanceUID]))
    assert read.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for ds in case.results():
        assert (ds.PatientName, ds.PatientID) == (source.PatientName, source.PatientID)
        path.write_bytes(case.held[ds.SOPInstanceUID])
        assert dciodvfy_errors(path) == []
        if ds.SOPClassUID == PRESENTATION_STATE:
            command = ["dcmpschk", str(path)]
            checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert checked.returncode == 0 and "error" not in checked.stdout.lower(), checked.stdout
        if ds.Modality == "SEG":
            assert "PixelAspectRatio" not in ds


@pytest.mark.parametrize("case", ENCODINGS, indirect=True)
def test_it_comes_back_cleaned_in_a_series_of_its_own_and_every_pixel_outside_the_mask_is_the_source_s(
    case: Case, tmp_path: Path
) -> None:
    source, cleaned = case.source, case.cleaned()
    assert case.held[source.SOPInstanceUID] == case.file
    assert cleaned.SeriesInstanceUID != source.SeriesInstanceUID
    assert cleaned.BurnedInAnnotation == "NO"
    assert cleaned.get("PatientIdentityRemoved") != "YES"
    assert int(cleaned.get("NumberOfFrames") or 1) == int(source.get("NumberOfFrames") or 1)
    assert (cleaned.Rows, cleaned.Columns) == (source.Rows, source.Columns)
    assert (cleaned.PatientName, cleaned.PatientID) == (source.PatientName, source.PatientID)
    before, after, mask = decoded(case.file), decoded(part_10(cleaned)), case.mask()
    assert before.shape == after.shape and before.dtype == after.dtype
    assert np.array_equal(before[:, ~mask], after[:, ~mask])
    assert 0 < mask.mean() < 0.25
    for ds in case.results():
        (tmp_path / "object.dcm").write_bytes(part_10(ds))
        assert dciodvfy_errors(tmp_path / "object.dcm") == []


@pytest.mark.parametrize("case", ENCODINGS, indirect=True)
def test_a_reader_finds_no_name_no_date_and_no_number(case: Case, reader: Reader) -> None:
    inverted = case.source.PhotometricInterpretation == "MONOCHROME1"
    before, after = (shown(decoded(file), inverted) for file in (case.file, part_10(case.cleaned())))
    assert reader.secrets(before[0]) == list(SECRETS)
    for frame in {0, len(after) // 2}:
        assert reader.secrets(after[frame]) == []


def test_nothing_that_the_node_says_repeats_what_was_burned_in(site: Site) -> None:
    assert "[6002] ready" in site.told
    assert [secret for secret in SECRETS if secret in site.told] == []
    for case in site.cases.values():
        results = [data for data in case.held.values() if data != case.file]
        assert [secret for secret in SECRETS for data in results if secret.encode() in data] == []


def shown(samples: np.ndarray, inverted: bool) -> np.ndarray:
    """8-bit samples, bright where a viewer shows them bright."""
    eight = (samples >> 8).astype(np.uint8) if samples.dtype == np.uint16 else samples
    return 255 - eight if inverted else eight


RULES = rule("ovarian", 'modality = "US", body_part = "OVARY"', "heatmaps = true")
RESULTS = ("sr", "gsps", "sc", "heatmap", "cleaned", "seg")
OVARY = "us_ovarian/images/otu_0435.jpg"
HEAD = "us_fetal_head/images/006_HC.jpg"


@dataclass(frozen=True)
class Sent:
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
def sent_studies(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[dict[str, Sent]]:
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
            rows = node.wait_for(ENDS, count=len(sent))
    held = [received_as(encoded, pacs.syntaxes[uid]) for uid, encoded in pacs.stored.items()]
    yield {
        name: Sent(
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


def received_as(encoded: bytes, syntax: str) -> Dataset:
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


@pytest.mark.data
def test_an_ovary_comes_back_cleaned_outlined_and_classified(
    sent_studies: dict[str, Sent],
) -> None:
    case = sent_studies["ovary"]
    assert case.state == "delivered"
    report = case.only(SR)
    said = str(report)
    assert " of ovary" in said and "not for diagnostic use" in said.lower()
    assert "High-grade" not in said, "research only, unless a rule asks for it"
    assert case.only(STATE).GraphicAnnotationSequence
    assert case.picture("AI cleaned image").BurnedInAnnotation == "NO"
    segments = [
        ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning
        for ds in case.results
        if ds.SOPClassUID == SEG
    ]
    assert "Lesion" in segments and len(segments) == 2, "what was removed is the other one"
    for words in ("AI annotated image", "AI heat map"):
        assert case.picture(words).SyntheticData == "YES"


@pytest.mark.data
def test_the_head_of_a_fetus_is_not_classified_also_where_the_header_says_ovary(
    sent_studies: dict[str, Sent],
) -> None:
    assert sent_studies["head"].state == "not_applicable"
    assert sent_studies["head"].results == ()


TRIED = TRANSFER_SYNTAXES[::4]
JPEG_XL = "1.2.840.10008.1.2.4.110"


def coded(ds: Dataset, syntax: str) -> Dataset:
    """The object in this syntax, as far as a header goes: its frame is no code stream."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([b"\xff\x0a" + bytes(100)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def picture(name: str, number: int = 1) -> Dataset:
    return ultrasound_from(name, np.full((48, 64, 3), 90, np.uint8), number=number)


@dataclass(frozen=True)
class Coded:
    """A node that got every study, and its PACS."""

    node: Node
    pacs: Pacs

    def row(self, name: str) -> dict[str, object]:
        return self.node.studies()[picture(name).StudyInstanceUID]

    def reports(self, name: str) -> list[Dataset]:
        held = (dcmread(io.BytesIO(data), force=True) for data in self.pacs.stored.values())
        return [ds for ds in held if ds.StudyInstanceUID == picture(name).StudyInstanceUID]


@pytest.fixture(scope="module")
def coded_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coded]:
    pacs = Pacs(free_port())
    node = Node(
        tmp_path_factory.mktemp("syntaxes"), site_config(pacs.port, ULTRASOUND, senders=("MODALITY",))
    )
    images = [coded(picture(one.uid), one.uid) for one in TRIED if one.is_encapsulated]
    mixed = [picture("mixed"), coded(picture("mixed", number=2), JPEG_XL)]
    # Not of the rule: what matters is that it is no fault.
    uncompressed = [native(one) for one in TRIED if not one.is_encapsulated]
    with run_pacs(pacs), running(node):
        for group in (images, mixed, uncompressed):
            assert set(store(node.port, list(group), "MODALITY")) == {0}
        node.wait_for(ENDS, len(images + uncompressed) + 1)
        yield Coded(node, pacs)


def texts(report: Dataset) -> str:
    return "\n".join(str(element.value) for element in report.iterall() if element.keyword == "TextValue")


def native(one: TransferSyntax) -> Dataset:
    ds = chest(one.uid, np.full((8, 8), 0x0101, np.uint16))
    ds.file_meta.TransferSyntaxUID = UID(one.uid)
    return ds


def test_an_image_that_is_not_decoded_is_kept_and_the_pacs_gets_a_report_that_says_so(
    coded_site: Coded,
) -> None:
    """No syntax that is negotiated is a fault."""
    kept = [one for one in TRIED if one.kind in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)]
    assert len(kept) > 6
    for one in kept:
        row, reports = coded_site.row(one.uid), coded_site.reports(one.uid)
        words = "".join(texts(report) for report in reports)
        assert (row["instances"], len(reports)) == (1, 1)
        assert "AI did not run: cannot be decoded: its transfer syntax" in words
        assert one.uid in words and one.name.removesuffix(" (Retired)") in words
    for one in TRIED:
        state = "failed" if one.is_encapsulated else "not_applicable"
        assert coded_site.row(one.uid)["state"] == state, one


def test_of_a_study_that_decodes_in_part_the_report_names_the_rest(
    coded_site: Coded,
) -> None:
    assert coded_site.row("mixed")["state"] == "delivered"
    [report] = coded_site.reports("mixed")
    assert "1 of the images not analysed: cannot be decoded: its transfer syntax JPEG XL" in texts(report)
