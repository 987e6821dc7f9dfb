"""Settings and files that a worker process reads at its start and uses until its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.burnin.devices.rules import site_folder
from ai_pipeline.models.registry import from_environment
from ai_pipeline.pipelines import is_ours
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.config.settings import Settings
from dicom_node.logs import LogTarget

_Stamp = tuple[Path, int, int]


@dataclass(frozen=True, slots=True)
class AtStart:
    """The settings and files that a worker process reads once, at its start.

    ``files``: models and device rules of the site, with size and time. ``foreign``: pipelines from other
    packages, whose code may change at any time.
    """

    threads: int
    inference: str
    memory_mib: int
    log: tuple[str, LogTarget]
    files: frozenset[_Stamp]
    foreign: frozenset[str]

    @staticmethod
    def under(settings: Settings) -> AtStart:
        """The values that a process started now would read with these ``settings``."""
        workers = settings.workers
        folders = workers.models_dir or from_environment(), device_rules_of(settings)
        names = {rule.pipeline for rule in settings.rules if workers.takes(rule.pipeline)}
        return AtStart(
            workers.threads,
            workers.inference,
            workers.memory_mib,
            (settings.node.log_level, settings.log_target),
            frozenset(stamp for folder in folders if folder for stamp in _stamps(folder)),
            frozenset(name for name in names if not is_ours(name)),
        )

    def serves(self, now: AtStart) -> bool:
        """Whether a process that read these values at its start is up to date.

        ``now``: the values that a new process would read. Always False with foreign pipelines.
        """
        return self == now and not self.foreign


def device_rules_of(settings: Settings) -> Path | None:
    """The site's folder of device rules: the configured folder, else the folder that the console writes
    to.
    """
    return site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)


def _stamps(folder: Path) -> Iterator[_Stamp]:
    yield folder, 0, 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            about = path.lstat()
            yield path, about.st_size, about.st_mtime_ns
