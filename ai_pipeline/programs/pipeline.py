"""The pipelines ``command`` and ``container``: a program of another party, under limits.

It reads copies of the images and writes ``findings.json``; its other files are ignored. Its output is checked
as untrusted input.

Texts, numbers and places of ``findings.json`` are checked against the images.
"""

import hashlib
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

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
    Refuse,
    Region,
    SourceImage,
)
from ai_pipeline.errors import ProgramFailed
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.models.registry import CODE, LABEL
from ai_pipeline.programs import container
from ai_pipeline.programs.card import COMMAND, CONTAINER, CommandOptions, ContainerOptions
from ai_pipeline.programs.process import (
    Exchange,
    ProgramRun,
    can_leave_network,
    exchange,
    remove_abandoned,
    run_program,
)

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
        return dict(self._lacking(options))

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (the rule has chosen)
    ) -> Accept | Refuse:
        """Accept every image that is a DICOM file, because the rule has chosen the images."""
        taken = tuple(image.uid for image in images if isinstance(image, DicomImage))
        return Accept(taken) if taken else Refuse("a program gets DICOM files, and there is none")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Run the program on all images at once. Raises ProgramFailed, and what ``report`` raises."""
        if faults := self.card.options.faults(options) or self.option_faults(options):
            raise ProgramFailed("; ".join(f"{option} {remedy}" for option, remedy in faults.items()))
        began = time.perf_counter()
        files = [image for image in images if isinstance(image, DicomImage)]
        with exchange([image.path for image in files]) as folders:
            prepared, model_hash = self._prepare(folders, options)
            run_program(prepared, report)
            described = json.dumps(dict(options), sort_keys=True, default=str).encode()
            options_hash = hashlib.sha256(described).hexdigest()  # in the place of a card's
            model = ModelRef(str(options["model"]), str(options["version"]), model_hash, options_hash)
            findings = findings_in(folders.answer(), files, model)
        return PipelineResult(findings, timings={"total": time.perf_counter() - began}, models=(model,))

    @abstractmethod
    def _lacking(self, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield each option that this machine cannot fulfil, with a remedy."""

    @abstractmethod
    def _prepare(self, folders: Exchange, options: Mapping[str, object]) -> tuple[ProgramRun, str]:
        """Return how to run the program, and the SHA-256 of the program."""


class Command(_Program):
    """The pipeline ``command``, which runs a program of this machine with the rights of the node's user."""

    card = COMMAND

    def _lacking(self, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield each option of the command that this machine cannot fulfil, with a remedy."""
        wanted = CommandOptions.of(options)
        if shutil.which(wanted.command[0], path=os.defpath) is None:
            yield "command", f"{wanted.command[0]} is no program on this machine"
        if not wanted.network and not can_leave_network():
            yield "network", "cannot be taken from a program on this machine: true lets it have it"

    def _prepare(self, folders: Exchange, options: Mapping[str, object]) -> tuple[ProgramRun, str]:
        """Return how to run the command, and the SHA-256 of its files."""
        wanted = CommandOptions.of(options)
        words = wanted.command
        places = {"{input}": str(folders.input), "{output}": str(folders.output)}
        digest = hashlib.sha256()
        for path in map(Path, [shutil.which(words[0], path=os.defpath) or "", *words[1:]]):
            if path.is_absolute() and path.is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        run = ProgramRun(
            command=[_filled(word, places) for word in words],
            folder=str(folders.work),
            output=str(folders.output),
            environment=_environment(str(folders.input), str(folders.output))
            | {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(folders.work), "TMPDIR": str(folders.work)},
            seconds=wanted.seconds,
            memory_mib=wanted.memory_mib,
            offline=not wanted.network,
        )
        return run, digest.hexdigest()


class Container(_Program):
    """The pipeline ``container``, which runs an image by podman or docker without network."""

    card = CONTAINER

    def _lacking(self, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield each option of the container that this machine cannot fulfil, with a remedy."""
        engine = ContainerOptions.of(options).engine
        if not container.engine(engine):
            yield "engine", f"{engine or ' or '.join(container.ENGINES)} is not installed on this machine"

    def _prepare(self, folders: Exchange, options: Mapping[str, object]) -> tuple[ProgramRun, str]:
        """Return how to run the container, and the id of its image."""
        wanted = ContainerOptions.of(options)
        engine = container.engine(wanted.engine)
        image_id = container.image_id(engine, wanted.image)
        name = f"ai-pipeline-{folders.name}"
        words = container.command_line(
            engine,
            image_id,
            [_filled(word, container.PLACES) for word in wanted.command],
            name=name,
            folders=(folders.input, folders.output),
            environment=_environment(*container.PLACES.values()),
            memory_mib=wanted.memory_mib,
        )
        run = ProgramRun(
            command=words,
            folder=str(folders.work),
            output=str(folders.output),
            environment={key: os.environ[key] for key in container.ENVIRONMENT if key in os.environ},
            seconds=wanted.seconds,
            cleanup=[engine, "rm", "--force", name],
        )
        return run, image_id.removeprefix("sha256:")


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
