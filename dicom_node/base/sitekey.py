"""The site key: the secret for deriving pseudonyms and for sealing texts that name patients.

One file, ``data_dir/keys/site.key``: 32 random bytes as hex. Whoever has it can find out whether a known
patient has a certain pseudonym; a site that loses it gives the same patient another pseudonym from then on.
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dicom_node.base.errors import ConfigProblem, ConfigurationError
from dicom_node.base.files import write_new

_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # 96 bits, drawn anew for each text (NIST SP 800-38D)
_OTHERS: Final = 0o077  # any right of group or world
_OTHERS_WRITE: Final = 0o022


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The secret of a site. Neither ``repr`` nor ``str`` shows it."""

    _secret: bytes = field(repr=False)

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose by HKDF-SHA256 (RFC 5869); no key can be computed from
        another.
        """
        return HKDF(algorithm=SHA256(), length=_BYTES, salt=None, info=purpose.encode()).derive(self._secret)


class Seal:
    """Encrypts texts for one purpose (AES-256-GCM under a key derived from the site key).

    Each text is bound to its context ``of`` (associated data), and can be decrypted only with it. Raises
    ConfigurationError if the site key cannot be used.
    """

    def __init__(self, data_dir: Path, purpose: str) -> None:
        self._cipher = AESGCM(load_or_create(data_dir).derive(purpose))

    def close(self, text: str, of: str) -> bytes:
        """Encrypt ``text`` with the site key; only a call of ``open`` with the same ``of`` can decrypt it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), of.encode())

    def open(self, sealed: bytes, of: str) -> str | None:
        """Decrypt the text; None if another site key encrypted it, or ``of`` differs."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], of.encode()).decode()
        except (InvalidTag, ValueError):  # the second: too short to be sealed
            return None


def path_of(data_dir: Path) -> Path:
    """Path of the key file of a data folder; an admin backs it up."""
    return data_dir / "keys" / "site.key"


def load_or_create(data_dir: Path) -> SiteKey:
    """The key of this site, made at the first call.

    If several processes call at once, one makes it and all get the same. Raises ConfigurationError if others
    than the owner may read or replace the file, or if it contains no key.
    """
    path = path_of(data_dir)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        with suppress(FileExistsError):  # another process was quicker: its key counts
            write_new(path, secrets.token_hex(_BYTES) + "\n", 0o600)
    return _read(path)


def _read(path: Path) -> SiteKey:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read().strip()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror}): give it to the user of the node") from None
    if path.parent.stat().st_mode & _OTHERS_WRITE:
        raise _refused(path, f"others may put another in its place: chmod 700 {path.parent}")
    if mode & _OTHERS:
        raise _refused(path, f"has mode {mode:04o}, others may read it: chmod 600 {path}")
    with suppress(ValueError):
        secret = bytes.fromhex(content.decode("ascii", "replace"))
        if len(secret) == _BYTES:
            return SiteKey(secret)
    raise _refused(path, "holds no key of 64 hexadecimal digits: put it back from the backup")


def _refused(path: Path, remedy: str) -> ConfigurationError:
    return ConfigurationError([ConfigProblem(str(path), "site key", "", remedy)])
