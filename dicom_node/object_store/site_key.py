"""Check that machines without a common folder share one site key: else a patient has several pseudonyms."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from dicom_node import sitekey
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigProblem, ConfigurationError, NotInSpool, StoreAway
from dicom_node.object_store.bucket import bucket_of, sha256_of

_KEY = "keys/site-key.check"
_PURPOSE = "dicom-node: which site key is it"


def refuse_another_key(settings: Settings) -> None:
    """Read or make the site key, and compare it with the key of the site's first machine.

    The comparison uses a value derived from the key, which the first machine left in the bucket. Raises
    ConfigurationError if the values differ. An unreachable store is asked at the next start.
    """
    key, bucket = sitekey.load_or_create(settings.node.data_dir), bucket_of(settings)
    if bucket is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder, "ours")
        ours.write_bytes(key.derive(_PURPOSE))
        try:
            theirs = bucket.get(_KEY, Path(folder, "theirs"))
        except NotInSpool:
            with suppress(StoreAway):
                bucket.put_first(_KEY, ours)
            return
        except StoreAway:
            return
        if theirs != sha256_of(ours):
            path = sitekey.path_of(settings.node.data_dir)
            remedy = (
                "differs from the key of the site's other machines: copy theirs, or pseudonyms will differ"
            )
            raise ConfigurationError([ConfigProblem(str(path), "site key", "", remedy)])
