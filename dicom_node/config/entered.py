"""Peers and rules that persons enter by page, program or command: ``node.data_dir/entered/000001.toml``, …

Each version is a file of its own, and the last one is read besides the configuration files. None is ever
written over: so the folder is the history, and machines of a site that share it share the entries.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dicom_node.config.settings import Settings

FOLDER: Final = "entered"
SAVED: Final = "saved"
"""The key of a version that says when it was written, by whom, and what changed."""


def file_of(data_dir: Path, version: int) -> Path:
    """The file of a version, from 1."""
    return data_dir / FOLDER / f"{version:06}.toml"


def versions(data_dir: Path) -> list[int]:
    """The versions, the oldest first."""
    return sorted(int(file.stem) for file in (data_dir / FOLDER).glob("[0-9]" * 6 + ".toml"))


def newest(data_dir: Path) -> int:
    """The version that counts, 0 where nothing was ever entered."""
    return max(versions(data_dir), default=0)


def edition(entry: Mapping[str, Any] | None) -> int:
    """A mark of what an entry says, by which a later request finds out whether it was changed; 0 for none."""
    return zlib.crc32(repr(entry).encode()) % 10**9 or 1 if entry else 0


def is_behind(settings: Settings) -> bool:
    """Whether these settings were read before the newest version was there: it will be loaded in a moment."""
    return newest(settings.node.data_dir) != settings.node.entered
