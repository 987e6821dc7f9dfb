"""Peers as a configuration has them."""

from typing import Any


def a_peer(name: str, **values: Any) -> dict[str, Any]:
    """Its AE title is its name in capitals, unless another is given."""
    return {"name": name, "ae_title": name.upper(), **values}


def a_receiver(name: str, port: int = 4242, **values: Any) -> dict[str, Any]:
    """A peer on this machine that takes results."""
    return a_peer(name, **{"host": "127.0.0.1", "port": port, "may": ["receive"], **values})
