"""The times of the outbox's next tries and queries. No side effects."""

import random
from datetime import timedelta

from dicom_node.config.sections import OutboxSettings

# Most archives show an object at once, some after their indexer came round.
_QUESTIONS_SECONDS = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def wait_before_retry(attempts: int, settings: OutboxSettings) -> timedelta:
    """The wait after the ``attempts``-th try (from 1): exponential backoff, shortened at random by up to
    half.

    The random part keeps several nodes from calling a recovering PACS at the same moment.
    """
    doublings = min(max(attempts - 1, 0), 20)
    seconds = min(settings.retry_seconds * 2**doublings, settings.retry_limit_seconds)
    return timedelta(seconds=seconds * random.uniform(0.5, 1.0))


def wait_before_question(queries: int, settings: OutboxSettings) -> timedelta:
    """The wait before the next query to the destination, after ``queries`` queries (from 1): short ones
    first.
    """
    step = _QUESTIONS_SECONDS[min(max(queries, 1), len(_QUESTIONS_SECONDS)) - 1]
    return timedelta(seconds=min(step, settings.retry_limit_seconds))
