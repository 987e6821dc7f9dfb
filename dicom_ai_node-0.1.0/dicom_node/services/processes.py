"""Machines of a site that a person takes away."""

from __future__ import annotations

from dicom_node.config.settings import Settings
from dicom_node.errors import NotFound
from dicom_node.model.kinds import AuditAction
from dicom_node.monitoring import processes
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person


def forget(settings: Settings, machine: str, by: Person = COMMAND_LINE) -> int:
    """Forget the lost processes of a machine that was taken away; returns how many.

    Raises NotFound: none of this name is lost.
    """
    with writing(settings) as session:
        forgotten = processes.forget_machine(session, machine)
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten
