"""A sending modality: C-STORE of files as they are on disk (``dicom-node send``, the demonstration).

The node itself sends through :mod:`dicom_node.scu.dimse`, which confirms and retries; here a person looks at
every status.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import PeerUnreachable
from dicom_node.scu.association import CallingAE, client_tls
from dicom_node.scu.connections import Connections
from dicom_node.scu.destination import SendStatus, store_report

_MAXIMUM_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers 1 to 255
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Callee:
    """The AE to call, and the calling AE title."""

    ae_title: str
    host: str
    port: int
    calling: str
    tls: ssl.SSLContext | None = None
    patience: OutboxSettings = field(default_factory=OutboxSettings)
    """How long it may take to take and answer an object."""

    @classmethod
    def from_settings(cls, peer: PeerSettings, settings: Settings) -> Callee:
        """The AE that a peer's settings describe. Raises PeerUnreachable without host or port."""
        if not peer.host or peer.port is None:
            raise PeerUnreachable(f"peer {peer.name}: {peer.missing_of_address()}: add it to its [[peers]]")
        return cls(
            peer.ae_title,
            peer.host,
            peer.port,
            calling=settings.node.ae_title,
            tls=client_tls(settings) if peer.tls else None,
            patience=settings.outbox,
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of the C-STORE of one file; ``status`` is None without an answer. ``at`` is UTC."""

    path: Path
    sop_instance_uid: str
    status: int | None
    text: str
    at: datetime

    @property
    def stored(self) -> bool:
        """Whether the peer has stored the file: Success or a warning (PS3.4 B.2.3)."""
        return self.status is not None and (
            store_report(self.status).status in (SendStatus.STORED, SendStatus.WARNED)
        )


def send(callee: Callee, files: Sequence[Path], on_each: Callable[[Sent], None]) -> list[Sent]:
    """C-STORE files, each in its own transfer syntax, unchanged; one association per 128 presentation
    contexts.

    Raises PeerUnreachable if there is no association. A file that cannot be sent is reported, not raised.
    """
    reports: list[Sent] = []

    def report(sent: Sent) -> None:
        reports.append(sent)
        on_each(sent)

    for contexts, batch in _batches(files, report):
        connections = Connections(callee.patience.answer_seconds)
        with _RequestedAssociation(callee, contexts, connections) as association:
            for file in batch:
                seconds = callee.patience.seconds_for(file.path.stat().st_size)
                association.dimse_timeout = seconds + _TIMEOUT_SECONDS
                with connections.within(seconds):
                    report(_send_one(association, file))
    return reports


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and all files in the folders, sorted by name."""
    found: list[Path] = []
    for path in paths:
        found += sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return found


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    sop_class: UID
    sop_instance: UID
    syntax: UID


class _RequestedAssociation:
    """One association, released at the end, aborted when something went wrong."""

    def __init__(
        self, callee: Callee, contexts: Sequence[PresentationContext], connections: Connections
    ) -> None:
        self._callee, self._contexts, self._connections = callee, contexts, connections

    def __enter__(self) -> Association:
        callee = self._callee
        ae = CallingAE(callee.calling, self._connections)
        ae.acse_timeout = ae.connection_timeout = _TIMEOUT_SECONDS
        ae.network_timeout = None
        ae.requested_contexts = list(self._contexts)
        tls = (callee.tls, callee.host) if callee.tls else None
        with self._connections.within(3 * _TIMEOUT_SECONDS):
            self._association = ae.associate(
                callee.host, callee.port, ae_title=callee.ae_title, max_pdu=131072, tls_args=tls
            )
        if not self._association.is_established:
            whom = f"{callee.ae_title} at {callee.host}:{callee.port}"
            raise PeerUnreachable(_why(self._association, self._connections, whom))
        return self._association

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._association.is_established:
            return
        with self._connections.within(3 * _TIMEOUT_SECONDS):
            if kind is None:
                self._association.release()
            else:  # Ctrl-C while an answer is on its way: a release would wait for its own in vain
                self._connections.cut()
                self._association.abort()


def _why(association: Association, connections: Connections, whom: str) -> str:
    rejection = association.acceptor.primitive
    if association.is_rejected and rejection is not None:
        return f"{whom} refuses the association: {rejection.reason_str.lower()}"
    if association.is_aborted:
        return connections.without_answer(whom)
    return f"{whom} accepts nothing that was offered"


def _batches(
    files: Sequence[Path], report: Callable[[Sent], None]
) -> Iterator[tuple[list[PresentationContext], list[_File]]]:
    """Files with the contexts that they need, at most 128 on one association."""
    wanted: dict[tuple[UID, UID], list[_File]] = {}
    for path in files:
        try:
            meta = read_file_meta_info(path)
            file = _File(
                path, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
            )
        except (InvalidDicomError, OSError, AttributeError):
            report(Sent(path, "", None, "no DICOM file (Part 10)", datetime.now(UTC)))
        else:
            wanted.setdefault((file.sop_class, file.syntax), []).append(file)
    kinds = list(wanted)
    for start in range(0, len(kinds), _MAXIMUM_CONTEXTS):
        some = kinds[start : start + _MAXIMUM_CONTEXTS]
        batch = [file for kind in some for file in wanted[kind]]
        yield [build_context(*kind) for kind in some], sorted(batch, key=lambda file: files.index(file.path))


def _send_one(association: Association, file: _File) -> Sent:
    _config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file, not decoded and encoded again
    try:
        status = association.send_c_store(file.path, priority=0).get("Status")
    except ValueError:
        accepted = any(context.abstract_syntax == file.sop_class for context in association.accepted_contexts)
        what = file.syntax.name if accepted else UID(file.sop_class).name
        return _sent(file, None, f"the peer does not accept {what}")
    except RuntimeError:
        return _sent(file, None, "the association was cut")
    if status is None:
        return _sent(file, None, "no answer, or the association was aborted")
    return _sent(file, int(status), f"{status:04X} {store_report(status).text}")


def _sent(file: _File, status: int | None, text: str) -> Sent:
    return Sent(file.path, str(file.sop_instance), status, text, datetime.now(UTC))
