"""A file that is made whole or not at all, and never over another one."""

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
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
