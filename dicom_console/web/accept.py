"""Media types that a client accepts (RFC 9110 12.5.1), with the parameters of DICOMweb (PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastapi import HTTPException, Request

_MOST = 50  # ranges of one request that are read
_RANGE = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*(?:"([^"]*)"|([^;"\s]*))')


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One range of Accept. ``media``: its media type, of a multipart one that of its parts, in lower case.

    ``syntax``: UID of the transfer syntax, ``*`` for each, "" where it names none. ``weight``: 0 to 1.
    """

    media: str
    is_multipart: bool
    syntax: str
    weight: float = 1.0

    def takes(self, media: str) -> bool:
        """Whether this media type is in the range."""
        return self.media in ("*/*", media, f"{media.partition('/')[0]}/*")


def ranges(request: Request) -> list[MediaRange]:
    """What the request accepts, by its query parameter ``accept`` or else its header; without both, all."""
    return [one for one in _given(request) if one.weight]


def one_of(request: Request, *offered: str) -> str:
    """Of these media types the one preferred, else the first. Raises HTTPException 406: none is accepted."""
    given = [one for one in _given(request) if not one.is_multipart]
    weights = {media: _weight(given, media) for media in offered}
    best = max(offered, key=weights.__getitem__)
    if not weights[best]:
        raise HTTPException(406, f"This is sent as {' or '.join(offered)} only.")
    return best


def _weight(given: Sequence[MediaRange], media: str) -> float:
    """Of the most specific range that takes this media type (RFC 9110 12.5.1)."""
    taking = [one for one in given if one.takes(media)]
    return max(taking, key=lambda one: (-one.media.count("*"), one.weight)).weight if taking else 0.0


def _given(request: Request) -> list[MediaRange]:
    named = request.query_params.get("accept", "").replace(" ", "+")  # a plus sign that was not escaped
    given = named or ", ".join(request.headers.getlist("accept"))
    return list(_parsed(given)) if given.strip() else [MediaRange("*/*", False, "")]


def _parsed(given: str) -> Iterator[MediaRange]:
    for found in _RANGE.findall(given)[:_MOST]:
        media = found.partition(";")[0].strip().lower()
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(found)}
        if not media:
            continue
        is_multipart = media.startswith("multipart/")
        if is_multipart:
            media = parameters.get("type", "*/*").lower()
        quality = parameters.get("q", "")
        weight = float(quality) if re.fullmatch(r"[01](\.[0-9]*)?", quality) else 1.0
        yield MediaRange(media, is_multipart, parameters.get("transfer-syntax", ""), weight)
