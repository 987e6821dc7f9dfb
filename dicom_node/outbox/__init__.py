"""Results on their way: one row per object and destination, sent until confirmed. Builds no objects."""

from __future__ import annotations

from dicom_node.outbox.by_hand import discard, discard_all, retry, retry_all, send_to
from dicom_node.outbox.new_deliveries import enqueue

__all__ = ["discard", "discard_all", "enqueue", "retry", "retry_all", "send_to"]
