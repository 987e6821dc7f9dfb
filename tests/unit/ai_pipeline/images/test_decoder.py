"""The confined process that decodes: what reaches it, and what is left of it."""

import ast
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from ai_pipeline.confinement import landlock
from ai_pipeline.errors import NoDecoder, PixelError
from ai_pipeline.images import codestreams, decoder
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.decoder import Decoder
from tests.unit.ai_pipeline.images.images_lab import small_picture
from tests.unit.ai_pipeline.phantoms import decodes, echo, write_dicom
from tests.waiting import wait_until

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

class Mapped(decoder_process.mmap.mmap):
    def __init__(self, *_):
        Mapped.last = self

decoder_process.mmap.mmap = Mapped

def looks(frame):
    memory = Mapped.last
    if any(memory[24 + len(frame):]):
        raise ValueError("there is something")
    memory[24 + len(frame):] = b"x" * (len(memory) - 24 - len(frame))
    return b"y" * (360 * 480)

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


def taken_over(folder: Path, how: str, port: int = 0, first: str = "") -> DicomImage:
    """An image whose decoder does what the function ``how`` of HOSTILE does, after the lines ``first``."""
    (folder / "secret").write_text("geheim")
    code = HOSTILE.replace("SECRET, PORT, VICTIM", repr((str(folder / "secret"), port, os.getpid())))
    code = code.replace("HOW", how).replace("decoder_process.main", f"{first}decoder_process.main")
    (folder / "hostile.py").write_text(code)
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


NO_SECCOMP = "decoder_process.seccomp.only_compute = lambda: False\n"


@pytest.mark.parametrize("files", [False, True], ids=["limits alone", "and Landlock"])
def test_without_seccomp_a_decoder_still_has_no_file_network_or_process(
    tmp_path: Path, hostile: Decoder, files: bool
) -> None:
    if files and landlock.version() < landlock.LEAST:
        pytest.skip("this kernel has no Landlock")
    bare = (
        f"{NO_SECCOMP}os.close(control)\n"  # it was got before the decoder was confined, which no frame can
        "if os.geteuid() == 0: os.setuid(65534)\n"
    )
    if not files:
        bare += "decoder_process.landlock.allow_only = lambda *_: False\n"
    image = taken_over(tmp_path, "tries", first=bare)
    lacking = "system calls (seccomp)" if files else "files and system calls (Landlock, seccomp)"
    assert hostile.lacks() == lacking
    with pytest.raises(PixelError, match="decoder did") as failure:
        image.stored()
    did = ast.literal_eval(str(failure.value).partition("did: ")[2])
    assert set(did) <= {"signal", "parent", "other descriptors"} | (set() if files else {"remove"})


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crashes", "died of it .SIGSEGV"),
        ("leaves", "died of it .status 0"),
        ("hoards", "takes more than 1024 MiB"),
        ("lies", "decodes to 1 bytes, the header describes 172800"),
        ("spins", "takes longer than"),
        ("talks", r"decode\?\[31mx+$"),
    ],
)
def test_what_ends_a_decoder_costs_one_image(tmp_path: Path, hostile: Decoder, how: str, reason: str) -> None:
    lower = {"spins": "decoder_process.SECONDS = 0.5\n", "hoards": "decoder_process.MEMORY = 1 << 30\n"}
    with pytest.raises(PixelError, match=reason) as failure:
        taken_over(tmp_path, how, first=lower.get(how, "")).stored()
    assert type(failure.value) is PixelError  # of the image: no memory of this process was lacking
    assert len(str(failure.value)) < 300
    assert decodes(tmp_path)


@pytest.mark.parametrize(
    ("how", "sample", "keeps_memory"),
    [("remembers", 1, False), ("looks", ord("y"), True)],
    ids=["in the process", "in its memory"],
)
def test_nothing_of_a_frame_is_left_for_the_next_one(
    tmp_path: Path, hostile: Decoder, how: str, sample: int, keeps_memory: bool
) -> None:
    image = taken_over(tmp_path, how)
    if keeps_memory and hostile.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")
    for _ in range(3):
        image.forget()
        assert set(image.stored().ravel()) == {sample}
    assert not keeps_memory or hostile._kept is not None


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether the process ends within a minute."""
    status = Path(f"/proc/{pid}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), 60, "the process's end")
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
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        makes = int(worker.stdout.readline())
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        worker.kill()
    assert gone(makes)
    assert gone(spinning[0])


@pytest.mark.parametrize("which", ["the frame's", "the one that makes it", "that one, stopped"])
def test_a_decoder_that_was_killed_or_stands_still_is_not_the_image_s_fault(
    tmp_path: Path, hostile: Decoder, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    image = taken_over(tmp_path, "spins")
    with monkeypatch.context() as brief:
        brief.setattr(decoder, "SECONDS", 1.0 if "stopped" in which else 60.0)
        hostile.start()
    makes = hostile._process.pid

    def kill() -> None:
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        how = signal.SIGSTOP if "stopped" in which else signal.SIGKILL
        os.kill(spinning[0] if which == "the frame's" else makes, how)

    with ThreadPoolExecutor(1) as killer:
        killer.submit(kill)
        with pytest.raises(PixelError):  # which is tried again
            image.stored()
    assert decodes(tmp_path)


def test_a_decoder_whose_maker_is_gone_before_it_could_ask_is_ended(tmp_path: Path, hostile: Decoder) -> None:
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
    with pytest.raises(PixelError):
        taken_over(tmp_path, "spins", first=orphan).stored()
    assert gone(int((tmp_path / "orphan").read_text()))


def test_the_process_serves_on_when_its_service_is_asked_to_stop(tmp_path: Path, hostile: Decoder) -> None:
    taken_over(tmp_path, "lies")
    hostile.start()
    process = hostile._process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert decodes(tmp_path)
    assert hostile._process is process


def test_where_it_cannot_start_the_image_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = open_dicom(write_dicom(tmp_path / "good.dcm", echo()[None], JPEGLSLossless))
    monkeypatch.setattr(codestreams, "DECODER", Decoder(["-c", "import not_installed"]))

    with pytest.raises(NoDecoder, match=r"cannot start: try .* -I -c import not_installed"):
        image.stored()


def test_the_memory_of_a_frame_serves_the_next_one_when_nobody_looks_at_it() -> None:
    one = Decoder()
    if one.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")
    (first, first_samples), (second, second_samples) = small_picture(1), small_picture(2)
    samples, before = one.decode("picture", first, 360 * 480), one._kept
    other, last = one.decode("picture", second, 360 * 480), one._kept
    assert last is not before  # somebody looks at it yet
    assert (bytes(samples), bytes(other)) == (first_samples, second_samples)
    del samples, other
    assert bytes(one.decode("picture", first, 360 * 480)) == first_samples
    assert one._kept is last
    one.close()
    assert one._kept is None


def test_where_a_process_could_outlive_its_frame_no_memory_is_used_again(
    tmp_path: Path, hostile: Decoder
) -> None:
    taken_over(tmp_path, "lies", first=NO_SECCOMP)
    assert decodes(tmp_path)
    assert hostile._kept is None


INTERRUPTED = Mock(side_effect=KeyboardInterrupt)


@pytest.mark.parametrize("ends", ["too large", "interrupted"])
def test_memory_that_is_not_for_the_next_frame_is_given_back(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, files = Decoder(), lambda: len(list(Path("/proc/self/fd").iterdir()))
    one.start()
    before = files() - (ends == "interrupted")  # its socket
    patched = {"too large": ("_MOST_KEPT", 1000), "interrupted": ("_received", INTERRUPTED)}
    monkeypatch.setattr(decoder, *patched[ends])
    with contextlib.suppress(KeyboardInterrupt):
        one.decode("picture", small_picture(1)[0], 360 * 480)
    assert one._kept is None
    assert files() == before
    one.close()


def test_threads_take_turns() -> None:
    frames, samples = zip(*map(small_picture, range(4)), strict=True)
    with ThreadPoolExecutor(4) as threads:
        decoded = threads.map(lambda frame: codestreams.DECODER.decode("picture", frame, 360 * 480), frames)
    assert tuple(map(bytes, decoded)) == samples


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemons_of_multiprocessing_decode(tmp_path: Path, method: str) -> None:
    codestreams.DECODER.start()
    with multiprocessing.get_context(method).Pool(1) as pool:  # daemons may have no processes of their own
        assert pool.apply(decodes, (tmp_path,))
    assert decodes(tmp_path)


def test_an_interrupted_wait_does_not_mix_up_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codestreams.DECODER.start()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(decoder, "_received", INTERRUPTED)
        codestreams.DECODER.decode("picture", small_picture(1)[0], 360 * 480)
    assert decodes(tmp_path)
