"""Each text of the pages has its translation."""

import re
from string import Formatter

import pytest
from babel.messages import Message
from babel.messages.pofile import read_po

from dicom_console import catalogues
from dicom_console.web import languages

TRANSLATED = [language for language in languages.LANGUAGES if language != "en"]


PLACES = re.compile(r"%\(\w+\)s|%%|\{time\}|<[^>]*>")


def messages(language: str) -> list[Message]:
    with (languages.CATALOGUES / f"{language}.po").open("rb") as file:
        return [one for one in read_po(file, locale=language) if one.id]


def forms(text: object) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text or ())  # type: ignore[arg-type]


def test_each_text_of_the_pages_has_a_translation_and_no_other_is_there() -> None:
    texts = set(catalogues.texts())
    for language in TRANSLATED:
        ids = {one.id if isinstance(one.id, str) else tuple(one.id) for one in messages(language)}
        assert (texts - ids, ids - texts) == (set(), set()), language
        assert [one.id for one in messages(language) if not all(forms(one.string) or [""])] == [], language


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_places_and_the_marks_of_its_text(language: str) -> None:
    """Texts are put into pages as they are: marks of HTML that a text has not would be a hole."""
    for one in messages(language):
        texts, translations = forms(one.id), forms(one.string)
        for translation in translations:
            expected = {tuple(sorted(PLACES.findall(text))) for text in texts}
            assert tuple(sorted(PLACES.findall(translation))) in expected, one.id
            assert "%" not in PLACES.sub("", translation), one.id
            assert "<" not in PLACES.sub("", translation), one.id
    assert list(Formatter().parse("{time}"))  # what a script of ours puts in


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "de-CH, en;q=0.7", "de"),
        ("", "it, fr;q=0.3, es;q=0.9", "es"),
        ("", "en-GB,de;q=0.9", "en"),
        ("", "de;q=0, fr", "fr"),
        ("es", "de", "es"),
        ("../../etc", "x" * 100_000, "en"),
        ("xx", "de;q=9999, \x00;q=, ;;;,,", "en"),
    ],
)
def test_the_language_is_the_chosen_one_else_the_browsers(chosen: str, accepted: str, language: str) -> None:
    assert languages.wanted(chosen, accepted) == language
