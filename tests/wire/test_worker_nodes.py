"""Several ``dicom-node serve --role worker`` on one data folder."""

from __future__ import annotations

from pathlib import Path

from tests.node_lab import Node, running
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, free_port, run_pacs

CONFIG = """[workers]
processes = 0
[[peers]]
name = "pacs"
ae_title = "PACS"
may = ["receive"]
host = "127.0.0.1"
port = {port}
"""


def test_two_worker_nodes_share_a_folder_and_one_carries_on_when_the_other_is_killed(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path / "var", [pacs.peer()])
        first, second = (Node(tmp_path, CONFIG.format(port=pacs.port), role="worker") for _ in range(2))
        with running(first), running(second):
            locks = [tmp_path / "var" / f"worker-{n}.lock" for n in (1, 2)]
            assert [int(lock.read_text().split()[0]) for lock in locks] == [first.pid, second.pid]
            sent = outbox.add_study(["pacs"])
            outbox.wait_until("confirmed", seconds=60)
            first.kill()
            sent += outbox.add_study(["pacs"])
            outbox.wait_until("confirmed", seconds=60)
            with running(Node(tmp_path, CONFIG.format(port=pacs.port), role="worker")) as third:
                assert int(locks[0].read_text().split()[0]) == third.pid, (
                    "it takes the place that became free"
                )
            assert second.stop() == 0
        assert sorted(pacs.received) == sorted(sent)
