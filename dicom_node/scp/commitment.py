"""Storage commitment reports from peers that we asked (PS3.4 J.3.3): read, and journalled before the answer.

The transaction is looked up where the database is. A report that fits none gets an event there and
is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dicom_node.dicom import commitment
from dicom_node.scp.command import MalformedCommand, ReportCommand


@dataclass(slots=True)
class ReportRequest:
    """One N-EVENT-REPORT being received."""

    context_id: int
    command: ReportCommand
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: memoryview | bytes) -> None:
        """Take one fragment of the Event Information. MalformedCommand: it does not seem to end."""
        self.data += data
        if len(self.data) > commitment.MAXIMUM_BYTES:
            raise MalformedCommand("storage commitment report beyond its largest length")

    def abandon(self) -> None:
        """The association ended before the report was whole."""
        self.data.clear()
