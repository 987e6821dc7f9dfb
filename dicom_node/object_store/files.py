"""The one door to files of received objects and built results, by the paths that their rows have."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import StorageError


class Files:
    """Files under ``node.data_dir``; paths of rows are relative to it."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.node.data_dir

    def here(self, session: Session, path: str) -> Path:  # noqa: ARG002
        """The file of a row's ``path``; whether it is there shows when it is opened."""
        return self.data_dir / path

    def if_here(self, session: Session, path: str) -> Path | None:
        """The same for who can do without it; None where it is gone."""
        with contextlib.suppress(StorageError):
            file = self.here(session, path)
            return file if file.is_file() else None
        return None

    def relative(self, file: Path) -> str:
        """As rows have it. Raises ValueError where the file lies elsewhere."""
        return str(file.relative_to(self.data_dir))

    def delete(self, path: str) -> None:
        """Delete a file, and its folder when that is empty then."""
        file = self.data_dir / path
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: a late object came
            file.parent.rmdir()
