"""What the node gets from this connector besides the bucket: a check of its settings."""

from __future__ import annotations

from importlib.util import find_spec

from dicom_connectors.bucket.settings import BucketPart
from dicom_node.config.settings import Settings
from dicom_node.connectors import part
from dicom_node.preflight.found import Found, Tried
from dicom_node.store.database import sqlite_file


def check(settings: Settings) -> Found:
    """Mistakes in the object store's settings."""
    store = part(settings, BucketPart).object_store
    if store.url and find_spec("obstore") is None:
        yield "object_store.url", store.url, "needs obstore: pip install 'dicom-ai-node[s3]'"
    if store.url and sqlite_file(settings.database_url):
        text = "others wait for SQLite while results are put in the bucket: use PostgreSQL"
        yield Tried("object store", False, text)
    if store.url and store.endpoint.startswith("http://") and store.allow_http:
        yield Tried("object store", False, "images go over the network unencrypted (http): use https")
