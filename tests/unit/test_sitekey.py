"""The site key: made once, read by its owner only, shown to nobody."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from dicom_node import preflight
from dicom_node.errors import ConfigurationError, ExitCode
from dicom_node.sitekey import SiteKey, load_or_create, path_of


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    path = path_of(tmp_path)
    assert path == tmp_path / "keys" / "site.key"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(bytes.fromhex(path.read_text(encoding="ascii"))) == 32
    assert load_or_create(tmp_path) == first
    assert [item.name for item in path.parent.iterdir()] == ["site.key"]


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(_derived, [tmp_path] * 16)
    assert len(set(keys)) == 1


def test_purposes_and_sites_have_keys_of_their_own(tmp_path: Path) -> None:
    here, there = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")
    derived = {here.derive("uid"), here.derive("patient"), there.derive("uid"), there.derive("patient")}
    assert len(derived) == 4
    assert {len(key) for key in derived} == {32}
    assert here.derive("uid") == here.derive("uid")


def test_the_derivation_is_that_of_rfc_5869_and_never_changes() -> None:
    expected = "d0cb051fbea050041e3150cdaeeac6c3cfdc42a83226c322756543e8da49373e"
    assert SiteKey(bytes(32)).derive("fixed").hex() == expected


def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    for mode in (0o640, 0o604, 0o660):
        path_of(tmp_path).chmod(mode)
        with pytest.raises(ConfigurationError, match="chmod 600") as refused:
            load_or_create(tmp_path)
        assert refused.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("content", ["", "ab" * 31, "no key at all", "zz" * 32])
def test_a_broken_key_is_refused_and_not_made_anew(tmp_path: Path, content: str) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).write_text(content, encoding="ascii")
    with pytest.raises(ConfigurationError, match="backup"):
        load_or_create(tmp_path)
    assert path_of(tmp_path).read_text(encoding="ascii") == content


def test_no_text_of_a_key_shows_it(tmp_path: Path) -> None:
    key = load_or_create(tmp_path)
    secret = path_of(tmp_path).read_text(encoding="ascii").strip()
    assert repr(key) == str(key) == f"{key}" == "SiteKey()"
    assert secret not in repr(vars(SiteKey))


def test_a_key_that_others_may_exchange_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).parent.chmod(0o770)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        load_or_create(tmp_path)


@pytest.mark.parametrize("deidentify", ["true", "false"])
def test_check_tells_of_a_key_that_cannot_be_used_where_it_is_needed(tmp_path: Path, deidentify: str) -> None:
    load_or_create(tmp_path / "var")
    path_of(tmp_path / "var").chmod(0o644)
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\n[workers]\nprocesses = 0\n[[peers]]\nname = "archive"\n'
        f'ae_title = "ARCHIVE"\nresults = ["cleaned"]\ndeidentify = {deidentify}\n',
        encoding="utf-8",
    )
    problems = preflight.check([config]).problems
    assert any("chmod 600" in problem.remedy for problem in problems) == (deidentify == "true")


def test_check_makes_no_key(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\n[workers]\nprocesses = 0\n[[peers]]\nname = "archive"\n'
        'ae_title = "ARCHIVE"\nresults = ["cleaned"]\ndeidentify = true\n',
        encoding="utf-8",
    )
    tried = preflight.check([config]).tried
    assert [passed.ok for passed in tried if passed.subject == "site key"] == [True]
    assert not path_of(tmp_path / "var").exists()


def test_check_says_which_peers_can_put_their_patients_together(tmp_path: Path) -> None:
    assert _pseudonyms(tmp_path, "", "") == [
        (
            False,
            "no domain: peer0, peer1 get the same, so who has two of them can link patients; give each a "
            "pseudonym_domain, or all the same if that is wanted",
        ),
    ]
    assert _pseudonyms(tmp_path, "one", "") == [(True, "domain one: peer0"), (True, "no domain: peer1")]
    assert [ok for ok, _ in _pseudonyms(tmp_path, "one", "one")] == [True]


def test_a_domain_of_pseudonyms_without_pseudonyms_is_a_mistake(tmp_path: Path) -> None:
    _pseudonyms(tmp_path, "one")
    config = tmp_path / "node.toml"
    config.write_text(config.read_text().replace("deidentify = true", "deidentify = false"))
    assert [problem.key for problem in preflight.check([config]).problems] == ["peers.peer0.pseudonym_domain"]


def _pseudonyms(folder: Path, *domains: str) -> list[tuple[bool, str]]:
    config = folder / "node.toml"
    peers = [
        f'[[peers]]\nname = "peer{n}"\nae_title = "PEER{n}"\nresults = ["cleaned"]\ndeidentify = true\n'
        + (f'pseudonym_domain = "{domain}"\n' if domain else "")
        for n, domain in enumerate(domains)
    ]
    text = f'[node]\ndata_dir = "{folder / "var"}"\n[workers]\nprocesses = 0\n' + "".join(peers)
    config.write_text(text, encoding="utf-8")
    return [(one.ok, one.text) for one in preflight.check([config]).tried if one.subject == "pseudonyms"]


def _derived(data_dir: Path) -> bytes:
    return load_or_create(data_dir).derive("same")
