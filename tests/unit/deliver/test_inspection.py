"""An object is inspected before it is sent: the bytes that were built, to the peer that it was made for."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER, ResultKind
from dicom_node.base.store.tables import Delivery, Result
from tests.modality import assign
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.result_reading import coded


def move(outbox: Outbox, folder: Path, uid: str) -> None:
    """Put the file where de-identified results lie."""
    old = outbox.file_of(uid)
    new = folder / DEIDENTIFIED_FOLDER / old.name
    new.parent.mkdir(exist_ok=True)
    shutil.move(old, new)
    sha256 = hashlib.sha256(new.read_bytes()).hexdigest()
    outbox.put(Result, 1, path=str(new.relative_to(folder)), sha256=sha256, deidentified=True)


def mark(outbox: Outbox, folder: Path, uid: str, *methods: str) -> None:
    """Let the object say that it is de-identified, and by which ``methods``, in a study of its own."""
    path = outbox.file_of(uid)
    done = [coded(method, "DCM", "Method") for method in methods or ("113100",)]
    ds = assign(dcmread(path), DeidentificationMethodCodeSequence=done, PatientIdentityRemoved="YES")
    assign(ds, StudyInstanceUID="2.25.4711").save_as(path)
    move(outbox, folder, uid)


SEALED = {"deidentify": True, "results": ("cleaned", "seg", "sr")}


@pytest.mark.parametrize(
    ("peer", "make", "refused"),
    [
        (SEALED, lambda *_: None, "names the patient"),
        (SEALED, move, ""),
        (SEALED, mark, None),
        (SEALED | {"pseudonym_domain": "own"}, mark, "pseudonyms of another domain"),
        (SEALED | {"retain": []}, lambda *where: mark(*where, "113100", "113108"), ""),
        (SEALED | {"retain": ["modified_dates"]}, lambda *where: mark(*where, "113100", "113108"), ""),
        (SEALED | {"retain": ["patient_characteristics"]},
         lambda *where: mark(*where, "113100", "113108"), None),
        ({}, mark, ""),
    ],
    ids=["an original", "an original in the folder of the deidentified", "its own study",
         "pseudonyms of a former domain", "keeps more", "keeps others", "keeps what it may", "another peer"],
)  # fmt: skip
def test_a_deidentified_object_goes_to_the_peer_that_it_was_made_for_and_nothing_else_does(
    tmp_path: Path, peer: dict[str, Any], make: Callable[[Outbox, Path, str], object], refused: str | None
) -> None:
    with run_pacs(Pacs()) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", **peer)])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        make(outbox, tmp_path, uid)
        outbox.run_until("confirmed" if refused is None else "dead")
        assert pacs.received == pacs.questions == ([uid] if refused is None else [])
        assert (refused or "") in outbox.rows(Delivery)[0].reason
