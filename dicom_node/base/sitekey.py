"""The site key: the secret for deriving pseudonyms and for sealing texts that name patients.

One file, ``data_dir/keys/site.key``: 32 random bytes as hex. Whoever has it can find out whether a known
patient has a certain pseudonym; a site that loses it gives the same patient another pseudonym from then on.

Patients' names in the database are encrypted under it, and searched by words or their beginnings (3 letters
and more), which are stored as keyed hashes (HMAC-SHA256): without the key nobody can read a name there, or
test whether a likely one is there.
"""

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.base.durable import write_new
from dicom_node.base.errors import ConfigProblem, ConfigurationError
from dicom_node.base.store.tables import Study, StudyName

_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # 96 bits, drawn anew for each text (NIST SP 800-38D)
_OTHERS: Final = 0o077  # any right of group or world
_OTHERS_WRITE: Final = 0o022


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The secret key of a site, from which keys for each purpose are derived. Neither ``repr`` nor ``str``
    shows it.
    """

    _secret: bytes = field(repr=False)

    def derive(self, purpose: str) -> bytes:
        """Return a 32-byte key for one purpose, by HKDF-SHA256 (RFC 5869); no such key can be computed from
        another.
        """
        return HKDF(algorithm=SHA256(), length=_BYTES, salt=None, info=purpose.encode()).derive(self._secret)


class Seal:
    """Encrypts and decrypts texts for one purpose (AES-256-GCM under a key derived from the site key).

    Each text is bound to a context ``of`` (associated data), without which it cannot be decrypted. Raises
    ConfigurationError if the site key cannot be used.
    """

    def __init__(self, data_dir: Path, purpose: str) -> None:
        """Derive the key for ``purpose`` from the site key in ``data_dir``, which is created if it is
        missing.
        """
        self._cipher = AESGCM(load_or_create(data_dir).derive(purpose))

    def close(self, text: str, of: str) -> bytes:
        """Encrypt ``text``, bound to the context ``of``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), of.encode())

    def open(self, sealed: bytes, of: str) -> str | None:
        """Decrypt a text; None if it was encrypted with another site key, or for another context
        than ``of``.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], of.encode()).decode()
        except (InvalidTag, ValueError):  # the second: too short to be sealed
            return None


def path_of(data_dir: Path) -> Path:
    """Return the path of the site key's file in a data folder; an administrator must back it up."""
    return data_dir / "keys" / "site.key"


def load_or_create(data_dir: Path) -> SiteKey:
    """Return the key of this site, creating it at the first call.

    If several processes call at once, one creates it and all get the same. Raises ConfigurationError if
    others than the owner may read or replace the file, or if it contains no key.
    """
    path = path_of(data_dir)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        with suppress(FileExistsError):  # another process was quicker: its key counts
            write_new(path, secrets.token_hex(_BYTES) + "\n", 0o600)
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
    """Build the error for an unusable key file."""
    return ConfigurationError([ConfigProblem(str(path), "site key", "", remedy)])


_LONGEST, _MOST_WORDS = 255, 16  # characters of a name, and its words
_HASH = 32  # figures
_SHORTEST, _LONGEST_BEGINNING = 3, 12  # letters of a beginning


class PatientNames:
    """Stores patients' names encrypted, and finds studies by name; without a usable site key it does neither.

    ``make_key``: whether to create a missing site key, which a process that only reads names must not do.
    """

    def __init__(self, data_dir: Path, *, make_key: bool = False) -> None:
        """Load the site key of the data folder. ``make_key``: create it if it is missing."""
        self._seal: Seal | None = None
        with suppress(ConfigurationError, PermissionError):  # `check` and `serve` say why
            if make_key or path_of(data_dir).exists():
                self._key = load_or_create(data_dir).derive("words of study names")
                self._seal = Seal(data_dir, "study names")

    def enter(self, session: Session, study: Study, name: str) -> None:
        """Store Patient's Name (0010,0010) of a study that already has its database id, replacing a former
        name.
        """
        if self._seal is None:
            return
        session.execute(delete(StudyName).where(StudyName.study_id == study.id))
        known = name.strip()[:_LONGEST]
        study.sealed_name = self._seal.close(known, str(study.id)) if known else b""
        lengths = range(_SHORTEST, _LONGEST_BEGINNING + 1)
        parts = {word[:length] for word in words(known)[:_MOST_WORDS] for length in (*lengths, len(word))}
        session.add_all([StudyName(study_id=study.id, word=self._hash(part)) for part in sorted(parts)])

    def hashes(self, name: str) -> list[str]:
        """Return a hash of each word of a searched name; a stored name matches if one of its words begins
        with it, ignoring case and accents.
        """
        return [] if self._seal is None else [*map(self._hash, dict.fromkeys(words(name)[:_MOST_WORDS]))]

    def _hash(self, word: str) -> str:
        """Return the keyed hash of one word."""
        return hmac.new(self._key, word.encode(), hashlib.sha256).hexdigest()[:_HASH]

    def of(self, session: Session, studies: Collection[int]) -> Mapping[int, str]:
        """Return the name of each of these studies by database id; "" if it has none or was encrypted with
        another key.
        """
        return {
            number: (self._seal.open(sealed, str(number)) or "") if self._seal and sealed else ""
            for number, sealed in session.execute(
                select(Study.id, Study.sealed_name).where(Study.id.in_(studies))
            )
        }


def words(name: str) -> list[str]:
    """Return the words of all component groups of a Patient's Name (PS3.5 6.2), in lower case without
    accents.
    """
    plain = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"\w+", unicodedata.normalize("NFC", bare).replace("_", " "))
