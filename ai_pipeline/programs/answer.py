"""Read findings from a program's ``findings.json``; texts, numbers and places are checked
against the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    ImageHeader,
    ModelRef,
    Origin,
    Region,
    SourceImage,
)
from ai_pipeline.errors import ProgramFailed
from ai_pipeline.models.registry import CODE, LABEL

MOST_FINDINGS, MOST_REGIONS, MOST_POINTS = 200, 20, 500

Label = Annotated[str, StringConstraints(max_length=48, pattern=f"^{LABEL.pattern}$")]
CodeText = Annotated[str, StringConstraints(max_length=16, pattern=f"^{CODE.pattern}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Uid = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9.]+$")]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class GivenCode(_Given):
    """A coded concept."""

    value: CodeText
    scheme: CodeText
    meaning: Label


class GivenRegion(_Given):
    """A place in an image, in the coordinates of :class:`ai_pipeline.contract.Region`."""

    type: Literal["box", "polygon"]
    points: Annotated[list[tuple[float, float]], Field(max_length=MOST_POINTS)]
    origin: Literal[Origin.DETECTOR, Origin.ACTIVATION] = Origin.DETECTOR


class GivenFinding(_Given):
    """One finding, with the keys that ``ai-pipeline run --json`` prints."""

    source_uid: Uid
    label: Label
    code: GivenCode
    decision: Decision
    probability: Share | None = None
    threshold: Share | None = None
    frame: Annotated[int, Field(ge=1)] | None = None
    regions: Annotated[list[GivenRegion], Field(max_length=MOST_REGIONS)] = []
    site: GivenCode | None = None
    side: Literal["", "L", "R"] = ""


class ProgramAnswer(_Given):
    """The whole file ``findings.json``."""

    findings: Annotated[list[GivenFinding], Field(max_length=MOST_FINDINGS)]


_KNOWN = {key for kind in (ProgramAnswer, GivenFinding, GivenRegion, GivenCode) for key in kind.model_fields}


def findings_in(data: bytes, images: Sequence[SourceImage], model: ModelRef) -> tuple[Finding, ...]:
    """The findings of a program on these images, with ``model`` as their model. Raises ProgramFailed with the
    first fault.
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
    number: int, given: GivenFinding, headers: Mapping[str, ImageHeader], model: ModelRef
) -> Finding:
    def refused(why: str) -> ProgramFailed:
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


def _region(given: GivenRegion) -> Region:
    region = Region(given.type, tuple(given.points), given.origin)
    left, top, right, bottom = region.bounds
    if right - left < 1 or bottom - top < 1:
        raise ValueError("a region of less than a pixel")
    return region


def _code(given: GivenCode) -> Code:
    return Code(given.value, given.scheme, given.meaning)
