"""A storage SCP that writes what comes and prints what reports say: python receive.py FOLDER --port PORT"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

SUCCESS, CANNOT_UNDERSTAND = 0x0000, 0xC000


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("folder", type=Path, help="where files are written")
    words.add_argument("--host", default="127.0.0.1", help="the address that it listens at; all: 0.0.0.0")
    words.add_argument("--port", default=11113, type=int)
    words.add_argument("--title", default="RECEIVER", help="its AE title")
    given = words.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    ae = AE(given.title)
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    print(f"{given.title} at {given.host}:{given.port}, until Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        ae.start_server((given.host, given.port), evt_handlers=[(evt.EVT_C_STORE, store, [given.folder])])


def store(event: evt.Event, folder: Path) -> int:
    """Write the object, say what it is, and answer with a status of PS3.4 B.2.3."""
    uid = event.request.AffectedSOPInstanceUID
    if not uid.is_valid:  # it becomes the name of a file
        return CANNOT_UNDERSTAND
    (folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
    received = event.dataset
    print(received.Modality, received.get("SeriesDescription", ""), flush=True)
    for line in said(received):
        print(f"    {line}", flush=True)
    return SUCCESS


def said(item: Dataset) -> Iterator[str]:
    """The conclusion of a report, and its numbers; nothing of what is no report."""
    name = item.ConceptNameCodeSequence[0].CodeMeaning if item.get("ConceptNameCodeSequence") else ""
    if name == "Conclusion":
        yield from item.TextValue.splitlines()
    elif item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
        measured = item.MeasuredValueSequence[0]
        yield f"{name}: {measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    if name != "Image Library":  # which describes the images
        for child in item.get("ContentSequence") or []:
            yield from said(child)


if __name__ == "__main__":
    main()
