"""From whom and when an object came, as known when it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an object came: stored in the private information of its Part 10 header (PS3.10 7.1).

    ``association`` is our own identifier of the association; ``priority`` the C-STORE priority of PS3.7
    9.1.1 (0 medium, 1 high, 2 low); ``received_at`` is UTC.
    """

    association: str
    calling_ae: str
    called_ae: str
    address: str
    priority: int
    received_at: datetime
