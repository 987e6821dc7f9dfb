"""The cards of the pipelines ``command`` and ``container``: their descriptions and options."""

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from ai_pipeline.contract import PipelineCard, PipelineOptions, option
from ai_pipeline.models.registry import NAME
from ai_pipeline.programs.container import IMAGE

LONGEST: Final = 86_400.0
_NAMED: Final = "letters, digits, '.', '_', '+' and '-', 64 at most: results name it"
_Word = Annotated[str, Field(pattern=r"^[^\x00]+$")]


class ProgramOptions(PipelineOptions):
    """The options that the pipelines ``command`` and ``container`` have in common."""

    model: str = option(..., "Model", wanted=_NAMED, pattern=f"^{NAME.pattern}$")
    """What results name as the model: letters, digits, `.`, `_`, `+`, `-`."""
    version: str = option(..., "Version of the model", wanted=_NAMED, pattern=f"^{NAME.pattern}$")
    """The same for its version."""
    seconds: float = option(300.0, "Longest run", unit="s", ge=1, le=LONGEST)
    """How long it may take; the job's own limit, `workers.time_limit_seconds`, holds too."""
    memory_mib: int = option(2048, "Memory", unit="MiB", ge=32)
    """What all its processes may take together (a single one no more than `workers.memory_mib`)."""


class CommandOptions(ProgramOptions):
    """Options of the pipeline ``command``, which runs a program of this machine."""

    command: tuple[_Word, ...] = option(
        ...,
        "Program and arguments",
        min_length=1,
        wanted='the program and its arguments: ["/opt/tool/run", "{input}", "{output}"]',
    )
    """The program (a whole path, or a name that the system's folders hold) and its arguments; `{input}` and
    `{output}` become folders. No shell reads it, and it has nothing of a patient."""
    network: bool = option(False, "Network")
    """It may use the network. Without it the network is taken away, and where the kernel does not allow that
    (in some containers) `check` says so and the program is not run."""

    @field_validator("command")
    @classmethod
    def _whole_path(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        """Raise ValueError for a relative path of a program."""
        if "/" in words[0] and not words[0].startswith("/"):
            raise ValueError(f"{words[0]} must be a whole path, or the name of a program")
        return words


class ContainerOptions(ProgramOptions):
    """Options of the pipeline ``container``, which runs a container image."""

    image: str = option(
        ...,
        "Image",
        wanted='the name of an image, such as "registry.example/lungs@sha256:…"',
        pattern=f"^{IMAGE.pattern}$",
    )
    """The container image; it must be on this machine, as it is never pulled for a job."""
    command: tuple[_Word, ...] = option((), "Arguments", wanted='arguments, such as ["--fast"]')
    """What follows the image's entry point."""
    engine: Literal["", "podman", "docker"] = option("", "Engine", usual="the first that is installed")
    """`podman` or `docker`."""


COMMAND: Final = PipelineCard(
    name="command",
    version="1.0",
    about="A program of this machine, with the rights of the node's user.",
    intended_use="What its maker says: the node judges nothing but the form of its answer.",
    options=CommandOptions,
    per_image=False,
)
CONTAINER: Final = PipelineCard(
    name="container",
    version="1.0",
    about="A container image, run without network by podman or docker.",
    intended_use="What its maker says: the node judges nothing but the form of its answer.",
    options=ContainerOptions,
    per_image=False,
)
