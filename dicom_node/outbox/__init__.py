"""Results on their way: one row per object and destination, sent until confirmed. Builds no objects."""

from __future__ import annotations

from dicom_node.outbox.by_hand import retry, retry_all
from dicom_node.outbox.new_deliveries import enqueue

__all__ = ["enqueue", "retry", "retry_all"]
