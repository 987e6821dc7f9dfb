"""What a person wrote as a reason, sealed under the site key: it may name a patient, the file must not."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_node import sitekey

LOST = "sealed under another site key"
"""In place of words that cannot be opened."""
_PURPOSE = "words of decisions"
_NONCE_BYTES = 12  # 96 bits, drawn anew for each (NIST SP 800-38D)


def seal(data_dir: Path, words: str, number: str) -> str:
    """The words of the decision of this number, as text; "" for none. Raises ConfigurationError."""
    if not words:
        return ""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = _cipher(data_dir).encrypt(nonce, words.encode(), number.encode())
    return base64.b64encode(nonce + sealed).decode("ascii")


def unseal(data_dir: Path, text: str, number: str) -> str:
    """The words again; LOST where the key is another one. Raises ConfigurationError."""
    if not text:
        return ""
    try:
        data = base64.b64decode(text, validate=True)
        plain = _cipher(data_dir).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], number.encode())
        return plain.decode()
    except (binascii.Error, ValueError, InvalidTag):
        return LOST


def _cipher(data_dir: Path) -> AESGCM:
    return AESGCM(sitekey.load_or_create(data_dir).derive(_PURPOSE))
