"""Mistakes of a configuration, in the words of who wrote it, each with its line; no secret is among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node import preflight
from dicom_node.config import sample
from dicom_node.config.loading import examine
from dicom_node.config.mistakes import described, did_you_mean
from dicom_node.config.settings import PeerSettings, RuleSettings, Settings
from dicom_node.config.toml_files import _line
from tests.unit.config.test_settings import SITE, write

LIBRARY_WORDS = re.compile(r"Input should|valid (tuple|integer|string|number)|pydantic|parse|Extra|None")

ARCHIVE = 'host = "h"\nport = 104\nmay = ["receive"]\nresults = ["cleaned"]\ndeidentify = true\n'


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
         f'[[peers]]\nname = "far"\nae_title = "FAR"\n{ARCHIVE}',
         "rules.ultrasound.forward = 'far': this peer gets nothing that names a patient"),
        ('when = { modality = "US" }\n', 'when = { calling_ae = "ORTHANC" }\nforward = ["pacs"]\n',
         "rules.ultrasound.forward = 'pacs': this peer sent the images itself"),
        ('ae_title = "ORTHANC"', 'ae_title = "AINODE"',
         "node.toml:12: peers.pacs.ae_title = 'AINODE': is this node's own"),
        ("", '[[peers]]\nname = "US1"\nae_title = "OTHER"\n',
         "peers.US1.name = 'US1': differs from us1 in capitals"),
        ("", f'[[peers]]\nname = "one"\nae_title = "ONE"\n{ARCHIVE}retain = ["device"]\n'
         f'[[peers]]\nname = "two"\nae_title = "TWO"\n{ARCHIVE}',
         "peers.two.retain = nothing: peer one shares its pseudonyms and retains other attributes"),
        ('send_to = ["pacs"]', 'send_to = ["pacs", "far"]\noptions = { keep_words = ["R-CY"] }\n'
         f'[[peers]]\nname = "far"\nae_title = "FAR"\n{ARCHIVE}',
         "rules.ultrasound.options.keep_words = ['R-CY']: not in pictures for far, which is de-identified"),
        ("port = 4242", 'port = 4242\nretain = ["device"]',
         "peers.pacs.retain = device: without deidentify = true it says nothing"),
        ("port = 4242", 'port = 4242\nretain = ["dates"]',
         "retain[0] = 'dates': must be one of modified_dates, patient_characteristics, device, descriptors"),
        ("", '[[peers]]\nname = "us2"\nae_title = "us1"\n',
         "peers.us2.ae_title = 'us1': peer us1, who may send too"),
        ('modality = "US" }', 'calling_ae = "ULTRASOUND_ROOM_SEV" }',
         "calling_ae = 'ULTRASOUND_ROOM_SEV': never holds"),
        ('modality = "US" }', 'calling_ae = "US2" }', "no peer bears this AE title; did you mean US1?"),
        ('modality = "US" }', 'modality = "NM" }', "modality = 'NM': ultrasound takes no such images"),
        ('modality = "US" }', 'modality = "us" }',
         "modality = 'us': a modality is a code in capital letters; did you mean US?"),
        ('modality = "US" }', 'modality = "US1 " }',
         "modality = 'US1 ': a modality is a code in capital letters; did you mean US?"),
        ('["CR", "DX"]', '["CR"], view = "frontal"',
         "view = 'frontal': chest_xray takes no such images; it takes AP, PA"),
        ('host = "127.0.0.1"\nport = 4242', 'host = "no such host"\nport = 4242',
         "host = 'no such host': is no name"),
        ("port = 4242", 'port = "eleven"',
         "node.toml:14: peers.pacs.port = 'eleven': must be a whole number"),
        ('may = ["send"]', 'may = "send"', "node.toml:22: peers.us1.may = 'send': must be a list"),
        ('may = ["send"]', 'may = ["sent"]',
         "may[0] = 'sent': must be one of send, receive, query; did you mean send?"),
        ("quiet_seconds = 1", "quiet_secods = 1",
         "peers.us1.quiet_secods: unknown key: did you mean quiet_seconds?"),
        ("quiet_seconds = 1", "processes = 1", "peers.us1.processes: unknown key"),
        ('ae_title = "AINODE"', "port = 104", "node.toml:3: node.port: unknown key"),
        ("port = 49151", "port = 49151\nevent_loop = true", "listener.event_loop: unknown key"),
        ("", '[workers]\npipelines = ["chest"]\n', "workers.pipelines = 'chest': no such pipeline"),
        ("", "[workers]\nat_once = { chest = 1 }\n", "workers.at_once = 'chest': no such pipeline"),
        ("", "[workers]\nat_once = { chest_xray = 0 }\n", "at_once.chest_xray = 0: must be at least 1"),
        ('pipeline = "chest_xray"', 'pipeline = "chest"', "no such pipeline; did you mean chest_xray?"),
        ("[[rules]]\nname = \"chest\"", "[rules]\nname = \"chest\"",
         "node.toml:32: file: is no TOML: write [[rules]], with two brackets"),
        ("quiet_seconds = 1", "quiet_seconds = nan", "must be a finite number"),
        ('port = 4242', 'port = 4242\ntransport = "orthanc"\nurl = "http://pacs:abc"',
         "peers.pacs.url = 'http://pacs:abc': the port in it"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, site: str, old: str, new: str, expected: str
) -> None:
    assert old in site
    text = site.replace(old, new, 1) if old else site + new
    found = found_in(tmp_path / "node.toml", text)
    assert any(expected in line for line in found), found
    assert not LIBRARY_WORDS.search(" ".join(found))


def test_the_site_itself_has_no_mistake(tmp_path: Path, site: str) -> None:
    assert found_in(tmp_path / "node.toml", site) == []


def test_the_condition_that_the_samples_name_for_every_image_is_one(tmp_path: Path, site: str) -> None:
    assert 'modality = "*": every image' in sample.rules_toml()
    every = site.replace('when = { modality = "US" }', 'when = { modality = "*" }')
    assert found_in(tmp_path / "node.toml", every) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\nname = us1\n", '2: file: is no TOML: text must be in quotes: name = "…"'),
        ("[node]\nhost = 127.0.0.1\n", "2: file: is no TOML: nothing but a # comment may follow"),
        ("[node]\nname = \u201cus1\u201d\n", "2: file: is no TOML: quotes must be straight"),
        ("[node]\nx = null\n", "2: file: is no TOML: there is no null in TOML: leave x out"),
        ("[node]\nx = True\n", "2: file: is no TOML: write true, in small letters"),
        ('[node]\nx = "abc\ny = 1\n', '2: file: is no TOML: the quotes are not closed: put a "'),
        ("[node]\nx = 1\nx = 2\n", "3: file: is no TOML: the key x is given twice here"),
        ("[peers]\nx = 1\n[peers]\nx = 2\n", "3: file: is no TOML: write [[peers]], with two brackets"),
        ("[peers]\nx = 1\n[[peers]]\nx = 2\n", "3: file: is no TOML: write [[peers]], with two brackets"),
        ("[node]\nx = 1\n[node]\n", "3: file: is no TOML: [node] is given twice"),
        ('[node]\nx = ["a" "b"]\n', "2: file: is no TOML: a list is not closed, or a comma is missing"),
        ("[node]\npassword = TOPSECRET\n", '2: file: is no TOML: text must be in quotes: password = "…"'),
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


def test_mistakes_stand_in_order_of_line_and_what_is_known_stands_once(tmp_path: Path, site: str) -> None:
    text = site.replace('ae_title = "ORTHANC"', 'ae_title = "US1"').replace("quiet_seconds", "quiet_second")
    text = text.replace('host = "127.0.0.1"', "host = 1", 1)
    found = found_in(tmp_path / "node.toml", text)
    lines = [int(line.split(":")[1]) for line in found]
    assert len(lines) == 3 and lines == sorted(lines)
    assert did_you_mean("room", ["US1", "", "US1"]) == "known: US1"


def test_after_a_file_that_cannot_be_read_nothing_is_said_of_defaults(tmp_path: Path, site: str) -> None:
    head, rules = site[: site.index("[[peers]]")], site[site.index("[[rules]]") :]
    missing, empty = tmp_path / "peers.toml", write(tmp_path / "empty.toml", "# nothing\n")
    found = found_in(tmp_path / "node.toml", head + rules.replace('["pacs"]', "5", 1), missing, empty)
    assert len(found) == 3, found
    assert "rules.ultrasound.send_to = 5: must be a list" in found[0]
    assert found[1] == "peers.toml: file: cannot be read: No such file or directory"
    assert found[2] == "empty.toml: file: is empty: nothing is configured there"


def test_no_type_of_mistake_speaks_like_the_library() -> None:
    wrong: list[object] = ["x y", 7.5, -1, True, [], [7], {}, {"a": 1}, "x" * 300, float("inf")]
    for model, required in (
        (Settings, {}),
        (PeerSettings, {"name": "n", "ae_title": "A"}),
        (RuleSettings, {"name": "n", "pipeline": "p", "send_to": ["n"]}),
    ):
        for key in model.model_fields:
            for value in wrong:
                try:
                    model.model_validate({**required, key: value})
                except ValidationError as error:
                    for _, _, remedy in described(error, model):
                        assert remedy and not LIBRARY_WORDS.search(remedy), (key, value, remedy)
                        assert remedy != "cannot be used here", (key, value, error)


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
        ('transport = "orthanc"\nurl = "http://me:TOP?SECRET@h:x"', "url = 'http://***': the port"),
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


def test_the_line_of_a_key_is_found_in_whatever_toml() -> None:
    text = (
        'title = """\n[[peers]]\nname = "not this"\n"""\n\n[[peers]]\nname = "a"\n[[peers]]\n'
        'results = [\n "sr",\n "sc",\n]\nport = 1\n[a.b]\nc.d = { e = 1,  f = 2 }\n'
    )
    lines = {
        ("title",): 1,
        ("peers", 0): 6,
        ("peers", 0, "name"): 7,
        ("peers", 1): 8,
        ("peers", 1, "results", 1): 9,
        ("peers", 1, "port"): 13,
        ("a", "b"): 14,
        ("a", "b", "c", "d", "f"): 15,
        ("peers", 1, "missing"): 8,
    }
    assert {place: _line(text, place) for place in lines} == lines
