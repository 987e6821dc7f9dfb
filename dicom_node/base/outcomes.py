"""What came of one try of something that is tried until it is done (``runner``)."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Outcome:
    """``why``: in words for persons, without PHI; "" where there is nothing to say."""

    why: str = ""
    after: timedelta | None = None
    """The time to the next try; None: after longer and longer waits."""


class Done(Outcome):
    """It is done."""


class Failed(Outcome):
    """It is given up: another try would not help."""


class Retry(Outcome):
    """It is tried again."""


class NotYet(Outcome):
    """Nothing was tried, and nothing is counted: what is due now is looked at anew."""
