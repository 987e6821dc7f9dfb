"""The power fails at any moment: every write, sync, rename and removal of the spool is recorded."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.errors import SpoolError
from dicom_node.receive.spool import Arrival, Spool


@dataclass
class Recorder:
    """What was done to the disk, in order: (kind, file or name, further)."""

    done: list[tuple[str, Any, Any]] = field(default_factory=list)
    files: dict[int, int] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: int = 0

    def note(self, kind: str, what: Any, further: Any = None) -> None:
        with self.lock:
            self.done.append((kind, what, further))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Put a recorder before each call that changes the disk."""
        real = {name: getattr(os, name) for name in CALLS}
        for name, call in CALLS.items():
            patch.setattr(os, name, lambda *a, _call=call, _real=real[name], **k: _call(self, _real, *a, **k))


def _open(on: Recorder, real: Callable[..., int], path: Any, flags: int, *mode: Any, **further: Any) -> int:
    with on.lock:
        file = real(path, flags, *mode, **further)
        if flags & os.O_CREAT:
            on.numbers += 1
            on.files[file] = on.numbers
            on.note("create", on.numbers, Path(path).name)
        elif flags & os.O_DIRECTORY:
            on.folders.add(file)
    return file


def _close(on: Recorder, real: Callable[..., None], file: int) -> None:
    with on.lock:
        on.files.pop(file, None)
        on.folders.discard(file)
        real(file)


def _write(on: Recorder, real: Callable[..., int], file: int, data: Any, *at: int) -> int:
    """``write``, and ``pwrite`` at a place."""
    if file not in on.files:
        return real(file, data, *at)
    with on.lock:
        place = at[0] if at else os.lseek(file, 0, os.SEEK_CUR)
        count = real(file, data, *at)
        on.note("write", on.files[file], (place, bytes(data)[:count]))
    return count


def _sync(on: Recorder, real: Callable[..., None], file: int) -> None:
    if file not in on.files and file not in on.folders:
        return real(file)
    with on.lock:
        covers = len(on.done)  # what was done before the sync began
        number = on.files.get(file)
    real(file)
    on.note("sync" if number else "sync folder", number, covers)
    return None


def _named(kind: str) -> Callable[..., None]:
    """A call that is noted with the names of its files."""

    def call(on: Recorder, real: Callable[..., None], *paths: Any, **further: Any) -> None:
        with on.lock:
            real(*paths, **further)
            on.note(kind, *(Path(path).name for path in paths))

    return call


CALLS: dict[str, Callable[..., Any]] = {
    "open": _open,
    "close": _close,
    "write": _write,
    "pwrite": _write,
    "fdatasync": _sync,
    "fsync": _sync,
    "rename": _named("rename"),
    "unlink": _named("unlink"),
}


def arrive(spool: Spool, number: int) -> tuple[str, bytes]:
    """One object in three fragments; its spool name and data set."""
    data = random.Random(number).randbytes(3000)
    incoming = spool.open(
        Arrival(f"a-{number}", "SENDER", "AINODE", "127.0.0.1", 0, datetime.now(UTC)),
        "1.2.840.10008.5.1.4.1.1.6.1",
        "1.2.3",
        "1.2.840.10008.1.2.1",
    )
    for start in range(0, 3000, 1000):
        incoming.write(data[start : start + 1000])
    return incoming.commit(), data


def disks(done: list[tuple[str, Any, Any]], moment: int, chance: random.Random) -> Iterator[dict[str, bytes]]:
    """What may be on the disk after the first ``moment`` changes: content by name."""
    past = done[:moment]
    synced = {number: covers for kind, number, covers in past if kind == "sync"}
    named = max([covers for kind, _, covers in past if kind == "sync folder"], default=0)
    of_entries = ("create", "rename", "unlink")
    loose = [at for at, (kind, *_) in enumerate(past) if at >= named and kind in of_entries]
    for kept in ([], loose, loose[: chance.randrange(len(loose) + 1)]):
        until = kept[-1] + 1 if kept else named
        for survives in (lambda: False, lambda: True, lambda: chance.random() < 0.5):
            content: dict[int, bytearray] = {}
            for at, (kind, number, further) in enumerate(past):
                if kind == "write" and (at < synced.get(number, 0) or survives()):
                    start, data = further
                    file = content.setdefault(number, bytearray())
                    file.extend(bytes(max(0, start + len(data) - len(file))))
                    file[start : start + len(data)] = data
            yield {name: bytes(content.get(number, b"")) for name, number in entries(past[:until]).items()}


def entries(done: list[tuple[str, Any, Any]]) -> dict[str, int]:
    """Number of the file by its name."""
    names: dict[str, int] = {}
    for kind, what, further in done:
        if kind == "create":
            names[further] = what
        elif kind == "rename":
            names[further] = names.pop(what)
        elif kind == "unlink":
            names.pop(what)
    return names


@pytest.mark.parametrize("senders", [1, 4])
def test_after_a_power_loss_acknowledged_objects_are_whole_and_no_part_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, senders: int
) -> None:
    spool, recorder = Spool(tmp_path, 0), Recorder()
    sent: dict[str, bytes] = {}

    def send(first: int) -> None:
        for number in range(first, first + 3):
            name, data = arrive(spool, number)
            sent[f"{name}.dcm"] = data
            recorder.note("acknowledged", f"{name}.dcm")

    with monkeypatch.context() as patch:
        recorder.watch(patch)
        threads = [threading.Thread(target=send, args=(10 * sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done, chance = recorder.done, random.Random(senders)
    assert sum(kind == "acknowledged" for kind, *_ in done) == 3 * senders
    for moment in range(len(done) + 1):
        acknowledged = {what for kind, what, _ in done[:moment] if kind == "acknowledged"}
        for disk in disks(done, moment, chance):
            visible = {name for name in disk if not name.startswith(".")}
            assert acknowledged <= visible
            for name in visible:
                assert disk[name].endswith(sent[name]), "there in part"
                assert disk[name][128:132] == b"DICM"


def test_a_file_whose_sync_failed_is_given_up_and_never_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux forgets the error of a failed fsync: a second one would say Success for bytes that are lost."""
    asked: list[int] = []

    def fails(file: int) -> None:
        asked.append(file)
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path, 0)
    with monkeypatch.context() as patch, pytest.raises(SpoolError):
        patch.setattr(os, "fdatasync", fails)
        arrive(spool, 1)
    assert len(asked) == 1
    assert spool.pending() == []
    spool.remove_leftovers()
    assert not list((tmp_path / "incoming").iterdir())
