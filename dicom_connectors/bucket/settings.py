"""``[object_store]``: an S3 bucket in place of a folder that the machines of a site share."""

import re
from typing import TYPE_CHECKING, Annotated, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.base.config.section import Secret, Section, checked_url

if TYPE_CHECKING:
    from dicom_node.base.config.settings import Settings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _bucket_url(url: str) -> str:
    """Return ``url`` if it is "" or has the form s3://BUCKET/PREFIX. Raises ValueError for any other text."""
    if url and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?", url):
        raise ValueError("write it as s3://BUCKET or s3://BUCKET/PREFIX")
    return url


class ObjectStoreSettings(Section):
    """``[object_store]``: an S3 bucket in place of a folder that the machines of a site share."""

    url: Annotated[str, AfterValidator(_bucket_url)] = Field("", examples=["s3://dicom-node"])
    """s3://BUCKET or s3://BUCKET/PREFIX; empty: none, node.data_dir has everything. Needs the extra s3."""
    endpoint: Annotated[str, AfterValidator(checked_url)] = Field("", examples=["https://s3.example.org"])
    """Address of the S3 service; empty: the AWS address for the region."""
    region: str = "us-east-1"
    """Region of the bucket; services other than AWS mostly take any."""
    access_key_id: Secret = Field("", validate_default=True, examples=["${S3_KEY_ID}"])
    """By ${VAR} or ${file:PATH}; empty: as AWS's tools find it (environment, role of the machine)."""
    secret_access_key: Secret = Field("", validate_default=True, examples=["${file:/run/secrets/s3}"])
    """By ${VAR} or ${file:PATH}, never in the file."""
    allow_http: bool = False
    """Objects and login may go over the network unencrypted; without it http is for this machine only."""
    seconds: float = Field(30, gt=0)
    """How long one request may take: more for large objects on a slow line. Whoever needs an object waits so
    long for a bucket that hangs."""
    local_mib: int = Field(10240, ge=0)
    """Local copies of what is in the bucket may take this much of node.data_dir (MiB), but for those of the
    last quarter of an hour."""

    @property
    def bucket(self) -> str:
        """The name of the bucket in ``url``."""
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """The text at the beginning of all keys, from ``url``; "" for none."""
        return urlsplit(self.url).path.strip("/")

    @model_validator(mode="after")
    def _goes_encrypted(self) -> Self:
        """Refuse plain HTTP to another machine, unless ``allow_http`` is set."""
        host = urlsplit(self.endpoint).hostname
        if self.endpoint.startswith("http://") and host not in _LOOPBACK and not self.allow_http:
            raise ValueError("endpoint: http shows patients' images to the network: use https, or allow_http")
        return self

    @model_validator(mode="after")
    def _has_a_whole_login(self) -> Self:
        """Refuse an access key without its secret, and a secret without its access key."""
        if bool(self.access_key_id.get_secret_value()) != bool(self.secret_access_key.get_secret_value()):
            raise ValueError("access_key_id and secret_access_key go together: give both or neither")
        return self


class BucketPart(Section):
    """Mixin that adds the table ``[object_store]`` to the node's settings."""

    object_store: ObjectStoreSettings = ObjectStoreSettings()

    @property
    def fixed(self) -> dict[str, object]:
        """Values of the settings that take effect only after a restart of the node, by their dotted key."""
        return {**cast("Settings", super()).fixed, "object_store.url": self.object_store.url}
