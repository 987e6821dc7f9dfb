"""What comes of an answer by HTTP: checked, and stored in the spool as objects of its service.

From there it goes the way of what comes to the listener: it is indexed, matched (``matching``), and judged by
the gate.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import IO

import requests

from ai_pipeline.programs.output import MOST_OBJECT_BYTES, MOST_OBJECTS
from dicom_connectors.dicomweb.client import parts_of
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES, read_uids
from dicom_node.base.dicom.uids import transfer_syntax
from dicom_node.base.errors import FaultyInput
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.receive.spool import Spool, WaitingObjects, check_accepted, read_meta
from dicom_node.studies.fetch import RetrievalSink

_BLOCK = 2**16
_HEAD = 2**20
"""Bytes of a data set in which its UIDs are looked for."""


class AnswerSink(RetrievalSink):
    """Stores objects of one study, and refuses those of any other (a ``scu.ObjectSink``)."""

    def __init__(self, settings: Settings, peer: PeerSettings, row: AwaitedAnswer) -> None:
        """Prepare to store objects of the service ``peer`` for the answer ``row``. Raises SpoolError."""
        spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        super().__init__(spool, WaitingObjects(spool.incoming), settings, peer, f"answer-{row.id}")
        self.largest_bytes = min(self.largest_bytes, MOST_OBJECT_BYTES)
        self._study_instance_uid = row.study_instance_uid

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store an encoded data set with these UIDs. Raises FaultyInput, SpoolError."""
        rest = iter(data)
        head = _head(rest, _HEAD)
        self._check(sop_class_uid, sop_instance_uid, transfer_syntax_uid, head)
        super().take_object(
            sop_class_uid, sop_instance_uid, transfer_syntax_uid, itertools.chain([head], rest)
        )

    def check_file(self, pieces: Iterable[bytes]) -> None:
        """Check a Part 10 file without storing it. Raises FaultyInput."""
        rest = iter(pieces)
        start = _head(rest, META_BYTES + _HEAD)
        meta = read_meta(start[:META_BYTES])
        uids = meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid
        check_accepted(meta.sop_class_uid, meta.transfer_syntax_uid, self.sop_classes)
        self._check(*uids, start[meta.length :])
        if len(start) - meta.length + sum(map(len, rest)) > self.largest_bytes:
            raise FaultyInput("it is too large")

    def _check(self, sop_class_uid: str, sop_instance_uid: str, syntax: str, head: bytes) -> None:
        """Check that a data set, which begins with ``head``, has these UIDs and is of the study."""
        known = transfer_syntax(syntax)
        if known is None:
            raise FaultyInput("this node does not take its transfer syntax (docs/conformance.md)")
        named_class, instance, study, _ = read_uids(head, known, _HEAD)
        if (named_class, instance) != (sop_class_uid, sop_instance_uid):
            raise FaultyInput("its data set has other UIDs than its header")
        if study != self._study_instance_uid:
            raise FaultyInput("it is of another study than the one that was sent")


def _head(pieces: Iterator[bytes], length: int) -> bytes:
    """Return the first pieces, with ``length`` bytes at least if there are as many."""
    start = bytearray()
    while len(start) < length and (piece := next(pieces, b"")):
        start += piece
    return bytes(start)


class TooLarge(ValueError):
    """Raised for an answer with more bytes or objects than an answer may have."""


class WholeParts:
    """The parts of a multipart answer, in a file: all of them, or none.

    ``file``: an empty file, to which they are written.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._parts: list[range] = []

    def __len__(self) -> int:
        return len(self._parts)

    def receive(self, answer: requests.Response) -> None:
        """Read an answer to its last boundary.

        Raises FormParserError if it is not multipart or ends early, TooLarge, urllib3's HTTPError.
        """
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise TooLarge  # what is packed has no size that can be limited
        if int(answer.headers.get("Content-Length") or 0) > MOST_OBJECT_BYTES:
            raise TooLarge
        for number, piece in parts_of(answer.headers.get("Content-Type"), _limited(answer)):
            while len(self._parts) <= number:
                if len(self._parts) > MOST_OBJECTS:
                    raise TooLarge
                self._parts.append(range(self._file.tell(), self._file.tell()))
            self._file.write(piece)
            self._parts[number] = range(self._parts[number].start, self._file.tell())

    def pieces(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of a part, counted from 0."""
        part = self._parts[number]
        self._file.seek(part.start)
        for at in range(part.start, part.stop, _BLOCK):
            yield self._file.read(min(_BLOCK, part.stop - at))


def _limited(answer: requests.Response) -> Iterator[bytes]:
    """Yield the blocks of an answer's body as they arrive. Raises TooLarge, urllib3's HTTPError."""
    size = 0
    for block in answer.raw.stream(_BLOCK, decode_content=False):
        size += len(block)
        if size > MOST_OBJECT_BYTES:
            raise TooLarge
        yield block
