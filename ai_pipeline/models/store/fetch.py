"""Copy a file from a disk or over HTTPS, and delete the copy if its SHA-256 is not the expected one."""

import hashlib
import http.client
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ai_pipeline.errors import FetchFailed

Report = Callable[[int, int | None], None]
"""Called with the bytes that were read, and the total if it is known."""

BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def is_url(source: str) -> bool:
    """Whether ``source`` has a scheme, such as ``https://…``; False for a path."""
    return "://" in source


def shown(source: str) -> str:
    """``source`` for logs and files: without user, password, query and fragment."""
    if not is_url(source):
        return Path(source).name
    parts = urlsplit(source)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def fetch(source: str, to: Path, *, sha256: str, most: int, report: Report) -> None:
    """Copy or download ``source``, of at most ``most`` bytes, to the new file ``to``. Raises FetchFailed."""
    try:
        with to.open("xb") as file:
            found = _url(source, file, most, report) if is_url(source) else _file(source, file, most, report)
        if found != sha256:
            raise FetchFailed(
                f"{shown(source)} has SHA-256 {found}, not {sha256}: another file, or altered; refused"
            )
    except BaseException:
        to.unlink(missing_ok=True)
        raise


def _file(source: str, to: IO[bytes], most: int, report: Report) -> str:
    try:
        with Path(source).open("rb") as file:
            return _copy(file, to, most, report, Path(source).stat().st_size, Path(source).name)
    except OSError as error:
        raise FetchFailed(f"{source} cannot be read: {error.strerror or type(error).__name__}") from error


def _url(source: str, to: IO[bytes], most: int, report: Report) -> str:
    try:
        _refuse_plain(source)
    except ValueError as error:
        raise FetchFailed(f"not an address: {error}") from error
    name = shown(source)
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(secure, _OnlySecure())
    try:
        with opener.open(source, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
            return _copy(response, to, most, report, int(length) if length.isdecimal() else None, name)
    except HTTPError as error:
        error.close()
        raise FetchFailed(f"{name} answered {error.code} {error.reason}: check the address") from error
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchFailed(f"{name} could not be had: {reason or type(error).__name__}; try again") from error


class _OnlySecure(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            _refuse_plain(newurl)
        except FetchFailed:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise FetchFailed(f"{shown(url)} is not https: anybody on the way could change the file; refused")


def _copy(source: IO[bytes], to: IO[bytes], most: int, report: Report, total: int | None, name: str) -> str:
    digest, done = hashlib.sha256(), 0
    if total is not None and total > most:
        raise FetchFailed(_too_large(name, most))
    while block := source.read(BLOCK):
        done += len(block)
        if done > most:
            raise FetchFailed(_too_large(name, most))
        digest.update(block)
        to.write(block)
        report(done, total)
    if total is not None and done < total:
        raise FetchFailed(f"{name} broke off after {done} of {total} bytes; try again")
    return digest.hexdigest()


def _too_large(name: str, most: int) -> str:
    return f"{name} is larger than {most >> 20} MiB: say --most if it should be"
