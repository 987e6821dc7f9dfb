"""Two PostgreSQL servers: a primary, and a standby that follows it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from tests.postgres_lab import KEEPS_COMMITS, Postgres, server_folder
from tests.waiting import wait_until


@dataclass(frozen=True)
class Pair:
    """``primary`` takes writes, ``standby`` follows it until it is promoted."""

    primary: Postgres
    standby: Postgres

    def new_database(self) -> str:
        """SQLAlchemy URL of an empty database, for whichever of both takes writes."""
        name = self.primary.new_database().rpartition("/")[2]
        hosts = f"host=127.0.0.1,127.0.0.1&port={self.primary.port},{self.standby.port}"
        return f"postgresql+psycopg://node@/{name}?{hosts}&target_session_attrs=read-write"

    def be_synchronous(self) -> None:
        """From now on a commit waits until the standby has it."""
        with self.primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        self._wait_for("sync_state = 'sync'")

    def catch_up(self) -> None:
        """Wait until the standby has all that was committed."""
        self._wait_for("flush_lsn = pg_current_wal_lsn()")

    def stop_sending(self) -> None:
        """From now on nothing reaches the standby (the process that sends stands still)."""
        with self.primary.connect() as connection:
            row = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
        os.kill(row[0], signal.SIGSTOP)

    def kill_primary(self) -> None:
        """kill -9 of all its processes, as if its machine were gone."""
        main = psutil.Process(int((self.primary.data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)

    def promote(self) -> None:
        """The standby takes writes."""
        self.standby.run("pg_ctl", "-w", "promote")

    def _wait_for(self, condition: str) -> None:
        def holds() -> bool:
            with self.primary.connect() as connection:
                asked = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND {condition}"
                return connection.execute(asked).fetchone() is not None

        wait_until(holds, what=condition)


@contextmanager
def start_pair() -> Iterator[Pair]:
    """Start a primary, copy it with pg_basebackup, start the copy as its standby (asynchronous)."""
    with server_folder() as folder:
        pair = Pair(Postgres(folder, KEEPS_COMMITS), Postgres(folder, KEEPS_COMMITS))
        pair.primary.create()
        pair.primary.start()
        try:
            address = f"host=127.0.0.1 port={pair.primary.port} user=node application_name=standby"
            pair.standby.run("pg_basebackup", "-d", address, "-R", "-X", "stream", "-c", "fast")
            pair.standby.start()
            pair.catch_up()
            yield pair
        finally:
            for server in (pair.primary, pair.standby):
                with suppress(AssertionError):  # it was killed, or never started
                    server.stop("immediate")
