"""Hosts and base URLs in settings, checked; a login in a URL is separated from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

_FIGURES = re.compile(r"[0-9.]+")


def checked_host(host: str) -> str:
    """The same host. Raises ValueError for what looks like an IPv4 address and is none, or has a port."""
    if _FIGURES.fullmatch(host) and not _is_ipv4(host):
        raise ValueError("is no address: four numbers from 0 to 255, such as 192.168.1.20")
    if host.count(":") == 1:
        raise ValueError("must be the name or address alone: the port is a key of its own")
    return host


def checked_url(url: str) -> str:
    """The same base URL, "" included. Raises ValueError that says what is wrong with it."""
    if not url:
        return url
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, such as http://host:8042")
    if "@" in url:
        raise ValueError("user and password stand in it and beside it: leave them out of url")
    if "?" in url or "#" in url:
        raise ValueError("must end with the path: leave out ? or # and what follows")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the port in it is no number from 1 to 65535") from None
    if not parts.hostname or port == 0:
        raise ValueError("write it as http://host:8042 or https://host/dicom-web")
    return url


def with_login_apart(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a peer, with user and password of its URL under keys of their own.

    So that whoever shows the URL shows no secret. Left as it is where those keys are given, too.
    """
    url = given.get("url")
    found = re.fullmatch(r"(https?://)(.*)@(.*)", url, re.DOTALL) if isinstance(url, str) else None
    if found is None or {"username", "password"} & given.keys():
        return dict(given)
    scheme, login, place = found.groups()
    name, _, password = login.partition(":")
    return {**given, "url": scheme + place, "username": unquote(name), "password": unquote(password)}


def _is_ipv4(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
