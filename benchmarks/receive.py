#!/usr/bin/env python3
"""Receiving: this node's listener beside storescp, Orthanc and a plain pynetdicom listener, in one run.

    benchmarks/receive.py [--quick] [--json FILE]

Every receiver is started fresh for every measurement; rounds are interleaved and the median is printed, so
read the ratios: this may be a shared machine. Ours answers Success when the object is on stable storage, as
Orthanc does by default, and storescp with a library that syncs each file before it is closed (cc builds it);
storescp itself and pynetdicom as documented sync nothing.

DCMTK and Orthanc write a response in two pieces with Nagle's algorithm on, and the sender's delayed ACK
holds back the second for 40 ms: 20 to 25 objects a second whatever their size. The senders here acknowledge
at once (TCP_QUICKACK), which removes that stall.

"Bare sink" (sink.py) knows next to no DICOM: it counts the bytes of each object, writes them and makes them
durable as we do. What it costs is the price of the machine and of Python's threads.
"""

import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import receivers
from benchmarks.lab import command_line
from benchmarks.receivers import RECEIVERS, Receiver, running
from benchmarks.sender import Association, Run, associate, send_all
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.processes import NICENESS

SOP_CLASS = str(DigitalXRayImageStorageForPresentation)
# What the node is to reach, relative to the durable receivers of the same run.
AIMS = {"Orthanc": 2.5, "storescp, a sync per file": 1.0}
CPU_MS, IDLE_SHARE, BUSY_SHARE = 0.5, 0.01, 0.7
IDLE = 31


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds of one receiver with one number of associations."""

    objects: str
    receiver: str
    durable: str
    associations: int
    files_per_second: float
    megabytes_per_second: float
    p50_ms: float
    p95_ms: float
    cpu_ms_per_object: float
    memory_mib: float


def main() -> int:
    """Measure and print; exit status 1 when a sender met an error."""
    parser = command_line(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, fewer objects")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    installed = [one for one in RECEIVERS if one.is_installed]
    with tempfile.TemporaryDirectory(prefix="receive-") as name:
        folder = Path(name)
        bench = _Bench(folder, installed, 1 if arguments.quick else 3)
        part = 3 if arguments.quick else 1
        half = make_radiographs(folder / "0.5 MiB", 512, 320 // part)
        rows = bench.measure("0.5 MiB", half, [1, 4, 8, 32])
        rows += bench.measure("64 KiB", make_stills(folder / "64 KiB", 320 // part), [8])
        rows += bench.measure("12 MiB", make_radiographs(folder / "12 MiB", 2500, 24 // part), [1])
        for kind in dict.fromkeys(row.objects for row in rows):
            print_rows([row for row in rows if row.objects == kind])
        print_ratios(rows, receivers.NODE)
        busy = {receivers.NODE.name: bench.busy(half, receivers.NODE)}
        idle = bench.idle([receivers.NODE, receivers.DOCUMENTED])
    if arguments.json:
        report = {
            "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
            "rows": [asdict(row) for row in rows],
            "busy_share": busy,
            "idle_cores": idle,
        }
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    for error in sorted(set(bench.errors)):
        print(f"ERROR {error}", file=sys.stderr)
    return 1 if bench.errors else 0


class _Bench:
    """Measures receivers: starts each in a new folder, and sends it files. ``errors`` collects what senders
    reported.
    """

    def __init__(self, folder: Path, measured: Sequence[Receiver], rounds: int) -> None:
        """Prepare ``rounds`` measurements of each receiver in ``measured``, in folders below ``folder``."""
        self._folder = folder
        self._measured = measured
        self._rounds = rounds
        self._starts = 0
        self.errors: list[str] = []

    def measure(self, objects: str, files: Sequence[Path], associations: Sequence[int]) -> list[Row]:
        """Measure all receivers with each number of associations, all of them in each round; returns the
        medians over the rounds. ``objects``: what the files are, in words.
        """
        found: dict[tuple[Receiver, int], list[Row]] = {}
        for _ in range(self._rounds):
            for number in associations:
                for receiver in self._measured:
                    row = self._measure_once(receiver, objects, files, number)
                    found.setdefault((receiver, number), []).append(row)
        return [_median(rows) for rows in found.values()]

    def busy(self, files: Sequence[Path], receiver: Receiver) -> float:
        """The share of the speed of ``receiver`` that is left while as many processes compute as there are
        cores, with the low priority of workers.
        """
        alone, beside = [], []
        for _ in range(self._rounds):
            alone.append(self._measure_once(receiver, "", files, 8).files_per_second)
            with busy_processes(os.cpu_count() or 1):
                beside.append(self._measure_once(receiver, "", files, 8).files_per_second)
        share = statistics.median(beside) / statistics.median(alone)
        print(f"\nBeside busy workers, {receiver.name}, 8 associations:")
        print(f"  {share:.2f} of its speed alone (aim {BUSY_SHARE})")
        return share

    def idle(self, measured: Sequence[Receiver]) -> dict[str, float]:
        """Cores that 31 associations cost which do nothing."""
        print(f"\n{IDLE} idle associations (aim {100 * IDLE_SHARE:.0f} % of a core)")
        cores = {}
        for receiver in measured:
            with running(receiver, self._next_folder(), SOP_CLASS) as one:
                associations: list[Association] = [
                    associate(one.address, [(SOP_CLASS, [ExplicitVRLittleEndian])]) for _ in range(IDLE)
                ]
                time.sleep(1)
                before, began = one.cpu_seconds(), time.monotonic()
                time.sleep(5)
                cores[receiver.name] = (one.cpu_seconds() - before) / (time.monotonic() - began)
                for association in associations:
                    association.sock.close()
            print(f"  {receiver.name:32}{100 * cores[receiver.name]:6.1f} % of a core")
        return cores

    def _measure_once(
        self, receiver: Receiver, objects: str, files: Sequence[Path], associations: int
    ) -> Row:
        """Start the receiver, send it all files over so many associations, and return the figures."""
        with running(receiver, self._next_folder(), SOP_CLASS) as one:
            one.settle()
            before = one.cpu_seconds()
            measured = send_all(Run(one.address, tuple(files), associations))
            memory = one.memory_bytes()
            one.settle()
            cpu = one.cpu_seconds() - before
        self.errors += [f"{receiver.name}: {error}" for error in measured.errors]
        return Row(
            objects=objects,
            receiver=receiver.name,
            durable=receiver.durable,
            associations=associations,
            files_per_second=measured.files_per_second,
            megabytes_per_second=measured.megabytes_per_second,
            p50_ms=measured.p50_ms,
            p95_ms=measured.p95_ms,
            cpu_ms_per_object=1000 * cpu / max(measured.objects, 1),
            memory_mib=memory / 2**20,
        )

    def _next_folder(self) -> Path:
        """The path of a folder that no receiver had before."""
        self._starts += 1
        return self._folder / f"receiver-{self._starts}"


@contextlib.contextmanager
def busy_processes(processes: int) -> Iterator[None]:
    """Context manager: so many processes compute without end, as low in priority as workers do."""
    spin = f"import os\nos.nice({NICENESS})\nwhile True: sum(range(100000))"
    running = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def make_radiographs(folder: Path, size: int, count: int) -> list[Path]:
    """Write ``count`` digital X-rays of ``size`` × ``size`` pixels of 16 bits noise, all of one study;
    returns their files.
    """
    noise = np.random.default_rng(7).integers(0, 4095, size * size, dtype=np.uint16)

    def fill(ds: Dataset, number: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = np.roll(noise, number * 31).tobytes()

    return _make_files(folder, (SOP_CLASS, ExplicitVRLittleEndian, "DX", size), count, fill)


def make_stills(folder: Path, count: int) -> list[Path]:
    """Write ``count`` ultrasound stills of 480 × 480 random speckle, as baseline JPEG of 64 KiB; returns
    their files.
    """
    noise = np.random.default_rng(7).rayleigh(42, (480, 480)).clip(0, 255).astype(np.uint8)

    def fill(ds: Dataset, number: int) -> None:
        stream = io.BytesIO()
        Image.fromarray(np.roll(noise, number * 31)).save(stream, "JPEG", quality=60)
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = encapsulate([stream.getvalue()])

    return _make_files(folder, (str(UltrasoundImageStorage), JPEGBaseline8Bit, "US", 480), count, fill)


def _make_files(
    folder: Path, kind: tuple[str, UID, str, int], count: int, fill: Callable[[Dataset, int], None]
) -> list[Path]:
    """Write ``count`` DICOM files of one study into a new folder. ``kind``: SOP class, transfer syntax,
    modality, and side of the image in pixels; ``fill``: sets the pixels of the data set with a number.
    """
    folder.mkdir()
    sop_class, syntax, modality, size = kind
    paths = []
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
        uid = derived_uid("benchmark", modality, str(size), str(number))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
        ds.StudyInstanceUID = derived_uid("benchmark", "study", modality, str(size))
        ds.SeriesInstanceUID = derived_uid("benchmark", "series", modality, str(size))
        ds.PatientID, ds.PatientName, ds.Modality, ds.InstanceNumber = "BENCH", "Bench^Mark", modality, number
        ds.Rows = ds.Columns = size
        fill(ds, number)
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def print_rows(rows: Sequence[Row]) -> None:
    """A table in Markdown of one kind of object."""
    print(f"\n### {rows[0].objects} objects\n")
    print(
        "| receiver | durable | associations | files/s | MB/s | p50 ms | p95 ms | CPU ms/object | RSS MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: row.associations):
        print(
            f"| {row.receiver} | {row.durable} | {row.associations} | {row.files_per_second:.0f} "
            f"| {row.megabytes_per_second:.0f} | {row.p50_ms:.1f} | {row.p95_ms:.1f} "
            f"| {row.cpu_ms_per_object:.2f} | {row.memory_mib:.0f} |"
        )


def print_ratios(rows: Sequence[Row], ours: Receiver) -> None:
    """Our files/s relative to the others, with what we are to reach."""
    speed = {(row.objects, row.associations, row.receiver): row.files_per_second for row in rows}
    print(f"\n### {ours.name.capitalize()} relative to others, files/s\n")
    print("| objects | associations | other | ratio | aim | met |")
    print("|---|---|---|---|---|---|")
    for (objects, associations, other), theirs in speed.items():
        if other == ours.name:
            continue
        ratio = speed[objects, associations, ours.name] / theirs
        aim = AIMS.get(other)
        met = "" if aim is None else "yes" if ratio >= aim else "no"
        print(
            f"| {objects} | {associations} | {other} | {ratio:.2f} | {'' if aim is None else aim} | {met} |"
        )
    cpu = min(row.cpu_ms_per_object for row in rows if row.objects == "0.5 MiB" and row.receiver == ours.name)
    print(f"\nProcessor time of a 0.5 MiB object, {ours.name}: {cpu:.2f} ms at best (aim {CPU_MS})")


def _median(rows: Sequence[Row]) -> Row:
    """The row with the median of each figure in ``rows``, which measured the same."""

    def middle(field: str) -> float:
        return float(statistics.median(getattr(row, field) for row in rows))

    first = rows[0]
    numbers = list(asdict(first))[4:]
    return Row(
        first.objects, first.receiver, first.durable, first.associations, *(middle(name) for name in numbers)
    )


if __name__ == "__main__":
    sys.exit(main())
