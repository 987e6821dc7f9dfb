"""Open foreign files in a process that can do nothing else: by bubblewrap, else by Landlock and seccomp.

bubblewrap gives the process file system, processes and network of its own; limits, Landlock and seccomp
(:mod:`.confined`) hold inside it as well. docs/reference/confinement.md says which protection each of them
gives.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

from ai_pipeline.confinement import landlock, seccomp
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import usable_cores
from ai_pipeline.models.store.confined import EXIT_DATA, ProcessLimits

LONGEST_LINE = 400  # characters of an error that are passed on
SYSTEM = "/usr/local/bin:/usr/bin:/bin"
LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit ``status``, None if its time ran out; ``line``: why it failed, "" if it did
    not.
    """

    status: int | None
    line: str


def walls() -> Literal["bubblewrap", "landlock", "none"]:
    """The strongest isolation, besides resource limits, that this machine offers for a process."""
    if _bubblewrap():
        return "bubblewrap"
    return "landlock" if landlock.version() >= landlock.LEAST and seccomp.known() else "none"


def require() -> None:
    """Raise CardError if this machine cannot isolate a process that runs foreign code."""
    found = walls()
    if found == "bubblewrap" or (found == "landlock" and os.geteuid() != 0):
        return
    why = "root gets out of Landlock's walls" if found == "landlock" else "this kernel has no Landlock of 6.2"
    raise CardError(f"install bubblewrap (Debian package bubblewrap), or see that it can start: {why}")


def run(
    program: str,
    request: str,
    scratch: Path,
    *,
    reads: Iterable[Path] = (),
    seconds: int,
    required: bool = False,
) -> Ended:
    """Run the module ``program`` of this package isolated, with ``request`` on standard input; return how it
    ended, with no process left. The process may read the interpreter, this package and ``reads``, and may
    write only in the folder ``scratch``, in which it works. ``seconds``: time limit by the clock.
    ``required``: do not run it on a machine where neither Landlock nor bubblewrap can isolate it.
    """
    paths = _outermost([*_interpreter(), *(path.absolute() for path in reads)])
    bubblewrap = _bubblewrap()
    # Bytes of addresses; importing torch takes 4 of the 16 GiB
    limits = ProcessLimits(
        seconds=seconds * usable_cores(),  # each core may use the whole time
        memory=(16 << 30),
        reads=tuple(map(str, paths)),
        writes=(str(scratch),),
        required=required and not bubblewrap,
    )
    # -I: modules come neither from the working folder, nor PYTHONPATH, nor the user's own packages.
    command = [sys.executable, "-I", "-m", "ai_pipeline.models.store.confined", limits.as_json(), program]
    if bubblewrap:
        command = [*_bubblewrap_command(bubblewrap, paths, scratch), *command]
    # No secret of the person's, no address of a proxy or a hub, and every cache in the empty folder.
    caches = (
        "HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "TORCH_HOME",
        "HF_HOME",
        "MPLCONFIGDIR",
        "YOLO_CONFIG_DIR",
    )
    variables = dict.fromkeys(caches, str(scratch))
    # One thread: it is one picture, and idle threads of OpenMP would spin on cores that others need.
    variables |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1"}
    with (
        tempfile.TemporaryFile() as errors,  # a pipe would let it fill our memory
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=scratch,
            env=variables | {"PATH": os.defpath, "LANG": "C.UTF-8", "USER": "nobody"},
            start_new_session=True,
        ) as process,
    ):
        try:
            process.communicate(request.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return Ended(None, f"it took longer than {seconds} s")
        finally:
            _end(process)
        return Ended(process.returncode, _last_line(errors, process.returncode) if process.returncode else "")


@lru_cache(maxsize=1)
def _bubblewrap() -> str:
    """The path of the program bubblewrap; "" if it is not installed or cannot start: some kernels and
    containers grant no namespaces.
    """
    program = shutil.which("bwrap", path=SYSTEM)
    if program is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        command = [
            *_bubblewrap_command(program, _outermost(_interpreter()), Path(scratch)),
            sys.executable,
            "-I",
            "-c",
            "import ai_pipeline",
        ]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, check=False, timeout=60)
            return program if done.returncode == 0 else ""
    return ""


def _bubblewrap_command(program: str, paths: Iterable[Path], scratch: Path) -> list[str]:
    """The command line by which bubblewrap runs a process that sees only ``paths`` and may write in
    ``scratch``.
    """
    # It is process 1 inside: when it ends, the kernel ends whatever it started.
    command = [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        "--cap-drop",
        "ALL",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(1 << 30),  # bytes of its own /tmp
        "--tmpfs",
        "/tmp",
        "--ro-bind-try",
        "/sys/devices/system/cpu",
        "/sys/devices/system/cpu",
    ]
    for path in paths:
        command += ["--ro-bind", str(path), str(path)]
    return [*command, "--bind", str(scratch), str(scratch), "--chdir", str(scratch), "--"]


def _interpreter() -> list[Path]:
    """The paths that Python needs: the interpreter, its libraries, the installed packages, and
    this package.
    """
    paths = [Path(path) for path in LIBRARIES]
    program = Path(sys.executable)
    while program.is_symlink():
        paths.append(program)
        program = program.parent / program.readlink()
    paths += [program, Path(sysconfig.get_path("stdlib")).parent]
    if sys.prefix != sys.base_prefix:
        paths.append(Path(sys.prefix))
    paths += [Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return [*paths, Path(__file__).parents[2]]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The folders that exist, each once, without folders inside another of them."""
    there = {path for path in paths if path.exists()}
    return sorted(path for path in there if not there.intersection(path.parents))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and everything that it has started."""
    if process.returncode is None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            # bubblewrap waits for its only child, process 1 inside: when that is gone, all inside are.
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
                process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(errors: IO[bytes], ended: int) -> str:
    """The last line that a failed process wrote to standard error, as the reason."""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4 * LONGEST_LINE))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"the process ended with {ended}, over its limits perhaps"
    return "".join(letter if letter.isprintable() else "?" for letter in lines[-1])[:LONGEST_LINE]


SECONDS = 300


def inspect(paths: Sequence[Path]) -> None:
    """Check model files in the sandbox. Raises CardError if one may not be run, or cannot be checked within
    :data:`SECONDS`.
    """
    names = ", ".join(path.name for path in paths)
    request = json.dumps([str(path.absolute()) for path in paths])
    run_check("ai_pipeline.models.store.formats", request, paths, SECONDS, f"{names} cannot be looked into")


def run_check(program: str, request: str, reads: Sequence[Path], seconds: int, otherwise: str) -> None:
    """Run the module ``program`` of this package in the sandbox, with ``request`` on its standard input and
    the files ``reads`` readable. Raises CardError: if the module exits with 65, with the line that it
    printed; if it fails in another way or takes longer than ``seconds``, with ``otherwise`` before that
    line.
    """
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        ended = run(program, request, Path(scratch), reads=reads, seconds=seconds)
    if ended.status == EXIT_DATA:
        raise CardError(ended.line)
    if ended.status != 0:
        raise CardError(f"{otherwise}: {ended.line}")
