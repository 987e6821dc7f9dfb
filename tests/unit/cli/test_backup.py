"""Backup while the node runs, verification, and the way back."""

from __future__ import annotations

import fcntl
import sqlite3
from pathlib import Path

import pytest

from dicom_node.dicom.own_objects import Installation
from dicom_node.errors import ExitCode
from dicom_node.store.database import Database
from dicom_node.store.results import this_installation
from tests.unit.cli.conftest import DELIVERED, Run, audited

OBJECTS = ("spool/objects/ab/1.dcm", "results/cd/2.dcm", "deidentified/ef/3.dcm")


@pytest.fixture
def saved(run: Run, filled: Path, tmp_path: Path) -> Path:
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
        done = run("backup", tmp_path / "saved", "--objects", "--config", filled)
    assert (done.status, "verified" in done.out) == (0, True), done.err
    return tmp_path / "saved"


def test_a_lost_node_is_back_with_its_studies_its_key_and_its_objects(
    run: Run, filled: Path, saved: Path
) -> None:
    var = filled.parent / "var"
    var.rename(filled.parent / "lost")
    assert run("restore", saved, "--config", filled).status == 0
    assert DELIVERED in run("studies", "list", "--config", filled).out
    assert (var / "keys" / "site.key").read_text() == "ab" * 32
    assert (var / "keys" / "site.key").stat().st_mode & 0o777 == 0o600
    assert [(var / place).read_bytes() for place in OBJECTS] == [b"image"] * 3


def test_a_restored_node_is_the_same_installation(run: Run, filled: Path, saved: Path) -> None:
    var = filled.parent / "var"
    before = installation(var / "node.db")
    var.rename(filled.parent / "lost")
    assert run("restore", saved, "--config", filled).status == 0
    assert installation(var / "node.db") == before


def installation(file: Path) -> Installation:
    with Database(f"sqlite:///{file}").read() as session:
        return this_installation(session)


def test_a_backup_without_the_key_is_whole_and_leaves_the_present_key(
    run: Run, filled: Path, saved: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    assert run("backup", apart, "--without-key", "--config", filled).status == 0
    assert b"ab" * 32 not in b"".join(file.read_bytes() for file in apart.rglob("*") if file.is_file())
    assert run("restore", apart, "--config", filled).status == 0
    assert (filled.parent / "var" / "keys" / "site.key").read_text() == "ab" * 32


def test_device_rules_come_back_and_those_made_since_stay(run: Run, filled: Path, tmp_path: Path) -> None:
    drawn, own = filled.parent / "var" / "device_rules", tmp_path / "own"
    for folder in (drawn, own):
        folder.mkdir()
        (folder / "room3.toml").write_text("first", encoding="utf-8")
    assert run("backup", tmp_path / "saved", "--config", filled).status == 0
    (drawn / "room3.toml").write_text("second", encoding="utf-8")
    (drawn / "since.toml").write_text("new", encoding="utf-8")
    assert run("restore", tmp_path / "saved", "--config", filled).status == 0
    assert (drawn / "room3.toml").read_text() == "first"
    assert [kept.read_text() for kept in drawn.glob("room3.toml.before-*")] == ["second"]
    assert sorted(path.name for path in drawn.glob("*.toml")) == ["room3.toml", "since.toml"]
    filled.write_text(filled.read_text() + f'[workers]\ndevice_rules_dir = "{own}"\n', encoding="utf-8")
    assert run("backup", tmp_path / "other", "--config", filled).status == 0
    (own / "room3.toml").unlink()
    assert run("restore", tmp_path / "other", "--config", filled).status == 0
    assert (own / "room3.toml").read_text() == "first"


def test_only_its_owner_reads_a_backup(saved: Path) -> None:
    assert saved.stat().st_mode & 0o077 == 0


def test_what_was_there_is_kept(run: Run, filled: Path, saved: Path) -> None:
    var = filled.parent / "var"
    (var / "node.db").write_bytes(b"damaged")
    assert run("restore", saved, "--config", filled).status == 0
    [kept] = var.glob("node.db.before-*")
    assert kept.read_bytes() == b"damaged"


def test_nothing_is_restored_under_a_node_that_runs(run: Run, filled: Path, saved: Path) -> None:
    with (filled.parent / "var" / "worker-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run("restore", saved, "--config", filled)
    assert refused.status == ExitCode.FAILED
    assert "stop it first" in refused.err


def test_a_backup_that_is_not_whole_is_refused_and_named(run: Run, filled: Path, saved: Path) -> None:
    assert run("restore", saved, "--verify", "--config", filled).status == 0
    (saved / "site.key").write_text("cd" * 32, encoding="ascii")
    for words in (["--verify"], []):
        refused = run("restore", saved, *words, "--config", filled)
        assert refused.status == ExitCode.DATA
        assert "site.key differs from the saved file" in refused.err


def test_a_manifest_that_names_files_elsewhere_is_refused(run: Run, filled: Path, saved: Path) -> None:
    manifest = saved / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"site.key"', '"../site.key"'), encoding="utf-8")
    assert run("restore", saved, "--verify", "--config", filled).status == ExitCode.DATA


def test_a_database_of_a_newer_program_is_refused(run: Run, filled: Path, tmp_path: Path) -> None:
    with sqlite3.connect(filled.parent / "var" / "node.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    refused = run("backup", tmp_path / "saved", "--config", filled)
    assert refused.status == ExitCode.DATA
    assert "newer" in refused.err


def test_a_backup_never_writes_over_another(run: Run, filled: Path, saved: Path) -> None:
    assert run("backup", saved, "--config", filled).status == ExitCode.CANNOT_CREATE


def test_of_a_postgresql_it_says_how_to_save_it(run: Run, site: Path, tmp_path: Path) -> None:
    text = site.read_text().replace("[node]", '[node]\ndatabase_url = "postgresql+psycopg://u:hunter2@h/n"')
    site.write_text(text, encoding="utf-8")
    done = run("backup", tmp_path / "saved", "--config", site)
    assert done.status == 0
    assert "pg_dump" in done.out
    assert "hunter2" not in done.out


def test_backup_and_restore_are_in_the_audit(run: Run, filled: Path, tmp_path: Path) -> None:
    assert run("backup", tmp_path / "first", "--config", filled).status == 0
    assert audited(filled) == [("backed_up", {"objects": False, "key": True})]
    assert run("restore", tmp_path / "first", "--config", filled).status == 0
    [(action, fields)] = audited(filled)
    assert action == "restored" and set(fields) == {"made", "program"}, (
        "the record of the backup came after it"
    )
