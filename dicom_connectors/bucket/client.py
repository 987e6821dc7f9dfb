"""A bucket of any S3 service; only this module uses obstore."""

import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from dicom_connectors.bucket.settings import ObjectStoreSettings
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.files import sha256_of

_CONNECT_SECONDS = 5
_RETRIES = 2
_AGAIN_SECONDS = 1.0  # until a store that did not answer is asked again: pages do not wait for each file
_BLOCK = 1 << 20


class S3Bucket:
    """A bucket of an S3 service that stores the node's files (implements ``Bucket`` of
    dicom_node/base/files.py).

    Every method raises StoreAway if the service does not answer or refuses the request.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self.name, self._away_until = settings.url, 0.0
        login = {
            "access_key_id": settings.access_key_id.get_secret_value(),
            "secret_access_key": settings.secret_access_key.get_secret_value(),
            "endpoint": settings.endpoint,
        }
        self._store = S3Store(
            settings.bucket,
            prefix=settings.prefix or None,
            region=settings.region,
            checksum_algorithm="sha256",  # the service compares what it got
            client_options={
                "allow_http": settings.endpoint.startswith("http://"),  # the settings refused it elsewhere
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "timeout": timedelta(seconds=settings.seconds),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=settings.seconds)},
            **{key: value for key, value in login.items() if value},
        )

    def put(self, key: str, file: Path) -> None:
        """Upload ``file`` as the object ``key``, and check its size in the bucket; an object of that key is
        overwritten, so the key must belong to this content only.
        """
        with self._errors_as_store_away(), _check_bucket(file):
            obstore.put(self._store, key, file)
        self._check_size(key, file)

    def put_first(self, key: str, file: Path) -> None:
        """Upload ``file`` as the object ``key``, unless the bucket has that key already.

        The file is read into memory. Raises StoreAway if the object in the bucket has other bytes.
        """
        import obstore

        try:
            with self._errors_as_store_away(), _check_bucket(file):
                obstore.put(self._store, key, file, mode="create")
        except AlreadyExistsError:
            self._check_same_bytes(key, file)
        self._check_size(key, file)

    def _check_size(self, key: str, file: Path) -> None:
        """Raise StoreAway unless the object ``key`` in the bucket has the size of ``file``."""
        if self.size(key) != file.stat().st_size:
            raise StoreAway("the object store shows another size than was put")

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if the bucket does not have it."""
        with suppress(FileNotFoundError), self._errors_as_store_away():
            return int(obstore.head(self._store, key)["size"])
        return None

    def get(self, key: str, into: Path, sha256: str = "") -> str:
        """Download the object ``key`` to the path ``into``, and return its SHA-256 in hexadecimal.

        The file appears only when it is complete. ``sha256``: the expected hash, "" for no check. Raises
        NotInSpool if the bucket does not have the object, or it has another hash.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = into.with_name(f".{secrets.token_hex(8)}")
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as out, self._errors_as_store_away():
                for block in obstore.get(self._store, key):
                    out.write(block)
                    digest.update(block)
            if sha256 not in ("", digest.hexdigest()):
                raise NotInSpool("an object in the object store is damaged: restore it, or send it again")
            temporary.replace(into)
        except FileNotFoundError:
            raise NotInSpool("the object store has lost an object: restore it, or send it again") from None
        finally:
            temporary.unlink(missing_ok=True)
        return digest.hexdigest()

    def delete(self, *keys: str) -> None:
        """Delete the objects with these keys; missing objects are ignored."""
        with suppress(FileNotFoundError), self._errors_as_store_away():
            obstore.delete(self._store, keys)

    def keys(self, under: str) -> Iterator[str]:
        """Yield the keys of all objects in the folder ``under``."""
        with self._errors_as_store_away():
            for batch in obstore.list(self._store, under):
                yield from (item["path"] for item in batch)

    def _check_same_bytes(self, key: str, file: Path) -> None:
        """Raise StoreAway unless the object ``key`` in the bucket has the bytes of ``file``.

        It has them if an earlier upload succeeded and its answer was lost.
        """
        copy = file.with_name(f".{secrets.token_hex(8)}")
        try:
            theirs = self.get(key, copy)
        except NotInSpool:
            raise StoreAway("an object came and went in the object store") from None
        finally:
            copy.unlink(missing_ok=True)
        if sha256_of(file) != theirs:
            raise StoreAway("another worker put this object at the same time")

    @contextmanager
    def _errors_as_store_away(self) -> Iterator[None]:
        """Context manager that raises StoreAway in place of the S3 library's errors, except FileNotFoundError
        and AlreadyExistsError.

        Its message never quotes the service, whose text contains addresses and keys.
        """
        if time.monotonic() < self._away_until:
            raise StoreAway("the object store does not answer")
        try:
            yield
        except AlreadyExistsError:
            raise
        except (PermissionDeniedError, UnauthenticatedError):
            raise StoreAway("the object store refuses us: login or rights are missing") from None
        except BaseError:
            self._away_until = time.monotonic() + _AGAIN_SECONDS
            raise StoreAway("the object store does not answer") from None


@contextmanager
def _check_bucket(file: Path) -> Iterator[None]:
    """Context manager for an upload of ``file``: a FileNotFoundError becomes StoreAway if it is the bucket
    that is missing.
    """
    try:
        yield
    except FileNotFoundError:
        if not file.is_file():
            raise
        raise StoreAway("the object store has no bucket of this name") from None
