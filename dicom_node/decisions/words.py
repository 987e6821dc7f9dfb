"""Encryption of a person's reason under the site key: a reason may name a patient, the file must not."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

from dicom_node.sitekey import Seal

LOST = "sealed under another site key"
"""In place of words that cannot be opened."""
_PURPOSE = "words of decisions"


def seal(data_dir: Path, words: str, number: str) -> str:
    """Encrypt the reason of decision ``number`` as text; "" for no reason. Raises ConfigurationError."""
    return base64.b64encode(Seal(data_dir, _PURPOSE).close(words, number)).decode("ascii") if words else ""


def unseal(data_dir: Path, text: str, number: str) -> str:
    """Decrypt the reason; LOST if the site key is a different one. Raises ConfigurationError."""
    with suppress(ValueError):  # also of text that is no ASCII
        sealed = base64.b64decode(text, validate=True)
        return (Seal(data_dir, _PURPOSE).open(sealed, number) or LOST) if text else ""
    return LOST
