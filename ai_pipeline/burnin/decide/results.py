"""Tables of results: a short label and a number with its unit in each row, known by form and place alone.

No vocabulary says what a label may be, so a table stays in any language. What is no result has no unit of
measure behind its number (a date, an identifier, a name with an age) or stands in a head line. One row proves
nothing: "KIM 4.5 cm" may be a name and a depth.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ai_pipeline.burnin.decide.layout import aligned, in_one_row, is_above, is_same_place, overlap
from ai_pipeline.burnin.decide.meaning import CALIPER_SIGNS, LEAST_OF_SETTING, LENGTH_LABELS, LONGEST, TICKS
from ai_pipeline.burnin.decide.texts import TOGETHER, Text
from ai_pipeline.burnin.find.annotation import Box, gaps
from ai_pipeline.burnin.find.text import LEGIBLE
from ai_pipeline.contract import Meaning

IN_A_TABLE = "in a table of results"
"""Why a text of a table stays, whatever its words are."""
OF_A_CALIPER = "the name of a caliper, as in the results"
"""Why a label stays over tissue, apart from its number."""
COLUMN, UNIT_APART, ALONE = 16.0, 5.0, 8.0
"""How far a number stands from its label in a table, a unit from its number, and, where no table proves them,
a number from its label (heights of a line), at most."""
PITCH, SIDE_BY_SIDE = 2.2, 24.0
"""Distance of two rows of a table below each other, and of two beside each other, at most (heights)."""
HEAD = 0.08
"""Share of the picture's height, from its top on, where a patient's head line stands."""
_INDEX = r"(?:[#+×x*] ?)?(?:\d{1,2}[.:)]? )?"
_LABEL = r"(?![cm]m ?[23])[^\W\d_][^\d,^@:=]{0,18}?(?:(?<=[^\W\d_])\d| [1-9](?= |$))?"
_AMOUNT = r"\d{1,3}(?:[.,]\d{1,3})?(?![\d.,])"
_UNIT = (
    r"(?:mm ?hg|mm(?: ?[23])?|cm(?: ?[23])?|[cm]?m ?[/l] ?s(?:ec)?(?: ?2)?|m[l1i](?: ?/ ?min)?|cc|bpm|kpa|"
    r"ms(?:ec)?|%)(?![^\W_]| ?[/l])"
)
_MEASURED = rf"[-+~=<>]? ?(?!(?:\d{{3}}|[3-9]\d) ?cm(?! ?[/l23])){_AMOUNT} ?{_UNIT}"
"""A number with a unit of measure; centimetres that may be a body's height have none."""
_UNSURE = (
    rf"\d{{1,2}} ?(?:w|s|sem|sa|ssw)(?:ks?)? ?[0-6] ?[dtjg]?(?![^\W_])|"
    rf"(?!\d{{3}} ?cm){_AMOUNT} ?(?:cm|[sg°])(?![^\W_])|"
    r"\d{1,2}[.,]\d{1,3}(?![\d.,])"
)
"""An age in weeks, a ratio, a unit that a person has too."""
_FORM = re.compile(
    rf"(?:{_INDEX}(?P<label>{_LABEL}) ?[:=]? ?)?"
    rf"(?P<number>(?P<measured>{_MEASURED})|(?P<unsure>{_UNSURE})|[-+]? ?{_AMOUNT})"
    rf"(?: ?[/;,]? ?(?:{_MEASURED}|{_UNSURE}))*",
    re.IGNORECASE,
)
"""A number, with its label before it and further numbers behind it, or without these."""
_UNNAMED = re.compile(rf"{_INDEX}\d{{1,4}}(?:[.,]\d{{1,3}})? ?{_UNIT}", re.IGNORECASE)
"""A number with its unit, of which the point may be lost."""
_NAMED = re.compile(rf"{_INDEX}{_LABEL}(?: ?[:=.])?", re.IGNORECASE)
_UNIT_ALONE = re.compile(_UNIT, re.IGNORECASE)
OF_A_HEAD = re.compile(r"\d{5}|\d\d?[./-]\d\d?[./-]\d\d|\d{4}-\d|\d:\d\d")
"""What only a head line has: a date, a time, an identifier."""
_DUE = re.compile(
    r"(?:edd|edc|vgt|et|dpa|dpp|fpp|ppt|tp|due)(?: ?\(?[a-z]{2,4}\)?)?[ .:=]*(?=[\d./ -]*\d[./-]\d)[\d./ -]+",
    re.IGNORECASE,
)
"""A due date: it stands below the results that it follows from, and no name does so."""
_OF_AN_AGE = re.compile(rf"(?:{LENGTH_LABELS}|ga|aua|cua|ega)", re.IGNORECASE)
"""A label whose number may be an age in weeks, though the row stands on top of its table."""
_DATE = re.compile(r"(?:0?[1-9]|[12]\d|3[01])[.,](?:0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A row of a label and a number: its ``texts``, the boxes of its label and of its number, the label's
    ``words``, whether the number has a unit of measure (``measured``), and a number that may be a result
    though it has none, "" for any other (``unsure``).
    """

    texts: tuple[Text, ...]
    label: Box
    number: Box
    words: str
    measured: bool
    unsure: str

    @property
    def box(self) -> Box:
        """The box of label and number."""
        return _around(self.label, self.number)

    @property
    def height(self) -> int:
        """The height of a line of the row (pixels)."""
        return self.number[3] - self.number[1]


def by_their_table(texts: Sequence[Text], rows: int) -> list[Text]:
    """Give the ``texts`` of tables of results the meaning MEASUREMENT, and what is read of the same places
    once more. ``rows``: of the picture.
    """
    proven = _proven_rows(texts, rows)
    own = {text for row in proven for text in row.texts}
    own |= {text for text in texts if _is_in(text, proven)}
    return _as(Meaning.MEASUREMENT, IN_A_TABLE, texts, own)


def whole_rows(texts: Sequence[Text]) -> list[Text]:
    """Remove a number with its label, and a label with its number: alone neither says anything."""
    rows = [row.texts for row in result_rows(texts, ALONE, LEGIBLE)]
    parted = [row for row in rows if len({text.meaning is Meaning.IDENTITY for text in row}) > 1]
    going = {text for row in parted for text in row if text.meaning not in {Meaning.IDENTITY, Meaning.SCALE}}
    # A label that goes may be the label of another reading of its number.
    return whole_rows(_as(Meaning.IDENTITY, TOGETHER, texts, going)) if going else list(texts)


def by_their_label(texts: Sequence[Text], over_tissue: Sequence[bool]) -> list[Text]:
    """Give a text that stands alone over tissue, as the name of a caliper does, the meaning MEASUREMENT where
    a row of results that stays has the same label. ``over_tissue``: of each of the ``texts``.
    """
    labels = {
        "".join(filter(str.isalnum, row.words)).casefold()
        for row in result_rows(texts)
        if (row.measured or row.unsure) and all(text.meaning is Meaning.MEASUREMENT for text in row.texts)
    }
    named = {
        text
        for text, over in zip(texts, over_tissue, strict=True)
        if over and text.meaning is Meaning.IDENTITY and text.line.legible and text.letters in labels
    }
    return _as(Meaning.MEASUREMENT, OF_A_CALIPER, texts, named)


def is_result(text: Text) -> bool:
    """Whether a text has the form of a number with a unit of measure, with or without its label."""
    form = _form(text, LEGIBLE)
    return form is not None and form["measured"] is not None


def _as(meaning: Meaning, proof: str, texts: Sequence[Text], chosen: Collection[Text]) -> list[Text]:
    """The texts, of which the ``chosen`` have this meaning."""
    return [replace(text, meaning=meaning, proof=proof) if text in chosen else text for text in texts]


def _proven_rows(texts: Sequence[Text], rows: int) -> list[Row]:
    """The rows of all tables of results; ``rows``: of the picture."""
    found = [row for row in result_rows(texts) if row.measured or row.unsure]
    taken = {text for row in found for text in row.texts}
    others = [text for text in texts if text not in taken]
    found = [row for row in found if not _is_in_head(row, others, rows)]
    unnamed = filter(None, (_unnamed_row(text, texts) for text in others))
    tables = (_without_ages_on_top(_without_unnamed_ends(table)) for table in _tables([*found, *unnamed]))
    return [row for table in tables if _is_proven(table, texts) for row in table]


def texts_together(texts: Sequence[Text]) -> list[tuple[Text, ...]]:
    """The texts that say something only together: a label, its number, and a unit apart from it."""
    rows = result_rows(texts)
    taken = {text for row in rows for text in row.texts}
    unnamed = filter(None, (_unnamed_row(text, texts) for text in texts if text not in taken))
    return [row.texts for row in (*rows, *unnamed)]


def result_rows(texts: Sequence[Text], apart: float = COLUMN, least: float = LEAST_OF_SETTING) -> list[Row]:
    """All rows of a label and a number among ``texts``: read as one text; beside each other, ``apart``
    heights at most; or one above the other. ``least``: confidence of the number's reading.
    """
    found = []
    for text in texts:
        form = _form(text, least)
        if form is None:
            continue
        unit = None if form["measured"] else _next_unit(text, texts)
        number = _around(text.box.box, unit.box.box) if unit else text.box.box
        units = [unit] if unit else []
        date = _DATE.fullmatch(form["number"].strip())  # a bare number may be a day and a month
        kind = bool(form["measured"] or unit), "" if date else form["unsure"] or ""
        if form["label"]:
            found.append(Row((text, *units), text.box.box, number, form["label"], *kind))
        elif (label := _label_of(text, texts, apart)) is not None:
            left, top, right, bottom = label.box.box
            if _is_high(label, text):
                top, bottom = number[1], number[3]
            words = _plain(label.line.text)
            found.append(Row((label, text, *units), (left, top, right, bottom), number, words, *kind))
    return found


def _form(text: Text, least: float) -> re.Match[str] | None:
    """The parts of a text that is a number with or without its label; None of any other text."""
    for line in (text.line, text.small):
        words = _plain(line.text)
        if (
            line.legible
            and line.confidence >= least
            and len(words) <= LONGEST // 2
            and (form := _FORM.fullmatch(words))
        ):
            return form
    return None


def _plain(words: str) -> str:
    """The words of a line with single blanks, without what is read of calipers and ticks."""
    return " ".join(unicodedata.normalize("NFKC", words).split()).strip(CALIPER_SIGNS).strip(TICKS)


def _next_unit(number: Text, texts: Sequence[Text]) -> Text | None:
    """The unit that stands apart behind a number."""
    beside = [
        text
        for text in texts
        if in_one_row(number.box.box, text.box.box, UNIT_APART)
        and text.box.box[0] >= number.box.box[2] - number.box.height / 2
        and _UNIT_ALONE.fullmatch(_plain(text.line.text))
    ]
    return min(beside, key=lambda text: text.box.box[0], default=None)


def _label_of(number: Text, texts: Sequence[Text], apart: float) -> Text | None:
    """The label of a number: the text before it in its row, else the one above it."""
    box = number.box.box
    others = [text for text in texts if overlap(text.box.box, box) < 0.5 and overlap(box, text.box.box) < 0.5]
    before = [
        text
        for text in others
        if in_one_row(text.box.box, box, apart) and text.box.box[2] <= box[0] + number.box.height / 2
    ]
    above = [text for text in others if is_above(text.box.box, box, 1.0)]
    for places, edge in ((before, 2), (above, 3)):
        # A column of labels may be found as one high line, too.
        nearest = max(places, key=lambda text: (not _is_high(text, number), text.box.box[edge]), default=None)
        if nearest is not None and _is_label(nearest):
            return nearest
    return None


def _is_high(label: Text, number: Text) -> bool:
    """Whether a label is so much higher than a number that it must be those of several."""
    (_, top, _, bottom), (_, upper, _, lower) = label.box.box, number.box.box
    return bottom - top > 1.6 * (lower - upper)


def _is_label(text: Text) -> bool:
    """Whether a text may be the label of a number: a few short words."""
    words = _plain(text.line.text)
    # "75 mmHg" is a number, no label after a caliper's number.
    form = _FORM.fullmatch(words)
    named = _NAMED.fullmatch(words) is not None and (form is None or form["label"] is not None)
    return text.line.legible and len(words.split()) <= 3 and named


def _is_in_head(row: Row, others: Sequence[Text], rows: int) -> bool:
    """Whether a row stands in a head line: beside a date, a time or an identifier, or at the top of the
    picture beside what may be a name. ``others``: texts of no row; ``rows``: of the picture.
    """
    at_top = row.box[1] < HEAD * rows
    return any(
        OF_A_HEAD.search(text.line.text)
        or (at_top and text.meaning is Meaning.IDENTITY and len(text.letters) > 1)
        for text in others
        if in_one_row(row.number, text.box.box, float("inf"))
    )


def _tables(rows: Sequence[Row]) -> list[list[Row]]:
    """Put together the rows that stand below or beside each other in one lettering."""
    tables: list[list[Row]] = []
    for row in rows:
        near = [table for table in tables if any(_are_of_one_table(row, other) for other in table)]
        tables = [table for table in tables if table not in near] + [
            [row, *(one for table in near for one in table)]
        ]
    return tables


def _without_ages_on_top(table: Sequence[Row]) -> list[Row]:
    """Drop the first rows of a table if their numbers may be ages, and no words prove the contrary: "KIM
    32w4d" may be a head line of the panel.
    """
    results = [row for row in table if _is_no_age(row)]
    return [row for row in table if row in results or any(_stands_before(other, row) for other in results)]


def _is_no_age(row: Row) -> bool:
    """Whether a row's number has a unit or a point, or words that are those of a result."""
    known = len(row.words) > 2 and _OF_AN_AGE.fullmatch(row.words)
    proven = all(text.meaning is Meaning.MEASUREMENT for text in row.texts)
    return bool(row.measured or proven or known or re.search(r"\d[.,]\d", row.unsure))


def _stands_before(row: Row, other: Row) -> bool:
    """Whether a row stands above another, or before it."""
    above = row.box[3] <= other.box[1] + other.height / 2
    return above or (in_one_row(row.box, other.box, SIDE_BY_SIDE) and row.box[2] <= other.box[0])


def _are_of_one_table(row: Row, other: Row) -> bool:
    """Whether two rows stand below each other, label below label or number below number, or side by side."""
    height = min(row.height, other.height)
    if max(row.height, other.height) > 1.5 * height:
        return False
    across, down = gaps(row.box, other.box)
    below = aligned(row.label, other.label) or aligned(row.number, other.number)
    return (below and down <= PITCH * height) or (
        abs(row.box[1] - other.box[1]) <= 0.5 * height and across <= SIDE_BY_SIDE * height
    )


def _is_proven(table: Sequence[Row], texts: Sequence[Text]) -> bool:
    """Whether rows are a table of results: two at least at different places, one with a unit of measure. Two
    rows alone need short labels, and no possible name near them.
    """
    apart: list[Row] = []
    for row in table:
        if not any(_share_place(row, other) for other in apart):
            apart.append(row)
    measured = sum(row.measured for row in apart)
    if len(apart) < 2 or not measured:
        return False
    if len(apart) > 2 and measured > 1:
        return True
    return all(len(row.words.split()) <= 2 and len(row.words) <= 10 for row in apart) and not any(
        _adjoins(text, row) for row in apart for text in _others(texts, table)
    )


def _share_place(row: Row, other: Row) -> bool:
    """Whether two rows are two readings of one place."""
    return is_same_place(row.number, other.number) or overlap(row.box, other.box) > 0.5


def _others(texts: Sequence[Text], table: Sequence[Row]) -> Iterable[Text]:
    """The texts outside a table that may name somebody."""
    return (
        text
        for text in texts
        if text.meaning is Meaning.IDENTITY
        and not _is_in(text, table, 0.5)
        and not _DUE.fullmatch(_plain(text.line.text))
    )


def _adjoins(text: Text, row: Row) -> bool:
    """Whether a text stands right above, below or beside a row."""
    across, down = gaps(text.box.box, row.box)
    return max(across, down) < 1.5 * row.height and text.line.legible and len(text.letters) > 1


def _is_in(text: Text, rows: Iterable[Row], share: float = 0.8) -> bool:
    """Whether at least ``share`` (0 to 1) of a text's box lies in one of the rows."""
    return any(overlap(text.box.box, _grown(row.box, row.height)) >= share for row in rows)


def _unnamed_row(text: Text, texts: Sequence[Text]) -> Row | None:
    """The row of a number with its unit whose label is not read, or that has none; None of any other text."""
    unit, words = _next_unit(text, texts), _plain(text.line.text)
    if not text.line.legible or not _UNNAMED.fullmatch(
        f"{words} {_plain(unit.line.text)}" if unit else words
    ):
        return None
    box = _around(text.box.box, unit.box.box) if unit else text.box.box
    return Row((text, *([unit] if unit else [])), box, box, "", measured=True, unsure="")


def _without_unnamed_ends(table: Sequence[Row]) -> list[Row]:
    """Drop the rows without a label that do not stand between two others: at its end a number may be of a
    head line.
    """
    named = [row for row in table if row.words]
    return [
        row
        for row in table
        if row.words
        or (
            any(_stands_before(other, row) for other in named)
            and any(_stands_before(row, other) for other in named)
        )
    ]


def _around(box: Box, other: Box) -> Box:
    """The box around two boxes."""
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def _grown(box: Box, height: int) -> Box:
    """A row's box with the rim that a detector's box may have."""
    rim = round(0.25 * height)
    return box[0] - rim, box[1] - rim, box[2] + rim, box[3] + rim
