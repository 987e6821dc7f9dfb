"""ZIPs that are small when sent and huge when read, or say what is not so: refused in little memory.

A process of its own reads them as the console does; the kernel says what memory each took.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.modality import ultrasound

MOST_MIB = 100  # above what the process had: well below the 150 MiB that each bomb unpacks at once
BOMB = 150 * 2**20
READER = """
import json, sys
from pathlib import Path
from dicom_node.services.audit import Person
from dicom_node.services import uploads
from tests.inbox_lab import Inbox

def peak_mib():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

inbox = Inbox(Path(sys.argv[1]) / "var")
for line in sys.stdin:
    path, upload_mib = json.loads(line)
    console = inbox.settings.console.model_copy(update={"upload_mib": upload_mib})
    settings = inbox.settings.model_copy(update={"console": console})
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew (man 5 proc)
    base, before = peak_mib(), len(inbox.spool.pending())
    with open(path, "rb") as file:
        sent = uploads.UploadedFile("sent.zip", file)
        done = uploads.take(inbox.database, settings, [sent], None, Person("operator"))
    spooled = len(inbox.spool.pending()) - before
    print(json.dumps([[one.refusal for one in done.files], spooled, peak_mib() - base]), flush=True)
"""

Read = Callable[..., tuple[list[str], int]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Has a ZIP read: why each file was refused ("": it was taken), and how many objects were spooled."""
    folder = tmp_path_factory.mktemp("zips")
    command = [sys.executable, "-c", READER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None

        def read(data: bytes, upload_mib: int = 2048) -> tuple[list[str], int]:
            assert reader.stdin is not None and reader.stdout is not None
            (folder / "sent.zip").write_bytes(data)
            reader.stdin.write(json.dumps([str(folder / "sent.zip"), upload_mib]) + "\n")
            reader.stdin.flush()
            answer = reader.stdout.readline()
            assert answer, "the reading process ended"
            refusals, spooled, mib = json.loads(answer)
            assert mib < MOST_MIB, mib
            return refusals, spooled

        yield read
        reader.stdin.close()


def an_object() -> bytes:
    data = io.BytesIO()
    ultrasound("one").save_as(data, enforce_file_format=True)
    return data.getvalue()


def zipped(content: bytes, how: int = zipfile.ZIP_DEFLATED, zeros: int = 0) -> bytearray:
    """A ZIP of one file, which ends with so many zeros."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive, archive.open("a", "w") as file:
        file.write(content)
        for _ in range(zeros // 2**20):
            file.write(bytes(2**20))
    return bytearray(data.getvalue())


def of_directory(data: bytearray, at: int, form: str, *values: int) -> bytes:
    """Write over the entry in the directory (APPNOTE.TXT 4.3.12)."""
    struct.pack_into(form, data, data.rfind(b"PK\x01\x02") + at, *values)
    return bytes(data)


def encrypted() -> bytes:
    data = zipped(an_object())
    data[6] |= 1
    return of_directory(data, 8, "<H", 1)


def zip64_sizes() -> bytes:
    """One entry whose extra field says 2^62 bytes, packed and unpacked."""
    name, packed = b"a", zlib.compress(an_object(), wbits=-15)
    extra = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 8, 0, 0, 0, *[2**32 - 1] * 2, 1, len(extra))
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 8, 0, 0, 0, *[2**32 - 1] * 2, 1, len(extra), *[0] * 5
    )
    return whole(local + name + extra + packed, [entry + name + extra])


def whole(body: bytes, entries: list[bytes], says: int | None = None) -> bytes:
    """Files, directory and end."""
    directory = b"".join(entries)
    number = len(entries) if says is None else says
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def over_each_other(quoted: bool, files: int = 200) -> bytes:
    """Fifield, "A better zip bomb" (WOOT 2019): each file is unpacked from the bytes of the next as well.

    ``quoted``: before the next one's header stands a stored block of deflate that holds it; else all entries
    of the directory name the same file.
    """
    content = an_object() + bytes(4 * 2**20)
    body, size = zlib.compress(content, 9, -15), len(content)
    check = zlib.crc32(content)
    entries: list[tuple[bytes, int]] = []
    for number in reversed(range(files)):
        name = f"{number:03}".encode()
        fixed = (20, 0, 8, 0, 0, check, len(body), size, len(name))
        header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fixed, 0) + name
        entries.append((struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fixed, *[0] * 5, 0)[:-4], len(body)))
        entries[-1] = (entries[-1][0] + b"%b" + name, len(body) + len(header))
        if not quoted:
            return whole(header + body, [entries[0][0] % struct.pack("<L", 0)] * files)
        if number:
            block = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
            body = block + header + body
            size += len(header)
        else:
            body = header + body
    placed = [entry % struct.pack("<L", len(body) - length) for entry, length in entries]
    return whole(body, placed[::-1])


def many_empty() -> bytes:
    """A directory of 90,000 nameless entries, of which its end says one."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *[0] * 4, *[0] * 3, *[0] * 5, 0, 0)
    return whole(bytes(zipped(an_object()))[:64], [entry] * 90_000, says=1)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "BZIP2": (lambda: bytes(zipped(an_object(), zipfile.ZIP_BZIP2, BOMB)), "stored or deflated"),
    "LZMA": (lambda: bytes(zipped(an_object(), zipfile.ZIP_LZMA, BOMB)), "stored or deflated"),
    "deflated without end": (lambda: bytes(zipped(an_object(), zeros=BOMB)), "200 times as packed"),
    "packed in no known way": (lambda: of_directory(zipped(an_object()), 10, "<H", 99), "stored or deflated"),
    "encrypted": (encrypted, "it is encrypted"),
    "quoted files": (lambda: over_each_other(quoted=True), "overlap"),
    "one file 200 times": (lambda: over_each_other(quoted=False), "overlap"),
    "larger than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 5000), "damaged"),
    "smaller than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 2**32 - 2), "damaged"),
    "packed beyond its end": (lambda: of_directory(zipped(an_object()), 20, "<L", 2**32 - 2), "damaged"),
    "another file's check": (lambda: of_directory(zipped(an_object()), 16, "<L", 7), "damaged"),
    "a place beyond the end": (lambda: of_directory(zipped(an_object()), 42, "<L", 2**31), "damaged"),
    "sizes of ZIP64": (zip64_sizes, "damaged"),
    "more files than it says": (many_empty, "more than 10000 files"),
    "a ZIP in a ZIP": (lambda: bytes(zipped(bytes(zipped(an_object())))), "neither DICOM"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_zip_that_is_not_what_it_seems_is_refused_in_little_memory(read: Read, case: str) -> None:
    make, why = REFUSED[case]
    refusals, spooled = read(make())
    assert [why in refusal for refusal in refusals] == [True], refusals
    assert spooled == 0


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_is_taken(read: Read, how: int) -> None:
    assert read(bytes(zipped(an_object(), how))) == ([""], 1)


def test_an_upload_is_unpacked_to_its_limit_in_all(read: Read) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(str(number), an_object() + bytes(900_000))
    refusals, _ = read(data.getvalue(), upload_mib=3)
    assert "" in refusals
    assert "console.upload_mib" in refusals[-1]
