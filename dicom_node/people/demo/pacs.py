"""A PACS for the demonstration: a small storage SCP that this machine alone reaches."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

AE_TITLE = "PACS"

_QUERY_KEYS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]


class EmbeddedPacs:
    """A storage SCP that answers C-ECHO, C-STORE and C-FIND at IMAGE level (PS3.4 C.6.2.1)."""

    def __init__(self, folder: Path) -> None:
        """Start it on a free port; what is in ``folder``/objects already is in the PACS."""
        self._folder = folder / "objects"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._ae = ae = AE(ae_title=AE_TITLE)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
        )
        self.port: int = server.socket.getsockname()[1]

    def fetch(self, study_instance_uid: str) -> list[Path]:
        """The Part 10 files of a study in the PACS."""
        return [path for path, keys in self._held().items() if keys.StudyInstanceUID == study_instance_uid]

    def stop(self) -> None:
        """Stop the PACS; the objects stay in its folder."""
        self._ae.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not re.fullmatch(r"[0-9.]{1,64}", uid):  # it names a file
            return 0xC000
        target = self._folder / f"{uid}.dcm"
        with self._lock:
            if not target.exists():  # the first copy stays, as in Orthanc
                target.write_bytes(event.encoded_dataset(include_meta=True))
        return 0x0000

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for keys in self._held().values():
            if all(event.identifier.get(key) in (None, "", keys.get(key)) for key in _QUERY_KEYS):
                keys.QueryRetrieveLevel = "IMAGE"
                yield 0xFF00, keys
        yield 0x0000, None

    def _held(self) -> dict[Path, Dataset]:
        """The keys of each object."""
        with self._lock:
            return {
                path: Dataset(dcmread(path, specific_tags=list(_QUERY_KEYS), stop_before_pixels=True))
                for path in sorted(self._folder.glob("*.dcm"))
            }
