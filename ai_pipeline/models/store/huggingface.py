"""Take in a folder in Hugging Face's layout: which files count, and how large they may be.

Their contents are read in the sandbox (:mod:`ai_pipeline.networks.huggingface`).
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Final

from ai_pipeline.errors import CardError

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
