"""Requirements of an object store: an existing bucket, and the rights to the bucket."""

from __future__ import annotations

import secrets
import tempfile
from datetime import timedelta
from pathlib import Path

from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigurationError, StorageError, StoreAway
from dicom_node.object_store.bucket import Bucket, bucket_of
from dicom_node.object_store.handover import refuse_another_key
from dicom_node.object_store.rows import oldest_waiting
from dicom_node.preflight.found import Found, Tried
from dicom_node.sitekey import path_of
from dicom_node.store.database import Database
from dicom_node.store.transitions import utc_now

_SAID = b"dicom-node check"
_LATE = timedelta(minutes=5)


def probe_object_store(settings: Settings) -> Found:
    """Upload a small object, download it, check that it cannot be overwritten, and delete it."""
    if (bucket := bucket_of(settings)) is None or not bucket.is_usable:
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
            bucket.put_first(key, ours)
            doing = "get"
            bucket.get(key, Path(folder, "back"))
            doing = "delete"
            overwrites = _overwrites(bucket, key, other)
            bucket.delete(key)
        except StorageError as error:
            look = "look at endpoint, login, bucket, and the rights to list, put, get and delete"
            yield Tried("object store", False, f"{bucket.name}, {doing}: {error}; {look}")
            return
    if overwrites:
        text = (
            "it overwrites existing objects (no If-None-Match): two workers of one job may disturb each other"
        )
        yield Tried("object store", False, text)
    else:
        yield Tried("object store", True, f"{bucket.name}: an object was put, fetched and deleted")


def check_handed_over(database: Database, settings: Settings) -> Found:
    """Check for objects of the site that only the disk of one machine has."""
    if bucket_of(settings) is None:
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
