"""The rooms that verbs call, each imported when a verb first calls it: ``--help`` must be quick."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "assessments",
    "audit",
    "backup",
    "decisions",
    "deliveries",
    "entered",
    "fetches",
    "jobs",
    "models",
    "new_node",
    "notifications",
    "peers",
    "results",
    "rules",
    "studies",
    "users",
    "views",
]

if TYPE_CHECKING:
    from dicom_node.services import (
        assessments,
        audit,
        backup,
        decisions,
        deliveries,
        entered,
        fetches,
        jobs,
        models,
        new_node,
        notifications,
        peers,
        results,
        rules,
        studies,
        users,
    )
    from dicom_node.store import views
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(name)
        return import_module(f"dicom_node.{'store' if name == 'views' else 'services'}.{name}")
