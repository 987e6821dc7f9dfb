"""The bucket of the settings, without what works with it: a command may ask for it."""

from functools import cache
from importlib.util import find_spec

from dicom_connectors.bucket.settings import BucketPart, ObjectStoreSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.files import Bucket


@cache
def _opened(settings: ObjectStoreSettings) -> Bucket:
    """Return the client of the bucket in these settings; equal settings share one client."""
    from dicom_connectors.bucket.client import S3Bucket  # of an extra

    return S3Bucket(settings)


def open_bucket(settings: Settings) -> Bucket | None:
    """Return the client of the configured bucket, which the whole process shares; None if no bucket is
    configured or obstore is not installed.
    """
    store = typed_section(settings, BucketPart).object_store
    return _opened(store) if store.url and find_spec("obstore") else None
