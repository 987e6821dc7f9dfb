"""Update the translation catalogues from the texts of the pages: ``python -m dicom_console.catalogues``.

New texts get an empty translation; texts that no page uses any more are removed. The command prints the
number of texts without a translation.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from dicom_console.web import pages
from dicom_console.web.languages import CATALOGUES, LANGUAGES
from dicom_node import __version__
from dicom_node.base import events, lifecycle
from dicom_node.base.actions.action import declared

_HERE: Final = Path(__file__).parent
_METHODS: Final = [("templates/**.html", "jinja2.ext.babel_extract"), ("**.py", "python")]
_KEYWORDS: Final = {"_": None, "N_": None, "ngettext": (1, 2)}
_VALUES: Final = (lifecycle, lifecycle)
"""Modules whose enumerations hold states and kinds; a page shows their values as words."""
_BESIDES: Final = (
    "withdrawn",
    "partly withdrawn",
    "enabled",
    "disabled",
    "open",
    "left",
    "top",
    "right",
    "bottom",
    "stat",
    "routine",
    # Of a text on a screen:
    "stays",
    "goes",
    "ask",
    "low",
    # Of a model: what its card and its findings say.
    "estimated probability",
    "score",
    "cut-off",
    "those of the cardiothoracic ratio are the widths of heart and chest",
    # Occasions of notifications:
    "failure",
    "dead letter",
    "quarantine",
    "withheld",
    "disk",
    "silence",
    "outage",
    "drift",
    "assessment",
)


def _titles() -> Iterator[str]:
    """Yield the titles of the declared columns that lists show: as a heading, and beside a value."""
    for find in pages.LISTS.values():
        for column in declared(find).columns:
            yield from (column.title, column.title[:1].upper() + column.title[1:])


def texts() -> dict[str | tuple[str, ...], list[tuple[str, int]]]:
    """Return every text of the pages (a pair if it has a plural), with the places (file, line) that
    use it.
    """
    found: dict[str | tuple[str, ...], list[tuple[str, int]]] = {}
    options = {"templates/**.html": {"trimmed": "true", "newstyle_gettext": "true"}}
    extracted = extract_from_dir(_HERE, method_map=_METHODS, options_map=options, keywords=_KEYWORDS)
    for file, _, text, _, _ in extracted:
        found.setdefault(text, []).append((file, 0))
    values = (one for module in _VALUES for one in vars(module).values())
    enumerations = [one for one in values if isinstance(one, type) and issubclass(one, StrEnum)]
    words = (value.replace("_", " ") for one in enumerations for value in one)  # as the filter of this name
    for text in (
        *words,
        *_BESIDES,
        *(kind.text for kind in events.all_types()),
        *pages.KINDS.values(),
        *pages.DECISIONS.values(),
        *pages.LAYERS,
        *_titles(),
    ):
        found.setdefault(text, [])
    return found


def catalogue(language: str) -> Catalog:
    """Return the translations of a language, updated to the texts that the pages have now; new texts have
    none.
    """
    # One date for all: a catalogue differs only where its texts do.
    made = datetime(2026, 1, 1, tzinfo=UTC)
    ours = Catalog(
        locale=language,
        project="dicom-ai-node",
        version=__version__,
        header_comment="# The texts of the console: python -m dicom_console.catalogues brings them in step.",
        msgid_bugs_address="none",
        last_translator="dicom-ai-node",
        language_team=language,
        charset="utf-8",
        creation_date=made,
        revision_date=made,
        fuzzy=False,
    )
    former, path = Catalog(locale=language), CATALOGUES / f"{language}.po"
    if path.exists():
        with path.open("rb") as file:
            former = read_po(file, locale=language)
    for text, places in texts().items():
        known = former.get(text if isinstance(text, str) else text[0])
        ours.add(text, known.string if known else None, locations=sorted(set(places)))
    return ours


def main() -> None:
    """Update the translation files of all languages, and print how many texts have no translation."""
    for language in (one for one in LANGUAGES if one != "en"):
        ours = catalogue(language)
        with (CATALOGUES / f"{language}.po").open("wb") as file:
            write_po(file, ours, width=110, omit_header=False, sort_output=True, no_location=True)
        open_ones = sum(not one.string for one in ours if one.id)
        print(f"{language}: {len(ours)} texts, {open_ones} without translation")


if __name__ == "__main__":
    main()
