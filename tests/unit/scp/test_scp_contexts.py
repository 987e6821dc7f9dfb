"""The tables of what is accepted: complete, in the order of the requirement, and named by the standard."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydicom.uid import UID, UID_dictionary
from pynetdicom import build_context

from ai_pipeline.errors import CodestreamFault
from ai_pipeline.images.codestreams import check_decodable
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, SyntaxKind
from dicom_node.scp.contexts import (
    STORAGE_CLASSES,
    accepted_classes,
    presentation_contexts,
    refusals,
    refused_class,
)
from dicom_node.scp.statuses import REJECTIONS, STATUSES

# Pixel data elsewhere, real-time video, never for the network.
NOT_FOR_STORAGE = ("JPIP", "SMPTE", "RFC 2557", "XML", "Papyrus")


def test_ultrasound_and_x_ray_are_there_with_their_retired_uids() -> None:
    wanted = {"6.1", "3.1", "6", "3", "1", "1.1", "1.1.1", "7", "7.1", "7.2", "7.3", "7.4"}
    uids = {one.uid for one in STORAGE_CLASSES}
    assert {f"1.2.840.10008.5.1.4.1.1.{end}" for end in wanted} <= uids


def test_every_syntax_of_the_standard_is_accepted_that_can_carry_an_object() -> None:
    standard = {
        uid
        for uid, entry in UID_dictionary.items()
        if entry[1] == "Transfer Syntax" and not entry[0].startswith(NOT_FOR_STORAGE)
    }
    assert {one.uid for one in TRANSFER_SYNTAXES} == standard


def test_no_uid_stands_twice() -> None:
    for table in (STORAGE_CLASSES, TRANSFER_SYNTAXES):
        assert len({one.uid for one in table}) == len(table)


def test_the_order_is_the_order_of_preference() -> None:
    kinds = list(dict.fromkeys(one.kind for one in TRANSFER_SYNTAXES))
    assert kinds == list(SyntaxKind)


def test_what_is_called_decoded_here_is_and_nothing_else() -> None:
    for one in TRANSFER_SYNTAXES:
        if one.kind in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT):
            with pytest.raises(CodestreamFault, match="cannot be decoded"):
                check_decodable(UID(one.uid))
        else:
            check_decodable(UID(one.uid))


def test_the_table_needs_nothing_that_pynetdicom_adds_to_the_dictionary_of_pydicom() -> None:
    """The process that inspects objects, and workers, do not import pynetdicom."""
    program = (
        "import sys; from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES as table;"
        "assert 'pynetdicom' not in sys.modules;"
        "print(*(f'{one.uid}={one.name}' for one in table), sep=chr(10))"
    )
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert alone.stdout.splitlines() == [f"{one.uid}={one.name}" for one in TRANSFER_SYNTAXES]


def test_further_classes_are_added_once() -> None:
    first = STORAGE_CLASSES[0].uid
    assert accepted_classes(["1.2.3", first, "1.2.3"]) == (*accepted_classes(), "1.2.3")
    assert "1.2.3" in [str(context.abstract_syntax) for context in presentation_contexts(["1.2.3"])]


def test_retired_names_say_so() -> None:
    names = {one.uid: one.name for one in STORAGE_CLASSES}
    assert names["1.2.840.10008.5.1.4.1.1.6"] == "Ultrasound Image Storage (Retired)"


def test_statuses_and_rejections_are_told_apart_by_their_codes() -> None:
    assert [one.code for one in STATUSES] == [0x0000, 0xA700, 0x0122, 0xA900, 0x0124, 0xC000, 0xC001]
    assert len({(one.result, one.source, one.reason) for one in REJECTIONS}) == len(REJECTIONS)


@pytest.mark.parametrize(
    ("proposed", "shown"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2"),  # with its name
        ("1.3.46.670589.2.5.1.1", "1.3.46.670589.2.5.1.1"),
        ("1.2.Doe^John.3.4", ""),
    ],
)
def test_the_class_of_a_refused_context_is_found_again(proposed: str, shown: str) -> None:
    (refusal,) = refusals([(proposed, ["1.2.840.10008.1.2"])], [])
    assert refused_class(refusal) == shown


def test_refused_transfer_syntaxes_are_no_class() -> None:
    ours = build_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2")
    (refusal,) = refusals([(str(ours.abstract_syntax), ["1.2.840.10008.1.2.4.50"])], [ours])
    assert refused_class(refusal) == ""
