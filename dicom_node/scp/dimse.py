"""DIMSE for a storage SCP: the fragments of a data set are written to the spool as they arrive.

pynetdicom collects a message in memory; here an object of any size needs the memory of one PDU. A command
that is not supported ends the association before its data set is read. A request is answered by the thread
that has read its last byte: passing it to another thread would cost as much as the rest of the work on a
small object.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from pynetdicom.dimse import DIMSEServiceProvider

from dicom_node.scp import command
from dicom_node.scp.command import EchoCommand, MalformedCommand
from dicom_node.scp.connection import limits
from dicom_node.scp.storage_service import NormalizedRequest, StoreRequest

_LOGGER = logging.getLogger(__name__)

_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2

_WithData = StoreRequest | NormalizedRequest
Request = _WithData | EchoCommand


class StoreAssociation(Protocol):
    """The methods of an association that message handling needs."""

    def ends(self, reason: str) -> None:
        """Set why the association will end."""

    def open_object(self, request: StoreRequest) -> None:
        """Begin to receive a C-STORE. Raises MalformedCommand if its presentation context was not
        accepted.
        """

    def open_normalized(self, request: NormalizedRequest) -> None:
        """Begin to receive a DIMSE-N request. Raises MalformedCommand if its context does not allow it."""

    def serve(self, request: Request, context_id: int) -> None:
        """Answer a complete request. Raises MalformedCommand as ``open_object`` does."""


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """Processes received messages; called by the thread that reads the socket."""

    def __init__(self, association: StoreAssociation) -> None:
        super().__init__(association)
        self._association = association
        self._command = bytearray()
        self._command_context: int | None = None
        self._request: _WithData | None = None
        self._tiny_fragments = 0

    @property
    def within_message(self) -> bool:
        """Whether a message has been received only in part."""
        return self._command_context is not None or self._request is not None

    def receive_primitive(self, primitive: Any) -> None:
        """Process the PDVs of one P-DATA; a violation of PS3.7 or PS3.8 aborts the association (Evt19)."""
        try:
            for context_id, value in primitive.presentation_data_value_list:
                self._take(context_id, value)
        except MalformedCommand as error:
            self._association.ends(str(error))
            self.dul.event_queue.put("Evt19")
        except Exception as error:  # this association ends, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self._association.ends(f"failed here: {type(error).__name__}")
            self.dul.event_queue.put("Evt19")

    def abandon(self) -> None:
        """Discard an incomplete object, because the association has ended."""
        if self._request is not None:
            self._request.abandon()
            self._request = None

    def _take(self, context_id: int, value: memoryview) -> None:
        if not value:
            raise MalformedCommand("PDV without message control header")
        if len(value) <= limits.TINY_FRAGMENT:
            self._tiny_fragments += 1
            if self._tiny_fragments > limits.TINY_FRAGMENTS:
                raise MalformedCommand("too many tiny fragments")
        if value[0] & _COMMAND:
            self._take_command(context_id, value)
        else:
            self._take_data(context_id, value)

    def _take_command(self, context_id: int, value: memoryview) -> None:
        if self._request is not None:
            raise MalformedCommand("command inside a data set")
        if self._command_context not in (None, context_id):
            raise MalformedCommand("command in two presentation contexts")
        self._command_context = context_id
        self._command += value[1:]
        if len(self._command) > limits.LARGEST_COMMAND:
            raise MalformedCommand("command set beyond its largest length")
        if value[0] & _LAST:
            encoded, self._command = bytes(self._command), bytearray()
            self._command_context = None
            self._begin(context_id, encoded)

    def _begin(self, context_id: int, encoded: bytes) -> None:
        elements = command.read_elements(encoded)
        field = command.command_field(elements)
        if field == command.C_STORE_RQ:
            store = StoreRequest(context_id, command.read_store_command(elements))
            self._association.open_object(store)
            self._await_data(store)
        elif field in command.NORMALIZED:
            request = NormalizedRequest(context_id, command.read_normalized_command(elements))
            self._association.open_normalized(request)
            self._await_data(request)
        elif field == command.C_ECHO_RQ:
            self._serve(context_id, command.read_echo_command(elements))
        elif field != command.C_CANCEL_RQ:  # which has no answer, and nothing here to cancel
            raise MalformedCommand(f"not served: {command.name_of(field)}")

    def _await_data(self, request: _WithData) -> None:
        if request.command.has_data_set:
            self._request = request
        else:
            self._serve(request.context_id, request)

    def _take_data(self, context_id: int, value: memoryview) -> None:
        request = self._request
        if request is None or context_id != request.context_id:
            raise MalformedCommand("data set without command")
        request.write(value[1:])
        if value[0] & _LAST:
            self._request = None
            self._serve(context_id, request)

    def _serve(self, context_id: int, request: Request) -> None:
        self._tiny_fragments = 0
        self._association.serve(request, context_id)
