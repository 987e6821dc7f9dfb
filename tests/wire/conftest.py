"""Servers that several tests on the wire share."""

from collections.abc import Iterator

import pytest

from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(
        tmp_path_factory.mktemp("orthanc"),
        plugins=[DICOMWEB],
        config={"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True},
    ) as orthanc:
        yield orthanc
