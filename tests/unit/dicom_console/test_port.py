"""The console's port where another program has it: `check` and the console say which setting to change."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_console.__main__ import _listening_socket
from dicom_node.people import preflight
from dicom_node.people.preflight import Tried
from tests.ports import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def tried(folder: Path, port: int) -> Tried:
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder / "var"}"\n[listener]\nport = {free_port()}\n'
        f"[console]\nenabled = true\nport = {port}\n"
    )
    return next(one for one in preflight.check([config], tries=True).tried if one.subject == "console")


def test_check_names_the_setting_of_a_port_that_is_taken(tmp_path: Path, taken: int) -> None:
    found = tried(tmp_path, taken)
    assert not found.ok
    assert found.text.startswith(f"port {taken}: ")
    assert "(console.host, console.port)" in found.text


def test_check_says_that_a_port_is_free(tmp_path: Path) -> None:
    port = free_port()
    assert tried(tmp_path, port) == Tried("console", True, f"port {port} is free")


def test_the_console_names_the_setting_of_a_port_that_is_taken(taken: int) -> None:
    with pytest.raises(OSError, match="in use by another program") as refused:
        _listening_socket("127.0.0.1", taken, beside=False)
    assert str(refused.value.strerror).startswith(f"port {taken} of 127.0.0.1: ")
