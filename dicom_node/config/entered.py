"""``entered.toml`` in ``node.data_dir``: the peers and rules that pages, programs and commands write.

Machines of a site share it with the folder. Each text that it had is kept beside it, as a version.
"""

from __future__ import annotations

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ENTERED_FILE: Final = "entered.toml"
VERSIONS_FOLDER: Final = "entered.versions"
_KEPT = 200  # versions
_CLOCKS_DIFFER = 60.0  # at most, of the machines that share a folder


def read_entered(data_dir: Path) -> str:
    """The text of the file, "" where there is none."""
    try:
        return (data_dir / ENTERED_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def is_entered(data_dir: Path, name: str) -> bool:
    """Whether the site has this peer in the file, even if this process has not loaded it yet.

    Also where the file cannot be read now: what waits for the peer waits on.
    """
    try:
        return any(one["name"] == name for one in tomllib.loads(read_entered(data_dir)).get("peers", ()))
    except (OSError, ValueError, KeyError, TypeError):
        return True


@contextmanager
def changing(data_dir: Path) -> Iterator[str]:
    """The text, which nobody else changes meanwhile."""
    with (data_dir / "entered.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_entered(data_dir)


def replace_entered(data_dir: Path, text: str, by: str, what: str) -> None:
    """Write the file and its version, whole or not at all. What somebody wrote by hand is kept first."""
    known = versions(data_dir)
    before = read_entered(data_dir)
    folder, number = data_dir / VERSIONS_FOLDER, max(known, default=0)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not known or before != text_of(data_dir, number):
        number += 1
        _write(
            folder / f"{number:06}.toml",
            f"# {_now()}, found: by hand, or before there were versions\n{before}",
        )
    _write(folder / f"{number + 1:06}.toml", f"# {_now()}, {by}: {what}\n{text}")
    _write(data_dir / ENTERED_FILE, text)
    for old in sorted(known)[:-_KEPT]:
        (folder / f"{old:06}.toml").unlink(missing_ok=True)


def versions(data_dir: Path) -> dict[int, str]:
    """The versions by number, the oldest first: when each was written, by whom, and what changed."""
    found = {}
    for file in sorted((data_dir / VERSIONS_FOLDER).glob("[0-9]*.toml")):
        with file.open(encoding="utf-8") as lines:
            found[int(file.stem)] = next(lines, "").removeprefix("# ").strip()
    return found


def text_of(data_dir: Path, number: int) -> str:
    """The text of a version."""
    file = data_dir / VERSIONS_FOLDER / f"{number:06}.toml"
    return file.read_text(encoding="utf-8").partition("\n")[2]


class Watched:
    """The file as this node read it last."""

    def __init__(self, data_dir: Path) -> None:
        self._path, self._seen = data_dir / ENTERED_FILE, b""
        self.look()

    def look(self) -> None:
        """Note what stands there, before it is loaded."""
        self._read = self._seen = self._text()

    def is_newer_than(self, moment: float) -> bool:
        """Whether it may have been written since ``moment`` (time.time); clocks may differ."""
        return self._path.is_file() and self._path.stat().st_mtime > moment - _CLOCKS_DIFFER

    def is_behind(self) -> bool:
        """Whether two looks in a row saw the same text, not the one that was read: told once.

        Not at the first look: the machine where it was entered asks its node at once.
        """
        before, self._seen = self._seen, self._text()
        if self._seen == self._read or self._seen != before:
            return False
        self._read = self._seen
        return True

    def _text(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError:  # the disk is away
            return self._seen


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:  # closed to others by the umask
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
