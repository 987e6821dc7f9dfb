"""Answers of programs are judged in a process that can do nothing else; the worker parses none of them."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ai_pipeline.confinement import landlock, seccomp
from ai_pipeline.contract import ProgramFile
from ai_pipeline.images.decode import read_object
from dicom_node.base.errors import ResultRefused
from dicom_node.jobs.worker import answer_judge
from dicom_node.jobs.worker.answer_judge import AnswerCall, AnswerJudge, AnswerJudgeLost
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import Verdict
from dicom_node.results.source import SourceObject
from tests.modality import part_10
from tests.result_images import context
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import SLICES, ct_slice, derived_slice, part10
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def judge() -> Iterator[AnswerJudge]:
    made = AnswerJudge()
    yield made
    made.close()


@pytest.fixture
def call(tmp_path: Path) -> AnswerCall:
    """An answer of a derived slice, a segmentation and a picture with text, for a study of four slices."""
    sources = []
    for number in range(1, SLICES + 1):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part_10(ct_slice(number)))
        sources.append(SourceObject(read_object(path), path, f"pixels {number}", "identity"))
    made = {"a.dcm": derived_slice(), "b.dcm": makers.segmentation(), "c.dcm": makers.picture()}
    files = tuple(ProgramFile(name, part10(dataset)) for name, dataset in made.items())
    about = context(pipeline="lung tool", pipeline_version="1.0")
    return AnswerCall(files, about, sources, "lungs", AnswerLimits())


def no_text(_picture: Any) -> list[str]:
    return []


def test_what_goes_comes_back_as_bytes_of_the_patient(judge: AnswerJudge, call: AnswerCall) -> None:
    verdict = judge.judge(call, no_text)
    assert [one.verdict for one in verdict.judged.objects] == [Verdict.GOES] * 3, verdict.judged
    for built in verdict.objects(lambda _uid: False):
        read = dcmread(io.BytesIO(built.data or b""))
        assert read.PatientID == "PID-1"
        assert read.SOPInstanceUID == built.sop_instance_uid


def test_this_process_reads_nothing_of_an_answer(
    judge: AnswerJudge, call: AnswerCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_given: Any) -> None:
        raise AssertionError("a program's file was read here")

    monkeypatch.setattr("dicom_node.results.foreign.answer.parse", read)
    monkeypatch.setattr("dicom_node.results.gate._read", read)
    assert judge.judge(call, no_text).built


def test_text_in_a_picture_is_read_here(judge: AnswerJudge, call: AnswerCall) -> None:
    seen: list[tuple[int, ...]] = []

    def read(picture: np.ndarray) -> list[str]:
        seen.append(picture.shape)
        return ["Somebody Else"]

    named = replace(call, known_names=frozenset({"Else^Somebody"}))
    verdicts = [one.verdict for one in judge.judge(named, read).judged.objects]
    assert seen
    assert verdicts == [Verdict.GOES, Verdict.GOES, Verdict.REFUSED]


@pytest.mark.parametrize(
    ("text", "seen", "verdict", "reason"),
    [
        pytest.param("Lung volume 4.2 l", "Lung volume", Verdict.GOES, "", id="no name"),
        pytest.param("Report of Jane Ota", "", Verdict.GOES, "", id="the patient's own name"),
        pytest.param("Report of Somebody Else", "", Verdict.REFUSED, "another patient", id="another's name"),
        pytest.param("Chest", "Somebody Else", Verdict.REFUSED, "another patient", id="drawn"),
        pytest.param("Patient ID: 4711", "", Verdict.HELD, "labelled", id="a labelled ID"),
    ],
)
def test_a_document_is_read_for_names_of_others(
    judge: AnswerJudge, call: AnswerCall, text: str, seen: str, verdict: Verdict, reason: str
) -> None:
    files = (ProgramFile("a.dcm", part10(makers.pdf(text))),)
    asked = replace(call, files=files, known_names=frozenset({"Else^Somebody"}))
    answer = judge.judge(asked, lambda _picture: [seen])
    [found] = answer.judged.objects
    assert found.verdict is verdict, found
    assert reason in "; ".join(found.reasons)
    assert bool(answer.built) is (verdict is not Verdict.REFUSED)


def test_an_object_that_exists_is_named_without_bytes(judge: AnswerJudge, call: AnswerCall) -> None:
    verdict = judge.judge(call, no_text)
    [first, *others] = verdict.objects(lambda uid: uid == verdict.built[0].sop_instance_uid)
    assert first.data is None
    assert all(one.data for one in others)


def test_images_of_two_patients_are_refused_as_ever(judge: AnswerJudge, call: AnswerCall) -> None:
    path = call.images[0].path
    path.write_bytes(part_10(ct_slice(1, PatientID="SOMEBODY", PatientName="Some^Body")))
    with pytest.raises(ResultRefused, match="no result for more than one patient"):
        judge.judge(call, no_text)


def test_a_source_that_is_gone_is_the_disks_fault(judge: AnswerJudge, call: AnswerCall) -> None:
    call.images[0].path.unlink()
    with pytest.raises(FileNotFoundError):
        judge.judge(call, no_text)


def test_an_answer_that_takes_too_long_twice_is_refused_as_a_whole(
    judge: AnswerJudge, call: AnswerCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnswerCall, "seconds", 0.0001)
    verdict = judge.judge(call, no_text)
    assert verdict.judged.reasons == ("to read the answer took too long",)
    assert [one.verdict for one in verdict.judged.objects] == [Verdict.REFUSED] * 3
    monkeypatch.undo()
    assert judge.judge(call, no_text).built, "the next answer gets a process of its own"


def test_a_process_that_dies_once_costs_nothing(judge: AnswerJudge, call: AnswerCall) -> None:
    kills = iter([True])

    def read(_picture: np.ndarray) -> list[str]:
        if next(kills, False):
            judge._kill()
        return []

    assert len(judge.judge(call, read).built) == 3


def test_an_answer_whose_process_dies_twice_is_refused_as_a_whole(
    judge: AnswerJudge, call: AnswerCall
) -> None:
    def read(_picture: np.ndarray) -> list[str]:
        judge._kill()
        return []

    [reason] = judge.judge(call, read).judged.reasons
    assert reason.startswith("the process that read the answer died")


SERVED = """
import time
from dicom_node.jobs.worker.answer_judge import AnswerJudge
judge = AnswerJudge()
judge._started()
print(judge._process.pid, flush=True)
time.sleep(600)
"""


def bomb() -> bytes:
    """A deflated object of 768 MiB of zeros, in less than a megabyte."""
    wrote = derived_slice()
    wrote.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = part10(wrote)
    length = struct.unpack_from("<I", whole, 140)[0]
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = b"".join(deflate.compress(bytes(1 << 22)) for _ in range(192))
    return whole[: 144 + length] + zeros + deflate.flush()


def test_a_deflate_bomb_is_refused_and_the_objects_beside_it_go(judge: AnswerJudge, call: AnswerCall) -> None:
    files = (*call.files, ProgramFile("bomb.dcm", bomb()), ProgramFile("zip.dcm", b"PK\3\4" + bytes(400)))
    verdict = judge.judge(replace(call, files=files), no_text)
    verdicts = {one.name: (one.verdict, "; ".join(one.reasons)) for one in verdict.judged.objects}
    assert verdicts["bomb.dcm"] == (Verdict.REFUSED, "the data set inflates to more than 512 MiB")
    assert verdicts["zip.dcm"][0] is Verdict.REFUSED
    assert len(verdict.built) == 3


def test_it_ends_with_the_process_that_it_serves() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVED], stdout=subprocess.PIPE) as served:
        assert served.stdout is not None
        pid = int(served.stdout.readline())
        served.kill()
    wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or is_dead(pid), what="it ends")


def is_dead(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


REACHES: dict[str, str] = {
    "a file of the machine": "open('/etc/passwd').read()",
    "a file beside the images": "open(BESIDE).read()",
    "the network": "import socket; socket.socket()",
    "another program": "import subprocess; subprocess.run(['/bin/true'])",
    "a new file": "open('/tmp/l', 'w')",
    "its parent": "import os; os.kill(os.getppid(), 9)",
}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.skipif(
    not seccomp.known() or landlock.version() < landlock.LEAST, reason="this machine lacks the walls"
)
def test_what_reads_an_answer_reaches_nothing_else(call: AnswerCall, tmp_path: Path, reach: str) -> None:
    (tmp_path.parent / "other.txt").write_text("of another study")
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from dicom_node.jobs.worker import answer_process
BESIDE = {str(tmp_path.parent / "other.txt")!r}
image = SimpleNamespace(path=Path({str(call.images[0].path)!r}))
answer_process._confine(SimpleNamespace(images=[image]))
image.path.read_bytes()
try:
    {reach}
except OSError:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "refused", done.stderr


OBJECT = {
    "name": "a.dcm", "kind": "seg", "position": 0, "sop_class_uid": "1.2", "maker_uid": "1.3",
    "verdict": "sent", "reasons": [], "repairs": [], "notes": [], "content_sha256": "",
    "names_patient": False,
}  # fmt: skip
PLANNED = {
    "kind": "seg",
    "sop_instance_uid": "1.4",
    "sop_class_uid": "1.2",
    "series_instance_uid": "1.5",
    "held": False,
}


def said(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A verdict after ``change``."""
    whole = {"objects": [OBJECT | {}], "reasons": [], "built": {"0": PLANNED | {}}, "faults": {}}
    change(whole)
    return b"d" + json.dumps(whole).encode()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"x{}", id="no kind"),
        pytest.param(b"t", id="no picture"),
        pytest.param(b"t" + struct.pack("<III", 9, 9, 1) + bytes(9), id="half a picture"),
        pytest.param(b"d{", id="no JSON"),
        pytest.param(b"d[]", id="no object"),
        pytest.param(b'r{"error": "SystemExit", "text": ""}', id="another error"),
        pytest.param(said(lambda one: one.pop("reasons")), id="no reasons"),
        pytest.param(said(lambda one: one["objects"][0].update(verdict="fine")), id="no verdict"),
        pytest.param(said(lambda one: one["built"].update({"7": PLANNED})), id="an object of no file"),
        pytest.param(
            said(lambda one: one["built"]["0"].update(sop_instance_uid="../../x")), id="a path as UID"
        ),
        pytest.param(said(lambda one: one["built"]["0"].update(kind="passwd")), id="no kind of result"),
    ],
)
def test_a_verdict_that_is_none_is_not_believed(call: AnswerCall, message: bytes) -> None:
    mine, theirs = Pipe()
    theirs.send_bytes(message)
    theirs.send_bytes(b"an object")
    small = replace(call, files=())
    conversation = answer_judge._Conversation(mine, 5, lambda: None)
    with pytest.raises(AnswerJudgeLost):
        conversation.verdict(small, no_text)
