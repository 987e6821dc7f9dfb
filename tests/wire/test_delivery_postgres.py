"""Several delivery workers on several machines share one PostgreSQL: nothing twice, nothing stuck."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from dicom_node.events import DELIVERY_IN_DOUBT
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import start_postgres


@pytest.mark.debian("postgresql")
def test_three_workers_deliver_the_same_studies_to_two_pacs_without_deadlock(tmp_path: Path) -> None:
    with (
        start_postgres() as server,
        run_pacs(Pacs(free_port(), ae_title="A")) as first,
        run_pacs(Pacs(free_port(), ae_title="B")) as second,
    ):
        peers = [first.peer("first"), second.peer("second")]
        outbox = Outbox(tmp_path, peers, database_url=server.new_database())
        sent = [uid for _ in range(15) for uid in outbox.add_study(["first", "second"])]
        stop = threading.Event()
        threads = [threading.Thread(target=outbox.worker().run_forever, args=(stop,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            outbox.wait_until("confirmed")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert Counter(first.received) == Counter(second.received) == Counter(sent)
        assert set(outbox.study_states()) == {"delivered"}
        assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 0  # a deadlock would have left one
        outbox.database.dispose()
