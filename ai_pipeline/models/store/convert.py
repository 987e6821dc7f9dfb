"""Convert a checkpoint to a model with its card, in a process of its own: a pickle is code.

:mod:`ai_pipeline.models.store.sandbox` says what that process can reach. Its output is treated like a
download: it is checked after the process has ended, again in a process of its own.

Take in a folder in Hugging Face's layout: which files count, and how large they may be.

Their contents are read in the sandbox (:mod:`ai_pipeline.networks.huggingface`).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ai_pipeline.errors import CardError, NotTrusted
from ai_pipeline.models.card import NAME
from ai_pipeline.models.engine import SAFETENSORS
from ai_pipeline.models.registry import load
from ai_pipeline.models.store import label_map as label_maps
from ai_pipeline.models.store import sandbox
from ai_pipeline.models.store.label_map import LabelMap
from ai_pipeline.models.store.sandbox import inspect
from ai_pipeline.models.store.template import card_text
from ai_pipeline.networks.conversion import ANSWER, MODEL, ConvertedNetwork, Request

LONGEST_ANSWER = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Converted:
    """The written card, and the properties that the process found in the network."""

    card: Path
    answer: ConvertedNetwork


def convert(
    request: Request,
    out: Path,
    *,
    trust: bool,
    model_id: str = "",
    version: str = "1",
    licence: str = "",
    label_map: LabelMap | None = None,
) -> Converted:
    """Write ``ID.onnx`` (or ``.safetensors``) and ``ID.toml`` into ``out``. Raises CardError.

    ``trust`` must be True for anything but safetensors: the user accepts that a pickle is code. The model has
    no output for a label that ``label_map`` leaves out.
    """
    checkpoint = Path(request.checkpoint).resolve()
    if request.family == HUGGINGFACE:
        check_folder(checkpoint)
    elif not checkpoint.is_file():
        raise CardError(f"{request.checkpoint} is not a file")
    elif not trust and checkpoint.suffix != SAFETENSORS:
        raise NotTrusted(
            f"{checkpoint.name} is a pickle, and a pickle is code: with --trust you say that you trust it"
        )
    sandbox.require()
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        folder = Path(scratch)
        left_out = tuple(name for name, label in (label_map or {}).items() if label is None)
        asked = request.model_copy(update={"checkpoint": str(checkpoint), "leave_out": left_out})
        made, answer = _made(asked, folder)
        if not answer.labels:
            raise CardError(f"{checkpoint.name} has no labels: an encoder needs `examples/studies/head.py`")
        if label_map is None:
            label_maps.refuse_placeholders(answer.labels)
        else:
            label_maps.check(label_map, (*answer.labels, *answer.left_out))
        name = model_id or answer.id
        if not NAME.fullmatch(name) or not NAME.fullmatch(version):
            raise CardError("id and version must be letters, digits, '.', '_', '+' and '-', 64 at most")
        out.mkdir(parents=True, exist_ok=True)
        file, card = out / f"{name}.{request.form}", out / f"{name}.toml"
        data = made.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        text = card_text(
            answer,
            model_id=name,
            version=version,
            licence=licence,
            file=file.name,
            sha256=digest,
            label_map=label_map,
        )
        file.write_bytes(data)
        card.write_text(text, encoding="utf-8")
    load(card)
    return Converted(card, answer)


def encoder(
    folder: Path, scratch: Path, size: int | None, seconds: int = 600
) -> tuple[Path, ConvertedNetwork]:
    """The frozen encoder of a folder in Hugging Face's layout as ONNX in ``scratch``, converted the same way.

    ``size``: side of its input in pixels, if it differs from the folder's. Raises CardError.
    """
    check_folder(folder.resolve())
    sandbox.require()
    checkpoint = str(folder.resolve())
    request = Request(checkpoint=checkpoint, family=HUGGINGFACE, size=size, seconds=seconds, encoder=True)
    return _made(request, scratch)


def _made(request: Request, folder: Path) -> tuple[Path, ConvertedNetwork]:
    """The model that the process leaves in ``folder``, looked into, and what it found of the network."""
    checkpoint = Path(request.checkpoint)
    ended = sandbox.run(
        "ai_pipeline.models.store.conversion_process",
        request.model_dump_json(),
        folder,
        reads=[checkpoint],
        seconds=request.seconds,
        required=True,
    )
    if ended.status is None:
        raise CardError(f"the conversion took longer than {request.seconds} s: see --seconds")
    if ended.status:
        raise CardError(f"{checkpoint.name} could not be converted: {ended.line}")
    answer, made = _answer(folder / ANSWER), folder / f"{MODEL}.{request.form}"
    if not made.is_file() or made.is_symlink():
        raise CardError(f"{checkpoint.name} could not be converted: no model was written")
    inspect([made])
    return made, answer


def _answer(path: Path) -> ConvertedNetwork:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LONGEST_ANSWER:
            raise CardError("the conversion's answer is not one")
        return ConvertedNetwork.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CardError("the conversion's answer is not one") from error


HUGGINGFACE: Final = "huggingface"
WEIGHTS = "model.safetensors"
SETTINGS = ("config.json", "preprocessor_config.json")
LARGEST_SETTINGS = 1 << 20  # bytes
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_folder(folder: Path) -> None:
    """Raise CardError if ``folder`` lacks a file that a model in this layout needs."""
    if not folder.is_dir():
        raise CardError(f"{folder} is not a folder: give the one with config.json and {WEIGHTS}")
    if not (folder / SETTINGS[0]).is_file():
        raise CardError(f"{folder.name} has no config.json: give a folder in Hugging Face's layout")
    if (folder / f"{WEIGHTS}.index.json").exists():
        raise CardError(f"{folder.name} keeps its weights in several files: save them again in one {WEIGHTS}")
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
        why = f"; {pickles[0]} is a pickle, and a pickle is code" if pickles else ""
        raise CardError(
            f"{folder.name} has no {WEIGHTS}{why}: save the model with "
            "save_pretrained(safe_serialization=True)"
        )
    for name in SETTINGS:
        path = folder / name
        if path.is_file() and path.stat().st_size > LARGEST_SETTINGS:
            raise CardError(
                f"{name} is larger than {LARGEST_SETTINGS >> 20} MiB: that is no file of settings"
            )


def copied(folder: Path, to: Path, *, most: int, sha256: str = "") -> Path:
    """Copy the needed files into ``to``, so that the checked files are the ones that are read. Returns the
    copy.

    Weights of more than ``most`` bytes, or with another SHA-256 than ``sha256`` if given, are refused. Raises
    CardError.
    """
    check_folder(folder)
    weights = folder / WEIGHTS
    if weights.stat().st_size > most:
        raise CardError(f"{WEIGHTS} is larger than {most >> 20} MiB: say --most if it should be")
    copy = to / "folder"
    copy.mkdir()
    for name in (*SETTINGS, WEIGHTS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, copy / name)
    with (copy / WEIGHTS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in {"", found}:
        raise CardError(f"{WEIGHTS} has SHA-256 {found}, not {sha256}: another file, or altered; refused")
    return copy
