"""Settings: what is read, every mistake in one go with its line, and no secret in any message."""

import json
import os
import pickle
import re
import tomllib
import traceback
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from ai_pipeline.models import registry
from dicom_connectors.hl7.settings import checked_hl7_fields
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_node.base.config import sample
from dicom_node.base.config.loading import _line, _lines, examine, load, load_to_read
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import Settings, TlsSettings
from dicom_node.base.errors import ConfigurationError, ExitCode
from dicom_node.people import preflight
from tests.peers import a_receiver

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


@pytest.fixture(autouse=True, scope="module")
def _without_proxies_and_models_as_they_ship() -> Iterator[None]:
    """Nothing here changes a model: each is read once, and its weights are not added up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setattr(registry, "cards", cache(registry.cards))
        patch.setattr(registry, "verify", lambda _card: None)
        yield


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_peers_and_rules_may_stand_in_files_of_their_own(tmp_path: Path) -> None:
    head, first, second = SITE.partition("[[peers]]")
    peers, rule, rest = (first + second).partition("[[rules]]")
    files = [
        write(tmp_path / name, text)
        for name, text in (("node.toml", head), ("peers.toml", peers), ("rules.toml", rule + rest))
    ]
    assert load(files) == load([write(tmp_path / "all.toml", SITE)])


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


def test_a_pipe_to_which_nobody_writes_is_an_empty_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "node.toml")
    with pytest.raises(ConfigurationError, match="is empty"):
        load([tmp_path / "node.toml"])


def test_the_samples_are_a_working_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_USER", "node")
    settings = load([write(tmp_path / f"{name}.toml", make()) for name, make in sample.FILES.items()])
    assert settings.model_copy(update={"peers": (), "rules": (), "notifications": ()}) == Settings()
    assert [peer.name for peer in settings.peers] == ["pacs", "us1"]
    assert [rule.name for rule in settings.rules] == ["ultrasound", "chest"]


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


def uncomment(text: str) -> str:
    """Keys and tables that stand in a comment, without the mark; sentences stay."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_key = bare.startswith(("[listener", "[console", "[hl7", "[[")) or (
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


@pytest.mark.parametrize("results", [["cleaned"], ["cleaned", "seg"], ["sr", "cleaned", "seg"]])
def test_a_deidentified_peer_gets_images_masks_and_reports(tmp_path: Path, results: list[str]) -> None:
    text = f"{ARCHIVE}results = {results}"
    assert load([write(tmp_path / "node.toml", text)]).peer("archive").deidentify


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "gsps, sc may identify the patient"),
        ('results = ["cleaned", "sc", "heatmap"]', "sc, heatmap may identify"),
        ('results = ["sr", "seg"]', "cleaned is missing"),
        ('results = ["cleaned"]\ncharset = "source"', "leave out charset"),
        ('results = ["cleaned"]\nassessments = true', "names the patient"),
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
        assert str(site / "var") in str(refused.value)
        assert str(elsewhere / "var") in str(refused.value)
        assert f"start this in {site}" in str(refused.value)
    monkeypatch.chdir(site)
    assert load([site / "node.toml"]).node.data_dir == Path("var")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "var").mkdir()
    (elsewhere / "var" / "node.db").touch()  # a service that has its working folder elsewhere goes on
    assert load([site / "node.toml"]).node.data_dir == Path("var")


SEALED = 'host = "h"\nport = 104\nmay = ["receive"]\nresults = ["cleaned"]\ndeidentify = true\n'


ALARM = '[[notifications]]\nname = "alarm"\nurl = "https://example.org"\n'


OIDC = (
    '[console]\nurl = "https://ai-node.example.org"\n[console.oidc]\nissuer = "https://login.example.org"\n'
    'client_id = "ainode"\nclient_secret = "${PATH}"\n'
)


def found_in(path: Path, text: str, *more: Path) -> list[str]:
    """Every mistake, without the folder."""
    write(path, text)
    checked = preflight.check([path, *more])
    return [str(problem).replace(f"{path.parent}/", "") for problem in checked.problems]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small site, on a data folder and a port that are free."""
    folder = tmp_path_factory.mktemp("site")
    return SITE.replace("./var", str(folder / "var")).replace("port = 11112", "port = 49151")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", '[[rules]]\nname = "again"\nwhen = { modality = "US" }\npipeline = "ultrasound"\n'
         'send_to = ["pacs"]\nmax_study_age_days = 0\n',
         "node.toml:38: rules.again: does the same as rule ultrasound"),
        ('when = { modality = "US" }\n', "", "node.toml:25: rules.ultrasound.when: has no condition"),
        ('when = { modality = "US" }', "when = {}", "node.toml:27: rules.ultrasound.when: has no condition"),
        ('"sr", "gsps", "sc", "cleaned"', '"sr", "assessment"', "assessments = true"),
        ('["CR", "DX"]', '["CT", "DX"]',
         "node.toml:34: rules.chest.when.modality = 'CT': chest_xray takes no such"),
        ('send_to = ["pacs"]', "send_to = []", "node.toml:30: rules.ultrasound.send_to = []: is empty"),
        ('send_to = ["pacs"]', 'send_to = ["pacs", "pacs"]', "send_to = 'pacs': is listed twice"),
        ('send_to = ["pacs"]', 'send_to = ["pacs"]\nforward = ["pax"]',
         "rules.ultrasound.forward = 'pax': no such peer; did you mean pacs?"),
        ('send_to = ["pacs"]', 'send_to = ["pacs"]\nforward = ["us1"]',
         "rules.ultrasound.forward = 'us1': this peer may not receive"),
        ('send_to = ["pacs"]', 'send_to = ["pacs"]\nforward = ["pacs", "pacs"]',
         "forward = 'pacs': is listed twice"),
        ('send_to = ["pacs"]', 'send_to = ["pacs"]\nforward = ["far"]\n'
         f'[[peers]]\nname = "far"\nae_title = "FAR"\n{SEALED}',
         "rules.ultrasound.forward = 'far': this peer gets nothing that names a patient"),
        ('when = { modality = "US" }\n', 'when = { calling_ae = "ORTHANC" }\nforward = ["pacs"]\n',
         "rules.ultrasound.forward = 'pacs': this peer sent the images itself"),
        ('ae_title = "ORTHANC"', 'ae_title = "AINODE"',
         "node.toml:12: peers.pacs.ae_title = 'AINODE': is this node's own"),
        ("", '[[peers]]\nname = "US1"\nae_title = "OTHER"\n',
         "peers.US1.name = 'US1': differs from us1 in capitals"),
        ("", f'[[peers]]\nname = "one"\nae_title = "ONE"\n{SEALED}retain = ["modified_dates"]\n'
         f'[[peers]]\nname = "two"\nae_title = "TWO"\n{SEALED}',
         "peers.two.retain = nothing: another peer shares its pseudonyms and retains other attributes"),
        ('send_to = ["pacs"]', 'send_to = ["pacs", "far"]\noptions = { keep_words = ["R-CY"] }\n'
         f'[[peers]]\nname = "far"\nae_title = "FAR"\n{SEALED}',
         "rules.ultrasound.options.keep_words = ['R-CY']: not in pictures for far, which is de-identified"),
        ("port = 4242", 'port = 4242\nretain = ["modified_dates"]',
         "peers.pacs.retain: is for peers with deidentify = true"),
        ("port = 4242", 'port = 4242\nretain = ["dates"]',
         "retain[0] = 'dates': must be one of modified_dates, patient_characteristics"),
        ("", '[[peers]]\nname = "us2"\nae_title = "us1"\n',
         "peers.us2.ae_title = 'us1': peer us1, who may send too"),
        ('modality = "US" }', 'calling_ae = "ULTRASOUND_ROOM_SEV" }',
         "calling_ae = 'ULTRASOUND_ROOM_SEV': never holds"),
        ('modality = "US" }', 'calling_ae = "US2" }', "no peer bears this AE title; did you mean US1?"),
        ('modality = "US" }', 'modality = "NM" }', "modality = 'NM': ultrasound takes no such images"),
        ('modality = "US" }', 'modality = "us" }',
         "modality[0] = 'us': a modality is a code in capital letters, such as US"),
        ('modality = "US" }', 'modality = "US1 " }',
         "modality[0] = 'US1 ': a modality is a code in capital letters"),
        ('["CR", "DX"]', '["CR"], view = "frontal"',
         "view = 'frontal': chest_xray takes no such images; it takes AP, PA"),
        ('host = "127.0.0.1"\nport = 4242', 'host = "no such host"\nport = 4242',
         "host = 'no such host': is no name"),
        ("port = 4242", 'port = "eleven"',
         "node.toml:14: peers.pacs.port = 'eleven': must be a whole number"),
        ('may = ["send"]', 'may = ["query"]\nworklist = ["VALUE"]',
         "worklist[0] = 'VALUE': has not the form that docs/reference/settings.md gives"),
        ('may = ["send"]', 'may = "send"', "node.toml:22: peers.us1.may = 'send': must be a list"),
        ('may = ["send"]', 'may = ["sent"]',
         "may[0] = 'sent': must be one of send, receive, query; did you mean send?"),
        ("quiet_seconds = 1", "quiet_secods = 1",
         "peers.us1.quiet_secods: unknown key: did you mean quiet_seconds?"),
        ("quiet_seconds = 1", "processes = 1", "peers.us1.processes: unknown key"),
        ('ae_title = "AINODE"', "port = 104", "node.toml:3: node.port: unknown key"),
        ("port = 49151", "port = 49151\nevent_loop = true", "listener.event_loop: unknown key"),
        ("port = 49151", 'port = 49151\nfurther_storage_classes = ["1.2.840.10008.1.1"]',
         "listener.further_storage_classes = '1.2.840.10008.1.1': is no SOP Class UID of storage"),
        ("", '[workers]\npipelines = ["chest"]\n', "workers.pipelines = 'chest': no such pipeline"),
        ('pipeline = "chest_xray"', 'pipeline = "chest"', "no such pipeline; did you mean chest_xray?"),
        ("", f'{ALARM}findings = ["Pleural efusion"]\n',
         "notifications.alarm.findings = 'Pleural efusion': no rule finds such a thing; did you mean Pleu"),
        ("", f'{ALARM}on = ["quarantin"]\n', "did you mean quarantine?"),
        ("", f"{ALARM}events = [2999]\n", "notifications.alarm.events = 2999: docs/reference/"),
        ('send_to = ["pacs"]',
         'send_to = ["pacs"]\nthen = [{ when = "Pneumothorx suspected", priority = "stat" }]',
         "rules.ultrasound.then = 'Pneumothorx': ultrasound finds no such thing"),
        ("", f'{OIDC}roles = {{ "cn=ai" = "viewr" }}\n', "did you mean viewer?"),
        ("", f'{OIDC}roles = {{ "cn=ai" = "viewer" }}\nsenders = {{ "cn=ai" = ["US2"] }}\n',
         "console.oidc.senders.cn=ai = 'US2': never holds: no peer bears this AE title; did you mean US1?"),
        ('pipeline = "chest_xray"', 'pipeline = "chest_xray"\noptions = { operating_point = "screning" }',
         "must be one of specific, balanced, sensitive"),
        ("[[rules]]\nname = \"chest\"", "[rules]\nname = \"chest\"",
         "node.toml:32: file: is no TOML: write [[peers]] or [[rules]]"),
        ('ae_title = "ORTHANC"', 'ae_title = "${NOT_SET}"', "environment variable NOT_SET is not set"),
        ('"AINODE"', '"SEVENTEEN LETTERS"', "node.ae_title"),
        ('"AINODE"', r'"BACK\\SLASH"', "node.ae_title"),
        ('"AINODE"', '" LEADING"', "node.ae_title"),
        ('"sr", ', '"report", ', "peers.pacs.results[0] = 'report'"),
        ('name = "us1"', 'name = "pacs"', "peers.pacs.name = 'pacs': is used twice"),
        ('send_to = ["pacs"]', 'send_to = ["us1"]', 'this peer may not receive: add may = ["receive"]'),
        ('may = ["send"]', 'transport = "orthanc"\nmay = ["receive"]', "transport orthanc needs url"),
        ("quiet_seconds = 1", "quiet_seconds = -1", "peers.us1.quiet_seconds = -1"),
        ("max_study_age_days = 0", 'secondary_captures_from = ["nobody"]', "'nobody': no such peer"),
        ("", '[[peers]]\nname = "ehr"\nae_title = "EHR"\nmay = ["receive"]\ntransport = "fhir"\n'
         'url = "https://ehr.example.org/fhir"\ndeidentify = true\nresults = ["cleaned", "sr"]\n',
         "no deidentify with transport fhir"),
        ("quiet_seconds = 1", "quiet_seconds = nan", "must be a finite number"),
        ('port = 4242', 'port = 4242\ntransport = "orthanc"\nurl = "http://pacs:abc"',
         "peers.pacs.url = 'http://pacs:abc': write it as http://host:8042"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, site: str, old: str, new: str, expected: str
) -> None:
    assert old in site
    found = found_in(tmp_path / "node.toml", site.replace(old, new, 1) if old else site + new)
    assert any(expected in line for line in found), found
    assert not re.search(
        r"Input should|valid (tuple|integer|string|number)|pydantic|parse|Extra|None", " ".join(found)
    ), "words of the library"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\nname = us1\n", '2: file: is no TOML: text must be in quotes, such as "us1"'),
        ("[node]\nhost = 127.0.0.1\n", "2: file: is no TOML: nothing but a # comment may follow"),
        ("[node]\nname = \u201cus1\u201d\n", "2: file: is no TOML: quotes must be straight"),
        ("[node]\nx = null\n", "2: file: is no TOML: there is no null in TOML: leave the key out"),
        ("[node]\nx = True\n", "2: file: is no TOML: write true or false, in small letters"),
        ('[node]\nx = "abc\ny = 1\n', '2: file: is no TOML: the quotes are not closed: put a "'),
        ("[node]\nx = 1\nx = 2\n", "3: file: is no TOML: a key is given twice here"),
        (
            "[peers]\nx = 1\n[peers]\nx = 2\n",
            "3: file: is no TOML: write [[peers]] or [[rules]]",
        ),
        (
            "[peers]\nx = 1\n[[peers]]\nx = 2\n",
            "3: file: is no TOML: write [[peers]] or [[rules]]",
        ),
        ("[node]\nx = 1\n[node]\n", "3: file: is no TOML: the heading is given twice"),
        ('[node]\nx = ["a" "b"]\n', "2: file: is no TOML: a list is not closed, or a comma is missing"),
        ("[node]\npassword = TOPSECRET\n", "2: file: is no TOML: text must be in quotes"),
        ("[node]\nname = 'M\u00fcnchen'\n", "2: file: holds a letter that is not in UTF-8: save"),
    ],
)
def test_what_is_no_toml_is_told_with_its_remedy(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(text.encode("latin-1" if "\u00fc" in text else "utf-8"))
    [problem] = preflight.check([file]).problems
    assert str(problem).startswith(f"{file}:{expected}")
    assert "TOPSECRET" not in str(problem)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({'may = ["send", "receive"]': 'may = "receive"'}, "peers.pacs.may = 'receive': must be a list"),
        ({'ae_title = "US1"': 'ae_title = ""', 'modality = "US"': 'calling_ae = "US1"'},
         "peers.us1.ae_title = '': must not be empty"),
        ({'ae_title = "AINODE"': 'ae_title = " X"', 'modality = "US"': 'called_ae = "X"'},
         "node.ae_title = ' X': an AE title has"),
        ({"port = 4242": ""}, "peers.pacs: port is missing"),
        ({'may = ["send"]\n': 'may = ["send"]\nport = 105\ncommit_after = "delivered"\n', "= 4242": '= "x"'},
         "must be a whole number"),
        ({'name = "pacs"': "name = 7"}, "peers[0].name = 7: must be text"),
        ({'name = "us1"': 'name = "us 1"', 'modality = "US"': 'calling_ae = "US1"'}, "a name has letters"),
        ({'modality = "US"': "body_part = 3"}, "when.body_part = 3: must be text in quotes, or a list"),
    ],
)  # fmt: skip
def test_a_mistake_brings_no_second_one(
    tmp_path: Path, site: str, changes: dict[str, str], expected: str
) -> None:
    for old, new in changes.items():
        assert old in site
        site = site.replace(old, new, 1)
    [found] = found_in(tmp_path / "node.toml", site)
    assert expected in found


def test_all_mistakes_are_told_at_once_in_order_and_what_is_known_once(tmp_path: Path, site: str) -> None:
    text = site.replace('ae_title = "ORTHANC"', 'ae_title = "US1"').replace("quiet_seconds", "quiet_second")
    text = text.replace('host = "127.0.0.1"', "host = 1", 1)
    lines = [int(line.split(":")[1]) for line in found_in(tmp_path / "node.toml", text)]
    assert len(lines) == 3
    assert lines == sorted(lines)
    assert did_you_mean("room", ["US1", "", "US1"]) == "known: US1"


def test_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    text = """
[node]
database_url = "postgresql+nodriver://me:hunter2@db/node?password=hunter2"
ae_title = "${SECRET}${SECRET}${SECRET}"
[[peers]]
name = "p"
ae_title = "P"
pasword = "hunter2"
may = ["receive"]
transport = "orthanc"
url = "http://me:hunter2@pacs:8042/x"
[[rules]]
name = "r"
when = { modality = "US" }
pipeline = "ultrasound"
options = { pasword = "hunter2" }
send_to = ["p"]
"""
    found = " ".join(found_in(tmp_path / "node.toml", text))
    assert "pasword: unknown key: did you mean password?" in found
    assert "'${SECRET}${SECRET}${SECRET}'" in found, "as it was written"
    assert "postgresql+nodriver://***@db/node" in found
    assert "hunter2" not in found
    settings, _ = examine([write(tmp_path / "ok.toml", text.replace('pasword = "hunter2"\n', ""))])
    assert settings is not None
    peer = settings.peer("p")
    assert (peer.url, peer.username, peer.password.get_secret_value()) == (
        "http://pacs:8042/x",
        "me",
        "hunter2",
    )
    assert "hunter2" not in repr(peer)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('transport = "orthanc"\nurl = "127.0.0.1:8042/user:TOPSECRET@x"',
         "peers.p.url = '***@x': must begin with http:// or https://"),
        ('transport = "orthanc"\nurl = "127.0.0.1:8042?token=TOPSECRET"',
         "peers.p.url = '127.0.0.1:8042?…': must begin with http:// or https://"),
        ('transport = "orthanc"\nurl = "http://127.0.0.1:8042?token=TOPSECRET"',
         "url = 'http://127.0.0.1:8042?…': must end with the path"),
        ('transport = "orthanc"\nurl = "http://me:TOP?SECRET@h:x"', "url = 'http://***': write it as"),
        ('transport = "orthanc"\nurl = "http://h/?a=b@TOPSECRET"\nusername = "me"', "url = 'http://***': "),
        ('host = "bob:TOPSECRET@127.0.0.1"', "peers.p.host = '***@127.0.0.1': is no name or address"),
        ('password = ["TOPSECRET"]', "peers.p.password: must be text"),
        ('tls = "x"\n[listener.tls]\ncertificate = "c"\nprivate_key = "TOPSECRET"', "tls.private_key: the"),
    ],
)  # fmt: skip
def test_whatever_may_be_a_login_or_a_token_is_masked(tmp_path: Path, lines: str, expected: str) -> None:
    peer = f'[[peers]]\nname = "p"\nae_title = "P"\n{lines}\n'
    found = " ".join(found_in(tmp_path / "node.toml", f'[node]\ndata_dir = "{tmp_path}"\n{peer}'))
    assert expected in found
    assert "SECRET" not in found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            'title = """\n[[peers]]\nname = "not this"\n"""\n\n[[peers]]\nname = "a"\n[[peers]]\n'
            'results = [\n "sr",\n "sc",\n]\nport = 1\n[a.b]\nc.d = { e = 1,  f = 2 }\n',
            {
                ("title",): 1,
                ("peers", 0): 6,
                ("peers", 0, "name"): 7,
                ("peers", 1): 8,
                ("peers", 1, "results", 1): 9,
                ("peers", 1, "port"): 13,
                ("a", "b"): 14,
                ("a", "b", "c", "d", "f"): 15,
                ("peers", 1, "missing"): 8,
            },
        ),
        (
            'note = """\n[[peers]]\n"""\n[[peers]]\nname = "a"\ntext = """\n[[peers]]\nx = 1\n"""\n'
            '[[peers]]\nhost = "b"',
            {("peers", 0, "text"): 6, ("peers", 1, "host"): 11},
        ),
        ("a = 1\n[node]\nb = 2", {("node", "b"): 3}),
    ],
)
def test_the_line_of_a_key_is_found_in_whatever_toml(
    text: str, lines: dict[tuple[str | int, ...], int]
) -> None:
    assert {place: _line(text, place) for place in lines} == lines


def test_many_mistakes_cost_as_much_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f'[[peers]]\nname = "p{n}"\nqueit_seconds = 3\n[peers.tls]\n' for n in range(80))
    _lines.cache_clear()
    parse = Mock(wraps=tomllib.loads)
    monkeypatch.setattr("dicom_node.base.config.loading.tomllib.loads", parse)
    assert [_line(text, ("peers", n, "queit_seconds")) for n in range(80)] == [4 * n + 3 for n in range(80)]
    assert sum(len(call.args[0]) for call in parse.call_args_list) <= len(text)


def checked(tmp_path: Path, text: str) -> preflight.Checked:
    return preflight.check([write(tmp_path / "node.toml", text.replace("./var", str(tmp_path / "var")))])


def test_a_mistake_in_a_rule_says_nothing_false_of_the_others(tmp_path: Path) -> None:
    rule = 'pipeline = "chest_xray"'
    then = f'{rule}\nthen = [{{ when = " ", priority = "stat" }}]'
    found = checked(tmp_path, f'{SITE}\n{ALARM}findings = ["Pleural effusion"]'.replace(rule, then))
    assert [problem.key for problem in found.problems] == ["rules.chest.then[0].when"]
    assert not [line for line in found.tried if line.subject == "rules"]


SECRET = "hunter2"


CONFIG = f"""
[node]
database_url = "postgresql+psycopg://node:{SECRET}@db/node"
[[peers]]
name = "web"
ae_title = "WEB"
may = ["receive"]
transport = "dicomweb"
url = "https://pacs/dicom-web"
username = "node"
password = "{SECRET}"
[[peers]]
name = "rest"
ae_title = "REST"
may = ["receive"]
transport = "orthanc"
url = "https://node:{SECRET}@orthanc"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load([write(tmp_path / "node.toml", CONFIG)])


def test_settings_show_no_secret_in_any_form(settings: Settings) -> None:
    for one in (
        settings,
        settings.model_copy(update={"peers": settings.peers[:1]}),
        *settings.peers,
        settings.node,
    ):
        shown = (
            repr(one),
            str(one),
            f"{one}",
            one.model_dump_json(),
            repr(one.model_dump()),
            str(one.__dict__),
        )
        shown += (json.dumps(one.model_dump(mode="json")), repr(list(one)))
        assert [text for text in shown if SECRET in text] == []
    assert SECRET not in repr(settings.fixed)


def test_an_error_about_settings_shows_no_secret(settings: Settings) -> None:
    given = json.loads(settings.for_children())
    given["peers"][0]["passwort"] = given["peers"][0].pop("password")
    given["node"]["database_url"] = [given["node"]["database_url"]]
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate(given)
    told = "".join(traceback.format_exception(raised.value))
    assert "passwort" in told
    assert SECRET not in told


def test_children_of_the_node_get_the_whole(settings: Settings) -> None:
    again = Settings.model_validate_json(settings.for_children())
    assert (again, again.database_url) == (settings, f"postgresql+psycopg://node:{SECRET}@db/node")
    assert [peer.password.get_secret_value() for peer in again.peers] == [SECRET, SECRET]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_every_setting_that_sounds_like_a_secret_is_one() -> None:
    words = ("password", "token", "secret", "passphrase", "credential", "database_url")
    tables = [type(value) for _, value in Settings() if isinstance(value, BaseModel)]
    found = {
        (model.__name__, key): field.annotation
        for model in (PeerSettings, TlsSettings, NotificationSettings, *tables)
        for key, field in model.model_fields.items()
        if any(word in key for word in words)
    }
    assert set(found) == {
        ("PeerSettings", "password"),
        ("PeerSettings", "token"),
        ("NodeSettings", "database_url"),
        ("ConsoleSettings", "metrics_token"),
        ("MailSettings", "password"),
        ("NotificationSettings", "token"),
        ("ObjectStoreSettings", "secret_access_key"),
    }
    assert set(found.values()) == {SecretStr}


def keys() -> typing.Iterator[tuple[str, str]]:
    """Every table and key of the configuration."""
    for table, field in Settings.model_fields.items():
        types = [*typing.get_args(field.annotation), field.annotation]
        (model,) = [one for one in types if isinstance(one, type) and issubclass(one, BaseModel)]
        yield from ((table, key) for key in model.model_fields)


def written(table: str, key: str) -> str:
    text = ""
    peer = {"name": '"p"', "ae_title": '"P"', "may": '["receive"]', "host": '"127.0.0.1"', "port": "104"}
    rule = {"name": '"us"', "when": '{ modality = "US" }', "pipeline": '"ultrasound"', "send_to": '["p"]'}
    for name, given in (("peers", peer), ("rules", rule)):
        lines = {**given, key: '"${SECRET}"'} if name == table else given
        text += f"[[{name}]]\n" + "".join(f"{word} = {value}\n" for word, value in lines.items())
    return text if table in ("peers", "rules") else f'[{table}]\n{key} = "${{SECRET}}"\n{text}'


def test_no_message_shows_what_a_variable_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter two: 'x'\nroot")
    monkeypatch.chdir(tmp_path)
    shown = []
    for table, key in keys():
        found = preflight.check([write(tmp_path / "node.toml", written(table, key))])
        if "hunter" in "\n".join(
            [*map(str, found.problems), repr(found.files.problems), *map(str, found.tried)]
        ):
            shown.append(f"{table}.{key}")
    assert shown == []


EXPOSED = """
[node]
data_dir = "./var"
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
DATABASE = '[node]\ndata_dir = "./var"\ndatabase_url = "postgresql+psycopg://{}"\n[workers]\nprocesses = 0\n'
OPEN = "every user may read it"


def warned(folder: Path, text: str, mode: int = 0o600, subject: str = "") -> str:
    """What ``check`` warns of, of a configuration in a file of this mode; of this subject, or of any."""
    config = write(folder / "node.toml", text.replace("./var", str(folder / "var")))
    config.chmod(mode)
    tried = [line for line in preflight.check([config]).tried if not line.ok]
    return "\n".join(line.text for line in tried if subject in ("", line.subject))


def warnings(folder: Path, login: str, mode: int, url: str = "https://pacs.example.org/dicom-web") -> str:
    config = EXPOSED.format(url=url, login=login)
    return warned(folder, config, mode, "peer web") + warned(folder, config, mode, "secrets")


def test_a_password_in_a_file_that_all_may_read_is_told(tmp_path: Path) -> None:
    login = 'username = "me"\npassword = "hunter2"'
    told = warnings(tmp_path, login, 0o644)
    assert str(tmp_path / "node.toml") in told
    assert OPEN in told
    assert "hunter2" not in told
    assert warnings(tmp_path, login, 0o640) == ""
    assert OPEN in warnings(tmp_path, "", 0o644, "https://me:hunter2@pacs.example.org")
    assert "unencrypted" in warnings(tmp_path, 'username = "me"', 0o600, "http://pacs.example.org")
    told = warned(tmp_path, DATABASE.format("me:hunter2@localhost/n"), 0o644)
    assert OPEN in told
    assert "hunter2" not in told
    assert OPEN not in warned(tmp_path, DATABASE.format("me@localhost/n"), 0o644)


def test_the_file_that_a_password_is_taken_from_counts_and_not_the_one_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = write(tmp_path / "secret", "hunter2")
    secret.chmod(0o644)
    login = f'username = "me"\npassword = "${{file:{secret}}}"'
    assert warnings(tmp_path, login, 0o644).startswith(f"{secret} holds")
    secret.chmod(0o600)
    assert warnings(tmp_path, login, 0o644) == ""
    monkeypatch.setenv("PACS_PASSWORD", "hunter2")
    assert warnings(tmp_path, 'username = "me"\npassword = "${PACS_PASSWORD}"', 0o644) == ""


@pytest.mark.parametrize(("mode", "told"), [(0o644, True), (0o600, False)])
def test_a_private_key_that_all_may_read_is_told(tmp_path: Path, mode: int, told: bool) -> None:
    key = write(tmp_path / "node.key", "no key")
    key.chmod(mode)
    tls = f'[listener.tls]\ncertificate = "{key}"\nprivate_key = "{key}"\n'
    assert (f"{key} holds" in warned(tmp_path, EXPOSED.partition("[[peers]]")[0] + tls)) is told


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
    assert ("unencrypted" in warned(tmp_path, DATABASE.format(f"me@{address}"))) is told


def test_a_proxy_of_the_environment_that_would_get_patients_objects_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warnings(tmp_path, "", 0o600) == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert "goes through a proxy" in warnings(tmp_path, "", 0o600)
    monkeypatch.setenv("NO_PROXY", "pacs.example.org")
    assert warnings(tmp_path, "", 0o600) == ""


def peer(**more: Any) -> PeerSettings:
    return PeerSettings.model_validate(a_receiver("ris", transport="hl7") | more)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"deidentify": True}, "names the patient"),
        ({"deidentify": True, "results": ["cleaned", "sr"]}, "names the patient"),
        ({"results": ["sr", "sc"]}, 'set results = \\["sr"\\]'),
        ({"confirm": "query"}, "leave out confirm"),
        ({"may": ["receive", "query"]}, 'may = \\["receive"\\] alone'),
        ({"may": ["send", "receive"]}, 'may = \\["receive"\\] alone'),
        ({"port": None}, "port is missing"),
        ({"charset": "source"}, "UTF-8 always"),
        ({"assessments": True}, "sent as SR only"),
        ({"withdraw": "delete"}, "nor HL7 v2 has a request to delete"),
        ({"transport": "dimse", "hl7_fields": {"MSH-6": "RIS"}}, 'for peers with transport = "hl7"'),
    ],
)
def test_what_an_hl7_peer_cannot_have(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        peer(**given)
    assert not peer(deidentify="false").deidentify


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("OBR5", "R", 'write a field as "OBR-5"'),
        ("obr-5", "R", 'write a field as "OBR-5"'),
        ("OBR-0", "R", 'write a field as "OBR-5"'),
        ("ORB-5", "R", "did you mean OR"),
        ("OBX-5", "R", "no such segment here"),
        ("OBR-51", "R", "OBR has the fields 1 to 50"),
        ("MSH-10", "1", "the node fills this field itself"),
        ("OBR-25", "P", "the node fills this field itself"),
        ("OBR-3", "{accesion}", "{accesion} is unknown"),
        ("OBR-3", "a\rOBX|1", "one line"),
        ("OBR-3", "x" * 201, "at most 200 characters"),
    ],
)
def test_a_field_that_cannot_be_is_named(key: str, value: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        checked_hl7_fields({key: value})
