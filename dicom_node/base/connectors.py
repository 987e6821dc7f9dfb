"""What connectors add to the node, found by their entry points (docs/connectors.md).

A connector is a package, of ours or of others, that lets the node speak more than DICOM. The node imports
none: it asks a group of entry points for all that is installed, or for the one of a name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from threading import Event
from traceback import format_exception_only
from typing import Any, TypeVar

from pydantic import BaseModel, create_model

from dicom_node.base.events import EventType

_INSTALLED = entry_points()
_FAULTS: dict[EntryPoint, str] = {}
_create_model: Any = create_model  # of bases that no type checker knows
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Service:
    """Background work that a connector adds: a thread of the main process calls ``run_once`` again and again
    until the thread's stop event is set.

    ``at_stop`` is called after all threads have ended and the stop of the node is recorded in the database.
    """

    name: str
    run_once: Callable[[Event], object]
    at_stop: Callable[[], object] = bool


@dataclass(frozen=True, slots=True)
class Gauge:
    """The present value of one metric for Prometheus. ``labels``: pairs of label name and value, never
    patient data.
    """

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A received object, offered to connectors before it becomes part of a study. What could not be read of
    it is "".
    """

    calling_ae: str
    study_instance_uid: str
    sop_instance_uid: str
    dataset_sha256: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer of a connector that takes an arrival: the object starts no job and changes no study.

    ``study_id``: the study that it is kept with; None: it goes into quarantine under its sender. ``event``
    records it, with ``reason``. ``keep``, if there is one, is called with the id of its row, in the same
    transaction.
    """

    study_id: int | None
    event: EventType
    reason: str = ""
    keep: Callable[[int], None] | None = None


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Return the installed entry points of the group ``dicom_node.GROUP``, by name and sorted by it."""
    found = sorted(_INSTALLED.select(group=f"dicom_node.{group}"), key=lambda point: point.name)
    return {point.name: point for point in found}


def every(group: str) -> Iterator[Any]:
    """Import and yield the object that each entry point of the group ``dicom_node.GROUP`` refers to, but for
    those that ``unimportable`` lists.
    """
    return (point.load() for point in installed(group).values() if can_be_imported(point))


def can_be_imported(point: EntryPoint) -> bool:
    """Return whether what an entry point refers to can be imported and used; if not, ``unimportable`` lists
    it.
    """
    with _noting_faults(point):
        point.load()
    return point not in _FAULTS


@contextmanager
def _noting_faults(point: EntryPoint) -> Iterator[None]:
    """Context manager: whatever code of others raises is the fault of this entry point; it is not raised."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (CancelledError and SystemExit, too)
        told = " ".join(format_exception_only(error)[-1].split())
        _FAULTS[point] = "".join(filter(str.isprintable, told))[:200]


def unimportable() -> Iterator[tuple[str, str]]:
    """Yield the name of each connector that cannot be imported, and why, with its package: of others' all, of
    ours those that were tried.
    """
    groups = sorted(group for group in _INSTALLED.groups if group.startswith("dicom_node."))
    for point in (point for group in groups for point in installed(group[len("dicom_node.") :]).values()):
        ours = point.value.startswith("dicom_connectors.")
        if point in _FAULTS or not (ours or can_be_imported(point)):
            package = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
            yield point.name, f"{point.value} of the package {package} cannot be used: {_FAULTS[point]}"


def extended(group: str) -> Callable[[type[Model]], type[Model]]:
    """Return a decorator that adds the fields and validators of the connectors' classes in this entry-point
    group to a settings class.
    """

    def add(core: type[Model]) -> type[Model]:
        """Return a subclass of the settings class ``core`` that has the connectors' fields and validators
        too.
        """
        model = core
        for point in filter(can_be_imported, installed(group).values()):
            with _noting_faults(point):
                part = point.load()
                if not issubclass(part, BaseModel) or part.model_fields.keys() & model.model_fields.keys():
                    raise TypeError("it is no model of pydantic 2, or has a key that is taken")
                bases, about = (part, model), {"__module__": core.__module__, "__doc__": core.__doc__}
                made: type[Model] = _create_model(core.__name__, __base__=bases, **about)
                made.model_rebuild()  # finds annotations without a meaning
                model = made
        return model

    return add


def typed_section(section: BaseModel, kind: type[Model]) -> Model:
    """Return a section of the settings as the class ``kind``, whose fields a connector added to it (see
    :func:`extended`); only the type differs, for type checkers.
    """
    assert isinstance(section, kind)
    return section
