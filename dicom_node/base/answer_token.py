"""Tokens by which a service may send results of one study: nothing of them is stored.

A token names the row of the awaited answer and when it began, with a keyed hash (HMAC-SHA256) under a key
that is derived from the site key: whoever reads the database learns none, and one that is made up is refused
without a look into the database. The same answer has the same token at each try.
"""

import hashlib
import hmac
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicom_node.base.sitekey import load_or_create

_TOKEN: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-([0-9a-f]{64})", re.ASCII)


class AnswerTokens:
    """Makes and reads tokens. Raises ConfigurationError if the site key cannot be used."""

    def __init__(self, data_dir: Path) -> None:
        """Derive the key from the site key in ``data_dir``, which is created if it is missing."""
        self._key = load_or_create(data_dir).derive("tokens of answers")

    def make(self, number: int, began_at: datetime) -> str:
        """Return the token for the awaited answer with this number."""
        named = f"{number}-{microseconds(began_at)}"
        return f"{named}-{self._hash(named)}"

    def read(self, token: str) -> tuple[int, int] | None:
        """Return the number of the answer, and when it began (see ``microseconds``); None if the token was
        not made here.
        """
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        number, began, given = found.groups()
        if not hmac.compare_digest(given, self._hash(f"{number}-{began}")):
            return None
        return int(number), int(began)

    def _hash(self, named: str) -> str:
        """Return the keyed hash of what a token names."""
        return hmac.new(self._key, named.encode(), hashlib.sha256).hexdigest()


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return round(moment.astimezone(UTC).timestamp() * 1_000_000)
