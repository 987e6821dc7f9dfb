"""``check`` warns of passwords that lie or travel open."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node import preflight

PEER = """
[node]
data_dir = "{folder}/var"
[workers]
processes = 0
[[peers]]
name = "web"
ae_title = "WEB"
may = ["receive"]
transport = "dicomweb"
url = "{url}"
{login}
"""


def warnings(folder: Path, login: str, mode: int, url: str = "https://pacs.example.org/dicom-web") -> str:
    config = folder / "node.toml"
    config.write_text(PEER.format(folder=folder, url=url, login=login), encoding="utf-8")
    config.chmod(mode)
    tried = preflight.check([config]).tried
    return "\n".join(line.text for line in tried if line.subject == "peer web" and not line.ok)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_password_in_a_file_that_all_may_read_is_told(tmp_path: Path) -> None:
    login = 'username = "me"\npassword = "hunter2"'
    told = warnings(tmp_path, login, 0o644)
    assert f"{tmp_path / 'node.toml'}, which every user may read" in told and "hunter2" not in told
    assert warnings(tmp_path, login, 0o640) == ""
    assert "every user" in warnings(tmp_path, "", 0o644, "https://me:hunter2@pacs.example.org")


def test_the_file_that_a_password_is_taken_from_counts_and_not_the_one_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2", encoding="utf-8")
    secret.chmod(0o644)
    login = f'username = "me"\npassword = "${{file:{secret}}}"'
    assert f"is in {secret}" in warnings(tmp_path, login, 0o644)
    secret.chmod(0o600)
    assert warnings(tmp_path, login, 0o644) == ""
    monkeypatch.setenv("PACS_PASSWORD", "hunter2")
    assert warnings(tmp_path, 'username = "me"\npassword = "${PACS_PASSWORD}"', 0o644) == ""


def test_the_address_of_a_webhook_is_no_password(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    hook = '[[notifications]]\nname = "hook"\non = ["disk"]\nurl = "https://chat.example.org/KEY"\n'
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "var"}"\n{hook}', encoding="utf-8")
    config.chmod(0o644)
    [text] = [line.text for line in preflight.check([config]).tried if line.subject == "notification hook"]
    assert "its address, which may hold a key, is in" in text
    assert "password" not in text and "KEY" not in text


@pytest.mark.parametrize(("mode", "told"), [(0o644, True), (0o600, False)])
def test_a_private_key_that_all_may_read_is_told(tmp_path: Path, mode: int, told: bool) -> None:
    key = tmp_path / "node.key"
    key.write_text("no key", encoding="utf-8")
    key.chmod(mode)
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\n[workers]\nprocesses = 0\n'
        f'[listener.tls]\ncertificate = "{key}"\nprivate_key = "{key}"\n',
        encoding="utf-8",
    )
    tried = preflight.check([config]).tried
    assert any("every user may read the private key" in line.text for line in tried) is told


def test_a_password_over_plain_http_is_told(tmp_path: Path) -> None:
    told = warnings(tmp_path, 'username = "me"', 0o600, "http://pacs.example.org")
    assert "unencrypted" in told


FHIR = 'transport = "fhir"\nurl = "{url}"\ntoken = "hunter2"\n'


def fhir(folder: Path, keys: str, mode: int = 0o600) -> list[str]:
    """What ``check`` says of a peer with these keys."""
    config = folder / "node.toml"
    text = PEER.partition("transport")[0].format(folder=folder) + keys
    config.write_text(text, encoding="utf-8")
    config.chmod(mode)
    checked = preflight.check([config])
    return [*map(str, checked.problems), *(one.text for one in checked.tried if one.subject == "peer web")]


def test_a_token_that_lies_or_travels_open_is_told(tmp_path: Path) -> None:
    safe, open_way = (FHIR.format(url=f"{scheme}://ehr.example.org/fhir") for scheme in ("https", "http"))
    assert fhir(tmp_path, safe) == []
    assert fhir(tmp_path, open_way) == ["its token goes over the network unencrypted (http): use https"]
    [told] = fhir(tmp_path, safe, 0o644)
    assert "its token is in" in told and "hunter2" not in told


def test_what_is_for_fhir_alone_says_nothing_elsewhere(tmp_path: Path) -> None:
    keys = 'transport = "dicomweb"\nurl = "https://x.example"\ntoken = "hunter2"\n'
    told = fhir(tmp_path, f'{keys}patient_systems = {{ A = "urn:x:y" }}\n')
    assert len(told) == 2 and "hunter2" not in str(told)
    assert all('without transport = "fhir" it says nothing' in line for line in told)


def test_fhir_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    [told] = fhir(tmp_path, FHIR.format(url="https://ehr.example.org/fhir"))
    assert "dicom-ai-node[fhir]" in told


def test_a_deidentified_destination_is_no_fhir_server(tmp_path: Path) -> None:
    keys = (
        FHIR.format(url="https://ehr.example.org/fhir") + 'deidentify = true\nresults = ["cleaned", "sr"]\n'
    )
    assert any("no deidentify with transport fhir" in line for line in fhir(tmp_path, keys))


@pytest.mark.parametrize(("login", "told"), [("me:hunter2", True), ("me", False)])
def test_a_password_of_the_database_in_an_open_file_is_told(tmp_path: Path, login: str, told: bool) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\ndatabase_url = "postgresql+psycopg://{login}@localhost/n"\n',
        encoding="utf-8",
    )
    config.chmod(0o644)
    tried = preflight.check([config]).tried
    assert any("every user may read" in line.text for line in tried) is told
    assert not any("hunter2" in line.text for line in tried)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("db.example.org/node", True),
        ("db.example.org/node?sslmode=prefer", True),
        ("db.example.org/node?sslmode=verify-full", False),
        ("localhost/node", False),
        ("/node?host=/run/postgresql", False),
        ("/node?host=localhost:5432&host=db.example.org:5432", True),
        ("/node?host=localhost,db.example.org", True),
        ("/node?host=localhost:5432&host=[::1]:5433", False),
        ("/node?hostaddr=10.0.0.7", True),
        ("/node?host=localhost&hostaddr=10.0.0.7,10.0.0.8", True),
        ("/node?hostaddr=::1", False),
        ("/node?hostaddr=::ffff:10.0.0.7", True),
        ("/node?service=hospital", True),
        ("/node?service=hospital&sslmode=verify-full", False),
    ],
)
def test_a_database_elsewhere_without_tls_is_told(tmp_path: Path, address: str, told: bool) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\ndatabase_url = "postgresql+psycopg://me@{address}"\n'
        "[workers]\nprocesses = 0\n",
        encoding="utf-8",
    )
    tried = preflight.check([config]).tried
    assert any(not line.ok and "unencrypted" in line.text for line in tried) is told


def test_a_proxy_of_the_environment_that_would_get_patients_objects_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warnings(tmp_path, "", 0o600) == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert "goes through a proxy" in warnings(tmp_path, "", 0o600)
    monkeypatch.setenv("NO_PROXY", "pacs.example.org")
    assert warnings(tmp_path, "", 0o600) == ""
