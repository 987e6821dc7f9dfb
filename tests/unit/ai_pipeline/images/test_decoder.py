"""A decoder that was broken into reaches nothing, and costs the image that it was decoding only."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from ai_pipeline.confinement import landlock
from ai_pipeline.errors import NoDecoder, OutOfMemory, PixelError
from ai_pipeline.images import codestreams, decoder_process
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.decoder import Decoder
from tests.unit.ai_pipeline.phantoms import decodes, echo, write_dicom

ROOT = Path(__file__).resolve().parents[4]


HOSTILE = """
import ctypes, os, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from ai_pipeline.images import decoder_process

control = os.dup(0)  # what a decoder can get hold of

def attempts():
    place, port, victim = SECRET, PORT, VICTIM
    yield "read", lambda: open(place).read()
    yield "list", lambda: os.listdir("/")
    yield "memory of others", lambda: open(f"/proc/{victim}/mem", "rb")
    yield "environment of others", lambda: open(f"/proc/{victim}/environ").read()
    yield "write", lambda: open(place + "-new", "w")
    yield "write here", lambda: open("left-behind", "w")
    yield "remove", lambda: os.unlink(place)
    yield "connect", lambda: socket.create_connection(("127.0.0.1", port))
    yield "socket", lambda: socket.socket(socket.AF_UNIX)
    yield "pair", lambda: socket.socketpair()
    yield "pipe", lambda: os.pipe()
    yield "fork", lambda: os.fork()
    yield "thread", lambda: threading.Thread(target=print).start()
    yield "program", lambda: subprocess.run(["true"])
    yield "signal", lambda: os.kill(victim, 0)
    yield "parent", lambda: os.kill(os.getppid(), 0)
    yield "speak for its parent", lambda: os.write(control, b"x" * 5)
    yield "other descriptors", lambda: [os.write(number, b"x") for number in range(40)]
    yield "limits", lambda: __import__("resource").setrlimit(7, (100, 100))

def tries(frame):
    done = []
    for name, attempt in attempts():
        try:
            attempt()
            done.append(name)
        except (Exception, SystemExit):
            pass
    secrets = [name for name in os.environ if "SECRET" in name]
    raise ValueError(f"decoder did: {done + secrets}")

def crashes(frame):
    ctypes.string_at(0)

def spins(frame):
    while True:
        pass

def hoards(frame):
    kept = []
    while True:
        kept.append(bytearray(64 << 20))

def lies(frame):
    return b"1"

def talks(frame):
    raise ValueError("decode\\x1b[31m" + "x" * 10_000)

def leaves(frame):
    os._exit(0)

remembered = []

def remembers(frame):
    remembered.append(frame)
    return bytes([len(remembered)]) * (360 * 480)

decoder_process.main({"openjpeg": HOW, "charls": decoder_process.DECODERS["charls"]})
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """The image's decoder, of which JPEG 2000 has been taken over as :func:`taken_over` says."""
    monkeypatch.setenv("SECRET_TOKEN", "geheim")
    one = Decoder([str(tmp_path / "hostile.py")])
    monkeypatch.setattr(codestreams, "DECODER", one)
    yield one
    one.close()


def taken_over(folder: Path, how: str, port: int = 0) -> DicomImage:
    """An image whose decoder does what the function ``how`` of HOSTILE does."""
    (folder / "secret").write_text("geheim")
    code = HOSTILE.replace("SECRET, PORT, VICTIM", repr((str(folder / "secret"), port, os.getpid())))
    (folder / "hostile.py").write_text(code.replace("HOW", how))
    return open_dicom(write_dicom(folder / "hostile.dcm", echo()[None], JPEG2000Lossless))


def test_a_decoder_that_is_broken_into_reaches_nothing(tmp_path: Path, hostile: Decoder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        image = taken_over(tmp_path, "tries", listener.getsockname()[1])
        if lacking := hostile.lacks():
            pytest.skip(f"this machine cannot take from a decoder {lacking}")
        with pytest.raises(PixelError, match=r"decoder did: \[\]"):
            image.stored()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.dcm", "hostile.py", "secret"]
    assert decodes(tmp_path)


@pytest.mark.parametrize("files", [False, True], ids=["limits alone", "and Landlock"])
def test_without_seccomp_a_decoder_still_has_no_file_network_or_process(
    tmp_path: Path, hostile: Decoder, files: bool
) -> None:
    if files and landlock.version() < landlock.LEAST:
        pytest.skip("this kernel has no Landlock")
    image = taken_over(tmp_path, "tries")
    script = tmp_path / "hostile.py"
    bare = (
        "decoder_process.seccomp.only_compute = lambda: False\n"
        "os.close(control)\n"  # it was got before the decoder was confined, which no frame can
        "if os.geteuid() == 0: os.setuid(65534)\n"
    )
    if not files:
        bare += "decoder_process.landlock.allow_only = lambda *_: False\n"
    script.write_text(script.read_text().replace("decoder_process.main", f"{bare}decoder_process.main"))

    lacking = "system calls (seccomp)" if files else "files and system calls (Landlock, seccomp)"
    assert hostile.lacks() == lacking
    with pytest.raises(PixelError, match="decoder did") as failure:
        image.stored()

    possible = {"signal", "parent", "other descriptors"} | (set() if files else {"remove"})
    assert set(ast.literal_eval(str(failure.value).partition("did: ")[2])) <= possible


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crashes", "died of it .SIGSEGV"),
        ("leaves", "died of it .status 0"),
        ("hoards", f"takes more than {decoder_process.MEMORY >> 20} MiB"),
        ("lies", "decodes to 1 bytes, the header describes 172800"),
    ],
)
def test_what_ends_a_decoder_costs_one_image(tmp_path: Path, hostile: Decoder, how: str, reason: str) -> None:
    with pytest.raises(PixelError, match=reason) as failure:
        taken_over(tmp_path, how).stored()

    assert type(failure.value) is PixelError  # of the image: no memory of this process was lacking
    assert decodes(tmp_path)


def test_a_decoder_that_never_ends_is_ended(
    tmp_path: Path, hostile: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = taken_over(tmp_path, "spins")
    script = tmp_path / "hostile.py"
    script.write_text(
        script.read_text().replace(
            "decoder_process.main", "decoder_process.SECONDS = 0.5\ndecoder_process.main"
        )
    )

    with pytest.raises(PixelError, match="takes longer than"):
        image.stored()

    assert decodes(tmp_path)


def test_a_decoder_s_complaint_is_short_and_printable(tmp_path: Path, hostile: Decoder) -> None:
    with pytest.raises(PixelError, match=r"decode\?\[31mx+$") as failure:
        taken_over(tmp_path, "talks").stored()

    assert len(str(failure.value)) < 300


def test_nothing_of_a_frame_is_left_for_the_next_one(tmp_path: Path, hostile: Decoder) -> None:
    image = taken_over(tmp_path, "remembers")

    for _ in range(3):
        image.forget()
        assert set(image.stored().ravel()) == {1}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_worker_that_is_killed_leaves_no_decoder(tmp_path: Path, hostile: Decoder) -> None:
    path = taken_over(tmp_path, "spins").path
    code = (
        "import sys\n"
        "from ai_pipeline.images import codestreams, decode, decoder\n"
        f"codestreams.DECODER = one = decoder.Decoder([{str(tmp_path / 'hostile.py')!r}])\n"
        "one.start()\n"
        "print(one._process.pid, flush=True)\n"
        f"decode.open_dicom({str(path)!r}).stored()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as worker:
        assert worker.stdout is not None
        makes = int(worker.stdout.readline())
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        worker.kill()

    assert gone(makes)
    assert gone(spinning[0])


@pytest.mark.parametrize("which", ["the frame's", "the one that makes it"])
def test_a_decoder_that_was_killed_is_not_the_image_s_fault(
    tmp_path: Path, hostile: Decoder, which: str
) -> None:
    image = taken_over(tmp_path, "spins")
    hostile.start()
    assert hostile._process is not None
    makes = hostile._process.pid

    def kill() -> None:
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        os.kill(spinning[0] if which == "the frame's" else makes, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(OutOfMemory):  # which is tried again
        image.stored()
    killer.join()

    assert decodes(tmp_path)


def test_a_decoder_whose_maker_is_gone_before_it_could_ask_is_ended(tmp_path: Path, hostile: Decoder) -> None:
    image = taken_over(tmp_path, "spins")
    script = tmp_path / "hostile.py"
    orphan = (
        "asks, answers = decoder_process.die_with_parent, decoder_process._answer\n"
        "def late(parent):\n"
        "    os.kill(parent, signal.SIGKILL)\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.01)\n"
        "    return asks(parent)\n"
        "def answer(*arguments):\n"  # of a frame's process, not of the trial
        f"    Path({str(tmp_path / 'orphan')!r}).write_text(str(os.getpid()))\n"
        "    decoder_process.die_with_parent = late\n"
        "    answers(*arguments)\n"
        "decoder_process._answer = answer\n"
        "decoder_process.landlock.allow_only = lambda *_: True\n"
    )
    script.write_text(script.read_text().replace("decoder_process.main", f"{orphan}decoder_process.main"))

    with pytest.raises(OutOfMemory):
        image.stored()

    assert gone(int((tmp_path / "orphan").read_text()))


def test_the_process_serves_on_when_its_service_is_asked_to_stop(tmp_path: Path, hostile: Decoder) -> None:
    taken_over(tmp_path, "lies")
    hostile.start()
    process = hostile._process
    assert process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)

    assert decodes(tmp_path)
    assert hostile._process is process


def test_the_process_is_made_again_when_it_was_killed(tmp_path: Path) -> None:
    codestreams.DECODER.start()
    process = codestreams.DECODER._process
    assert process is not None
    process.kill()
    process.wait()

    assert decodes(tmp_path)


def test_where_it_cannot_start_the_image_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = open_dicom(write_dicom(tmp_path / "good.dcm", echo()[None], JPEGLSLossless))
    monkeypatch.setattr(codestreams, "DECODER", Decoder(["-c", "import not_installed"]))

    with pytest.raises(NoDecoder, match=r"cannot start: try .* -I -c import not_installed"):
        image.stored()


def test_the_process_ends_with_the_one_that_it_serves() -> None:
    code = (
        "from ai_pipeline.images.decoder import DECODER\n"
        "DECODER.start()\n"
        "print(DECODER._process.pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=True, cwd=ROOT
    )
    assert gone(int(done.stdout))
    assert done.stderr == b""
