"""The cards of the pipelines ``command`` and ``container``: their descriptions and options."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from ai_pipeline.contract import PipelineCard, PipelineOptions, option
from ai_pipeline.models.registry import NAME
from ai_pipeline.programs.container import IMAGE

LONGEST: Final = 86_400.0
MOST_STEPS: Final = 8
"""Programs that a rule may run one after the other, besides the first."""
_NAMED: Final = "letters, digits, '.', '_', '+' and '-', 64 at most: results name it"
_COMMAND = 'the program and its arguments: ["/opt/tool/run", "{input}", "{output}"]'
_USE = "What its maker says: the node judges whose an answer is and what it refers to, not if it is right."
_FOLDER = "the whole path of a folder"
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
    layout: Literal["numbered", "mercure", "map"] = option("numbered", "Layout")
    """How its folders are arranged: `numbered`: `1.dcm`, `2.dcm` …; `mercure`: as a processing module of
    mercure expects it; `map`: as a MONAI application package does ([bring an AI](../bring-an-ai.md))."""
    each: Literal["study", "series"] = option("study", "Runs once for each")
    """What one run gets: `study`: all that the rule takes of a study; `series`: one series after the other,
    each with these limits. The answers are one: if a run fails, nothing of the others is used."""
    settings: Mapping[str, JsonValue] = option({}, "Settings", wanted="a table, such as { sigma = 3 }")
    """What `task.json` gives to a module of mercure as its settings."""
    environment: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], _Word] = option(
        {}, "Environment", wanted='a table of texts, such as { MODEL = "/srv/model" }'
    )
    """Variables of its environment; the names of its folders are set beside them."""
    decompress: bool = option(False, "Uncompressed copies")
    """The copies have uncompressed pixels, for a program that cannot decode."""
    persistence: str = option(
        "", "Folder that it keeps", usual="none", wanted=_FOLDER, pattern=r'^(/[^\x00,"]+)?$'
    )
    """A folder, as a whole path, in which a module of mercure keeps files from run to run
    (`MODULE_PERSISTENCE_DIR`). It can keep images of patients there: it is yours to watch and to empty."""

    @field_validator("steps", check_fields=False)
    @classmethod
    def _valid_steps(
        cls, steps: tuple[Mapping[str, JsonValue], ...], given: ValidationInfo
    ) -> tuple[Mapping[str, JsonValue], ...]:
        """Return the steps. Raises ValueError with the first fault of one."""
        for number, step in enumerate(steps, start=2):
            if faults := cls.faults({**given.data, "steps": (), **step}) | _not_in_a_step(step):
                [key, remedy] = next(iter(faults.items()))
                raise ValueError(f"program {number}: {key} {remedy}")
        return steps

    def chain(self) -> tuple[Self, ...]:
        """The options of each program that the rule runs, one after the other."""
        first = self.model_dump() | {"steps": ()}
        steps: tuple[Mapping[str, JsonValue], ...] = getattr(self, "steps", ())
        return tuple(self.of(first | dict(step)) for step in ({}, *steps))


def _not_in_a_step(step: Mapping[str, JsonValue]) -> dict[str, str]:
    """What a step may not have, as a remedy by option."""
    faults = {"steps": "belong to the rule, not to a step", "each": "belongs to the rule, not to a step"}
    return {name: fault for name, fault in faults.items() if name in step}


_STEPS = "more programs, each a table of the options in which it differs"
_Steps = Annotated[tuple[Mapping[str, JsonValue], ...], Field(max_length=MOST_STEPS)]


class CommandOptions(ProgramOptions):
    """Options of the pipeline ``command``, which runs a program of this machine."""

    package: str = option(
        "", "Folder of a MONAI package", usual="none", wanted=_FOLDER, pattern=r"^(/[^\x00]+)?$"
    )
    """The folder, as a whole path, to which a MONAI application package was unpacked (with `layout = "map"`):
    its `app.json` and `pkg.json` are read there, and its paths such as `/opt/holoscan/app` are looked for
    there."""
    command: tuple[_Word, ...] = option(
        (), "Program and arguments", usual="the package's", wanted=_COMMAND, validate_default=True
    )
    """The program (a whole path, or a name that the system's folders hold) and its arguments; `{input}` and
    `{output}` become folders. No shell reads it, and it has nothing of a patient. Required without
    `package`."""
    network: bool = option(False, "Network")
    """It may use the network. Without it the network is taken away, and where the kernel does not allow that
    (in some containers) `check` says so and the program is not run."""

    steps: _Steps = option((), "Further programs", wanted=_STEPS)
    """Further programs, one after the other: the input of each is what the one before it wrote, and the last
    one's output counts. A table for each, with the options in which it differs, such as
    `steps = [{ command = ["/opt/b/run"], settings = { limit = 2 } }]`."""

    @field_validator("command")
    @classmethod
    def _whole_path(cls, words: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        """Raise ValueError for no program, or for a relative path of one."""
        if not words and not given.data.get("package"):
            raise ValueError(f"must be given: {_COMMAND}")
        if words and "/" in words[0] and not words[0].startswith("/"):
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
    """What follows the image's entry point; in the layout `map` it replaces the command of the package."""
    engine: Literal["", "podman", "docker"] = option("", "Engine", usual="the first that is installed")
    """`podman` or `docker`."""
    steps: _Steps = option((), "Further images", wanted=_STEPS)
    """Further images, as the `steps` of `command`: `steps = [{ image = "registry.example/b:2" }]`."""


COMMAND: Final = PipelineCard(
    name="command",
    version="1.0",
    about="A program of this machine, with the rights of the node's user.",
    intended_use=_USE,
    options=CommandOptions,
    per_image=False,
)
CONTAINER: Final = PipelineCard(
    name="container",
    version="1.0",
    about="A container image, run without network by podman or docker.",
    intended_use=_USE,
    options=ContainerOptions,
    per_image=False,
)
