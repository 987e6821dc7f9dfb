"""Requirements of ``[object_store]``: its package, an existing bucket, and the rights to the bucket."""

from __future__ import annotations

import secrets
import tempfile
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigurationError, StorageError, StoreAway
from dicom_node.object_store.bucket import Bucket, bucket_of
from dicom_node.object_store.rows import oldest_waiting
from dicom_node.object_store.site_key import refuse_another_key
from dicom_node.preflight.found import Found, Tried
from dicom_node.sitekey import path_of
from dicom_node.store.database import Database, sqlite_file
from dicom_node.store.transitions import utc_now

_SAID = b"dicom-node check"
_LATE = timedelta(minutes=5)


def check_object_store(settings: Settings) -> Found:
    """Mistakes in the object store's settings."""
    store = settings.object_store
    if store.url and find_spec("obstore") is None:
        yield "object_store.url", store.url, "needs obstore: pip install 'dicom-ai-node[s3]'"
    if store.url and sqlite_file(settings.database_url):
        text = "others wait for SQLite while results are put in the bucket: use PostgreSQL"
        yield Tried("object store", False, text)
    if store.url and store.endpoint.startswith("http://") and store.allow_http:
        yield Tried("object store", False, "images go over the network unencrypted (http): use https")


def probe_object_store(settings: Settings) -> Found:
    """Upload a small object, download it, check that it cannot be overwritten, and delete it."""
    store = settings.object_store
    if not store.url or find_spec("obstore") is None:
        return
    if path_of(settings.node.data_dir).is_file():
        try:
            refuse_another_key(settings)
        except ConfigurationError as error:
            yield Tried("site key", False, str(error))
    key, doing = f"check/{secrets.token_hex(8)}", "put"
    with tempfile.TemporaryDirectory() as folder:
        ours, other = Path(folder, "ours"), Path(folder, "other")
        ours.write_bytes(_SAID)
        other.write_bytes(_SAID[::-1])
        try:
            bucket = bucket_of(store)
            assert bucket is not None
            bucket.put_first(key, ours)
            doing = "get"
            bucket.get(key, Path(folder, "back"))
            doing = "delete"
            overwrites = _overwrites(bucket, key, other)
            bucket.delete(key)
        except StorageError as error:
            look = "look at endpoint, login, bucket, and the rights to list, put, get and delete"
            yield Tried("object store", False, f"{store.url}, {doing}: {error}; {look}")
            return
    if overwrites:
        text = (
            "it overwrites existing objects (no If-None-Match): two workers of one job may disturb each other"
        )
        yield Tried("object store", False, text)
    else:
        yield Tried("object store", True, f"{store.url}: an object was put, fetched and deleted")


def check_handed_over(database: Database, settings: Settings) -> Found:
    """Check for objects of the site that only the disk of one machine has."""
    if not settings.object_store.url:
        return
    with database.read() as session:
        count, since = oldest_waiting(session)
    if since is not None:
        late = utc_now() - since > _LATE
        text = f"{count} received objects wait for it, the oldest since {since:%Y-%m-%d %H:%M:%S} UTC"
        yield Tried("object store", not late, text)


def _overwrites(bucket: Bucket, key: str, other: Path) -> bool:
    try:
        bucket.put_first(key, other)
    except StoreAway:
        return False
    return True
