"""Images of which results are made."""

from pathlib import Path

import pytest

from dicom_node.results.source import SourceObject
from tests.result_images import (
    film,
    still,
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    return film(tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    return still(tmp_path_factory.mktemp("scan"))


@pytest.fixture
def image(tmp_path: Path) -> SourceObject:
    return film(tmp_path)
