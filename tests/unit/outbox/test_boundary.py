"""What names a patient does not reach a de-identified destination, whatever the tables say."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import ResultKind
from dicom_node.store.tables import Result
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port

KINDS = ("cleaned", "seg", "sr")


def test_an_original_never_goes_to_a_deidentified_peer(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", deidentify=True, results=KINDS)])
        outbox.add_study(["archive"], [ResultKind.SR])
        outbox.run_until("dead")
        assert "names the patient" in outbox.rows()[0]["reason"]
        assert pacs.received == []


def test_an_original_in_the_folder_of_the_deidentified_does_not_go_either(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", deidentify=True, results=KINDS)])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        move(outbox, tmp_path, uid)
        outbox.run_until("dead")
        assert pacs.received == []


def test_a_deidentified_object_goes_under_its_own_study_and_is_found_there(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", deidentify=True, results=KINDS)])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        mark(outbox, tmp_path, uid)
        outbox.run_until("confirmed")
        assert pacs.received == pacs.questions == [uid]


def test_an_object_with_pseudonyms_of_another_domain_does_not_go(tmp_path: Path) -> None:
    """The peer got a domain of its own while objects of the former waited for it."""
    with run_pacs(Pacs(free_port())) as pacs:
        peer = pacs.peer("archive", deidentify=True, results=KINDS, pseudonym_domain="own")
        outbox = Outbox(tmp_path, [peer])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        mark(outbox, tmp_path, uid)
        outbox.run_until("dead")
        assert "pseudonyms of another domain" in outbox.rows()[0]["reason"]
        assert pacs.received == []


@pytest.mark.parametrize(("retain", "goes"), [([], False), (["device"], False), (["descriptors"], True)])
def test_an_object_that_keeps_more_than_the_peer_may_know_does_not_go(
    tmp_path: Path, retain: list[str], goes: bool
) -> None:
    """It was built before the peer's ``retain`` was changed."""
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", deidentify=True, results=KINDS, retain=retain)])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        mark(outbox, tmp_path, uid, "113100", "113105")
        outbox.run_until("confirmed" if goes else "dead")
        assert pacs.received == ([uid] if goes else [])


def test_a_deidentified_object_goes_to_no_other_peer(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("pacs")])
        (uid,) = outbox.add_study(["pacs"], [ResultKind.SR])
        mark(outbox, tmp_path, uid)
        outbox.run_until("dead")
        assert pacs.received == []


def move(outbox: Outbox, folder: Path, uid: str) -> Path:
    """Put the file where de-identified results lie."""
    old = outbox.file_of(uid)
    new = folder / DEIDENTIFIED_FOLDER / old.name
    new.parent.mkdir(exist_ok=True)
    shutil.move(old, new)
    with outbox.database.write() as session:
        row = session.scalars(select(Result).where(Result.sop_instance_uid == uid)).one()
        row.path = str(new.relative_to(folder))
        row.sha256 = hashlib.sha256(new.read_bytes()).hexdigest()
        row.deidentified = True
    return new


def mark(outbox: Outbox, folder: Path, uid: str, *methods: str) -> None:
    """Let the object say that it is de-identified, and by which ``methods``, in a study of its own."""
    path = outbox.file_of(uid)
    ds = dcmread(path)
    codes = [Dataset() for _ in methods or ("113100",)]
    for code, method in zip(codes, methods or ("113100",), strict=True):
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = method, "DCM", "Method"
    ds.PatientIdentityRemoved, ds.DeidentificationMethodCodeSequence = "YES", codes
    ds.StudyInstanceUID = "2.25.4711"
    ds.save_as(path)
    move(outbox, folder, uid)
