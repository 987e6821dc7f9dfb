"""What the verbs of the command line do, print and refuse."""

import errno
import fcntl
import io
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pexpect
import pytest
from sqlalchemy import update

from dicom_node.base.config import loading, sample
from dicom_node.base.errors import ExitCode
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Study
from dicom_node.people import users
from dicom_node.people.demo import EmbeddedPacs
from dicom_node.serve import cli
from tests import ROOT
from tests.inbox_lab import Inbox
from tests.modality import ultrasounds
from tests.rows import NOW
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.serve.cli_lab import (
    DELIVERED,
    PASSWORD,
    Run,
    audited,
    event,
    in_database,
    rewrite,
    set_in_workers,
)


def test_a_command_says_what_the_disk_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    assert cli._run([]) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == "dicom-node: disk: input/output error\n"


def test_objects_of_a_lost_database_are_told_put_back_and_told_no_more(run: Run, site: Path) -> None:
    spool = lambda verb: run("spool", verb, "--config", site)
    node = Inbox(site.parent / "var")
    node.settle(*ultrasounds("one", 2))
    node.close()
    assert spool("compare").out == "Spool and database agree.\n"
    assert spool("reindex").out == "Nothing to put back.\n"
    for path in (site.parent / "var").glob("node.db*"):
        path.unlink()
    Inbox(site.parent / "var").close()  # as a start makes a new one
    compared = spool("compare")
    assert compared.status == ExitCode.FAILED
    assert "2 " in compared.out
    assert "spool reindex" in compared.out
    assert spool("reindex").out == "2 objects are put back: the node takes them in.\n"
    assert audited(site) == [("spool_reindexed", {"objects": 2})]
    assert spool("compare").status == ExitCode.OK


def test_check_reports_everything_at_once(run: Run, site: Path, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    options = "options = { heatmap = 1, prevalence = { Fracture = 0.1 } }"
    changes = {
        "port = 11112": f"port = {pacs.port}\ncolour = 1",
        'pipeline = "chest_xray"': f'pipeline = "chest_xray"\n{options}',
        'pipeline = "ultrasound"': 'pipeline = "ultrasnd"',
        'ae_title = "US1"': 'ae_title = "US1"\nassume_charset = "latin"',
        'ae_title = "PACS"': "ae_title = \"PACS\"\nassume_charset = '\\ISO 2022 IR 149'",
    }
    further = (
        '[[rules]]\nname = "less"\nwhen = { modality = "US" }\npipeline = "ultrasound"\nsend_to = ["pacs"]\n'
        'options = { despeckle = true }\n[listener.tls]\ncertificate = "none.pem"\nprivate_key = "none.key"\n'
    )
    rewrite(site, changes, further)
    printed = run("check", "--config", site)
    assert (printed.status, "IR 149" in printed.err) == (78, False)
    for expected in (
        "listener.colour",
        "listener.tls.certificate = none.pem: the certificate is missing: there is no such file",
        "rules.ultrasound.pipeline = 'ultrasnd': no such pipeline; did you mean ultrasound?",
        "rules.chest.options.heatmap: chest_xray has no such option; did you mean heatmaps?",
        "rules.less.options.despeckle: ultrasound has no such option; leave it out: the change",
        "rules.chest.options.prevalence = {'Fracture': 0.1}: chest-efficientnet-lite0@",
        "peers.us1.assume_charset = 'latin'",
    ):
        assert expected in printed.err
    for expected in ("warning peer pacs", "in use by another program (listener.host, listener.port)"):
        assert expected in printed.out, "what may end by itself is no mistake"


def test_check_says_when_a_database_is_missing_whose_objects_are_there(run: Run, site: Path) -> None:
    assert "will be made at the next start\n" in run("check", "--config", site).out
    received = site.parent / "var" / "spool" / "objects" / "one.dcm"
    received.parent.mkdir(parents=True)
    received.touch()
    printed = run("check", "--config", site)
    assert "the start indexes what the spool has" in printed.out + printed.err


def test_config_sample_prints_the_files_of_the_repository(run: Run) -> None:
    folder = ROOT / "config"
    for name in sample.FILES:
        assert run("config", "sample", name).out == (folder / f"{name}.toml").read_text(encoding="utf-8")


def test_a_reload_with_other_files_than_the_nodes_is_refused(run: Run, site: Path) -> None:
    """The node would read its own files again, and the others count as taken over."""
    other = site.with_name("d.toml")
    other.write_bytes(site.read_bytes())
    lock = site.parent / "var" / "all.lock"
    lock.parent.mkdir()
    with lock.open("w+") as held, subprocess.Popen(["sleep", "60"], stdin=held) as node:
        lock.write_text(f"{node.pid}\n{site}", encoding="utf-8")
        refused = run("reload", "--config", other)
        assert node.poll() is None, "it was asked"
        node.kill()
    assert (refused.status, refused.out) == (1, "")
    assert f"the node runs with {site}, not with {other}" in refused.err


OBJECTS = ("spool/objects/ab/1.dcm", "results/cd/2.dcm", "deidentified/ef/3.dcm")


@pytest.fixture
def saved(ask: Run, filled: Path, tmp_path: Path) -> Path:
    """A backup, made while somebody writes."""
    key = filled.parent / "var" / "keys" / "site.key"
    key.parent.mkdir()
    key.write_text("ab" * 32, encoding="ascii")
    key.chmod(0o600)
    for place in OBJECTS:
        image = filled.parent / "var" / place
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"image")
    with Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}").write():
        done = ask("backup", tmp_path / "saved", "--objects")
    assert (done.status, "verified" in done.out) == (0, True), done.err
    return tmp_path / "saved"


def test_a_lost_node_is_back_with_its_studies_its_key_and_its_objects(
    ask: Run, filled: Path, saved: Path
) -> None:
    var = filled.parent / "var"
    var.rename(filled.parent / "lost")
    assert ask("restore", saved).status == 0
    assert DELIVERED in ask("studies", "list").out
    assert (var / "keys" / "site.key").read_text() == "ab" * 32
    assert (var / "keys" / "site.key").stat().st_mode & 0o777 == 0o600
    assert [(var / place).read_bytes() for place in OBJECTS] == [b"image"] * 3


def test_a_backup_without_the_key_is_whole_and_leaves_the_present_key(
    ask: Run, filled: Path, saved: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    assert ask("backup", apart, "--without-key").status == 0
    assert b"ab" * 32 not in b"".join(file.read_bytes() for file in apart.rglob("*") if file.is_file())
    assert ask("restore", apart).status == 0
    assert (filled.parent / "var" / "keys" / "site.key").read_text() == "ab" * 32


def test_device_rules_come_back_and_those_made_since_stay(ask: Run, filled: Path, tmp_path: Path) -> None:
    drawn, own = filled.parent / "var" / "device_rules", tmp_path / "own"
    for folder in (drawn, own):
        folder.mkdir()
        (folder / "room3.toml").write_text("first", encoding="utf-8")
    assert ask("backup", tmp_path / "saved").status == 0
    for name, text in (("room3.toml", "second"), ("since.toml", "new")):
        (drawn / name).write_text(text, encoding="utf-8")
    assert ask("restore", tmp_path / "saved").status == 0
    assert (drawn / "room3.toml").read_text() == "first"
    assert [kept.read_text() for kept in drawn.glob("room3.toml.before-*")] == ["second"]
    assert sorted(path.name for path in drawn.glob("*.toml")) == ["room3.toml", "since.toml"]
    rewrite(filled, {}, f'[workers]\ndevice_rules_dir = "{own}"\n')
    assert ask("backup", tmp_path / "other").status == 0
    (own / "room3.toml").unlink()
    assert ask("restore", tmp_path / "other").status == 0
    assert (own / "room3.toml").read_text() == "first"


def test_nothing_is_restored_under_a_node_that_runs(ask: Run, filled: Path, saved: Path) -> None:
    with (filled.parent / "var" / "worker-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = ask("restore", saved)
    assert refused.status == ExitCode.FAILED
    assert "stop it first" in refused.err


def test_a_backup_that_is_not_whole_is_refused_and_named(ask: Run, saved: Path) -> None:
    assert ask("restore", saved, "--verify").status == 0
    (saved / "site.key").write_text("cd" * 32, encoding="ascii")
    for words in (["--verify"], []):
        refused = ask("restore", saved, *words)
        assert refused.status == ExitCode.DATA
        assert "site.key differs from the saved file" in refused.err
    manifest = saved / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"site.key"', '"../site.key"'), encoding="utf-8")
    assert "differs" not in ask("restore", saved, "--verify").err, "a file elsewhere"


def test_a_database_of_a_newer_program_is_refused(ask: Run, filled: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(filled.parent / "var" / "node.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = ask("backup", tmp_path / "saved")
    assert refused.status == ExitCode.DATA
    assert "newer" in refused.err


def test_of_a_postgresql_it_says_how_to_save_it(run: Run, site: Path, tmp_path: Path) -> None:
    rewrite(site, {"[node]": '[node]\ndatabase_url = "postgresql+psycopg://u:hunter2@h/n"'})
    done = run("backup", tmp_path / "saved", "--config", site)
    assert done.status == 0
    assert "pg_dump" in done.out
    assert "hunter2" not in done.out


VERBS = [
    ["studies", "list"],
    ["jobs", "list"],
    ["outbox", "list"],
    ["outbox", "retry", "--dead"],
    ["events", "list"],
    ["associations", "list"],
    ["models", "drift"],
    ["spool", "compare"],
    ["db", "upgrade"],
    ["check"],
    ["serve", "--role", "worker"],
]


def configured(folder: Path, url: str = "", processes: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\ndatabase_url = "{url}"\n[workers]\nprocesses = {processes}\n',
        encoding="utf-8",
    )
    return config


def in_one_process(
    asked: Sequence[tuple[Path, list[list[str]]]], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Path, Iterator[tuple[list[str], int, str]]]]:
    """Run verbs one after the other in one interpreter: for each configuration its verbs with status and
    standard error.
    """
    program = (
        "import contextlib, io, json, sys\n"
        "from dicom_node.serve import cli\n"
        "said = []\n"
        "for config, verbs in json.loads(sys.argv[1]):\n"
        "  for verb in verbs:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try: cli.main([*verb, '--config', config])\n"
        "        except SystemExit as end: said.append((int(end.code or 0), err.getvalue()))\n"
        "print('\\n' + json.dumps(said))\n"
    )
    words = json.dumps([(str(config), verbs) for config, verbs in asked])
    done = subprocess.run(
        [sys.executable, "-c", program, words],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        cwd=folder,
        env=environment,
    )
    rows: list[tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == sum(len(verbs) for _, verbs in asked)
    yield from ((config, iter([(verb, *rows.pop(0)) for verb in verbs])) for config, verbs in asked)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda _: b"this is no database, but somebody's letter\n" * 100,
    "overwritten": lambda data: data[:4096] + b"\xff" * 60_000 + data[64_096:],
    "cut": lambda data: data[:5000],
}


def test_a_database_that_is_damaged_or_does_not_answer_is_told_with_what_to_do(tmp_path: Path) -> None:
    away = configured(tmp_path / "away", "postgresql+psycopg://node:hunter2@127.0.0.1:9/node")
    for name, damaged in DAMAGED.items():
        config = configured(tmp_path / name)
        database = Database(f"sqlite:///{config.parent / 'node.db'}")
        database.upgrade()
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.dispose()
        (config.parent / "node.db").write_bytes(damaged((config.parent / "node.db").read_bytes()))
    asked = [(tmp_path / name / "node.toml", VERBS) for name in (*DAMAGED, "away")]
    for config, said_of in in_one_process(asked, tmp_path):
        for verb, status, said in said_of:
            usual = ExitCode.UNAVAILABLE if config == away else ExitCode.SOFTWARE
            assert status == (ExitCode.CONFIG if verb == ["check"] else usual), (config, verb, said)
            assert ("does not answer" if config == away else "is damaged") in said, (config, verb)
            assert "Traceback" not in said, (config, verb)
            assert "hunter2" not in said, (config, verb)


FAULTY = """
source = "room 3"
[[rule]]
name = "ours"
match = { manufacturer = "Maker" }
rectangles = [{ left = 0, top = 0, right = 2.0, bottom = 20 }]
"""


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_faulty_rule_stops_the_node_with_file_key_and_remedy(
    run: Run, site: Path, tmp_path: Path, verb: str
) -> None:
    set_in_workers(site, "device_rules_dir", tmp_path)
    (tmp_path / "room3.toml").write_text(FAULTY, encoding="utf-8")
    printed = run(verb, "--config", site)
    place = f"{tmp_path / 'room3.toml'}: rule[0].rectangles[0].right (rule ours)"
    assert printed.status == 78
    assert f"workers.device_rules_dir = {place}: must be pixels" in " ".join(printed.err.split())


def test_at_a_terminal_a_faulty_answer_is_asked_for_again_and_no_password_shows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answers = {
        "AE title": ["A TITLE THAT IS TOO LONG", "NODE1"],
        "Folder": ["/", str(data)],
        "PACS": ["PACS", "PACS@192.0.2.10:104"],
        "Machines": ["US1@192.0.2.21, XR 2@192.0.2.22"],
        "Console": ["anna"],
        "Password": ["short", PASSWORD],
        "Repeat": ["short", PASSWORD],
    }
    command = ["-m", "dicom_node", "init", "--to", str(tmp_path / "etc")]
    terminal = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=300)
    terminal.logfile_read = seen = io.StringIO()
    while questions := [question for question, left in answers.items() if left]:
        question = questions[terminal.expect([rf"(?s){question}.*: $" for question in questions])]
        if question in ("Password", "Repeat"):
            assert terminal.waitnoecho(60)  # what is typed before is thrown away
        terminal.sendline(answers[question].pop(0))
    terminal.expect(pexpect.EOF)
    terminal.close()
    status, shown = terminal.exitstatus, seen.getvalue()
    assert status == 0, shown
    assert "has more than 16 characters" in shown
    assert "write AE@HOST:PORT" in shown
    assert "no empty folder" in shown
    assert "a password has 12 to 256 characters" in shown
    assert PASSWORD not in shown
    settings = loading.load([tmp_path / "etc" / "node.toml"])
    assert (settings.node.ae_title, settings.node.data_dir) == ("NODE1", data)
    assert [(peer.name, peer.ae_title, peer.host, peer.port) for peer in settings.peers] == [
        ("pacs", "PACS", "192.0.2.10", 104),
        ("us1", "US1", "192.0.2.21", None),
        ("xr-2", "XR 2", "192.0.2.22", None),
    ]
    assert [rule.send_to for rule in settings.rules] == [("pacs",), ("pacs",)]
    assert [(row["name"], row["role"]) for row in users.list_users(settings)] == [("anna", "admin")]
    unit = (tmp_path / "etc" / "dicom-node.service").read_text()
    assert f"ReadWritePaths={data}\nWorkingDirectory={data}\n" in unit
    assert f"DICOM_NODE_CONFIG={tmp_path}/etc/node.toml\n" in unit
    assert f"ExecStart={Path(sys.executable).with_name('dicom-node')} serve\n" in unit
    for path in (data / "node.db", tmp_path / "etc" / "node.toml"):
        assert path.stat().st_mode & 0o077 == 0


def test_options_ask_nothing_and_what_is_there_stays(run: Run, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "etc"
    nothing = [f"--{name}=" for name in ("pacs", "machines", "admin")]
    command = ("init", "--to", folder, "--data-dir", data, "--ae-title", "AINODE", *nothing)
    done = run(*command)
    assert done.status == 0, done.err
    assert not loading.load([folder / "node.toml"]).console.enabled
    before = (folder / "node.toml").read_bytes()
    assert run(*command, "--pacs", "PACS@192.0.2.10:104").status == ExitCode.DATA
    (folder / "node.toml").rename(tmp_path / "kept")
    assert run(*command).status == ExitCode.DATA, "the unit is there"
    (folder / "dicom-node.service").unlink()
    (data / "spool").mkdir()
    assert run(*command).status == ExitCode.USAGE, "the data folder holds a node"
    assert (tmp_path / "kept").read_bytes() == before
    assert not (folder / "node.toml").exists()


HIDE = """
from importlib.machinery import PathFinder
HIDDEN = {"cv2", "onnxruntime", "rapidocr", "onnx", "safetensors", "torch", "sklearn", "skimage", "scipy"}
HIDDEN |= {"psycopg", "psycopg_binary", "psycopg2", "procrastinate"}
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *where: None if name.split(".")[0] in HIDDEN else find(name, *where)
)
"""


def test_what_needs_networks_or_postgresql_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)  # no extra is found
    without_extras = {**os.environ, "PYTHONPATH": str(tmp_path)}
    config, image = configured(tmp_path, processes=1), write_dicom(tmp_path / "image.dcm", echo()[None])
    schemes = {
        configured(tmp_path / scheme, f"{scheme}://node:hunter2@127.0.0.1:9/node"): remedy
        for scheme, remedy in (
            ("postgresql+psycopg", "pip install 'dicom-ai-node[postgres]'"),
            ("postgresql", "must begin with postgresql+psycopg://"),
        )
    }
    verbs = [["check"], ["serve"], ["db", "upgrade"], ["studies", "list"]]
    asked = [
        (configured(tmp_path / "none"), verbs[:1]),
        (config, verbs[:2]),
        *((one, verbs) for one in schemes),
    ]
    (_, none), (_, needed), *with_postgresql = in_one_process(asked, tmp_path, without_extras)
    for _, _, said in none:
        assert "Traceback" not in said, "without workers nothing is missing"
        assert "[ai]" not in said, "without workers nothing is missing"
    for place, said_of in with_postgresql:
        for verb, status, said in said_of:
            assert status, verb
            assert schemes[place] in said, verb
            assert "Traceback" not in said, verb
            assert "hunter2" not in said, verb
    ended = [(status, said) for _, status, said in needed]
    settings = loading.load([config]).for_children()
    for words, given in (
        (["dicom_node.jobs.worker"], f"{settings}\n"),
        (["ai_pipeline", "run", image, "--out", tmp_path / "out"], ""),
    ):
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(
            command,
            input=given,
            env=without_extras,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        ended.append((done.returncode, done.stderr))
    for status, said in ended:
        assert status == 78, said
        assert "install -c constraints.txt '.[ai]'" in said, said
        assert len(said.splitlines()) < 6, said


def test_check_says_when_the_model_that_was_activated_is_gone(run: Run, site: Path, tmp_path: Path) -> None:
    (models := tmp_path / "models").mkdir()
    set_in_workers(site, "models_dir", models)
    assert "is to use" not in run("check", "--config", site).err
    (models / "active.json").write_text(
        '{"chest_xray": {"stack": ["gone@2"], "history": []}}', encoding="utf-8"
    )
    printed = run("check", "--config", site)
    assert printed.status == 78
    assert "models rollback" in printed.err
    assert "chest_xray is to use gone@2" in printed.err


def test_no_canary_is_in_a_support_bundle(ask: Run, filled: Path, tmp_path: Path) -> None:
    further = (
        '\n[[peers]]\nname = "web"\nae_title = "WEB"\nmay = ["receive"]\ntransport = "dicomweb"\n'
        'url = "https://127.0.0.1:9/CANARY"\nusername = "tweety"\npassword = "hunter2"\n'
        '[[rules]]\nname = "odd"\nwhen = { study_description = "CANARY" }\n'
        'pipeline = "ultrasound"\nsend_to = ["web"]\n'
    )
    rewrite(filled, {}, further)
    fields: dict[str, object] = {
        "calling_ae": "SYLVESTER",
        "reason": "Canary^Jane",
        "study": DELIVERED,
        "state": "CANARY X",
        "patient": 19560807,
        "destination": "pacs",
        "objects": 3,
        "path": "/CANARY/4711-PID",
    }
    with in_database(filled) as session:
        session.execute(update(Study).values(patient_id="4711-PID", reason="Canary^Jane"))
        session.add_all(event(number, NOW, **fields) for number in (1004, 2005, 3006, 5004, 5020, 9999))
    done = ask("support-bundle", tmp_path / "bundle.zip")
    assert done.status == 0, done.err
    assert (tmp_path / "bundle.zip").stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        parts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    names = ["CANARY", "Canary^Jane", "4711-PID", "19560807", "hunter2", "tweety", DELIVERED, "SYLVESTER"]
    assert [(name, one) for name, text in parts.items() for one in names if one in text] == []
    told = [one for one in json.loads(parts["events.json"]) if one["number"] == 5020]
    assert told[0]["fields"] == {"destination": "pacs", "objects": 3}
    assert json.loads(parts["versions.json"])["pydicom"] != "not installed"
    assert json.loads(parts["counts.json"])
