"""The result of one try of something that is tried until it is done (``runner``)."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one try. ``why``: the reason, for persons, without PHI; "" if there is nothing to say."""

    why: str = ""
    after: timedelta | None = None
    """The time to the next try; None: after longer and longer waits."""


class Done(Outcome):
    """The try succeeded."""


class Failed(Outcome):
    """The try failed, and no further try is made."""


class Retry(Outcome):
    """The try failed, and another one follows."""


class NotYet(Outcome):
    """Nothing was tried and no try is counted: the row is read again and looked at anew."""
