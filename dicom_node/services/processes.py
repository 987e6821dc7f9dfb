"""Machines that a person removes from a site."""

from __future__ import annotations

from dicom_node.config.settings import Settings
from dicom_node.errors import NotFound
from dicom_node.model.kinds import AuditAction
from dicom_node.monitoring import processes
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person


def forget(settings: Settings, machine: str, by: Person = COMMAND_LINE) -> int:
    """Forget the lost processes of a removed machine; returns how many.

    Raises NotFound if no process of this machine is lost.
    """
    with writing(settings) as session:
        forgotten = processes.forget_machine(session, machine)
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten
