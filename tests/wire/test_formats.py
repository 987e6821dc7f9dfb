"""Images in every form to the node, and back with what others read; a site with a real Orthanc."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import psutil
import pytest
from dicomweb_client.api import DICOMwebClient
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import decode

from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES, SyntaxKind
from dicom_node.people import demo
from tests import wheels
from tests.example_lab import FILM
from tests.forked import Forked
from tests.modality import (
    add_overlay,
    assign,
    chest,
    data_set,
    name_in_japanese,
    part_10,
    quick_ultrasound,
    ultrasound_from,
)
from tests.node_lab import ULTRASOUND, Node, rule, running, site_config, store, wait_until
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.ultrasound_lab import ENCODINGS, SECRETS, Reader, decoded, write
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, needs_orthanc, start_orthanc

pytestmark = pytest.mark.timeout(1800)
JUDGED = pytest.mark.debian("dcmtk", "dicom3tools")

Change = Callable[[Dataset], None]


def write_chest(kind: str, film: np.ndarray, folder: Path) -> Path:
    """The film, uint8 of even sides, in this form as a file."""
    ds = chest(f"chest-{kind}", film.astype(np.uint16) << 4)
    path = folder / f"{kind}.dcm"
    CHESTS[kind](ds)
    ds.save_as(path, enforce_file_format=True)
    if kind.startswith("jpeg-lossless"):  # pydicom has no encoder
        subprocess.run(["dcmcjpeg", "+e1", str(path), str(path)], check=True, timeout=60)
    return path


def _stored(ds: Dataset, pixels: np.ndarray, bits: int) -> None:
    ds.PixelData = pixels.tobytes()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixels.itemsize * 8, bits, bits - 1
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"


def _inverted(ds: Dataset) -> None:
    _stored(ds, (4095 - ds.pixel_array).astype(np.uint16), 12)
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"


def _signed(ds: Dataset) -> None:
    _stored(ds, ds.pixel_array.astype(np.int16) - 2048, 12)
    ds.PixelRepresentation, ds.RescaleIntercept = 1, 2048


def _depth(ds: Dataset, bits: int) -> None:
    pixels = ds.pixel_array.astype(np.int64) * (2**bits - 1) // 4095
    _stored(ds, pixels.astype(np.uint8 if bits == 8 else np.uint16), bits)
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits


def _voi_lut(ds: Dataset) -> None:
    """A table in place of the window (PS3.3 C.11.2)."""
    del ds.WindowCenter, ds.WindowWidth
    table = (np.sqrt(np.linspace(0, 1, 4096)) * 65535).astype("<u2")
    item = data_set(LUTDescriptor=[4096, 0, 16], LUTData=table.tobytes())
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    ds.VOILUTSequence = [item]


def _modality_lut(ds: Dataset) -> None:
    """A table in place of slope and intercept, as CR has it (PS3.3 C.11.1)."""
    _computed(ds)
    ds.WindowCenter, ds.WindowWidth = 32768, 65536
    del ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType
    table = (np.arange(4096, dtype="<u2") * 16 + 15).tobytes()
    item = data_set(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=table)
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    ds.ModalityLUTSequence = [item]


def _shutter(ds: Dataset) -> None:
    assign(
        ds,
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=10,
        ShutterRightVerticalEdge=ds.Columns - 10,
        ShutterUpperHorizontalEdge=10,
        ShutterLowerHorizontalEdge=ds.Rows - 10,
        ShutterPresentationValue=0,
    )


def _computed(ds: Dataset) -> None:
    """Computed radiography: another class, Laterality of the series, no detector."""
    ds.Modality = "CR"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    for keyword in set(ds.dir()) & {
        *("PresentationIntentType", "ImageLaterality", "DetectorType", "PositionerType"),
        *("AcquisitionContextSequence", "AnatomicRegionSequence", "PresentationLUTShape"),
        *("PixelIntensityRelationship", "PixelIntensityRelationshipSign"),
    }:
        delattr(ds, keyword)
    ds.Laterality = ""


def _oblong(ds: Dataset) -> None:
    """Pixels a quarter higher than wide, by their ratio alone."""
    _computed(ds)
    del ds.ImagerPixelSpacing
    _stored(ds, np.delete(ds.pixel_array, np.s_[::5], axis=0), 12)
    ds.Rows, ds.PixelAspectRatio = ds.Rows - len(range(0, ds.Rows, 5)), [5, 4]


def _together(*changes: Change) -> Change:
    """What can stand in one film is analysed once."""

    def change(ds: Dataset) -> None:
        for one in changes:
            one(ds)

    return change


CHESTS: Mapping[str, Change] = {
    "jpeg-lossless-8-bit": partial(_depth, bits=8),
    "inverted-signed": _together(_inverted, _signed),
    "voi-lut-shutter-overlay-japanese": _together(_voi_lut, _shutter, add_overlay, name_in_japanese),
    "cr-modality-lut-oblong": _together(_modality_lut, _oblong),
}


KINDS = ("sr", "gsps", "sc", "seg", "heatmap", "cleaned")
EVEN_WITHOUT_A_CALL = f"no_call = {json.dumps(KINDS)}\n"
RULES = EVEN_WITHOUT_A_CALL.join(
    (
        rule("chest_xray", 'modality = ["CR", "DX"]'),
        rule("ultrasound", 'modality = "US", calling_ae = "ROOM1"'),
        rule("ovarian", 'modality = "US", calling_ae = "ROOM3"', "heatmaps = true"),
        "",
    )
)
SR, SEG, GREY_STATE, COLOUR_STATE = (
    "1.2.840.10008.5.1.4.1.1." + end for end in ("88.34", "66.4", "11.1", "11.2")
)
OF_ROOM_3 = {"ovary": "us_ovarian/images/otu_0435.jpg", "head": "us_fetal_head/images/006_HC.jpg"}
NOT_DECODED = "1.2.840.10008.1.2.4.92"
TRIED = TRANSFER_SYNTAXES[7::7]
assert all(one.is_encapsulated for one in TRIED)


@dataclass(frozen=True)
class Case:
    """An image as it was sent, the row of its study, and what the PACS was sent of it."""

    source: Dataset
    row: dict[str, Any]
    results: tuple[Dataset, ...] = field(repr=False)

    def only(self, sop_class: str) -> Dataset:
        """The one object of a SOP class."""
        [found] = [ds for ds in self.results if sop_class == ds.SOPClassUID]
        return found

    def picture(self, words: str) -> Dataset:
        """The one picture whose Series Description begins with ``words``."""
        pictures = [ds for ds in self.results if "PixelData" in ds]
        [found] = [ds for ds in pictures if ds.SeriesDescription.startswith(words)]
        return found


@dataclass(frozen=True)
class Site:
    """One run of the node for all forms, stopped by now."""

    cases: dict[str, Case]
    told: str = field(repr=False)  # all that the node logged, its commands show, and its results hold


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Site:
    """Every network is loaded once."""
    folder = tmp_path_factory.mktemp("formats")
    sent = {name: [dcmread(write(encoding, folder))] for name, encoding in ENCODINGS.items()}
    sent |= {one.uid: [coded(small(one.uid), one.uid)] for one in TRIED}
    sent["mixed"] = [small("mixed"), coded(small("mixed", number=2), NOT_DECODED)]
    if (film := cv2.imread(str(data / "cxr_nih/images/00000032_037.jpg"), cv2.IMREAD_GRAYSCALE)) is not None:
        # The pipeline takes 128 pixels and more, and one form leaves out a fifth of the rows.
        film = cv2.resize(film, (160, 160), interpolation=cv2.INTER_AREA)
        sent |= {kind: [dcmread(write_chest(kind, film, folder))] for kind in CHESTS}
    for name, file in OF_ROOM_3.items():
        if (pixels := cv2.imread(str(data / file))) is not None:
            cv2.putText(pixels, "KOWALSKA MARIA", (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
            sent[name] = [ultrasound_from(name, np.ascontiguousarray(pixels[..., ::-1], np.uint8))]
    with (
        run_pacs(Pacs()) as pacs,
        running(
            Node(folder / "node", site_config(pacs.port, RULES, KINDS, senders=("ROOM1", "ROOM3")))
        ) as node,
    ):
        for name, images in sent.items():
            assert set(store(node.port, images, "ROOM3" if name in OF_ROOM_3 else "ROOM1")) == {0x0000}
        rows = node.wait_for(("delivered", "not_applicable", "quarantined", "failed"), count=len(sent))
        told = everything_shown(node) + "".join(map(str, pacs.stored.values()))
    held = [received_as(encoded, pacs.syntaxes[uid]) for uid, encoded in pacs.stored.items()]
    cases = {}
    for name, (source, *_) in sent.items():
        uid = source.StudyInstanceUID
        cases[name] = Case(source, rows[uid], tuple(ds for ds in held if uid == ds.StudyInstanceUID))
    return Site(cases, told)


def small(name: str, number: int = 1) -> Dataset:
    return ultrasound_from(name, np.full((48, 64, 3), 90, np.uint8), number=number)


def coded(ds: Dataset, syntax: str) -> Dataset:
    """The object in this syntax, as far as a header goes: its frame is no code stream."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([b"\xff\x0a" + bytes(100)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def received_as(encoded: bytes, syntax: str) -> Dataset:
    """A data set as it came by C-STORE, whose pixels can be decoded."""
    uid = UID(syntax)
    ds = decode(io.BytesIO(encoded), uid.is_implicit_VR, uid.is_little_endian)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid
    return ds


def everything_shown(node: Node) -> str:
    """The log, and what the commands say of studies, jobs, deliveries and events."""
    lists = ("studies", "jobs", "outbox", "events")
    said = [json.dumps(node.cli(noun, "list", "--limit", "0"), ensure_ascii=False) for noun in lists]
    said += [node.run("studies", "show", str(uid)).stdout for uid in node.studies()]
    journal = [path.read_text(errors="replace") for path in (node.folder / "var").rglob("*.jsonl")]
    return "\n".join([node.log.read_text(encoding="utf-8"), *said, *journal])


@pytest.fixture
def case(request: pytest.FixtureRequest, site: Site) -> Case:
    if request.param not in site.cases:
        pytest.skip("the public image sets are fetched apart (--data)")
    return site.cases[request.param]


def judge(case: Case, path: Path) -> None:
    """Delivered, of the source's patient, and without an error in the eyes of others."""
    assert case.row["state"] == "delivered", case.row
    assert SR in {ds.SOPClassUID for ds in case.results}
    for ds in case.results:
        assert (ds.PatientName, ds.PatientID) == (case.source.PatientName, case.source.PatientID)
        path.write_bytes(part_10(ds))
        assert dciodvfy_errors(path) == []
        if ds.SOPClassUID == GREY_STATE:
            command = ["dcmpschk", str(path)]
            checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert checked.returncode == 0, checked.stdout
            assert "error" not in checked.stdout.lower(), checked.stdout


@JUDGED
@pytest.mark.data
@pytest.mark.parametrize("case", CHESTS, indirect=True)
def test_it_comes_back_with_a_report_that_highdicom_reads_and_validators_find_no_error(
    case: Case, tmp_path: Path
) -> None:
    judge(case, tmp_path / "object.dcm")
    assert GREY_STATE in {ds.SOPClassUID for ds in case.results}
    report = hd.sr.srread(io.BytesIO(part_10(case.only(SR))))
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert not any("PixelAspectRatio" in ds for ds in case.results if ds.SOPClassUID == SEG)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@JUDGED
@pytest.mark.parametrize("case", ENCODINGS, indirect=True)
def test_it_comes_back_cleaned_in_a_series_of_its_own_and_every_pixel_outside_the_mask_is_the_source_s(
    case: Case, reader: Reader, tmp_path: Path
) -> None:
    """A reader finds no name, no date and no number in it."""
    judge(case, tmp_path / "object.dcm")
    source, cleaned, marked = case.source, case.picture("AI cleaned image"), case.only(SEG)
    assert cleaned.SeriesInstanceUID != source.SeriesInstanceUID
    assert cleaned.BurnedInAnnotation == "NO"
    assert cleaned.get("PatientIdentityRemoved") != "YES"
    before, after = decoded(part_10(source)), decoded(part_10(cleaned))
    mask = np.asarray(marked.pixel_array).reshape(marked.Rows, marked.Columns) > 0
    assert before.shape == after.shape
    assert before.dtype == after.dtype
    assert np.array_equal(before[:, ~mask], after[:, ~mask])
    assert 0 < mask.mean() < 0.25
    frame, inverted = len(after) // 2, source.PhotometricInterpretation == "MONOCHROME1"
    assert reader.secrets(shown(before[frame], inverted)) == list(SECRETS)
    assert reader.secrets(shown(after[frame], inverted)) == []


def shown(samples: np.ndarray, inverted: bool) -> np.ndarray:
    """8-bit samples, bright where a viewer shows them bright."""
    eight = (samples >> 8).astype(np.uint8) if samples.dtype == np.uint16 else samples
    return 255 - eight if inverted else eight


@JUDGED
def test_nothing_that_the_node_says_repeats_what_was_burned_in(site: Site) -> None:
    assert "[6002] ready" in site.told
    assert [secret for secret in SECRETS if secret in site.told] == []


@JUDGED
@pytest.mark.data
@pytest.mark.parametrize("case", ["ovary"], indirect=True)
def test_an_ovary_comes_back_cleaned_outlined_and_classified(case: Case) -> None:
    assert case.row["state"] == "delivered"
    said = str(case.only(SR))
    assert " of ovary" in said
    assert "not for diagnostic use" in said.lower()
    assert "High-grade" not in said, "research only, unless a rule asks for it"
    assert case.only(COLOUR_STATE).GraphicAnnotationSequence
    assert case.picture("AI cleaned image").BurnedInAnnotation == "NO"
    segments = [
        ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning
        for ds in case.results
        if ds.SOPClassUID == SEG
    ]
    assert "Lesion" in segments, "what was removed is the other one"
    assert len(segments) == 2, "what was removed is the other one"
    for words in ("AI annotated image", "AI heat map"):
        assert case.picture(words).SyntheticData == "YES"


@JUDGED
@pytest.mark.data
@pytest.mark.parametrize("case", ["head"], indirect=True)
def test_the_head_of_a_fetus_is_not_classified_also_where_the_header_says_ovary(case: Case) -> None:
    assert case.source.BodyPartExamined == "OVARY"
    assert case.row["state"] == "not_applicable"
    assert case.row["reason"]
    assert case.results == ()


def texts(report: Dataset) -> str:
    return "\n".join(str(element.value) for element in report.iterall() if element.keyword == "TextValue")


@JUDGED
def test_an_image_that_is_not_decoded_is_kept_and_the_pacs_gets_a_report_that_says_so(site: Site) -> None:
    """No syntax that is negotiated is a fault; of a study that decodes in part the report names the rest."""
    kept = [one for one in TRIED if one.kind in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)]
    assert len(kept) > 4
    for one in TRIED:
        case = site.cases[one.uid]
        assert (case.row["state"], case.row["instances"]) == ("failed", 1), one
        words = texts(case.only(SR))
        if one in kept:
            assert "AI did not run: cannot be decoded: its transfer syntax" in words
            assert one.uid in words
            assert one.name.removesuffix(" (Retired)") in words
    mixed = site.cases["mixed"]
    assert mixed.row["state"] == "delivered"
    rest = "1 of the images not analysed: cannot be decoded: its transfer syntax JPEG 2000 Part 2"
    assert rest in texts(mixed.only(SR))


RESULTS = ("sr", "gsps", "cleaned", "seg")


@dataclass(frozen=True)
class Ward:
    """A node with its PACS."""

    node: Node
    pacs: Orthanc

    def end_of(self, study_uid: str) -> dict[str, object]:
        """The study's row once it stands in an end state."""
        ends = ("delivered", "not_applicable", "quarantined", "failed")
        row: dict[str, object] = {}

        def ended() -> bool:
            row.update(self.node.studies().get(study_uid, {}))
            return row.get("state") in ends

        wait_until(
            ended, 300, f"end of study {study_uid}", 0.3, lambda: self.node.log.read_text()[-1500:], row.copy
        )
        return row


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("site")
    with start_orthanc(
        folder / "orthanc", ae_title="PACS", plugins=[DICOMWEB], config={"DicomAlwaysAllowGet": True}
    ) as pacs:
        config = site_config(
            pacs.dicom_port, ULTRASOUND + EVEN_WITHOUT_A_CALL, RESULTS, senders=("MODALITY",)
        )
        node = Node(folder / "node", config)
        with running(node):
            yield Ward(node, pacs)


MODALITIES = {"sr": "SR", "gsps": "PR", "cleaned": "US", "seg": "SEG"}


@dataclass(frozen=True)
class Department:
    """An Orthanc that holds one study with its results, and what was sent."""

    ward: Ward
    image: Dataset
    results: dict[str, str]

    @property
    def study(self) -> str:
        uid: str = self.image.StudyInstanceUID
        return uid

    @property
    def pacs(self) -> Orthanc:
        return self.ward.pacs


@pytest.fixture(scope="module")
def department(ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Department:
    image, file = quick_ultrasound("department"), tmp_path_factory.mktemp("department") / "image.dcm"
    image.save_as(file, enforce_file_format=True)
    for port, called in ((ward.node.port, "AINODE"), (ward.pacs.dicom_port, "PACS")):
        _run("storescu", "-aet", "MODALITY", "-aec", called, "127.0.0.1", port, file)
    study = ward.end_of(image.StudyInstanceUID)
    assert study["state"] == "delivered", study
    results: list[dict[str, str]] = study["results"]  # type: ignore[assignment]
    return Department(ward, image, {one["kind"]: one["sop_instance_uid"] for one in results})


@needs_orthanc
def test_a_dcmtk_modality_sends_and_dcmtk_finds_a_series_of_each_result(department: Department) -> None:
    pacs = department.pacs
    keys = (
        "QueryRetrieveLevel=SERIES",
        f"StudyInstanceUID={department.study}",
        "Modality",
        "SeriesInstanceUID",
    )
    asked = [part for key in keys for part in ("-k", key)]
    said = _run("findscu", "-S", "-aec", "PACS", *asked, "127.0.0.1", pacs.dicom_port)
    assert set(department.results) >= set(MODALITIES)
    for modality in MODALITIES.values():
        assert f"[{modality}" in said


@needs_orthanc
@pytest.mark.parametrize(
    "program", [("getscu", "-S"), (sys.executable, "-m", "pynetdicom", "getscu")], ids=["DCMTK", "pynetdicom"]
)
def test_a_workstation_gets_the_whole_study_as_it_was_sent(
    department: Department, tmp_path: Path, program: tuple[str, ...]
) -> None:
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={department.study}")
    _run(*program, *keys, "-aec", "PACS", "-od", tmp_path, "127.0.0.1", department.pacs.dicom_port)
    _holds_all(department, [dcmread(path) for path in tmp_path.iterdir()])


@needs_orthanc
def test_a_dicomweb_workstation_finds_and_reads_every_result(department: Department) -> None:
    """It sees the cleaned picture, pixel for pixel; highdicom reads the report that came."""
    client = DICOMwebClient(f"{department.pacs.url}/dicom-web")
    found = client.search_for_instances(study_instance_uid=department.study)
    assert len(found) == len(department.results) + 1
    got, report = client.retrieve_study(department.study), BytesIO()
    _holds_all(department, got)
    [sr] = [one for one in got if one.SOPInstanceUID == department.results["sr"]]
    sr.save_as(report, enforce_file_format=True)
    [content] = srread(BytesIO(report.getvalue())).content
    assert content.ContentSequence.find(codes.DCM.Conclusion)
    uid = department.results["cleaned"]
    sent = dcmread(BytesIO(department.pacs.fetch(uid)))
    raw = (("application/octet-stream", ExplicitVRLittleEndian),)
    [frame] = client.retrieve_instance_frames(department.study, sent.SeriesInstanceUID, uid, [1], raw)
    assert np.array_equal(np.frombuffer(frame, np.uint8)[: sent.pixel_array.size], sent.pixel_array.ravel())


def _holds_all(department: Department, got: list[Dataset]) -> None:
    """All objects came, and each is the one that the PACS holds."""
    own = str(department.image.SOPInstanceUID)
    assert {str(one.SOPInstanceUID) for one in got} == {own, *department.results.values()}
    for one in got:
        held = dcmread(BytesIO(department.pacs.fetch(one.SOPInstanceUID)))
        assert held.to_json_dict() == Dataset(one).to_json_dict()


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_orthanc
def test_a_second_run_of_the_demonstration_makes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)
    # Without the rule whose networks would be loaded twice.
    monkeypatch.setattr(demo, "_CONFIG", demo._CONFIG.partition('[[rules]]\nname = "chest"')[0])
    own, out, source = tmp_path / "own", tmp_path / "out", quick_ultrasound("demonstrated")
    own.mkdir()
    source.save_as(own / "image.dcm", enforce_file_format=True)
    faulty = quick_ultrasound("without a UID of its own")
    del faulty.SOPInstanceUID
    faulty.save_as(own / "other.dcm", enforce_file_format=True)

    def perform() -> dict[str, Any]:
        row, other = demo.run(out, own=own, fresh=False, say=lambda _line, **_: None)
        assert other["state"] == "quarantined"
        return row

    first = perform()
    assert first["state"] == "delivered", first
    assert [item["kind"] for item in first["objects"]] == ["cleaned"]
    assert first["seconds_to_pacs"] >= first["quiet_seconds"]
    held = held_by_pacs(out)
    assert set(held.values()) == {1}
    assert str(source.SOPInstanceUID) in held

    second = perform()
    assert second["known_before"]
    assert held_by_pacs(out) == held
    assert second["objects"] == first["objects"]
    told, _ = json.loads((out / "summary.json").read_text(encoding="utf-8"))["studies"]
    assert told == second
    assert told["study_instance_uid"] == str(source.StudyInstanceUID)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Ultrasound: the results are in the PACS",
        "Ultrasound: not analysed, a person must look at it",
        "Next",
    ]
    assert [page.count(f'src="us-1/{name}.png"') for name in ("01-source", "02-cleaned")] == [1, 1]
    assert [len(list((out / "us-1").glob(files))) for files in ("pacs/*.dcm", "*.png")] == [2, 2]


def held_by_pacs(out: Path) -> Counter[str]:
    folder = out / ".site" / "pacs" / "objects"
    return Counter(str(dcmread(path).file_meta.MediaStorageSOPInstanceUID) for path in folder.glob("*.dcm"))


@needs_orthanc
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_demonstration_that_is_stopped_or_killed_leaves_no_process_behind(
    sent: signal.Signals, status: int, tmp_path: Path
) -> None:
    demo = Forked(
        [sys.executable, "-m", "dicom_node", "demo", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    assert any(line.startswith("Node:") for line in demo.stdout)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) >= 3, "node, listener, worker"
    os.kill(demo.pid, sent)
    assert demo.wait(60) == status
    demo.stdout.close()
    assert psutil.wait_procs(children, 60)[1] == []


EXAMPLES = wheels.ROOT / "examples"


@contextmanager
def receiver(folder: Path, port: int) -> Iterator[Callable[[], str]]:
    """``receive.py`` as a process; gives what it has printed."""
    with (folder / "receiver.log").open("w+b") as log:
        command = [sys.executable, EXAMPLES / "receive.py", folder / "received", "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        printed = (folder / "receiver.log").read_text
        try:
            wait_until(lambda: "until Ctrl-C" in printed(encoding="utf-8"), 120, "the receiver")
            yield lambda: printed(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


def test_the_sender_names_what_is_no_dicom_and_ends(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    ended = subprocess.run(
        [sys.executable, EXAMPLES / "send.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"no DICOM: {tmp_path / 'text.dcm'}",
        "there is no DICOM file to send",
    ]


@needs_orthanc
def test_the_film_goes_through_the_node_and_comes_back_as_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README of the examples says: send.py, a node with the example's pipeline, receive.py."""
    wheels.install(wheels.build(wheels.EXAMPLE, tmp_path / "wheel"), tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    _, head, site = (EXAMPLES / "node.toml").read_text(encoding="utf-8").partition("[assembly]")
    assert head
    assert "port = 11113" in site
    port = free_port()
    site = f"{head}{site}[spool]\nminimum_free_mib = 0\n".replace("11113", str(port))
    with receiver(tmp_path, port) as printed, running(Node(tmp_path / "node", site)) as node:
        assert _run(sys.executable, EXAMPLES / "send.py", FILM, "--port", node.port) == f"0000 {FILM}\n"
        node.wait_for(["delivered", "failed"])
        readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
        shown = readme.partition("prints what came back:\n\n```\n")[2].partition("```")[0]
        assert shown.startswith("SR AI findings")
        assert shown in printed()
    [report] = [one for one in map(dcmread, (tmp_path / "received").iterdir()) if one.Modality == "SR"]
    assert report.StudyInstanceUID == dcmread(FILM).StudyInstanceUID
