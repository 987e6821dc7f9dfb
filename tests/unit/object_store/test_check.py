"""What ``dicom-node check`` says of a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node.config.object_store import ObjectStoreSettings
from dicom_node.config.settings import Settings
from dicom_node.preflight.found import Tried
from dicom_node.preflight.object_store import probe_object_store
from tests.s3_lab import S3


def tried(s3: S3, folder: Path, **other: object) -> Tried:
    given = {"node": {"data_dir": folder}, "object_store": s3.settings(folder.name) | other}
    [found] = probe_object_store(Settings.model_validate(given))
    assert isinstance(found, Tried)
    return found


def test_a_bucket_is_tried_and_nothing_is_left_in_it(s3: S3, tmp_path: Path) -> None:
    assert tried(s3, tmp_path).ok
    assert not [*s3.bucket(tmp_path.name).keys("")]


@pytest.mark.parametrize(
    ("other", "said"),
    [({"url": "s3://another"}, "no bucket of this name"), ({"endpoint": "http://127.0.0.1:9"}, "not answer")],
)
def test_what_is_wrong_with_a_bucket_is_one_sentence(
    s3: S3, tmp_path: Path, other: dict[str, object], said: str
) -> None:
    found = tried(s3, tmp_path, **other)
    assert not found.ok
    assert said in found.text and "look at" in found.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "https://s3.example.org/bucket"}, "s3://BUCKET"),
        ({"url": "s3://site", "endpoint": "http://s3.example.org"}, "use https"),
        ({"url": "s3://site", "access_key_id": "one"}, "give both or neither"),
    ],
)
def test_mistakes_are_told(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ObjectStoreSettings.model_validate(given)


def test_http_is_taken_where_the_settings_say_so() -> None:
    given = {"url": "s3://site", "endpoint": "http://s3.example.org", "allow_http": True}
    assert ObjectStoreSettings.model_validate(given).allow_http
