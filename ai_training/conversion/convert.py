"""Convert a checkpoint to a model with its card, in a process of its own: a pickle is code.

:mod:`ai_pipeline.models.store.sandbox` says what that process can reach. Its output is treated like a
download: it is checked after the process has ended, again in a process of its own.

Take in a folder in Hugging Face's layout: which files count, and how large they may be.

Their contents are read in the sandbox (:mod:`ai_training.conversion.huggingface`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ai_pipeline.errors import CardError
from ai_pipeline.models.store import sandbox
from ai_pipeline.models.store.sandbox import inspect
from ai_training.conversion import label_map as label_maps
from ai_training.conversion.label_map import LabelMap
from ai_training.conversion.messages import ANSWER, MODEL, ConvertedNetwork, Request
from ai_training.conversion.template import written

LONGEST_ANSWER = 1 << 20  # bytes
OURS = Path(__file__).parents[1]  # the process reads this package too


@dataclass(frozen=True, slots=True)
class Converted:
    """The written card, and the properties that the process found in the network."""

    card: Path
    answer: ConvertedNetwork


def convert(
    request: Request,
    out: Path,
    *,
    model_id: str = "",
    version: str = "1",
    licence: str = "",
    label_map: LabelMap | None = None,
) -> Converted:
    """Write ``ID.onnx`` and ``ID.toml`` into ``out``. Raises CardError.

    The model has no output for a label that ``label_map`` leaves out.
    """
    checkpoint = Path(request.checkpoint).resolve()
    if request.family == HUGGINGFACE:
        check_folder(checkpoint)
    elif not checkpoint.is_file():
        raise CardError(f"{request.checkpoint} is not a file")
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
        card = written(
            out,
            made.read_bytes(),
            answer,
            model_id=model_id,
            version=version,
            licence=licence,
            label_map=label_map,
        )
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
        "ai_training.conversion.process",
        request.model_dump_json(),
        folder,
        reads=[checkpoint, OURS],
        seconds=request.seconds,
        required=True,
    )
    if ended.status is None:
        raise CardError(f"the conversion took longer than {request.seconds} s: see --seconds")
    if ended.status:
        raise CardError(f"{checkpoint.name} could not be converted: {ended.line}")
    answer, made = _answer(folder / ANSWER), folder / MODEL
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
