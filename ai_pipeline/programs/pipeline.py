"""The pipelines ``command`` and ``container``: a program of another party, under limits.

It reads copies of the images and writes ``findings.json``, DICOM objects, or both; its other files are
ignored. Its output is checked as untrusted input; the node judges the objects.

Texts, numbers and places of ``findings.json`` are checked against the images.
"""

import hashlib
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ai_pipeline.contract import (
    BURNED_IN,
    Accept,
    Code,
    Decision,
    Finding,
    ImageHeader,
    ModelRef,
    Origin,
    PipelineCard,
    PipelineResult,
    Progress,
    QualityNote,
    Refuse,
    Region,
    SourceImage,
)
from ai_pipeline.errors import ProgramFailed
from ai_pipeline.models.registry import CODE, LABEL
from ai_pipeline.programs import container, mercure
from ai_pipeline.programs.card import COMMAND, CONTAINER, CommandOptions, ContainerOptions, ProgramOptions
from ai_pipeline.programs.layout import InputFile, ProgramInput, input_file
from ai_pipeline.programs.package import STACK_MIB, Package
from ai_pipeline.programs.process import (
    Exchange,
    ProgramRun,
    can_leave_network,
    exchange,
    remove_abandoned,
    run_program,
)

NOTICE = "Notice of the program"
"""Name of the note by which a module of mercure speaks to persons."""
_FOLDERS = ("HOLOSCAN_{}_PATH", "MONAI_{}PATH")
"""Environment variables by which MONAI application packages find the folders."""


class _Program(ABC):
    """Base of the pipelines that run a foreign program, ``command`` and ``container``
    (:class:`ai_pipeline.contract.Pipeline`).
    """

    card: PipelineCard

    def warm_up(self) -> None:
        """Delete the temporary folders of workers that were killed."""
        remove_abandoned()

    def models(self) -> tuple[ModelRef, ...]:
        """Return no model: which one runs depends on a rule's options, and each result names it."""
        return ()

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """What this machine lacks for these options, as remedies by option."""
        found: dict[str, str] = {}
        for number, wanted in enumerate(self._chain(options), start=1):
            try:
                lacking = dict((*_lacking_folders(wanted), *self._lacking(wanted)))
            except ProgramFailed as error:
                lacking = {"layout": str(error)}
            if number > 1 and lacking:
                told = "; ".join(f"{key} {remedy}" for key, remedy in lacking.items())
                lacking = {"steps": f"program {number}: {told}"}
            found |= lacking
        return found

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (the rule has chosen)
    ) -> Accept | Refuse:
        """Accept every object that is a DICOM file, because the rule has chosen the objects."""
        taken = tuple(image.uid for image in images if input_file(image))
        return Accept(taken) if taken else Refuse("a program gets DICOM files, and there is none")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Run the program on all images at once, or on each series, and further programs on what it wrote.
        Raises ProgramFailed, PixelError, and what ``report`` raises.
        """
        if faults := self.card.options.faults(options) or self.option_faults(options):
            raise ProgramFailed("; ".join(f"{option} {remedy}" for option, remedy in faults.items()))
        given = [(image, file) for image in images if (file := input_file(image))]
        if self._chain(options)[0].each == "study":
            return self._answer(given, report, options)
        series: dict[str, list[tuple[SourceImage, InputFile]]] = defaultdict(list)
        for image, file in given:
            series[file.series_uid].append((image, file))
        answers = []
        for number, of_series in enumerate(series.values(), start=1):
            answer = self._answer(of_series, report, options)
            # Two runs may choose the same names for their files.
            named = tuple(replace(one, name=f"series{number}/{one.name}") for one in answer.objects)
            answers.append(replace(answer, objects=named))
        return PipelineResult.joined(answers)

    def _answer(
        self,
        given: Sequence[tuple[SourceImage, InputFile]],
        report: Progress,
        options: Mapping[str, object],
    ) -> PipelineResult:
        """Run the program, and further ones, on objects with their files. Raises as ``run``."""
        began = time.perf_counter()
        images, files = [image for image, _ in given], [file for _, file in given]
        [first, *further] = self._chain(options)
        results: list[bytes | None] = []
        with exchange(ProgramInput(files, first, report)) as folders:
            hashes = [self._run_one(folders, first, report)]
            for number, wanted in enumerate(further, start=2):
                results.append(folders.hand_on(ProgramInput(files, wanted), number))
                hashes.append(self._run_one(folders, wanted, report))
            model = _model_of(options, hashes)
            answer = folders.answer()
            findings = () if answer.findings is None else findings_in(answer.findings, images, model)
        headers = [file.header for file in files]
        results.append(answer.result)
        notices = [mercure.notice(result, headers) for result in results]
        records = [mercure.record(result) for result in results]
        return PipelineResult(
            findings,
            quality=tuple(QualityNote(NOTICE, f"The program says: {text}") for text in notices if text),
            timings={"total": time.perf_counter() - began},
            models=(model,),
            objects=answer.objects,
            records=tuple(filter(None, records)),
        )

    def _run_one(self, folders: Exchange, wanted: ProgramOptions, report: Progress) -> str:
        """Run one program; returns its SHA-256. Raises ProgramFailed, and what ``report`` raises."""
        with mercure.persistent(wanted.persistence):
            prepared, digest = self._prepare(folders, wanted)
            run_program(prepared, report)
        return digest

    def _chain(self, options: Mapping[str, object]) -> tuple[ProgramOptions, ...]:
        """The options of each program, one after the other. Raises pydantic.ValidationError."""
        wanted = self.card.options.of(options)
        return wanted.chain() if isinstance(wanted, ProgramOptions) else ()

    @abstractmethod
    def _lacking(self, wanted: Any) -> Iterator[tuple[str, str]]:
        """Yield each option that this machine cannot fulfil, with a remedy. Raises ProgramFailed."""

    @abstractmethod
    def _prepare(self, folders: Exchange, wanted: Any) -> tuple[ProgramRun, str]:
        """Return how to run the program with these options, and the SHA-256 of the program."""


def _model_of(options: Mapping[str, object], hashes: Sequence[str]) -> ModelRef:
    """The model that results name: programs of these SHA-256 with the options of a rule."""
    described = json.dumps(dict(options), sort_keys=True, default=str).encode()
    options_hash = hashlib.sha256(described).hexdigest()  # in the place of a card's
    [digest, *further] = hashes
    if further:
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return ModelRef(str(options["model"]), str(options["version"]), digest, options_hash)


def _lacking_folders(wanted: ProgramOptions) -> Iterator[tuple[str, str]]:
    """Yield the folder that a program is to keep, if it is not there."""
    if wanted.persistence and not os.access(wanted.persistence, os.W_OK | os.X_OK):
        yield "persistence", f"{wanted.persistence} is no folder that the node's user can write"


class Command(_Program):
    """The pipeline ``command``, which runs a program of this machine with the rights of the node's user."""

    card = COMMAND

    def _lacking(self, wanted: CommandOptions) -> Iterator[tuple[str, str]]:
        """Yield each option of the command that this machine cannot fulfil, with a remedy. Raises
        ProgramFailed.
        """
        if wanted.package and wanted.layout != "map":
            yield "package", 'needs layout = "map"'
        package = Package.of_folder(Path(wanted.package)) if wanted.package else None
        if package:
            yield from package.lacking(wanted.memory_mib, in_container=False)
        words, path = _words(wanted, package), _search_path(wanted, package)
        if shutil.which(words[0], path=path) is None:
            yield "command", f"{words[0]} is no program on this machine"
        if not wanted.network and not can_leave_network():
            yield "network", "cannot be taken from a program on this machine: true lets it have it"

    def _prepare(self, folders: Exchange, wanted: CommandOptions) -> tuple[ProgramRun, str]:
        """Return how to run the command, and the SHA-256 of its files."""
        package = Package.of_folder(Path(wanted.package)) if wanted.package else None
        words, path = _words(wanted, package), _search_path(wanted, package)
        source, target = str(folders.input), str(folders.output)
        places = {"{input}": source, "{output}": target}
        own = {"PATH": path, "LANG": "C.UTF-8", "HOME": str(folders.work), "TMPDIR": str(folders.work)}
        named = package.environment(source, target) if package else {}
        kept = {mercure.PERSISTENCE: wanted.persistence} if wanted.persistence else {}
        run = ProgramRun(
            command=[_filled(word, places) for word in words],
            folder=str(folders.work),
            output=target,
            environment=own | named | dict(wanted.environment) | _environment(source, target) | kept,
            seconds=package.seconds(wanted.seconds) if package else wanted.seconds,
            memory_mib=wanted.memory_mib,
            stack_mib=STACK_MIB if wanted.layout == "map" else 0,
            offline=not wanted.network,
            needed=[wanted.persistence, wanted.package, *":".join(wanted.environment.values()).split(":")],
        )
        program = Path(shutil.which(words[0], path=path) or "")
        return run, _digest([program, *map(Path, words[1:]), *(package.files() if package else ())])


def _words(wanted: CommandOptions, package: Package | None) -> Sequence[str]:
    """The program and its arguments: those of the rule, or of the package."""
    return wanted.command or (package.command() if package else ())


def _search_path(wanted: CommandOptions, package: Package | None) -> str:
    """The folders in which a program is looked for: those of the rule; without, ``bin`` of the package, in
    which an environment for it may be, and those of the system.
    """
    own = f"{wanted.package}/bin:" if package else ""
    return wanted.environment.get("PATH", f"{own}{os.defpath}")


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the content of those paths that are whole paths of files."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_absolute() and path.is_file():
            found = path.stat()
            digest.update(_file_digest(path, found.st_size, found.st_mtime_ns, found.st_ino))
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _file_digest(path: Path, *_as_it_is: int) -> bytes:
    """SHA-256 of a file; the further values change when it does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Container(_Program):
    """The pipeline ``container``, which runs an image by podman or docker without network."""

    card = CONTAINER

    def _lacking(self, wanted: ContainerOptions) -> Iterator[tuple[str, str]]:
        """Yield each option of the container that this machine cannot fulfil, with a remedy. Raises
        ProgramFailed.
        """
        engine = container.engine(wanted.engine)
        if not engine:
            missing = wanted.engine or " or ".join(container.ENGINES)
            yield "engine", f"{missing} is not installed on this machine"
        elif wanted.layout == "map":
            package = container.package_of(engine, container.image_id(engine, wanted.image))
            yield from package.lacking(wanted.memory_mib, in_container=True)

    def _prepare(self, folders: Exchange, wanted: ContainerOptions) -> tuple[ProgramRun, str]:
        """Return how to run the container, and the id of its image."""
        engine = container.engine(wanted.engine)
        image_id = container.image_id(engine, wanted.image)
        package = container.package_of(engine, image_id) if wanted.layout == "map" else None
        places = _places(wanted, package)
        source, target, kept = places["{input}"], places["{output}"], places["{persistence}"]
        named = package.environment(source, target) if package else {}
        mounts = {source: folders.input, target: folders.output}
        environment = named | dict(wanted.environment) | _environment(source, target)
        if wanted.persistence:
            mounts[kept] = Path(wanted.persistence)
            environment[mercure.PERSISTENCE] = kept
        words = [_filled(word, places) for word in wanted.command or (package.command() if package else ())]
        entry = words.pop(0) if package else ""  # in place of /var/holoscan/tools
        name = f"ai-pipeline-{folders.name}"
        run = container.ContainerRun(
            name,
            mounts,
            source,
            environment,
            wanted.memory_mib,
            stack_mib=STACK_MIB if wanted.layout == "map" else 0,
            entrypoint=entry,
        )
        prepared = ProgramRun(
            command=container.command_line(engine, image_id, words, run),
            folder=str(folders.work),
            output=str(folders.output),
            environment={key: os.environ[key] for key in container.ENVIRONMENT if key in os.environ},
            seconds=package.seconds(wanted.seconds) if package else wanted.seconds,
            cleanup=[engine, "rm", "--force", name],
        )
        return prepared, image_id.removeprefix("sha256:")


def _places(wanted: ContainerOptions, package: Package | None) -> dict[str, str]:
    """The folders inside a container, by placeholder."""
    if package:
        application = package.application
        own = {"input": application.input, "output": application.output}
        return container.PLACES | {f"{{{key}}}": application.folder(one) for key, one in own.items()}
    return mercure.FOLDERS if wanted.layout == "mercure" else container.PLACES


def _filled(word: str, places: Mapping[str, str]) -> str:
    """Replace the placeholders in one word of a command. ``places``: folder by placeholder."""
    for placeholder, place in places.items():
        word = word.replace(placeholder, place)
    return word


def _environment(source: str, target: str) -> dict[str, str]:
    """Environment variables that name the input and output folders, as mercure's modules and MONAI
    application packages expect them.
    """
    named = {"MERCURE_IN_DIR": source, "MERCURE_OUT_DIR": target}
    named |= {variable.format("INPUT"): source for variable in _FOLDERS}
    return named | {variable.format("OUTPUT"): target for variable in _FOLDERS}


MOST_FINDINGS, MOST_REGIONS, MOST_POINTS = 200, 20, 500

Label = Annotated[str, StringConstraints(max_length=48, pattern=f"^{LABEL.pattern}$")]
CodeText = Annotated[str, StringConstraints(max_length=16, pattern=f"^{CODE.pattern}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Uid = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9.]+$")]


class _AnswerPart(BaseModel):
    """Base of the classes that check a program's ``findings.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class AnswerCode(_AnswerPart):
    """A coded concept in a program's ``findings.json``."""

    value: CodeText
    scheme: CodeText
    meaning: Label


class AnswerRegion(_AnswerPart):
    """A place in an image in a program's ``findings.json``, in the coordinates of
    :class:`ai_pipeline.contract.Region`.
    """

    type: Literal["box", "polygon"]
    points: Annotated[list[tuple[float, float]], Field(max_length=MOST_POINTS)]
    origin: Literal[Origin.DETECTOR, Origin.ACTIVATION] = Origin.DETECTOR


class AnswerFinding(_AnswerPart):
    """One finding in a program's ``findings.json``, with the keys that ``ai-pipeline run --json`` prints."""

    source_uid: Uid
    label: Label
    code: AnswerCode
    decision: Decision
    probability: Share | None = None
    threshold: Share | None = None
    frame: Annotated[int, Field(ge=1)] | None = None
    regions: Annotated[list[AnswerRegion], Field(max_length=MOST_REGIONS)] = []
    site: AnswerCode | None = None
    side: Literal["", "L", "R"] = ""


class ProgramAnswer(_AnswerPart):
    """The whole file ``findings.json`` that a program writes."""

    findings: Annotated[list[AnswerFinding], Field(max_length=MOST_FINDINGS)]


_KNOWN = {
    key for kind in (ProgramAnswer, AnswerFinding, AnswerRegion, AnswerCode) for key in kind.model_fields
}


def findings_in(data: bytes, images: Sequence[SourceImage], model: ModelRef) -> tuple[Finding, ...]:
    """Read a program's findings on ``images`` from the bytes of its ``findings.json``, with ``model`` as
    their model. Raises ProgramFailed with the first fault.
    """
    try:
        answer = ProgramAnswer.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Only keys of ours and numbers are repeated: what else stands there is the program's.
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _KNOWN)
        what = "is no JSON" if first["type"] == "json_invalid" else first["msg"]
        raise ProgramFailed(
            f"findings.json: {place}: {what}" if place else f"findings.json: {what}"
        ) from None
    headers = {image.uid: image.header for image in images}
    return tuple(_finding(number, given, headers, model) for number, given in enumerate(answer.findings))


def _finding(
    number: int, given: AnswerFinding, headers: Mapping[str, ImageHeader], model: ModelRef
) -> Finding:
    """Convert finding number ``number`` of a program's answer. ``headers``: those of the images, by UID.
    Raises ProgramFailed.
    """

    def refused(why: str) -> ProgramFailed:
        """The error for a faulty finding."""
        return ProgramFailed(f"findings.json: findings.{number}: {why}")

    header = headers.get(given.source_uid)
    if header is None:
        raise refused("source_uid names no image that the program got")
    if given.frame is not None and given.frame > header.frames:
        raise refused(f"frame is beyond the image's {header.frames}")
    codes = [code for code in (given.code, given.site) if code is not None]
    if any(code.scheme == BURNED_IN.scheme for code in codes):
        raise refused(f"the coding scheme {BURNED_IN.scheme} is the node's own")
    for region in given.regions:
        if not all(0 <= x <= header.columns and 0 <= y <= header.rows for x, y in region.points):
            raise refused("a region reaches out of its image")
    try:
        regions = tuple(_region(region) for region in given.regions)
    except ValueError:
        raise refused("a region has no area, or too few points") from None
    return Finding(
        label=given.label,
        code=_code(given.code),
        probability=given.probability,
        threshold=given.threshold,
        decision=given.decision,
        source_uid=given.source_uid,
        model=model,
        frame=given.frame if header.frames > 1 else None,
        regions=regions,
        site=_code(given.site) if given.site else None,
        side=given.side,
    )


def _region(given: AnswerRegion) -> Region:
    """Convert a region of a program's answer. Raises ValueError."""
    region = Region(given.type, tuple(given.points), given.origin)
    left, top, right, bottom = region.bounds
    if right - left < 1 or bottom - top < 1:
        raise ValueError("a region of less than a pixel")
    return region


def _code(given: AnswerCode) -> Code:
    """Convert a code of a program's answer."""
    return Code(given.value, given.scheme, given.meaning)
