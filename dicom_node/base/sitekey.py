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
    """The error for an unusable key file."""
    return ConfigurationError([ConfigProblem(str(path), "site key", "", remedy)])


_LONGEST, _MOST_WORDS = 255, 16  # characters of a name, and its words
_HASH = 32  # figures
_SHORTEST, _LONGEST_BEGINNING = 3, 12  # letters of a beginning


class PatientNames:
    """Stores and finds patients' names. Without a usable site key it stores and finds none.

    ``make_key``: create the site key if it is missing; a process that only reads names does not.
    """

    def __init__(self, data_dir: Path, *, make_key: bool = False) -> None:
        self._seal: Seal | None = None
        with suppress(ConfigurationError, PermissionError):  # `check` and `serve` say why
            if make_key or path_of(data_dir).exists():
                self._key = load_or_create(data_dir).derive("words of study names")
                self._seal = Seal(data_dir, "study names")

    def enter(self, session: Session, study: Study, name: str) -> None:
        """Store the Patient's Name (0010,0010) of a study that already has its number, replacing a former
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
        """A hash of each word that is looked for, which may be the beginning of one; case and accents are
        ignored.
        """
        return [] if self._seal is None else [*map(self._hash, dict.fromkeys(words(name)[:_MOST_WORDS]))]

    def _hash(self, word: str) -> str:
        return hmac.new(self._key, word.encode(), hashlib.sha256).hexdigest()[:_HASH]

    def of(self, session: Session, studies: Collection[int]) -> Mapping[int, str]:
        """The name of each of these studies; "" without a name, or if another key encrypted it."""
        return {
            number: (self._seal.open(sealed, str(number)) or "") if self._seal and sealed else ""
            for number, sealed in session.execute(
                select(Study.id, Study.sealed_name).where(Study.id.in_(studies))
            )
        }


def words(name: str) -> list[str]:
    """The words of all component groups of a Patient's Name (PS3.5 6.2), in lower case without accents."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"\w+", unicodedata.normalize("NFC", bare).replace("_", " "))
