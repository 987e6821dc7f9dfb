"""What kind of text a line is, by its form alone: a report says what went, and never the words."""

from __future__ import annotations

import re

from ai_pipeline.burnin.decide.meaning import may_be_setting, names_a_view
from ai_pipeline.burnin.decide.results import OF_A_HEAD, is_result
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.contract import Meaning

NAME, DATE, NUMBER, UNREAD = "possible name", "date", "identifier", "unread text"
RESULT, SETTING, VIEW, SCALE, LOGO = "result", "setting", "view", "scale number", "logo"
CONTENTS = (NAME, DATE, NUMBER, RESULT, SETTING, VIEW, SCALE, LOGO, UNREAD)
"""The kinds of text, in the order of a report."""
_OF_MEANING = {
    Meaning.MEASUREMENT: RESULT,
    Meaning.ACOUSTIC: SETTING,
    Meaning.ORIENTATION: VIEW,
    Meaning.SCALE: SCALE,
    Meaning.LOGO: LOGO,
}
_DIGITS = re.compile(r"\d{5,}")


def contents_of(text: Text) -> tuple[str, ...]:
    """The kinds of what a line holds, of :data:`CONTENTS`: one that may name the patient may hold several."""
    if text.meaning is not Meaning.IDENTITY:
        return (_OF_MEANING[text.meaning],)
    words = text.line.text
    if not text.line.legible:
        return (UNREAD,)
    if is_result(text):
        return (RESULT,)
    if may_be_setting(words):
        return (SETTING,)
    number, rest = _DIGITS.search(words), _DIGITS.sub(" ", words)
    dated, rest = OF_A_HEAD.search(rest), OF_A_HEAD.sub(" ", rest)
    found = [VIEW if names_a_view(rest) else NAME] if re.search(r"[^\W\d_]{2}", rest) else []
    found += [DATE] * bool(dated) + [NUMBER] * bool(number)
    return tuple(found) or (NAME,)
