"""New files that are made whole, and folders whose names outlast a power cut."""

import os
import secrets
from pathlib import Path


def write_new(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a new file durably: the text is synced to disk before the file gets its name.

    ``mode``: the file's permissions, whatever the umask, so that the node can read what root wrote by a
    command. If several processes write the same path, over NFS too, the first wins. Raises FileExistsError if
    the path exists, OSError.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that new and renamed files in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
