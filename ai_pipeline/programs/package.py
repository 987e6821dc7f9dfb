"""MONAI application packages (MAP, specification 1.0.0): what their manifests ask of whoever runs them.

``app.json`` has the command, folders, environment and longest run of the application, ``pkg.json`` its models
and what it needs. The packager of today writes them to ``/etc/holoscan``, older ones to ``/etc/monai``. The
manifests are another party's: a value of a wrong type is refused.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ai_pipeline.errors import ProgramFailed

MANIFESTS: Final = ("etc/holoscan", "etc/monai", "")
"""Folders of a package that may have its manifests, the first one counts."""
LARGEST_MANIFEST: Final = 1 << 20
"""Bytes of a manifest."""
STACK_MIB: Final = 32
"""Size of the stack that Holoscan asks for; each thread gets one as large."""
_PATH = r"^/?(\.?[\w-][\w.-]*)(/\.?[\w-][\w.-]*)*/?$"  # it becomes a part of the engine's command line
_GPU = Path("/dev/nvidia0")
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "K": 10**3, "M": 10**6, "G": 10**9, "": 1}


class _Part(BaseModel):
    """Base of the classes that read manifests; keys that they do not name are left unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: object) -> object:
        """Take null for a key that is not there, as packagers write it."""
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if value is not None}
        return given


Manifest = TypeVar("Manifest", bound=_Part)


class _Folder(_Part):
    """A folder of an application."""

    path: Annotated[str, Field(pattern=_PATH)] = ""


_Words = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)]


class Application(_Part):
    """The manifest ``app.json``. ``timeout``: longest run in seconds, 0 for no limit."""

    command: _Words = Field(min_length=1)
    environment: dict[Annotated[str, Field(pattern=r"^\w+$")], Annotated[str, Field(max_length=4096)]] = {}
    input: _Folder = _Folder(path="input/")
    output: _Folder = _Folder(path="output/")
    timeout: Annotated[float, Field(ge=0)] = 0
    work: Annotated[str, Field(pattern=_PATH)] = Field(
        "/var/holoscan/", validation_alias=AliasChoices("workingDirectory", "working-directory")
    )

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        """The words of a command that is one text: JSON, as packagers write it, or a line for a shell."""
        if not isinstance(given, str):
            return given
        return json.loads(given) if given.lstrip().startswith("[") else shlex.split(given)

    def folder(self, of: _Folder) -> str:
        """The path of an input or output folder in the container."""
        return str(PurePosixPath(self.work) / of.path)


class Resources(_Part):
    """What a package needs at least. ``memory``: such as "4Gi"."""

    cpu: float = 1
    gpu: float = 0
    memory: str = "0"

    @field_validator("memory", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        """A number of bytes as text."""
        return str(given) if isinstance(given, int) else given

    @property
    def memory_mib(self) -> float:
        """The memory in MiB. Raises ProgramFailed for a text that is no size."""
        number = self.memory.rstrip("KMGTi")
        try:
            return float(number) * _UNITS[self.memory[len(number) :]] / 2**20
        except (ValueError, KeyError):
            raise ProgramFailed("pkg.json: resources.memory is no size such as 4Gi") from None


class Contents(_Part):
    """The manifest ``pkg.json``."""

    application_root: str = Field(
        "/opt/holoscan/app/", validation_alias=AliasChoices("applicationRoot", "application-root")
    )
    model_root: str = Field("/opt/holoscan/models/", validation_alias=AliasChoices("modelRoot", "model-root"))
    resources: Resources = Resources()


class Package(_Part):
    """Both manifests of a MONAI application package. ``root``: the folder on this machine that holds what the
    package has at ``/``; "" in a container.
    """

    application: Application
    contents: Contents
    root: str = ""

    @classmethod
    def read(cls, app: bytes, pkg: bytes | None, root: str = "") -> "Package":
        """Read the manifests ``app.json`` and ``pkg.json`` (None: the package has none). Raises
        ProgramFailed.
        """
        contents = Contents() if pkg is None else _manifest(Contents, "pkg.json", pkg)
        return cls(application=_manifest(Application, "app.json", app), contents=contents, root=root)

    @classmethod
    def of_folder(cls, root: Path) -> "Package":
        """Read the package that was unpacked to the folder ``root``. Raises ProgramFailed."""
        for place in MANIFESTS:
            if (root / place / "app.json").is_file():
                app, pkg = (root / place / name for name in ("app.json", "pkg.json"))
                return cls.read(_bytes(app), _bytes(pkg) if pkg.is_file() else None, str(root))
        raise ProgramFailed("has no app.json in etc/holoscan, etc/monai or itself")

    def files(self) -> list[Path]:
        """The files of application and models in the package's folder, by name."""
        roots = (self.contents.application_root, self.contents.model_root)
        folders = (Path(self.root) / root.lstrip("/") for root in roots if self.root)
        found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sorted(path for path in found if path.suffix != ".pyc")  # Python writes these itself

    def command(self) -> tuple[str, ...]:
        """The words of the command; paths of the container that the package's folder has are those there."""
        return tuple(map(self.place, self.application.command))

    def place(self, word: str) -> str:
        """A path of the container as one of this machine, if the package's folder has it; else the word as it
        is.
        """
        there = Path(self.root) / word.lstrip("/")
        return str(there) if self.root and word.startswith("/") and there.exists() else word

    def environment(self, source: str, target: str) -> dict[str, str]:
        """The variables that the package is promised; ``source``, ``target``: its folders."""
        work = PurePosixPath(self.application.work)
        paths = {"HOLOSCAN_WORKDIR": str(work), "HOLOSCAN_MODEL_PATH": self.contents.model_root}
        given = paths | self.application.environment
        if self.root:
            # An application stops where a path is missing, such as that of its app.yaml.
            placed = {key: self.place(value) for key, value in given.items()}
            given = {
                key: value
                for key, value in placed.items()
                if not given[key].startswith("/") or value != given[key]
            }
        return given | {"HOLOSCAN_INPUT_PATH": source, "HOLOSCAN_OUTPUT_PATH": target}

    def lacking(self, memory_mib: int, *, in_container: bool) -> Iterator[tuple[str, str]]:
        """Yield what the package asks for and does not get, as option and remedy. Raises ProgramFailed."""
        wanted = self.contents.resources
        if wanted.gpu > 0 and (in_container or not _GPU.exists()):
            there = "a container gets none here" if in_container else "this machine has none"
            yield "layout", f"the package needs {wanted.gpu:g} GPU, and {there}"
        if wanted.cpu > (cores := os.cpu_count() or 1):
            yield "layout", f"the package needs {wanted.cpu:g} processors, and this machine has {cores}"
        if wanted.memory_mib > memory_mib:
            yield "memory_mib", f"must be at least {wanted.memory_mib:g} MiB: the package needs them"

    def seconds(self, most: float) -> float:
        """The longest run: that of the rule (``most``) or that of the package, if it is shorter."""
        return min(most, self.application.timeout or most)


def _manifest(kind: type[Manifest], name: str, data: bytes) -> Manifest:
    """Read a manifest of the package. Raises ProgramFailed."""
    try:
        found: Any = json.loads(data)
        return kind.model_validate(found)
    except ValidationError as error:
        [first, *_] = error.errors(include_input=False, include_url=False, include_context=False)
        place = ".".join(map(str, first["loc"][:1]))
        raise ProgramFailed(f"{name}: {place}: {first['msg']}"[:200]) from None
    except (ValueError, RecursionError):
        raise ProgramFailed(f"{name} is no JSON") from None


def _bytes(path: Path) -> bytes:
    """The bytes of a manifest. Raises ProgramFailed for one that is too large."""
    with path.open("rb") as file:
        data = file.read(LARGEST_MANIFEST + 1)
    if len(data) > LARGEST_MANIFEST:
        raise ProgramFailed(f"{path.name} is larger than {LARGEST_MANIFEST >> 10} KiB")
    return data
