"""The protocol of a worklist manager (PS3.4 CC, PS3.18 11): search, claim, update, complete or cancel."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from pydicom.dataset import Dataset

from dicom_connectors.worklist.workitem import ProcedureStepState
from dicom_node.deliver.scu import Check

MOST_ITEMS: Final = 200
"""Work items of one search that are looked at."""


class ChangeStatus(StrEnum):
    """A worklist manager's answer to a change of a work item."""

    DONE = "done"
    CONFLICT = "conflict"  # the item's state, or the Transaction UID, is another: read it
    ABSENT = "absent"
    REFUSED = "refused"  # waiting does not cure it
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class ChangeAnswer:
    """The answer to one change. ``text``: a status, never text from the manager."""

    status: ChangeStatus
    text: str = ""


class WorklistManager(Protocol):
    """The client of a peer that manages work items. Used by one thread; any thread may call ``close``."""

    def search(self) -> list[Dataset]:
        """The SCHEDULED items, at most ``MOST_ITEMS``. Raises PeerUnreachable."""

    def read(self, uid: str) -> Dataset | None:
        """All attributes of an item; None if it does not exist. Raises PeerUnreachable."""

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Claim, complete or cancel an item."""

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Replace attributes of an item, claimed under the Transaction UID."""

    def test(self) -> list[Check]:
        """Test whether the manager answers and lets the node in, without changing anything."""

    def close(self) -> None:
        """Cut all calls under way; later calls fail as well."""
