"""A sending modality: C-STORE of files as they are on disk (``dicom-node send``, the demonstration).

The node itself sends through :mod:`dicom_node.scu.dimse`, which confirms and retries; here a person looks at
every status.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.association import Association

from dicom_node.errors import PeerUnreachable
from dicom_node.scu.association import MOST_CONTEXTS, DimseCaller, NoAssociation
from dicom_node.scu.destination import SendStatus, store_report


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of the C-STORE of one file; ``status`` is None without an answer."""

    path: Path
    sop_instance_uid: str
    status: int | None
    text: str

    @property
    def stored(self) -> bool:
        """Whether the peer has stored the file: Success or a warning (PS3.4 B.2.3)."""
        return self.status is not None and (
            store_report(self.status).status in (SendStatus.STORED, SendStatus.WARNED)
        )


class Modality(DimseCaller):
    """Sends files to one peer."""

    def send(self, files: Sequence[Path], on_each: Callable[[Sent], None]) -> list[Sent]:
        """C-STORE files, each in its own transfer syntax, unchanged; one association per 128 presentation
        contexts.

        Raises PeerUnreachable if there is no association. A file that cannot be sent is reported, not raised.
        """
        reports: list[Sent] = []
        wanted: dict[tuple[UID, UID], list[tuple[Path, UID]]] = {}
        for path in files:
            try:
                meta = read_file_meta_info(path)
                kind = meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
                wanted.setdefault(kind, []).append((path, meta.MediaStorageSOPInstanceUID))
            except (InvalidDicomError, OSError, AttributeError):
                reports.append(Sent(path, "", None, "no DICOM file (Part 10)"))
                on_each(reports[-1])
        kinds = list(wanted)
        for start in range(0, len(kinds), MOST_CONTEXTS):
            some = kinds[start : start + MOST_CONTEXTS]
            with self.associate([build_context(*kind) for kind in some]) as association:
                if isinstance(association, NoAssociation):
                    raise PeerUnreachable(association.text)
                for kind in some:
                    for path, instance in wanted[kind]:
                        reports.append(Sent(path, str(instance), *self._send(association, path, *kind)))
                        on_each(reports[-1])
        return reports

    def _send(
        self, association: Association, path: Path, sop_class: UID, syntax: UID
    ) -> tuple[int | None, str]:
        """The status of one file, and in words."""
        seconds = self._settings.outbox.seconds_for(path.stat().st_size)
        try:
            status = self.status_of(association, seconds, association.send_c_store, path, priority=0)
        except ValueError:
            accepted = any(one.abstract_syntax == sop_class for one in association.accepted_contexts)
            return None, f"the peer does not accept {syntax.name if accepted else UID(sop_class).name}"
        if status is None:
            return None, "no answer, or the association was cut"
        return status, f"{status:04X} {store_report(status).text}"


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and all files in the folders, sorted by name."""
    found: list[Path] = []
    for path in paths:
        found += sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return found
