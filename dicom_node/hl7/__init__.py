"""HL7 v2 messages of reports: ORU^R01 (HL7 2.5.1 chapter 7), and the acknowledgements of them."""

from __future__ import annotations

from dicom_node.hl7.acknowledgement import ACCEPTED, Acknowledgement, parsed_acknowledgement
from dicom_node.hl7.oru import MessageContext, SentReport, control_id, oru_of, withdrawal_of

__all__ = [
    "ACCEPTED", "Acknowledgement", "MessageContext", "SentReport", "control_id", "oru_of",
    "parsed_acknowledgement", "withdrawal_of",
]  # fmt: skip
