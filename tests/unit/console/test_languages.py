"""The pages in the reader's language: complete catalogues, a choice that holds, nothing unescaped."""

from __future__ import annotations

import re
from datetime import datetime
from string import Formatter

import pytest
from babel.messages import Message
from babel.messages.pofile import read_po

from dicom_console import catalogues
from dicom_console.web import languages, pages
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab, routes
from tests.inbox_lab import Inbox

TRANSLATED = [language for language in languages.LANGUAGES if language != "en"]
PLACES = re.compile(r"%\(\w+\)s|%%|\{time\}|<[^>]*>")


def messages(language: str) -> list[Message]:
    with (languages.CATALOGUES / f"{language}.po").open("rb") as file:
        return [one for one in read_po(file, locale=language) if one.id]


def forms(text: object) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text or ())  # type: ignore[arg-type]


@pytest.mark.parametrize("language", TRANSLATED)
def test_each_text_of_the_pages_has_a_translation_and_no_other_is_there(language: str) -> None:
    ids = {one.id if isinstance(one.id, str) else tuple(one.id) for one in messages(language)}
    missing = {one for one in catalogues.texts() if one not in ids}
    assert (missing, ids - set(catalogues.texts())) == (set(), set())
    assert [one.id for one in messages(language) if not all(forms(one.string) or [""])] == []


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


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_page_is_shown_in_each_language(language: str, node: Inbox) -> None:
    console = ConsoleLab(node.settings, node.database)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/language", language=language, back="/studies") == 303
    assert browser.headers["location"] == "/studies"
    for route in routes(console.app.routes):
        path = re.sub(r"\{(\w+)\}", "1", route.path.replace("{name}", "pacs"))
        if "GET" not in route.methods or path.startswith(("/api/", "/live", "/sign-in/oidc", "/dicomweb")):
            continue
        assert browser.get(path) != 500, path
        if browser.status == 200 and browser.headers["content-type"].startswith("text/html"):
            assert f'<html lang="{language}">' in browser.text, path
            assert "%(" not in browser.text, path


def test_pages_of_each_language_differ_and_say_what_they_say(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    titles = set()
    for language in languages.LANGUAGES:
        browser.post("/language", language=language)
        assert browser.get("/studies") == 200
        titles.add(re.findall(r"<h1>(.*?)</h1>", browser.text)[0])
    assert titles == {"Studies", "Studien", "Examens", "Estudios"}


def test_the_choice_leads_to_no_other_site_and_needs_the_form(console: ConsoleLab) -> None:
    browser = console.browser()
    for back in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/a\r\nSet-Cookie: a=b",
    ):
        assert browser.post("/language", language="de", back=back) == 303
        assert browser.headers["location"] == "/"
    assert browser.post("/language", csrf="wrong", language="fr") == 403


def test_a_text_from_outside_is_escaped_in_every_language(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    for language in languages.LANGUAGES:
        page = pages.render(
            "error.html", 409, user=None, language=language, csrf="", path="/", code=409, again=False,
            besides="", text="<script>alert(1)</script> 100 %(x)s %",
        )  # fmt: skip
        assert b"<script>alert" not in page.body
        assert b"&lt;script&gt;" in page.body
    assert browser.get("/studies/999") == 404


def test_dates_and_numbers_are_written_as_in_the_language() -> None:
    assert [pages.date("20261125", one) for one in languages.LANGUAGES] == [
        "2026-11-25", "25.11.2026", "25 nov. 2026", "25 nov 2026",
    ]  # fmt: skip
    at = datetime(2026, 11, 25, 14, 3, 5).astimezone()
    assert [languages.moment(at, one, seconds=True) for one in languages.LANGUAGES] == [
        "2026-11-25 14:03:05", "25.11.2026 14:03:05", "25/11/2026 14:03:05", "25/11/2026 14:03:05",
    ]  # fmt: skip
    assert [languages.axis(at, one) for one in languages.LANGUAGES] == [
        "11-25 14:03", "25.11. 14:03", "25/11 14:03", "25/11 14:03",
    ]  # fmt: skip
    assert [pages.decimal(0.76, 2, language=one) for one in languages.LANGUAGES] == [
        "0.76",
        "0,76",
        "0,76",
        "0,76",
    ]
    assert pages.size(1536, "de") == "1,5 KiB"
    assert pages.unit("0.75 {ratio} (cut-off 0.41 {ratio})", "fr") == "0,75 (cut-off 0,41)"
    assert pages.date("2026-99-99") == "2026-99-99"
    assert pages.date("20269999") == "20269999"
