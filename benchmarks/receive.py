#!/usr/bin/env python3
"""Receiving: this node's listener beside storescp, Orthanc and a plain pynetdicom listener, in one run.

    benchmarks/receive.py [--quick] [--large] [--json FILE]

Every receiver is started fresh for every measurement; rounds are interleaved and the median is printed, so
read the ratios: this may be a shared machine. Ours answers Success when the object is on stable storage; the
others sync nothing (Orthanc's own sync is switched off, in its favour).

DCMTK and Orthanc write a response in two pieces with Nagle's algorithm on, and the sender's delayed ACK
holds back the second for 40 ms: 20 to 25 objects a second whatever their size. The senders here acknowledge
at once (TCP_QUICKACK), which removes that stall; the last table shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import receivers
from benchmarks.receivers import RECEIVERS, Receiver, running
from benchmarks.sender import Association, Run, associate, send_all
from dicom_node.dicom.uids import derived_uid

SOP_CLASS = str(DigitalXRayImageStorageForPresentation)
SMALL, LARGE = 512, 2500  # rows and columns of 16 bit: 0.5 and 12 MiB
# Prototype "C-STORE fast path, fdatasync file, grouped directory fsync" relative to others, by associations.
# The first version of the node is to be within a factor of 2 of it, and not slower than plain pynetdicom.
# One association has no aim: it waits for two flushes per object, which take what the disk takes.
PROTOTYPE = {
    "Orthanc, sync off": {4: 2.09, 8: 3.11},
    "storescp --fork": {4: 0.58, 8: 0.86},
    "pynetdicom as documented": {4: 1.91, 8: 3.95},
}
IDLE = 31


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds of one receiver with one number of associations."""

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, fewer objects")
    parser.add_argument("--large", action="store_true", help="12 MiB objects on one association as well")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    installed = [one for one in RECEIVERS if one.is_installed]
    rounds, count = (1, 100) if arguments.quick else (3, 300)
    with tempfile.TemporaryDirectory(prefix="receive-") as name:
        folder = Path(name)
        bench = _Bench(folder, installed, rounds)
        small = make_files(folder / "small", SMALL, count)
        rows = bench.measure(small, [1, 4] if arguments.quick else [1, 4, 8])
        print_rows(f"0.5 MiB objects, {count} each", rows)
        print_ratios(rows)
        large_rows: list[Row] = []
        if arguments.large:
            large_rows = bench.measure(make_files(folder / "large", LARGE, 20), [1])
            print_rows("12 MiB objects, 20 each", large_rows)
        idle = bench.idle([receivers.NODE, receivers.DOCUMENTED])
        stalled = bench.stalled(small[:40])
    if arguments.json:
        report = {
            "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
            "rows": [asdict(row) for row in rows + large_rows],
            "idle_cores": idle,
            "stalled_files_per_second": stalled,
        }
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    for error in sorted(set(bench.errors)):
        print(f"ERROR {error}", file=sys.stderr)
    return 1 if bench.errors else 0


class _Bench:
    def __init__(self, folder: Path, measured: Sequence[Receiver], rounds: int) -> None:
        self._folder = folder
        self._measured = measured
        self._rounds = rounds
        self._starts = 0
        self.errors: list[str] = []

    def measure(self, files: Sequence[Path], associations: Sequence[int]) -> list[Row]:
        """All receivers with all numbers of associations, interleaved round by round."""
        found: dict[tuple[Receiver, int], list[Row]] = {}
        for _ in range(self._rounds):
            for number in associations:
                for receiver in self._measured:
                    row = self._measure_once(receiver, files, number)
                    found.setdefault((receiver, number), []).append(row)
        return [_median(rows) for rows in found.values()]

    def idle(self, measured: Sequence[Receiver]) -> dict[str, float]:
        """Cores that 31 associations cost which do nothing."""
        print(f"\n{IDLE} idle associations")
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

    def stalled(self, files: Sequence[Path]) -> dict[str, float]:
        """Files per second where the sender delays its acknowledgements, as most senders do."""
        print("\n0.5 MiB objects, 1 association, sender with delayed ACK: files/s")
        speeds = {}
        for receiver in self._measured:
            with running(receiver, self._next_folder(), SOP_CLASS) as one:
                measured = send_all(Run(one.address, tuple(files), 1, quick_ack=False))
                speeds[receiver.name] = measured.files_per_second
            print(f"  {receiver.name:32}{speeds[receiver.name]:8.0f}")
        return speeds

    def _measure_once(self, receiver: Receiver, files: Sequence[Path], associations: int) -> Row:
        with running(receiver, self._next_folder(), SOP_CLASS) as one:
            one.settle()
            before = one.cpu_seconds()
            measured = send_all(Run(one.address, tuple(files), associations))
            memory = one.memory_bytes()
            one.settle()
            cpu = one.cpu_seconds() - before
        self.errors += [f"{receiver.name}: {error}" for error in measured.errors]
        return Row(
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
        self._starts += 1
        return self._folder / f"receiver-{self._starts}"


def make_files(folder: Path, size: int, count: int) -> list[Path]:
    """Digital X-rays of ``size`` × ``size`` × 16 bit, noise, one study."""
    folder.mkdir()
    noise = np.random.default_rng(7).integers(0, 4095, size * size, dtype=np.uint16)
    paths = []
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SOP_CLASS
        uid = derived_uid("benchmark", str(size), str(number))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
        ds.StudyInstanceUID = derived_uid("benchmark", "study", str(size))
        ds.SeriesInstanceUID = derived_uid("benchmark", "series", str(size))
        ds.PatientID, ds.PatientName, ds.Modality, ds.InstanceNumber = "BENCH", "Bench^Mark", "DX", number
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = np.roll(noise, number * 31).tobytes()
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """A table in Markdown."""
    print(f"\n{title}\n")
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


def print_ratios(rows: Sequence[Row]) -> None:
    """The node's files/s relative to the others, and what the first version is to reach."""
    speed = {(row.receiver, row.associations): row.files_per_second for row in rows}
    print("\nThis node relative to others, files/s (aim: half of what the prototype reached)\n")
    print("| other | associations | ratio | aim | met |")
    print("|---|---|---|---|---|")
    for (other, associations), theirs in sorted(speed.items(), key=lambda item: item[0][1]):
        if other not in PROTOTYPE:
            continue
        ratio = speed[receivers.NODE.name, associations] / theirs
        aim = PROTOTYPE[other].get(associations, 0.0) / 2
        if aim and other == receivers.DOCUMENTED.name:
            aim = max(aim, 1.0)
        met = "" if not aim else "yes" if ratio >= aim else "no"
        print(f"| {other} | {associations} | {ratio:.2f} | {f'{aim:.2f}' if aim else ''} | {met} |")


def _median(rows: Sequence[Row]) -> Row:
    def middle(field: str) -> float:
        return float(statistics.median(getattr(row, field) for row in rows))

    first = rows[0]
    numbers = list(asdict(first))[3:]
    return Row(first.receiver, first.durable, first.associations, *(middle(name) for name in numbers))


if __name__ == "__main__":
    sys.exit(main())
