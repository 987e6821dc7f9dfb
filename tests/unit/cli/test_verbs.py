"""The other verbs, with real sockets where they call somebody."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom import examples

from dicom_node import errors
from dicom_node.cli import INTERRUPTED
from dicom_node.config import sample
from dicom_node.config.loading import load
from dicom_node.demo.pacs import EmbeddedPacs
from dicom_node.demo.radiograph import chest_phantom, chest_radiograph
from dicom_node.errors import ExitCode, NodeError, NotAllowedNow
from dicom_node.model.roles import Role
from dicom_node.processes import files_of, taken_place
from dicom_node.services.reload import _refuse_other_files
from tests.unit.cli.conftest import CONFIG, Run, audited

US = examples.get_path("rgb_color")
CINE = examples.get_path("ybr_color")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    running = EmbeddedPacs(tmp_path / "pacs")
    yield running
    running.stop()


@pytest.fixture
def site_with_pacs(tmp_path: Path, pacs: EmbeddedPacs) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(folder=tmp_path, port=11112, pacs=pacs.port), encoding="utf-8")
    return path


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    dataset = chest_radiograph(
        chest_phantom(), view="PA", sex="F", age_years=50, description="phantom", exposed="20200102030405"
    )
    path = tmp_path / "chest.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_echo_says_whether_a_peer_answers(run: Run, site_with_pacs: Path, pacs: EmbeddedPacs) -> None:
    assert run("echo", "pacs", "--config", site_with_pacs).status == 0
    pacs.stop()
    silent = run("echo", "pacs", "--config", site_with_pacs)
    assert silent.status == ExitCode.UNAVAILABLE
    assert "127.0.0.1" in silent.err
    unknown = run("echo", "ris", "--config", site_with_pacs)
    assert (unknown.status, "configured: pacs, us1" in unknown.err) == (ExitCode.NOT_FOUND, True)
    portless = run("echo", "us1", "--config", site_with_pacs)
    assert portless.status == ExitCode.UNAVAILABLE and "missing: add it" in portless.err


def test_send_keeps_each_file_as_it_is(
    run: Run, site_with_pacs: Path, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    folder = tmp_path / "to-send"
    folder.mkdir()
    for path in (US, CINE):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("no DICOM", encoding="utf-8")
    printed = run("send", "pacs", folder, "--config", site_with_pacs, "--json")
    assert printed.status == ExitCode.FAILED, "one file is no DICOM"
    rows = {Path(row["file"]).name: row for row in printed.json}
    assert rows["notes.txt"]["text"] == "no DICOM file (Part 10)"
    assert {rows[path.name]["status"] for path in (US, CINE)} == {"0000"}
    for path in (US, CINE):
        [held] = [data for data in held_by(pacs) if rows[path.name]["sop_instance_uid"].encode() in data]
        assert path.read_bytes()[-10000:] == held[-10000:], "data set, bit for bit"


def held_by(pacs: EmbeddedPacs) -> list[bytes]:
    return [path.read_bytes() for path in pacs._folder.glob("*.dcm")]


def test_send_without_a_peer_that_listens_ends_with_69(run: Run, site: Path) -> None:
    printed = run("send", "pacs", US, "--config", site)
    assert (printed.status, printed.out) == (ExitCode.UNAVAILABLE, "")
    assert printed.err == "dicom-node: cannot connect to PACS at 127.0.0.1:4242\n"


def test_peers_are_listed_without_their_passwords(run: Run, site_with_pacs: Path) -> None:
    text = site_with_pacs.read_text(encoding="utf-8")
    site_with_pacs.write_text(text.replace('may = ["receive"]', 'may = ["receive"]\npassword = "hunter2"'))
    printed = run("peers", "list", "--config", site_with_pacs, "--json")
    assert [row["name"] for row in printed.json] == ["pacs", "us1"]
    assert "hunter2" not in printed.out
    assert "hunter2" not in run("peers", "list", "--config", site_with_pacs).out


def test_peers_test_tries_what_delivery_needs(run: Run, site_with_pacs: Path, pacs: EmbeddedPacs) -> None:
    printed = run("peers", "test", "--config", site_with_pacs, "--json")
    assert printed.status == 0, printed.out
    assert {row["check"] for row in printed.json} >= {"echo", "query", "sr", "gsps"}
    pacs.stop()
    assert run("peers", "test", "pacs", "--config", site_with_pacs).status == ExitCode.UNAVAILABLE


def test_rules_try_says_which_rule_and_why_not(run: Run, site: Path, chest: Path) -> None:
    def told(*options: object) -> dict[str, tuple[bool, str]]:
        rows = run("rules", "try", *options, "--config", site, "--json").json
        return {row["rule"]: (row["applies"], row["reason"]) for row in rows}

    us = told(US, "--from", "us1")
    assert us["ultrasound"] == (True, "all conditions hold")
    assert us["chest"] == (False, "modality US does not match CR or DX")
    assert told(US, "--from", "US1") == us, "by its AE title, too"
    assert told(US)["ultrasound"] == (False, "calling ae is empty, not US1")
    applies, reason = told(chest)["chest"]
    assert applies
    assert reason.startswith("held: the study is") and "takes 7" in reason


def test_rules_try_says_what_would_be_quarantined(run: Run, site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(US.read_bytes()[:5000])
    [row] = run("rules", "try", broken, "--config", site, "--json").json
    assert row["reason"].startswith("quarantined: ")
    assert not row["applies"]


def test_check_reports_everything_at_once(run: Run, site: Path, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    text = site.read_text(encoding="utf-8").replace("port = 11112", f"port = {pacs.port}\ncolour = 1")
    options = "options = { heatmap = 1, prevalence = { Fracture = 0.1 } }"
    text = text.replace('pipeline = "chest_xray"', f'pipeline = "chest_xray"\n{options}')
    former = 'name = "less"\nwhen = { modality = "US" }\npipeline = "ultrasound"\nsend_to = ["pacs"]\n'
    text = text.replace('pipeline = "ultrasound"', 'pipeline = "ultrasnd"')
    text += f"[[rules]]\n{former}options = {{ despeckle = true }}\n"
    text += '[listener.tls]\ncertificate = "none.pem"\nprivate_key = "none.key"\n'
    text = text.replace('ae_title = "US1"', 'ae_title = "US1"\nassume_charset = "latin"')
    site.write_text(text, encoding="utf-8")
    printed = run("check", "--config", site)
    assert printed.status == 78
    for expected in (
        "listener.colour",
        f"listener.port = 127.0.0.1:{pacs.port}: cannot be listened on",
        "listener.tls.certificate = none.pem: the certificate is missing: there is no such file",
        "rules.ultrasound.pipeline = 'ultrasnd': no such pipeline; did you mean ultrasound?",
        "rules.chest.options.heatmap: chest_xray has no such option; did you mean heatmaps?",
        "rules.less.options.despeckle: ultrasound has no such option; leave it out (`ai-pipeline run --desp",
        "rules.chest.options.prevalence = {'Fracture': 0.1}: chest-efficientnet-lite0@",
        "peers.us1.assume_charset = 'latin'",
    ):
        assert expected in printed.err
    assert "warning peer pacs" in printed.out, "a PACS that is away is no mistake"


def test_check_refuses_a_data_folder_that_cannot_be(run: Run, site: Path, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file", encoding="utf-8")
    printed = run("check", "--config", site)
    assert printed.status == 78
    assert "node.data_dir" in printed.err


def test_check_says_when_a_database_is_missing_whose_objects_are_there(run: Run, site: Path) -> None:
    assert "will be made at the next start\n" in run("check", "--config", site).out
    received = site.parent / "var" / "spool" / "objects" / "one.dcm"
    received.parent.mkdir(parents=True)
    received.touch()
    printed = run("check", "--config", site)
    assert "start the node, then run dicom-node spool reindex" in printed.out + printed.err


def test_check_tries_whether_the_data_folder_can_be_made(run: Run, site: Path, tmp_path: Path) -> None:
    text = site.read_text(encoding="utf-8")
    site.write_text(text.replace(f'"{tmp_path}/var"', '"/proc/nowhere"'), encoding="utf-8")
    assert "/proc/nowhere" in site.read_text(encoding="utf-8")
    printed = run("check", "--config", site)
    assert printed.status == 78
    assert "node.data_dir = /proc/nowhere: the node may not write in /proc" in printed.err


def test_a_folder_of_another_user_is_told_in_a_sentence(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node import services

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/dicom-node/node.db")

    monkeypatch.setattr(services, "reading", closed)
    printed = run("studies", "list", "--config", site)
    assert printed.status == 78
    told = "Permission denied: run this as the user that the node runs as"
    assert printed.err == f"dicom-node: /var/lib/dicom-node/node.db: {told}\n"


def test_check_refuses_a_network_file_system(run: Run, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicom_node.preflight import machine

    monkeypatch.setattr(machine, "NETWORK_FILE_SYSTEMS", {file_system_of(site)})
    printed = run("check", "--config", site)
    assert printed.status == 78
    assert "is on a network file system" in printed.err


def file_system_of(path: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return {"ext2/ext3": "ext4", "overlayfs": "overlay"}.get(done.stdout.strip(), done.stdout.strip())


def test_config_sample_prints_the_files_of_the_repository(run: Run) -> None:
    folder = Path(__file__).resolve().parents[3] / "config"
    for name in ("node", "peers", "rules"):
        assert run("config", "sample", name).out == (folder / f"{name}.toml").read_text(encoding="utf-8")
    whole = "\n".join((folder / f"{name}.toml").read_text(encoding="utf-8") for name in sample.FILES)
    assert run("config", "sample", "--all").out == whole


def test_configuration_files_come_from_the_environment_too(
    run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOM_NODE_CONFIG", str(filled))
    assert len(run("studies", "list", "--json").json) == 3


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (("events", "list", "--number", "abc"), "'abc' is no number of an event"),
        (("events", "list", "--number", "9998"), "there is no event 9998"),
        (("jobs", "list", "--state", "bogus"), "'bogus' is no state"),
        (("jobs", "show", "abc"), "'abc' is no number of a job"),
        (("outbox", "retry", "1,2"), "'1,2' is no number of a delivery"),
        (("studies", "list", "--state", "recieving"), "did you mean receiving?"),
        (("outbox", "list", "--state", "bogus"), "'bogus' is no state"),
    ],
)
def test_what_is_no_number_and_no_state_is_told_plainly(
    run: Run, filled: Path, verb: tuple[str, ...], expected: str
) -> None:
    printed = run(*verb, "--config", filled)
    assert printed.status == ExitCode.USAGE
    assert expected in " ".join(printed.err.replace("\u2502", " ").split())


def test_rules_try_of_what_is_no_dicom_ends_with_65(run: Run, site: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    assert run("rules", "try", tmp_path / "notes.txt", "--config", site).status == ExitCode.DATA
    assert run("rules", "try", US, "--config", site).status == ExitCode.OK


def test_an_unknown_option_ends_with_64(run: Run) -> None:
    assert run("studies", "list", "--colour").status == ExitCode.USAGE
    assert run("fly").status == ExitCode.USAGE
    assert run("studies", "list").status == ExitCode.USAGE, "no configuration was given"


def test_every_error_has_an_exit_code_of_its_kind() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NodeError)]
    assert all(isinstance(kind.exit_code, ExitCode) and kind.exit_code != ExitCode.OK for kind in kinds)
    assert INTERRUPTED == 130


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


def test_a_reload_takes_a_link_that_leads_to_other_files_by_now(site: Path) -> None:
    """As orchestrators change mounted files: the node reads the link again, not its old target."""
    link = site.with_name("mounted.toml")
    link.symlink_to(site)
    (site.parent / "var").mkdir()
    with taken_place(load([site]).node.data_dir, Role.ALL, [link]) as place:
        link.unlink()
        link.symlink_to(site.with_name("new.toml"))
        link.write_bytes(site.read_bytes())
        known = files_of(site.parent / "var", place)
        _refuse_other_files([link], known)
        with pytest.raises(NotAllowedNow, match="the node runs with"):
            _refuse_other_files([site], known)


def test_a_reload_is_in_the_audit(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the nodes that took the files over, also where another one refused them."""
    refusal = {"fields": {"keys": "listener.port"}}
    monkeypatch.setattr("dicom_node.processes.running", lambda _: {"worker-1": 1, "worker-2": 2})
    monkeypatch.setattr("dicom_node.processes.files_of", lambda *_: set())
    said = [None, None, refusal]  # by process id
    monkeypatch.setattr("dicom_node.services.reload._hang_up", lambda *asked: said[asked[-1]])
    monkeypatch.setattr("dicom_node.preflight.check", lambda *_: Mock(problems=()))
    refused = run("reload", "--config", filled)
    assert refused.status == 1 and "listener.port" in refused.err
    assert audited(filled) == [("config_reloaded", {"nodes": ["worker-1"]})]
