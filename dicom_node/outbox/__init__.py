"""Delivery of results: one row per object and destination, sent until confirmed. Builds no objects."""

from dicom_node.outbox.deliveries import discard, discard_all, enqueue, retry, retry_all, send_to
from dicom_node.outbox.held import accept, in_question, mark, reject
from dicom_node.outbox.removals import ask_to_remove

__all__ = [
    "accept",
    "ask_to_remove",
    "discard",
    "discard_all",
    "enqueue",
    "in_question",
    "mark",
    "reject",
    "retry",
    "retry_all",
    "send_to",
]
