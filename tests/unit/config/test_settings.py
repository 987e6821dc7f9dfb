"""Settings: the issue's file works as it stands, and every mistake is reported in one go."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from dicom_node.config import sample
from dicom_node.config.loading import examine, load, load_to_read
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigurationError, ExitCode, UnknownPeer
from dicom_node.model.kinds import ResultKind

SITE = """
[node]
ae_title = "AINODE"
data_dir = "./var"            # spool, database, logs live under it

[listener]
host = "127.0.0.1"
port = 11112

[[peers]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
may = ["send", "receive"]     # may send to us; may receive results
results = ["sr", "gsps", "sc", "cleaned"]

[[peers]]
name = "us1"
ae_title = "US1"
host = "127.0.0.1"
may = ["send"]
quiet_seconds = 1

[[rules]]
name = "ultrasound"
when = { modality = "US" }
max_study_age_days = 0        # 0: no limit
pipeline = "ultrasound"
send_to = ["pacs"]

[[rules]]
name = "chest"
when = { modality = ["CR", "DX"] }
max_study_age_days = 0
pipeline = "chest_xray"
send_to = ["pacs"]
"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    return write(tmp_path / "node.toml", SITE)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(*files: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(files)
    return [str(problem) for problem in caught.value.problems]


def test_a_small_configuration_gets_sensible_defaults(configured: Path) -> None:
    settings = load([configured])
    assert settings.peer("pacs").results == tuple(map(ResultKind, ("sr", "gsps", "sc", "cleaned")))
    assert settings.peer("us1").quiet_seconds == 1
    assert settings.rules[0].when.modality == ("US",)
    assert settings.rules[1].when.modality == ("CR", "DX")
    assert (settings.assembly.quiet_seconds, settings.assembly.quiet_seconds_us) == (5, 30)
    assert settings.spool.keep_days == 14
    assert settings.database_url.startswith("sqlite:///")


def test_peers_and_rules_may_stand_in_files_of_their_own(tmp_path: Path) -> None:
    head, first, second = SITE.partition("[[peers]]")
    peers, rule, rest = (first + second).partition("[[rules]]")
    files = [
        write(tmp_path / name, text)
        for name, text in (("node.toml", head), ("peers.toml", peers), ("rules.toml", rule + rest))
    ]
    assert load(files) == load([write(tmp_path / "all.toml", SITE)])


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    text = SITE.replace("port = 11112", "port = 70000").replace('ae_title = "US1"', 'ae_title = "ORTHANC"')
    text = text.replace('modality = "US"', 'modalty = "US"').replace('"pacs"]', '"pax"]')
    found = mistakes(write(tmp_path / "node.toml", text))
    for expected in (
        "listener.port = 70000",
        "rules.ultrasound.when.modalty: unknown key: did you mean modality?",
        "peers.us1.ae_title = 'ORTHANC': peer pacs, who may send too, bears the same AE title",
        "rules.ultrasound.send_to = 'pax': no such peer; did you mean pacs?",
        "rules.chest.send_to = 'pax': no such peer",
    ):
        assert any(expected in line for line in found), (expected, found)
    assert len(found) == 5


def test_each_mistake_names_its_own_file(tmp_path: Path) -> None:
    node = write(tmp_path / "node.toml", "[listener]\nport = 0\n")
    peers = write(tmp_path / "peers.toml", '[[peers]]\nname = "a b"\nae_title = "X"\n')
    broken = write(tmp_path / "rules.toml", "[[rules]\n")
    found = mistakes(node, peers, broken, tmp_path / "missing.toml")
    places = (f"{node}:2", f"{peers}:2", f"{broken}:1", tmp_path / "missing.toml")
    assert [line.partition(": ")[0] for line in sorted(found)] == sorted(map(str, places))


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (('"AINODE"', '"SEVENTEEN LETTERS"'), "node.ae_title"),
        (('"AINODE"', r'"BACK\\SLASH"'), "node.ae_title"),
        (('"AINODE"', '" LEADING"'), "node.ae_title"),
        (("port = 4242", ""), "peers.pacs: port is missing: a peer that may receive needs host and port"),
        (('"sr", ', '"report", '), "peers.pacs.results[0] = 'report'"),
        (('name = "us1"', 'name = "pacs"'), "peers.pacs.name = 'pacs': is used twice"),
        (('send_to = ["pacs"]', 'send_to = ["us1"]'), 'this peer may not receive: add may = ["receive"]'),
        (('may = ["send"]', 'transport = "orthanc"\nmay = ["receive"]'), "transport orthanc needs url"),
        (("quiet_seconds = 1", "quiet_seconds = -1"), "peers.us1.quiet_seconds = -1"),
        (("max_study_age_days = 0", 'secondary_captures_from = ["nobody"]'), "'nobody': no such peer"),
    ],
)
def test_a_mistake_is_named_with_key_and_value(tmp_path: Path, change: tuple[str, str], mistake: str) -> None:
    text = SITE.replace(*change)
    assert text != SITE
    assert any(mistake in line for line in mistakes(write(tmp_path / "node.toml", text)))


def test_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_AE", "FROMENV")
    monkeypatch.delenv("SITE_HOST", raising=False)
    secret = write(tmp_path / "secret", "p\u00e4ss${x}\n")
    text = SITE.replace('"AINODE"', '"${SITE_AE}"').replace(
        'host = "127.0.0.1"\nport = 4242',
        f'host = "${{SITE_HOST:-pacs.example.org}}"\nport = 4242\npassword = "${{file:{secret}}}"',
    )
    settings = load([write(tmp_path / "node.toml", text)])
    assert settings.node.ae_title == "FROMENV"
    assert settings.peer("pacs").host == "pacs.example.org"
    assert settings.peer("pacs").password.get_secret_value() == "p\u00e4ss${x}"


def test_a_variable_that_is_not_set_is_a_mistake_and_no_secret_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("SECRET", "hunter2")
    text = SITE.replace('ae_title = "ORTHANC"', 'ae_title = "${NOT_SET}"').replace(
        "port = 4242", 'port = 4242\nusername = "${SECRET}"\npassword = ["${SECRET}"]'
    )
    found = mistakes(write(tmp_path / "node.toml", text))
    assert any("environment variable NOT_SET is not set" in line for line in found)
    assert any("peers.pacs.password" in line for line in found)
    assert "hunter2" not in "\n".join(found)


def test_a_configuration_error_ends_with_78() -> None:
    assert ConfigurationError.exit_code is ExitCode.CONFIG
    assert ExitCode.CONFIG == 78


def test_an_unknown_peer_is_told_which_there_are(configured: Path) -> None:
    with pytest.raises(UnknownPeer, match="configured: pacs, us1"):
        load([configured]).peer("ris")


def test_settings_are_frozen(configured: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load([configured]).node.ae_title = "OTHER"  # type: ignore[misc]


def test_the_sample_of_a_dimse_peer_sets_no_url() -> None:
    assert '# url = "http://pacs.example.org:8042"' in sample.peers_toml().splitlines()


def test_the_samples_are_a_working_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_USER", "node")
    files = [write(tmp_path / f"{name}.toml", make()) for name, make in sample.FILES.items()]
    settings = load(files)
    assert settings.model_copy(update={"peers": (), "rules": (), "notifications": ()}) == Settings()
    assert [peer.name for peer in settings.peers] == ["pacs", "us1"]
    assert [rule.name for rule in settings.rules] == ["ultrasound", "chest"]


def test_the_first_sample_has_forty_lines_that_work(tmp_path: Path) -> None:
    settings = load([write(tmp_path / "node.toml", sample.START)])
    assert len(sample.START.splitlines()) <= 40
    assert [rule.send_to for rule in settings.rules] == [("pacs",), ("pacs",)]
    assert {"send", "receive"} <= {*settings.peer("pacs").may} and settings.peer("us1").may == ("send",)


def test_every_line_of_the_samples_works_when_its_comment_mark_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_USER", "node")
    for name in ("METRICS_TOKEN", "COLLECTOR_TOKEN", "MAIL_USER", "WEBHOOK_TOKEN", "S3_KEY_ID"):
        monkeypatch.setenv(name, "t")
    secret = write(tmp_path / "secret", "x")
    texts = [re.sub(r"/run/secrets/\w+", str(secret), make()) for make in sample.FILES.values()]
    texts = [text.replace("# to = ", "# instead of url: ") for text in texts]
    texts = [uncomment(text).replace('"grabber"', '"us1"') for text in texts]
    texts = [
        text.replace('may = ["send", "receive"]', 'may = ["send", "receive", "query"]') for text in texts
    ]
    assert all("# models_dir" not in text and "# quiet_seconds" not in text for text in texts)
    settings = load([write(tmp_path / f"{number}.toml", text) for number, text in enumerate(texts)])
    assert settings.listener.tls is not None
    assert settings.peer("pacs").query_ae_title == "PACS_QR"


def test_a_table_is_written_as_toml_reads_it() -> None:
    given = {"": "urn:oid:1.2", "A B": "urn:x:y", 'say "x"': "urn:x:z", "plain-1_": "urn:x:w"}
    assert tomllib.loads(f"x = {sample.toml_value(given)}")["x"] == given


def uncomment(text: str) -> str:
    """Keys and tables that stand in a comment, without the mark; sentences stay."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_key = bare.startswith(("[listener", "[console", "[[")) or (
            " = " in bare and bare.split(" = ")[0].isidentifier()
        )
        lines.append(bare if is_key else line)
    return "\n".join(lines)


ARCHIVE = """
[[peers]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 4243
may = ["receive"]
deidentify = true
"""


def test_a_deidentified_peer_gets_images_masks_and_reports(tmp_path: Path) -> None:
    for results in (["cleaned"], ["cleaned", "seg"], ["sr", "cleaned", "seg"]):
        text = f"{ARCHIVE}results = {results}"
        assert load([write(tmp_path / "node.toml", text)]).peer("archive").deidentify


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "gsps, sc may identify the patient"),
        ('results = ["cleaned", "sc", "heatmap"]', "sc, heatmap may identify"),
        ('results = ["sr", "seg"]', "cleaned is missing"),
        ('results = ["cleaned"]\ncharset = "source"', "leave out charset"),
    ],
)
def test_a_deidentified_peer_that_could_see_the_patient_is_a_mistake(
    tmp_path: Path, more: str, said: str
) -> None:
    text = f"{ARCHIVE}{more}\n[outbox]\nrefusals = 0\n"
    with pytest.raises(ConfigurationError, match=said) as caught:
        load([write(tmp_path / "node.toml", text)])
    assert caught.value.exit_code is ExitCode.CONFIG
    assert {problem.key for problem in caught.value.problems} == {
        "peers.archive.deidentify",
        "outbox.refusals",
    }


def test_a_data_folder_that_cannot_be_looked_into_is_none_of_another_node(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{"x" * 300}"\n', encoding="utf-8")  # as one of another user
    assert not examine([config])[1].problems


def test_in_another_folder_a_relative_data_folder_does_not_become_a_second_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    (site / "var").mkdir(parents=True)
    elsewhere.mkdir()
    (site / "node.toml").write_text('[node]\ndata_dir = "./var"\n', encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    assert not examine([site / "node.toml"])[1].problems  # a first start: nothing is anywhere
    (site / "var" / "node.db").touch()
    for read in (load, load_to_read):
        with pytest.raises(ConfigurationError) as refused:
            read([site / "node.toml"])
        assert str(site / "var") in str(refused.value) and str(elsewhere / "var") in str(refused.value)
        assert f"start this in {site}" in str(refused.value)
    monkeypatch.chdir(site)
    assert load([site / "node.toml"]).node.data_dir == Path("var")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "var").mkdir()
    (elsewhere / "var" / "node.db").touch()  # a service that has its working folder elsewhere goes on
    assert load([site / "node.toml"]).node.data_dir == Path("var")
