"""DIMSE for a storage SCP: the fragments of a data set go to the spool as they come.

pynetdicom gathers a message in memory; here an object of any size costs one PDU of it. Everything that is
not a C-STORE request goes pynetdicom's way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.scp import command
from dicom_node.scp.command import MalformedCommand
from dicom_node.scp.reception import StoreRequest

if TYPE_CHECKING:
    from dicom_node.scp.association import NodeAssociation

_LOGGER = logging.getLogger(__name__)

_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2
_LARGEST_COMMAND = 65536  # bytes; a real command set has a few hundred


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """Called by the thread that reads the socket; requests go to ``msg_queue`` when they are complete."""

    def __init__(self, association: NodeAssociation) -> None:
        super().__init__(association)
        self._association = association
        self._command = bytearray()
        self._command_context = 0
        self._request: StoreRequest | None = None

    def receive_primitive(self, primitive: Any) -> None:
        """Take the PDVs of one P-DATA; what breaks PS3.7 or PS3.8 aborts the association (Evt19)."""
        try:
            for context_id, value in primitive.presentation_data_value_list:
                self._take(context_id, value)
        except Exception as error:  # noqa: BLE001 - pynetdicom decodes other commands: any error is the peer's
            _LOGGER.warning("malformed message: %s", type(error).__name__)
            self.dul.event_queue.put("Evt19")

    def abandon(self) -> None:
        """The association ended: leave nothing of what was not answered."""
        if self._request is not None:
            self._request.abandon()
            self._request = None
        while not self.msg_queue.empty():
            _, message = self.msg_queue.get()
            if isinstance(message, StoreRequest):
                message.abandon()

    def _take(self, context_id: int, value: bytes) -> None:
        if not value:
            raise MalformedCommand("PDV without message control header")
        if self.message is not None:  # pynetdicom is in the middle of another message
            self._forward(context_id, value)
        elif value[0] & _COMMAND:
            self._take_command(context_id, value)
        else:
            self._take_data(context_id, value)

    def _take_command(self, context_id: int, value: bytes) -> None:
        if self._request is not None:
            raise MalformedCommand("command inside a data set")
        if self._command and context_id != self._command_context:
            raise MalformedCommand("command in two presentation contexts")
        self._command += value[1:]
        self._command_context = context_id
        if len(self._command) > _LARGEST_COMMAND:
            raise MalformedCommand("command without end")
        if value[0] & _LAST:
            encoded, self._command = bytes(self._command), bytearray()
            self._begin(context_id, encoded)

    def _begin(self, context_id: int, encoded: bytes) -> None:
        elements = command.read_elements(encoded)
        if command.command_field(elements) != command.C_STORE_RQ:
            self._forward(context_id, bytes([_COMMAND | _LAST]) + encoded)
            return
        request = StoreRequest(context_id, command.read_store_command(elements))
        self._association.open_object(request)
        if request.command.has_data_set:
            self._request = request
        else:
            self.msg_queue.put((context_id, request))

    def _take_data(self, context_id: int, value: bytes) -> None:
        request = self._request
        if request is None or context_id != request.context_id:
            raise MalformedCommand("data set without command")
        request.write(memoryview(value)[1:])
        if value[0] & _LAST:
            self._request = None
            self.msg_queue.put((context_id, request))

    def _forward(self, context_id: int, value: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes(value)))
        super().receive_primitive(primitive)
