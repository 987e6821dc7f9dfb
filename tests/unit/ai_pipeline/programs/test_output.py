"""What is read of a program's output folder, and what is not."""

import os
import socket
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.programs import output
from ai_pipeline.programs.output import harmless_name, read_output

DICM = bytes(128) + b"DICM"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "output"
    made.mkdir()
    (made / "a.dcm").write_bytes(DICM)
    return made


@pytest.fixture
def opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_objects_come_in_the_order_of_their_names(folder: Path, opened: int) -> None:
    (folder / "b").mkdir()
    (folder / "b" / "1").write_bytes(DICM + b"1")
    (folder / "Z.DCM").write_bytes(b"no DICOM, and called so")
    (folder / "readme.txt").write_bytes(b"text")
    (folder / "result.json").write_bytes(b"{}")
    found = read_output(opened)
    assert [file.name for file in found.objects] == ["Z.DCM", "a.dcm", "b/1"]
    assert found.objects[2].content == DICM + b"1"
    assert (found.findings, found.result, found.others) == (None, b"{}", 1)


def linked(folder: Path) -> None:
    (folder / "b.dcm").symlink_to(folder / "a.dcm")


def linked_twice(folder: Path) -> None:
    (folder.parent / "of another patient").write_bytes(DICM)
    os.link(folder.parent / "of another patient", folder / "b.dcm")


def piped(folder: Path) -> None:
    os.mkfifo(folder / "b.dcm")


def listening(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "b.dcm"))


def made_a_device(folder: Path) -> None:
    try:
        os.mknod(folder / "b.dcm", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


def findings_piped(folder: Path) -> None:
    os.mkfifo(folder / "findings.json")


def many(folder: Path) -> None:
    for number in range(5):
        (folder / f"{number}.txt").touch()


def many_objects(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.dcm").write_bytes(DICM)


def large(folder: Path) -> None:
    (folder / "b.dcm").write_bytes(DICM + bytes(900))


def full_of_holes(folder: Path) -> None:
    with (folder / "b.dcm").open("wb") as file:
        file.truncate(1 << 40)


def deep(folder: Path) -> None:
    (folder / "b" / "c" / "d").mkdir(parents=True)


def closed(folder: Path) -> None:
    (folder / "b.dcm").write_bytes(DICM)
    (folder / "b.dcm").chmod(0)
    if not os.getuid():
        pytest.skip("root reads everything")


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link": (linked, "a DICOM object that is no file"),
    "a file with a second name": (linked_twice, "a DICOM object that is no file"),
    "a pipe": (piped, "a DICOM object that is no file"),
    "a socket": (listening, "a DICOM object that is no file"),
    "a device": (made_a_device, "a DICOM object that is no file"),
    "findings in a pipe": (findings_piped, "findings.json is no file"),
    "many files": (many, "more than 5 files"),
    "too many objects": (many_objects, "more than 2 DICOM objects"),
    "too many bytes": (large, "objects of more than 0 MiB"),
    "a terabyte of holes": (full_of_holes, "objects of more than 0 MiB"),
    "folders in folders": (deep, "folders more than 3 deep"),
    "a file without rights": (closed, "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused(
    folder: Path, opened: int, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(output, "MOST_FILES", 5)
    monkeypatch.setattr(output, "MOST_OBJECTS", 2)
    monkeypatch.setattr(output, "MOST_OBJECT_BYTES", 900)
    monkeypatch.setattr(output, "DEEPEST", 3)
    make, reason = HOSTILE[case]
    make(folder)
    with pytest.raises(ProgramFailed, match=reason):
        read_output(opened)


def test_of_a_hundred_thousand_files_no_more_are_listed_than_may_be(
    folder: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100_000):
        os.close(os.open(folder / f"{number}.txt", os.O_CREAT | os.O_WRONLY))
    looked_at = Mock(side_effect=output._is_file)
    monkeypatch.setattr(output, "_is_file", looked_at)
    with pytest.raises(ProgramFailed, match="more than 10000 files"):
        read_output(opened)
    assert not looked_at.called


def test_an_archive_is_no_object(folder: Path, opened: int) -> None:
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(1 << 24))
    found = read_output(opened)
    assert [file.name for file in found.objects] == ["a.dcm"]
    assert found.others == 1


def test_a_folder_that_took_the_place_of_the_output_is_not_read(folder: Path, opened: int) -> None:
    folder.rename(folder.parent / "away")
    folder.mkdir()
    (folder / "b.dcm").write_bytes(DICM)
    assert [file.name for file in read_output(opened).objects] == ["a.dcm"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("seg/1.dcm", "seg/1.dcm"), ("Müller^Anna\n.dcm", "M?ller?Anna?.dcm"), ("x" * 99, "x" * 64)],
    ids=["plain", "a name and a line", "long"],
)
def test_a_name_is_shown_without_what_could_harm(name: str, shown: str) -> None:
    assert harmless_name(name) == shown
