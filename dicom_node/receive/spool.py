"""The spool, which decides what counts as received.

The spool has the received bytes on disk, unchanged. ``incoming`` has the objects that are acknowledged and
not yet indexed, ``objects`` the indexed ones, ``quarantine`` the ones that a person must look at. A file gets
its name only when it is complete and on stable storage (durable before Success); until then its name starts
with a dot. Nothing received is overwritten. The name also has a mark of the sender: a listing of the folder
shows whose files wait, whose turn it is, and who has reached the limit of waiting files. The Part 10 header
of a spooled object (PS3.10 7.1) contains the sender and the time of arrival: after any crash, the spool alone
shows which objects were received from whom.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dicom_node.base.dicom.elements import META_BYTES, FileMeta, read_file_meta
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    derived_uid,
    transfer_syntax,
)
from dicom_node.base.durable import sync_folder
from dicom_node.base.errors import FaultyInput, FaultyObject, SpoolError, SpoolFull

# (0002,0100) Private Information Creator UID: says that (0002,0102) holds an Arrival as JSON.
ARRIVAL_CREATOR_UID = derived_uid("private information", "arrival", "1")

_PREAMBLE = bytes(128) + b"DICM"
_AFTER_SYNTAX = b"\x02\x00\x12\x00UI"  # (0002,0012), which follows it in every header that is written here
_TIME_OF_ARRIVAL = b'"received_at":"'
_JSON = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an object arrived: stored in the private information of its Part 10 header (PS3.10 7.1).

    ``association``: the node's own identifier of the association. ``priority``: of the C-STORE (PS3.7 9.1.1:
    0 medium, 1 high, 2 low). ``received_at``: UTC. ``senders``: AE titles of the senders to which the console
    user who uploaded it is restricted; () for unrestricted.
    """

    association: str
    calling_ae: str
    called_ae: str
    address: str
    priority: int
    received_at: datetime
    senders: Sequence[str] = ()


def encode_header(
    arrival: Arrival, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """Encode preamble and File Meta Information of a spooled file. Its length does not depend on
    ``arrival.received_at``.
    """
    fields = asdict(arrival)
    if not arrival.senders:
        del fields["senders"]
    del fields["received_at"]  # the last, see _TIME_OF_ARRIVAL
    fields["received_at"] = _encode_time(arrival.received_at).decode("ascii")
    values = (
        (0x0001, b"OB", "\0\1"),
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_instance_uid),
        (0x0010, b"UI", transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", arrival.calling_ae),
        (0x0017, b"AE", arrival.calling_ae),
        (0x0018, b"AE", arrival.called_ae),
        (0x0100, b"UI", ARRIVAL_CREATOR_UID),
        (0x0102, b"OB", _JSON.encode(fields)),
    )
    elements = b"".join(_element(element, vr, value.encode("ascii")) for element, vr, value in values)
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def read_arrival(path: Path) -> Arrival:
    """Read how the object in a spooled file arrived. Raises SpoolError if the listener did not write the
    file, and OSError if the disk cannot read it.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject as error:
        raise SpoolError(f"{path.name} is no spooled object: {type(error).__name__}") from None
    if meta.values.get(0x0100, b"").rstrip(b"\0") != ARRIVAL_CREATOR_UID.encode("ascii"):
        raise SpoolError(f"{path.name} was not written by the listener")
    fields = json.loads(meta.values.get(0x0102, b"").rstrip(b" \0"))
    return Arrival(**{**fields, "received_at": datetime.fromisoformat(fields["received_at"])})


def same_object(one: Path, other: Path) -> bool:
    """Return whether two spooled files have the same SOP class, instance, transfer syntax and, byte for byte,
    data set; how they arrived is ignored.

    Raises OSError.
    """
    with one.open("rb") as mine, other.open("rb") as theirs:
        if _meta_information(mine) != _meta_information(theirs):
            return False
        while True:
            one_block, other_block = mine.read(2**20), theirs.read(2**20)
            if one_block != other_block or not one_block:
                return one_block == other_block


def _meta_information(file: BinaryIO) -> bytes:
    """Read the File Meta Information, and return it up to the transfer syntax; leaves the file at the data
    set.
    """
    start = file.read(len(_PREAMBLE) + 12)
    return file.read(struct.unpack("<I", start[-4:])[0]).partition(_AFTER_SYNTAX)[0]


def read_store_request(path: Path) -> tuple[str, str, str]:
    """Return transfer syntax, SOP Class UID and SOP Instance UID of the C-STORE request that brought the
    file; "" for each that it lacks.

    Raises OSError.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject:
        return "", "", ""
    return meta.transfer_syntax_uid, meta.sop_class_uid, meta.sop_instance_uid


def read_meta(start: bytes) -> FileMeta:
    """Read the File Meta Information from the first ``META_BYTES`` bytes of a file from a person or an
    archive. Raises FaultyInput.
    """
    if start[128:132] != b"DICM":
        raise FaultyInput("it is no file of DICOM (Part 10)")
    try:
        meta = read_file_meta(start)
    except FaultyObject as error:
        raise FaultyInput(str(error)) from None
    if not (meta.sop_class_uid and meta.sop_instance_uid and meta.transfer_syntax_uid):
        raise FaultyInput("its file meta information has no valid UIDs")
    return meta


def check_accepted(sop_class_uid: str, transfer_syntax_uid: str, classes: Collection[str]) -> None:
    """Raise FaultyInput if this node does not accept objects of this SOP class (it is not in ``classes``) or
    in this transfer syntax.
    """
    if sop_class_uid not in classes:
        raise FaultyInput("this node does not take its SOP class (docs/conformance.md)")
    if transfer_syntax(transfer_syntax_uid) is None:
        raise FaultyInput("this node does not take its transfer syntax (docs/conformance.md)")


def _meta_of(path: Path) -> FileMeta:
    """Read the File Meta Information of a file. Raises FaultyObject, OSError."""
    with path.open("rb") as file:
        return read_file_meta(file.read(META_BYTES))


def _encode_time(moment: datetime) -> bytes:
    """Return a time in ISO 8601 with microseconds, always of the same length."""
    return moment.isoformat(timespec="microseconds").encode("ascii")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """Encode one element of group 0002 in Explicit VR Little Endian (PS3.5 7.1.2), padded to an even
    length.
    """
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


_FREE_SPACE_SECONDS = 1.0  # statvfs is asked this often; at 600 MB/s the watermark is passed by 0.6 GB
_OF_A_PLACE = re.compile(r"\.listener-[0-9]+-")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Spool:
    """The folder of received objects: ``incoming``, ``objects`` and ``quarantine`` under ``root``; many
    threads may use one.

    ``minimum_free_bytes``: with less free space no object is accepted (SpoolFull). ``place``: the place name
    of a further listener on the same spool, such as "listener-2". Raises SpoolError.
    """

    def __init__(self, root: Path, minimum_free_bytes: int, place: str = "") -> None:
        """Create the folders that are missing. Raises SpoolError."""
        self.incoming = root / "incoming"
        """Where acknowledged files are that are not indexed yet."""
        self._objects, self._quarantine = root / "objects", root / "quarantine"
        for folder in (self.incoming, self._objects, self._quarantine):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpoolError(f"{folder} cannot be made: {error.strerror}") from None
        self.crash_record = root / "open"
        """The file in which the index notes which object it has open."""
        self._last_indexed = root / "indexed"
        self._minimum_free = minimum_free_bytes
        self._free, self._asked_at = 0, float("-inf")
        self.commits = _GroupCommit(self.incoming)
        """The sync of ``incoming`` that its threads share."""
        self._place = f".{place}-" if place else ""
        self._token = f"{self._place or '.'}{secrets.token_hex(4)}"
        self._numbers = itertools.count()

    def open(
        self,
        arrival: Arrival,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        sender: str = "",
    ) -> "IncomingObject":
        """Begin to receive an object, whose data set is then written piece by piece. Raises SpoolFull or
        SpoolError.

        ``sender``: the name by which senders take turns at indexing; "": the calling AE title.
        """
        self.check_space()
        name = f"{self._token}-{next(self._numbers):08x}{mark_of(sender or arrival.calling_ae)}"
        return IncomingObject(
            self, name, encode_header(arrival, sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        )

    def check_space(self) -> None:
        """Raise SpoolFull if there is too little free space, and SpoolError if the folder is missing.

        The disk is asked at most about once a second, for all threads.
        """
        now = time.monotonic()
        if now - self._asked_at > _FREE_SPACE_SECONDS:
            try:
                self._free = shutil.disk_usage(self.incoming).free
            except OSError as error:
                raise _spool_error(error) from None
            self._asked_at = now  # after the answer: other threads must not read the old one as new
        if self._free < self._minimum_free:
            raise SpoolFull(
                f"{self._free // 2**20} MiB free, "
                f"spool.minimum_free_mib asks for {self._minimum_free // 2**20}"
            )

    def pending(self) -> list[Path]:
        """Return acknowledged files that are not indexed yet, oldest first."""
        with os.scandir(self.incoming) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".dcm")]
        return [self.incoming / name for name in sorted(names) if not name.startswith(".")]

    def is_pending(self, name: str) -> bool:
        """Return whether a file with this name waits to be indexed."""
        return (self.incoming / name).is_file()

    def stored(self) -> Iterator[Path]:
        """Yield the paths of indexed files, including files in quarantine."""
        for folder in (self._objects, self._quarantine):
            yield from (path for path in folder.rglob("*.dcm") if not path.name.startswith("."))

    def put_back(self, path: Path) -> Path:
        """Move a stored file back to ``incoming``, so that it is indexed again. Raises SpoolError."""
        return _move(path, self.incoming)

    def settle(self, path: Path, place: Path) -> None:
        """Move an indexed file to ``place``, or delete it if ``place`` is another file with the same bytes.

        Idempotent. Not synced: a power failure may bring the file back to ``incoming``. Raises SpoolError.
        """
        if path.name == place.name:
            _move(path, place.parent)
        elif place.is_file() or self.is_pending(place.name):
            path.unlink(missing_ok=True)
        elif path.is_file():  # the other one was lost meanwhile
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)

    def note_indexed(self, name: str) -> None:
        """Note the spool name of the object that was indexed last; not synced."""
        with suppress(OSError):  # a full disk: the one before stays
            self._last_indexed.write_text(name, encoding="ascii")

    def last_indexed(self) -> str | None:
        """Return the spool name of the object that was indexed last; "" for none, None if nobody noted it.
        Raises OSError.
        """
        with suppress(FileNotFoundError):
            return self._last_indexed.read_text(encoding="ascii")
        return None

    def place(self, path: Path, study_dir: str | None) -> Path:
        """Return the path to which an indexed object will be moved, which the index stores before the move.
        Raises SpoolError.

        ``study_dir``: the study's folder name (its UID); None for an object in quarantine.
        """
        if study_dir is None:
            return self._quarantine / path.name
        if not _FOLDER_NAME.fullmatch(study_dir):
            raise SpoolError(f"{study_dir!r} is no folder name")
        shard = hashlib.sha256(study_dir.encode("ascii")).hexdigest()[:2]
        return self._objects / shard / study_dir / path.name

    def remove_leftovers(self) -> int:
        """Delete half-written files that a killed listener with this place name left, before a new one
        accepts objects; return their number.
        """
        leftovers = [
            path
            for path in self.incoming.glob(".*")
            if (path.name.startswith(self._place) if self._place else not _OF_A_PLACE.match(path.name))
        ]
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)


class IncomingObject:
    """A file in the spool for one object that is being received; used by one thread at a time."""

    def __init__(self, spool: Spool, name: str, encoded_header: bytes) -> None:
        """Create the file ``name`` with room for its encoded header. Raises SpoolFull or SpoolError."""
        self._spool, self._temporary, self._header = spool, spool.incoming / name, encoded_header
        # The header says when the last byte came, so it is written last, into the room left for it.
        try:
            self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            os.lseek(self._file, len(encoded_header), os.SEEK_SET)
        except OSError as error:
            raise _spool_error(error) from None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set. Raises SpoolFull or SpoolError; then call ``abandon``."""
        self._spool.check_space()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise _spool_error(error) from None

    def commit(self) -> str:
        """Make the object durable and visible to the index; return its spool name. Raises SpoolFull or
        SpoolError.
        """
        received_at = datetime.now(UTC)
        name = f"{received_at:%Y%m%dT%H%M%S%fZ}{self._temporary.name.replace('.', '-')}"
        path = self._temporary.with_name(f"{name}.dcm")
        time_of_arrival = _encode_time(received_at)  # as long as the one that stands there
        start = self._header.rindex(_TIME_OF_ARRIVAL) + len(_TIME_OF_ARRIVAL)
        first = self._header[:start] + time_of_arrival + self._header[start + len(time_of_arrival) :]
        try:
            if os.pwrite(self._file, first, 0) != len(first):
                raise OSError(errno.ENOSPC, "short write")
            os.fdatasync(self._file)
            self._temporary.rename(path)
            self._close()
            self._spool.commits.wait()
        except OSError as error:
            with suppress(OSError):  # of a disk that fails
                path.unlink(missing_ok=True)  # not acknowledged: the sender comes again
            raise _spool_error(error) from None
        return name

    def take(self, pieces: Iterable[bytes], largest: int) -> int:
        """Write a whole data set of at most ``largest`` bytes and make it durable; return its size in bytes.

        Raises FaultyInput, SpoolError.
        """
        size = 0
        try:
            for piece in pieces:
                size += len(piece)
                if size > largest:
                    raise FaultyInput("it is larger than listener.maximum_object_mib")
                self.write(piece)
            if not size:
                raise FaultyInput("it has no data set")
            self.commit()
        finally:
            self.abandon()
        return size

    def abandon(self) -> None:
        """Delete the file if it was not committed; does nothing after ``commit``.

        What a failing disk keeps is deleted when the next listener starts.
        """
        if self._file >= 0:
            with suppress(OSError):
                self._close()
                self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        os.close(file)


class _GroupCommit:
    """Syncs a folder for many threads: one fsync serves all threads that asked before it began.

    A directory fsync per object costs half the throughput at eight associations.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare to sync ``folder``."""
        self._folder = folder
        self._changed = threading.Condition()
        self._begun = self._finished = self._failed = 0  # numbers of syncs
        self._error: Exception | None = None

    def wait(self) -> None:
        """Return when all renames done before this call are durable. Raises OSError."""
        with self._changed:
            mine = self._begun + 1  # the next sync that begins covers what was done until now
            while self._finished < mine:
                if self._begun == self._finished:
                    self._sync_for_all()
                else:
                    self._changed.wait()
            if self._failed >= mine:
                raise self._error or OSError(errno.EIO, "directory sync failed")

    def _sync_for_all(self) -> None:
        """Sync the folder for all threads that wait."""
        self._begun += 1
        self._changed.release()
        try:
            sync_folder(self._folder)
        except Exception as error:  # noqa: BLE001  (all who wait for this sync raise it)
            self._failed, self._error = self._begun, error
        finally:
            self._changed.acquire()
            self._finished = self._begun
            self._changed.notify_all()


def _move(path: Path, folder: Path) -> Path:
    """Move a file into a folder, unless it is there already; return its new path. Raises SpoolError."""
    target = folder / path.name
    if target.exists():
        if path != target and path.exists():
            raise SpoolError(f"{path.name} is in two folders of the spool")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return path.rename(target)
    except FileNotFoundError:
        raise SpoolError(f"{path.name} is not in the spool") from None
    except OSError as error:
        raise _spool_error(error) from None


def _spool_error(error: OSError) -> SpoolError:
    """Return the SpoolError (SpoolFull for a full disk) for an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFull("the disk of the spool is full")
    return SpoolError(f"the spool cannot be written: {error.strerror}")


_MARK = re.compile(r"-s([0-9a-f]{8})(?:\.dcm)?$")
_LIST_SECONDS = 1.0  # the folder is listed at most this often; 20,000 files take 60 ms


def mark_of(sender: str) -> str:
    """Return the mark of a sender: the end, before the suffix, of the names of its spooled files."""
    return f"-s{hashlib.sha256(sender.encode()).hexdigest()[:8]}"


def sender_in_name(name: str) -> str:
    """Return the part of a spooled file's name that stands for its sender; "" for a file that a person put
    into the folder.
    """
    found = _MARK.search(name)
    return f"-s{found[1]}" if found else ""


class Turns:
    """Decides whose spooled file is indexed next: that of the sender whose files have taken the least time so
    far.

    So neither a flood of one sender nor its slow objects delay those of others.
    """

    def __init__(self) -> None:
        """Begin without any sender."""
        self._seconds: dict[str, float] = {}  # by mark, of senders of whom something waits

    def in_turn(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield the files in the order in which senders take turns; each sender's files keep their order.

        Small differences of time are ignored: then the first file of each sender comes, the second of each,
        and so on.
        """
        by_sender: defaultdict[str, list[Path]] = defaultdict(list)
        for path in paths:
            by_sender[sender_in_name(path.name)].append(path)
        least = min((self._seconds[mark] for mark in by_sender if mark in self._seconds), default=0.0)
        self._seconds = {mark: self._seconds.get(mark, least) for mark in by_sender}
        done = Counter[str]()
        while by_sender:
            mark = min(by_sender, key=lambda mark: (int(10 * self._seconds[mark]), done[mark]))
            yield by_sender[mark][done[mark]]
            done[mark] += 1
            if done[mark] == len(by_sender[mark]):
                del by_sender[mark]

    def took(self, path: Path, seconds: float) -> None:
        """Add the time that indexing this file took to the time of its sender."""
        self._seconds[sender_in_name(path.name)] += seconds


class WaitingObjects:
    """Counts the objects and bytes of each sender that wait in the spool to be indexed; many threads may use
    one.

    Indexed objects are not subtracted, so a count is never too low. When a count exceeds a limit, it is
    corrected by listing the folder, at most once in a fixed interval.
    """

    def __init__(self, incoming: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Count what waits in the folder ``incoming`` now. ``clock``: returns monotonic seconds."""
        self._incoming, self._clock = incoming, clock
        self._lock = threading.Lock()
        self._listed_at = float("-inf")
        self._objects, self._bytes = self._list()

    def add(self, sender: str, size: int) -> None:
        """Count an object of ``size`` bytes of this sender. Call it after the object's file has its name in
        the folder.
        """
        mark = mark_of(sender)
        with self._lock:
            self._objects[mark] += 1
            self._bytes[mark] += size

    def has_room(self, sender: str, objects: int, mib: int) -> bool:
        """Return whether fewer than ``objects`` objects of this sender wait, with less than ``mib`` MiB in
        all.
        """
        mark = mark_of(sender)
        with self._lock:
            if self._is_over(mark, objects, mib) and self._clock() - self._listed_at > _LIST_SECONDS:
                # Under the lock: what is added meanwhile is counted twice at most.
                self._objects, self._bytes = self._list()
                self._listed_at = self._clock()
            return not self._is_over(mark, objects, mib)

    def _is_over(self, mark: str, objects: int, mib: int) -> bool:
        """Return whether the sender with this mark has reached a limit."""
        return self._objects[mark] >= objects or self._bytes[mark] >= mib * 2**20

    def _list(self) -> tuple[Counter[str], Counter[str]]:
        """List the folder and return the number of objects and of bytes, each by sender's mark."""
        objects, sizes = Counter[str](), Counter[str]()
        with os.scandir(self._incoming) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm") and not entry.name.startswith("."):
                    mark = sender_in_name(entry.name)
                    objects[mark] += 1
                    with suppress(OSError):  # indexed meanwhile
                        sizes[mark] += entry.stat().st_size
        return objects, sizes
