"""From a checkpoint to a model with its card, in a process of its own: a pickle is code.

The process starts with an empty environment, in an empty folder, with a time and the limits of
:mod:`ai_pipeline.models.store.sandbox`. What it leaves is looked at as if it came from the internet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ai_pipeline.errors import CardError, NotTrusted
from ai_pipeline.models.card import NAME
from ai_pipeline.models.engine import SAFETENSORS, usable_cores
from ai_pipeline.models.registry import load
from ai_pipeline.models.store import formats
from ai_pipeline.models.store.conversion_request import ANSWER, MODEL, Answer, Request
from ai_pipeline.models.store.template import card_text

LONGEST_ANSWER = 1 << 20  # bytes
LONGEST_LINE = 400  # characters of an error that are passed on


@dataclass(frozen=True, slots=True)
class Converted:
    """The card that was written, and what the process said of the network."""

    card: Path
    answer: Answer


def convert(
    request: Request, out: Path, *, trust: bool, model_id: str = "", version: str = "1", licence: str = ""
) -> Converted:
    """Write ``ID.onnx`` (or ``.safetensors``) and ``ID.toml`` into ``out``. Raises CardError.

    ``trust`` must be True for anything but safetensors: the person has been told that a pickle is code.
    """
    checkpoint = Path(request.checkpoint).resolve()
    if not checkpoint.is_file():
        raise CardError(f"{request.checkpoint} is not a file")
    if not trust and checkpoint.suffix != SAFETENSORS:
        raise NotTrusted(
            f"{checkpoint.name} is a pickle, and a pickle is code: with --trust you say that you trust it"
        )
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        folder = Path(scratch)
        _run(request.model_copy(update={"checkpoint": str(checkpoint)}), folder)
        answer = _answer(folder / ANSWER)
        made = folder / f"{MODEL}.{request.form}"
        if not made.is_file() or made.is_symlink():
            raise CardError(f"{checkpoint.name} could not be converted: no model was written")
        formats.check(made)
        name = model_id or answer.id
        if not NAME.fullmatch(name) or not NAME.fullmatch(version):
            raise CardError("id and version must be letters, digits, '.', '_', '+' and '-', 64 at most")
        out.mkdir(parents=True, exist_ok=True)
        file, card = out / f"{name}.{request.form}", out / f"{name}.toml"
        data = made.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        text = card_text(
            answer, model_id=name, version=version, licence=licence, file=file.name, sha256=digest
        )
        file.write_bytes(data)
        card.write_text(text, encoding="utf-8")
    load(card)
    return Converted(card, answer)


def _run(request: Request, folder: Path) -> None:
    # -I: neither the folder, nor PYTHONPATH, nor the user's own packages are looked into.
    command = [sys.executable, "-I", "-m", "ai_pipeline.models.store.conversion_process"]
    # Each core may use the whole time; the clock on the wall counts here.
    limited = request.model_copy(update={"seconds": request.seconds * usable_cores()})
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder,
        env=_environment(folder), start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _, errors = process.communicate(limited.model_dump_json().encode(), timeout=request.seconds)
        except subprocess.TimeoutExpired:
            raise CardError(f"the conversion took longer than {request.seconds} s: see --seconds") from None
        finally:
            _end(process)
    if process.returncode != 0:
        name = Path(request.checkpoint).name
        raise CardError(f"{name} could not be converted: {_last_line(errors, process.returncode)}")


def _environment(folder: Path) -> dict[str, str]:
    """No secret of the person's, no address of a proxy or a hub, and every cache in the empty folder."""
    caches = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR",
              "YOLO_CONFIG_DIR")  # fmt: skip
    told = dict.fromkeys(caches, str(folder))
    # One thread: it is one picture, and idle threads of OpenMP would spin on cores that others need.
    told |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1"}
    return told | {"PATH": os.defpath, "LANG": "C.UTF-8"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(errors: bytes, ended: int) -> str:
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"the process ended with {ended}, over its limits perhaps"
    return "".join(letter if letter.isprintable() else "?" for letter in lines[-1])[:LONGEST_LINE]


def _answer(path: Path) -> Answer:
    try:
        if path.is_symlink() or path.stat().st_size > LONGEST_ANSWER:
            raise CardError("the conversion's answer is not one")
        return Answer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CardError("the conversion's answer is not one") from error
