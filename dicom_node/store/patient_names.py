"""Patients' names in the database: sealed, and found by whole words, so that no list of names lies there.

A word is stored as a hash under the site key: who has the database alone can neither read a name nor try
likely ones.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.errors import ConfigurationError
from dicom_node.sitekey import Seal, load_or_create, path_of
from dicom_node.store.tables import Study, StudyName

_LONGEST, _MOST_WORDS = 255, 16  # characters of a name, and its words
_HASH = 32  # figures


class PatientNames:
    """Names of patients under this site's key; without a usable key none is stored, and none is found.

    ``make_key``: make the key where there is none. Who only reads makes none.
    """

    def __init__(self, data_dir: Path, *, make_key: bool = False) -> None:
        self._seal: Seal | None = None
        with suppress(ConfigurationError, PermissionError):  # `check` and `serve` say why
            if make_key or path_of(data_dir).exists():
                self._key = load_or_create(data_dir).derive("words of study names")
                self._seal = Seal(data_dir, "study names")

    def enter(self, session: Session, study: Study, name: str) -> None:
        """Let the study, which has its number, bear this Patient's Name (0010,0010)."""
        if self._seal is None:
            return
        session.execute(delete(StudyName).where(StudyName.study_id == study.id))
        known = name.strip()[:_LONGEST]
        study.sealed_name = self._seal.close(known, str(study.id)) if known else b""
        session.add_all([StudyName(study_id=study.id, word=word) for word in self.hashes(known)])

    def hashes(self, name: str) -> list[str]:
        """A hash of each word of a name, in whatever order, spelling of capitals and accents it has."""
        if self._seal is None:
            return []
        found = dict.fromkeys(words(name))
        return [
            hmac.new(self._key, word.encode(), hashlib.sha256).hexdigest()[:_HASH]
            for word in [*found][:_MOST_WORDS]
        ]

    def of(self, session: Session, studies: Collection[int]) -> Mapping[int, str]:
        """The names of these studies; "" where there is none, or another site's key sealed it."""
        chosen = select(Study.id, Study.sealed_name).where(Study.id.in_(studies))
        return {
            number: (self._seal.open(sealed, str(number)) or "") if self._seal and sealed else ""
            for number, sealed in session.execute(chosen)
        }


def words(name: str) -> list[str]:
    """The words of a Patient's Name, of all its groups (PS3.5 6.2.1.1), small and without accents."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"\w+", unicodedata.normalize("NFC", bare).replace("_", " "))
