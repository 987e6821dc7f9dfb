"""Results in the form that each destination wants, and key objects of what each destination gets."""

from collections.abc import Callable
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.base.lifecycle import RejectionReason
from dicom_node.base.store.tables import Result, Withdrawal
from dicom_node.people import withdrawal
from tests.inbox_lab import Inbox
from tests.modality import quick_ultrasound, ultrasound
from tests.peers import a_peer
from tests.unit.jobs.worker_lab import analysed_deidentified, configuration, confirm, waiting_for

Make = Callable[..., Inbox]
WRONG_FILM: dict[str, Any] = {"reason": RejectionReason.QUALITY, "because": "wrong film"}
JAPANESE = ["", "ISO 2022 IR 87"]


def sets(node: Inbox, name: str) -> set[tuple[str, str]]:
    """Kind and character set of what goes to this destination."""
    files = {node.folder / row.path: str(row.kind) for row in waiting_for(node)[name]}
    return {(kind, str(dcmread(file)["SpecificCharacterSet"].value)) for file, kind in files.items()}


@pytest.mark.parametrize("do", ["find", "not_decode"])
def test_an_old_destination_changes_no_other_ones_results(do: str, open_inbox: Make) -> None:
    config = configuration(do)
    config["peers"][1] |= {"iocm": True, "results": ["sr"]}
    config["peers"].append(config["peers"][1] | a_peer("old", charset="source"))
    config["rules"][0]["send_to"] = ["pacs", "old"]
    node, image = open_inbox(config), quick_ultrasound("one")
    image.SpecificCharacterSet, image.PatientName = JAPANESE, "Yamada^Tarou=山田^太郎"
    analysed_deidentified(node, image)
    charsets = {"pacs": "ISO_IR 192", "old": str(JAPANESE)}
    for name, charset in charsets.items():
        assert sets(node, name) == {("sr", charset)}
    confirm(node)
    assert withdrawal.withdraw_results(node.settings, str(image.StudyInstanceUID), None, **WRONG_FILM) == {}
    for name, charset in charsets.items():
        assert sets(node, name) == {("sr", charset), ("rejection", charset)}


@pytest.mark.parametrize(
    ("form", "own"),
    [
        pytest.param({"viewer": "ohif"}, {"sr"}, id="viewer"),
        pytest.param({"outlines": "sr"}, {"sr"}, id="outlines"),
        pytest.param({"outlines": "none"}, set(), id="no outlines"),
    ],
)
def test_a_destination_gets_the_report_in_its_form_and_shares_all_else(
    form: dict[str, str], own: set[str], open_inbox: Make
) -> None:
    config = configuration("find")
    config["peers"][1] |= {"results": ["sr", "gsps"]}
    config["peers"].append(config["peers"][1] | a_peer("reader", **form))
    config["rules"][0]["send_to"] = ["pacs", "reader"]
    waiting = analysed_deidentified(open_inbox(config), ultrasound("one"))
    pacs, reader = ({row.kind.value: row.path for row in waiting[name]} for name in ("pacs", "reader"))
    assert pacs.keys() == reader.keys() == {"sr", "gsps"}
    assert {kind for kind in pacs if pacs[kind] != reader[kind]} == own


def test_key_objects_name_what_their_destination_gets_and_are_withdrawn_with_it(open_inbox: Make) -> None:
    config = configuration("find")
    config["peers"][1] |= {"results": ["sr", "gsps"]}
    config["peers"].append(config["peers"][1] | a_peer("all", results=["sr", "gsps", "kos"]))
    config["peers"].append(config["peers"][1] | a_peer("less", results=["sr", "kos"]))
    config["rules"][0]["send_to"] = ["pacs", "all", "less"]
    node, image = open_inbox(config), ultrasound("one")
    waiting = analysed_deidentified(node, image)
    pacs, everything, less = (
        {row.kind.value: row for row in waiting[name]} for name in ("pacs", "all", "less")
    )
    assert (pacs.keys(), everything.keys()) == ({"sr", "gsps"}, {"sr", "gsps", "kos"})
    assert less.keys() == {"sr", "kos"}
    assert pacs["sr"].id == everything["sr"].id == less["sr"].id, "reports are shared"
    for mine, of_others in ((everything, less), (less, everything)):
        file = dcmread(node.folder / mine["kos"].path)
        named = {
            str(ref.ReferencedSOPInstanceUID)
            for item in file.ContentSequence
            for ref in item.get("ReferencedSOPSequence", [])
        }
        assert named == {row.sop_instance_uid for kind, row in mine.items() if kind != "kos"}
        assert mine["kos"].id != of_others["kos"].id
    overlay = [everything["gsps"].id]
    withdrawal.withdraw_results(node.settings, str(image.StudyInstanceUID), overlay, **WRONG_FILM)
    assert kinds_withdrawn(node) == {"gsps", "kos"}


def kinds_withdrawn(node: Inbox) -> set[str]:
    """Kinds of the results that were withdrawn."""
    kinds = {row.id: row.kind.value for row in node.rows(Result)}
    return {kinds[row.result_id] for row in node.rows(Withdrawal)}


def test_a_reader_with_ohif_gets_identifiers_that_ohif_knows(open_inbox: Make) -> None:
    config = configuration("find")
    config["peers"].append(config["peers"][1] | a_peer("reader", viewer="ohif", results=["sr"]))
    config["rules"][0]["send_to"] = ["pacs", "reader"]
    node = open_inbox(config)
    waiting = analysed_deidentified(node, ultrasound("one"))
    knows = {
        name: b"Cornerstone3DTools" in (node.folder / row.path).read_bytes()
        for name, rows in waiting.items()
        for row in rows
        if row.kind == "sr"
    }
    assert knows == {"pacs": False, "reader": True}
