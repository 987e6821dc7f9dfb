"""`dicom-node programs try`: one run of a program on a folder, and what the node would send of it."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from ai_pipeline.programs import process
from dicom_node.base.errors import ExitCode, FaultyInput
from dicom_node.people import program_trial
from dicom_node.people.program_trial import TrialFailed, TrialOptions, TriedProgram, program_of, try_program
from tests.ct_lab import ct_slices
from tests.forked import run_forked
from tests.modality import part_10
from tests.waiting import wait_until

DERIVES = """
import sys
from pathlib import Path
from pydicom import dcmread
from pydicom.uid import generate_uid
source, target = map(Path, sys.argv[1:3])
series = generate_uid()
for file in sorted(source.iterdir()):
    image = dcmread(file)
    image.SOPInstanceUID = generate_uid()  # and not in the file's header: as mercure's test module
    image.SeriesInstanceUID = series
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.PixelData = (image.pixel_array // 2).tobytes()
    CHANGE
    image.save_as(target / file.name)
"""
FINDS = """
import json, sys
from pathlib import Path
from pydicom import dcmread
source, target = map(Path, sys.argv[1:3])
[uid, *_] = [str(dcmread(file).SOPInstanceUID) for file in sorted(source.iterdir())]
finding = {"source_uid": uid, "label": "Nodule", "decision": "present",
           "code": {"value": "NODULE", "scheme": "99OURS", "meaning": "Nodule"},
           "regions": [{"type": "box", "points": [[10, 10], [40, 30]]}]}
(target / "findings.json").write_text(json.dumps({"findings": [finding]}))
(target / "result.json").write_text('{"__mercure_notification": {"text": "Look at it."}}')
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for number, image in enumerate(ct_slices("one", 2), start=1):
        (folder / f"{number}.dcm").write_bytes(part_10(image))
    (folder / "README.txt").write_text("not DICOM")
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders for programs are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


Try = Callable[..., TriedProgram]


@pytest.fixture
def run(tmp_path: Path, study: Path) -> Try:
    """Tries a program of these lines on the study."""

    def run(code: str, out: Path | None = None, **further: Any) -> TriedProgram:
        script = tmp_path / "program.py"
        script.write_text(code)
        command = f"{sys.executable} {script} {{input}} {{output}}"
        return try_program(command, study, TrialOptions(further=further), lambda *_: None, out)

    return run


def test_what_would_be_sent_of_a_programs_own_objects_is_shown_and_written(run: Try, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tried = run(DERIVES.replace("CHANGE", ""), out)
    assert [(row["object"], row["kind"], row["verdict"]) for row in tried.rows] == [
        ("1.dcm", "image", "sent"),
        ("2.dcm", "image", "sent"),
    ]
    assert all(row["repaired"] for row in tried.rows)
    assert tried.status == ExitCode.OK
    assert all(line.startswith("repaired in 2 objects: ") for line in tried.remarks())
    written = [pydicom.dcmread(out / row["file"]) for row in tried.rows]
    assert {image.file_meta.MediaStorageSOPInstanceUID for image in written} == {
        image.SOPInstanceUID for image in written
    }
    assert {str(image.PatientName) for image in written} == {
        str(image.PatientName) for image in ct_slices("one", 1)
    }


def test_the_uids_of_two_trials_are_equal(run: Try) -> None:
    code = DERIVES.replace("CHANGE", "")
    first, second = (
        {pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).SOPInstanceUID for data in tried.files.values()}
        for tried in (run(code), run(code))
    )
    assert first == second


def test_a_copy_that_was_compressed_is_refused(run: Try) -> None:
    """The process that judges has a decoder of its own: it may start none once it reads the answer."""
    copies = DERIVES.replace("image.pixel_array // 2", "image.pixel_array")
    compressed = "from pydicom.uid import JPEG2000Lossless; image.compress(JPEG2000Lossless)"
    tried = run(copies.replace("CHANGE", compressed))
    assert [row["verdict"] for row in tried.rows] == ["refused", "refused"]
    assert all("it is a copy" in " ".join(row["reason"]) for row in tried.rows)


def test_findings_become_what_the_node_builds_of_them(run: Try, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tried = run(FINDS, out)
    assert {row["kind"] for row in tried.rows} == {"sr", "gsps", "sc"}
    assert {row["verdict"] for row in tried.rows} == {"sent"}
    assert {pydicom.dcmread(out / row["file"]).Modality for row in tried.rows} >= {"SR", "PR"}
    assert tried.notices == ["The program says: Look at it."]


def test_an_object_of_another_patient_refuses_the_answer(run: Try, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tried = run(DERIVES.replace("CHANGE", "if file.name == '1.dcm': image.PatientID = 'OTHER'"), out)
    assert {row["verdict"] for row in tried.rows} == {"refused"}
    assert tried.reasons
    assert [line for line in tried.remarks() if line.startswith("all refused: ")]
    assert "OTHER" not in json.dumps([*tried.rows, *tried.reasons])
    assert tried.status == ExitCode.DATA
    assert list(out.rglob("*")) == []


def test_a_file_that_is_no_dicom_is_refused_and_named(run: Try) -> None:
    code = DERIVES.replace("CHANGE", "") + "\n(target / 'broken.dcm').write_bytes(b'no DICOM')"
    tried = run(code)
    refused = [row for row in tried.rows if row["verdict"] == "refused"]
    assert [row["object"] for row in refused] == ["broken.dcm"]
    assert refused[0]["reason"]
    assert tried.status == ExitCode.DATA


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit('no model')", "the program ended with 1"),
        ("import os; os.kill(os.getpid(), 9)", "the program ended with -9"),
        ("pass", r"the program left no findings\.json and no DICOM object"),
        ("import time; time.sleep(60)", "took longer than its 1 s"),
        (
            "import sys\nfor n in range(100_000): open(f'{sys.argv[2]}/{n}', 'x').close()",
            "wrote more than it may|left more than 10000 files",
        ),
        ("import os, sys; os.symlink('/etc/passwd', sys.argv[2] + '/a.dcm')", "object that is no file"),
        ("import os, sys; os.mkfifo(sys.argv[2] + '/a.dcm')", "object that is no file"),
    ],
    ids=["fails", "is killed", "writes nothing", "hangs", "writes 100,000 files", "links", "leaves a pipe"],
)
def test_a_program_that_fails_is_said_to(run: Try, tmp_path: Path, code: str, told: str) -> None:
    out = tmp_path / "out"
    seconds = {"seconds": 1.0} if "sleep" in code else {}
    with pytest.raises(TrialFailed, match=told):
        run(code, out, **seconds)
    assert not out.exists()


def test_the_last_words_of_a_failed_program_are_shown_to_who_tries_it(study: Path) -> None:
    code = "import sys; sys.exit('weights.pt is missing')"
    done = run_forked("dicom_node", "programs", "try", f'{sys.executable} -c "{code}"', "--study", str(study))
    assert done.returncode == ExitCode.DATA
    assert done.stdout == ""
    assert "    weights.pt is missing" in done.stderr
    assert "dicom-node: the program ended with 1" in done.stderr


def test_the_command_prints_rows_as_json(study: Path, tmp_path: Path) -> None:
    (tmp_path / "finds.py").write_text(FINDS)
    command = f"{sys.executable} finds.py {{input}} {{output}}"
    done = run_forked(
        "dicom_node", "programs", "try", command, "--study", "study", "--layout", "numbered", "--json",
        "--option", "settings.sigma=3", "--option", "seconds=60.0", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)[0]) == {"object", "kind", "verdict", "repaired", "reason", "file"}
    assert "Look at it." in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--option", "sigma=3"], "sigma"),
        (["--option", "seconds=soon"], "seconds=soon: not NAME=VALUE"),
        (["--option", "seconds=0"], "seconds must be at least 1 s"),
        (["--layout", "other"], "other"),
    ],
)
def test_an_option_that_is_wrong_is_said_before_anything_runs(
    study: Path, words: list[str], told: str
) -> None:
    done = run_forked("dicom_node", "programs", "try", "sh", "--study", str(study), *words)
    assert done.returncode != 0
    assert told in done.stderr
    assert "runs" not in done.stderr


def test_a_folder_with_two_studies_or_none_is_refused(study: Path, tmp_path: Path) -> None:
    (study / "3.dcm").write_bytes(part_10(ct_slices("two", 1)[0]))
    with pytest.raises(FaultyInput, match="of 2 studies"):
        try_program("sh", study, TrialOptions(), lambda *_: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FaultyInput, match="of 0 studies"):
        try_program("sh", tmp_path / "empty", TrialOptions(), lambda *_: None)


def test_a_study_of_two_patients_is_refused(study: Path) -> None:
    image = ct_slices("one", 3)[2]
    image.PatientName = "Other^Person"
    (study / "3.dcm").write_bytes(part_10(image))
    with pytest.raises(FaultyInput, match="one study of 2 patients"):
        try_program("sh", study, TrialOptions(), lambda *_: None)


def test_nothing_is_overwritten(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(FaultyInput, match="is there already"):
        try_program("sh", study, TrialOptions(), lambda *_: None, out)


def test_a_full_disk_is_named(run: Try, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ai_pipeline.programs.layout.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        run(FINDS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_runs_on_after_a_trial_that_was_killed(study: Path, scratch: Path) -> None:
    mark = f"tried-{os.getpid()}"
    command = f"{sys.executable} -c 'import time; time.sleep(300)' {mark}"
    code = (
        f"import tempfile; tempfile.tempdir = {str(scratch)!r}\n"
        "from pathlib import Path\nfrom dicom_node.people.program_trial import TrialOptions, try_program\n"
        f"try_program({command!r}, Path({str(study)!r}), TrialOptions(), lambda *_: None)"
    )

    def alive() -> list[str]:
        found = subprocess.run(["pgrep", "-f", f"{mark}$"], capture_output=True, text=True, check=False)
        return found.stdout.split()

    with subprocess.Popen([sys.executable, "-c", code]) as trial:
        wait_until(lambda: bool(alive()), 60, "the program")
        trial.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(), 60, "the program's end")
    assert len(list(scratch.iterdir())) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_YOUNG_SECONDS", 0.0)
        with pytest.raises(TrialFailed):
            try_program(f"{sys.executable} -c pass", study, TrialOptions(), lambda *_: None)
    assert list(scratch.iterdir()) == [], "the next trial removes what was left"


WORDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "an image": ("registry.example/lungs:1.2", {}, "container", {"image": "registry.example/lungs:1.2"}),
    "an image with arguments": (
        "lungs:1 --fast",
        {},
        "container",
        {"image": "lungs:1", "command": ["--fast"]},
    ),
    "a program of the system": ("sh -c true", {}, "command", {"command": ["sh", "-c", "true"]}),
    "a layout": ("sh", {"layout": "mercure"}, "command", {"command": ["sh"], "layout": "mercure"}),
    "an option": ("sh", {"further": {"model": "m"}}, "command", {"command": ["sh"], "model": "m"}),
}


@pytest.mark.parametrize("case", WORDS)
def test_a_program_is_known_by_its_words(case: str) -> None:
    words, options, pipeline, wanted = WORDS[case]
    found, chosen = program_of(words, TrialOptions(**options))
    assert (found, chosen["version"]) == (pipeline, "trial")
    assert wanted.items() <= chosen.items()


def test_files_beside_the_person_are_meant_by_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.py").write_text("")
    (tmp_path / "map" / "etc" / "holoscan").mkdir(parents=True)
    (tmp_path / "map" / "etc" / "holoscan" / "app.json").write_text("{}")
    assert program_of("./run.py {input}", TrialOptions())[1]["command"] == [
        str(tmp_path / "run.py"),
        "{input}",
    ]
    assert program_of("map", TrialOptions())[1]["package"] == str(tmp_path / "map")


@pytest.mark.parametrize("words", ["", "'", "/no/such/program", "./none"])
def test_words_that_name_no_program_are_refused(words: str) -> None:
    with pytest.raises(FaultyInput):
        program_of(words, TrialOptions())


def test_progress_is_said_once_until_it_changes() -> None:
    said: list[str] = []
    report = program_trial.progress(said.append)
    for what in ("the program runs", "the program runs", "the program runs"):
        report(0.5, what)
    assert said == ["the program runs"]
