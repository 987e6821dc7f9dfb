"""One S3 service for the tests of this room; each has a prefix of its own."""

from collections.abc import Iterator

import pytest

from tests.s3_lab import S3, start_s3


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with start_s3() as service:
        yield service
