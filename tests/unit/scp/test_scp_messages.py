"""What is decoded by hand agrees with pynetdicom, and no bytes break it."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.scp import statuses
from dicom_node.scp.command import (
    MalformedCommand,
    StoreCommand,
    command_field,
    encode_store_response,
    read_elements,
    read_store_command,
)
from dicom_node.scp.connection.pdus import PData

COMMENTS = st.text(st.characters(exclude_categories=("C",)), max_size=80)  # ours have no control characters
UIDS = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)


def encoded_request(sop_class: str, instance: str, message_id: int, priority: int) -> bytes:
    """A C-STORE-RQ as pynetdicom writes it."""
    primitive = C_STORE()
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = UID(sop_class), UID(instance)
    primitive.MessageID, primitive.Priority = message_id, priority
    primitive.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    (pdata, *_) = message.encode_msg(1, 0)
    return bytes(pdata.presentation_data_value_list[0][1][1:])


@given(UIDS, UIDS, st.integers(0, 65535), st.integers(0, 2))
def test_a_request_is_read_as_pynetdicom_wrote_it(cls: str, uid: str, number: int, priority: int) -> None:
    elements = read_elements(encoded_request(cls, uid, number, priority))
    assert command_field(elements) == 1
    assert read_store_command(elements) == StoreCommand(number, cls, uid, priority, True)


@given(UIDS, UIDS, st.integers(0, 65535), st.sampled_from(statuses.STATUSES), COMMENTS)
def test_pynetdicom_reads_our_response(
    cls: str, uid: str, number: int, status: statuses.Status, comment: str
) -> None:
    encoded = encode_store_response(StoreCommand(number, cls, uid, 0, True), status, comment)
    ds = decode(BytesIO(encoded), True, True)
    assert (ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID) == (cls, uid)
    assert (ds.MessageIDBeingRespondedTo, ds.Status) == (number, status.code)
    assert (ds.CommandField, ds.CommandDataSetType) == (0x8001, 0x0101)
    assert ds.CommandGroupLength == len(encoded) - 12
    assert len(ds.get("ErrorComment", "")) <= 64


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_malformed(data: bytes) -> None:
    try:
        elements = read_elements(data)
        command_field(elements)
        read_store_command(elements)
    except MalformedCommand:
        pass


def test_an_unknown_priority_is_medium() -> None:
    elements = read_elements(encoded_request("1.2", "1.3", 1, 0)) | {0x0700: b"\x09\x00"}
    assert read_store_command(elements).priority == 0


@pytest.mark.parametrize("uid", ["", "1.2 .3", "x", "1" * 65])
def test_what_is_no_uid_names_no_instance(uid: str) -> None:
    assert not StoreCommand(1, "1.2", uid, 0, True).names_an_instance


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=50)), min_size=1, max_size=5))
def test_fragments_are_those_that_pynetdicom_sees(values: list[tuple[int, bytes]]) -> None:
    primitive = P_DATA()
    primitive.presentation_data_value_list.extend(values)
    encoded = P_DATA_TF(primitive).encode()
    stock = P_DATA_TF()
    stock.decode(encoded)
    ours = PData(bytearray(encoded[6:])).to_primitive().presentation_data_value_list
    assert [(context, bytes(value)) for context, value in ours] == values
    assert stock.to_primitive().presentation_data_value_list == values


@given(st.binary(max_size=60))
def test_any_bytes_are_fragments_or_an_error(body: bytes) -> None:
    try:
        values = PData(bytearray(body)).to_primitive().presentation_data_value_list
    except ValueError:
        return
    again = b"".join(struct.pack(">IB", len(value) + 1, context) + value for context, value in values)
    assert again == body


def test_a_p_data_pdu_without_fragments_is_none() -> None:
    with pytest.raises(ValueError, match="no PDV"):
        PData(bytearray())
