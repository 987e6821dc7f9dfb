"""What honest programs write goes to the PACS, bound to the right patient, and other readers accept it."""

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.dicom.uids import is_own_result
from dicom_node.results.dataset import encode_in_charset_of
from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.verdict import Verdict
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import STUDY, derived_slice, judged, said, verdict_on
from tests.validators import dciodvfy_errors

READERS = Readers(lambda _picture: [], lambda _document: ["AI report"])
MAKERS = (
    makers.segmentation,
    makers.label_map,
    makers.parametric_map,
    makers.report,
    makers.text_report,
    makers.presentation,
    makers.picture,
    makers.key_objects,
    makers.pdf,
    makers.structure_set,
    derived_slice,
)
# dciodvfy of 2022 knows no label maps (PS3.3 A.51 of 2024).
_KNOWN_TO_DCIODVFY = [one for one in MAKERS if one is not makers.label_map]


def sent(make: Callable[[], Dataset], folder: Path) -> Path:
    """The file that would be sent."""
    found = verdict_on(make(), readers=READERS)
    assert found.dataset is not None, said(found)
    path = folder / "sent.dcm"
    path.write_bytes(encode_in_charset_of(found.dataset, Dataset()))
    return path


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_an_honest_object_goes(make: Callable[[], Dataset]) -> None:
    found = verdict_on(make(), readers=READERS)
    assert found.verdict is Verdict.GOES, said(found)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_it_is_of_the_patient_and_study_of_the_call(make: Callable[[], Dataset], tmp_path: Path) -> None:
    read = dcmread(sent(make, tmp_path))
    assert (read.PatientID, str(read.PatientName), read.StudyInstanceUID) == ("PID-1", "Ōta^Jane", STUDY)
    assert read.SpecificCharacterSet == "ISO_IR 192"
    assert is_own_result(read)


@pytest.mark.parametrize("make", _KNOWN_TO_DCIODVFY, ids=lambda make: make.__name__)
def test_dciodvfy_finds_no_error_in_what_is_sent(make: Callable[[], Dataset], tmp_path: Path) -> None:
    assert dciodvfy_errors(sent(make, tmp_path)) == []


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (makers.segmentation, hd.seg.segread),
        (makers.label_map, hd.seg.segread),
        (makers.report, hd.sr.srread),
    ],
    ids=["segmentation", "label map", "report"],
)
def test_highdicom_reads_what_is_sent(
    make: Callable[[], Dataset], read: Callable[[Path], Dataset], tmp_path: Path
) -> None:
    assert read(sent(make, tmp_path)).StudyInstanceUID == STUDY


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_two_runs_with_new_uids_make_one_object(make: Callable[[], Dataset]) -> None:
    first, again = (verdict_on(make(), readers=READERS).dataset for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.SOPInstanceUID == again.SOPInstanceUID
    assert first.SeriesInstanceUID == again.SeriesInstanceUID


def test_all_kinds_in_one_answer_go() -> None:
    answer = judged(*(make() for make in MAKERS), readers=READERS)
    assert answer.verdict is Verdict.GOES, "\n".join(map(said, answer.objects))
