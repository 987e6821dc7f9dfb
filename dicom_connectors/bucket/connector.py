"""What the node gets from this connector besides the bucket: threads, checks and a trial, metrics."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_connectors.bucket.handover import HandOver, LocalCopies, oldest_waiting, refuse_another_key
from dicom_connectors.bucket.opened import open_bucket
from dicom_connectors.bucket.settings import BucketPart
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Gauge, Service, typed_section
from dicom_node.base.errors import ConfigurationError, StorageError, StoreAway
from dicom_node.base.sitekey import path_of
from dicom_node.base.store.database import Database, sqlite_file
from dicom_node.base.store.transitions import utc_now
from dicom_node.people.preflight import Found, Tried


def hand_over(database: Database, settings: Settings, _owner: str) -> Iterator[Service]:
    """Yield the service that uploads received objects of this machine to the bucket, if one is configured."""
    if bucket := open_bucket(settings):
        yield Service("hand-over", HandOver(database, settings, bucket).run_once)


def services(database: Database, settings: Settings, _owner: str) -> Iterator[Service]:
    """Yield the service that deletes surplus local copies of files in the bucket, if one is configured."""
    if bucket := open_bucket(settings):
        yield Service("local copies", LocalCopies(database, settings, bucket).run_once)


def check(settings: Settings) -> Found:
    """Yield mistakes in the ``[object_store]`` settings, and warnings about SQLite and unencrypted
    transfer.
    """
    store = typed_section(settings, BucketPart).object_store
    if store.url and find_spec("obstore") is None:
        yield "object_store.url", store.url, "needs obstore: pip install 'dicom-ai-node[s3]'"
    if store.url and sqlite_file(settings.database_url):
        text = "others wait for SQLite while results are put in the bucket: use PostgreSQL"
        yield Tried("object store", False, text)
    if store.url and store.endpoint.startswith("http://") and store.allow_http:
        yield Tried("object store", False, "images go over the network unencrypted (http): use https")


def probe(settings: Settings) -> Found:
    """Test the configured bucket: upload a small object, download it, check that it cannot be overwritten,
    delete it.

    Yields the outcome in words, and a failed test if this machine's site key differs from the site's; nothing
    if no bucket is configured.
    """
    if (bucket := open_bucket(settings)) is None:
        return
    if path_of(settings.node.data_dir).is_file():
        try:
            refuse_another_key(settings)
        except ConfigurationError as error:
            yield Tried("site key", False, str(error))
    key, doing, overwrites = f"check/{secrets.token_hex(8)}", "put", False
    with tempfile.TemporaryDirectory() as folder:
        ours, other = Path(folder, "ours"), Path(folder, "other")
        ours.write_bytes(b"dicom-node check")
        other.write_bytes(b"another")
        try:
            bucket.put_first(key, ours)
            doing = "get"
            bucket.get(key, Path(folder, "back"))
            doing = "delete"
            with suppress(StoreAway):
                bucket.put_first(key, other)
                overwrites = True
            bucket.delete(key)
        except StorageError as error:
            look = "look at endpoint, login, bucket, and the rights to list, put, get and delete"
            yield Tried("object store", False, f"{bucket.name}, {doing}: {error}; {look}")
            return
    text = f"{bucket.name}: an object was put, fetched and deleted"
    if overwrites:
        text = "it overwrites objects (no If-None-Match): two workers of one job may disturb each other"
    yield Tried("object store", not overwrites, text)


def metrics(session: Session) -> Iterator[Gauge]:
    """Yield the metrics of received objects that are not in the bucket yet: their number, and the oldest
    one's age.
    """
    count, since = oldest_waiting(session)
    age = 0 if since is None else (utc_now() - since).total_seconds()
    yield Gauge("objects_to_hand_over", "Received objects that are not in the object store.", count)
    yield Gauge("objects_to_hand_over_oldest_seconds", "Since the oldest of them was received.", age)
