"""The result of one try of something that is tried until it is done (``runner``)."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one try to process a row. ``why``: the reason for people, without PHI; "" if there is
    nothing to say.
    """

    why: str = ""
    after: timedelta | None = None
    """The time until the next try; None for the usual waits, which grow from try to try."""


class Done(Outcome):
    """The try succeeded."""


class Failed(Outcome):
    """The try failed, and no further try is made."""


class Retry(Outcome):
    """The try failed, and another one follows."""


class NotYet(Outcome):
    """Nothing was tried and no try is counted: the row is read from the database again later."""
