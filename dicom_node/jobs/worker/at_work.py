"""Records which image a worker is working on, so that an image that kills workers is left out.

The same holds for an image that takes all memory of a worker. There is one small file per image in work, with
a line per worker. The line is removed when the worker has finished with the image, whatever the result; a
line that remains is a worker that the image killed. Losing the files only costs further tries.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.errors import PixelError
from ai_pipeline.images.limits import lacks_memory
from dicom_node.errors import TimeLimitReached, WorkerSpent
from dicom_node.jobs import lease as owners

KEEP_SECONDS = 86_400.0


@dataclass(slots=True)
class AtWork:
    """The record of the images that one worker works on.

    ``most``: how many workers an image may kill. ``memory_mib``: the memory limit of a worker in MiB.
    """

    folder: Path
    owner: str
    most: int
    memory_mib: int
    spent: bool = False
    """Set when memory ran out: what libraries keep of it is given back only by the process's end."""

    _image: Path | None = None
    last_try: bool = False
    """Set while a job runs for the last time: an image that fails now is left out at once."""

    @contextmanager
    def at(self, spool_name: str) -> Iterator[None]:
        """Record that this worker works on the image during this scope, in case the process ends there.

        Raises PixelError if the image has killed too many workers, WorkerSpent if the image used up the
        worker's memory.
        """
        file = self.folder / spool_name
        if (lost := self._losses(file)) >= self.most:
            raise PixelError(f"workers lost with this image, or out of memory or time at it: {lost}")
        self._add(file, self.owner)
        self._image = file
        try:
            yield
        except TimeLimitReached:
            self._remove(file)
            self._add(file, self._token())
            raise
        except Exception as error:
            self._remove(file)
            if not lacks_memory(error):
                raise
            self.spent = True
            self._add(file, self._token())
            if self.last_try or self._losses(file) >= self.most:
                raise PixelError(
                    f"the image takes more memory than workers.memory_mib = {self.memory_mib}"
                ) from error
            raise WorkerSpent("an image took all the memory of its worker") from error
        else:
            self._remove(file)
        finally:
            self._image = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A scope in which another job runs first: if the process ends there, this job's image is not
        blamed.
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

    def forget_old(self) -> None:
        """Delete records that are older than a day."""
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - KEEP_SECONDS:
                    file.unlink()

    def _token(self) -> str:
        """Stands for a worker that ran out of memory or time; it counts while the limit is the same."""
        return f"limit of {self.memory_mib} MiB"

    def _losses(self, file: Path) -> int:
        """Workers that died while their nodes lived on: a power cut is not the image's fault."""
        return sum(
            line == self._token() or (owners.is_dead(line) and not owners.is_dead_with_its_node(line))
            for line in _lines(file)
        )

    def _add(self, file: Path, line: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as lines:
            lines.write(f"{line}\n")

    def _remove(self, file: Path) -> None:
        rest = [line for line in _lines(file) if line != self.owner]
        if rest:
            file.write_text("".join(f"{line}\n" for line in rest), encoding="ascii")
        else:
            file.unlink(missing_ok=True)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
