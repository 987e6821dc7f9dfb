"""The data folder at the start: whom an earlier version or a hasty hand let in is shut out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config.settings import NodeSettings, Settings
from dicom_node.node import _prepare_folder


@pytest.mark.parametrize(
    ("before", "after"), [(0o777, 0o750), (0o770, 0o750), (0o750, 0o750), (0o700, 0o700)]
)
def test_nobody_but_the_nodes_user_may_put_files_into_the_data_folder(
    tmp_path: Path, before: int, after: int
) -> None:
    """Who may write in it may put a key, a database or a policy of his own in the place of the node's."""
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(before)
    _prepare_folder(Settings(node=NodeSettings(data_dir=folder)))
    assert folder.stat().st_mode & 0o777 == after
