"""Make device rules of the pixel scripts of other programs: CTP's ``DicomPixelAnonymizer``, deid's recipes.

An imported rule only adds rectangles that are removed. It has a name that no shipped rule has (a rule of the
same name would replace that one), the meaning identity, at least one rectangle, and no texts that stay.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ai_pipeline.burnin.devices.ctp import is_pixel_script, read_pixel_script
from ai_pipeline.burnin.devices.recipes import is_recipe, read_recipe
from ai_pipeline.burnin.devices.rules import LARGEST_DEVICE_SHARE, MOST_RULES, DeviceRule, Match, Rectangle
from ai_pipeline.burnin.devices.signatures import CannotTake, NotTaken, Signature, matches, printable
from ai_pipeline.errors import DeviceRuleError, RuleFault

MAX_BYTES: Final = 1 << 20
"""Bytes of a script, at most; CTP's library has 10,000, deid's 24,000."""
MOST_SIGNATURES: Final = 2000
"""Signatures of a script, at most, taken or not."""
MOST_RECTANGLES: Final = 50
"""Rectangles of a signature, at most."""
PREFIX: Final = "imported-"
"""How names of imported rules begin, and those of no shipped rule."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a script: device rules, how many of its signatures they are, and what was not taken."""

    source: str
    rules: tuple[DeviceRule, ...]
    taken: int
    left: tuple[NotTaken, ...]

    @property
    def toml(self) -> str:
        """The file of device rules."""
        return f"source = {json.dumps(self.source, ensure_ascii=False)}\n" + "".join(
            map(_as_toml, self.rules)
        )


def import_rules(file: Path) -> Imported:
    """Read a pixel script of CTP or a recipe of deid as device rules.

    Raises :class:`DeviceRuleError` if the file cannot be read, is too large or is neither, and when it has
    too many signatures.
    """
    text = _text(file)
    if is_recipe(text):
        kind, parts = "recipe of deid", read_recipe(text)
    elif is_pixel_script(text):
        kind, parts = "pixel script of CTP", read_pixel_script(text)
    else:
        raise _fault(
            file, "is neither a pixel script of CTP ({ … } (x,y,w,h)) nor a recipe of deid (%filter)"
        )
    stem = PREFIX + (re.sub("[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:30] or "rule")
    rules: list[DeviceRule] = []
    left: list[NotTaken] = []
    taken = 0
    for number, part in enumerate(parts):
        if number >= MOST_SIGNATURES:
            raise _fault(file, f"has more than {MOST_SIGNATURES} signatures: split it")
        if isinstance(part, NotTaken):
            left.append(part)
            continue
        try:
            rules += _rules(part, f"{stem}-{number + 1}")
            taken += 1
        except CannotTake as error:
            left.append(NotTaken(part.line, part.name, str(error)))
        if len(rules) > MOST_RULES:
            raise _fault(file, f"would be more than {MOST_RULES} device rules: split it")
    left.sort(key=lambda part: part.line)
    return Imported(f"{printable(file.name)}, {kind}", tuple(rules), taken, tuple(left))


def _text(file: Path) -> str:
    """The text of a script. Raises DeviceRuleError."""
    try:
        if not file.is_file():  # a pipe never ends
            raise _fault(file, "is no file")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise _fault(file, f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise _fault(file, f"is larger than {MAX_BYTES} bytes: no pixel script")
    if b"\0" in content:
        raise _fault(file, "is no text: no pixel script")
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _rules(signature: Signature, name: str) -> list[DeviceRule]:
    """The device rules of a signature, one for each of its alternatives. Raises CannotTake."""
    if len(signature.boxes) > MOST_RECTANGLES:
        raise CannotTake(f"has more than {MOST_RECTANGLES} rectangles")
    rectangles = tuple(
        Rectangle(left=left, top=top, right=right, bottom=bottom)
        for left, top, right, bottom in signature.boxes
    )
    found = list(dict.fromkeys(matches(signature.alternatives)))
    for match in found:
        _refuse_large(rectangles, match)
    names = [name if len(found) == 1 else f"{name}.{number}" for number in range(1, len(found) + 1)]
    comment = f"line {signature.line}: {printable(signature.name)[:100]}".rstrip(": ")
    return [
        DeviceRule(name=name, match=match, rectangles=rectangles, comment=comment)
        for name, match in zip(names, found, strict=True)
    ]


def _refuse_large(rectangles: Sequence[Rectangle], match: Match) -> None:
    """Raise CannotTake if the rectangles take so much of a picture that no image would be cleaned."""
    if match.rows and match.columns:
        boxes = [box for rectangle in rectangles if (box := rectangle.box(match.rows, match.columns))]
        taken = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
        if taken > LARGEST_DEVICE_SHARE * match.rows * match.columns:
            raise CannotTake(
                f"takes more than {LARGEST_DEVICE_SHARE:.0%} of the picture: nothing would be sent"
            )


def _as_toml(rule: DeviceRule) -> str:
    """The table of a device rule. Its texts are printable, so that JSON's strings are TOML's."""
    match = rule.match.model_dump(exclude_none=True)
    conditions = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in match.items())
    boxes = "".join(
        f"    {{ left = {box.left}, top = {box.top}, right = {box.right}, bottom = {box.bottom} }},\n"
        for box in rule.rectangles
    )
    return (
        f'\n[[rule]]\nname = "{rule.name}"\ncomment = {json.dumps(rule.comment, ensure_ascii=False)}\n'
        f"match = {{ {conditions} }}\nrectangles = [\n{boxes}]\n"
    )


def _fault(file: Path, remedy: str) -> DeviceRuleError:
    """The error of a whole file."""
    return DeviceRuleError([RuleFault(file, "", remedy)])
