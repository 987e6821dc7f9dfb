"""What a person wrote as a reason, sealed under the site key: it may name a patient, the file must not."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

from dicom_node.sitekey import Seal

LOST = "sealed under another site key"
"""In place of words that cannot be opened."""
_PURPOSE = "words of decisions"


def seal(data_dir: Path, words: str, number: str) -> str:
    """The words of the decision of this number, as text; "" for none. Raises ConfigurationError."""
    return base64.b64encode(Seal(data_dir, _PURPOSE).close(words, number)).decode("ascii") if words else ""


def unseal(data_dir: Path, text: str, number: str) -> str:
    """The words again; LOST where the key is another one. Raises ConfigurationError."""
    with suppress(ValueError):  # also of text that is no ASCII
        sealed = base64.b64decode(text, validate=True)
        return (Seal(data_dir, _PURPOSE).open(sealed, number) or LOST) if text else ""
    return LOST
