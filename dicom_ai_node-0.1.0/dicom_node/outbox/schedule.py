"""When the outbox tries again and queries again. Pure."""

from __future__ import annotations

import random
from datetime import timedelta

from dicom_node.config.sections import OutboxSettings

# Most archives show an object at once, some after their indexer came round.
_QUESTIONS_SECONDS = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def wait_before_retry(attempts: int, settings: OutboxSettings) -> timedelta:
    """Exponential backoff after the ``attempts``-th try (from 1), up to half of it taken off by chance, so
    that several nodes do not call a recovering PACS in step."""
    doublings = min(max(attempts - 1, 0), 20)
    seconds = min(settings.retry_seconds * 2**doublings, settings.retry_limit_seconds)
    return timedelta(seconds=seconds * random.uniform(0.5, 1.0))


def wait_before_question(queries: int, settings: OutboxSettings) -> timedelta:
    """Wait before the destination is asked again, after ``queries`` questions (from 1): quick ones first."""
    step = _QUESTIONS_SECONDS[min(max(queries, 1), len(_QUESTIONS_SECONDS)) - 1]
    return timedelta(seconds=min(step, settings.retry_limit_seconds))
