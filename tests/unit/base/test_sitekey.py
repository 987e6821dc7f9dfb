"""The site key: made once, read by its owner only, and derived from for ever alike."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_node.base.errors import ConfigurationError, ExitCode
from dicom_node.base.sitekey import SiteKey, load_or_create, path_of


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    path = path_of(tmp_path)
    assert path == tmp_path / "keys" / "site.key"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(bytes.fromhex(path.read_text(encoding="ascii"))) == 32
    assert load_or_create(tmp_path) == first
    assert [item.name for item in path.parent.iterdir()] == ["site.key"]


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({key.derive("same") for key in pool.map(load_or_create, [tmp_path] * 16)}) == 1


def test_the_derivation_is_that_of_rfc_5869_and_never_changes() -> None:
    expected = "d0cb051fbea050041e3150cdaeeac6c3cfdc42a83226c322756543e8da49373e"
    assert SiteKey(bytes(32)).derive("fixed").hex() == expected


@pytest.mark.parametrize(
    ("mode", "folder_mode", "remedy"),
    [(0o640, 0o700, "chmod 600"), (0o604, 0o700, "chmod 600"), (0o660, 0o700, "chmod 600"),
     (0o600, 0o770, "chmod 700")],
)  # fmt: skip
def test_a_key_that_others_may_read_or_exchange_is_refused_with_the_remedy(
    tmp_path: Path, mode: int, folder_mode: int, remedy: str
) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).chmod(mode)
    path_of(tmp_path).parent.chmod(folder_mode)
    with pytest.raises(ConfigurationError, match=remedy) as refused:
        load_or_create(tmp_path)
    assert refused.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("content", ["", "ab" * 31, "no key at all", "zz" * 32])
def test_a_broken_key_is_refused_and_not_made_anew(tmp_path: Path, content: str) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).write_text(content, encoding="ascii")
    with pytest.raises(ConfigurationError, match="backup"):
        load_or_create(tmp_path)
    assert path_of(tmp_path).read_text(encoding="ascii") == content
