"""All DICOM files of a folder through one node into a real Orthanc; results judged by the programs of others.

dciodvfy, DCMTK's dcmpschk and PixelMed's DicomSRValidator must find no error. A UID of a source that is none
is excused, and nothing else: results must name their sources. Takes the better part of an hour for the 162
files of the public set, so it is run by hand: ``python benchmarks/conformance.py FOLDER --out DIR``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line, configuration, rule
from dicom_node.results import is_own_result
from tests.conformance.test_results import PIXELMED
from tests.node_lab import Node, running, store
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import Orthanc, start_orthanc

RESULTS = ("sr", "gsps", "sc", "summary", "heatmap", "cleaned", "seg")
AT_WORK = {"receiving", "complete", "queued", "running", "delivering"}
# References repeat what the source is called; PS3.5 9.1 allows no such UID, but no other finds the image.
SOURCE_UID = re.compile(r"Illegal root for UID|Leading zeroes in embedded numeric component")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, help="DICOM files, in folders too")
    parser.add_argument("--out", type=Path, required=True, help="sources that were taken, and results")
    args = parser.parse_args()
    (args.out / "sources").mkdir(parents=True, exist_ok=True)
    (args.out / "results").mkdir(exist_ok=True)
    with (
        start_orthanc(args.out / "pacs") as pacs,
        running(Node(args.out / "node", for_modalities_of(args.folder, pacs))) as node,
    ):
        sent = sum(send(node, path, args.out / "sources") for path in files(args.folder))
        studies = settled(node)
        fetch(pacs, args.out / "results")
    print(f"{sent} files accepted; studies: {dict(Counter(studies))}")
    results = sorted((args.out / "results").iterdir())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = [line for found in pool.map(judge, results) for line in found]
    print("\n".join(errors) or f"{len(results)} results, no error")
    return int(bool(errors))


def for_modalities_of(folder: Path, pacs: Orthanc) -> str:
    """Each modality in ``folder`` goes through a pipeline."""
    found = {str(read.get("Modality") or "") for read in map(header, files(folder)) if read}
    others = sorted(one for one in found - {"CR", "DX", ""} if re.fullmatch("[A-Z]{2,16}", one))
    rules = (
        rule("chest_xray", ["CR", "DX"], "tell_pacs_refusals = true"),
        rule("ultrasound", others, "options = { any_modality = true }"),
    )
    return configuration(pacs.dicom_port, *rules, quiet=1, results=RESULTS)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv")


def header(path: Path) -> pydicom.Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError):
        return None


def send(node: Node, path: Path, taken: Path) -> bool:
    """Whether the node took the file; a copy goes to ``taken`` then."""
    try:
        (status,) = store(node.port, [path], "MODALITY")
    except (AttributeError, InvalidDicomError, ValueError, KeyError) as error:
        print(f"{path.name}: cannot be sent: {type(error).__name__}")
        return False
    if status != 0x0000:
        print(f"{path.name}: status {status}")
        return False
    (taken / path.name).write_bytes(path.read_bytes())
    return True


def settled(node: Node) -> list[str]:
    """States of the studies when nothing is left to do."""
    while True:
        states = [study["state"] for study in node.studies().values()]
        if states and not AT_WORK & set(states):
            return states
        print(f"{time.strftime('%H:%M:%S')} {dict(Counter(states))}", flush=True)
        time.sleep(10)


def fetch(pacs: Orthanc, folder: Path) -> None:
    for uid in pacs.instances():
        data = pacs.fetch(uid)
        path = folder / f"{uid}.dcm"
        path.write_bytes(data)
        if not is_own_result(pydicom.dcmread(path, stop_before_pixels=True)):
            path.unlink()


def judge(path: Path) -> list[str]:
    """Errors of one result, each with its file."""
    modality = pydicom.dcmread(path, stop_before_pixels=True).Modality
    found = [line for line in dciodvfy_errors(path) if not SOURCE_UID.search(line)]
    if modality == "PR":
        found += dcmpschk(path)
    if modality == "SR":
        found += [line for line in run([*PIXELMED, str(path)]) if line.startswith("Error")]
    return [f"{path.name} {modality}: {line}" for line in found]


def dcmpschk(path: Path) -> list[str]:
    """Its error lines, unless all of them are of a source's UID (it says the VR two lines below each)."""
    lines = run(["dcmpschk", str(path)])
    errors, of_uids = (sum(word in line for line in lines) for word in ("Error:", "Type UI"))
    passed = any("Test passed" in line for line in lines)
    return [] if passed or errors == of_uids > 0 else lines


def run(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()


if __name__ == "__main__":
    sys.exit(main())
