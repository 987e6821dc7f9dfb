"""Programs of others as pipelines: confined, bounded, and their answers checked."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ai_pipeline.contract import Decision, ModelRef
from ai_pipeline.errors import ProgramFailed, ProgramStopped
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.pipelines import create, option_faults
from ai_pipeline.programs import container, process
from ai_pipeline.programs.pipeline import findings_in
from tests.unit.ai_pipeline.programs.program_lab import FINDING, NAMED, Run
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("scratch")


def alive(mark: str) -> list[str]:
    """Processes with this word on their command line."""
    return subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False).stdout.split()


def test_a_finding_of_a_program_is_one_of_ours(run: Run, image: DicomImage) -> None:
    result = run(
        "from pydicom import dcmread\n"
        "write(finding(source_uid=str(dcmread(files[0], stop_before_pixels=True).SOPInstanceUID)))"
    )
    [finding], [model] = result.findings, result.models
    assert (finding.label, finding.decision, finding.probability) == ("Bright image", Decision.PRESENT, 0.9)
    assert (finding.source_uid, finding.model) == (image.uid, model)
    assert finding.regions[0].bounds == (10, 10, 40, 30)
    assert (model.id, model.version, model.calibrated, result.quality) == ("bright", "2", False, ())


def test_another_program_or_another_option_is_another_model(run: Run) -> None:
    asked = (("write()", 60.0), ("write()", 60.0), ("write() ", 60.0), ("write()", 61.0))
    models = [run(code, seconds=seconds).models[0] for code, seconds in asked]
    assert models[0] == models[1]
    assert len({(one.sha256, one.card_sha256) for one in models}) == 3


def test_a_program_gets_copies_and_no_secret(run: Run, image: DicomImage, monkeypatch: Any) -> None:
    before = image.path.read_bytes()
    monkeypatch.setenv("PACS_PASSWORD", "secret")
    run(
        "assert [file.name for file in files] == ['1.dcm']\n"
        "assert not {'PACS_PASSWORD', 'PYTHONPATH'} & os.environ.keys()\n"
        "assert os.environ['MERCURE_IN_DIR'] == os.environ['HOLOSCAN_INPUT_PATH'] == str(source)\n"
        "assert os.environ['MERCURE_OUT_DIR'] == os.environ['MONAI_OUTPUTPATH'] == str(target)\n"
        "os.chmod(files[0], 0o600); write(finding()); files[0].write_bytes(b'')"
    )
    assert image.path.read_bytes() == before


def test_a_program_has_no_network(run: Run) -> None:
    code = "import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 2)\nexcept OSError: write()"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run(code.format(port=server.getsockname()[1])).models, "it wrote its answer"


def test_a_program_sees_its_own_processes_and_no_others(run: Run) -> None:
    """Where the kernel lets a namespace have a ``/proc`` of its own: else its numbers would be of others."""
    code = (
        "line = Path(f'/proc/{os.getpid()}/cmdline').read_bytes()\n"
        f"assert os.fsencode(sys.argv[0]) in line and not Path('/proc/{os.getpid()}').exists()\nwrite()"
    )
    assert run(code).models, "it wrote its answer"


def test_objects_of_a_program_are_handed_on_and_its_other_files_and_links_are_not(run: Run) -> None:
    result = run(
        "write(finding())\n(target / 'a' / 'b').mkdir(parents=True)\n"
        "(target / 'a' / 'b' / 'sr.dcm').write_bytes(files[0].read_bytes())\n"
        "(target / 'mask.nii').write_bytes(b'n')\n(target / 'result.json').write_text('{}')\n"
        "(target / 'loop').symlink_to(target)\n(target / 'secrets').symlink_to('/etc')\n"
    )
    assert [file.name for file in result.objects] == ["a/b/sr.dcm"]
    assert (len(result.findings), result.images, result.quality) == (1, (), ())


def test_a_program_may_answer_with_objects_alone(run: Run, image: DicomImage) -> None:
    result = run("(target / 'seg').write_bytes(files[0].read_bytes())")
    assert [(file.name, file.content) for file in result.objects] == [("seg", image.path.read_bytes())]
    assert result.findings == ()


def box(*points: list[float]) -> dict[str, Any]:
    return {"regions": [{"type": "box", "points": list(points)}]}


BAD = {
    "nothing": ("pass", "left no findings.json and no DICOM object"),
    "other files alone": ("(target / 'mask.nii').write_bytes(b'n')", "left no findings.json and no DICOM"),
    "no JSON": ("(target / 'findings.json').write_text('Doe^John')", "findings.json: is no JSON"),
    "very large": ("(target / 'findings.json').write_text(' ' * 2**21 + '{}')", "is larger than 1024 KiB"),
    "a link": ("(target / 'findings.json').symlink_to('/etc/hostname')", "is no file"),
    "a hard link": ("write(); os.link(target / 'findings.json', target / 'x')", "is no file"),
    "a folder": ("(target / 'findings.json').mkdir()", "left no findings.json"),
    "a pipe": ("os.mkfifo(target / 'findings.json')", "is no file"),
    "of another image": ("write(finding(source_uid='1.2.3'))", "names no image that the program got"),
    "a failure": ("sys.exit('Doe^John')", "the program ended with 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_answer_that_is_none_is_refused_without_repeating_it(run: Run, case: str) -> None:
    code, told = BAD[case]
    with pytest.raises(ProgramFailed) as failure:
        run(code)
    assert told in str(failure.value)
    assert "Doe" not in str(failure.value)
    assert len(str(failure.value)) < 200


WRONG = {
    "in another frame": ({"frame": 2}, "findings.0: frame is beyond the image's 1"),
    "an unknown key": ({"Doe^John": 1}, "findings.0: Extra inputs are not permitted"),
    "a label on two lines": ({"label": "a\nDoe^John"}, "findings.0.label: String should match"),
    "a label that turns": ({"label": "a\u202eb"}, "findings.0.label: String should match"),
    "a long label": ({"label": "a" * 49}, "findings.0.label: String should have at most 48"),
    "a code of ours": (
        {"code": {"value": "BURNED_IN", "scheme": "99AINODE", "meaning": "x"}},
        "the node's own",
    ),
    "a code of two values": (
        {"code": {"value": "A\\B", "scheme": "SCT", "meaning": "x"}},
        "code.value: String",
    ),
    "more than certain": ({"probability": 1.01}, "findings.0.probability: Input should be less"),
    "not a number": ({"probability": float("nan")}, "findings.json"),
    "a text as number": ({"probability": "1"}, "findings.0.probability: Input should"),
    "far away": (box([0, 0], [1e300, 5]), "reaches out of its"),
    "at infinity": (box([0, 0], [float("inf"), 5]), "findings"),
    "without area": (box([5, 5], [5, 9]), "has no area"),
    "a corner alone": (box([5, 5]), "too few points"),
    "many points": ({"regions": [{"type": "polygon", "points": [[5, 5]] * 501}]}, "at most 500 items"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_finding_with_this_fault_is_refused_without_repeating_it(image: DicomImage, case: str) -> None:
    change, told = WRONG[case]
    refused(json.dumps({"findings": [{"source_uid": image.uid, **FINDING, **change}]}), image, told)


def test_too_many_findings_and_very_deep_ones_are_refused(image: DicomImage) -> None:
    many = [{"source_uid": image.uid, **FINDING}] * 201
    refused(json.dumps({"findings": many}), image, "findings: List should have at most 200 items")
    refused("[" * 10**5, image, "findings.json: is no JSON")


def refused(answer: str, image: DicomImage, told: str) -> None:
    with pytest.raises(ProgramFailed) as failure:
        findings_in(answer.encode(), [image], ModelRef("bright", "2", "a" * 64, "b" * 64))
    said = str(failure.value)
    assert told in said
    assert "Doe" not in said
    assert len(said) < 200


def test_a_program_that_takes_too_long_is_ended_with_all_it_started(run: Run) -> None:
    """Also what left its process group and its session."""
    mark = f"outlives-{os.getpid()}-{time.monotonic_ns()}"
    sleeper, began = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']", time.monotonic()
    with pytest.raises(ProgramStopped, match="took longer than its 2 s"):
        run(
            f"subprocess.Popen({sleeper})\nsubprocess.Popen({sleeper}, start_new_session=True)\n"
            f"if not os.fork():\n    os.setsid()\n    if not os.fork(): os.execv(sys.executable, {sleeper})\n"
            "    os._exit(0)\nwrite(); time.sleep(300)",
            seconds=2.0,
        )
    assert time.monotonic() - began < 30
    assert alive(mark) == []


FILLS = "b = bytearray(os.urandom({mib} * 2**20)); write(); time.sleep(60)"


@pytest.mark.parametrize("code", [FILLS.format(mib=300), f"os.fork(); os.fork(); {FILLS.format(mib=80)}"])
def test_a_program_has_no_more_memory_than_it_may(run: Run, code: str) -> None:
    with pytest.raises(ProgramFailed):
        run(code, memory_mib=256)


NAMELESS = """
for _ in range(6):
    file = os.memfd_create("hidden")
    os.write(file, bytes(50 * 2**20))
write(); time.sleep(60)
"""
UNMAPPED = """
import mmap
kept = []
for _ in range(6):
    file = os.memfd_create("hidden")
    os.write(file, bytes(50 * 2**20))
    kept.append(mmap.mmap(file, 0, flags=mmap.MAP_SHARED))
    kept[-1].read()
    os.close(file)
write(); time.sleep(60)
"""


@pytest.mark.parametrize("code", [NAMELESS, UNMAPPED], ids=["memfd", "memfd closed and mapped"])
def test_memory_without_a_process_counts(run: Run, code: str) -> None:
    with pytest.raises(ProgramStopped, match="took more than its 256 MiB"):
        run(code, memory_mib=256)


SEGMENTS = """
import ctypes
libc = ctypes.CDLL(None)
assert all(libc.shmget(0, 50 * 2**20, 0o1600) >= 0 for _ in range(6))
write()
"""
MANY = "for number in range(100_000): open(f'/tmp/{number}', 'x').close()\nwrite()"


@pytest.mark.parametrize("code", [SEGMENTS, MANY], ids=["segments of System V", "files without bytes"])
def test_memory_of_the_kernel_is_limited(run: Run, code: str) -> None:
    with pytest.raises(ProgramFailed, match="ended with 1"):
        run(code, memory_mib=256)


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/var/tmp"])
def test_temporary_files_of_a_program_are_within_its_memory_and_vanish_with_it(run: Run, folder: str) -> None:
    name = f"{folder}/of-a-program-{os.getpid()}"
    run(f"Path({name!r}).write_bytes(bytes(2**20)); write()", memory_mib=256)
    assert not Path(name).exists()
    with pytest.raises(ProgramFailed):
        run(f"with open({name!r}, 'wb') as file:\n    while True: file.write(bytes(2**20))", memory_mib=256)


def test_a_program_cannot_unmount_its_own_temporary_files(run: Run) -> None:
    unmount = "import ctypes\nassert ctypes.CDLL(None).umount2(b'/tmp', 2) == -1\nwrite()"  # MNT_DETACH
    run(unmount, memory_mib=256)


def test_a_program_that_writes_without_end_is_ended(run: Run) -> None:
    with pytest.raises(ProgramStopped, match="wrote more than it may"):
        run(
            "for name in 'ab': os.truncate(os.open(target / name, 65), 3 * 2**30)\ntime.sleep(60)",
            seconds=60.0,
        )


def test_a_program_ends_when_the_job_is_cancelled(run: Run) -> None:
    def report(share: float, _what: str) -> None:
        if share > 0:
            raise InterruptedError

    mark = f"cancelled-{os.getpid()}-{time.monotonic_ns()}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']"
    with pytest.raises(InterruptedError):
        run(f"os.execv(sys.executable, {sleeper})", report)
    assert alive(mark) == []


def test_a_program_ends_with_a_worker_that_is_killed_and_its_folder_goes_later(
    tmp_path: Path, image: DicomImage, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"orphan-{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-c", "import time; time.sleep(300)", mark]
    options = {"command": command, **NAMED}
    code = (
        f"import tempfile; tempfile.tempdir = {str(scratch)!r}\n"
        "from ai_pipeline.pipelines import create; from ai_pipeline.images.decode import open_dicom\n"
        f"create('command').run([open_dicom({str(image.path)!r})], lambda *_: None, {options!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        wait_until(
            lambda: len(alive(mark)) > 1, 60, "the program"
        )  # the worker's own line bears the word too
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: alive(mark) == [], 60, "the program's end")
    create("command").warm_up()
    assert len(list(scratch.iterdir())) == 1, "somebody may be about to use it"
    monkeypatch.setattr(process, "_YOUNG_SECONDS", 0.0)
    create("command").warm_up()


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, {"model", "version", "command"}),
        ({"command": ["/no/such/program"]}, {"command"}),
        ({"command": ["./program"]}, {"command"}),
        ({"command": ["sh", 1]}, {"command"}),
        ({"command": ["sh"], "version": "../1"}, {"version"}),
        ({"command": ["sh"], "seconds": 0.0, "memory_mib": 1}, {"seconds", "memory_mib"}),
        ({"command": ["sh"]}, set()),
    ],
)
def test_what_is_wrong_with_the_options_of_a_command_is_said(
    options: dict[str, Any], faults: set[str]
) -> None:
    given = {**NAMED, **options} if options else {}
    assert option_faults(create("command"), given).keys() == faults


def test_where_the_network_cannot_be_taken_away_the_rule_must_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_pipeline.programs.pipeline.can_leave_network", lambda: False)
    options = {"command": ["sh"], **NAMED}
    for network, faults in ((False, {"network"}), (True, set())):
        assert option_faults(create("command"), {**options, "network": network}).keys() == faults


@pytest.mark.parametrize("image", ["", "-v", "--privileged", "a b", "a;b", "a$b"])
def test_the_name_of_an_image_is_never_an_option(image: str) -> None:
    assert "image" in option_faults(create("container"), {**NAMED, "image": image})


@pytest.mark.parametrize("engine", container.ENGINES)
def test_a_container_gets_no_network_no_rights_and_nothing_to_write_but_its_folder(engine: str) -> None:
    folders = {"/input": Path("/i"), "/output": Path("/o")}
    run = container.ContainerRun("n", folders, "/input", {"MERCURE_IN_DIR": "/input"}, 512)
    line = container.command_line(engine, "sha256:" + "0" * 64, ["--fast"], run)
    assert (line[:3], line[-2:]) == ([engine, "run", "--rm"], ["sha256:" + "0" * 64, "--fast"])
    assert {
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pull=never",
        "--memory=512m",
        "--memory-swap=512m",
        "--log-driver=none",
        "--env=MERCURE_IN_DIR=/input",
        "--mount=type=bind,source=/i,target=/input,readonly",
        "--mount=type=bind,source=/o,target=/output",
        f"--user={os.getuid()}:{os.getgid()}",
    } <= set(line)
    assert not {"--privileged", "-v", "--volume"} & set(line)


def test_a_container_runs(image: DicomImage) -> None:
    engine = container.engine()
    needed = ["info"], ["image", "inspect", "busybox"]
    if not engine or any(
        subprocess.run([engine, *one], capture_output=True, check=False).returncode for one in needed
    ):
        pytest.skip("needs podman or docker that can run containers, and the image busybox")
    answer = json.dumps({"findings": [{"source_uid": image.uid, **FINDING}]})
    script = f"test -r /input/1.dcm && ! touch /input/x && echo '{answer}' > /output/findings.json"
    options = {"image": "busybox", "command": ["sh", "-c", script], **NAMED}
    assert len(create("container").run([image], lambda *_: None, options).findings) == 1
