"""The process that opens received objects (``inbox.inspector``): one request per line, one answer per
line.
"""

import contextlib
import dataclasses
import json
import math
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from dicom_node.base.dicom.elements import Limits
from dicom_node.receive.inspection import inspect


def main() -> None:
    """Answer requests until standard input closes."""
    limits = Limits(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole group; the node ends us
    with contextlib.suppress(OSError):  # the kernel shall rather take this process than the node
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _limit_memory(limits)
    print("{}", flush=True)  # ready
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Should the node die first, this one ends all the same.
        signal.alarm(math.ceil(request["seconds"]) + 5)
        answer: dict[str, Any]
        if "same" in request:
            one, other = map(Path, request["same"])
            answer = {"same": _same(one, other, limits)}
        else:
            try:
                answer = dataclasses.asdict(inspect(Path(request["inspect"]), request["assume"], limits))
            except OSError as error:
                answer = {"error": error.errno or 0}
        encoded = json.dumps(answer)
        signal.alarm(0)
        print(encoded, flush=True)


def _same(one: Path, other: Path, limits: Limits) -> bool | None:
    """Whether both decode to the same samples; None when one does not decode or needs too much memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    # Numpy and decoders, seldom needed here.
    from ai_pipeline.errors import PixelError
    from ai_pipeline.images.decode import decoded_sha256

    _limit_memory(limits)
    try:
        return decoded_sha256(one) == decoded_sha256(other)
    except (PixelError, MemoryError):
        return None


def _limit_memory(limits: Limits) -> None:
    """So much more than there is now; the hard limit stays, as ``_same`` begins anew."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + limits.memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


if __name__ == "__main__":
    main()
