"""ZIPs that are not what they seem: each is refused in words and in little memory, and nothing is stored."""

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pytest

from dicom_node.people.zips import FILES, RATIO
from tests.modality import part_10, ultrasound

pytestmark = pytest.mark.timeout(600)

BOMB = 160 * 2**20
MOST_MIB = 80  # beside what the process has: blocks of a MiB, and a directory of 10,000 files
READER = """
import json, sys
from pathlib import Path
from dicom_node.people.audit import Person
from dicom_node.people.uploads import take_files
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
        _, rows = take_files(inbox.database, settings, [("sent.zip", file)], {}, Person("operator"))
    spooled = len(inbox.spool.pending()) - before
    print(json.dumps([[row["refusal"] for row in rows], spooled, peak_mib() - base]), flush=True)
"""
Read = Callable[..., tuple[list[str], int]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Has a ZIP read by a process of its own: why each file was refused ("": it was taken), and how many
    objects were spooled.
    """
    folder = tmp_path_factory.mktemp("zips")
    command = [sys.executable, "-c", READER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        stdin, stdout = reader.stdin, reader.stdout

        def read(data: bytes, upload_mib: int = 2048) -> tuple[list[str], int]:
            (folder / "sent.zip").write_bytes(data)
            stdin.write(json.dumps([str(folder / "sent.zip"), upload_mib]) + "\n")
            stdin.flush()
            answer = stdout.readline()
            assert answer, "the reading process ended"
            refusals, spooled, mib = json.loads(answer)
            assert mib < MOST_MIB, mib
            return refusals, spooled

        yield read
        stdin.close()


def an_object() -> bytes:
    return part_10(ultrasound("one"))


def zipped(content: bytes, how: int = zipfile.ZIP_DEFLATED, zeros: int = 0, name: str = "a") -> bytearray:
    """A ZIP of one file, which ends with so many zeros."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive, archive.open(name, "w") as file:
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


def whole(body: bytes, entries: list[bytes], says: int | None = None) -> bytes:
    """Files, directory and end."""
    directory = b"".join(entries)
    number = len(entries) if says is None else says
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def over_each_other(files: int = 200) -> bytes:
    """Fifield, "A better zip bomb" (WOOT 2019): all entries of the directory name the same file."""
    content = an_object() + bytes(4 * 2**20)
    packed = zlib.compressobj(9, wbits=-15)
    body, size, name = packed.compress(content) + packed.flush(), len(content), b"000"
    fixed = (20, 0, 8, 0, 0, zlib.crc32(content), len(body), size, len(name))
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fixed, 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fixed, *[0] * 6) + name
    return whole(header + body, [entry] * files)


def many_empty() -> bytes:
    """A directory of 90,000 nameless entries, of which its end says one."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *[0] * 4, *[0] * 3, *[0] * 5, 0, 0)
    return whole(bytes(zipped(an_object()))[:64], [entry] * 90_000, says=1)


def of_files(number: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for place in range(number):
            archive.writestr(str(place), b"x")
    return data.getvalue()


def zip64() -> bytes:
    """Python reads as much of the directory as ZIP64 says (APPNOTE.TXT 4.3.14): here 5 MB."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    directory, many = 30, 100_000
    body = b"PK\x03\x04" + bytes(26) + entry * many
    end, length = len(body), len(entry) * many
    body += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, many, many, length, directory)
    body += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return body + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), directory, 0)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "BZIP2": (lambda: bytes(zipped(an_object(), zipfile.ZIP_BZIP2, BOMB)), "stored or deflated"),
    "LZMA": (lambda: bytes(zipped(an_object(), zipfile.ZIP_LZMA, BOMB)), "stored or deflated"),
    "deflated without end": (lambda: bytes(zipped(an_object(), zeros=BOMB)), f"{RATIO} times as packed"),
    "packed in no known way": (lambda: of_directory(zipped(an_object()), 10, "<H", 99), "stored or deflated"),
    "encrypted": (encrypted, "it is encrypted"),
    "one file 200 times": (over_each_other, "overlap"),
    "larger than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 5000), "damaged"),
    "smaller than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 2**32 - 2), "damaged"),
    "packed beyond its end": (lambda: of_directory(zipped(an_object()), 20, "<L", 2**32 - 2), "overlap"),
    "another file's check": (lambda: of_directory(zipped(an_object()), 16, "<L", 7), "damaged"),
    "a place beyond the end": (lambda: of_directory(zipped(an_object()), 42, "<L", 2**31), "overlap"),
    "more files than it says": (many_empty, f"more than {FILES} files"),
    "too many files": (lambda: of_files(FILES + 1), f"more than {FILES} files"),
    "ZIP64": (zip64, "ZIP64"),
    "no end": (lambda: b"PK\x03\x04" + bytes(400), "cannot be read"),
    "a ZIP in a ZIP": (lambda: bytes(zipped(bytes(zipped(an_object())))), "a ZIP in a ZIP"),
    "a picture of nobody": (lambda: bytes(zipped(b"\x89PNG" + bytes(99))), "does not say whose it is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_zip_that_is_not_what_it_seems_is_refused_in_little_memory(read: Read, case: str) -> None:
    make, why = REFUSED[case]
    refusals, spooled = read(make())
    assert [why in refusal for refusal in refusals] == [True], refusals
    assert spooled == 0


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_an_honest_zip_is_taken(read: Read, how: int) -> None:
    assert read(bytes(zipped(an_object(), how))) == ([""], 1)


def test_a_zip_may_have_so_many_files_and_each_has_its_answer(read: Read) -> None:
    refusals, spooled = read(of_files(FILES))
    assert len(refusals) == FILES
    assert all("none of the files that are taken" in refusal for refusal in refusals)
    assert spooled == 0


def test_an_upload_is_unpacked_to_its_limit_in_all(read: Read) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(str(number), an_object() + bytes(900_000))
    refusals, _ = read(data.getvalue(), upload_mib=3)
    assert "" in refusals
    assert "console.upload_mib" in refusals[-1]
