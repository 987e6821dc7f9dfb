"""New files that are made whole, and folders whose names outlast a power cut."""

import os
import secrets
from pathlib import Path


def write_new(path: Path, text: str, mode: int = 0o644) -> None:
    """Write the file and sync it, then give it its name. ``mode`` is its mode whatever the umask: what root
    wrote by a command the node can read.

    Complete under a name of its own first: the first link to the final name wins, over NFS too. Raises
    FileExistsError where there is one of this name, OSError.
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
    """Sync the names in the folder, which a new or renamed file needs to be there after a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
