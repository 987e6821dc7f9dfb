"""A database machine that falls silent is noticed: what libpq was told stands on the connection's socket."""

from __future__ import annotations

import os
import socket

import pytest
from sqlalchemy.engine import make_url

from dicom_node.store.database import Database

OPTIONS = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


def options_of(url: str) -> tuple[int, ...]:
    """Of the connection's socket, as the kernel has them."""
    database = Database(url)
    with database.engine.connect() as connection:
        number = os.dup(connection.connection.driver_connection.fileno())
        with socket.socket(fileno=number) as line:
            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            found = tuple(line.getsockopt(socket.IPPROTO_TCP, option) for option in OPTIONS)
    database.dispose()
    return found


@pytest.mark.debian("postgresql")
def test_silence_is_noticed_before_a_lease_ends_and_the_url_may_say_otherwise(postgres_url: str) -> None:
    longest, idle, interval, count = options_of(postgres_url)
    assert 0 < longest / 1000 < 15 and 0 < idle + interval * count < 15
    patient = make_url(postgres_url).update_query_dict({"tcp_user_timeout": "42000", "keepalives_count": "9"})
    assert options_of(str(patient)) == (42000, idle, interval, 9)
