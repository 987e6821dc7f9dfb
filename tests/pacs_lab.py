"""A PACS on a real socket that answers as a test wants: any status, no answer, an index that lags."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.base.config.settings import PeerSettings
from tests.modality import data_set
from tests.ports import free_port  # noqa: F401  (imported from here by tests of deliveries)

_config.LOG_HANDLER_LEVEL = "none"

ABORT = -1  # as a status: cut the association instead of answering


@dataclass
class Pacs:
    """What it does can be changed while it runs.

    ``answer``: from the SOP Instance UID and how often it came to a C-STORE status or :data:`ABORT`.
    ``shows``: whether C-FIND lists a stored object. Both are called on the PACS's threads.
    """

    port: int
    ae_title: str = "PACS"
    answer: Callable[[str, int], int] = lambda uid, times: 0x0000
    shows: Callable[[str, int], bool] = lambda uid, questions: True
    received: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    syntaxes: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    associations: int = 0
    _series: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def peer(self, name: str = "pacs", **settings: object) -> PeerSettings:
        """The settings with which the node knows it."""
        known: dict[str, object] = {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port}
        return PeerSettings.model_validate({"name": name, "may": ("receive",), **known, **settings})

    def contexts(self) -> list[PresentationContext]:
        """What it takes besides storage, query and verification."""
        return []

    def handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        """What it does with what comes."""
        return [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_ACCEPTED, self._on_association),
        ]

    def _on_store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append(uid)
        status = self.answer(uid, self.received.count(uid))
        if status == ABORT:
            event.assoc.abort()
            return 0xA700
        if status < 0xA000 or (status >= 0xB000 and status < 0xC000):
            ds = event.dataset
            self.stored[uid] = event.request.DataSet.getvalue()
            self.syntaxes[uid] = str(event.context.transfer_syntax)
            self._series[uid] = (str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID), str(ds.SOPClassUID))
        return status

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        for uid, (series, study, sop_class) in list(self._series.items()):
            wanted = (asked.SeriesInstanceUID, asked.StudyInstanceUID, asked.SOPInstanceUID or uid)
            if wanted != (series, study, uid):
                continue
            self.questions.append(uid)
            if self.shows(uid, self.questions.count(uid)):
                of_it = {"SOPInstanceUID": uid, "SOPClassUID": sop_class, "SeriesInstanceUID": series}
                yield 0xFF00, data_set(QueryRetrieveLevel="IMAGE", StudyInstanceUID=study, **of_it)
        yield 0x0000, None

    def _on_association(self, event: evt.Event) -> None:
        self.associations += 1


@contextmanager
def run_pacs(
    pacs: Pacs,
    *,
    classes: Sequence[UID] | None = None,
    syntaxes: Sequence[UID] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    finds: bool = True,
) -> Iterator[Pacs]:
    """Serve as long as the scope lasts; ``classes``: only these are taken."""
    ae = AE(ae_title=pacs.ae_title)
    ae.maximum_associations = 50
    ae.require_called_aet = True
    ae.acse_timeout = 3  # its threads wait that long for a request on a connection that was closed
    known = [context.abstract_syntax for context in AllStoragePresentationContexts]
    for sop_class in classes if classes is not None else known:
        ae.add_supported_context(sop_class, list(syntaxes))
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_supported_context(Verification)
    for one in pacs.contexts():
        roles = {"scu_role": one.scu_role, "scp_role": one.scp_role}
        ae.add_supported_context(one.abstract_syntax, one.transfer_syntax, **roles)
    server = ae.start_server(("127.0.0.1", pacs.port), block=False, evt_handlers=pacs.handlers())
    try:
        yield pacs
    finally:
        server.shutdown()
        for thread in threading.enumerate():
            if thread.name.startswith("AcceptorThread"):
                with suppress(RuntimeError):
                    thread.join(5)
