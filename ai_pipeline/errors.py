"""The errors that this package raises on purpose. Each text is one sentence without PHI, with the remedy.

``except PipelineError`` catches all of them; its branches say whose fault it is: the image's, the model's,
the cleaning's, the device rules', or that of a pipeline from another package or program.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OF_THE_DISK = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EUCLEAN, errno.EBADMSG,
        errno.ENXIO, errno.ENODEV, errno.ENOLCK, errno.EMFILE, errno.ENFILE,
        errno.ESTALE, errno.EREMOTEIO,  # over a network
    }
)  # fmt: skip
_OF_A_NETWORK = frozenset({errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT})  # of its disk, or of a peer


def disk_fault(error: BaseException | None, *, beside_network: bool = False) -> str:
    """Return what the disk of the machine did, if ``error`` or one of its causes shows that it failed; else
    "".

    Such an error says nothing of an image or a job: it is full, read-only or failing, or the process has too
    many open files. A missing file is none. ``beside_network``: a peer was called as well, so what a
    network does counts for none.
    """
    numbers = _OF_THE_DISK if beside_network else _OF_THE_DISK | _OF_A_NETWORK
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return f"disk: {os.strerror(error.errno).lower()}"
        error = error.__cause__ or error.__context__
    return ""


class PipelineError(Exception):
    """Base of all errors of ``ai_pipeline``."""


class HeaderError(PipelineError):
    """The header does not describe an image that can be decoded."""


class PixelError(PipelineError):
    """The pixels of the image cannot be read or decoded."""


class ImageTooLarge(PixelError):
    """The image has more pixels, frames or bytes than are decoded here."""


class CodestreamFault(PipelineError, ValueError):
    """A compressed frame contradicts the DICOM header."""


class NoDecoder(PipelineError):
    """The decoding process cannot start; the image is not at fault. The text says what to try."""


class ModelError(PipelineError):
    """The model cannot be used."""


class CardError(ModelError):
    """A model card (TOML file that describes a model) is missing, incomplete or contradicts its weights. The
    text names the file and the remedy.
    """


class NoNumber(ModelError):
    """A network returned NaN or infinity, so there is no result for this image."""

    def __init__(self, text: str = "the model gave no number") -> None:
        """``text``: the message."""
        super().__init__(text)


class PluginError(PipelineError):
    """A pipeline of another package cannot be loaded, or is no pipeline. The text names it, its place and the
    cause.
    """


class ProgramFailed(PipelineError):
    """A program that a rule runs (``command``, ``container``) failed, or its answer is not valid.

    ``printed``: the last that it printed. It may name the patient, so it is for the person who tries a
    program out, and for no log.
    """

    printed: str = ""


class ProgramStopped(ProgramFailed):
    """The program exceeded a limit of time, memory, processes or files, and was ended."""


class CleaningFailed(PipelineError):
    """Legible text may be left in the cleaned picture, so it must not be used. ``places``: boxes of that
    text, if known: left, top, right, bottom in pixels, the last two exclusive.
    """

    def __init__(self, text: str, places: Sequence[tuple[int, int, int, int]] = ()) -> None:
        """``text``: the message; ``places``: boxes of the text."""
        super().__init__(text)
        self.places = tuple(places)


@dataclass(frozen=True, slots=True)
class RuleFault:
    """One mistake in a file of device rules: its ``file``, the ``key`` in it, and the ``remedy``."""

    file: Path
    key: str
    remedy: str

    def __str__(self) -> str:
        """The mistake in one line: file, key and remedy."""
        return ": ".join(filter(None, (str(self.file), self.key, self.remedy)))


class DeviceRuleError(PipelineError):
    """The files of device rules have mistakes, all of which are in ``faults``; none of the rules is used."""

    def __init__(self, faults: Sequence[RuleFault]) -> None:
        """Join the mistakes to one message."""
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in self.faults))


LONGEST_LINE = 200
"""Characters of another package's error that are passed on."""


def first_line(error: BaseException) -> str:
    """Describe an error of another package in one line: its type and the first line of its message, with
    printable characters only.
    """
    first, *_ = [*str(error).strip().splitlines(), ""]
    line = "".join(letter if letter.isprintable() else "?" for letter in first)[:LONGEST_LINE]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
