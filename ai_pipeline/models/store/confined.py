"""The process that opens foreign files. It is run as ``python -I -m`` this module, LIMITS as JSON, MODULE.

It gives up rights (:class:`ProcessLimits`) before it runs MODULE, so before any foreign file is opened.
"""

import json
import resource
import runpy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ai_pipeline.confinement import landlock, lower, seccomp

EXIT_DATA = 65
FILE = 4 << 30  # bytes that one file may grow to
MACHINE = ("/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What a confined process may use: ``seconds`` of processor time, bytes of ``memory`` (address space),
    and the files that it may read and write. ``required``: run nothing on a machine without Landlock and
    seccomp; False: use each of them if the kernel has it.
    """

    seconds: int
    memory: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    required: bool

    def as_json(self) -> str:
        """The limits as the JSON that the confined process gets."""
        return json.dumps(asdict(self))


def confine(limits: ProcessLimits) -> bool:
    """Limit this process for good; call this before any thread starts.

    Returns True when Landlock and seccomp are in force as well, False when only the resource limits are.
    """
    # Open at once.
    lower(
        {
            resource.RLIMIT_CPU: limits.seconds,
            resource.RLIMIT_AS: limits.memory,
            resource.RLIMIT_FSIZE: FILE,
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_NPROC: 4096,  # threads; of processes seccomp allows none
            resource.RLIMIT_CORE: 0,
        }
    )
    walls = landlock.allow_only(
        [Path(path) for path in (*limits.reads, *MACHINE)],
        [Path(path) for path in (*limits.writes, "/dev/null", "/dev/zero")],
    )
    return seccomp.give_up() and walls


def main() -> None:
    """Confine this process by the limits in its first argument, then run the module (or the script, if it is
    a path) in its second.
    """
    limits = ProcessLimits(**json.loads(sys.argv[1]))
    program = sys.argv[2]
    if not confine(limits) and limits.required:
        print("this process could not be confined", file=sys.stderr)
        sys.exit(77)  # EX_NOPERM of sysexits.h
    del sys.argv[1:]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
