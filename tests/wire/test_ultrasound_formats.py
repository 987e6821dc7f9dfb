"""Ultrasound in every encoding: from a real Orthanc to the node, and back cleaned with the mask beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.node_lab import ULTRASOUND, Node, running, site_config
from tests.ports import free_port
from tests.ultrasound_lab import ENCODINGS, SECRETS, Reader, decoded, write
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import Returned, objects_by_study, start_orthanc

pytestmark = [pytest.mark.debian("orthanc"), pytest.mark.debian("dcmtk"), pytest.mark.timeout(1800)]

ENDS = ("delivered", "not_applicable", "quarantined", "failed")
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
LOSSY = 1.5  # mean grey levels by which a lossy encoding may differ from what went in


@dataclass(frozen=True)
class Case(Returned):
    """A source with the samples that went into it."""

    samples: np.ndarray

    def cleaned(self) -> Dataset:
        """The one cleaned picture."""
        [found] = [ds for ds in self.results() if ds.SOPClassUID not in {SEGMENTATION, REPORT}]
        return found

    def mask(self) -> np.ndarray:
        """What the segmentation marks, ``[rows, columns]``."""
        [found] = [ds for ds in self.results() if ds.SOPClassUID == SEGMENTATION]
        return np.asarray(found.pixel_array).reshape(found.Rows, found.Columns) > 0


@dataclass(frozen=True)
class Site:
    """One run of the node for all encodings, stopped by now."""

    cases: dict[str, Case]
    told: str = field(repr=False)  # all that the node logged and its commands show


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("formats")
    (folder / "sources").mkdir()
    written = {name: write(encoding, folder / "sources") for name, encoding in ENCODINGS.items()}
    port = free_port()
    where = {"node": ("AINODE", "127.0.0.1", port)}
    with start_orthanc(folder / "orthanc", modalities=where) as pacs:
        config = site_config(pacs.dicom_port, ULTRASOUND, ("sr", "cleaned", "seg"), ae_title=pacs.ae_title)
        node = Node(folder / "node", config, port=port)
        with running(node):
            ids = [pacs.upload(path.read_bytes())["ID"] for path, _ in written.values()]
            pacs.call("POST", "/modalities/node/store", json.dumps(ids).encode())
            rows = node.wait_for(ENDS, count=len(ids))
            shown = everything_shown(node)
        held = objects_by_study(pacs)
    cases = {}
    for name, (path, samples) in written.items():
        study = dcmread(path, stop_before_pixels=True).StudyInstanceUID
        cases[name] = Case(path.read_bytes(), rows[study], held.get(study, {}), samples)
    yield Site(cases, shown)


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


@pytest.fixture(params=ENCODINGS)
def case(request: pytest.FixtureRequest, site: Site) -> Case:
    found = site.cases[request.param]
    assert found.row["state"] == "delivered", found.row
    return found


def test_it_comes_back_cleaned_in_a_series_of_its_own_with_as_many_frames(case: Case) -> None:
    source, cleaned = case.source, case.cleaned()
    assert cleaned.SeriesInstanceUID != source.SeriesInstanceUID
    assert cleaned.BurnedInAnnotation == "NO"
    assert cleaned.get("PatientIdentityRemoved") != "YES"
    assert int(cleaned.get("NumberOfFrames") or 1) == int(source.get("NumberOfFrames") or 1)
    assert (cleaned.Rows, cleaned.Columns) == (source.Rows, source.Columns)
    assert (cleaned.PatientName, cleaned.PatientID) == (source.PatientName, source.PatientID)


def test_outside_the_mask_every_pixel_is_the_source_s(case: Case) -> None:
    before, after, mask = decoded(case.file), decoded(as_bytes(case.cleaned())), case.mask()
    assert before.shape == after.shape and before.dtype == after.dtype
    assert np.array_equal(before[:, ~mask], after[:, ~mask])
    assert 0 < mask.mean() < 0.25


def test_a_reader_finds_no_name_no_date_and_no_number(case: Case, reader: Reader) -> None:
    inverted = case.source.PhotometricInterpretation == "MONOCHROME1"
    before, after = (shown(decoded(file), inverted) for file in (case.file, as_bytes(case.cleaned())))
    assert reader.secrets(before[0]) == list(SECRETS)
    for frame in {0, len(after) // 2}:
        assert reader.secrets(after[frame]) == []


def test_the_source_in_the_pacs_is_the_same_to_the_byte(case: Case) -> None:
    assert case.held[case.source.SOPInstanceUID] == case.file


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_truth_that_the_pixels_are_compared_with_is_what_went_in(name: str, site: Site) -> None:
    case, encoding = site.cases[name], ENCODINGS[name]
    pixels = decoded(case.file)
    if encoding.truth is not None:
        assert np.array_equal(pixels, encoding.truth(case.samples))
    else:
        assert np.abs(pixels.astype(int) - case.samples).mean() <= LOSSY


def test_nothing_that_the_node_says_repeats_what_was_burned_in(site: Site) -> None:
    assert "[6002] ready" in site.told
    assert [secret for secret in SECRETS if secret in site.told] == []
    for case in site.cases.values():
        results = [data for data in case.held.values() if data != case.file]
        assert [secret for secret in SECRETS for data in results if secret.encode() in data] == []


@pytest.mark.debian("dicom3tools")
def test_a_validator_finds_no_error(case: Case, tmp_path: Path) -> None:
    made = list(case.results())
    assert made
    for ds in made:
        path = tmp_path / "object.dcm"
        path.write_bytes(as_bytes(ds))
        assert dciodvfy_errors(path) == []


def as_bytes(ds: Dataset) -> bytes:
    """The data set as a Part 10 file."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def shown(samples: np.ndarray, inverted: bool) -> np.ndarray:
    """8-bit samples, bright where a viewer shows them bright."""
    eight = (samples >> 8).astype(np.uint8) if samples.dtype == np.uint16 else samples
    return 255 - eight if inverted else eight
