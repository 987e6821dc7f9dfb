"""The folders of programs in the layouts of other platforms, chains of programs, and what they print."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.pipelines import create, option_faults
from ai_pipeline.programs import mercure, output
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.ai_pipeline.programs.program_lab import NAMED, Run

pytestmark = pytest.mark.usefixtures("scratch")

PATIENT = {"PatientName": "Muster^Käthe Li", "PatientID": "P-83", "AccessionNumber": "A83"}
SERIES = {"a": "1.2.3.1", "b": "1.2.3.2"}


@pytest.fixture
def study(tmp_path: Path) -> list[DicomImage]:
    """Three images of two series; the first series has no description."""
    made = []
    for number, (series, further) in enumerate(
        (("a", {}), ("b", {"SeriesDescription": "T1", "SeriesNumber": 7}), ("a", {})), start=1
    ):
        path = write_dicom(
            tmp_path / f"{number}.dcm",
            echo()[None],
            SeriesInstanceUID=SERIES[series],
            SOPInstanceUID=f"1.2.3.9.{number}",
            StudyInstanceUID="1.2.3",
            SpecificCharacterSet="ISO_IR 192",
            **PATIENT,
            **further,
        )
        made.append(open_dicom(path))
    return made


Tree = dict[str, bytes]


@pytest.fixture
def seen(tmp_path: Path) -> Callable[..., Tree]:
    """Runs a program in a layout, and returns each file of its input folder."""

    def run(images: list[DicomImage], layout: str, **options: object) -> Tree:
        script = tmp_path / "program.py"
        script.write_text(
            "import json, sys\nfrom pathlib import Path\nsource, target = map(Path, sys.argv[1:])\n"
            "files = {str(file.relative_to(source)): file.read_bytes().hex()\n"
            "         for file in source.rglob('*') if file.is_file()}\n"
            "(target / 'findings.json').write_text('{\"findings\": []}')\n"
            "(target / 'result.json').write_text(json.dumps({'__mercure_notification': {'text': '.'}}))\n"
            f"Path({str(tmp_path / 'seen.json')!r}).write_text(json.dumps(files))"
        )
        command = [sys.executable, str(script), "{input}", "{output}"]
        chosen = {"command": command, "layout": layout, **NAMED, **options}
        create("command").run(images, lambda *_: None, chosen)
        found = json.loads((tmp_path / "seen.json").read_text())
        return {name: bytes.fromhex(content) for name, content in found.items()}

    return run


def test_numbered_copies_have_the_bytes_of_the_images(
    study: list[DicomImage], seen: Callable[..., Tree]
) -> None:
    files = seen(study, "numbered")
    assert sorted(files) == ["1.dcm", "2.dcm", "3.dcm"]
    assert files["2.dcm"] == study[1].path.read_bytes()


def test_a_package_gets_a_folder_for_each_series_and_no_uid_in_a_path(
    study: list[DicomImage], seen: Callable[..., Tree]
) -> None:
    files = seen(study, "map")
    assert sorted(files) == ["series1/1.dcm", "series1/3.dcm", "series2/2.dcm"]
    assert files["series1/1.dcm"] == study[0].path.read_bytes()


def test_a_module_of_mercure_finds_its_names_its_tags_and_its_settings(
    study: list[DicomImage], seen: Callable[..., Tree]
) -> None:
    files = seen(study, "mercure", settings={"sigma": 3, "names": ["a"]})
    names = {f"{SERIES[series]}#1.2.3.9.{number}" for number, series in enumerate("aba", start=1)}
    assert set(files) == {"task.json", *(f"{name}{end}" for name in names for end in (".dcm", ".tags"))}
    tags = json.loads(files["1.2.3.2#1.2.3.9.2.tags"])
    assert (tags["PatientName"], tags["SeriesDescription"], tags["Modality"]) == (
        "Muster^Käthe Li",
        "T1",
        "US",
    )
    task = json.loads(files["task.json"])
    assert set(task) == {"id", "info", "dispatch", "process", "study", "nomad_info"}, "others are forbidden"
    assert task["process"]["settings"] == {"sigma": 3, "names": ["a"]}
    assert (task["info"]["uid_type"], task["info"]["mrn"]) == ("study", "P-83")
    assert task["study"]["received_series_uid"] == ["1.2.3.1", "1.2.3.2"]


def test_a_task_of_one_series_is_of_this_series(study: list[DicomImage], seen: Callable[..., Tree]) -> None:
    task = json.loads(seen(study[:1], "mercure")["task.json"])
    assert (task["info"]["uid"], task["info"]["uid_type"], task["study"]) == ("1.2.3.1", "series", {})


def test_what_a_module_reads_unasked_is_in_its_copies_alone(
    study: list[DicomImage], seen: Callable[..., Tree], tmp_path: Path
) -> None:
    before = study[0].path.read_bytes()
    files = seen(study, "mercure")
    (tmp_path / "copy.dcm").write_bytes(files["1.2.3.1#1.2.3.9.1.dcm"])
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert (copy.SeriesDescription, copy.SeriesNumber) == ("Series", 1)
    assert copy.PixelData == pydicom.dcmread(study[0].path).PixelData
    assert files["1.2.3.2#1.2.3.9.2.dcm"] == study[1].path.read_bytes(), "it lacks nothing"
    assert study[0].path.read_bytes() == before


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "..", "a" * 300, "1.2\\1.3"])
def test_a_uid_that_is_no_file_name_is_none(uid: str) -> None:
    assert list(mercure.file_names([(uid, "1.2"), (uid, "1.2")])) == ["0#1.2.dcm", "0#1.2.2.dcm"]


def test_uncompressed_copies_are_made_for_a_program_that_asks(
    tmp_path: Path, seen: Callable[..., Tree]
) -> None:
    picture = echo()
    image = open_dicom(write_dicom(tmp_path / "c.dcm", picture[None], syntax=JPEGLSLossless))
    (tmp_path / "copy.dcm").write_bytes(seen([image], "numbered", decompress=True)["1.dcm"])
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert not copy.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(copy.pixel_array, picture)
    assert seen([image], "numbered")["1.dcm"] == image.path.read_bytes(), "nobody asked"


CHAIN = """
import json, os, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
step = json.loads((source / "task.json").read_text())["process"]["settings"]["step"]
if step == 1:
    (target / "deep").mkdir()
    (target / "deep" / "mask.nii").write_bytes(b"volume")
    (target / "secret").symlink_to("/etc/passwd")
    os.link(target / "deep" / "mask.nii", target / "twice")
    os.mkfifo(target / "pipe")
    (target / "task.json").write_text("{}")
    (target / "plain").write_bytes(b"1")
else:
    found = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
    assert found == ["plain", "task.json"], found
    (target / "findings.json").write_text('{"findings": []}')
(target / "result.json").write_text(json.dumps({"__mercure_notification": {"text": f"step {step} done"}}))
"""


def test_a_chain_hands_on_what_each_program_wrote(tmp_path: Path, study: list[DicomImage]) -> None:
    """Without links, pipes and files of two names: the next one would read what they lead to."""
    script = tmp_path / "step.py"
    script.write_text(CHAIN)
    command = [sys.executable, str(script), "{input}", "{output}"]
    options = {"command": command, "layout": "mercure", "settings": {"step": 1}, **NAMED}
    done = create("command").run(study, lambda *_: None, options | {"steps": [{"settings": {"step": 2}}]})
    assert [note.text for note in done.quality] == [
        "The program says: step 1 done",
        "The program says: step 2 done",
    ]
    with pytest.raises(ProgramFailed, match=r"no findings\.json and no DICOM"):
        create("command").run(study, lambda *_: None, options)


EACH = """
import json, shutil, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:])
files = sorted(source.glob("*.dcm"))
shutil.copy(files[0], target / "answer.dcm")
notice = {"__mercure_notification": {"text": f"got {len(files)}"}}
(target / "result.json").write_text(json.dumps(notice))
"""


@pytest.mark.parametrize(
    ("each", "notices", "names"),
    [
        ("study", ["got 3"], ["answer.dcm"]),
        ("series", ["got 2", "got 1"], ["series1/answer.dcm", "series2/answer.dcm"]),
    ],
)
def test_a_program_runs_once_for_a_study_or_for_each_series(
    tmp_path: Path, study: list[DicomImage], each: str, notices: list[str], names: list[str]
) -> None:
    script = tmp_path / "each.py"
    script.write_text(EACH)
    command = [sys.executable, str(script), "{input}", "{output}"]
    done = create("command").run(study, lambda *_: None, {"command": command, "each": each, **NAMED})
    assert [note.text for note in done.quality] == [f"The program says: {notice}" for notice in notices]
    assert [one.name for one in done.objects] == names
    assert len(done.models) == 1


def test_a_run_on_one_series_that_fails_leaves_no_answer_of_the_others(
    tmp_path: Path, study: list[DicomImage]
) -> None:
    script = tmp_path / "each.py"
    script.write_text(f"{EACH}\nif len(files) == 1: sys.exit(1)")
    options = {"command": [sys.executable, str(script), "{input}", "{output}"], "each": "series", **NAMED}
    with pytest.raises(ProgramFailed, match="the program ended with 1"):
        create("command").run(study, lambda *_: None, options)


def test_files_of_a_chain_are_within_the_limits_of_an_answer(
    tmp_path: Path, study: list[DicomImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MOST_OBJECT_BYTES", 1 << 20)
    script = tmp_path / "step.py"
    script.write_text("import sys; open(sys.argv[2] + '/large', 'wb').write(bytes(2 << 20))")
    command = [sys.executable, str(script), "{input}", "{output}"]
    with pytest.raises(ProgramFailed, match="left files of more than 1 MiB"):
        create("command").run(
            study, lambda *_: None, {"command": command, **NAMED, "steps": [{"settings": {}}]}
        )


def test_a_module_keeps_a_folder_from_run_to_run(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    code = (
        "kept = Path(os.environ['MODULE_PERSISTENCE_DIR'])\n"
        "assert len(list(kept.glob('*.lock'))) == 1\n"
        "with open(kept / 'runs', 'a') as file: file.write('x')\nwrite()"
    )
    for _ in range(2):
        run(code, persistence=str(kept))
    assert [file.name for file in kept.iterdir()] == ["runs"]
    assert (kept / "runs").read_text() == "xx"


def test_a_folder_to_keep_that_is_not_there_is_named_by_check(tmp_path: Path) -> None:
    options = {"command": ["sh"], **NAMED, "persistence": str(tmp_path / "none")}
    assert "is no folder that" in option_faults(create("command"), options)["persistence"]


NOTICES: dict[str, tuple[Any, str]] = {
    "plain": ("Two nodules.", "Two nodules."),
    "on lines": ("a\n\tb\x1b[1m", "a b [1m"),
    "long": ("x" * 300, "x" * 200),
    "of the patient": ("Nodule of KÄTHE", mercure.LEFT_OUT),
    "of the patient's short name": ("Mrs Li has one", mercure.LEFT_OUT),
    "a short name inside of a word": ("The liver is large", "The liver is large"),
    "of the ID": ("P-83: nodule", mercure.LEFT_OUT),
    "of the accession": ("see a83", mercure.LEFT_OUT),
    "no text": (7, ""),
    "a list": (["x"], ""),
}


@pytest.mark.parametrize("case", NOTICES)
def test_a_notice_is_one_line_that_names_nobody(study: list[DicomImage], case: str) -> None:
    given, shown = NOTICES[case]
    result = json.dumps({"__mercure_notification": {"text": given}}).encode()
    assert mercure.notice(result, [image.dataset for image in study]) == shown


@pytest.mark.parametrize(
    "result", [None, b"", b"[" * 10**5, b"[]", b'{"__mercure_notification": 1}', b"\xff"]
)
def test_a_result_without_a_notice_has_none(study: list[DicomImage], result: bytes | None) -> None:
    assert mercure.notice(result, [study[0].dataset]) == ""


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        pytest.param(None, "", id="none"),
        pytest.param('{"a": "é"}'.encode(), '{"a": "é"}', id="an object"),
        pytest.param(b"{", "", id="no JSON"),
        pytest.param(b'"\xff"', "", id="no text"),
        pytest.param(b"[" * 60_000, "", id="deep"),
        pytest.param(b'"' + b"x" * (1 << 16) + b'"', "", id="large"),
    ],
)
def test_a_result_is_kept_as_it_is_if_it_is_json(result: bytes | None, kept: str) -> None:
    assert mercure.record(result) == kept


STEPS = {
    "an unknown option": ([{"comand": ["sh"]}], "program 2: comand no such option"),
    "a wrong value": ([{"seconds": 0}], "program 2: seconds must be at least 1 s"),
    "steps of a step": ([{"steps": []}], "program 2: steps belong to the rule, not to a step"),
    "another run": ([{"each": "series"}], "program 2: each belongs to the rule, not to a step"),
    "no such program": (
        [{}, {"command": ["/no/such"]}],
        "program 3: command /no/such is no program on this machine",
    ),
    "too many": ([{}] * 9, "must be more programs, each a table of the options in which it differs"),
}


@pytest.mark.parametrize("case", STEPS)
def test_what_is_wrong_with_a_step_is_said_with_its_number(case: str) -> None:
    steps, told = STEPS[case]
    assert option_faults(create("command"), {"command": ["sh"], **NAMED, "steps": steps})["steps"] == told


def test_what_a_failed_program_printed_is_for_the_person_who_tries_it_alone(run: Run) -> None:
    with pytest.raises(ProgramFailed) as failure:
        run("print('x' * 100_000)\nsys.exit('no model for Doe^John')")
    assert "Doe" not in f"{failure.value} {failure.value!r}"
    assert failure.value.printed.endswith("no model for Doe^John\n")
    assert len(failure.value.printed) <= 16_384
