"""What a request accepts: the most specific range counts, of several the heaviest (RFC 9110 12.5.1)."""

from __future__ import annotations

import pytest
from fastapi import HTTPException, Request

from dicom_console.web import accept


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/jpeg;q=0.2, image/*;q=0.7", "image/png"),
        ("image/jpeg;q=0, */*", "image/png"),
        ("*/*;q=0, image/jpeg;q=0.001", "image/jpeg"),
        ("image/png;q=1.000, */*;q=0.9", "image/png"),
        ("image/png;q=high, image/jpeg", "image/jpeg"),
        ("image/jpeg;q=0, image/png;q=0.0", ""),
        ("*/*, image/jpeg;q=0, image/png;q=0", ""),
        ("multipart/related; type=image/png", ""),
    ],
)
def test_the_preferred_media_type_is_sent(given: str, sent: str) -> None:
    request = Request({"type": "http", "query_string": b"", "headers": [(b"accept", given.encode())]})
    try:
        assert accept.one_of(request, "image/jpeg", "image/png") == sent
    except HTTPException as refused:
        assert (refused.status_code, sent) == (406, "")
