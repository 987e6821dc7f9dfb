"""A real node for tests: ``dicom-node serve`` as a process, with its own folder, ports and configuration."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import _config
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config import loading
from dicom_node.base.store import views
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Study
from dicom_node.deliver.scu.calling_ae import CallingAE
from dicom_node.serve import cli
from tests.forked import Forked, run_forked
from tests.ports import free_port
from tests.waiting import wait_until

_config.LOG_HANDLER_LEVEL = "none"

_SITE = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = {quiet}
quiet_seconds_us = {quiet}
[workers]
processes = {processes}
lease_seconds = {lease}
retry_seconds = 0.2
{workers}
[outbox]
retry_seconds = 0.2
retry_limit_seconds = 2
{senders}
[[peers]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {pacs}
may = ["send", "receive"]
results = {results}
{of_pacs}
"""


def rule(
    pipeline: str,
    when: str = 'modality = "US"',
    options: str = "",
    *,
    name: str = "",
    send_to: str = '["pacs"]',
) -> str:
    """A rule as TOML; ``when`` and ``options`` are the lines of inline tables. Named after its pipeline."""
    return (
        f'[[rules]]\nname = "{name or pipeline}"\nwhen = {{ {when} }}\nmax_study_age_days = 0\n'
        f'pipeline = "{pipeline}"\noptions = {{ {options} }}\nsend_to = {send_to}\n'
    )


_WRITES = "sleep 0.2; echo '{\\\"findings\\\": []}' > $MERCURE_OUT_DIR/findings.json"
PROGRAM = rule(
    "command",
    options=f'command = ["/bin/sh", "-c", "{_WRITES}"], model = "none", version = "1", network = true',
)
"""A program instead of a model, where what is tried is the site: a model would take the time of the test."""
ULTRASOUND = rule("ultrasound")


def site_config(
    pacs: int,
    rules: str = PROGRAM,
    results: Sequence[str] = ("sr",),
    quiet: float = 0.3,
    *,
    processes: int = 1,
    lease: float = 60,
    senders: Sequence[str] = ("US1",),
    workers: str = "",
    ae_title: str = "PACS",
    of_pacs: str = "",
) -> str:
    """Configuration of a node that analyses ultrasound and sends results to one PACS.

    ``pacs``, ``ae_title``: port and title of the PACS; ``quiet``, ``lease``: seconds;
    ``workers``, ``of_pacs``: further lines of their tables.
    """
    peers = "".join(f'[[peers]]\nname = "{name.lower()}"\nae_title = "{name}"\n' for name in senders)
    return (
        _SITE.format(
            pacs=pacs,
            quiet=quiet,
            processes=processes,
            lease=lease,
            workers=workers,
            ae_title=ae_title,
            of_pacs=of_pacs,
            senders=peers,
            results=json.dumps(list(results)),
        )
        + rules
    )


class Node:
    """One ``dicom-node serve``, started and stopped at will on the same data folder.

    ``name``: of its configuration and log, where several nodes share a folder. ``alone``: started as people
    start it, not by fork.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        port: int = 0,
        role: str = "all",
        name: str = "node",
        database_url: str = "",
        *,
        alone: bool = False,
    ) -> None:
        self.folder = folder
        self.alone = alone
        self.role = role
        self.has_own_database = not database_url
        self.port = port or free_port()
        self.config = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        node = f'[node]\ndata_dir = "{folder / "var"}"\ndatabase_url = "{database_url}"\n'
        self.config.write_text(f"{node}[listener]\nport = {self.port}\n{config}", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready_seconds: float = 120) -> None:
        """Start it and wait for "ready"."""
        self._make_database()
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            words = ["serve", "--role", self.role, "--config", str(self.config)]
            self._process = (subprocess.Popen if self.alone else Forked)(
                [sys.executable, "-m", "dicom_node", *words],
                stderr=log,
                start_new_session=True,
                umask=0o022,  # as a login shell has it: what the node writes is private all the same
                cwd=self.folder,
            )
        wait_until(
            lambda: "[6002] ready" in self._log_from(offset) or self._died(),
            ready_seconds,
            "ready",
            progress=lambda: self.log.stat().st_size,
        )
        assert not self._died(), self.log.read_text(encoding="utf-8")[-3000:]

    def _make_database(self) -> None:
        """The tables of a node's own first database, copied (tests/schema_once.py)."""
        data = self.folder / "var"
        if not self.has_own_database or (data / "node.db").exists():
            return
        data.mkdir(mode=0o750, exist_ok=True)
        Database(f"sqlite:///{data / 'node.db'}").upgrade()
        (data / "node.db").chmod(0o600)

    def stop(self, seconds: float = 120) -> int:
        """SIGTERM, as systemd would; returns the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """kill -9 of the node and everything it started, at the same moment."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        assert self._process is not None
        return self._process.pid

    def cli(self, *words: str) -> Any:
        """Run ``dicom-node WORDS --config … --json`` and return what it prints."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``dicom-node WORDS --config …``, all of it, in this process: a new one imports for a second."""
        command = [*words, "--config", str(self.config)]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with _as_before(), redirect_stdout(out), redirect_stderr(err):
            try:
                cli.main(command)
            except SystemExit as end:
                status = int(end.code or 0)
        printed = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, status, *printed)

    def run_apart(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own."""
        return run_forked("dicom_node", *words, "--config", self.config)

    @cached_property
    def _database(self) -> Database:
        return Database(loading.load([self.config]).database_url)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Its database, by one engine: to make another takes as long as several questions."""
        try:
            with self._database.read() as session:
                yield session
        finally:
            self._database.dispose()

    def events(self, *numbers: int) -> list[dict[str, Any]]:
        """What ``events list`` shows of these numbers."""
        with self.reading() as session:
            return views.list_events(session, numbers=numbers)

    def studies(self) -> dict[str | None, dict[str, Any]]:
        """What ``studies list`` shows, by Study Instance UID; read here, since a process takes a second."""
        with self.reading() as session:
            return {study["study_instance_uid"]: study for study in views.list_studies(session)}

    def wait_for(self, states: Sequence[str], count: int = 1, seconds: float = 300) -> dict[str | None, Any]:
        """Wait until ``count`` studies stand in one of ``states``; returns all studies. Fails when no study
        changed its state for ``seconds``.
        """
        found: dict[str | None, str] = {}

        def there() -> bool:
            with self.reading() as session:  # the states alone: their lists take three times as long
                rows = session.execute(select(Study.study_instance_uid, Study.state))
                found.update((uid, state.value) for uid, state in rows)
            return sum(state in states for state in found.values()) >= count

        what = f"{count} studies {'/'.join(states)}"
        wait_until(there, seconds, what, step=0.3, shown=self.studies, progress=found.copy)
        return self.studies()

    def _log_from(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "replace")

    def _died(self) -> bool:
        return self._process is not None and self._process.poll() is not None


@contextmanager
def _as_before() -> Iterator[None]:
    """What a command sets for its process is undone: where it logs, who may read its files, warnings."""
    root, raising, umask = logging.getLogger(), logging.raiseExceptions, os.umask(0o022)
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.umask(umask)
        root.handlers, root.level, logging.raiseExceptions = handlers, level, raising


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """Start the node; whatever happens, nothing of it is left behind."""
    try:
        node.start()
        yield node
    finally:
        with suppress(AssertionError):  # it was never started
            node.kill()


def store(
    port: int, objects: Sequence[Path | Dataset], calling: str, called: str = "AINODE"
) -> list[int | None]:
    """C-STORE the objects on one association; the status of each, None where none came."""
    datasets = [item if isinstance(item, Dataset) else dcmread(item) for item in objects]
    ae = CallingAE(ae_title=calling)
    for sop_class, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [None] * len(datasets)
    try:
        statuses: list[int | None] = []
        for ds in datasets:
            try:
                statuses.append(association.send_c_store(ds).get("Status"))
            except (RuntimeError, ValueError):  # the association was cut under us
                statuses.append(None)
        return statuses
    finally:
        if association.is_established:
            association.release()


def store_until_acknowledged(port: int, objects: Sequence[Dataset], calling: str) -> None:
    """Send objects again and again until each is acknowledged, as a modality does."""
    while objects:
        statuses = store(port, objects, calling)
        objects = [one for one, status in zip(objects, statuses, strict=True) if status != 0]
        time.sleep(0.2)


def in_background(function: Callable[[], None]) -> threading.Thread:
    """Run it beside the test."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread
