"""Requests work of a vendor's AI at a worklist manager (UPS-RS, PS3.18 11; IHE AIW-I, task requester): a work
item is created once the vendor has the images, and looked up until it has ended.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from pydicom import dcmread
from sqlalchemy.orm import Session

from dicom_connectors.remote.settings import Vendor
from dicom_connectors.worklist.manager import ChangeAnswer, ChangeStatus, UpsRsManager
from dicom_connectors.worklist.requested import PATIENT, Input, WorkOutcome, read_outcome, scheduled
from dicom_connectors.worklist.workitem import parse_work
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.results import this_installation
from dicom_node.deliver.scu import Outgoing

OpenManager = Callable[[PeerSettings, Settings], UpsRsManager]
_SERIES = attrgetter("series_instance_uid")


class WorkRequests:
    """Creates the work items for one vendor at its worklist manager, and looks them up."""

    def __init__(
        self,
        vendor: Vendor,
        manager: PeerSettings,
        settings: Settings,
        open_manager: OpenManager = UpsRsManager,
    ) -> None:
        """Prepare for one vendor; ``manager``: the peer that is the worklist manager."""
        self._vendor, self._manager, self._settings = vendor, manager, settings
        self._open = open_manager

    def create(self, uid: str, objects: Sequence[Outgoing], now: datetime) -> ChangeAnswer:
        """Create the work item ``uid`` for images that the vendor has. After a kill the manager has it
        already, which is as good.
        """
        first = objects[0]
        with quiet_pydicom():
            patient = dcmread(first.path, force=True, specific_tags=[*PATIENT, "SpecificCharacterSet"])
        inputs = [
            Input(series, [(one.sop_class_uid, one.sop_instance_uid) for one in images])
            for series, images in groupby(sorted(objects, key=_SERIES), _SERIES)
        ]
        [work] = parse_work([self._vendor.options.work])
        item = scheduled(first.study_instance_uid, inputs, patient, work, self._vendor.peer.ae_title, now)
        with closing(self._open(self._manager, self._settings)) as manager:
            answer = manager.create(uid, item)
        return ChangeAnswer(ChangeStatus.DONE) if answer.status is ChangeStatus.CONFLICT else answer

    def outcome(self, uid: str) -> WorkOutcome:
        """Return how far the work item ``uid`` is. Raises Unavailable."""
        with closing(self._open(self._manager, self._settings)) as manager:
            found = manager.read_outcome(uid)
        return WorkOutcome("") if found is None else read_outcome(found)

    def request_cancellation(self, uid: str) -> None:
        """Request that the work item ``uid`` is cancelled, whose results nobody awaits any more. One try:
        what is answered nevertheless waits for a person.
        """
        with closing(self._open(self._manager, self._settings)) as manager:
            manager.request_cancellation(uid, "its results are no longer awaited")


def work_item_uid(session: Session, row: AwaitedAnswer) -> str:
    """Return the UID of the work item for a row, the same after each kill."""
    installation = this_installation(session).device_uid
    return derived_uid("requested work", installation, str(row.id), row.began_at.isoformat())
