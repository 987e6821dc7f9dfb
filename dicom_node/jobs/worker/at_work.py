"""Which image a worker is working on.

One small file per image in work, with a line per worker, records which image a worker is working on, so that
an image that kills workers, or takes all their memory, is left out. The line is removed when the worker has
finished with the image, whatever the result; a line that remains is a worker that the image killed. Losing
the files only costs further tries.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.errors import PixelError
from ai_pipeline.images.limits import lacks_memory
from dicom_node.base.errors import TimeLimitReached, WorkerSpent
from dicom_node.jobs.owners import is_dead, is_dead_with_its_node

KEEP_SECONDS = 86_400.0


@dataclass(slots=True)
class AtWork:
    """Records which image a worker is working on, to find images that kill workers.

    ``owner``: the name of the worker. ``most``: how many workers an image may kill. ``memory_mib``: the
    memory limit of a worker in MiB.
    """

    folder: Path
    owner: str
    most: int
    memory_mib: int
    spent: bool = False
    """Whether memory ran out, so that the process must end: libraries give it back only then."""

    _image: Path | None = None
    last_try: bool = False
    """Whether a job runs for the last time: an image that exhausts memory now is left out at once."""

    @contextlib.contextmanager
    def at(self, spool_name: str) -> Iterator[None]:
        """Context manager: record that this worker works on the image, in case the process dies.

        Raises PixelError if the image has killed too many workers, WorkerSpent if the image exhausted the
        worker's memory.
        """
        file = self.folder / spool_name
        if (lost := self._losses(file)) >= self.most:
            raise PixelError(f"workers lost with this image, or out of memory or time at it: {lost}")
        self._add(file, self.owner)
        self._image = file
        try:
            yield
        except Exception as error:
            self._remove(file)
            out_of_memory = lacks_memory(error)
            if out_of_memory or isinstance(error, TimeLimitReached):
                self._add(file, self._limit_mark())
            if not out_of_memory:
                raise
            self.spent = True
            if self.last_try or self._losses(file) >= self.most:
                raise PixelError(
                    f"the image takes more memory than workers.memory_mib = {self.memory_mib}"
                ) from error
            raise WorkerSpent("an image took all the memory of its worker") from error
        else:
            self._remove(file)
        finally:
            self._image = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Context manager for running another job in between: if the process dies then, that does not count
        against the image of the first job.
        """
        image, last_try = self._image, self.last_try
        if image is not None:
            self._remove(image)
        try:
            yield
        finally:
            self._image, self.last_try = image, last_try
            if image is not None:
                self._add(image, self.owner)

    def let_go(self) -> None:
        """Remove this worker's line from the record of its image: another reason ends the process."""
        if self._image is not None:
            self._remove(self._image)

    def forget_old(self) -> None:
        """Delete records that are older than a day."""
        for file in self.folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - KEEP_SECONDS:
                    file.unlink()

    def _limit_mark(self) -> str:
        """Return the line that records a worker that reached its limit of memory or time at an image; it
        counts while the limit stays the same.
        """
        return f"limit of {self.memory_mib} MiB"

    def _losses(self, file: Path) -> int:
        """Return how many workers died or reached a limit at this image while their node lived on: after a
        power cut the image is not at fault.
        """
        return sum(
            line == self._limit_mark() or (is_dead(line) and not is_dead_with_its_node(line))
            for line in _lines(file)
        )

    def _add(self, file: Path, line: str) -> None:
        """Append a line to the record of an image."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as lines:
            lines.write(f"{line}\n")

    def _remove(self, file: Path) -> None:
        """Remove this worker's line from the record of an image."""
        rest = [line for line in _lines(file) if line != self.owner]
        if rest:
            file.write_text("".join(f"{line}\n" for line in rest), encoding="ascii")
        else:
            file.unlink(missing_ok=True)


def _lines(file: Path) -> list[str]:
    """Return the lines of an image's record; none if it does not exist."""
    try:
        return file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
