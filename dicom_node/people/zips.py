"""Files of a ZIP that a person sent, read one after the other and written nowhere.

No name in a ZIP is used but to be shown. What its directory says is checked before a file is unpacked, and a
file is unpacked no further than the limits below allow.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import BinaryIO, Final, Protocol

from dicom_node.base.errors import FaultyInput

SIGNATURE: Final = b"PK\x03\x04"
"""How a ZIP begins that has a file (APPNOTE.TXT 4.3.7)."""
FILES, DIRECTORY_BYTES = 10_000, 4 * 2**20
"""Most files in a ZIP, and most bytes of its directory, which is read whole."""
RATIO = 200
"""How many times its packed size a file may be; one below a MiB may be any."""
_END_OF_DIRECTORY = struct.Struct("<4s4H2IH")  # 4.3.16
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20  # 4.3.15: before the end of the directory
_LOCAL_HEADER_BYTES = 30  # 4.3.7: at least, without the name
_LONGEST_COMMENT = 65_535
_ENCRYPTED = 1  # 4.4.4, bit 0
# Ways of packing (4.4.5) of which Python unpacks as much as is asked for: BZIP2 and LZMA it unpacks whole.
_PACKED_AS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
_SMALL = 2**20
Entry = zipfile.ZipInfo
"""What the directory of a ZIP says of a file."""


class Readable(Protocol):
    """A file to read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; b"" at its end."""
        ...


class Archive:
    """A ZIP whose files are read. ``left``: bytes that may still be unpacked of all its files.

    Raises FaultyInput if it cannot be read, or its directory is beyond the limits or names the same bytes
    twice.
    """

    def __init__(self, file: BinaryIO, left: int) -> None:
        """Read the directory of the ZIP ``file``."""
        self.left = left
        _check_directory(file)
        try:
            self._archive = zipfile.ZipFile(file)
        except (*_DAMAGED, MemoryError):
            raise FaultyInput("this ZIP cannot be read") from None
        entries = self._archive.infolist()
        if len(entries) > FILES:
            raise FaultyInput(f"this ZIP has more than {FILES} files")
        if _overlap(self._archive):
            raise FaultyInput("files in this ZIP overlap: pack it again")
        self.files = [entry for entry in entries if _may_be_wanted(entry)]

    @contextmanager
    def open(self, entry: Entry) -> Iterator[Readable]:
        """Context manager: a file of the ZIP, to be read to its end. Raises FaultyInput if it is damaged,
        encrypted or larger than it may be.
        """
        if entry.flag_bits & _ENCRYPTED:
            raise FaultyInput("it is encrypted")
        if entry.compress_type not in _PACKED_AS:
            raise FaultyInput("it is packed in another way than stored or deflated: pack it so")
        most = min(self.left, max(RATIO * entry.compress_size, _SMALL))
        try:
            with self._archive.open(entry) as file:
                unpacked = _Unpacked(file, most, entry.file_size)
                try:
                    yield unpacked
                finally:
                    self.left -= unpacked.size
        except _DAMAGED:
            raise FaultyInput("it is damaged") from None


class _Unpacked:
    """A file while it is unpacked. ``size``: bytes so far."""

    def __init__(self, file: Readable, most: int, stated: int) -> None:
        """``most``: bytes that may be unpacked; ``stated``: the size that the directory states."""
        self._file, self._most, self._stated = file, most, stated
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes. Raises FaultyInput beyond the limit, and at the end of a file of another size."""
        data = self._file.read(size)
        self.size += len(data)
        if self.size > self._most:
            raise FaultyInput(f"unpacked it is larger than console.upload_mib, or {RATIO} times as packed")
        if not data and self.size != self._stated:
            raise FaultyInput("it is damaged: it has another size than its ZIP says")
        return data


def _may_be_wanted(entry: Entry) -> bool:
    """Whether an entry is a file that a person packed: no folder, no directory of a medium (DICOMDIR), and
    nothing that systems add.
    """
    name = entry.filename.rpartition("/")[2]
    is_hidden = name.startswith(".") or entry.filename.startswith("__MACOSX/")
    return bool(name) and not is_hidden and name.upper() != "DICOMDIR"


def _overlap(archive: zipfile.ZipFile) -> bool:
    """Whether bytes belong to more than one file (D. Fifield, A better zip bomb, WOOT 2019), or lie beyond
    the last file.
    """
    end = 0
    for entry in sorted(archive.infolist(), key=attrgetter("header_offset")):
        if entry.header_offset < end:
            return True
        end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
    return end > archive.start_dir


def _check_directory(file: BinaryIO) -> None:
    """Raise FaultyInput for a ZIP without an end of its directory, and for a directory that is too large to
    be read whole.
    """
    size = file.seek(0, 2)
    tail_size = min(size, _LONGEST_COMMENT + _END_OF_DIRECTORY.size + _ZIP64_LOCATOR_BYTES)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
        raise FaultyInput("this ZIP cannot be read: its end is missing")
    if tail[max(at - _ZIP64_LOCATOR_BYTES, 0) : at].startswith(_ZIP64_LOCATOR):
        raise FaultyInput("this ZIP has the sizes of ZIP64: pack it in parts of less than 4 GiB")
    *_, entries, directory, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if entries > FILES or directory > DIRECTORY_BYTES:
        raise FaultyInput(f"this ZIP has more than {FILES} files, or names that are too long")
