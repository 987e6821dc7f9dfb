"""A report that is on the server already, to be replaced by a newer report or withdrawn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicom_connectors.fhir.codes import PRELIMINARY, Resource
from dicom_connectors.fhir.entries import WITHDRAWN, marked, transaction, uids_of
from dicom_node.dicom.uids import derived_uid

MOST_OBSERVATIONS: Final = 500
"""Of one report."""
_OBSERVATION: Final = re.compile(r"Observation/[A-Za-z0-9.-]{1,64}")
_OLD: Final = "old"  # Identifier.use


@dataclass(frozen=True, slots=True)
class FiledReport:
    """A DiagnosticReport on the server, and its Observations that this node made."""

    report: Resource
    observations: Sequence[Resource] = ()

    @property
    def is_withdrawn(self) -> bool:
        """Whether the report has the status of a withdrawn report."""
        return self.report.get("status") == WITHDRAWN

    @property
    def is_as_sent(self) -> bool:
        """Whether the report still has the status with which it was sent; False once a person has amended
        it.
        """
        return self.report.get("status") == PRELIMINARY

    @property
    def shows(self) -> str:
        """SOP Instance UID of the newest report whose content the DiagnosticReport shows."""
        identifiers = [one for one in self.report["identifier"] if one.get("use") != _OLD]
        return next(iter(uids_of({"identifier": identifiers})), "")

    def identifiers_but(self, uid: str) -> list[Resource]:
        """The report's identifiers without ``uid``, its UIDs marked as old, for the report that replaces
        it.
        """
        return [
            {**one, "use": _OLD} if uids_of({"identifier": [one]}) else one
            for one in self.report["identifier"]
            if uids_of({"identifier": [one]}) != [uid]
        ]

    @property
    def results(self) -> list[str]:
        """``Observation/ID`` of each of the report's results that this server has."""
        named = [str(one.get("reference") or "") for one in self.report.get("result") or ()]
        return [one for one in named if _OBSERVATION.fullmatch(one)][:MOST_OBSERVATIONS]

    def owns(self, observation: Resource) -> bool:
        """Whether the node made ``observation`` with one of these reports; other systems may have added
        some.
        """
        ours = {observation_uid(uid, at) for uid in uids_of(self.report) for at in range(MOST_OBSERVATIONS)}
        return not ours.isdisjoint(uids_of(observation))

    def withdrawn(self) -> str:
        """A transaction that marks the report and its Observations as entered in error. Raises
        FaultyInput.
        """
        observations = [one for one in self.observations if one.get("status") != WITHDRAWN]
        return transaction([marked(one) for one in (self.report, *observations)])


def observation_uid(report: str, at: int) -> str:
    """The identifier of the Observation at position ``at`` of a report (given by its SOP Instance UID)."""
    return derived_uid("fhir observation", report, str(at))
