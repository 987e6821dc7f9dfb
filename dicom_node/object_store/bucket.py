"""The object store of a site, if a connector offers one. Keys are the paths in the database's rows."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from dicom_node.config.settings import Settings
from dicom_node.connectors import every


class Bucket(Protocol):
    """Stores, fetches and deletes whole files; many threads may use one. No half-written file is visible.

    All methods raise StoreAway if the store does not answer or refuses the request.
    """

    name: str
    """Its address, for people."""
    is_usable: bool
    """Whether its library is installed."""
    local_mib: int
    """Local copies of what is in it may take this much of ``node.data_dir`` (MiB)."""

    def put(self, key: str, file: Path) -> None:
        """Upload a file under a key that is used for no other content, and check its size in the bucket."""

    def put_first(self, key: str, file: Path) -> None:
        """Upload a file, held in memory, unless the key exists. Raises StoreAway if the key has other
        bytes.
        """

    def size(self, key: str) -> int | None:
        """The size of an object in bytes, None if it does not exist."""

    def get(self, key: str, into: Path, sha256: str = "") -> str:
        """Fetch an object into a file, which is complete or does not exist; returns its SHA-256.

        Raises NotInSpool if the bucket does not have the object, or its hash is not ``sha256``.
        """

    def delete(self, *keys: str) -> None:
        """Delete objects; missing objects are ignored."""

    def keys(self, under: str) -> Iterator[str]:
        """All keys in the folder ``under``."""


def bucket_of(settings: Settings) -> Bucket | None:
    """The object store of these settings, None without one; the process shares one."""
    found: Iterator[Bucket | None] = (offer(settings) for offer in every("object_stores"))
    return next(filter(None, found), None)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a whole file, as hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
