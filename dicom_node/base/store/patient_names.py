"""Patients' names in the database: encrypted under the site key, and searched by whole words.

The words are stored as keyed hashes (HMAC-SHA256). Without the site key nobody can read a name in the
database, or test whether a likely name is in it.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.sitekey import Seal, load_or_create, path_of
from dicom_node.base.store.tables import Study, StudyName

_LONGEST, _MOST_WORDS = 255, 16  # characters of a name, and its words
_HASH = 32  # figures


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
        session.add_all([StudyName(study_id=study.id, word=word) for word in self.hashes(known)])

    def hashes(self, name: str) -> list[str]:
        """A hash of each word of a name; case and accents are ignored."""
        if self._seal is None:
            return []
        found = dict.fromkeys(words(name))
        return [
            hmac.new(self._key, word.encode(), hashlib.sha256).hexdigest()[:_HASH]
            for word in [*found][:_MOST_WORDS]
        ]

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
