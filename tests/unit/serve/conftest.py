"""A verb of the command line run in this process, and the sites that it is run on."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.base.events import ASSOCIATION_ACCEPTED, JOB_FAILED
from dicom_node.base.lifecycle import (
    DeliveryState,
    JobState,
    ResultKind,
    StudyState,
)
from dicom_node.base.store.database import Database
from dicom_node.people.demo import EmbeddedPacs
from dicom_node.serve import cli
from tests.rows import NOW, Stored, a_job, a_study, an_association
from tests.unit.serve.cli_lab import BROKEN, CONFIG, CONFLICT, DELIVERED, PASSWORD, Ran, Run, event, received


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a verb in this process; its logging is undone at the end."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    root = logging.getLogger()
    handlers, level, umask = list(root.handlers), root.level, os.umask(0o022)
    yield run
    os.umask(umask)
    root.handlers, root.level = handlers, level


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration file; nothing runs, no database yet."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    return path


@pytest.fixture
def filled(site: Path) -> Path:
    """The same with three studies: delivered, failed with a dead delivery, in quarantine."""
    database = Database(f"sqlite:///{site.parent / 'var' / 'node.db'}")
    database.upgrade()
    stored = Stored(database)
    studies = [
        a_study(DELIVERED, StudyState.DELIVERED, NOW),
        a_study(BROKEN, StudyState.FAILED, NOW - timedelta(hours=1), reason="the PACS refuses it"),
        a_study(CONFLICT, StudyState.QUARANTINED, NOW - timedelta(days=2), reason="two patients"),
    ]
    stored.add(*studies)
    stored.add(*(row for study in studies for row in received(study)))
    for study, state in ((studies[0], DeliveryState.CONFIRMED), (studies[1], DeliveryState.DEAD)):
        stored.add(job := a_job(study, JobState.SUCCEEDED))
        for kind in (ResultKind.SR, ResultKind.SC):
            stored.delivery(job, state, kind)
    stored.add(
        a_job(studies[1], JobState.FAILED, rule="chest", reason="decoder: truncated"),
        an_association("a-1", NOW - timedelta(minutes=5), closed_at=NOW, objects=2),
        an_association("a-2", NOW),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-1"),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-9"),
        event(JOB_FAILED.number, NOW + timedelta(seconds=5), studies[1].id, job=3),
        event(9999, NOW + timedelta(seconds=6)),
    )
    database.dispose()
    return site


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n" * 9))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    running = EmbeddedPacs(tmp_path / "pacs")
    yield running
    running.stop()


@pytest.fixture
def ask(run: Run, filled: Path) -> Run:
    """Run a verb on the filled site."""
    return lambda *words: run(*words, "--config", filled)
