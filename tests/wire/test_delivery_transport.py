"""Contract with pynetdicom 3.0: the hooks by which its requestor's flaws are cured (scu/transport.py)."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator

import pytest
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from dicom_node.scu.transport import CallingAE
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port

ECHO = [build_context(Verification)]


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


@pytest.mark.parametrize(("application", "kept"), [(CallingAE, True), (AE, False)])
def test_the_reactor_does_not_take_answers_that_somebody_waits_for(
    pacs: Pacs, application: type[AE], kept: bool
) -> None:
    """When the stock class keeps them too, pynetdicom is cured and _AnswersOnly can go."""
    association = application().associate("127.0.0.1", pacs.port, ECHO, ae_title="PACS")
    association._serve_request = lambda message, context: None
    association.dimse.msg_queue.put((1, "an answer"))
    time.sleep(0.2)
    assert association.dimse.msg_queue.empty() is not kept
    association.abort()


def test_our_messages_leave_at_once(pacs: Pacs) -> None:
    association = CallingAE().associate("127.0.0.1", pacs.port, ECHO, ae_title="PACS")
    connection = association.dul.socket.socket
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    association.release()


def test_a_refused_connection_leaves_no_open_socket(recwarn: pytest.WarningsRecorder) -> None:
    association = CallingAE().associate("127.0.0.1", free_port(), ECHO)
    assert not association.is_established
    del association
    gc.collect()
    assert [warning for warning in recwarn if warning.category is ResourceWarning] == []
