"""Send DICOM files by C-STORE, as a modality does: python send.py PATH... --host HOST --port PORT"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE
from pynetdicom.association import Association

PRIORITIES = {
    "routine": 0x0000,
    "stat": 0x0001,
    "low": 0x0002,
}  # PS3.7 9.3.1.1; pynetdicom sends low by default


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with all below"
    )
    words.add_argument("--host", default="127.0.0.1")
    words.add_argument("--port", default=11112, type=int)
    words.add_argument("--to", default="AINODE", help="AE title of the receiver")
    words.add_argument(
        "--from", default="SENDER", dest="own", help="AE title of the sender: must be a peer there"
    )
    words.add_argument("--priority", default="routine", choices=list(PRIORITIES), help="STAT, routine or low")
    given = words.parse_args()
    files = dict(dicom_files(given.paths))
    if not files:
        print("there is no DICOM file to send", file=sys.stderr)
        return 1
    ae = AE(given.own)
    # One presentation context for each pair: the receiver cannot choose a transfer syntax that no file has.
    for sop_class, syntax in sorted(set(files.values())):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate(given.host, given.port, ae_title=given.to)
    if not association.is_established:
        print(f"no association with {given.to} at {given.host}:{given.port}", file=sys.stderr)
        return 1
    refused = [path for path in files if not store(association, path, PRIORITIES[given.priority])]
    association.release()
    return 1 if refused else 0


def dicom_files(paths: Iterable[Path]) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Each DICOM file with SOP class and transfer syntax; anything else is named and left out."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                try:
                    meta = read_file_meta_info(file)
                except InvalidDicomError:
                    print(f"no DICOM: {file}", file=sys.stderr)
                else:
                    yield file, (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)


def store(association: Association, path: Path, priority: int) -> bool:
    """Send one file. Success is 0000, and Bxxx a warning: the object is stored (PS3.4 B.2.3)."""
    try:
        status = association.send_c_store(path, priority=priority).get("Status")
    except (ValueError, RuntimeError) as error:  # no context was accepted for it; the association is gone
        print(f"not sent: {path}: {error}", file=sys.stderr)
        return False
    print("no answer" if status is None else f"{status:04X}", path, flush=True)
    return status is not None and (status == 0x0000 or status >> 12 == 0xB)


if __name__ == "__main__":
    sys.exit(main())
