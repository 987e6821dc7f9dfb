"""A real chest X-ray for the demonstration, from the public store of pydicom's test data."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from pydicom.data.download import get_cached_filehash, get_url

# Computed radiography, 1955 × 1841, JPEG 2000 (DICOM WG 4; pydicom-data, MIT). No model was trained on it.
NAME = "RG1_J2KI.dcm"
_SECONDS = 10
_MOST_BYTES = 2 * 2**20


def public_film(target: Path, url: str = "") -> Path | None:
    """The film as ``target``, fetched (0.7 MB) unless it lies there; its SHA-256 is the one pydicom names.

    None where it cannot be had: no network, no answer within ten seconds, other bytes. ``url``: in place of
    pydicom's.
    """
    if target.is_file() and _is_the_film(target.read_bytes()):
        return target
    try:
        with urlopen(url or get_url(NAME), timeout=_SECONDS) as answer:
            content = answer.read(_MOST_BYTES)
    except (OSError, HTTPException):  # the latter: something answers that speaks no HTTP
        return None
    if not _is_the_film(content):
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def _is_the_film(content: bytes) -> bool:
    return bool(hashlib.sha256(content).hexdigest() == get_cached_filehash(NAME))
