"""Settings of the machine in blocks and rows, each proven by the lines above and below it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations

from ai_pipeline.burnin.decide.layout import aligned, in_one_row, is_above, is_same_place, level_box, overlap
from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    TICKS,
    labelled,
    may_be_setting,
    meaning_of,
    spaced,
)
from ai_pipeline.burnin.decide.texts import TOGETHER, Text
from ai_pipeline.burnin.decide.vocabulary import PRESETS
from ai_pipeline.burnin.find.annotation import gaps
from ai_pipeline.burnin.find.networks import Line, is_wide
from ai_pipeline.contract import Meaning

BLOCK = 2.5
"""Distance up to which the lines of a block prove the text between them (heights of a line)."""
_CONSONANTS = "[B-DF-HJ-NP-TV-XZ][b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{1,2}"
_NAMES = "(?:N[Gg]|M[Cc]|V[Ll][Kk]|W[Mm])(?![A-Za-z])"
"""Names, and their beginnings, without a vowel."""
_LETTERS = rf"(?:[A-Z]|{_CONSONANTS}|[¤§])"
_VALUE = r"[-+]? ?\d{1,3}(?:[.,]\d{1,2})?(?: ?(?:dB|%|[kM]?Hz|fps|[cm]m|°))?"
_STEP = "(?:Low|LOW|Mid|MID|Med|MED|High|HIGH|Max|MAX|Off|OFF|On|ON|Gen|GEN|Pen|PEN|Res|RES|CHI|Hoch|Mittel)"
AMBIGUOUS = re.compile(
    rf"(?![FJMW] \d\d$|[A-Z]\w\w \d{{3}}$|{_NAMES}|.*\d/\d\d?/\d\d)(?:"
    r"-?\d{1,2}|\d{1,2}[.,]\d|100 ?[^\s\dAaFfJjMmWwYy]?|\d(?:/\d){1,3}|[A-Z]/[A-Z](?: \d/1\d)?|"
    rf"(?:[¤§] )?{_LETTERS}(?: ?#)?(?: ?{_VALUE}| {_STEP}| [A-Z]/\d)"
    rf"(?: ?[/~@] ?(?:{_LETTERS} ?)?(?:{_VALUE}|[A-Z])){{0,5}}|(?:[A-Z] )?[¤§](?: [A-Z])?|{_STEP})"
)
"""The form of a setting that could be an age, a date or a name elsewhere, as :func:`labelled` writes it: a
number after a label without a vowel, ratios, steps. A padlock beside a power is read as a letter; no letter
of a sex or of years is one."""
TO_PROVE_TWICE = re.compile(
    rf"-?\d{{1,2}}(?:[.,]\d)?|100 ?.?|{_CONSONANTS} \d\d|[A-Z] §|§ [A-Z]|[A-Z]/[A-Z]|"
    "(?:[^P].* |)(?:Low|LOW|Max|MAX|CHI|On|ON|Hoch|Mittel)"
)
"""What of these could be an age or a name: proven settings must stand above and below it."""
HARMLESS = re.compile(
    rf"(?!{_NAMES}|[HW][Tt]|BW)(?:[A-Z]|{_CONSONANTS}|[eisx][A-Z][a-z]{{2,8}}) ?:?"
    r"(?: ?(?:H?\d{1,2}[.,]\d(?: ?(?:[kM](?:Hz)?|[cm]m))?|0[.,]\d\d|\d{1,3} ?(?:dB|%|k?Hz|fps|°))| [A-Z]/\d)|"
    r"[eisx][A-Z][a-z]{2,8}(?: \d)?"
)
"""The form of a setting that no person has, whatever stands near: a label that is no name, with a value that
is neither an age, a date nor a number of a person. "Wt 70.5" is a weight."""


def by_their_block(texts: Sequence[Text]) -> list[Text]:
    """Give some of ``texts`` the meaning of a setting that lines above and below prove, if no possible name
    is near. One proven setting is enough for "FR 32", "E3/P3" or "VPS 1.6"; what could be an age or name
    (:data:`TO_PROVE_TWICE`: "97", "Gain 60", "B Low") must stand between two of them.
    """
    found = list(texts)
    is_candidate = cache(_may_be_setting)  # asked of each line again for the lines near it
    downwards = sorted(range(len(found)), key=lambda one: found[one].box.box[1])
    for index in (*downwards, *reversed(downwards)):  # each by those above it, then by those below
        text = found[index]
        if (
            text.meaning is Meaning.IDENTITY
            and is_candidate(text)
            and _is_among_settings(text, found, is_candidate)
        ):
            found[index] = replace(text, meaning=Meaning.ACOUSTIC, proof="among settings of one block")
    return found


def by_their_rows(texts: Sequence[Text]) -> list[Text]:
    """Judge a label and its value that stand apart in one row of a block as one line, then all lines by their
    block (:func:`by_their_block`). A block has at least three such rows; the labels are aligned, and the
    values too. Label and value both stay or are both removed.
    """
    rows = _rows(texts)
    alone = [text for text in texts if all(text not in row for row in rows)]
    judged = by_their_block([*alone, *(_joined(*row) for row in rows)])
    found = dict(zip(alone, judged[: len(alone)], strict=True))
    lines = zip(rows, judged[len(alone) :], strict=True)
    for row, line in sorted(lines, key=lambda one: one[1].meaning is not Meaning.IDENTITY):
        found |= {text: replace(text, meaning=line.meaning, proof=TOGETHER) for text in row}
    return [found[text] for text in texts]


def _rows(texts: Sequence[Text]) -> list[tuple[Text, Text]]:
    """The rows of all blocks of settings in two columns: each label with each reading of its value."""
    rows = [
        (label, value)
        for label, value in permutations(texts, 2)
        if _is_row(label, value)
        and not any(_is_row(label, text) and text.box.box[2] <= value.box.box[0] for text in texts)
    ]
    # At least three of them, with this one, have their labels and values in its columns.
    return [
        row
        for row in rows
        if len(
            {
                label.letters + value.letters
                for label, value in rows
                if aligned(label.box.box, row[0].box.box) and aligned(value.box.box, row[1].box.box)
            }
        )
        >= 3
    ]


def _is_row(label: Text, value: Text) -> bool:
    """Whether two texts may be the label and the value of a setting."""
    words = re.fullmatch(r"(?:[234]D )?[^\W\d_]\D{0,19}", label.line.text.strip(TICKS))
    number = re.fullmatch(
        r"[-+]?\d{1,3}(?:[.,]\d{1,2})? ?[A-Za-z%°/]{0,4}|(?:[A-Z]|\d)(?:/1?\d){1,3}|"
        r"O[nf]f?|Low|Med|Mid|High|Max|Min|Gen|Pen|Res|Auto|None",
        value.line.text.strip(),
    )
    left, right = label.box.box, value.box.box
    # How far a value stands from its label, at most (heights of the lower one).
    return bool(words and number) and left[2] <= right[0] + 1 and in_one_row(left, right, 6.0)


def _joined(label: Text, value: Text) -> Text:
    """One line of a label and its value."""
    (left, top, _, bottom), (_, upper, right, lower) = label.box.box, value.box.box
    words, sure = (
        f"{label.line.text.strip(TICKS)} {value.line.text}",
        min(label.line.confidence, value.line.confidence),
    )
    box = level_box((left, min(top, upper), right, max(bottom, lower)), 1.0)
    return Text(box, Line(words, sure, legible=True), meaning_of(words, sure), proof=TOGETHER)


def _may_be_setting(text: Text) -> bool:
    """Whether a text is a setting that could be an age or a name elsewhere, or a misread setting."""
    return any(_has_form_of_setting(line) or _may_be_misread(line, text) for line in (text.line, text.small))


def _has_form_of_setting(line: Line) -> bool:
    """Whether a line that was surely read is written as a setting is."""
    surely_read = line.confidence >= LEAST_CONFIDENCE and line.legible
    return surely_read and (_form(line, AMBIGUOUS) or HARMLESS.fullmatch(line.text.strip()) is not None)


def _may_be_misread(line: Line, text: Text) -> bool:
    """Whether a ``line`` that was read over the whole box of ``text`` may be a misread setting."""
    # Confidence of a reading, from which it may be a misread setting.
    whole = line.confidence >= 0.6 and not is_wide(text.box.length, text.box.height, line)
    return whole and may_be_setting(line.text)


def _form(line: Line, form: re.Pattern[str]) -> bool:
    """Whether a line has this form, as :func:`labelled` writes it."""
    return form.fullmatch(labelled(spaced(line.text.strip().rstrip(".")))) is not None


def _is_among_settings(text: Text, texts: Sequence[Text], is_candidate: Callable[[Text], bool]) -> bool:
    """Whether the lines above and below ``text`` lead, over lines that may be settings (``is_candidate``), to
    proven ones, and no possible name is near. A misread setting may also be the first or the last line of
    its block, and so may one of a harmless form, which may stand beside a name as well.
    """
    others = [
        other
        for other in texts
        # Share of a line within another's box, from which both are readings of that line.
        if not is_same_place(text.box.box, other.box.box) and overlap(text.box.box, other.box.box) < 0.6
    ]
    written, ambiguous = text.line.text.strip(), _form(text.line, AMBIGUOUS)
    # The value of a label in its own row is no age of a person whose name is near.
    harmless = (ambiguous and text.proof == TOGETHER) or any(
        HARMLESS.fullmatch(line.text.strip()) for line in (text.line, text.small)
    )
    twice = (
        ambiguous
        and not harmless
        and (
            _form(text.line, TO_PROVE_TWICE)
            # A label that may be a name (Edge), alone or with what may be an age.
            or re.fullmatch(r"[^\W\d_]{4,}(?: \d\d)?|\w*[AEIOUYaeiouy]\w*(?<!\d)", spaced(written))
        )
    )
    ways = (_leads_to_setting(text, others, is_candidate, upwards=way) for way in (True, False))
    if sum(ways) < 1 + bool(twice):
        return False
    reach = BLOCK * (text.box.box[3] - text.box.box[1])
    return harmless or all(
        is_candidate(other) or not (twice or _may_name(other))
        for other in others
        if other.meaning is Meaning.IDENTITY and max(gaps(text.box.box, other.box.box)) <= reach
    )


def _may_name(text: Text) -> bool:
    """Whether a text may be a name: it is not legible, or has two letters side by side."""
    return not text.line.legible or re.search(r"[^\W\d_]{2}", text.line.text) is not None


def _leads_to_setting(
    text: Text, others: Sequence[Text], is_candidate: Callable[[Text], bool], *, upwards: bool
) -> bool:
    """Whether the next line above or below ``text`` is a machine's setting, or may be one (``is_candidate``)
    or is a number, and leads to it.
    """
    lines = [
        other
        for other in others
        if is_above(*((other.box.box, text.box.box) if upwards else (text.box.box, other.box.box)), BLOCK)
    ]
    if not lines:
        return False
    line = min(lines, key=lambda one: -one.box.box[3] if upwards else one.box.box[1])
    if line.meaning in {Meaning.MEASUREMENT, Meaning.SCALE} or (
        line.meaning is Meaning.IDENTITY and (is_candidate(line) or not _may_name(line))
    ):
        further = [other for other in others if other is not line]
        return _leads_to_setting(line, further, is_candidate, upwards=upwards)
    return _as_proof(line) is Meaning.ACOUSTIC


def _as_proof(text: Text) -> Meaning:
    """The meaning of a line as evidence for the meaning of the next one; IDENTITY if it proves nothing."""
    written = text.line.text.strip()
    # A single letter, a preset and the frame of a loop are written beside names, too.
    proves_nothing = len(written) == 1 or written.upper() in PRESETS or re.fullmatch(r"\d+ ?/ ?\d+", written)
    return Meaning.IDENTITY if proves_nothing else text.meaning
