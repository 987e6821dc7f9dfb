"""What a reader in front of a PACS gets is in sentences that are read at a glance."""

import re
from pathlib import Path

from ai_pipeline.summary import MOST
from tests.sentences import messages, prose, sentences

GOLDEN = Path(__file__).parent / "golden"
# Texts of the objects in the dumps: of reports, presentation states and pictures.
_TEXT = re.compile(
    r'(?:TEXT \(.*"(?:Conclusion|Comment)"\) = '
    r"|(?:UnformattedTextValue|DerivationDescription|ImageComments|PresentationDescription): )(.+)"
)

_PRIVATE = re.compile(
    r"\b(told|tells? of|said|stands?(?! for| out| upside)|those that|to be had|what lay)\b", re.I
)
"""Words that were terms here. Write who does what: "is in" for "stands in", "reports", "images that"."""
_OF = re.compile(r"\bthat of\b", re.I)


def test_no_page_has_private_words() -> None:
    found = list(prose())
    assert len(found) > 3000, "no pages"
    assert [(at, line) for at, line in found if _PRIVATE.search(line) or _OF.search(line)] == []


def test_no_message_has_private_words() -> None:
    found = list(messages())
    assert len(found) > 3000, "no messages"
    assert [(at, text) for at, text in found if _PRIVATE.search(text)] == []


def test_no_sentence_that_can_reach_a_pacs_is_longer_than_a_line() -> None:
    catalogue = list(sentences())
    assert len(catalogue) > 500, "the catalogue is empty"
    assert [(where, text) for where, text in catalogue if len(text) > MOST] == []


def test_no_sentence_of_the_golden_objects_is_longer_than_a_line() -> None:
    texts = [
        one
        for dump in sorted(GOLDEN.glob("*.txt"))
        for found in _TEXT.finditer(dump.read_text(encoding="utf-8"))
        for one in re.split(r"(?<=[.!?])\s+| \| ", found[1])
    ]
    assert len(texts) > 50, "no text was found"
    assert [text for text in texts if len(text) > MOST] == []
